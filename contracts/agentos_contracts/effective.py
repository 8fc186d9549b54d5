"""What a worker really runs with: its spec, then the manifest, then the realm's defaults.

Each value is taken whole from the first of the three that says it; environment variables one by one. Pod templates are
merged, the realm's first and the Worker's over it.
"""

import shlex
from dataclasses import dataclass
from typing import Any

from agentos_contracts.manifest import DROPPED_ENV, Manifest
from agentos_contracts.semver import VersionError, parse_version
from agentos_contracts.worker import WorkerSpec
from agentos_contracts.worker_defaults import WorkerDefaults

_SHELL_WORDS = frozenset(
    {"!", "{", ".", ":", "[", "case", "cd", "command", "eval", "exec", "exit", "export", "for", "if", "set", "source"}
    | {"test", "time", "trap", "ulimit", "umask", "unset", "until", "wait", "while"}
)
"""First words after which ``exec`` would not do the same."""


@dataclass(frozen=True, slots=True)
class Effective:
    """The values in effect, in the form of a pod's container.

    ``name``: the worker's name on the engine. ``image``: None when nobody names one. ``command`` and ``args``: None
    for the image's own. ``env``: entries of ``env``; ``resources``: the container's ``resources`` (may be empty).
    ``image_pull_secrets``: entries of a pod's. ``templates``: partial pod templates, in the order in which they are merged.
    ``dependencies``: name to range.
    """

    name: str
    image: str | None
    command: list[str] | None
    args: list[str] | None
    env: list[dict[str, Any]]
    resources: dict[str, Any]
    image_pull_secrets: list[dict[str, Any]]
    templates: list[dict[str, Any]]
    version: str | None
    dependencies: dict[str, str]


_NO_DEFAULTS = WorkerDefaults.model_validate({})


def effective(spec: WorkerSpec, manifest: Manifest, defaults: WorkerDefaults = _NO_DEFAULTS) -> Effective:
    """Return what a worker runs with: from its spec, its manifest (inline or from the ConfigMap), its Realm's defaults."""
    image = effective_image(spec, manifest)
    command, args = effective_command(spec, manifest)
    dependencies = spec.dependencies if spec.dependencies is not None else manifest.dependencies
    return Effective(
        name=manifest.name,
        image=image,
        command=command,
        args=args,
        env=effective_env(spec, manifest, defaults),
        resources=effective_resources(spec, manifest, defaults),
        image_pull_secrets=effective_pull_secrets(spec, defaults),
        templates=[template for template in (defaults.template, spec.template) if template],
        version=spec.version or manifest.version or image_version(image),
        dependencies=dict(dependencies or {}),
    )


def effective_image(spec: WorkerSpec, manifest: Manifest) -> str | None:
    """Return the image: the spec's, else the manifest's base image, else None."""
    return spec.image or (manifest.runtime.base_image if manifest.runtime else None)


def effective_command(spec: WorkerSpec, manifest: Manifest) -> tuple[list[str] | None, list[str] | None]:
    """Return command and arguments of the container.

    The spec's command goes first; arguments alone go to the image's entrypoint, as in a pod. With neither, the
    manifest's start script runs in a shell.
    """
    if spec.command or spec.args:
        return spec.command or None, spec.args or None
    start = manifest.scripts.start if manifest.scripts else None
    if start:
        return ["/bin/sh", "-c", _literal(f"exec {start}" if is_simple_command(start) else start)], None
    return None, None


def is_simple_command(script: str) -> bool:
    """Whether a shell script is one program with its arguments, which the shell can replace itself by.

    A shell that stays as the container's first process does not hand SIGTERM on: the worker would be killed after the
    grace period, without a chance to finish its calls. A longer script has to end in an ``exec`` of its own.
    """
    try:
        words = list(shlex.shlex(script, posix=False, punctuation_chars=True))
    except ValueError:
        return False
    if not words or "\n" in script.strip() or any(set(word) <= set("();<>|&") for word in words):
        return False
    return words[0] not in _SHELL_WORDS and "=" not in words[0]


def effective_env(
    spec: WorkerSpec, manifest: Manifest, defaults: WorkerDefaults = _NO_DEFAULTS
) -> list[dict[str, Any]]:
    """Return the environment: the realm's, then the manifest's, then the spec's; of one name the last is taken.

    Without what the operator sets itself.
    """
    merged: dict[str, dict[str, Any]] = {}

    def put(variable: dict[str, Any]) -> None:
        merged.pop(variable["name"], None)
        merged[variable["name"]] = variable

    for variable in defaults.env or []:
        put(variable.model_dump(by_alias=True, exclude_none=True))
    for name, value in (manifest.env or {}).items():
        if name not in DROPPED_ENV:
            put({"name": name, "value": _literal(value)})
    for variable in spec.env or []:
        put(variable.model_dump(by_alias=True, exclude_none=True))
    return list(merged.values())


def effective_resources(
    spec: WorkerSpec, manifest: Manifest, defaults: WorkerDefaults = _NO_DEFAULTS
) -> dict[str, Any]:
    """Return the container's resources: the spec's, else the manifest's cores and MiB as limits, else the realm's."""
    if spec.resources is not None:
        return spec.resources.model_dump(by_alias=True, exclude_none=True)
    limits: dict[str, str] = {}
    if manifest.resources and manifest.resources.cpus is not None:
        limits["cpu"] = str(manifest.resources.cpus)
    if manifest.resources and manifest.resources.memory is not None:
        limits["memory"] = f"{manifest.resources.memory}Mi"
    if limits:
        return {"limits": limits}
    return defaults.resources.model_dump(by_alias=True, exclude_none=True) if defaults.resources else {}


def effective_pull_secrets(spec: WorkerSpec, defaults: WorkerDefaults = _NO_DEFAULTS) -> list[dict[str, Any]]:
    """Return the Secrets with which the image is pulled: the spec's, also when there are none in it, else the realm's."""
    given = spec.image_pull_secrets if spec.image_pull_secrets is not None else defaults.image_pull_secrets
    return [secret.model_dump(by_alias=True, exclude_none=True) for secret in given or []]


def image_version(image: str | None) -> str | None:
    """Return the tag of an image when it is a semantic version (a leading ``v`` is left out), else None."""
    if image is None:
        return None
    _, separator, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    try:
        return str(parse_version(tag.removeprefix("v"))) if separator else None
    except VersionError:
        return None


def _literal(text: str) -> str:
    """Double each ``$``: in a pod ``$(NAME)`` and ``$$`` are replaced before a shell sees them."""
    return text.replace("$", "$$")
