"""The first process of a bare node: sets up its private view of the machine, starts the components, keeps them running.

Run by node.py as process 1 of new mount, network and PID namespaces: `python3 supervisor.py STATE`. When it ends, the
kernel ends every process of the node with it, and with the last of them go the node's mounts and network. Reads
STATE/supervisor.json: {"keep": [folders], "pinned_sysctls": {path: value}, "processes": [{name, argv, needs_api}]}.

Imports nothing of this project: it must be able to run by itself.
"""

import ctypes
import fcntl
import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MS_REC, MS_BIND, MS_SHARED = 0x4000, 0x1000, 0x100000
START_SECONDS = 60  # for `up` to finish the network; if it was killed, the node ends by itself
RESTART_SECONDS = 1.0
POLL_SECONDS = 0.05
VOLUMES = Path("/tmp/hostpath_pv")  # where the controller manager's hostPath provisioner makes its folders
WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGIO}
READY_URL = "https://127.0.0.1:6443/readyz"


def mount(source: str, target: str, kind: str = "none", flags: int = 0) -> None:
    """The system call: mount(8) would resolve /proc/self/fd paths, which must stay as they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def private_view(state: Path, keep: list[str], pinned_sysctls: dict[str, str]) -> None:
    """Give the node its own /var, /tmp and /run, so that nothing it writes there stays on the machine.

    Some paths there cannot be configured (kubelet's device plugin socket, containerd's shim sockets, CNI's cache, the
    hostPath provisioner's /tmp). `keep` are folders that must stay visible. A pinned sysctl is one that kubelet wants
    to set for the whole machine: it reads the wanted value from a file of ours instead, and leaves the machine's alone.
    """
    kept = [(folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY)) for folder in keep]
    for name in ("var", "tmp"):
        (state / name).mkdir(exist_ok=True)
    (state / "tmp").chmod(0o1777)
    for name in ("log", "lib", "tmp"):
        (state / "var" / name).mkdir(exist_ok=True)
    (state / "var" / "run").symlink_to("../run")
    (state / "sysctls").mkdir()
    for number, (path, value) in enumerate(pinned_sysctls.items()):
        if Path(path).exists():
            pinned = state / "sysctls" / str(number)
            pinned.write_text(value + "\n")
            mount(str(pinned), path, flags=MS_BIND)
    mount(str(state / "var"), "/var", flags=MS_BIND)
    mount(str(state / "tmp"), "/tmp", flags=MS_BIND)
    mount("tmpfs", "/run", "tmpfs")
    os.mkdir("/run/netns")
    for folder, descriptor in kept:
        # Hidden by one of the mounts above: show it again, by the descriptor that was opened before.
        if not os.path.exists(folder) or not os.path.samestat(os.stat(folder), os.fstat(descriptor)):
            os.makedirs(folder, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", folder, flags=MS_BIND | MS_REC)
        os.close(descriptor)
    mount("none", "/", flags=MS_REC | MS_SHARED)  # kubelet's bidirectional mount propagation


def api_is_ready() -> bool:
    """Does the apiserver say that it is ready? Its certificate isn't checked: it is the only one in this namespace."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(READY_URL, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def watch_volumes() -> None:
    """Have the kernel send SIGIO for each new folder of VOLUMES."""
    VOLUMES.mkdir()
    descriptor = os.open(VOLUMES, os.O_RDONLY | os.O_DIRECTORY)  # stays open for as long as it is watched
    fcntl.fcntl(descriptor, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MULTISHOT)


def open_volumes() -> None:
    """Let any user write into the volumes, as kind's provisioner does: this one makes them for root alone."""
    for volume in VOLUMES.iterdir():
        if volume.stat().st_mode & 0o777 != 0o777:
            volume.chmod(0o777)


class Supervisor:
    """Starts processes, those that need the apiserver after it is ready, and starts again any that ends."""

    def __init__(self, state: Path, processes: list[dict]) -> None:
        self.state = state
        self.due = {process["name"]: 0.0 for process in processes}
        self.specs = {process["name"]: process for process in processes}
        self.running: dict[int, str] = {}
        self.api_ready = False

    def start_due(self) -> None:
        """Start all that are due."""
        waiting_for_api = any(self.specs[name]["needs_api"] for name in self.due)
        if not self.api_ready and waiting_for_api:
            self.api_ready = api_is_ready()
        for name, when in list(self.due.items()):
            if when <= time.monotonic() and (self.api_ready or not self.specs[name]["needs_api"]):
                del self.due[name]
                self.running[self.start(name)] = name

    def start(self, name: str) -> int:
        """Start one, its output appended to STATE/log/NAME.log."""
        argv = self.specs[name]["argv"]
        log = str(self.state / "log" / f"{name}.log")
        return os.posix_spawnp(
            argv[0],
            argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
        )

    def reap(self) -> None:
        """Collect every ended process: own ones, which become due again, and orphans of the node."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if name := self.running.pop(pid, None):
                print(f"{name} ended with {os.waitstatus_to_exitcode(status)}; starting it again", flush=True)
                self.due[name] = time.monotonic() + RESTART_SECONDS

    def run(self) -> None:
        """Until SIGTERM."""
        while True:
            self.start_due()
            waited = signal.sigtimedwait(WATCHED, POLL_SECONDS if self.due else 60.0)
            if waited and waited.si_signo == signal.SIGTERM:
                return
            open_volumes()
            self.reap()


def main(state: Path) -> int:
    """Returns the process's exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    settings = json.loads((state / "supervisor.json").read_text())
    private_view(state, settings["keep"], settings["pinned_sysctls"])
    deadline = time.monotonic() + START_SECONDS
    while not (state / "start").exists():
        if time.monotonic() > deadline or not (state / "supervisor.json").exists():
            print("the network never came; ending", flush=True)
            return 1
        time.sleep(0.02)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    watch_volumes()
    Supervisor(state, settings["processes"]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
