"""ManifestValid: the spec and the manifest have no error."""

from agentos_contracts.findings import errors
from agentos_contracts.reasons import MANIFEST_INVALID, MANIFEST_NOT_FOUND, VALID

from ..conditions import Verdict
from .snapshot import WorkerInput


def manifest_valid(i: WorkerInput) -> Verdict:
    """The Worker's spec and manifest have no error."""
    if i.manifest_missing:
        return Verdict(False, MANIFEST_NOT_FOUND, i.manifest_missing)
    found = errors(i.findings)
    if found:
        return Verdict(False, MANIFEST_INVALID, "; ".join(str(finding) for finding in found))
    return Verdict(True, VALID)
