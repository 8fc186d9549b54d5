"""YAML text as plain values with line numbers: bounded, without surprises, and every fault a finding.

Scalars are read as ``iii`` reads them (YAML 1.2) or, for resources, as ``kubectl`` does (YAML 1.1, where ``yes`` is a
boolean). Dates and times stay texts. The values are those of JSON.
"""

import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agentos_contracts.findings import Finding, error, shown

MAX_NODES = 100_000
"""Most values in one text, aliases counted as often as they are used: the bound against alias bombs."""

MAX_DEPTH = 64
"""Deepest nesting."""

_TAG = "tag:yaml.org,2002:"
_PATH_PART = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")


@dataclass(slots=True)
class Document:
    """One YAML document: its plain value and the line, counted from 1, on which it begins."""

    value: Any
    line: int
    _root: Node | None = field(repr=False)

    def line_of(self, path: str) -> int:
        """Return the line of the field at a finding's path, or of the nearest field above it that is there."""
        return self._found(path)[0]

    def line_before_text(self, path: str) -> int:
        """Return the line before the one on which the text at a path begins: that of its ``|`` when it is a block."""
        line, node = self._found(path)
        block = isinstance(node, ScalarNode) and node.style in ("|", ">")
        return (node.start_mark.line + 1) if block and node is not None else line - 1

    def _found(self, path: str) -> tuple[int, Node | None]:
        line, node = self.line, self._root
        for bracketed, name in _PATH_PART.findall(path):
            part = bracketed or name
            if isinstance(node, MappingNode):
                pairs = {key.value: (key, value) for key, value in node.value if isinstance(key, ScalarNode)}
                if part not in pairs:
                    break
                key, node = pairs[part]
                line = key.start_mark.line + 1
            elif isinstance(node, SequenceNode) and part.isdigit() and int(part) < len(node.value):
                node = node.value[int(part)]
                line = node.start_mark.line + 1
            else:
                break
        return line, node


class _Refused(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def read_documents(
    text: str, *, max_bytes: int, yaml_version: tuple[int, int] = (1, 2)
) -> tuple[list[Document], list[Finding]]:
    """Read all documents of a text of at most ``max_bytes`` bytes of UTF-8.

    Returns no documents when there is any finding: syntax errors, duplicate keys (all of them), keys that are no
    text, foreign tags, too much or too deep content. Never raises.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return [], [error("", "NotText", "the text has characters that UTF-8 cannot carry; save it as UTF-8")]
    if size > max_bytes:
        return [], [error("", "TooLarge", f"the text has {size} bytes, more than the {max_bytes} that are allowed")]
    yaml = YAML(typ="safe", pure=True)
    yaml.version = yaml_version
    documents: list[Document] = []
    try:
        reader = _Reader(yaml)
        for node in yaml.compose_all(text):
            line = 1 if node is None else node.start_mark.line + 1
            value = None if node is None else reader.value(node, 0)
            documents.append(Document(value, line, node))
    except _Refused as problem:
        return [], [problem.finding]
    except RecursionError:
        return [], [error("", "TooDeep", f"the text is nested more than {MAX_DEPTH} levels deep; flatten it")]
    except MarkedYAMLError as problem:
        return [], [_syntax_finding(problem)]
    except (YAMLError, ValueError) as problem:
        return [], [error("", "NotYAML", f"the text is not YAML: {shown(' '.join(str(problem).split()), 200)}")]
    return ([], reader.findings) if reader.findings else (documents, [])


class _Reader:
    """Turns nodes into plain values, counting them."""

    def __init__(self, yaml: YAML) -> None:
        self._constructor = yaml.constructor
        self._count = 0
        self.findings: list[Finding] = []

    def value(self, node: Node, depth: int) -> Any:
        self._count += 1
        line = node.start_mark.line + 1
        if self._count > MAX_NODES:
            raise _Refused(error("", "TooLarge", f"the text has more than {MAX_NODES} values, aliases included", line))
        if depth > MAX_DEPTH:
            raise _Refused(error("", "TooDeep", f"the text is nested more than {MAX_DEPTH} levels deep", line))
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == f"{_TAG}map":
            return self._mapping(node, depth)
        if isinstance(node, SequenceNode) and tag == f"{_TAG}seq":
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, ScalarNode) and tag in {f"{_TAG}{name}" for name in ("null", "bool", "int", "float")}:
            return self._scalar(node, line)
        if isinstance(node, ScalarNode) and tag in {f"{_TAG}{name}" for name in ("str", "timestamp", "value")}:
            return node.value
        raise _Refused(error("", "UnknownTag", f"the tag {shown(tag)} is not allowed; remove it", line))

    def _scalar(self, node: ScalarNode, line: int) -> Any:
        if ":" in node.value:  # 12:30, a number to base 60 in YAML 1.1 alone; kubectl takes it for a text
            return node.value
        try:
            with warnings.catch_warnings():  # of 1e3 in YAML 1.1, which kubectl takes
                warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)
                scalar = self._constructor.construct_object(node)
        except (ValueError, LookupError, TypeError):
            words = (
                f"{shown(node.value)} is not a {str(node.tag).removeprefix(_TAG)} that can be read; put it in quotes"
            )
            raise _Refused(error("", "NotYAML", words, line)) from None
        if isinstance(scalar, float) and not math.isfinite(scalar):
            words = f"{shown(node.value)} is a number that JSON does not have; put it in quotes"
            raise _Refused(error("", "NotJSON", words, line))
        return scalar

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise _Refused(error("", "KeyNotText", "a key must be a text, not a list or a map", line))
            if str(key.tag) == f"{_TAG}merge":
                sources = item.value if isinstance(item, SequenceNode) else [item]
                for source in sources:
                    content = self.value(source, depth + 1)
                    if not isinstance(content, dict):
                        raise _Refused(error("", "BadMerge", "'<<' must be followed by a map or a list of maps", line))
                    merged = content | merged
                continue
            if key.value in own:
                message = f"the key {shown(key.value)} is given twice in the same map; remove one"
                self.findings.append(error("", "DuplicateKey", message, line))
            own[key.value] = self.value(item, depth + 1)
        return merged | own


def _syntax_finding(problem: MarkedYAMLError) -> Finding:
    mark = problem.problem_mark or problem.context_mark
    words = problem.problem or problem.context or "it cannot be read"
    return error(
        "", "NotYAML", f"the text is not YAML: {shown(' '.join(words.split()), 200)}", mark.line + 1 if mark else None
    )
