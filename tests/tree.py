"""What must hold of the tree itself, checked without a cluster (``make check``).

Every manifest and example validates, no worker registers or claims ``sandbox::``, and generated files are up to date.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agentos_contracts import crd, reasons

ROOT = Path(__file__).parent.parent
REFUSED = ROOT / "examples" / "refused"
RESERVED = re.compile(r"""["'`]sandbox(::[^"'`]*)?["'`]""")


def tracked(*patterns: str) -> list[Path]:
    """Files of the tree by glob; new ones too, ignored ones not."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def validated(path: Path) -> tuple[int, str]:
    """Exit code of ``agentos validate`` on one file, and its findings, a line each."""
    command = [sys.executable, "-m", "agentos", "validate", str(path.relative_to(ROOT))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def invalid_manifests() -> Iterator[str]:
    """Every iii.worker.yaml of the tree that has an error."""
    found = tracked("*iii.worker.yaml")
    if not found:
        yield "no iii.worker.yaml found at all"
    for path in found:
        code, told = validated(path)
        if code != 0:
            yield told


def invalid_examples() -> Iterator[str]:
    """Every example that ``agentos validate`` refuses, and every refusal example that it does not."""
    for path in tracked("examples/*.yaml"):
        code, told = validated(path)
        if path.is_relative_to(REFUSED) and code != 1:
            yield f"{path.relative_to(ROOT)}: must be refused, but agentos validate ends with {code}"
        elif not path.is_relative_to(REFUSED) and code != 0:
            yield told


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
