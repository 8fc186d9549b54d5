"""``agentos build``: which tool is chosen, what it is told, and what is said when it fails.

The tools here are small scripts on the PATH that record how they are called; the end-to-end tests build a real image.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from agentos.author import Tool
from agentos.author.build import dockerfile, reference_of
from agentos.errors import CommandError
from agentos_contracts.manifest import Manifest
from commands import Command, Done
from ups import until

MANIFEST = "iii: v1\nname: prices\nscripts:\n  start: node worker.mjs\n"
WITH_BASE = f"{MANIFEST}  install: npm install\nruntime:\n  base_image: node:22-slim\n"
RECORDER = """#!{python}
import json, os, pathlib, sys
tool = pathlib.Path(sys.argv[0]).name
faults = json.loads({faults!r})
if sys.argv[1] != "build":
    if tool in faults:
        print(f"some detail\\n{{faults[tool]}}\\n", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
folder = pathlib.Path(sys.argv[-1])
dockerfile = next(word for word in sys.argv if word.startswith("--file=")).removeprefix("--file=")
pathlib.Path({record!r}).write_text(json.dumps({{
    "tool": tool, "arguments": sys.argv[2:], "dockerfile": pathlib.Path(dockerfile).read_text(),
    "files": {{str(path.relative_to(folder)): oct(path.stat().st_mode & 0o777)
               for path in folder.rglob("*") if not path.is_symlink()}},
}}))
{then}
"""


class Machine:
    """A machine with some of the tools, and a worker's folder ``prices``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "programs"
        self.programs.mkdir()
        environment = {"PATH": str(self.programs), "HOME": str(root), "BUILDAH_ISOLATION": "oci"}
        self.command = Command(root, environment)
        self.record = root / "record.json"
        self.folder = root / "prices"
        self.folder.mkdir()
        self.write("iii.worker.yaml", MANIFEST)
        self.write("Dockerfile", "FROM scratch\n")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def has(self, *tools: str, faults: dict[str, str] | None = None, then: str = "") -> None:
        """Install tools; those with a fault do not work, and ``then`` is what a build does."""
        text = RECORDER.format(
            python=sys.executable, faults=json.dumps(faults or {}), record=str(self.record), then=then
        )
        for tool in tools:
            (self.programs / tool).write_text(text)
            (self.programs / tool).chmod(0o755)

    def build(self, *arguments: str, **environ: str) -> Done:
        """Run the command."""
        return self.command.run("build", *arguments, **environ)

    @property
    def built(self) -> dict:
        return json.loads(self.record.read_text())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_image_is_built_from_the_folders_dockerfile_and_its_name_is_printed(machine: Machine) -> None:
    machine.has("docker")
    done = machine.build("prices")
    assert (done.returncode, done.stdout) == (0, "localhost/prices:dev\n")
    assert done.stderr == "building localhost/prices:dev with docker …\n"
    assert machine.built["arguments"] == [
        "--tag=localhost/prices:dev",
        f"--file={machine.folder}/Dockerfile",
        str(machine.folder),
    ]


def test_the_folder_is_this_one_unless_another_is_named(machine: Machine) -> None:
    machine.has("docker")
    machine.command.folder = machine.folder
    assert machine.build().stdout == "localhost/prices:dev\n"


@pytest.mark.parametrize(
    ("tools", "faults", "chosen"),
    [
        (["docker", "podman", "buildah"], {}, "docker"),
        (["docker", "podman", "buildah"], {"docker": "Cannot connect to the Docker daemon"}, "podman"),
        (["docker", "buildah"], {"docker": "Cannot connect to the Docker daemon"}, "buildah"),
        (["buildah"], {}, "buildah"),
    ],
)
def test_the_first_of_docker_podman_and_buildah_that_works_is_used(
    machine: Machine, tools: list[str], faults: dict[str, str], chosen: str
) -> None:
    machine.has(*tools, faults=faults)
    assert machine.build("prices").returncode == 0
    assert machine.built["tool"] == chosen


def test_the_tool_that_is_asked_for_is_used_even_if_another_goes_before_it(machine: Machine) -> None:
    machine.has("docker", "buildah")
    assert machine.build("prices", "--tool", "buildah").returncode == 0
    assert machine.built["tool"] == "buildah"


def test_a_tool_that_is_asked_for_and_does_not_work_is_not_replaced(machine: Machine) -> None:
    machine.has("docker", "podman", faults={"docker": "Cannot connect to the Docker daemon"})
    done = machine.build("prices", "--tool", "docker")
    assert (done.returncode, done.stderr) == (
        1,
        "agentos: docker does not work here: Cannot connect to the Docker daemon\n",
    )
    assert not machine.record.exists()


def test_with_no_tool_that_works_it_is_said_why_for_each(machine: Machine) -> None:
    machine.has("docker", faults={"docker": "Cannot connect to the Docker daemon"})
    done = machine.build("prices")
    assert (done.returncode, done.stderr) == (
        1,
        "agentos: no tool that builds images works here (docker: Cannot connect to the Docker daemon; "
        "podman: not installed; buildah: not installed); install or start one of them\n",
    )


def test_tag_build_arguments_and_more_options_reach_the_tool(machine: Machine) -> None:
    machine.has("buildah")
    done = machine.build(
        *("prices", "--tag", "ghcr.io/acme/prices:1.2.0", "--build-arg", "BASE=node:24", "--build-arg", "NOTE=a b=c"),
        AGENTOS_BUILD_OPTIONS="--network host --label 'team=a b'",
    )
    assert (done.returncode, done.stdout) == (0, "ghcr.io/acme/prices:1.2.0\n")
    assert machine.built["arguments"] == [
        *("--layers", "--network", "host", "--label", "team=a b", "--build-arg=BASE=node:24", "--build-arg=NOTE=a b=c"),
        *("--tag=ghcr.io/acme/prices:1.2.0", f"--file={machine.folder}/Dockerfile", str(machine.folder)),
    ]


def test_within_a_container_buildah_needs_no_namespaces(machine: Machine) -> None:
    machine.has("buildah")
    assert machine.build("prices", container="podman").returncode == 0
    assert "--isolation=chroot" not in machine.built["arguments"]
    del machine.command.environment["BUILDAH_ISOLATION"]
    assert machine.build("prices", container="podman").returncode == 0
    assert "--isolation=chroot" in machine.built["arguments"]


@pytest.mark.parametrize(
    ("arguments", "environ", "told"),
    [
        (["prices", "--build-arg", "BASE"], {}, "--build-arg is KEY=VALUE, got 'BASE'"),
        (["prices", "--tag", "Prices"], {}, "'Prices' is not a reference of an image; give one with --tag, such as registry/name:1.0.0"),
        (["prices", "--tag=--output=/etc"], {}, "'--output=/etc' is not a reference of an image"),
        (["prices"], {"AGENTOS_BUILD_OPTIONS": "'"}, "AGENTOS_BUILD_OPTIONS cannot be read as words of a shell: No closing quotation"),
        (["nowhere"], {}, "there is no folder nowhere; agentos new worker NAME makes a worker's folder"),
        (["programs"], {}, "programs has no iii.worker.yaml; agentos new worker NAME makes a worker's folder"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_nothing_is_built(
    machine: Machine, arguments: list[str], environ: dict[str, str], told: str
) -> None:
    machine.has("docker")
    done = machine.build(*arguments, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"agentos: {told}")
    assert len(done.stderr.splitlines()) == 1
    assert not machine.record.exists()


def test_a_manifest_with_errors_is_refused_with_its_findings(machine: Machine) -> None:
    machine.has("docker")
    machine.write("iii.worker.yaml", "name: prices\nnane: x\nversion: one\n")
    done = machine.build("prices")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == (
        "prices/iii.worker.yaml:2: error: nane: unknown field nane; did you mean name?"
    )
    assert done.stderr.splitlines()[-1] == "1 document checked: 2 errors, 1 warning"
    assert not machine.record.exists()


def test_warnings_are_shown_and_do_not_hinder(machine: Machine) -> None:
    machine.has("docker")
    machine.write("iii.worker.yaml", f"version: 1.2.3\n{MANIFEST}")
    done = machine.build("prices")
    assert (done.returncode, done.stdout) == (0, "localhost/prices:1.2.3\n")
    assert "prices/iii.worker.yaml:1: warning: version: " in done.stderr


def test_when_the_build_fails_the_last_40_lines_are_shown(machine: Machine) -> None:
    machine.has("docker", then="for number in range(100): print('line', number)\nsys.exit(7)")
    done = machine.build("prices")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "building localhost/prices:dev with docker …",
        *(f"line {number}" for number in range(60, 100)),
        "agentos: docker could not build localhost/prices:dev (exit code 7); above is what it said last",
    ]


def test_when_the_build_works_the_tools_output_is_not_shown(machine: Machine) -> None:
    machine.has("docker", then="print('much')\nprint('more', file=sys.stderr)")
    done = machine.build("prices")
    assert (done.stdout, done.stderr) == (
        "localhost/prices:dev\n",
        "building localhost/prices:dev with docker …\n",
    )


def test_an_endless_line_of_the_tool_is_cut(machine: Machine) -> None:
    machine.has("docker", then="print('x' * 1_000_000)\nsys.exit(1)")
    done = machine.build("prices")
    assert done.returncode == 1
    assert len(done.stderr) < 40 * 4096 + 1000


def test_no_tool_outlives_a_build_that_is_interrupted(machine: Machine) -> None:
    pid_file = machine.root / "pid"
    machine.has(
        "docker", then=f"import time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    with machine.command.running("build", "prices"):
        until("the tool runs", lambda: pid_file.exists() and pid_file.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_folder_without_dockerfile_is_copied_without_history_secrets_and_what_is_made(machine: Machine) -> None:
    machine.has("docker")
    (machine.folder / "Dockerfile").unlink()
    machine.write("iii.worker.yaml", WITH_BASE)
    for name in (".git/config", ".agentos/state", ".env", ".npmrc", "node_modules/x/index.js", "target/debug/x"):
        machine.write(name, "x")
    for name in ("tls.key", "tls.pem", "lib/__pycache__/a.pyc"):
        machine.write(name, "x")
    machine.write("lib/run.sh", "x").chmod(0o700)
    machine.write("lib/prices.mjs", "x").chmod(0o600)
    (machine.folder / "lib").chmod(0o700)
    (machine.folder / "dangling").symlink_to("nowhere")
    assert machine.build("prices").returncode == 0
    assert machine.built["files"] == {
        "iii.worker.yaml": "0o644",
        "lib": "0o755",
        "lib/prices.mjs": "0o644",
        "lib/run.sh": "0o744",
    }
    assert machine.built["dockerfile"] == dockerfile(Manifest.model_validate({
        "name": "prices", "runtime": {"base_image": "node:22-slim"},
        "scripts": {"install": "npm install", "start": "node worker.mjs"},
    }))  # fmt: skip
    assert not Path(machine.built["arguments"][-1]).exists()


def test_a_file_that_cannot_be_copied_is_named_in_one_line(machine: Machine) -> None:
    machine.has("docker")
    (machine.folder / "Dockerfile").unlink()
    machine.write("iii.worker.yaml", WITH_BASE)
    os.mkfifo(machine.folder / "pipe")
    done = machine.build("prices")
    assert done.returncode == 1
    assert f"agentos: cannot copy {machine.folder}: " in done.stderr
    assert "pipe" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("manifest", "missing"),
    [(MANIFEST, "runtime.base_image"), ("name: prices\nruntime:\n  base_image: node:22-slim\n", "scripts.start")],
)
def test_without_dockerfile_the_manifest_must_say_enough(machine: Machine, manifest: str, missing: str) -> None:
    machine.has("docker")
    (machine.folder / "Dockerfile").unlink()
    machine.write("iii.worker.yaml", manifest)
    done = machine.build("prices")
    assert done.returncode == 1
    message = f"the folder has no Dockerfile, and its iii.worker.yaml no {missing}; write one of them"
    assert done.stderr.splitlines()[-1] == f"agentos: {message}"


def test_the_dockerfile_that_is_made() -> None:
    manifest = Manifest.model_validate({
        "name": "prices",
        "env": {"API_KEY": "not for the image"},
        "runtime": {"base_image": "python:3.13-slim"},
        "scripts": {
            "setup": "apt-get update\napt-get install -y libpq5",
            "install": 'pip install "requests" && echo $HOME',
            "start": "python -m prices",
        },
    })  # fmt: skip
    assert dockerfile(manifest) == (
        "# Made by agentos build from iii.worker.yaml.\n"
        "FROM python:3.13-slim\n"
        "USER 0:0\n"
        "WORKDIR /app\n"
        'RUN ["/bin/sh", "-c", "apt-get update\\napt-get install -y libpq5"]\n'
        "COPY . .\n"
        'RUN ["/bin/sh", "-c", "pip install \\"requests\\" && echo $HOME"]\n'
        "USER 65532:65532\n"
        'CMD ["/bin/sh", "-c", "exec python -m prices"]\n'
    )


def test_a_start_script_of_several_commands_is_run_as_it_is() -> None:
    scripts = {"start": "cd app && exec node worker.mjs"}
    manifest = Manifest.model_validate({"name": "p", "runtime": {"base_image": "node"}, "scripts": scripts})
    assert dockerfile(manifest).endswith('CMD ["/bin/sh", "-c", "cd app && exec node worker.mjs"]\n')


@pytest.mark.parametrize(
    ("manifest", "reference"),
    [
        ({"name": "prices"}, "localhost/prices:dev"),
        ({"name": "Prices.v2", "version": "1.0.0-rc.1+linux"}, "localhost/prices.v2:1.0.0-rc.1_linux"),
    ],
)
def test_an_image_is_called_after_the_worker_and_its_version(manifest: dict[str, str], reference: str) -> None:
    assert reference_of(Manifest.model_validate(manifest)) == reference


def test_a_worker_whose_name_no_image_can_have_needs_a_tag() -> None:
    manifest = Manifest.model_validate({"name": "_prices_"})
    with pytest.raises(CommandError, match="give one with --tag"):
        reference_of(manifest)
    assert reference_of(manifest, "localhost:5000/prices") == "localhost:5000/prices"


def test_the_tools_are_those_of_the_help(command: Command) -> None:
    assert "|".join(Tool) in command.run("build", "--help").stdout
