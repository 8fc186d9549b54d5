"""Takes a shell command apart: the folder it is run in, the variables it is given, and the rest, without secrets."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from agentos_contracts.effective import is_simple_command

from agentos.importing.credentials import is_secret, name_is_secret, value_is_secret

PROJECT_FILES = (
    *("iii.worker.yaml", "package.json", "pyproject.toml", "requirements.txt", "setup.py", "Cargo.toml", "go.mod"),
    *("deno.json", "Gemfile", "composer.json"),
)
"""What the folder of a program's code holds."""

MAX_SCRIPT = 16_384
"""Characters of a script that a manifest may hold."""
MAX_WORDS = 200
"""Words of a command whose paths are looked at."""

_CD = re.compile(r"""cd\s+(?:"([^"$`\\]+)"|'([^']+)'|([\w.@+/-]+))\s*&&\s*(.*)""", re.DOTALL)
_ASSIGNMENT = re.compile(
    r"""([A-Za-z_]\w*)=("[^"$`\\]*"|'[^']*'|\$\{\1(?::[^}]*)?\}|[^\s"'$`\\;|&()<>#*?~]*)\s+(.*)""", re.DOTALL
)
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"';|&()<>])+""")
_OPTION = re.compile(r"--?[A-Za-z][\w-]*")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_OF_LOGINS = frozenset({"-u", "--user"})
_LOGIN = re.compile(r"[^:$]+:(?!\d+$).+")
"""A name and a password, as of curl; not the ids of a user and a group."""
_NAMED = re.compile(r"(--?[A-Za-z][\w-]*|[A-Za-z_]\w*)=(.+)", re.DOTALL)
_PLAIN_WORD = re.compile(r"[\w@%+=:,./-]+|[\w@%+=:,.${}\"-]+")
"""A word that means the same in another folder. One with a variable in it must not look like a path."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::([^}]*))?\}")
_GENERIC = frozenset({"__main__", "app", "cli", "dist", "index", "main", "run", "server", "src", "start", "worker"})


@dataclass(slots=True)
class Command:
    """A command without its ``cd``: ``script`` is to be run in ``folder``, None for the project's own.

    ``variables``: names that the shell puts in; ``secrets``: those whose values were in the command and are not kept.
    """

    script: str
    folder: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)


def take_apart(text: str, root: Path, known: Sequence[str] = ()) -> Command:
    """Take a command of a ``config.yaml`` apart that is run in ``root``; ``known``: variables that have a secret already.

    ``${NAME}`` and ``${NAME:default}`` in it are put in by iii when the file is read; here the shell does it.
    """
    command = Command(text.strip())
    if len(text) > MAX_SCRIPT:
        return command  # no manifest may hold it, so it is refused in the end
    if found := _CD.fullmatch(command.script):
        folder = root / (found[1] or found[2] or found[3])
        if within(folder, root) and os.path.isdir(folder):
            command.folder, command.script = folder.resolve(), found[4].strip()
    _take_assignments(command)
    _leave_to_shell(command)
    command.script, hidden = without_secrets(command.script, known)
    command.secrets += [name for name in hidden if name not in command.secrets]
    if command.folder is None:
        _move(command, root)
    return command


def in_folder(command: Command, root: Path, folder: Path) -> str:
    """Return a script that does in ``folder`` what a command does where it is run, with the variables it is given."""
    script = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in command.env.items()), command.script])
    relative = os.path.relpath(command.folder or root, folder)
    if relative == ".":
        return script if is_simple_command(command.script) else f"({script})"
    return f"(cd {shlex.quote(relative)} && {script})"


def without_secrets(script: str, known: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Return a script with ``"$NAME"`` in place of what may be a secret, and the names.

    Where the script has no name for one it gets a new one, which is none of the ``known``.
    """
    names: list[str] = []
    return _without_secrets(script, names, '"', known), names


def _without_secrets(script: str, names: list[str], quote: str, known: Sequence[str]) -> str:
    before = ""

    def variable(name: str) -> str:
        if name not in names:
            names.append(name)
        return f"{quote}${name}{quote}"

    def unnamed() -> str:
        numbered = (f"CREDENTIAL_{number}" for number in count(1))
        return variable(next(name for name in numbered if name not in names and name not in known))

    def word(match: re.Match[str]) -> str:
        nonlocal before
        text, option, before = match[0], before, match[0]
        if named := _NAMED.fullmatch(text):
            hidden = _hides(named[1], named[2].strip("\"'"))
            return f"{named[1]}={variable(_variable_name(named[1]))}" if hidden else text
        value = text.strip("\"'")
        if _OPTION.fullmatch(option) and name_is_secret(option) and not value.startswith(("-", "$")):
            return variable(_variable_name(option))
        if _QUOTED.fullmatch(text) and any(each.isspace() for each in value):  # it may be a script, as of sh -c
            before_it = len(names)
            inner = _without_secrets(text[1:-1], names, quote if text[0] == "'" else "", known)
            if not value_is_secret(inner):
                return f"{text[0]}{inner}{text[0]}"
            del names[before_it:]
            return unnamed()
        is_login = option in _OF_LOGINS and _LOGIN.fullmatch(value) is not None
        return unnamed() if is_login or value_is_secret(value) else text

    return _WORD.sub(word, script)


