"""Reads a ``worker-compose.yaml``: its containers become Workers. As strict as iii: what it refuses is refused here."""

import os
import re
import shlex
from pathlib import Path

from agentos_contracts.effective import is_simple_command
from agentos_contracts.manifest import MANIFEST_FILE
from agentos_contracts.worker import OWNED_ENV
from agentos_engine.config_file.document import read
from agentos_engine.config_file.findings import Findings
from agentos_engine.config_file.section import Section

from agentos.files import Unreadable, text_of
from agentos.importing.commands import within, without_secrets
from agentos.importing.credentials import is_secret
from agentos.importing.folders import image_of, keep_secrets_out, manifest_in
from agentos.importing.project import Draft, ImportRefused, Notes, Project, remark_of

_RESERVED = frozenset({"III_URL", "III_NAMESPACE", "III_WORKER_NAME", "III_CONFIG", "III_CONFIG_NAME"})
_DURATION = re.compile(r"[0-9]+(\.[0-9]+)?(ms|s|m)")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")
_NAMESPACE = re.compile(r"[a-z0-9_-]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")
_MAX_ENV_FILE_NAMES = 100
_DEFAULT_TIMEOUT = "60s"


def read_compose(text: str, file: str, root: Path) -> Project:
    """Read the text of a file in the folder ``root`` (resolved); ``file`` is its name for messages.

    Raises ImportRefused.
    """
    findings = Findings()
    tree = read(text, None, findings)
    notes = Notes(file)
    project = Project(remarks=notes.remarks)
    if tree is not None:
        _Reader(root, findings, notes, project).read(Section(tree, "", findings))
    if findings.failed:
        raise ImportRefused(remark_of(file, each) for each in findings if each.level == "error")
    return project


