"""The text of a config file as a tree whose nodes know their lines.

Scalars are those of YAML 1.2, as in iii: ``yes`` and ``on`` are text. Aliases work, within a bound on the size of the
whole; a key that comes twice is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agentos_engine.config_file.findings import Findings

MAX_SIZE = 1 << 20
"""Bytes of a file, before and after variables are put in."""
MAX_DEPTH = 64
MAX_NODES = 100_000
"""Values in the tree, each use of an alias counted with all that it holds."""

MAX_DIGITS = 4300
"""Of a whole number; Python reads no longer ones."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(slots=True)
class Node:
    """A value of the file. ``value`` is None, a bool, int, float or str, a list of nodes, or a dict of nodes by key."""

    value: Any
    line: int
    size: int = 1
    """How many values it holds, itself included."""
    key_lines: dict[str, int] = field(default_factory=dict)

    def plain(self) -> Any:
        """Return the value with everything in it as ordinary Python values."""
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        if isinstance(self.value, dict):
            return {key: each.plain() for key, each in self.value.items()}
        return self.value


def read(text: str, environment: Mapping[str, str] | None, findings: Findings) -> Node | None:
    """Return the tree of a text after ``${NAME}`` and ``${NAME:default}`` are put in; None after errors.

    Without an environment they stay as they are.
    """
    if len(text.encode(errors="replace")) > MAX_SIZE:
        findings.error("too_large", "", 0, f"the file has more than {MAX_SIZE >> 20} MiB", "is it the right file?")
        return None
    expanded, lines = text, list(range(1, text.count("\n") + 2))
    if environment is not None:
        expanded, lines = _expand(text, environment, findings)
    if findings.failed:
        return None
    return _Composer(expanded, lines, findings).compose()


def _expand(text: str, environment: Mapping[str, str], findings: Findings) -> tuple[str, list[int]]:
    """Return the text with its variables, and for each of its lines the line of the file that it comes from."""
    result: list[str] = []
    origins: list[int] = []
    size = 0
    for number, line in enumerate(text.split("\n"), 1):

        def value(match: re.Match[str], number: int = number) -> str:
            found = environment.get(match[1], match[2])
            if found is None:
                remedy = f"set it, or give a default: ${{{match[1]}:default}}"
                findings.error("missing_variable", "", number, f"the variable {match[1]} is not set", remedy)
            return found or ""

        if not line.lstrip().startswith("#"):  # a comment may show variables that nobody sets
            line = _VARIABLE.sub(value, line)
        size += len(line)
        if size > MAX_SIZE:
            findings.error("too_large", "", number, "the file grows beyond 1 MiB by its variables", "shorten them")
            break
        result.append(line)
        origins += [number] * (line.count("\n") + 1)
    return "\n".join(result), origins


class _Refused(Exception):
    """The text is no tree that can be used; the findings say why."""


class _Composer:
    """Builds the tree from the events of the parser, so that depth and size are bounded while it grows."""

    def __init__(self, text: str, lines: list[int], findings: Findings) -> None:
        import yaml  # here, since most engines run without a config file

        self._yaml = yaml
        self._events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._lines = lines
        self._findings = findings
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def compose(self) -> Node | None:
        """Return the tree, with an empty mapping for an empty file; None after errors."""
        yaml = self._yaml
        root = Node({}, 0)
        documents = 0
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._refuse("syntax", self._line(event), "a second document begins", "remove one of them")
                elif isinstance(event, yaml.NodeEvent):
                    root = self._node(event, 1)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = self._origin(mark.line) if mark else 0
            self._findings.error("syntax", "", line, f"not YAML: {error.problem or error.context}", "mend the syntax")
            return None
        except (yaml.YAMLError, UnicodeEncodeError):
            remedy = "write it as UTF-8 text without control characters"
            self._findings.error("syntax", "", 0, "not YAML: a character that is not allowed", remedy)
            return None
        except _Refused:
            return None
        return root

    def _node(self, event: Any, depth: int) -> Node:
        yaml = self._yaml
        line = self._line(event)
        if depth > MAX_DEPTH:
            self._refuse("too_deep", line, f"nested more than {MAX_DEPTH} deep", "make it flatter")
        if isinstance(event, yaml.AliasEvent):
            node = self._anchors.get(event.anchor)
            if node is None:
                self._refuse("syntax", line, f"no anchor &{event.anchor[:50]} before this", "write the value here")
            self._count(node.size, line)
            return node
        self._count(1, line)
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._refuse("syntax", line, f"the tag {event.tag[:50]} is not known", "leave it out")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(_scalar(event), line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node([], line)
            while not isinstance(each := next(self._events), yaml.SequenceEndEvent):
                node.value.append(self._node(each, depth + 1))
                node.size += node.value[-1].size
        else:
            node = Node({}, line)
            while not isinstance(each := next(self._events), yaml.MappingEndEvent):
                self._item(node, each, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _item(self, node: Node, event: Any, depth: int) -> None:
        line = self._line(event)
        if not isinstance(event, self._yaml.ScalarEvent):
            self._refuse("syntax", line, "a key is not a word", "write `key: value`")
        key = event.value
        if key in node.value:
            message = f"the key {key[:50]!r} comes twice, first in line {node.key_lines[key]}"
            self._findings.error("duplicate_key", "", line, message, "remove one of them")
        node.key_lines[key] = line
        node.value[key] = self._node(next(self._events), depth + 1)
        node.size += node.value[key].size

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._refuse(
                "too_large", line, f"more than {MAX_NODES} values, aliases counted in full", "shorten the file"
            )

    def _refuse(self, code: str, line: int, message: str, remedy: str) -> NoReturn:
        self._findings.error(code, "", line, message, remedy)
        raise _Refused

    def _line(self, event: Any) -> int:
        return self._origin(event.start_mark.line)

    def _origin(self, line: int) -> int:
        return self._lines[min(line, len(self._lines) - 1)]


def _scalar(event: Any) -> object:
    text = event.value
    if event.tag or not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text.lstrip("+-")) <= MAX_DIGITS:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
