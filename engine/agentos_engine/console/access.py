"""Who may ask the console: whoever reaches this machine's loopback, but no web page of another site.

A page that made its name resolve to 127.0.0.1 is known by ``Host``, a page that sends requests elsewhere by ``Origin``
or, where browsers leave that out (an image, a frame), by ``Sec-Fetch-Site``, and a form by its content type.
"""

import re

from agentos_engine.protocol.http import Request, Response, error_response

_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?")


def refusal(request: Request) -> Response | None:
    """Return the response to a request that is not served; None: it may go on."""
    hosts = [value.strip().lower() for name, value in request.headers if name == "host"]
    if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):
        return _forbidden("FORBIDDEN_HOST", "the console is asked as 127.0.0.1, localhost or [::1] only")
    origins = [value.strip().lower() for name, value in request.headers if name == "origin"]
    # The page itself may be opened by a link from anywhere.
    foreign = request.path.startswith("/api/") and request.header("sec-fetch-site") not in (None, "same-origin", "none")
    if foreign or any(origin != f"http://{hosts[0]}" for origin in origins):
        return _forbidden("FORBIDDEN_ORIGIN", "a page of another origin may not ask the console")
    if request.method == "POST":
        content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            return _forbidden("FORBIDDEN_CONTENT_TYPE", "a POST needs content-type: application/json")
    return None


def _forbidden(code: str, message: str) -> Response:
    return error_response(403, code, message)
