"""Writes ``docs/metrics.md``, from the places where engine and operator declare their metrics (``make docs``)."""

from collections.abc import Iterator
from pathlib import Path

from agentos_engine.observability.engine_metrics import METRICS
from agentos_engine.observability.histogram import SECONDS
from agentos_operator import metrics as operator_metrics
from agentos_operator.cache import Cache
from prometheus_client.metrics import MetricWrapperBase

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

HEAD = """# Metrics

Engine and operator tell [Prometheus](https://prometheus.io) what they do. This page lists every metric; alerts on them
are in [alerts.md](alerts.md).

| who | where | on |
|---|---|---|
| engine | `GET /metrics` of its admin port, 9464 | Service `agentos-engine` in a Realm's namespace, port `admin` |
| operator | `GET /metrics`, 8080 | Service `agentos-operator`, port `metrics` |

With the Prometheus Operator, install the chart with `--set metrics.serviceMonitor.enabled=true`: it finds the engines
of all Realms. `metrics.rules.enabled` adds the alert rules, `metrics.dashboard.enabled` a dashboard for Grafana.
By hand: `kubectl -n NAMESPACE port-forward service/agentos-engine 9464`, then `curl localhost:9464/metrics`.

The format is text 0.0.4; who asks for OpenMetrics 1.0 gets that. Times are in seconds, sizes in bytes. A counter
begins at 0 with the process. What a label can be is bounded: the first 200 functions that are called have figures of
their own, all later ones together have `function="other"` (`--metrics-functions` of the engine sets how many, at most
1000); queues, trigger types and error codes have a bound of 100. A scrape of an engine with 50,000 functions is
about 350 KB and takes 10 ms of its time; `agentos_engine_scrape_duration_seconds` tells.
No metric holds a token, a payload, or a path that a client made up.

Buckets of the durations, in seconds: BOUNDS.

The operator has the usual `process_*` and `python_*` metrics, too.
"""

Row = tuple[str, str, tuple[str, ...], str]


def engine() -> Iterator[Row]:
    """Name, kind, labels and meaning of the engine's metrics."""
    for metric in METRICS:
        yield metric.name, metric.kind, metric.labels, metric.help


def operator() -> Iterator[Row]:
    """The same of the operator's."""
    for declared in vars(operator_metrics).values():
        if isinstance(declared, MetricWrapperBase):
            (family,) = declared.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            yield name, family.type, tuple(declared._labelnames), family.documentation
    for family in operator_metrics.Resources(Cache()).describe():
        yield family.name, family.type, tuple(family._labelnames), family.documentation


def series() -> set[str]:
    """Names of all samples that engine and operator can tell."""
    names = set()
    for name, kind, _, _ in (*engine(), *operator()):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def document() -> str:
    """The page."""
    lines = [HEAD.replace("BOUNDS", ", ".join(f"{bound:g}" for bound in SECONDS))]
    for title, rows in (("Engine", engine()), ("Operator", operator())):
        lines += [f"## {title}\n", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for name, kind, labels, text in rows:
            lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(document())
