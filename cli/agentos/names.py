"""Names that Kubernetes takes."""

import re

MAX_LENGTH = 63


def object_name(text: str) -> str:
    """Return a text as the name of an object: lower-case letters, digits and hyphens, at most 63; it may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_LENGTH].strip("-")
