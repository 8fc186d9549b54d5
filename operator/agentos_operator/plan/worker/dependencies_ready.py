"""DependenciesReady: what the worker depends on is there and Ready."""

from agentos_contracts.dependencies import unmet
from agentos_contracts.reasons import SATISFIED

from ..conditions import Verdict
from .manifest_valid import manifest_valid
from .snapshot import WorkerInput


def dependencies_ready(i: WorkerInput) -> Verdict:
    """Everything that the worker depends on is there, in a fitting version, and Ready; none of it waits for this one."""
    if i.effective is None or not manifest_valid(i).ok:
        return Verdict(True, SATISFIED)
    lacking = unmet(i.effective.dependencies, i.providers, i.built_in, i.effective.name)
    return Verdict(False, *lacking) if lacking else Verdict(True, SATISFIED)
