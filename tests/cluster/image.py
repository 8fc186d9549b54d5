"""Container images without a registry: the base image, the pause image, and the project's own from its Dockerfile.

Where a Docker engine answers it builds the project's image; elsewhere buildah does, from the very same Dockerfile, over a
base image made here of Debian packages. Finished images are kept in the cache as docker-archives, by a hash of what went
into them, so that an unchanged tree builds nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster import tools
from tests.cluster.command import PROJECT_ROOT, ClusterError, cache_folder, cache_lock, replace_file, run
from tests.cluster.config import PAUSE_IMAGE
from tests.cluster.progress import Steps

MEMBERS = ("contracts", "engine", "operator", "workers", "cli")
BASE_IMAGE = "localhost/python:3.13-slim"  # what the Dockerfile's FROM finds first
BASE_SUITE = "trixie"  # the Debian release whose python3 is 3.13
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
NODE_IMAGE = "localhost/node:slim"  # for a worker's Dockerfile, where node:22-slim cannot be pulled
NODE_PACKAGES = ("nodejs", "npm", "ca-certificates")
# What a slim image has no use for: documentation and translations.
BASE_LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
)
ARCHIVES_KEPT = 3
BUILD_SECONDS = 1800
_BUILDAH = {"BUILDAH_ISOLATION": "chroot"}  # within a container no further namespaces can be had


def project_image() -> str:
    """The reference of the project's image, such as localhost/agentos:0.1.0."""
    pyproject = tomllib.loads((PROJECT_ROOT / "operator" / "pyproject.toml").read_text())
    return f"localhost/agentos:{pyproject['project']['version']}"


def build_image(steps: Steps | None = None) -> str:
    """Build the project's image, unless this very tree was built before. Returns its reference."""
    steps = steps or Steps()
    if tools.docker_answers():
        with steps("build the project's image"):
            ref = project_image()
            run(
                ["docker", "build", "--build-arg", f"VERSION={_tag(ref)}", "-t", ref, PROJECT_ROOT],
                timeout=BUILD_SECONDS,
            )
        return ref
    tools.check_bare_host()
    tools.install_packages(steps)
    ref = project_image()
    while True:
        key = project_key(PROJECT_ROOT)
        archive = _archived(ref, key, "the project's image", steps, lambda log: _bud(ref, steps, log))
        if project_key(PROJECT_ROOT) == key:
            return ref
        archive.unlink()  # a file changed during the build: what was built isn't surely what this hash stands for


def pause_archive(steps: Steps) -> Path:
    """The archive of the image that holds a pod's namespaces."""
    program = tools.pause(steps)
    return _archived(PAUSE_IMAGE, program.parent.name, "the pause image", steps, lambda log: _build_pause(program))


def base_archive(steps: Steps) -> Path:
    """The archive of the base image: a real Python, small; handy as a client in tests."""
    return _archived(BASE_IMAGE, base_key(), "the base image", steps, _build_base)


def node_image(steps: Steps | None = None) -> str:
    """The reference of an image with Node and npm, which `agentos build` finds in `build_environment`."""
    if tools.docker_answers():
        return "node:22-slim"
    key = hashlib.sha256(repr((BASE_SUITE, NODE_PACKAGES, BASE_LEFT_OUT)).encode()).hexdigest()[:16]
    archive = _archived(
        NODE_IMAGE, key, "the Node image", steps or Steps(),
        lambda log: _build_debian(NODE_IMAGE, NODE_PACKAGES, "node", log),
    )  # fmt: skip
    _pull(NODE_IMAGE, archive)
    return NODE_IMAGE


def build_environment() -> dict[str, str]:
    """The variables with which `agentos build` finds the images that were built here, and puts its own beside them."""
    if tools.docker_answers():
        return {}
    settings = cache_folder() / "buildah" / "storage.conf"
    root, runroot = _storage()
    driver = json.loads(_buildah("info"))["store"]["GraphDriverName"]
    replace_file(settings, f'[storage]\ndriver = "{driver}"\ngraphroot = "{root}"\nrunroot = "{runroot}"\n')
    options = ["--pull-never", "--network", "host", *_pip_volumes()]
    return {"CONTAINERS_STORAGE_CONF": str(settings), "AGENTOS_BUILD_OPTIONS": shlex.join(options), **_BUILDAH}


def export(ref: str, archive: Path) -> None:
    """Write an image that `agentos build` made as a docker-archive, and forget it. Not for a host with Docker."""
    _buildah("push", "--quiet", ref, f"docker-archive:{archive}:{ref}")
    _buildah("rmi", ref)


def archive_of(ref: str) -> Path:
    """The archive that was last built for this reference. Raises ClusterError when there is none."""
    archive = _current(ref)
    if not archive.exists():
        raise ClusterError(f"{ref}: no such image in {archive.parent}; build it with `python -m tests.cluster image`.")
    return archive.resolve()


def project_key(root: Path) -> str:
    """A short hash of all that goes into the project's image: names and contents."""
    digest = hashlib.sha256(base_key().encode())
    for path in sorted(project_inputs(root)):
        contents = hashlib.sha256(path.read_bytes()).digest()
        digest.update(b"\0" + str(path.relative_to(root)).encode() + b"\0" + contents)
    return digest.hexdigest()[:16]


def project_inputs(root: Path) -> Iterator[Path]:
    """The files that .dockerignore lets through, and the two that steer the build."""
    yield from (root / name for name in ("Dockerfile", ".dockerignore", "requirements.lock", "requirements-dev.lock"))
    for member in MEMBERS:
        for folder, folders, files in os.walk(root / member):
            left_out = ("tests", "__pycache__") if Path(folder) == root / member else ("__pycache__",)
            folders[:] = [name for name in folders if name not in left_out]
            yield from (Path(folder) / name for name in files)


