"""Writes resources as YAML that reads the same in kubectl (YAML 1.1) and in YAML 1.2."""

import io
import re
from collections.abc import Iterable
from typing import Any

from agentos_contracts.findings import shown
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9 ./_@+-]*(:[A-Za-z0-9/][A-Za-z0-9 ./_@+-]*)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Booleans and nothing, in one version of YAML or the other."""


class _Representer(SafeRepresenter):
    """Quotes every text of which a reader could make something else."""

    def represent_text(self, value: str) -> ScalarNode:
        """Return the node of a text."""
        style = '"'
        if _is_block(value):
            style = "|"
        elif _PLAIN.fullmatch(value) and value == value.strip() and value.lower() not in _WORDS:
            style = ""
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(str, _Representer.represent_text)


def _is_block(value: str) -> bool:
    """Whether a text has several lines that can stand in YAML as they are."""
    lines = value.split("\n")
    return (
        len(lines) > 1
        and value == value.strip()
        and all(line.isprintable() and line == line.rstrip() for line in lines)
    )


def yaml_text(resource: dict[str, Any], comments: Iterable[str] = ()) -> str:
    """Return a resource as YAML text, after lines of comment."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.allow_unicode = True
    yaml.width = 1_000_000  # a script stays on its line
    stream = io.StringIO()
    yaml.dump(resource, stream)
    return "".join(f"# {shown(line, 1000)}\n" for line in comments) + stream.getvalue()
