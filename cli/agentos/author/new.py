"""Makes the folder of a new worker from a template: a small worker that runs, with its test."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from agentos_contracts.findings import shown
from agentos_contracts.patterns import Pattern, reserved_by
from agentos_contracts.resource import API_VERSION
from agentos_contracts.validation import validate

from agentos.author import Language
from agentos.errors import CommandError, ExitCode
from agentos.names import object_name

TEMPLATES = Path(__file__).parent.parent / "templates"
TEMPLATE_NAME = "my-worker"
"""The name of the worker of every template, which is a whole worker folder itself."""

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_NOT_FOR_CARGO = frozenset({"build", "deps", "examples", "incremental"})
_MADE = frozenset({"__pycache__", "node_modules", "target", "Cargo.lock", "package-lock.json"})


def new_worker(name: str, language: Language, parent: Path) -> tuple[Path, list[Path]]:
    """Make the folder ``parent/name`` with a worker; return it and its files, relative to it, in order.

    Raises CommandError, with nothing written, for a name that a worker cannot have, and where something is already.
    """
    if fault := name_fault(name, language):
        raise CommandError(fault, ExitCode.USAGE)
    folder = parent / name
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "is there already and not empty" if folder.is_dir() else "is a file"
            raise CommandError(f"{folder} {what}; choose another name, or another place with --dir", ExitCode.USAGE)
        files = list(_files(TEMPLATES / language))
        for file in files:
            text = (TEMPLATES / language / file).read_text(encoding="utf-8")
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(TEMPLATE_NAME, name), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot make {folder}: {error.strerror or type(error).__name__}") from None
    return folder, files


def name_fault(name: str, language: Language) -> str | None:
    """Say why a new worker cannot be called this; None when it can.

    The name is also that of a Kubernetes object, of an image, of a package and of a function namespace: what all of
    these take is allowed, unless a cluster would refuse the Worker.
    """
    if not _NAME.fullmatch(name):
        better = object_name(name).lstrip("0123456789-")
        return (
            f"'{shown(name)}' cannot be the name of a worker: use lower-case letters, digits and '-', a letter first, "
            f"such as {shown(better) if better and better != name else TEMPLATE_NAME}"
        )
    if language is Language.RUST and name in _NOT_FOR_CARGO:
        return f"'{name}' cannot be the name of a worker in Rust: cargo has a folder of that name; choose another, such as my-{name}"
    functions = f"{name}::*"
    worker = {
        "apiVersion": API_VERSION,
        "kind": "Worker",
        "metadata": {"name": name},
        "spec": {"image": "localhost/worker:dev", "owns": [functions], "manifest": {"name": name}},
    }
    findings = validate(worker)
    if not findings:
        return None
    # Several fields hold the name; what the manifest's rules say of it is the clearest.
    finding = min(findings, key=lambda finding: not finding.path.startswith("spec.manifest"))
    message = finding.message
    if finding.path.startswith("spec.owns") and (taken := reserved_by(Pattern.parse(functions))):
        message = (
            f"its functions would be {functions}, and {taken} belongs to the engine; choose another, such as my-{name}"
        )
    return f"'{shown(name)}' cannot be the name of a worker: {message}"


def _files(template: Path) -> Iterator[Path]:
    """Yield the files of a template relative to it, without what running it there would leave."""
    for path in sorted(template.rglob("*")):
        file = path.relative_to(template)
        if path.is_file() and _MADE.isdisjoint(file.parts):
            yield file


def made(folder: Path, files: list[Path]) -> str:
    """Return what to tell the person: what was made, and what to type next."""
    steps = [
        f"cd {shlex.quote(str(folder))}",
        "agentos up",
        f"agentos call {folder.name}::greet name=Ada    # in another terminal",
        "agentos test .",
    ]
    names = ", ".join(str(file) for file in files)
    return "\n".join([f"made {folder}: {names}", "next:", *(f"  {step}" for step in steps)])
