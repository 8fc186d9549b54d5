"""The rules of ``iii.worker.yaml``, each with a manifest that shows it; writes ``docs/manifest.md`` (``make docs``).

This table is what ``tests/test_manifest_rules.py`` runs, so the page says nothing that validation does not do.
"""

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "manifest.md"

TAKES, IGNORES, WARNS, REFUSES, NOT_KNOWN = "takes", "ignores", "warns", "refuses", "?"
ACCEPTED, WARNING, ERROR = "accepted", "warning", "error"


@dataclass(frozen=True)
class Rule:
    """One rule: a manifest that shows it, what each of the four readers does with it, and what we say, where.

    ``readers``: ``iii worker add`` of 0.11 and of 0.23, worker-compose, the registry's CI. ``here``: why it cannot run in
    a cluster, or what the platform makes of it. ``path`` and ``reason`` are those of the one finding; empty when accepted.
    ``cel``: the API server refuses it even without the webhook. ``image``: ``spec.image`` is set beside the manifest.
    """

    says: str
    manifest: str
    readers: tuple[str, str, str, str]
    verdict: str
    path: str = ""
    reason: str = ""
    here: str = ""
    cel: bool = False
    image: bool = True


def only_023(what: str) -> tuple[str, str, str, str]:
    """Readers of something at which only ``iii worker add`` of 0.23 looks."""
    return IGNORES, what, IGNORES, IGNORES


def by_add(what: str) -> tuple[str, str, str, str]:
    """Readers of something that both versions of ``iii worker add`` treat alike, and nobody else."""
    return what, what, IGNORES, IGNORES


def by_ci(what: str, later: str = IGNORES) -> tuple[str, str, str, str]:
    """Readers of something that is there for the registry; ``later`` is what 0.23 does."""
    return IGNORES, later, IGNORES, what


ALL_TAKE, ALL_IGNORE, NONE_KNOWN = (TAKES,) * 4, (IGNORES,) * 4, (NOT_KNOWN,) * 4
LONG = "x" * 600
UNKNOWN_KEY = only_023(REFUSES)

