"""Every known input goes through its target on each run; the fuzzer looks for new ones when there is time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SECONDS = int(os.environ.get("AGENTOS_FUZZ_SECONDS", "120"))
MAX_CORPUS = 100 << 10


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_goes_through(target):
    files = sorted((CORPUS / target).iterdir())
    assert len(files) >= 3
    for file in files:
        data = file.read_bytes()
        for cut in {len(data), len(data) // 2}:  # half an input is one too
            TARGETS[target](data[:cut])


def test_the_corpus_is_small_and_has_a_folder_for_each_target():
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) < MAX_CORPUS


@pytest.mark.parametrize(
    ("target", "wrong"),
    [("bus", "agentos_engine.bus.registry.Registry.add"), ("http", "tests.fuzz.targets.request_segments")],
)
def test_a_target_notices_what_the_engine_does_wrong(monkeypatch, target, wrong):
    def fails(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(wrong, fails)
    inputs = [file.read_bytes() for file in sorted((CORPUS / target).iterdir())]
    with pytest.raises(RuntimeError, match="a bug"):
        TARGETS[target](inputs[0])


def test_an_unknown_target_is_refused_with_the_names_of_all():
    command = [sys.executable, "-m", "tests.fuzz", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CORPUS.parents[2], check=False, timeout=60)
    assert done.returncode == 2
    assert all(name in done.stderr for name in TARGETS)


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 200)
@pytest.mark.parametrize("target", TARGETS)
def test_the_fuzzer_finds_nothing(target):
    found = fuzz(target, SECONDS, seed=1)
    assert found is None, f"tests.fuzz.targets.TARGETS[{target!r}]({found!r})"
