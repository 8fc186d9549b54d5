"""Which of the engine's own spans are recorded. Spans that workers send were sampled by their SDK and are all kept."""

from fnmatch import fnmatchcase

from agentos_engine.observability.config import ObservabilityConfig
from agentos_engine.observability.trace_context import SpanContext


def sampled(config: ObservabilityConfig, name: str, trace_id: str, parent: SpanContext | None = None) -> bool:
    """Decide about a span of the engine's service by its name.

    ``parent`` is the caller's span, if there is one. Without it, or when ``parent_based`` is off, the first rule whose
    patterns match gives the rate. Equal trace ids get equal decisions at an equal rate.
    """
    sampling = config.sampling
    if parent is not None and sampling.parent_based:
        return parent.sampled
    return int(trace_id[16:], 16) < _rate(config, name) * (1 << 64)


def _rate(config: ObservabilityConfig, name: str) -> float:
    for rule in config.sampling.rules:
        if fnmatchcase(name, rule.operation or "*") and fnmatchcase(config.service_name, rule.service or "*"):
            return rule.rate
    default = config.sampling.default
    return config.sampling_ratio if default is None else default
