"""The process in figures, under the names that every Prometheus client gives them."""

import gc
import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from agentos_engine.observability.exposition import Metric, Samples

CPU = Metric("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")
RESIDENT = Metric("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
VIRTUAL = Metric("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.")
OPEN_FDS = Metric("process_open_fds", "gauge", "Number of open file descriptors.")
MAX_FDS = Metric("process_max_fds", "gauge", "Maximum number of open file descriptors.")
STARTED = Metric("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.")
COLLECTIONS = Metric(
    "python_gc_collections_total", "counter", "Number of times this generation was collected.", ("generation",)
)
COLLECTED = Metric("python_gc_objects_collected_total", "counter", "Objects collected during gc.", ("generation",))
UNCOLLECTABLE = Metric(
    "python_gc_objects_uncollectable_total", "counter", "Uncollectable objects found during GC.", ("generation",)
)
PYTHON = Metric(
    "python_info",
    "gauge",
    "Python platform information.",
    ("implementation", "major", "minor", "patchlevel", "version"),
)
METRICS = (
    CPU, RESIDENT, VIRTUAL, OPEN_FDS, MAX_FDS, STARTED, COLLECTIONS, COLLECTED, UNCOLLECTABLE, PYTHON,
)  # fmt: skip

_PROC = Path("/proc/self")


def families() -> Iterator[tuple[Metric, Samples]]:
    """All that this system tells; only Linux tells memory, descriptors and start."""
    times = os.times()
    yield CPU, [((), times.user + times.system)]
    try:
        virtual, resident = (int(pages) * resource.getpagesize() for pages in (_PROC / "statm").read_text().split()[:2])
        descriptors = len(os.listdir(_PROC / "fd"))
    except OSError:
        pass
    else:
        yield RESIDENT, [((), resident)]
        yield VIRTUAL, [((), virtual)]
        yield OPEN_FDS, [((), descriptors)]
        yield STARTED, [((), _started())]
    yield MAX_FDS, [((), resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
    stats = [((str(generation),), each) for generation, each in enumerate(gc.get_stats())]
    yield COLLECTIONS, [(labels, each["collections"]) for labels, each in stats]
    yield COLLECTED, [(labels, each["collected"]) for labels, each in stats]
    yield UNCOLLECTABLE, [(labels, each["uncollectable"]) for labels, each in stats]
    version = platform.python_version()
    yield PYTHON, [((platform.python_implementation(), *platform.python_version_tuple(), version), 1)]


def _started() -> float:
    """Seconds since 1970. The system tells ticks since its own start."""
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    up = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + up
