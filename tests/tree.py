"""What must hold of the tree itself, checked without a cluster (``make check``).

Every manifest and example validates, no worker registers or claims ``sandbox::``, and generated files are up to date.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agentos_contracts import crd, reasons
from agentos_contracts.findings import errors
from agentos_contracts.manifest import read_manifest, validate_manifest

ROOT = Path(__file__).parent.parent
REFUSED = ROOT / "examples" / "refused"
RESERVED = re.compile(r"""["']sandbox(::[^"']*)?["']""")


def tracked(*patterns: str) -> list[Path]:
    """Files of the tree by glob; new ones too, ignored ones not."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def invalid_manifests() -> Iterator[str]:
    """Every iii.worker.yaml of the tree that has an error."""
    found = tracked("*iii.worker.yaml")
    if not found:
        yield "no iii.worker.yaml found at all"
    for path in found:
        manifest, findings = read_manifest(path.read_text())
        findings = [*findings, *(validate_manifest(manifest, path="") if manifest is not None else ())]
        yield from (f"{path.relative_to(ROOT)}:{finding.line or 1}: {finding}" for finding in errors(findings))


def invalid_examples() -> Iterator[str]:
    """Every example that ``agentos validate`` refuses, and every refusal example that it does not."""
    for path in tracked("examples/*.yaml"):
        done = subprocess.run(
            [sys.executable, "-m", "agentos", "validate", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):
            yield f"{path.relative_to(ROOT)}: agentos validate ended with {done.returncode}: {done.stderr.strip()}"
        elif (done.returncode == 0) == path.is_relative_to(REFUSED):
            yield f"{path.relative_to(ROOT)}: {'is admitted, but must be refused' if done.returncode == 0 else done.stdout.strip()}"


def reserved_names() -> Iterator[str]:
    """Every place in a worker, or in an example's claims, that names the engine's function namespace sandbox."""
    for path in tracked("workers/agentos_workers/*", "examples/*"):
        if path.is_relative_to(REFUSED):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if RESERVED.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: sandbox:: belongs to the engine; no worker registers or claims it"


def stale_files() -> Iterator[str]:
    """Generated files that differ from what the models give now."""
    kept = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    fresh = crd.rendered()
    for name in sorted(kept.keys() | fresh.keys()):
        if kept.get(name) != fresh.get(name):
            yield f"crds/{name} is out of date; run make crds"
    if (ROOT / "docs" / "conditions.md").read_text() != reasons.document():
        yield "docs/conditions.md is out of date; run make docs"


CHECKS = (invalid_manifests, invalid_examples, reserved_names, stale_files)


def main() -> int:
    """Runs all checks, prints what fails, returns the exit code."""
    failed = 0
    for check in CHECKS:
        problems = list(check())
        failed += len(problems)
        print(
            f"{'ok' if not problems else 'FAILED':7}{check.__name__.replace('_', ' ')}: none" if not problems else "",
            end="",
        )
        print("".join(f"FAILED {problem}\n" for problem in problems) or "\n", end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
