"""The page and its files: read once, so that no request can name any other file."""

from pathlib import Path

from agentos_engine.protocol.http import Response

PAGE = "index.html"

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


def load() -> dict[str, Response]:
    """Return the files by name, those of subfolders with ``/`` in it; files of unknown types are left out."""
    files = (path for path in _STATIC.rglob("*") if path.suffix in _TYPES and path.is_file())
    return {path.relative_to(_STATIC).as_posix(): _response(path) for path in files}


def _response(path: Path) -> Response:
    headers = [("content-type", _TYPES[path.suffix]), ("cache-control", "no-cache")]
    return Response(200, headers, path.read_bytes())
