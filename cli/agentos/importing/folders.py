"""Reads the manifests of worker folders, within the project only."""

import os
from pathlib import Path
from typing import Any

from agentos_contracts.findings import errors
from agentos_contracts.manifest import MANIFEST_FILE, Manifest

from agentos.author.build import reference_of
from agentos.errors import CommandError
from agentos.files import Unreadable, checked_manifest, text_of
from agentos.importing.commands import within, without_secrets
from agentos.importing.credentials import is_secret
from agentos.importing.project import Draft, ImportRefused, Notes, Remark


def manifest_in(folder: Path, root: Path, shown: str) -> dict[str, Any] | None:
    """Return the manifest of a folder, None when it has none or lies outside of ``root``.

    ``shown`` is the folder's name for messages. Raises ImportRefused for a manifest that is not valid.
    """
    path = folder / MANIFEST_FILE
    if not within(path, root) or not os.path.isfile(path):
        return None
    name = _manifest_name(shown)
    try:
        text = text_of(str(path))
    except Unreadable as error:
        raise ImportRefused([Remark(name, 0, "", f"cannot be read: {error}", "is it the right file?")]) from None
    manifest, found = checked_manifest(text)
    if faults := errors(found):
        raise ImportRefused(Remark(name, each.line or 0, each.path, each.message, "") for each in faults)
    return manifest


def image_of(manifest: dict[str, Any]) -> str | None:
    """Return the image that ``agentos build`` makes of a folder with this manifest; None when it needs a --tag."""
    try:
        return reference_of(Manifest.model_validate(manifest))
    except CommandError:
        return None


def keep_secrets_out(draft: Draft, notes: Notes, shown: str) -> None:
    """Take what may be a secret out of a draft's manifest, and remark that its configuration is not handed on."""
    manifest = draft.manifest
    env = manifest.get("env") or {}
    for name in [name for name, value in env.items() if is_secret(name, value)]:
        if name not in draft.secrets:
            draft.secrets.append(name)
    if kept := {name: value for name, value in env.items() if name not in draft.secrets}:
        manifest["env"] = kept
    else:
        manifest.pop("env", None)
    if manifest.get("scripts"):
        scripts = dict(manifest["scripts"])
        for key, script in scripts.items():
            if script is not None:
                scripts[key], hidden = without_secrets(script, draft.secrets)
                draft.secrets += [name for name in hidden if name not in draft.secrets]
        manifest["scripts"] = scripts
    if manifest.pop("config", None) is not None:  # not handed on anyway, and it may hold anything
        what = f"config of {_manifest_name(shown)} is not handed to the worker"
        notes.add(draft.line, draft.path, what, "give it in spec.env, or by configuration::set")


def _manifest_name(shown: str) -> str:
    return MANIFEST_FILE if shown in ("", ".") else f"{shown}/{MANIFEST_FILE}"
