"""Ports when the process can have no more descriptors."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

FREE = ("--port=0", "--http-port=0", "--stream-port=0", "--admin-port=0")


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))


@pytest.mark.parametrize("name", ["port", "http_port"])
def test_out_of_descriptors_a_port_rests_without_a_flood_and_goes_on_when_there_are_some(name):
    process = subprocess.Popen(
        [sys.executable, "-m", "agentos_engine", *FREE],
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"]},
        preexec_fn=few_descriptors,
    )
    lines = []
    try:
        ports = next(fields for fields in map(json.loads, process.stderr) if fields["message"] == "listening")
        reader = threading.Thread(target=lambda: lines.extend(process.stderr))
        reader.start()
        descriptors = Path(f"/proc/{process.pid}/fd")
        sockets = [socket.create_connection(("127.0.0.1", ports[name])) for _ in range(120)]
        deadline = time.monotonic() + 10
        while len(list(descriptors.iterdir())) < 78 and time.monotonic() < deadline:
            time.sleep(0.02)

        def ticks():
            return sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))

        before = ticks()
        time.sleep(1)  # nothing is waited for: what must not happen needs time to
        assert (ticks() - before) / os.sysconf("SC_CLK_TCK") < 0.5
        assert len(lines) < 20
        for each in sockets:
            each.close()
        answer = b""
        while not answer and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", ports[name]), 3) as client:
                    client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                    answer = client.recv(100)
            except OSError:
                continue
        assert answer.startswith(b"HTTP/1.1 4")
    finally:
        process.terminate()
        assert process.wait(15) == 0
        reader.join()