FIELDS: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    (
        "The text",
        (
            Rule(
                "at most 64 KiB; an inline manifest by its JSON",
                "name: w\nenv:\n" + "".join(f"  A{n}: {'x' * 1000}\n" for n in range(66)),
                only_023(REFUSES),
                ERROR,
                "",
                "TooLarge",
                "so large a manifest is a mistake; sizes are bounded",
            ),
            Rule(
                "no key twice in a map",
                "name: w\nname: v",
                only_023(REFUSES),
                ERROR,
                "",
                "DuplicateKey",
                "nobody can tell which one is meant",
            ),
            Rule("YAML", "name: [", (REFUSES,) * 4, ERROR, "", "NotYAML"),
            Rule("a map", "- name", (REFUSES,) * 4, ERROR, "", "WrongType"),
            Rule("not empty", "# nothing", (REFUSES,) * 4, ERROR, "", "Empty"),
            Rule(
                "one document",
                "name: w\n---\nname: v",
                NONE_KNOWN,
                ERROR,
                "",
                "NotOneDocument",
                "one Worker is one worker",
            ),
            Rule(
                "no `.nan` and `.inf`",
                "name: w\nconfig: {a: .nan}",
                NONE_KNOWN,
                ERROR,
                "",
                "NotJSON",
                "JSON, in which the API keeps it, has no such number",
            ),
            Rule("`yes` is a text, as in YAML 1.2", "name: w\nenv: {A: yes}", ALL_TAKE, ACCEPTED),
            Rule(
                "no field that no reader knows",
                "name: w\ndescripton: x",
                UNKNOWN_KEY,
                ERROR,
                "descripton",
                "UnknownField",
                "a typing mistake would have no effect, and nobody would say so",
            ),
            Rule(
                "nor one inside `runtime`, `scripts`, `resources`",
                "name: w\nscripts: {start: x, strat: x}",
                UNKNOWN_KEY,
                ERROR,
                "scripts.strat",
                "UnknownField",
                "as above",
            ),
        ),
    ),
    (
        "`iii`",
        (
            Rule("`v1`", "iii: v1\nname: w", by_add(IGNORES), ACCEPTED),
            Rule("left out", "name: w", ALL_TAKE, ACCEPTED),
            Rule(
                "anything else", "iii: v2\nname: w", ALL_IGNORE, WARNING, "iii", "UnknownForm", "every manifest has v1"
            ),
            Rule("not a text", "iii: 1\nname: w", NONE_KNOWN, ERROR, "iii", "WrongType", "a text in the API", cel=True),
        ),
    ),
    (
        "`name`",
        (
            Rule("`[A-Za-z0-9._-]+`", "name: my-worker_2", ALL_TAKE, ACCEPTED),
            Rule("left out", "iii: v1", (REFUSES, REFUSES, IGNORES, REFUSES), ERROR, "name", "Required", cel=True),
            Rule("empty", 'name: ""', (REFUSES, REFUSES, IGNORES, REFUSES), ERROR, "name", "Required", cel=True),
            Rule(
                "other characters",
                "name: a b",
                (REFUSES, REFUSES, IGNORES, REFUSES),
                ERROR,
                "name",
                "InvalidName",
                cel=True,
            ),
            Rule(
                "a leading dot",
                "name: .a",
                (REFUSES, REFUSES, IGNORES, REFUSES),
                ERROR,
                "name",
                "InvalidName",
                cel=True,
            ),
            Rule("`..`", "name: a..b", (REFUSES, REFUSES, IGNORES, REFUSES), ERROR, "name", "InvalidName", cel=True),
            Rule("a number", "name: 5", NONE_KNOWN, ERROR, "name", "WrongType", "a text in the API", cel=True),
            Rule(
                "not `^[a-z0-9][a-z0-9_-]*$`",
                "name: My.Worker",
                (TAKES, TAKES, IGNORES, REFUSES),
                WARNING,
                "name",
                "RegistryName",
            ),
            Rule(
                "a name of the engine's own",
                "name: iii-state",
                NONE_KNOWN,
                ERROR,
                "name",
                "ForbiddenName",
                "the engine has a worker of this name",
                cel=True,
            ),
            Rule(
                "more than 63 characters",
                f"name: {'x' * 64}",
                NONE_KNOWN,
                ERROR,
                "name",
                "TooLong",
                "longer ones do not fit into a label",
                cel=True,
            ),
        ),
    ),
    (
        "`description`, `tags`",
        (
            Rule("texts", "name: w\ndescription: Does it\ntags: [a]", by_ci(TAKES), ACCEPTED),
            Rule(
                "`tags` that are no list",
                "name: w\ntags: a",
                NONE_KNOWN,
                ERROR,
                "tags",
                "WrongType",
                "a list in the API",
                cel=True,
            ),
            Rule(
                "`tags` with a number",
                "name: w\ntags: [1]",
                NONE_KNOWN,
                ERROR,
                "tags[0]",
                "WrongType",
                "texts in the API",
                cel=True,
            ),
        ),
    ),
    (
        "`version`",
        (
            Rule(
                "a semantic version",
                "name: w\nversion: 1.0.0",
                only_023(REFUSES),
                WARNING,
                "version",
                "RefusedBySome",
                "is the Worker's version where `spec.version` is left out",
            ),
            Rule("not text", "name: w\nversion: 1.0", only_023(REFUSES), ERROR, "version", "WrongType", cel=True),
        ),
    ),
    (
        "`language`, `deploy`, `manifest`, `bin`: for the registry",
        (
            Rule(
                "all that the registry needs",
                "name: w\nlanguage: rust\ndeploy: image\nmanifest: Cargo.toml",
                by_ci(TAKES),
                ACCEPTED,
            ),
            Rule(
                "`deploy` of binary, image or bundle only",
                "name: w\nlanguage: rust\ndeploy: helm\nmanifest: Cargo.toml",
                by_ci(REFUSES),
                ERROR,
                "deploy",
                "InvalidValue",
                cel=True,
            ),
            Rule(
                "`deploy: bundle`",
                "name: w\nlanguage: node\ndeploy: bundle\nmanifest: package.json\nscripts: {start: node w.js}",
                by_ci(REFUSES, TAKES),
                WARNING,
                "deploy",
                "RefusedBySome",
            ),
            Rule(
                "`deploy: binary` without `spec.image`",
                "name: w\nlanguage: rust\ndeploy: binary\nmanifest: Cargo.toml",
                by_ci(TAKES),
                ERROR,
                "spec.image",
                "NoImage",
                "a pod needs an image with the binary in it",
                image=False,
            ),
            Rule(
                "the same with `runtime.base_image`",
                "name: w\nlanguage: rust\ndeploy: binary\nmanifest: Cargo.toml\nruntime: {base_image: debian:13}",
                by_ci(TAKES),
                ERROR,
                "spec.image",
                "NoImage",
                "the binary is not in the base image",
                image=False,
            ),
            Rule(
                "`deploy` without `language`",
                "name: w\ndeploy: image\nmanifest: Cargo.toml",
                by_ci(REFUSES, TAKES),
                WARNING,
                "language",
                "RefusedBySome",
            ),
            Rule(
                "`deploy` without `manifest`",
                "name: w\ndeploy: image\nlanguage: rust",
                by_ci(REFUSES, TAKES),
                WARNING,
                "manifest",
                "RefusedBySome",
            ),
            Rule(
                "`language` other than rust, node, python, with `deploy`",
                "name: w\nlanguage: typescript\ndeploy: image\nmanifest: package.json",
                by_ci(REFUSES, WARNS),
                WARNING,
                "language",
                "RefusedBySome",
            ),
            Rule(
                "`language` without `deploy`",
                "name: w\nlanguage: python",
                by_ci(TAKES, WARNS),
                WARNING,
                "language",
                "Deprecated",
            ),
            Rule("`bin`", "name: w\nbin: w", by_ci(TAKES, REFUSES), WARNING, "bin", "RefusedBySome"),
        ),
    ),
    (
        "A bundle",
        (
            Rule(
                "no `scripts.setup`",
                "name: w\nlanguage: node\ndeploy: bundle\nmanifest: package.json\nscripts: {setup: x, start: x}",
                only_023(REFUSES),
                ERROR,
                "scripts.setup",
                "NotInBundle",
            ),
            Rule(
                "a `scripts.start`",
                "name: w\nlanguage: node\ndeploy: bundle\nmanifest: package.json",
                only_023(REFUSES),
                ERROR,
                "scripts.start",
                "Required",
            ),
            Rule(
                "at most 4 `resources.cpus` and 4096 `resources.memory`",
                "name: w\nlanguage: node\ndeploy: bundle\nmanifest: package.json\nscripts: {start: x}\nresources: {cpus: 8}",
                only_023(WARNS),
                WARNING,
                "resources.cpus",
                "Clamped",
                "it gets what it asks for",
            ),
            Rule(
                "`spec.image` beside it",
                "name: w\nlanguage: node\ndeploy: bundle\nmanifest: package.json\nscripts: {start: x}",
                only_023(TAKES),
                ERROR,
                "spec.image",
                "NoImage",
                "a pod needs an image with the bundle in it",
                image=False,
            ),
        ),
    ),
    (
        "`dependencies`",
        (
            Rule("name to range", "name: w\ndependencies: {memory: ^1.2}", (TAKES, TAKES, IGNORES, TAKES), ACCEPTED),
            Rule(
                "`^1`, `~1.2`, `>=1, <2`, `=1.2.3`, `1.*`, `*`",
                'name: w\ndependencies: {a: "~1.2", b: ">=1, <2", c: "*"}',
                (TAKES, TAKES, IGNORES, TAKES),
                ACCEPTED,
            ),
            Rule(
                "a range that Rust's `semver` does not read",
                'name: w\ndependencies: {memory: ">=1 <2"}',
                by_add(REFUSES),
                ERROR,
                "dependencies[memory]",
                "InvalidRange",
            ),
            Rule(
                "a pre-release",
                "name: w\ndependencies: {memory: ^1.0.0-rc.1}",
                by_add(TAKES),
                WARNING,
                "dependencies[memory]",
                "RefusedBySome",
                "iii's public registry has stable versions only; a Worker may have such a one",
            ),
            Rule(
                "a list",
                "name: w\ndependencies: [memory]",
                (REFUSES, REFUSES, IGNORES, TAKES),
                ERROR,
                "dependencies",
                "WrongType",
                "a map in the API",
                cel=True,
            ),
            Rule(
                "a name that is none",
                'name: w\ndependencies: {a/b: "*"}',
                by_add(REFUSES),
                ERROR,
                "dependencies[a/b]",
                "InvalidName",
            ),
            Rule(
                "itself",
                'name: w\ndependencies: {w: "*"}',
                by_add(REFUSES),
                ERROR,
                "dependencies[w]",
                "DependsOnItself",
            ),
            Rule(
                "the same name twice",
                "name: w\ndependencies: {a: ^1, a: ^2}",
                by_add(REFUSES),
                ERROR,
                "",
                "DuplicateKey",
            ),
            Rule(
                "a worker of the engine, such as `iii-state`",
                'name: w\ndependencies: {iii-state: "*"}',
                by_add(TAKES),
                ACCEPTED,
                here="is there as soon as the engine is",
            ),
            Rule(
                "`engine`, `iii`, `sandbox`, `iii-sandbox`",
                'name: w\ndependencies: {iii-sandbox: "*"}',
                NONE_KNOWN,
                ERROR,
                "dependencies[iii-sandbox]",
                "NeverThere",
                "no Worker may have the name, so it would wait for ever",
            ),
        ),
    ),
    (
        "`config`, `entry`",
        (
            Rule(
                "`config`",
                "name: w\nconfig: {a: 1}",
                only_023(WARNS),
                WARNING,
                "config",
                "Deprecated",
                "is not handed on",
            ),
            Rule(
                "`entry`", "name: w\nentry: w.py", only_023(WARNS), WARNING, "entry", "Deprecated", "is not handed on"
            ),
        ),
    ),
    (
        "`runtime`",
        (
            Rule(
                "`base_image`",
                "name: w\nruntime: {base_image: python:3.13-slim}\nscripts: {start: python -m w}",
                by_add(TAKES),
                ACCEPTED,
                here="is the image where `spec.image` is left out",
                image=False,
            ),
            Rule(
                "`base_image`: letters, digits and `. _ - / : @ +`",
                "name: w\nruntime: {base_image: a b}\nscripts: {start: x}",
                (IGNORES, REFUSES, IGNORES, IGNORES),
                ERROR,
                "runtime.base_image",
                "InvalidImage",
            ),
            Rule(
                "`base_image`: at most 512 characters",
                f"name: w\nruntime: {{base_image: {LONG}}}\nscripts: {{start: x}}",
                (IGNORES, REFUSES, IGNORES, IGNORES),
                ERROR,
                "runtime.base_image",
                "TooLong",
                cel=True,
            ),
            Rule(
                "`kind`, `language`, `package_manager`, `entry`",
                "name: w\nruntime: {kind: python}\nscripts: {start: x}",
                (TAKES, WARNS, IGNORES, TAKES),
                WARNING,
                "runtime.kind",
                "Deprecated",
                "nothing is inferred: `scripts.start`, or the image's own entrypoint",
            ),
            Rule(
                "`kind` of typescript, javascript, bun, python, rust",
                "name: w\nruntime: {kind: cobol}\nscripts: {start: x}",
                (REFUSES, REFUSES, IGNORES, REFUSES),
                ERROR,
                "runtime.kind",
                "InvalidValue",
            ),
            Rule(
                "`package_manager` of npm, yarn, pnpm, bun, with typescript",
                "name: w\nruntime: {kind: typescript, package_manager: pip}\nscripts: {start: x}",
                by_add(REFUSES),
                ERROR,
                "runtime.package_manager",
                "InvalidValue",
            ),
        ),
    ),
    (
        "`scripts`",
        (
            Rule(
                "`setup`, `install`, `start`",
                "name: w\nscripts: {setup: a, install: b, start: c}",
                (TAKES, TAKES, TAKES, TAKES),
                ACCEPTED,
                here="`start` runs as `/bin/sh -c`; the others are the image's to have done",
            ),
            Rule(
                "no `start`, and no `runtime.kind` with `entry` to infer it from",
                "name: w\nscripts: {install: b}",
                (TAKES, REFUSES, IGNORES, IGNORES),
                WARNING,
                "scripts.start",
                "RefusedBySome",
                "the image's own entrypoint runs",
            ),
        ),
    ),
    (
        "`env`",
        (
            Rule("name to text", "name: w\nenv: {LOG_LEVEL: info}", by_add(TAKES), ACCEPTED),
            Rule(
                "a value that is no text",
                "name: w\nenv: {A: 1}",
                NONE_KNOWN,
                ERROR,
                "env[A]",
                "WrongType",
                "a text in the API",
                cel=True,
            ),
            Rule(
                "a name that a pod cannot have",
                "name: w\nenv: {A B: x}",
                NONE_KNOWN,
                ERROR,
                "env[A B]",
                "InvalidValue",
                "Kubernetes refuses it",
            ),
            Rule(
                "`III_URL`, `III_ENGINE_URL`",
                "name: w\nenv: {III_URL: x}",
                by_add(WARNS),
                WARNING,
                "env[III_URL]",
                "Dropped",
                "the operator sets it",
            ),
        ),
    ),
    (
        "`resources`",
        (
            Rule(
                "`cpus` and `memory` (MiB), whole numbers",
                "name: w\nresources: {cpus: 2, memory: 512}",
                by_add(TAKES),
                ACCEPTED,
                here="are the pod's limits where `spec.resources` is left out; without them there is no limit (iii: 2 and 2048)",
            ),
            Rule(
                "fractions",
                "name: w\nresources: {cpus: 1.5}",
                NONE_KNOWN,
                ERROR,
                "resources.cpus",
                "WrongType",
                "a whole number in the API",
                cel=True,
            ),
            Rule(
                "0",
                "name: w\nresources: {memory: 0}",
                NONE_KNOWN,
                ERROR,
                "resources.memory",
                "OutOfRange",
                "a pod without memory does not run",
                cel=True,
            ),
        ),
    ),
)

