"""``agentos open``: the console page."""

import os
import sys
import webbrowser

from agentos.everyday.client import Console
from agentos.everyday.output import line


def open_page(console: Console, browser: bool) -> None:
    """Print the page's address, and open it where there is a display. Raises CommandError when nothing answers."""
    console.get("/api/info")
    line(f"{console.url}/")
    if browser and _has_display():
        webbrowser.open(f"{console.url}/")


def hold(console: Console) -> None:
    """Return never, so that the way to the page stays. Raises CommandError when it breaks."""
    with console.events("/api/events", topics="change") as events:
        for _ in events:
            pass


def _has_display() -> bool:
    # Without one, a browser for terminals would take this terminal over.
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
