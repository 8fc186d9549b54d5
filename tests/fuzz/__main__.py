"""Fuzz one target in a process of its own, bounded in time and memory; see ``--help``.

Ends with 0 when nothing was found, with 1 after it has printed the input that was, as a line for the corpus.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import MAX_SIZE, TARGETS

FOLDER = Path(__file__).parent
MEMORY_MIB = 1024
INPUT_SECONDS = 10
"""For one input."""
GRACE = 60
"""Seconds beyond the time asked for: to load the corpus, and to write a crash down."""


def fuzz(target: str, seconds: int, seed: int) -> bytes | None:
    """Return an input that the target fails for, None when there is none; prints what the fuzzer says about it.

    Raises RuntimeError when the fuzzer itself did not work.
    """
    with tempfile.TemporaryDirectory() as scratch:
        new, crash = Path(scratch, "new"), Path(scratch, "crash")
        new.mkdir()
        command = [
            *(sys.executable, "-m", "tests.fuzz.instrumented", target),
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-timeout={INPUT_SECONDS}",
            f"-max_len={MAX_SIZE}",
            f"-exact_artifact_path={crash}",
            "-print_final_stats=1",
        ]
        words = FOLDER / "words" / f"{target}.dict"
        if words.exists():
            command.append(f"-dict={words}")
        command += [str(new), str(FOLDER / "corpus" / target)]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            command,
            cwd=FOLDER.parent.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + INPUT_SECONDS + GRACE,
            check=False,
        )
        lines = done.stdout.splitlines()
        if done.returncode == 0:
            print("\n".join(line for line in lines if line.startswith("stat::number_of_executed")))
            return None
        print("\n".join(lines[-60:]))
        if not crash.exists():
            raise RuntimeError(f"the fuzzer ended with {done.returncode} and left no input")
        return crash.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the same seed tries the same inputs first")
    wanted = parser.parse_args()
    found = fuzz(wanted.target, wanted.seconds, wanted.seed)
    if found is None:
        return 0
    print(f"\nKeep it as a test: save these bytes as tests/fuzz/corpus/{wanted.target}/<what it is about>")
    program = f"from tests.fuzz.targets import TARGETS; TARGETS[{wanted.target!r}]({found!r})"
    print(f"Try it once more: python -c {shlex.quote(program)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
