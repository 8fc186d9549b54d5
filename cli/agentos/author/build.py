"""Builds a worker's image with docker, podman or buildah: from the folder's Dockerfile, else from its manifest."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentos_contracts.effective import is_simple_command
from agentos_contracts.findings import shown
from agentos_contracts.manifest import MANIFEST_FILE, Manifest, read_manifest

from agentos.author import Tool
from agentos.errors import CommandError, ExitCode
from agentos.files import manifest_path
from agentos.validating import Report, validate_paths

OPTIONS_VARIABLE = "AGENTOS_BUILD_OPTIONS"
"""Environment variable with more options for the tool's build command, in the words of a shell."""

LINES_SHOWN = 40
"""Of the tool's output, when it fails."""

USER = "65532:65532"
"""Who runs a worker whose folder has no Dockerfile: a number, or Kubernetes could not know that it isn't root."""

_PROBES = {
    Tool.DOCKER: ("docker", "version", "--format", "{{.Server.Version}}"),
    Tool.PODMAN: ("podman", "info"),
    Tool.BUILDAH: ("buildah", "info"),
}
_PROBE_SECONDS = 20
_LINE_LENGTH = 4096
_REFERENCE = re.compile(
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)
_BUILD_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
# Beside hidden files, which may be secrets or history.
_LEFT_OUT = ("node_modules", "target", "__pycache__", "*.pem", "*.key")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder that an image can be built of: its manifest holds no errors."""

    folder: Path
    manifest: Manifest


def read_source(folder: Path) -> tuple[Source | None, Report]:
    """Read a worker's folder; return it, None when its manifest has errors, and what is to be said of the manifest.

    Raises CommandError when there is no such folder, or no manifest in it.
    """
    path = manifest_path(folder)
    report = validate_paths([str(path)])
    if report.unreadable:
        raise CommandError(f"cannot read {path}: {report.unreadable[0][1]}", ExitCode.USAGE)
    if report.exit_code:
        return None, report
    manifest, _ = read_manifest(path.read_text(encoding="utf-8-sig"))
    return Source(folder.absolute(), Manifest.model_validate(manifest)), report


def reference_of(manifest: Manifest, tag: str | None = None) -> str:
    """Return the reference of the image: ``tag``, else ``localhost/NAME:VERSION`` of the manifest (else ``:dev``).

    Raises CommandError for one that is no reference of an image.
    """
    # A tag takes no "+", which a version may have.
    version = (manifest.version or "dev").replace("+", "_")
    reference = tag or f"localhost/{manifest.name.lower()}:{version}"
    if not _REFERENCE.fullmatch(reference):
        message = (
            f"'{shown(reference)}' is not a reference of an image; give one with --tag, such as registry/name:1.0.0"
        )
        raise CommandError(message, ExitCode.USAGE)
    return reference


def find_tool(wanted: Tool | None = None) -> Tool:
    """Return the tool that is wanted, else the first that works here. Raises CommandError when it, or none, does."""
    faults: list[str] = []
    for tool in [wanted] if wanted else Tool:
        fault = _fault(tool)
        if fault is None:
            return tool
        faults.append(f"{tool}: {fault}")
    if wanted:
        raise CommandError(f"{wanted} does not work here: {faults[0].partition(': ')[2]}")
    raise CommandError(f"no tool that builds images works here ({'; '.join(faults)}); install or start one of them")


def options_for(tool: Tool, build_arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the options of the tool's build command.

    ``build_arguments`` are KEY=VALUE each, for the ARG lines of the Dockerfile. Raises CommandError for others, and for
    more options in the environment that cannot be read.
    """
    for argument in build_arguments:
        if not _BUILD_ARGUMENT.fullmatch(argument):
            raise CommandError(f"--build-arg is KEY=VALUE, got '{shown(argument)}'", ExitCode.USAGE)
    arguments = [f"--build-arg={argument}" for argument in build_arguments]
    return [*_default_options(tool, environ), *_more_options(environ), *arguments]


def build(source: Source, reference: str, tool: Tool, options: Sequence[str]) -> None:
    """Build the image. Raises CommandError when there is nothing to build it from, BuildFailed when the tool fails."""
    with _context(source) as (folder, file):
        command = [tool, "build", *options, f"--tag={reference}", f"--file={file}", str(folder)]
        code, last_lines = _run(command)
    if code != 0:
        raise BuildFailed(
            f"{tool} could not build {reference} (exit code {code}); above is what it said last", last_lines
        )


