"""Run with `agentos test .`: the worker runs, and `bus` is a client of its engine, whose clock only the test moves."""

import pytest


def test_greets_by_name(bus):
    assert bus.call("my-worker::greet", {"name": "Ada"}) == {"message": "Hello, Ada!"}


def test_refuses_a_greeting_without_a_name(bus):
    with pytest.raises(Exception, match="name: Field required"):
        bus.call("my-worker::greet", {})


def test_counts_the_minutes(bus):
    before = bus.call("my-worker::total")["minutes"]
    bus.advance(180)
    assert bus.call("my-worker::total") == {"minutes": before + 3}
