"""Names of queues in the store: three kinds that can never be mistaken for one another, whatever their names hold."""

import msgspec

_NAMED, _RETAINED, _SUBSCRIPTION = "queue ", "topic ", "subscription "


def named(name: str) -> str:
    """The queue of that name in the config."""
    return _NAMED + name


def retained(topic: str) -> str:
    """Where the messages of a topic are kept until somebody subscribes."""
    return _RETAINED + topic


def subscription(topic: str, function_id: str, namespace: str) -> str:
    """The queue of one function for one topic."""
    return _SUBSCRIPTION + msgspec.json.encode((topic, function_id, namespace)).decode()


def topic_of(queue: str) -> str | None:
    """The topic whose messages are kept in a queue until somebody subscribes; None for other kinds of queues."""
    return queue.removeprefix(_RETAINED) if queue.startswith(_RETAINED) else None


def label(queue: str) -> str:
    """What people call it: the name in the config, or the topic."""
    if queue.startswith(_SUBSCRIPTION):
        return _parts(queue)[0]
    return queue.partition(" ")[2]


def answers_to(queue: str, name: str) -> bool:
    """Whether a name that somebody gave means this queue.

    A queue of a topic is also called ``topic::function_id``, with ``@namespace`` behind it unless that is the default.
    """
    if label(queue) == name:
        return True
    if not queue.startswith(_SUBSCRIPTION):
        return False
    topic, function_id, namespace = _parts(queue)
    own = f"{topic}::{function_id}"
    return name == f"{own}@{namespace}" or (namespace == "default" and name == own)


def _parts(queue: str) -> tuple[str, str, str]:
    return msgspec.json.decode(queue[len(_SUBSCRIPTION) :], type=tuple[str, str, str])
