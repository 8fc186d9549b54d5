"""Writes resources as YAML that reads the same in kubectl (YAML 1.1) and in YAML 1.2."""

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentos_contracts.documents import read_documents
from agentos_contracts.findings import shown
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from agentos.files import KUBECTL_YAML, MAX_FILE_BYTES

_PLAIN = re.compile(
    r"""(?:\.{0,2}/|[A-Za-z])[A-Za-z0-9 ./_@+*-]*(?::+[A-Za-z0-9/*][A-Za-z0-9 ./_@+*-]*)*   # words, paths, ids, images
    | \.{1,2} | \d+\.\d+\.\d+(?:[+-][A-Za-z0-9.+-]*)?                                        # folders, versions""",
    re.VERBOSE,
)
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Booleans and nothing, in one version of YAML or the other."""


class _Representer(RoundTripRepresenter):
    """Quotes every text of which a reader could make something else, and keeps the lines of scripts."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what stands in several places in each of them."""
        return True

    def represent_text(self, value: str) -> ScalarNode:
        """Return the node of a text."""
        plain = _PLAIN.fullmatch(value) and value == value.strip() and value.lower() not in _WORDS
        style = "|" if _is_block(value) else "" if plain else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(str, _Representer.represent_text)


def resource_yaml(
    resource: dict[str, Any], *, heading: Iterable[str] = (), beside: Mapping[str, list[str]] | None = None
) -> str:
    """Return a resource as YAML text, after lines of comment.

    ``beside``: by the name of a list in ``spec``, a comment for each of its items, "" for none. Raises ValueError for a
    text that YAML cannot carry.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1 << 20  # a script stays on its line
    stream = io.StringIO()
    lists = {name: _commented(resource["spec"][name], comments) for name, comments in (beside or {}).items()}
    yaml.dump({**resource, "spec": {**resource["spec"], **lists}} if lists else resource, stream)
    text = "".join(f"# {shown(line, 1000)}\n" for line in heading) + stream.getvalue()
    documents, findings = read_documents(text, max_bytes=MAX_FILE_BYTES, yaml_version=KUBECTL_YAML)
    if findings or documents[0].value != resource:
        raise ValueError("it has characters that YAML cannot carry")
    return text


def _commented(items: list[str], comments: list[str]) -> CommentedSeq:
    written = CommentedSeq(items)
    for position, comment in enumerate(comments):
        if comment:
            written.yaml_add_eol_comment(comment, position, column=0)
    return written


def _is_block(value: str) -> bool:
    """Whether a text has several lines that can stand in YAML as they are."""
    lines = value.split("\n")
    return (
        len(lines) > 1
        and value == value.strip()
        and all(line.isprintable() and line == line.rstrip() for line in lines)
    )
