"""``docs/cli.md`` says what is there: its commands and options exist, and its exit codes are those of the code."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from agentos.__main__ import app
from agentos.errors import ExitCode

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
LINES = sorted({line.split("  #")[0] for line in re.findall(r"agentos [a-z][^\n`|\\]*", PAGE)})
ROOT = typer.main.get_command(app)


def command_of(words: list[str]):
    """Return the command that words call, and what follows."""
    found, rest = ROOT, words[1:]
    while rest and rest[0] in getattr(found, "commands", {}):
        found, rest = found.commands[rest[0]], rest[1:]
    return found, rest


def test_every_command_has_an_example():
    def names(group, before):
        for name, each in group.commands.items():
            path = f"{before} {name}"
            yield from names(each, path) if getattr(each, "commands", None) else [path]

    shown = [line.split() for line in LINES]
    missing = [
        path for path in names(ROOT, "agentos") if not any(line[: len(path.split())] == path.split() for line in shown)
    ]
    assert missing == []


@pytest.mark.parametrize("line", LINES)
def test_the_options_of_the_examples_exist(line):
    found, rest = command_of(shlex.split(line))
    known = {option for each in found.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    assert [word for word in rest if word.startswith("-") and word != "-" and word.split("=")[0] not in known] == []
    assert not getattr(found, "commands", None), f"{line}: no such command"


def test_the_exit_codes_are_those_of_the_code():
    table = PAGE[PAGE.index("## Exit codes") :]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [code.value for code in ExitCode]
