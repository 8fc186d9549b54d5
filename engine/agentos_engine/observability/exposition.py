"""Metrics as text for Prometheus: format 0.0.4, and OpenMetrics 1.0 for those who ask for it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from agentos_engine.observability.histogram import Histogram

PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is declared. The name has its unit in it; that of a counter ends in ``_total``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


Value = int | float | Histogram
Samples = Iterable[tuple[tuple[str, ...], Value]]
"""Values of the labels, as many as the metric has, and what was measured."""


def render(families: Iterable[tuple[Metric, Samples]], openmetrics: bool = False) -> str:
    """Return the text. Each metric may be there once; raises ValueError when labels are missing or too many."""
    lines: list[str] = []
    for metric, samples in families:
        name = metric.name.removesuffix("_total") if openmetrics and metric.kind == "counter" else metric.name
        text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
        if openmetrics:
            text = text.replace('"', '\\"')
        lines += (f"# HELP {name} {text}", f"# TYPE {name} {metric.kind}")
        for values, value in samples:
            labels = ",".join(f'{label}="{escaped(each)}"' for label, each in zip(metric.labels, values, strict=True))
            if isinstance(value, Histogram):
                lines += _histogram(metric.name, labels, value)
            else:
                lines.append(
                    f"{metric.name}{{{labels}}} {_number(value)}" if labels else f"{metric.name} {_number(value)}"
                )
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return the value of a label as it stands between quotes. What UTF-8 cannot say becomes a question mark."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    before = f"{labels}," if labels else ""
    behind = f"{{{labels}}}" if labels else ""
    *counts, count = histogram.cumulative()
    for bound, up_to in zip(histogram.bounds, counts, strict=True):
        yield f'{name}_bucket{{{before}le="{float(bound)}"}} {up_to}'
    yield f'{name}_bucket{{{before}le="+Inf"}} {count}'
    yield f"{name}_sum{behind} {_number(histogram.sum)}"
    yield f"{name}_count{behind} {count}"


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, int) else repr(value)
