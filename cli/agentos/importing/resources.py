"""Makes the Realm and the Workers of a project, and says what they still need."""

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentos_contracts.findings import errors
from agentos_contracts.manifest import BUILT_IN_WORKERS, DROPPED_ENV, FORBIDDEN_NAMES
from agentos_contracts.resource import API_VERSION
from agentos_contracts.validation import validate
from agentos_contracts.worker import ENGINE_NAME

from agentos.importing.project import Draft, ImportRefused, Project, Remark
from agentos.local.fleet import SOURCE_ANNOTATION
from agentos.names import MAX_LENGTH, object_name
from agentos.resource_yaml import resource_yaml

REALM_FILE = "realm.yaml"
STORAGE_SIZE = "1Gi"
MAX_WORKERS = 500
"""Most that are made at once."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written: its name in the folder of output, and its text."""

    name: str
    text: str


def make_files(project: Project, *, sources: list[str], realm: str, namespace: str, out: Path) -> list[File]:
    """Return the files of a project; what is left to do is added to the project's remarks.

    ``sources``: names of the files that it was read from; ``out``: where the files will be. Raises ImportRefused when
    something read cannot be said in a valid resource.
    """
    if len(project.drafts) > MAX_WORKERS:
        first = project.drafts[MAX_WORKERS]
        what = f"there are more than {MAX_WORKERS} workers"
        raise ImportRefused([Remark(first.file, first.line, first.path, what, "import them in parts")])
    shown = {source: Path(os.path.relpath(source, out)).as_posix() for source in sources}
    files = [File(REALM_FILE, _realm(project, shown, realm, namespace))]
    names = _unique(draft.name for draft in project.drafts)
    files_names = _unique([REALM_FILE.removesuffix(".yaml"), *names])[1:]
    manifest_names = _manifest_names(project.drafts, names)
    for draft, name, file in zip(project.drafts, names, files_names, strict=True):
        resource = _worker(draft, name, namespace, manifest_names, project)
        if draft.folder is not None:
            source = os.path.relpath(draft.folder, out.resolve())
            resource["metadata"]["annotations"] = {SOURCE_ANNOTATION: Path(source).as_posix()}
        comments = [f"From {draft.path} in line {draft.line} of {shown[draft.file]}, by agentos import."]
        files.append(File(f"{file}.yaml", _checked(resource, comments, draft.file, draft.line, draft.path)))
    _once(project, names, sources[0])
    return files


def _unique(wanted: Iterable[str]) -> list[str]:
    """Return valid names, each once: the second of a name has -2 at its end, and so on."""
    taken = {ENGINE_NAME}
    found: list[str] = []
    for text in wanted:
        base = name = object_name(text) or "worker"
        number = 1
        while name in taken:
            number += 1
            name = f"{base[: MAX_LENGTH - len(str(number)) - 1]}-{number}"
        taken.add(name)
        found.append(name)
    return found


def _manifest_names(drafts: list[Draft], names: list[str]) -> dict[tuple[str, str], str]:
    """By file and key of a draft, the name that its manifest will have, and by which others depend on it."""
    found = {}
    for draft, name in zip(drafts, names, strict=True):
        own = str(draft.manifest.get("name") or name)
        found[draft.file, draft.key] = f"my-{name}"[:MAX_LENGTH] if own.lower() in FORBIDDEN_NAMES else own
    return found


def _realm(project: Project, sources: dict[str, str], realm: str, namespace: str) -> str:
    first = next(iter(sources))
    spec: dict[str, Any] = {"namespace": namespace}
    if project.storage:
        spec["engine"] = {"storage": {"size": STORAGE_SIZE}}
        what = "what the engine has kept until now is not moved, and the size of its volume is a guess"
        instead = f"correct spec.engine.storage of {REALM_FILE} before you apply it: it cannot be changed later"
        project.remarks.append(Remark(first, 0, "", what, instead))
    elif project.storage is None:
        what = "nothing says whether state and queues outlive a restart of the engine"
        instead = f"if they must, add spec.engine.storage to {REALM_FILE} before you apply it: it cannot be added later"
        project.remarks.append(Remark(first, 0, "", what, instead))
    resource = {"apiVersion": API_VERSION, "kind": "Realm", "metadata": {"name": realm}, "spec": spec}
    return _checked(resource, [f"From {', '.join(sources.values())}, by agentos import."], first, 0, "")


