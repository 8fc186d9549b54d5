"""Steps: what a person reads while a long task runs."""

import io
import threading

import pytest

from tests.cluster.progress import Steps


def test_a_step_says_when_it_starts_and_how_long_it_took() -> None:
    stream = io.StringIO()
    steps = Steps(stream)
    with steps("build kube"):
        pass
    assert stream.getvalue() == "▸ build kube\n✓ build kube (0.0 s)\n"


def test_a_long_step_gives_a_heartbeat_with_the_elapsed_seconds() -> None:
    beaten = threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if "so far" in text:
                beaten.set()
            return super().write(text)

    stream = Stream()
    with Steps(stream, heartbeat_seconds=0.01)("wait for the node"):
        assert beaten.wait(10)
    assert "… wait for the node: 0 s so far\n" in stream.getvalue()


def test_only_the_innermost_of_nested_steps_gives_heartbeats() -> None:
    seen = threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if "… inner" in text:
                seen.set()
            return super().write(text)

    stream = Stream()
    steps = Steps(stream, heartbeat_seconds=0.01)
    with steps("outer"), steps("inner"):
        assert seen.wait(10)
        assert "… outer" not in stream.getvalue().split("▸ inner")[1]


def test_a_failed_step_is_marked_and_its_exception_passes_on() -> None:
    stream = io.StringIO()
    steps = Steps(stream)
    with pytest.raises(RuntimeError, match="broken"), steps("fail"):
        raise RuntimeError("broken")
    assert "✗ fail" in stream.getvalue()
    assert steps.steps[0].failed


def test_the_table_lists_every_step_and_totals_the_outermost() -> None:
    stream = io.StringIO()
    steps = Steps(stream)
    with steps("outer"), steps("inner"):
        pass
    steps.steps[0].seconds, steps.steps[1].seconds = 3.0, 2.0
    steps.table()
    lines = stream.getvalue().splitlines()[-4:]
    assert [line.split() for line in lines] == [
        ["step", "seconds"],
        ["outer", "3.0"],
        ["inner", "2.0"],
        ["total", "3.0"],
    ]
