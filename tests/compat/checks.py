"""The compatibility list: what each check means, and on which SDKs it must be proved."""

from dataclasses import dataclass

from tests.compat.sdks import NEW, OLD, RUST, SDKS

RAW = "raw"
COLUMNS = [*SDKS, RUST, RAW]


@dataclass(frozen=True)
class Check:
    """``on``: the SDKs that tests of this check must run with."""

    title: str
    on: tuple[str, ...] = ()


def _on(title: str, *sdks: str) -> Check:
    return Check(title, sdks)


def _all(title: str) -> Check:
    return Check(title, tuple(SDKS))


def _rust_too(title: str) -> Check:
    return Check(title, (*SDKS, RUST))


def _raw(title: str) -> Check:
    return Check(title, (RAW,))


TOPICS: dict[str, dict[str, Check]] = {
    "Connection": {
        "1": _all("The first frame gives a worker its id, and the SDK knows it"),
        "2": _all("Compression is declined; large JSON passes all the same"),
        "3": _all("Registrations give the same listings in whichever order they come"),
        "4": _raw("Frames that make no sense are ignored; JSON in a binary frame is read"),
        "5": _raw("JSON pings and WebSocket pings are both answered"),
        "6": _raw("A socket that says nothing is closed in time; an idle worker stays"),
        "7": _all("A telemetry connection brings data and is not a worker"),
        "8": _on("A worker stays while pings are answered and reconnects when they are not", "node-0.22.1"),
        "9": _on("A message of 20 MB in fragments arrives whole", "py-0.25.0", "node-0.11.6", "node-0.22.1"),
        "10": _all("After an aborted connection a worker is back within seconds, its trigger ids the same"),
        "11": _on("A worker that reconnects takes over from its old connection, which is closed", *NEW),
        "12": _raw("A wrong token for taking over is ignored"),
        "12a": _all("Every worker comes back after a graceful restart of the engine"),
        "12b": _on("While the engine restarts, connections are refused and never get an HTTP status", "py-0.11.6"),
        "12c": _rust_too("Results in binary frames and in fragments reach their callers"),
        "13": _all("A function decides who may connect; who may not is told why and closed"),
        "14": _on("The token of the environment is sent on all kinds of connections", "py-0.25.0"),
    },
    "Registration and introspection": {
        "15": _all("Descriptions, schemas and metadata of functions are listed"),
        "16": _all("Old SDKs get trigger instances, new ones trigger types, by the same name"),
        "17": _on("Old SDKs get the list of trigger types", *OLD),
        "18": _all("Workers are listed with what they told of themselves"),
        "19": _all("Internal functions are listed only when asked for"),
        "20": _all("A function registered twice is there once, with the last handler"),
        "21": _all("A function that was unregistered is gone for callers and from the list"),
        "22": _all("Subscribers hear of functions and workers that come and go"),
        "23": _on("Triggers with the superfluous key that Node sends are taken", "node-0.11.6", "node-0.22.1"),
        "24": _on("Triggers without a config are taken", "py-0.11.6", "py-0.25.0"),
    },
    "Invocation": {
        "25": _rust_too("Values of all kinds arrive unchanged; objects name their caller"),
        "26": _rust_too("Results and errors cross between languages"),
        "27": _rust_too("An error of a handler arrives with its code, message and trace"),
        "28": _rust_too("Codes of a worker's own arrive unchanged"),
        "29": _rust_too("A call of a function that is not there names it"),
        "30": _rust_too("A caller that gave up is not harmed by the late result"),
        "31": _rust_too("A void call runs once and nothing is answered"),
        "32": _rust_too("A caller hears at once that its callee was killed"),
        "33": _all("A caller that goes in the middle of a call leaves its callee undisturbed"),
        "34": _rust_too("Of two workers with the same functions one may die"),
        "35": _rust_too("Of 200 calls at a time each gets its own result"),
        "36": _rust_too("The trace of a call is that of its handler and of its result"),
        "37": _rust_too("Metadata of a call reaches handlers that can take it"),
        "38": _rust_too("Calls of the engine may name the namespace default, or none"),
        "39": _on("A worker in a namespace is reached with it", "py-0.25.0"),
        "40": _on("The same function in two namespaces is kept apart", "py-0.25.0", RAW),
    },
    "HTTP": {
        "41": _all("Handlers get path, query, headers and body of a request"),
        "42": _all("Status, headers and body are those that the handler returns"),
        "43": _all("Text with a content type is sent as it is"),
        "44": _all("Forms, uploads and JSON can be read as bytes"),
        "45": _all("Responses can be streamed: events and documents"),
        "46": _all("An upload waits for its reader; the engine's memory does not grow"),
        "47": _all("A condition that returns false keeps the handler from running"),
        "48": _all("Functions before a route run in order, and can answer or fail the request"),
        "49": _all("Functions before all routes run before those of a route"),
        "50": _all("Errors have the right status and a JSON body"),
        "51": _all("A second route of the same shape leaves the first one alone"),
        "52": _all("A route is never gone while a new worker replaces an old one"),
        "53": _raw("Pages of other origins may call routes"),
    },
    "Queues, topics, clock": {
        "54": _all("An enqueued call gets a receipt and is delivered once"),
        "55": _all("A FIFO queue keeps the order within each group"),
        "56": _all("A failing job is retried ever later and then kept as a dead letter"),
        "57": _all("Dead letters are delivered again or discarded on demand"),
        "58": _all("Every function on a topic gets each message, one of its replicas each time"),
        "59": _all("A message that a condition declines is neither delivered nor retried"),
        "60": _all("A job without a function is retried and holds up no other"),
        "61": _all("One subscriber leaves, the others hear on"),
        "62": _all("The clock ticks on time, without overlap, and counts weekdays from Sunday = 1"),
    },
    "State, streams, channels": {
        "63": _all("Values are set, read, listed and deleted, with the old value told"),
        "64": _all("Update operations change a value in place; those that fail are told by code"),
        "65": _all("Concurrent increments are all counted"),
        "66": _all("A trigger on a key fires for its changes alone"),
        "67": _all("Subscribers of a stream get what happens in their group or item"),
        "68": _all("A trigger can refuse a subscriber; another hears of its going"),
        "69": _all("A worker can keep a stream itself"),
        "70": _all("Channels carry text and bytes in order, to one reader, and then the end"),
    },
    "Custom trigger types, access": {
        "71": _all("The owner of a trigger type gets its bindings; its refusal is told"),
        "72": _all("Bindings wait for an owner, are told again, and are taken back"),
        "73": _all("Rules decide what may be called and what is listed"),
        "74": _all("Registered ids can be given a prefix that their owner does not see"),
        "75": _all("Functions can deny and rename what is registered"),
        "76": _all("A function can stand before every call"),
    },
    "Others": {
        "77": _all("Functions behind HTTP are called with a signature; private addresses can be blocked"),
        "78": _all("Logs fire triggers and are kept"),
        "79": _raw("The console gets health, metrics, traces and all that it lists"),
        "80": _all("What was acknowledged is there after a restart, also after a kill"),
        "81": _all("Many requests at a time show no delay from small packets"),
        "82": _all("The calls of iii's command line succeed"),
    },
}
CHECKS = {number: check for checks in TOPICS.values() for number, check in checks.items()}
