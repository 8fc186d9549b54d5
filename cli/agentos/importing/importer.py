"""The whole of an import: read, make, write, and tell."""

import json
import os
import re
from pathlib import Path
from typing import Any

from agentos.errors import CommandError, ExitCode
from agentos.files import Unreadable, text_of
from agentos.importing.compose import read_compose
from agentos.importing.config_yaml import read_config
from agentos.importing.project import ImportRefused, Project, Remark
from agentos.importing.resources import File, make_files, without_doubles
from agentos.names import object_name

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CONTAINERS = re.compile(r"^(containers|\"containers\"|'containers')\s*:", re.MULTILINE)


def read_project(files: list[str]) -> Project:
    """Read the files of a project, each a ``config.yaml`` or a ``worker-compose.yaml``.

    Raises ImportRefused with all that is wrong with all of them, and CommandError for one that cannot be read.
    """
    project = Project()
    faults: list[Remark] = []
    for name in files:
        text = _text_of(name)
        is_compose = "compose" in Path(name).name or _CONTAINERS.search(text) is not None
        try:
            project.join((read_compose if is_compose else read_config)(text, name, Path(name).resolve().parent))
        except ImportRefused as refused:
            faults += refused.faults
    if faults:
        raise ImportRefused(faults)
    return project


def names_of(files: list[str], realm: str | None, namespace: str | None) -> tuple[str, str]:
    """Return the names of the Realm and of its namespace: those that were asked for, else the project's folder's."""
    for flag, name in (("--realm", realm), ("--namespace", namespace)):
        if name is not None and not _LABEL.fullmatch(name):
            raise CommandError(
                f"{flag} {name[:63]!a}: not a name; write lower-case letters, digits and '-', such as team-a",
                ExitCode.USAGE,
            )
    realm = realm or object_name(Path(files[0]).resolve().parent.name) or "imported"
    return realm, namespace or realm


def import_files(
    files: list[str], *, out: Path, realm: str, namespace: str, force: bool
) -> tuple[list[str], list[Remark]]:
    """Turn files into a Realm and Workers; returns the paths that were written, and what is left to do.

    Nothing is written when anything is wrong. Raises ImportRefused and CommandError.
    """
    project = read_project(files)
    made = make_files(project, sources=files, realm=realm, namespace=namespace, out=out)
    return _write(made, out, force=force), without_doubles(project.remarks)


def as_text(written: list[str], remarks: list[Remark]) -> str:
    """Return what was done for people."""
    lines = [f"wrote {path}" for path in written]
    lines += ["", "Not carried over, or to be done:", *map(str, remarks)] if remarks else []
    return "\n".join(lines)


def as_json(written: list[str], remarks: list[Remark], faults: list[Remark]) -> str:
    """Return what was done for machines."""
    told: dict[str, Any] = {"written": written, "remarks": _plain(remarks), "errors": _plain(faults)}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _plain(remarks: list[Remark]) -> list[dict[str, Any]]:
    return [
        {
            "file": each.file,
            "line": each.line or None,
            "path": each.path,
            "what": each.what,
            "instead": each.instead,
        }
        for each in remarks
    ]


def _text_of(name: str) -> str:
    try:
        return text_of(name)
    except Unreadable as error:
        raise CommandError(f"{name}: cannot be read: {error}", ExitCode.USAGE) from None


def _write(files: list[File], out: Path, *, force: bool) -> list[str]:
    paths = [out / each.name for each in files]
    if not force and (there := [str(path) for path in paths if os.path.lexists(path)]):
        raise CommandError(f"{', '.join(there)}: there already; choose another --out, or overwrite with --force")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, each in zip(paths, files, strict=True):
            path.write_text(each.text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{error.filename or out}: cannot be written: {error.strerror or error}", ExitCode.USAGE
        ) from None
    return [str(path) for path in paths]