def base_key() -> str:
    """A short hash of the base image's recipe."""
    return hashlib.sha256(repr((BASE_SUITE, BASE_PACKAGES, BASE_LEFT_OUT)).encode()).hexdigest()[:16]


def _archived(ref: str, key: str, what: str, steps: Steps, build: Callable[[Path], None]) -> Path:
    """The archive of `ref` with this key, built by `build(log file)` and saved if it isn't there."""
    current = _current(ref)
    archive = current.with_name(f"{current.name}-{key}.tar")
    with cache_lock(f"image-{current.name}"):
        if not archive.exists():
            current.parent.mkdir(parents=True, exist_ok=True)
            with steps(f"build {what}"):
                log = current.with_name(f"{current.name}.log")
                log.unlink(missing_ok=True)
                build(log)
                partial = archive.with_name(f".{archive.name}")
                partial.unlink(missing_ok=True)
                _buildah("push", "--quiet", ref, f"docker-archive:{partial}:{ref}")
                partial.rename(archive)
        archive.touch()
        link = current.with_name(f".{current.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(archive.name)
        link.replace(current)
        kept = sorted(current.parent.glob(f"{current.name}-*.tar"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-ARCHIVES_KEPT]:
            old.unlink()
    return archive


def _current(ref: str) -> Path:
    """A link to the archive that was last built for this reference."""
    return cache_folder() / "images" / ref.replace("/", "_").replace(":", "_")


def _bud(ref: str, steps: Steps, log: Path) -> None:
    base = base_archive(steps)
    _drop_stale_layers()
    _pull(BASE_IMAGE, base)
    options = ["--pull-never", "--layers", "--isolation", "chroot", "--network", "host", "--format", "docker"]
    arguments = ["--build-arg", f"VERSION={_tag(ref)}", "--tag", ref]
    _buildah("bud", *options, *_pip_volumes(), *arguments, str(PROJECT_ROOT), log=log)


def _pull(ref: str, archive: Path) -> None:
    """Have an image in the storage."""
    if not _buildah("images", "--quiet", "--filter", f"reference={ref}").strip():
        _buildah("pull", "--quiet", f"docker-archive:{archive}")


def _drop_stale_layers() -> None:
    """Forget the layers of earlier builds once none of the large ones can be used again."""
    key = tools.content_key(PROJECT_ROOT / "Dockerfile", PROJECT_ROOT / "requirements.lock", extra=base_key())
    marker = cache_folder() / "buildah" / "layers-key"
    if not marker.exists() or marker.read_text() != key:
        _buildah("rm", "--all")  # a build that was killed leaves its containers, which hold layers
        _buildah("rmi", "--prune")
        marker.write_text(key)


def _build_base(log: Path) -> None:
    _build_debian(BASE_IMAGE, BASE_PACKAGES, "python3", log)


def _build_debian(ref: str, packages: tuple[str, ...], command: str, log: Path) -> None:
    """Make a slim image of Debian packages that runs a command unless told otherwise."""
    work = cache_folder() / "images" / f".{command}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    archive = work / "base.tar"
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in BASE_LEFT_OUT]
    included = f"--include={','.join(packages)}"
    run(
        ["mmdebstrap", "--variant=minbase", *excluded, included, BASE_SUITE, archive],
        timeout=BUILD_SECONDS,
        env={"TMPDIR": str(work)},
        log=log,
    )
    _from_scratch(ref, [["add", "{}", str(archive), "/"], ["config", "--cmd", command, "{}"]])
    shutil.rmtree(work)


def _build_pause(program: Path) -> None:
    config = ["config", "--entrypoint", '["/pause"]', "--user", "65535:65535", "{}"]
    _from_scratch(PAUSE_IMAGE, [["copy", "{}", str(program), "/pause"], config])


def _from_scratch(ref: str, commands: list[list[str]]) -> None:
    """Commit an image made of nothing but these buildah commands, in which {} stands for the container."""
    container = _buildah("from", "scratch").strip()
    try:
        for command in commands:
            _buildah(*(container if word == "{}" else word for word in command))
        _buildah("commit", "--quiet", "--format", "docker", container, ref)
    finally:
        _buildah("rm", container)


def _pip_volumes() -> list[str]:
    """This machine's pip settings and certificates, read-only for the time of the build, where it has its own."""
    bundles = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    own_certificates = any(os.environ.get(name) for name in bundles) or any(
        Path("/usr/local/share/ca-certificates").glob("*")
    )
    volumes = []
    if own_certificates and Path("/etc/ssl/certs").is_dir():
        volumes += ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    if Path("/etc/pip.conf").is_file():
        volumes += ["--volume", "/etc/pip.conf:/etc/pip.conf:ro"]
    return volumes


def _buildah(*arguments: str, log: Path | None = None) -> str:
    """Run buildah on storage of our own in the cache. Returns what it printed."""
    root, runroot = _storage()
    folder = root.parent / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--root", root, "--runroot", runroot]
    env = {"TMPDIR": str(folder), **_BUILDAH}
    return run(["buildah", *where, *arguments], timeout=BUILD_SECONDS, env=env, log=log).stdout


def _storage() -> tuple[Path, Path]:
    """buildah's images, and what it knows of those in use."""
    return cache_folder() / "buildah" / "storage", cache_folder() / "buildah" / "run"


def _tag(ref: str) -> str:
    return ref.rpartition(":")[2]
