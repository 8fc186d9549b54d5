"""Alerts on what the engine counts."""

import logging
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from operator import eq, ge, gt, itemgetter, le, lt, ne
from typing import Any

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.clock import Handle
from agentos_engine.observability.call_metrics import CallMetrics, Counters
from agentos_engine.observability.config import OPERATORS, AlertRule
from agentos_engine.observability.exporter import PostJson, post

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two evaluations, and between two remembered counts."""
WEBHOOK_TIMEOUT = 5.0

_COMPARE = {">": gt, ">=": ge, "<": lt, "<=": le, "==": eq, "!=": ne}
_ACTIVE = "iii.workers.active"


@dataclass(slots=True)
class _State:
    rule: AlertRule
    firing: bool = False
    value: float = 0.0
    evaluated_at: float | None = None
    """Seconds since 1970, as the next one."""
    triggered_at: float | None = None
    last_error: str | None = None
    triggered_monotonic: float = field(default=float("-inf"))


class Alerts:
    """Evaluates rules every few seconds, and when asked to.

    A count is taken over the rule's window, up to now, or since the start when that is later.
    """

    def __init__(
        self, bus: Bus, metrics: CallMetrics, rules: tuple[AlertRule, ...], post_json: PostJson | None
    ) -> None:
        self._bus = bus
        self._metrics = metrics
        self._post = post_json
        self._states = [_State(rule) for rule in rules]
        self._longest = max((rule.window_seconds for rule in rules), default=0.0)
        self._history: deque[tuple[float, Counters]] = deque()
        """Counts with the monotonic time, oldest first; the first one is at least the longest window old."""
        self._tick: Handle | None = None

    @property
    def firing(self) -> int:
        """Return how many alerts fire."""
        return sum(state.firing for state in self._states)

    def start(self) -> None:
        """Begin to count and to evaluate."""
        if self._states:
            self._history.append((self._bus.clock.monotonic(), self._metrics.counters()))
            self._tick = self._bus.clock.call_later(INTERVAL, self._on_tick)

    def stop(self) -> None:
        """Evaluate no longer."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def evaluate(self) -> list[dict[str, Any]]:
        """Evaluate all rules now, carry out the actions of those that are due, and return these alerts."""
        now, counters = self._bus.clock.monotonic(), self._metrics.counters()
        return [alert for state in self._states if (alert := self._evaluate(state, now, counters)) is not None]

    def states(self) -> list[dict[str, Any]]:
        """Return the state of each rule; times are milliseconds since 1970."""
        return [
            {
                "name": state.rule.name,
                "metric": state.rule.metric,
                "value": state.value,
                "threshold": state.rule.threshold,
                "operator": OPERATORS[state.rule.operator],
                "enabled": state.rule.enabled,
                "firing": state.firing,
                "last_evaluated": _milliseconds(state.evaluated_at),
                "last_triggered": _milliseconds(state.triggered_at),
                "last_error": state.last_error,
            }
            for state in self._states
        ]

    def rules(self) -> list[AlertRule]:
        """Return the rules."""
        return [state.rule for state in self._states]

    def _on_tick(self) -> None:
        self._tick = self._bus.clock.call_later(INTERVAL, self._on_tick)
        self.evaluate()
        now = self._bus.clock.monotonic()
        self._history.append((now, self._metrics.counters()))
        while len(self._history) > 1 and self._history[1][0] <= now - self._longest:
            self._history.popleft()

    def _evaluate(self, state: _State, now: float, counters: Counters) -> dict[str, Any] | None:
        rule = state.rule
        if not rule.enabled:
            return None
        state.value = self._value(rule, now, counters)
        state.evaluated_at = self._bus.clock.time()
        state.firing = bool(_COMPARE[OPERATORS[rule.operator]](state.value, rule.threshold))
        if not state.firing or now - state.triggered_monotonic < rule.cooldown_seconds:
            return None
        state.triggered_monotonic, state.triggered_at = now, state.evaluated_at
        alert = {
            "name": rule.name,
            "metric": rule.metric,
            "value": state.value,
            "threshold": rule.threshold,
            "operator": OPERATORS[rule.operator],
            "window_seconds": rule.window_seconds,
            "timestamp": _milliseconds(state.triggered_at),
        }
        self._act(state, alert)
        return alert

    def _value(self, rule: AlertRule, now: float, counters: Counters) -> float:
        name = rule.metric.rpartition(".")[2]
        value = getattr(counters, name)
        if rule.metric == _ACTIVE:
            return float(value)
        if not self._history:
            return 0.0
        later = bisect_right(self._history, now - rule.window_seconds, key=itemgetter(0))
        return float(value - getattr(self._history[max(0, later - 1)][1], name))

    def _act(self, state: _State, alert: dict[str, Any]) -> None:
        action, body = state.rule.action, msgspec.json.encode(alert)
        if action.type == "function" and action.path is not None:
            self._bus.notify(action.path, body)
        elif action.type == "webhook" and action.url is not None:
            self._bus.spawn(self._call_webhook(state, action.url, body))
        log.warning(
            "alert %s: %s is %g (%s %g)",
            state.rule.name,
            state.rule.metric,
            state.value,
            OPERATORS[state.rule.operator],
            state.rule.threshold,
        )

    async def _call_webhook(self, state: _State, url: str, body: bytes) -> None:
        try:
            if self._post is None:
                raise OSError("this engine has no HTTP client")
            await post(self._bus.clock.machine, WEBHOOK_TIMEOUT, self._post, url, body)
        except Exception as error:  # whatever a foreign server or the network does
            state.last_error = f"{error!r}"[:500]
            log.warning("the webhook of alert %s failed: %r", state.rule.name, error)
        else:
            state.last_error = None


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