def _worker(
    draft: Draft, name: str, namespace: str, manifest_names: dict[tuple[str, str], str], project: Project
) -> dict[str, Any]:
    manifest = {"iii": "v1", **draft.manifest, "name": manifest_names[draft.file, draft.key]}
    spec: dict[str, Any] = {
        "image": draft.image or f"localhost/{name}:dev",
        "manifest": {key: manifest[key] for key in ("iii", "name", *manifest) if manifest[key] is not None},
    }
    remark = _remarker(draft, project)
    if env := _env(draft, name, namespace, remark):
        spec["env"] = env
    if draft.dependencies:
        spec["dependencies"] = {
            **(manifest.get("dependencies") or {}),
            **{manifest_names[draft.file, key]: "*" for key in draft.dependencies},
        }
    there = {*manifest_names.values(), *BUILT_IN_WORKERS}
    for each in sorted(set(manifest.get("dependencies") or {}) - there):
        what = f"the manifest depends on {each}, which is not part of the project"
        remark(what, "the worker waits until a Worker of that name is there; add one, or correct spec.dependencies")
    return {
        "apiVersion": API_VERSION,
        "kind": "Worker",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _env(draft: Draft, name: str, namespace: str, remark: Callable[[str, str], None]) -> list[dict[str, Any]]:
    """The variables, and how to make the Secrets that they come from."""
    for key in [key for key in (*draft.env, *draft.secrets) if key in DROPPED_ENV]:
        remark(f"{key} is not carried over: every worker is given it", "let the worker take the one that it is given")
    secrets = [key for key in draft.secrets if key not in DROPPED_ENV]
    # In a pod $(NAME) and $$ are replaced.
    found: dict[str, dict[str, Any]] = {
        key: {"name": key, "value": value.replace("$", "$$")}
        for key, value in draft.env.items()
        if key not in DROPPED_ENV
    }
    create = f"kubectl -n {namespace} create secret generic"
    for secret, keys in ((f"env-{name}", secrets), (f"env-file-{name}", draft.file_secrets)):
        for key in keys:
            found[key] = {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
    if secrets:
        literals = " ".join(f"--from-literal={key}=…" for key in secrets)
        what = f"{', '.join(secrets)} may be secret, and no value is copied"
        remark(what, f"{create} env-{name} {literals}; for agentos up export the same variables")
    if draft.file_secrets:
        files = " ".join(f"--from-env-file={shlex.quote(file)}" for file in draft.env_files)
        what = f"the values in {', '.join(draft.env_files)} are not copied"
        remark(what, f"{create} env-file-{name} {files}; for agentos up export the same variables")
    return list(found.values())


def _remarker(draft: Draft, project: Project) -> Callable[[str, str], None]:
    def remark(what: str, instead: str) -> None:
        project.remarks.append(Remark(draft.file, draft.line, draft.path, what, instead))

    return remark


def _once(project: Project, names: list[str], source: str) -> None:
    """What holds for all Workers is said once."""
    if not names:
        what = "nothing in it starts a worker, so there is a Realm and no Worker"
        project.remarks.append(Remark(source, 0, "", what, "agentos up FOLDER... runs folders with an iii.worker.yaml"))
        return
    if any(draft.folder is not None for draft in project.drafts):
        what = "images named localhost/… are not built yet; a cluster needs them, agentos up does not"
        project.remarks.append(
            Remark(
                source,
                0,
                "",
                what,
                "agentos build FOLDER makes each, from the iii.worker.yaml that the folder needs for it",
            )
        )
    what = "which functions belong to which worker is not said in iii's files"
    instead = "each Worker gets what it registers; agentos render FOLDER writes spec.owns, which keeps others off"
    project.remarks.append(Remark(source, 0, "", what, instead))


def _checked(resource: dict[str, Any], comments: list[str], file: str, line: int, path: str) -> str:
    """Return the text of a resource that has no errors."""
    if found := errors(validate(resource)):
        raise ImportRefused(
            Remark(file, line, path, f"makes no valid {resource['kind']}: {each}", "") for each in found
        )
    try:
        return resource_yaml(resource, heading=comments)
    except ValueError as error:
        raise ImportRefused([Remark(file, line, path, str(error), "remove them")]) from None


def without_doubles(remarks: list[Remark]) -> list[Remark]:
    """Return remarks in the order of files and lines, each once; those on a whole file come last."""
    return sorted(dict.fromkeys(remarks), key=lambda each: (not each.line, each.file, each.line))