class _Reader:
    """Goes through the containers of one file."""

    def __init__(self, root: Path, findings: Findings, notes: Notes, project: Project) -> None:
        self._root, self._findings, self._notes, self._project = root, findings, notes, project
        self._namespace: str | None = None
        self._left_out: set[str] = set()
        """Containers that become no Worker."""

    def read(self, top: Section) -> None:
        """Read the whole file."""
        self._namespace = top.optional_text("namespace")
        if self._namespace is not None and not _NAMESPACE.fullmatch(self._namespace):
            top.error("wrong_type", "not a namespace", "write lower-case letters, digits, - and _", "namespace")
        for key in ("startup_timeout", "stop_timeout"):
            self._timeout(top, key)
        containers = top.section("containers")
        lines: dict[str, tuple[Section, tuple[str, ...]]] = {}
        for key in containers:
            container = containers.section(key)
            if not _NAME.fullmatch(key) or ".." in key:
                containers.error("wrong_type", "not a name of a worker", "write letters, digits, - and _", key)
            lines[key] = container, container.texts("depends_on")
            self._container(key, container, containers.line_of(key))
        top.end()
        self._dependencies(lines)

    def _container(self, key: str, container: Section, line: int) -> None:
        worker, version = container.required_text("worker"), container.optional_text("version")
        scripts = container.section("scripts")
        run, before = scripts.optional_text("run"), scripts.optional_text("pre_run")
        after = scripts.optional_text("post_run")
        self._timeout(scripts, "pre_run_timeout")
        scripts.end()
        working_dir = container.optional_text("working_dir")
        environment = self._environment(container)
        env_files = container.texts("env_file")
        self._timeout(container, "startup_timeout")
        for name in ("config_name", "config_override"):
            if container.take(name) is not None:
                what = "the worker's configuration is not carried over"
                self._note(container, name, what, "give the values in spec.env, or by configuration::set")
        container.end()
        if after is not None:
            self._note(
                scripts,
                "post_run",
                "a script after the worker's end is not carried over",
                "do it in the worker, at SIGTERM",
            )
        scheme, _, target = worker.partition("://")
        if scheme == "package" and target:
            if version is None:
                container.error("missing_key", "a package needs a version", "add `version:`")
            if run is not None:
                scripts.error("unknown_key", "a package says itself how it is run", "remove it", "run")
            self._left_out.add(key)
            what = "a worker from iii's registry is not carried over"
            self._note(container, "worker", what, "write a Worker with its image in spec.image, and apply that too")
        elif scheme == "path" and target:
            draft = self._draft(key, container, line, target, run)
            if draft is not None:
                self._finish(draft, container, before, working_dir, environment, env_files)
        elif worker:
            container.error("wrong_type", "neither a folder nor a package", "write path://FOLDER", "worker")

    def _draft(self, key: str, container: Section, line: int, target: str, run: str | None) -> Draft | None:
        folder = self._root / target
        if not within(folder, self._root):
            self._left_out.add(key)
            what = "a folder outside of the project is not read"
            self._note(container, "worker", what, "import from a folder that holds both, or write a Worker for it")
            return None
        if not os.path.isdir(folder):
            container.error("unreadable", "there is no such folder", "correct the path", "worker")
            return None
        folder = folder.resolve()
        shown = folder.relative_to(self._root).as_posix()
        try:
            manifest = manifest_in(folder, self._root, shown)
        except ImportRefused as refused:
            for each in refused.faults:
                self._findings.error("manifest", each.file, container.line_of("worker"), str(each), "mend it first")
            return None
        start = run or ((manifest or {}).get("scripts") or {}).get("start")
        if not start:
            where = f"{shown}/{MANIFEST_FILE}"
            container.error(
                "missing_key", "nothing says how it is started", f"add scripts.run, or scripts.start to {where}"
            )
            return None
        image = image_of(manifest) if manifest else None
        # As in iii, the container's key is the worker's name, whatever its manifest says.
        manifest = {"iii": "v1", **(manifest or {}), "name": key}
        manifest["scripts"] = {**(manifest.get("scripts") or {}), "start": start}
        draft = Draft(key, key, self._notes.file, line, container.path, folder, manifest, image)
        keep_secrets_out(draft, self._notes, shown)
        self._project.drafts.append(draft)
        return draft

    def _finish(
        self,
        draft: Draft,
        container: Section,
        before: str | None,
        working_dir: str | None,
        environment: dict[str, str],
        env_files: tuple[str, ...],
    ) -> None:
        scripts = draft.manifest["scripts"]
        if before is not None:
            before, hidden = without_secrets(before, draft.secrets)
            draft.secrets += [name for name in hidden if name not in draft.secrets]
            # In lines of its own: it may end in a comment.
            first = f"(\n{before}\n)" if "#" in before or "\n" in before else f"({before})"
            scripts["start"] = f"{first} && {_replacing_shell(scripts['start'])}"
        if working_dir is not None:
            self._working_dir(draft, container, working_dir)
        if self._namespace not in (None, "default"):
            draft.env["III_NAMESPACE"] = str(self._namespace)
        for name, value in environment.items():
            if is_secret(name, value):
                draft.secrets.append(name)
            else:
                draft.env[name] = value
        known = {*environment, *_RESERVED, *OWNED_ENV}
        for file in env_files:
            draft.env_files.append(file)
            names = self._names_in(file, container)
            draft.file_secrets += [name for name in names if name not in known and name not in draft.file_secrets]

    def _working_dir(self, draft: Draft, container: Section, working_dir: str) -> None:
        assert draft.folder is not None
        folder = self._root / working_dir
        if not within(folder, self._root):
            self._note(
                container,
                "working_dir",
                "a folder outside of the project is not carried over",
                "the worker is run in its own folder",
            )
            return
        relative = os.path.relpath(folder.resolve(), draft.folder)
        if relative != ".":
            start = _replacing_shell(draft.manifest["scripts"]["start"])
            draft.manifest["scripts"]["start"] = f"cd {shlex.quote(relative)} && {start}"

    def _environment(self, container: Section) -> dict[str, str]:
        section = container.section("environment")
        found: dict[str, str] = {}
        for name in section:
            node = section.take(name)
            if name in _RESERVED or not _ENV_NAME.fullmatch(name):
                section.error("unknown_key", "not a variable that can be set here", "choose another name", name)
            elif name in OWNED_ENV:
                self._note(section, name, "the platform sets this variable itself", "rename it in the worker")
            elif node is None or not isinstance(node.value, str):
                section.error("wrong_type", "not a text", "write it in quotes", name)
            else:
                found[name] = node.value
        return found

    def _names_in(self, file: str, container: Section) -> list[str]:
        """Return the variables of an env file. The values are not even kept: such files are there for secrets."""
        path = self._root / file
        text = None
        if within(path, self._root) and os.path.isfile(path):
            try:
                text = text_of(str(path))
            except Unreadable:
                text = None
        if text is None:
            what = "a file of variables is not in the project, or cannot be read"
            self._note(container, "env_file", what, "add its variables to spec.env")
            return []
        names = [found[1] for line in text.splitlines() if (found := _ENV_LINE.match(line))]
        if len(names) > _MAX_ENV_FILE_NAMES:
            what = f"of the file only {_MAX_ENV_FILE_NAMES} variables are carried over"
            self._note(container, "env_file", what, "add the others with spec.envFrom")
        return names[:_MAX_ENV_FILE_NAMES]

    def _timeout(self, section: Section, key: str) -> None:
        value = section.optional_text(key)
        if value is None:
            return
        if not _DURATION.fullmatch(value):
            section.error("wrong_type", "not a duration", "write a number with ms, s or m, such as 60s", key)
        elif value != _DEFAULT_TIMEOUT:
            self._note(section, key, "the time limit is not carried over", "agentos up and the operator have their own")

    def _dependencies(self, containers: dict[str, tuple[Section, tuple[str, ...]]]) -> None:
        for key, (container, wanted) in containers.items():
            for name in wanted:
                if name not in containers:
                    container.error(
                        "unknown_dependency", f"there is no container {name[:63]!r}", "correct it", "depends_on"
                    )
                elif name in self._left_out:
                    what = f"{name} is not imported, so nothing waits for it"
                    self._note(container, "depends_on", what, "add it to spec.dependencies when its Worker is there")
            if _depends_on_itself(key, {name: found for name, (_, found) in containers.items()}):
                container.error(
                    "dependency_cycle", "depends on itself in the end", "remove one of the links", "depends_on"
                )
        imported = {draft.key: draft for draft in self._project.drafts}
        for key, draft in imported.items():
            if wanted := [name for name in containers[key][1] if name in imported]:
                draft.dependencies = wanted

    def _note(self, section: Section, key: str, what: str, instead: str) -> None:
        self._notes.add(section.line_of(key), section.at(key), what, instead)


def _replacing_shell(script: str) -> str:
    """A simple command takes the place of the shell, so that SIGTERM reaches it."""
    return f"exec {script}" if is_simple_command(script) else script


def _depends_on_itself(key: str, links: dict[str, tuple[str, ...]]) -> bool:
    seen: set[str] = set()
    waiting = list(links[key])
    while waiting:
        name = waiting.pop()
        if name == key:
            return True
        if name not in seen:
            seen.add(name)
            waiting += links.get(name, ())
    return False