def _hides(name: str, value: str) -> bool:
    """Whether a named value may be secret; what the shell puts in is not in the file."""
    return value_is_secret(value) or (is_secret(name, value) and not value.startswith("$"))


def name_for(script: str, folder: Path, root: Path) -> str:
    """Return a name for what a command runs: its folder's, or that of its file or module, or the project's."""
    if folder != root:
        return folder.name
    words = _words(script) or []
    for index, each in enumerate(words[1:], 1):
        path = root / each
        if words[index - 1] == "-m":
            return each.split(".")[0]
        if not each.startswith(("-", "/")) and os.path.isfile(path):
            names = [path.stem.split(".")[0], *(parent.name for parent in path.relative_to(root).parents)]
            return next((name for name in names[:-1] if name not in _GENERIC), root.name)
    return root.name


def project_folder(path: Path, root: Path) -> Path | None:
    """Return the nearest folder above a file, up to ``root``, that has a file of a project; None without one."""
    for folder in path.parents:
        if any(os.path.isfile(folder / name) for name in PROJECT_FILES):
            return folder
        if folder == root:
            return None
    return None


def within(path: Path, root: Path) -> bool:
    """Whether a path is in a folder, links followed. ``root`` is resolved."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False


def _leave_to_shell(command: Command) -> None:
    """Turn iii's variables into the shell's; a default that may be a secret is left out."""

    def shell(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name_is_secret(name) or (default and value_is_secret(default)):
            if name not in command.secrets:
                command.secrets.append(name)
            return f"${{{name}}}"
        if name not in command.variables:
            command.variables.append(name)
        return f"${{{name}}}" if default is None else f"${{{name}-{default}}}"

    command.script = _VARIABLE.sub(shell, command.script)


def _take_assignments(command: Command) -> None:
    """Move ``NAME=value`` and ``NAME=${NAME:default}`` before a simple command to its environment."""
    env: dict[str, str] = {}
    script = command.script
    while found := _ASSIGNMENT.fullmatch(script):
        env[found[1]], script = found[2].strip("\"'"), found[3]
    if not env or not is_simple_command(script):
        return
    command.script = script
    for name, value in env.items():
        variable = _VARIABLE.fullmatch(value)
        text = value if variable is None else variable[2]
        if is_secret(name, text or value):
            command.secrets.append(name)
        elif text is None:
            command.variables.append(name)
        else:
            command.env[name] = text


def _words(script: str) -> list[str] | None:
    """The words of a simple command in which nothing is special to a shell; None for any other."""
    if not is_simple_command(script):
        return None
    words = script.split()
    return words if len(words) <= MAX_WORDS and all(_PLAIN_WORD.fullmatch(word) for word in words) else None


def _move(command: Command, root: Path) -> None:
    """Run a command that names a file of the project in that file's own folder, with its paths written for there."""
    words = _words(command.script)
    if words is None or any("=" in word and "/" in word for word in words):
        return
    paths = {index: root / word for index, word in enumerate(words) if _names_path(word, index, root)}
    # The program comes last: in `.venv/bin/python worker/main.py` it is not what the folder is about.
    named = [path for _, path in sorted(paths.items(), key=lambda each: each[0] == 0) if within(path, root)]
    if not named:
        return
    folder = named[0] if os.path.isdir(named[0]) else project_folder(named[0], root) or named[0].parent
    if folder == root:
        return
    for index, path in paths.items():
        relative = os.path.relpath(path, folder)
        words[index] = relative if index or "/" in relative else f"./{relative}"
    command.folder, command.script = folder, " ".join(words)


def _names_path(word: str, index: int, root: Path) -> bool:
    """Whether a word is the path of a file, or of a project's folder. A bare word may be anything, such as a script."""
    path = root / word
    if word.startswith(("-", "/")) or ("/" not in word and (index == 0 or not os.path.isfile(path))):
        return False
    return os.path.isfile(path) or any(os.path.isfile(path / name) for name in PROJECT_FILES)


def _variable_name(name: str) -> str:
    return re.sub(r"\W", "_", name.lstrip("-")).upper() if name.startswith("-") else name