class BuildFailed(CommandError):
    """The tool failed; ``last_lines`` is the end of its output."""

    def __init__(self, message: str, last_lines: list[str]) -> None:
        super().__init__(message)
        self.last_lines = last_lines


def dockerfile(manifest: Manifest) -> str:
    """Return a Dockerfile for a folder that has none. Raises CommandError when the manifest does not say enough."""
    base = manifest.runtime.base_image if manifest.runtime else None
    scripts = manifest.scripts
    start = scripts.start if scripts else None
    for field, value in (("runtime.base_image", base), ("scripts.start", start)):
        if not value:
            raise CommandError(f"the folder has no Dockerfile, and its {MANIFEST_FILE} no {field}; write one of them")
    assert scripts is not None
    assert start is not None
    lines = [f"# Made by agentos build from {MANIFEST_FILE}.", f"FROM {base}", "USER 0:0", "WORKDIR /app"]
    if scripts.setup:
        lines.append(f"RUN {_shell(scripts.setup)}")
    lines.append("COPY . .")
    if scripts.install:
        lines.append(f"RUN {_shell(scripts.install)}")
    # The shell gives way to the worker, so that the signal to end reaches it.
    lines += [f"USER {USER}", f"CMD {_shell(f'exec {start}' if is_simple_command(start) else start)}"]
    return "\n".join(lines) + "\n"


def _shell(script: str) -> str:
    return json.dumps(["/bin/sh", "-c", script], ensure_ascii=False)


def _fault(tool: Tool) -> str | None:
    """Say in a few words why a tool cannot build images here; None when it can."""
    if shutil.which(tool) is None:
        return "not installed"
    try:
        done = subprocess.run(
            _PROBES[tool],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"does not answer within {_PROBE_SECONDS} s"
    except OSError as error:
        return f"cannot be started: {error.strerror or type(error).__name__}"
    if done.returncode == 0:
        return None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return shown(said[-1], 200) if said else f"ends with exit code {done.returncode}"


def _default_options(tool: Tool, environ: Mapping[str, str]) -> list[str]:
    options = ["--layers"] if tool is Tool.BUILDAH else []
    if tool is not Tool.DOCKER and "BUILDAH_ISOLATION" not in environ and _in_container(environ):
        # Within a container no further namespaces can be had, as a rule.
        options.append("--isolation=chroot")
    return options


def _in_container(environ: Mapping[str, str]) -> bool:
    files = ("/.dockerenv", "/run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in environ or "container" in environ or any(map(os.path.exists, files))


def _more_options(environ: Mapping[str, str]) -> list[str]:
    try:
        return shlex.split(environ.get(OPTIONS_VARIABLE, ""))
    except ValueError as error:
        message = f"{OPTIONS_VARIABLE} cannot be read as words of a shell: {error}"
        raise CommandError(message, ExitCode.USAGE) from None


@contextmanager
def _context(source: Source) -> Iterator[tuple[Path, Path]]:
    """Give the folder that is built, and the Dockerfile: the worker's own, else a copy of the folder, and one made."""
    own = source.folder / "Dockerfile"
    if own.is_file():
        yield source.folder, own
        return
    text = dockerfile(source.manifest)
    with tempfile.TemporaryDirectory(prefix="agentos-build-") as temporary:
        copy = Path(temporary) / "worker"
        try:
            shutil.copytree(source.folder, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", *_LEFT_OUT))
            for path in (copy, *copy.rglob("*")):
                if not path.is_symlink():  # others than the owner run it
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            if (source.folder / ".dockerignore").is_file():
                shutil.copyfile(source.folder / ".dockerignore", copy / ".dockerignore")
            (Path(temporary) / "Dockerfile").write_text(text, encoding="utf-8")
        except (OSError, shutil.Error) as error:
            raise CommandError(f"cannot copy {source.folder}: {shown(str(error), 200)}") from None
        yield copy, Path(temporary) / "Dockerfile"


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run the tool; return its exit code and the last lines of its output."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    with process:
        assert process.stdout is not None
        try:
            pieces = iter(lambda: process.stdout.readline(_LINE_LENGTH), "")  # type: ignore[union-attr]
            last_lines = deque((piece.rstrip("\n") for piece in pieces), maxlen=LINES_SHOWN)
        except BaseException:
            process.terminate()
            raise
    return process.returncode, list(last_lines)
