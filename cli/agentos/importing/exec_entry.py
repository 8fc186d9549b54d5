"""An ``iii-exec`` entry of a config file: the last of its commands, which is kept running, becomes a Worker."""

from pathlib import Path
from typing import Any

from agentos_contracts.manifest import MANIFEST_FILE

from agentos.importing.commands import in_folder, name_for, take_apart
from agentos.importing.folders import image_of, keep_secrets_out, manifest_in
from agentos.importing.project import Draft, ImportRefused, Notes, Project, Remark

MAX_COMMANDS = 100
"""Of one entry."""


def add_worker(commands: list[tuple[int, str]], path: str, root: Path, notes: Notes, project: Project) -> None:
    """Add the Worker of an entry at a path, given the lines and texts of its commands, to a project.

    Raises ImportRefused when the manifest of its folder is not valid, and for too many commands.
    """
    if not commands:
        return
    if len(commands) > MAX_COMMANDS:
        what = f"there are more than {MAX_COMMANDS} commands"
        raise ImportRefused([Remark(notes.file, commands[0][0], f"{path}.config.exec", what, "write a script of them")])
    *first, (line, text) = commands
    where = f"{path}.config.exec[{len(first)}]"
    command = take_apart(text, root)
    if command.folder is None and command.script.startswith("cd "):
        what = "the command goes to a folder that is not in the project, or not there"
        notes.add(line, where, what, "it is run as it stands; bring the folder into the project")
    folder = command.folder or root
    shown = folder.relative_to(root).as_posix()
    manifest = manifest_in(folder, root, shown)
    name = manifest["name"] if manifest else name_for(command.script, folder, root)
    image = image_of(manifest) if manifest else None
    draft = Draft(
        where, name, notes.file, line, where, folder, manifest or {"iii": "v1"}, image, secrets=command.secrets
    )
    keep_secrets_out(draft, notes, shown)
    scripts: dict[str, Any] = {**(draft.manifest.get("scripts") or {})}
    if scripts.get("start") not in (None, command.script):
        what = f"scripts.start of {(Path(shown) / MANIFEST_FILE).as_posix()} is another command"
        notes.add(line, where, what, "the one of this file is taken, which is what runs today")
    for variable in command.variables:
        what = f"the shell puts the variable {variable} in when the worker starts"
        instead = f"agentos up hands it on from its own environment; for a cluster add {variable} to spec.env"
        notes.add(line, where, what, instead)
    draft.env = command.env
    _install(first, draft, root, scripts, notes, f"{path}.config.exec")
    draft.manifest["scripts"] = {**scripts, "start": command.script}
    project.drafts.append(draft)


def _install(
    first: list[tuple[int, str]], draft: Draft, root: Path, scripts: dict[str, Any], notes: Notes, where: str
) -> None:
    """Make the commands before the last the install script, unless the manifest has one of its own."""
    assert draft.folder is not None
    parts = []
    for index, (line, text) in enumerate(first):
        if scripts.get("install"):
            what = "a command before the last is not carried over: the manifest has a scripts.install of its own"
            notes.add(line, f"{where}[{index}]", what, "add the command there if it does not do the same")
            continue
        command = take_apart(text, root, draft.secrets)
        draft.secrets += [each for each in command.secrets if each not in draft.secrets]
        parts.append(in_folder(command, root, draft.folder))
        what = "a command before the last becomes scripts.install: it is not run at each start"
        notes.add(line, f"{where}[{index}]", what, "move it to scripts.start if it must be run each time")
    if parts:
        scripts["install"] = " && ".join(parts)
