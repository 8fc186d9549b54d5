"""Asks the program of ``judge/``: kstatus and Flux by their own libraries, Argo CD by its Lua interpreter."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.cluster import Steps, tools
from tests.cluster.command import run

SOURCE = Path(__file__).parent / "judge"
EXAMPLES = Path(__file__).parents[2] / "examples" / "gitops"
HEALTH = "resource.customizations.health.agentos.dev_"


def judge(objects: Sequence[dict[str, Any]]) -> list[dict[str, dict[str, str]]]:
    """What each tool says of each object: ``{"kstatus": {status, message}, "argocd": …, "flux": …}``."""
    tools.check_go()
    key = tools.content_key(*(SOURCE / name for name in ("main.go", "go.mod", "go.sum")))
    program = tools.built("judge", key, _build, Steps())
    argo_cd = yaml.safe_load((EXAMPLES / "argocd-cm.yaml").read_text())["data"]
    flux = yaml.safe_load((EXAMPLES / "flux-kustomization.yaml").read_text())["spec"]["healthCheckExprs"]
    with TemporaryDirectory() as folder:
        for name, script in argo_cd.items():
            Path(folder, f"{name.removeprefix(HEALTH).lower()}.lua").write_text(script)
        checks = Path(folder, "checks.json")
        checks.write_text(json.dumps(flux))
        done = subprocess.run(
            [program, folder, checks], input=json.dumps(list(objects)), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _build(folder: Path) -> None:
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", str(folder / "judge"), "."]
    run(command, cwd=SOURCE, timeout=1800, env={"CGO_ENABLED": "0"})
