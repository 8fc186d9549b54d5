"""What must be on the machine: checked with clear messages, installed or built once, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import ClusterError, cache_folder, cache_lock, run
from tests.cluster.progress import Steps

KUBE_SOURCE = Path(__file__).parent / "kube"
PAUSE_SOURCE = Path(__file__).parent / "pause"
GO_MINIMUM = (1, 25)
HELM_VERSION = "v3.22.0"
KIND_VERSION = "v0.33.0"
BUILD_SECONDS = 3600  # a cold build of kube takes 6 minutes on 2 cores; slow machines and downloads get ten times that

# Debian package -> the programs (or files) that it brings and that are used here.
PACKAGES = {
    "buildah": ("buildah",),
    "conntrack": ("conntrack",),
    "containerd": ("containerd", "ctr"),
    "containernetworking-plugins": ("/usr/lib/cni/ptp", "/usr/lib/cni/host-local", "/usr/lib/cni/portmap"),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "mmdebstrap": ("mmdebstrap",),
    "nftables": ("nft",),
    "openssl": ("openssl",),
    "runc": ("runc",),
    "util-linux": ("nsenter", "unshare"),
}


@dataclass(frozen=True)
class Tools:
    """Paths of the programs that a cluster needs. `kube` is absent with kind, `kind` without Docker."""

    kubectl: Path
    helm: Path
    kube: Path | None = None
    kind: Path | None = None


def docker_answers() -> bool:
    """Is there a Docker engine that answers (a client alone is not enough)?"""
    if shutil.which("docker") is None:
        return False
    try:
        return run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False, timeout=20).returncode == 0
    except ClusterError:
        return False


def missing_packages(packages: Mapping[str, tuple[str, ...]] = PACKAGES) -> list[str]:
    """The Debian packages of which something is not there."""

    def there(thing: str) -> bool:
        return Path(thing).exists() if thing.startswith("/") else shutil.which(thing, path=_search_path()) is not None

    return [package for package, things in packages.items() if not all(there(thing) for thing in things)]


def check_go() -> None:
    """Raises ClusterError unless a Go tool chain of at least GO_MINIMUM is there."""
    wanted = ".".join(map(str, GO_MINIMUM))
    if shutil.which("go") is None:
        raise ClusterError(f"go: no such program. Install Go {wanted} or newer (https://go.dev/dl) and put it on PATH.")
    version = run(["go", "env", "GOVERSION"], cwd=PAUSE_SOURCE).stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < GO_MINIMUM:
        raise ClusterError(f"Go {wanted} or newer is needed, this machine has {version}. Install one from go.dev/dl.")


def check_bare_host() -> None:
    """Raises ClusterError unless the bare node can run here: Linux, root, a usable Go."""
    if sys.platform != "linux":
        raise ClusterError(
            "Without a Docker engine the test cluster needs Linux. Start Docker, or use a Linux machine."
        )
    if os.geteuid() != 0:
        raise ClusterError("Without a Docker engine the test cluster needs root. Start Docker, or run this as root.")
    check_go()


def install_packages(steps: Steps, packages: Mapping[str, tuple[str, ...]] = PACKAGES) -> None:
    """Install what is missing of some packages by apt-get. Raises ClusterError where there is no apt-get."""
    missing = missing_packages(packages)
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"Missing here, and there is no apt-get to install it: {', '.join(missing)} (Debian's package names). "
            "Install the programs by hand, or start a Docker engine."
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with steps(f"install {', '.join(missing)}"), cache_lock("apt"):
        run(["apt-get", "update", "-qq"], timeout=600, env=quiet)
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], timeout=1800, env=quiet)
    if still := missing_packages(packages):
        raise ClusterError(f"apt-get installed {', '.join(still)}, but the programs are not on PATH.")


def bare_tools(steps: Steps) -> Tools:
    """All that the bare node needs, installed or built when it isn't there yet."""
    check_bare_host()
    install_packages(steps)
    kube = built("kube", kube_key(), _build_kube, steps)
    return Tools(kubectl=kube.with_name("kubectl"), helm=helm(steps), kube=kube)


