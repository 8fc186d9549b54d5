"""Every command of docs/backup.md, run as it stands; a stand-in for kubectl runs what is meant for the pod here."""

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.cluster.command import PROJECT_ROOT
from tests.docs.console_blocks import fits, steps_of
from tests.durability.disk import build
from tests.durability.engine import Process

PAGE = PROJECT_ROOT / "docs" / "backup.md"
KUBECTL = f"""#!{sys.executable}
import os, sys
words = sys.argv[1:]
if words[:2] == ["delete", "pod"]:
    print(f'pod "{{words[-1]}}" deleted')
else:
    assert words[0] == "exec", words
    command = words[words.index("--") + 1:]
    os.execvp(command[0], [os.environ["VOLUME"] if each == "/data" else each for each in command])
"""


async def test_the_commands_of_the_page_do_what_it_says(tmp_path):
    engine = Process(tmp_path, build(tmp_path))
    await engine.start()
    client = await engine.connect()
    await client.call("state::set", {"scope": "s", "key": "k", "value": "saved"})
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    path = os.pathsep.join((str(kubectl.parent), str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "VOLUME": str(engine.data)}
    try:
        for step in steps_of(PAGE):
            if "restore" in step.command and "kubectl" in step.command:
                await client.call("state::set", {"scope": "s", "key": "k", "value": "written since"})
            done = await asyncio.to_thread(
                subprocess.run,
                ["bash", "-c", step.command],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
            assert (done.returncode, fits(step.output, done.stdout)) == (step.code, True), (step, done.stdout)
        await client.close()
        await engine.kill()
        await engine.start()
        client = await engine.connect()
        assert await client.call("state::get", {"scope": "s", "key": "k"}) == "saved"
        await client.close()
        assert stat.S_IMODE((tmp_path / "monday.backup").stat().st_mode) == 0o600
    finally:
        await engine.kill()
