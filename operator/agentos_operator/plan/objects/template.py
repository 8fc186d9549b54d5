"""Merges what people say of pods into the pods that the operator makes."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from agentos_contracts.strategic_merge import merge


def with_templates(pod: dict[str, Any], templates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A pod template with partial ones merged into it, one after the other. They have no errors (``template_findings``)."""
    return reduce(merge, templates, pod)
