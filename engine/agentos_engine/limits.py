"""Bounds on what comes from outside. Sizes are in bytes, times in seconds."""

MAX_MESSAGE = 64 << 20
"""Largest WebSocket message; the iii engine's own bound."""
MAX_UNSENT = 16 << 20
"""Unsent bytes after which a worker that does not read gets no new calls."""
MAX_OUTBOUND = 128 << 20
"""Unsent bytes after which a peer that does not read is disconnected."""
MAX_CONNECTIONS = 20_000
"""Sockets on the worker port."""
MAX_FUNCTIONS = 10_000
"""Functions, and likewise triggers, of one connection."""
MAX_REGISTERED = 64 << 20
"""Total size of the registrations of one connection."""
MAX_IN_FLIGHT = 10_000
"""Unanswered calls that one connection has made, and likewise that it is to answer."""
MAX_ID_LENGTH = 1024
"""Characters of a function id, trigger id or trigger type."""
MAX_BUILT_IN_PAYLOAD = 17 << 20
"""Largest payload of a call to one of the engine's own functions: a value of 16 MiB and what stands around it."""

HANDSHAKE_TIMEOUT = 10.0
"""From the TCP accept to the end of the WebSocket upgrade."""
PING_INTERVAL = 5.0
"""How long a peer may be silent before it is asked for a sign of life; then once more after each interval."""
SILENT_AFTER = 15.0
"""A worker from which nothing came for so long, no pong either, gets no new calls."""
SILENCE_TIMEOUT = 60.0
"""A peer from which nothing came for so long is dead."""
CALL_TIMEOUT = 3600.0
"""The longest that a call may take, unless the function's metadata or the configuration say otherwise."""
SWEEP_INTERVAL = 0.25
"""Between two looks at the deadlines of calls."""
DRAIN_TIMEOUT = 5.0
"""At shutdown, for calls in flight."""
CLOSE_TIMEOUT = 2.0
"""How long a peer may take to answer a close frame."""
REFUSED_LINGER = 0.5
"""How long a refused peer has to read why."""

MAX_HTTP_HEADERS = 64 << 10
MAX_HTTP_BODY = 16 << 20
MAX_HTTP_BUFFERED = 128 << 20
"""Bodies of all requests of a port that are in memory at one time; more are answered with 503."""
MAX_ADMIN_BUFFERED = 1 << 20
"""The same for the admin port, where no request needs a body."""
MAX_HTTP_CONCURRENT = 1024
"""Requests in progress; more wait for their turn."""
MAX_HTTP_CONNECTIONS = 8192
HTTP_REQUEST_TIMEOUT = 30.0
"""For the handler to answer; then 504."""
HTTP_READ_TIMEOUT = 30.0
"""For the client to send a whole request, or to take the response."""
HTTP_IDLE_TIMEOUT = 75.0
"""For the next request on a connection that is kept alive."""
HTTP_LINGER_TIMEOUT = 2.0
"""For a client whose request was refused to stop sending it."""
MAX_HTTP_PATH_SEGMENTS = 64
