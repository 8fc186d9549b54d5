"""The way into a realm: kubectl, with the rights of the kube context and no others."""

import collections
import contextlib
import json
import queue
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.plain import plain
from agentos.terminal import progress

ENGINE_POD = "agentos-engine-0"
CONSOLE_PORT = 3113
READY_TIMEOUT = 15.0
"""Seconds for kubectl to answer, or to have a port forwarded."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:([0-9]{1,5}) ->")
_UNREACHABLE = re.compile(
    r"unable to connect|was refused|no such host|i/o timeout|timed out|deadline exceeded|network is unreachable|"
    r"no route to host|TLS handshake timeout",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """How kubectl is called."""

    context: str | None
    kubeconfig: str | None

    def command(self, *arguments: str) -> list[str]:
        """Return a whole command line. Raises CommandError when there is no kubectl."""
        program = shutil.which("kubectl")
        if program is None:
            raise CommandError("--realm needs kubectl, which is not on the PATH", ExitCode.USAGE)
        flags = [f"--context={self.context}"] if self.context else []
        flags += [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig else []
        return [program, *flags, *arguments]

    def get(self, *arguments: str) -> Any:
        """Return what ``kubectl get`` finds, decoded. Raises CommandError with kubectl's own words."""
        command = self.command("get", *arguments, "-o", "json", f"--request-timeout={READY_TIMEOUT:.0f}s")
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=READY_TIMEOUT + 5)
        except subprocess.TimeoutExpired:
            raise CommandError("the cluster does not answer kubectl", ExitCode.UNREACHABLE) from None
        except OSError as error:
            raise CommandError(f"kubectl cannot be started: {error.strerror}", ExitCode.USAGE) from None
        if done.returncode != 0:
            raise failure(done.stderr.decode(errors="replace").splitlines())
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise CommandError("kubectl answered with something that is not JSON") from None


def failure(lines: list[str]) -> CommandError:
    """Return kubectl's complaint as an error of one line."""
    said = [line.strip() for line in lines if line.strip()]
    text = plain(said[-1]) if said else "it ended without a word"
    code = ExitCode.FAILED
    if "(NotFound)" in text:
        code = ExitCode.NOT_FOUND
    elif _UNREACHABLE.search(text):
        code = ExitCode.UNREACHABLE
    return CommandError(f"kubectl: {text}", code)


def namespace_of(kubectl: Kubectl, realm: str) -> str:
    """Return the namespace of a realm. Raises CommandError; for a realm that is not there it says which are."""
    if _NAME.fullmatch(realm) is None:
        raise CommandError(f"--realm: {plain(realm)[:80]!r} cannot be the name of a Realm", ExitCode.USAGE)
    try:
        found = kubectl.get("realms.agentos.dev", realm)
    except CommandError as error:
        if error.code is not ExitCode.NOT_FOUND:
            raise
        raise CommandError(f"there is no realm {realm}{_others(kubectl)}", ExitCode.NOT_FOUND) from None
    namespace = found.get("spec", {}).get("namespace") if isinstance(found, dict) else None
    if not isinstance(namespace, str) or _NAME.fullmatch(namespace) is None:
        raise CommandError(f"realm {realm} has no spec.namespace")
    return namespace


def _others(kubectl: Kubectl) -> str:
    try:
        items = kubectl.get("realms.agentos.dev")["items"]
        names = sorted(str(item["metadata"]["name"]) for item in items)
    except (CommandError, LookupError, TypeError):
        return ""
    return f"; there are: {plain(', '.join(names[:20]))}" if names else "; there is none on this cluster"


@contextlib.contextmanager
def console_forwarded(kubectl: Kubectl, realm: str) -> Iterator[str]:
    """Forward a free port to the console of a realm's engine and give its URL; it ends with the context."""
    with contextlib.ExitStack() as stack:
        with progress(f"reaching realm {realm}", after=1.0):
            namespace = namespace_of(kubectl, realm)
            command = kubectl.command(
                "port-forward",
                f"--namespace={namespace}",
                f"pod/{ENGINE_POD}",
                f":{CONSOLE_PORT}",
                "--address=127.0.0.1",
            )
            process = stack.enter_context(child(command))
            forward = PortForward(process, realm)
            port = forward.port()
        try:
            yield f"http://127.0.0.1:{port}"
        except CommandError as error:
            if error.code is ExitCode.UNREACHABLE and (reason := forward.complaint()):
                raise CommandError(f"the console of realm {realm} does not answer: {reason}", error.code) from None
            raise


@contextlib.contextmanager
def child(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start kubectl with pipes for what it says; it ends with the context, also when this process gets SIGTERM."""

    def terminated(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminated)
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise CommandError(f"kubectl cannot be started: {error.strerror}", ExitCode.USAGE) from None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        signal.signal(signal.SIGTERM, before)


class PortForward:
    """A running ``kubectl port-forward`` to the engine of a realm."""

    def __init__(self, process: subprocess.Popen[str], realm: str) -> None:
        self._realm = realm
        self._what = f"pod {ENGINE_POD} of realm {realm}"
        self._said: collections.deque[str] = collections.deque(maxlen=20)
        self._spoken = threading.Event()
        self._ports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        threading.Thread(target=self._read_ports, args=(process.stdout,), daemon=True).start()
        self._complaints = threading.Thread(target=self._read_complaints, args=(process.stderr,), daemon=True)
        self._complaints.start()

    def port(self) -> int:
        """Return the port here, once it is forwarded. Raises CommandError when it cannot be, or not in time."""
        try:
            port = self._ports.get(timeout=READY_TIMEOUT)
        except queue.Empty:
            raise CommandError(f"no way to {self._what} within {READY_TIMEOUT:.0f} s", ExitCode.UNREACHABLE) from None
        if port is None:
            self._complaints.join(5)
            error = failure(list(self._said))
            if error.code is ExitCode.NOT_FOUND:
                raise CommandError(
                    f"there is no {self._what}; see kubectl describe realm {self._realm}", ExitCode.UNREACHABLE
                )
            raise CommandError(f"no way to {self._what}: {error}", error.code)
        return port

    def complaint(self) -> str:
        """Return the last that kubectl complained of, in one line; it may say so a moment after the connection broke."""
        self._spoken.wait(1.0)
        return plain(self._said[-1].strip()) if self._said else ""

    def _read_ports(self, stream: IO[str]) -> None:
        for line in stream:  # to the end: a full pipe would stop kubectl, which tells of every connection
            if found := _FORWARDING.search(line):
                self._ports.put(int(found[1]))
        self._ports.put(None)

    def _read_complaints(self, stream: IO[str]) -> None:
        for line in stream:
            if line.strip():
                self._said.append(line)
                self._spoken.set()