def kind_tools(steps: Steps) -> Tools:
    """All that a kind cluster needs, beside the Docker engine. kubectl comes from the module that kube is built from."""
    check_go()
    kind = built("kind", KIND_VERSION, _go_install(f"sigs.k8s.io/kind@{KIND_VERSION}"), steps)
    return Tools(kubectl=kubectl(steps), helm=helm(steps), kind=kind)


def kubectl(steps: Steps) -> Path:
    """kubectl by itself, for what needs no cluster: that of the backend which a cluster would have here."""
    check_go()
    if docker_answers():
        return built("kubectl", kube_key(), _build_kubectl, steps)
    return built("kube", kube_key(), _build_kube, steps).with_name("kubectl")


def helm(steps: Steps) -> Path:
    """The pinned helm."""
    return built("helm", HELM_VERSION, _go_install(f"helm.sh/helm/v3/cmd/helm@{HELM_VERSION}"), steps)


def pause(steps: Steps) -> Path:
    """The program of the pause image."""
    return built("pause", content_key(PAUSE_SOURCE / "main.go"), _build_pause, steps)


def kubernetes_version() -> str:
    """The version that kube/go.mod asks for, such as 1.35.4."""
    found = re.search(r"^\s*k8s\.io/kubernetes v(\S+)$", (KUBE_SOURCE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(f"{KUBE_SOURCE / 'go.mod'}: requires no k8s.io/kubernetes; run relock.sh beside it.")
    return found[1]


def kube_key() -> str:
    """What a build of kube depends on, as a short hash."""
    return content_key(*(KUBE_SOURCE / name for name in ("main.go", "go.mod", "go.sum")), extra=_ldflags())


def content_key(*paths: Path, extra: str = "") -> str:
    """A short hash of some files' contents and of `extra`."""
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        digest.update(b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def built(name: str, key: str, build: Callable[[Path], None], steps: Steps) -> Path:
    """The program `name` of version `key`, from the cache, or made there by `build(folder)`.

    Two runs don't build twice, and a build cut short leaves nothing that a later run would take for whole.
    """
    folder = cache_folder() / "bin" / f"{name}-{key}"
    program = folder / name
    if program.exists():
        return program
    with cache_lock(f"build-{name}"):
        if program.exists():
            return program
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f".{name}-*"):
            shutil.rmtree(leftover)
        with steps(f"build {name} (once; kept in {folder.parent})"):
            partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
            build(partial)
            partial.chmod(0o755)
            partial.rename(folder)
    return program


def _ldflags() -> str:
    version = kubernetes_version()
    major, minor, _ = version.split(".", 2)
    package = "k8s.io/component-base/version"
    return f"-s -w -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"


def _go(*arguments: str, cwd: Path | None = None, **env: str) -> None:
    run(["go", *arguments], cwd=cwd, timeout=BUILD_SECONDS, env={"CGO_ENABLED": "0", **env})


def _build_kube(folder: Path) -> None:
    _go("build", "-mod=readonly", "-trimpath", "-ldflags", _ldflags(), "-o", str(folder / "kube"), ".", cwd=KUBE_SOURCE)
    (folder / "kubectl").symlink_to("kube")  # the program looks at the name it was called by


def _build_kubectl(folder: Path) -> None:
    package = "k8s.io/kubernetes/cmd/kubectl"
    output = str(folder / "kubectl")
    _go("build", "-mod=readonly", "-trimpath", "-ldflags", _ldflags(), "-o", output, package, cwd=KUBE_SOURCE)


def _build_pause(folder: Path) -> None:
    output = str(folder / "pause")
    _go("build", "-trimpath", "-ldflags", "-s -w", "-o", output, str(PAUSE_SOURCE / "main.go"), cwd=PAUSE_SOURCE)


def _go_install(package: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        _go("install", "-trimpath", "-ldflags", "-s -w", package, cwd=folder, GOBIN=str(folder))

    return build


def _search_path() -> str:
    """PATH and the folders of system programs, which some shells leave out of root's PATH."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