RULES = tuple(rule for _, rules in FIELDS for rule in rules)

HEAD = """<!-- Generated by `make docs` from tests/manifest_page.py, whose rows a test runs. Do not edit. -->
# The manifest

`iii.worker.yaml` describes a worker. A Worker has it inline in `spec.manifest`, or names a ConfigMap in `spec.manifestFrom`:

```yaml
apiVersion: agentos.dev/v1alpha1
kind: Worker
metadata:
  name: greeter
spec:
  image: ghcr.io/acme/greeter:1.0.0
  manifest:
    iii: v1
    name: greeter
    dependencies:
      memory: ^1.2
```

The file has two shapes. The one **for the registry** has `deploy`, with `language` and `manifest` (the path of `Cargo.toml`,
`package.json` or `pyproject.toml`); the one **for running** has `scripts` or `runtime`. Both may be in one file, and a `name` is
all that is needed here.

## What is refused

Four programs of iii read the file, by different rules: `iii worker add` of 0.11 and of 0.23, worker-compose, and the registry's
CI. This is what we say of it:

- an **error** is what none of them knows, what all of them that look at it refuse, and what cannot run in a cluster;
- a **warning** is what only some of them refuse or warn of; the Worker is admitted;
- everything else is accepted without a word. Where the platform itself makes more, or less, of something, the last column says it.

The same rules, with the same words, are applied in four places, and each tells all that is wrong at once:

| where | what it sees |
|---|---|
| the API server, by the CRD's schema and CEL | rows with ✓ under *API*, even while the operator is away |
| the admission webhook | everything about a manifest that is inline |
| the operator: condition `ManifestValid` | everything, a ConfigMap's text too: duplicate keys and the like, with their lines |
| `agentos validate FILE…` | everything, with lines; a ConfigMap in the same files too |

What cannot be told from the manifest alone is left to the readers: that the file `manifest` names is there, that the worker's
folder has its name, that a bundle's archive has the file at its root.

Dependencies that lead back to where they began are an error of `agentos validate` (among the Workers, and among the manifests,
that it is given), a warning at apply, and condition `DependenciesReady` with reason `DependencyCycle`.

## Rule by rule

Of each reader: **takes** it, **ignores** it, **warns** of it, **refuses** it; `?` is not known, and counts for nothing.
"""


def verdict_by_policy(rule: Rule) -> str:
    """What the policy says of a rule: by the readers that look at it, and by whether it can run here."""
    looking = {each for each in rule.readers if each not in {IGNORES, NOT_KNOWN}}
    if looking == {REFUSES}:
        return ERROR
    return WARNING if looking & {REFUSES, WARNS} else ACCEPTED


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for field, rules in FIELDS:
        lines += [
            f"### {field}",
            "",
            "| rule | add 0.11 | add 0.23 | compose | CI | we | API | here |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for rule in rules:
            ours = rule.verdict if rule.verdict == ACCEPTED else f"**{rule.verdict}** `{rule.reason}`"
            cells = (rule.says, *rule.readers, ours, "✓" if rule.cel else "", rule.here)
            lines.append(f"| {' | '.join(cells)} |".replace("  |", " |"))
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
