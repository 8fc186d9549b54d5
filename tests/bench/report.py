"""Writes docs/performance.md and its pictures from what the benchmarks left in ``results``.

usage: python -m tests.bench.report
"""

import json
from html import escape
from pathlib import Path

from tests.bench.measuring import RESULTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"

TITLES = {
    "bus": ("Calls", "The engine's CPU per call, as a multiple of the sketch's."),
    "tracing": ("Tracing", "The same with a share of all calls traced; the sketch traces nothing."),
    "many_to_many": ("Many to many", "CPU per call with a worker for each caller, beside one caller and one worker."),
    "fan_out": ("Fan-out", "CPU per delivery of a message to many subscribers, each on a connection of its own."),
    "queue": ("Queues", "From the request to enqueue until the handler has the job; jobs are on disk before that."),
    "state": ("State", "Durable writes beside writes in memory, both through the whole bus."),
    "rest": (
        "HTTP",
        "CPU per request to a route of a worker on the Python SDK, as a multiple of the sketch's bus call.",
    ),
    "rest_latency": ("HTTP, waiting", "The median wait as a multiple of connections / throughput (Little's law)."),
}
"""The order of the page, headings and what is measured; benchmarks that are not named follow under their own names."""

HEAD = """# Performance

Measured by `make bench`, written by `python -m tests.bench.report` from `tests/bench/results`; losing rows are kept.

CPU is given as a ratio to the *sketch* (`tests/bench/sketch_router.py`), the least that a router can do: no identity, no
limits, no metrics, nothing safe. The engine runs as in a cluster, with tokens, grants, metrics, heartbeats and limits on, and
one call in a hundred traced. Each is alone on one core, the load on another; short windows take turns, and a figure is the
median of the ratios of neighbours, with its quartiles. Absolute figures drift by half within an hour on a shared machine.
The ordinary client parses every message, as SDKs do; the lean one parses nothing, so that the router is the bottleneck.
*Native* is the Rust engine (iii 0.23, observability off) as measured on another day against the same sketch.
"""

WIDTH, LABEL, ROW = 760, 300, 26


def main() -> None:
    """Write the page."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    order = [*(name for name in TITLES if name in results), *(name for name in results if name not in TITLES)]
    parts = [HEAD]
    IMAGES.mkdir(exist_ok=True)
    for name in order:
        result = results[name]
        title, about = TITLES.get(name, (name.replace("_", " ").capitalize(), ""))
        parts.append(f"## {title}\n")
        if about:
            parts.append(about + "\n")
        if any(each["gate"] is not None for each in result["figures"]) and len(result["figures"]) > 1:
            (IMAGES / f"bench-{name}.svg").write_text(picture(result["figures"]))
            parts.append(f"![{title}: figures and gates](images/bench-{name}.svg)\n")
        parts.append(table(result["figures"]))
        machine = result["machine"]
        parts.append(
            f"{result['at'][:10]}, commit {result['commit']}; {machine['cpu']}, {machine['cores']} cores, "
            f"Python {machine['python']}.\n"
        )
    PAGE.write_text("\n".join(parts))


def table(figures: list[dict]) -> str:
    """Return the figures as a table; columns that would be empty are left out."""
    columns = [("", _name), ("median (quartiles)", _value), ("aim", _of("aim")), ("gate", _gate)]
    columns += [("native", _of("native")), ("", lambda each: each["note"])]
    columns = [column for column in columns if any(column[1](each) for each in figures)]
    lines = ["| " + " | ".join(head for head, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(each) for _, cell in columns) + " |" for each in figures]
    return "\n".join(lines) + "\n"


def picture(figures: list[dict]) -> str:
    """Return bars as SVG: each as long as its share of the longest, its gate a line, the native engine a ring."""
    most = 1.05 * max(max(each["value"], each["gate"] or 0, each["native"] or 0) for each in figures)
    scale = (WIDTH - LABEL - 70) / most
    height = ROW * (len(figures) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, each in enumerate(figures):
        top, length = ROW * number + 6, each["value"] * scale
        colour = {True: "#2f7d4f", False: "#c0392b", None: "#7f8c8d"}[each["met"]]
        lines.append(f'<text x="{LABEL - 8}" y="{top + 13}" text-anchor="end">{escape(each["name"])}</text>')
        lines.append(f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="16" fill="{colour}"/>')
        at = LABEL + length + 6
        if each["gate"] is not None:
            gate = LABEL + each["gate"] * scale
            lines.append(f'<path d="M{gate:.1f} {top - 3}v22" stroke="#000" stroke-width="2"/>')
            at = max(at, gate + 6)
        if each["native"] is not None:
            native = LABEL + each["native"] * scale
            lines.append(
                f'<circle cx="{native:.1f}" cy="{top + 8}" r="5" fill="none" stroke="#1f4e9c" stroke-width="2"/>'
            )
            at = max(at, native + 10)
        lines.append(f'<text x="{at:.1f}" y="{top + 13}">{each["value"]:.3g}</text>')
    bottom = ROW * len(figures) + 17
    legend = f"{figures[0]['unit']}; black line: gate; ring: native engine; green: met, red: not met"
    lines.append(f'<text x="{LABEL}" y="{bottom}" fill="#555" font-size="11">{escape(legend)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _name(each: dict) -> str:
    return each["name"]


def _value(each: dict) -> str:
    return f"{each['value']:.3g} {each['unit']} ({each['low']:.3g}–{each['high']:.3g})"


def _of(key: str):
    return lambda each: "" if each[key] is None else f"{each[key]:g}"


def _gate(each: dict) -> str:
    if each["gate"] is None:
        return ""
    sign = "≤" if each["at_most"] else "≥"
    return f"{sign} {each['gate']:g}, {'met' if each['met'] else '**not met**'}"


if __name__ == "__main__":
    main()
