"""Whatever stands in the files of a project: what is written is valid, says the same in every YAML, and has no secret."""

import json
import string
import tempfile
from pathlib import Path
from typing import Any

from agentos.importing.commands import without_secrets
from agentos.importing.importer import import_files
from agentos.importing.project import ImportRefused
from agentos.resource_yaml import resource_yaml
from agentos_contracts.documents import read_documents
from agentos_contracts.findings import errors
from agentos_contracts.validation import validate
from hypothesis import given, settings
from hypothesis import strategies as st

SECRET = "s3cr3t-value-nobody-may-see"

texts = st.text(max_size=40) | st.text(string.printable, max_size=40)
words = st.text(string.ascii_letters + string.digits + "._-/", min_size=1, max_size=12)
names = st.sampled_from(["API_KEY", "TOKEN", "LEVEL", "III_URL", "yes", "N", "PATH"]) | words
values = texts | st.just(SECRET) | st.sampled_from(["${X}", "${X:1}", "${TOKEN:" + SECRET + "}", "yes", "1e3", "a: b"])
scripts = st.one_of(
    texts,
    st.builds(
        lambda go, variable, value, rest: f"{go}{variable}={value} {rest}",
        st.sampled_from(["", "cd a && ", "cd ../a && ", "cd 'a b' && "]), names, values, texts,
    ),
    st.lists(words | values, max_size=6).map(" ".join),
)  # fmt: skip
said = scripts.filter(lambda text: text.strip())
anything = st.recursive(st.none() | st.booleans() | texts, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def entry(name: str, **options: Any) -> Any:
    """An entry of a config file: some of the options."""
    return st.fixed_dictionaries({"name": st.just(name), "config": st.fixed_dictionaries({}, optional=options)})


store = st.sampled_from(["kv", "redis", "builtin"]).map(
    lambda name: {"name": name, "config": {"store_method": "file_based"}}
)
once = st.fixed_dictionaries(
    {},
    optional={
        "http": entry("iii-http", port=st.integers(1, 999), cors=st.just({"allowed_origins": ["x"]})),
        "state": entry("state", adapter=store, max_value_bytes=st.integers(1, 9)),
        "queue": entry("iii-queue", adapter=store, queue_configs=st.just({"q": {"max_retries": 9}})),
    },
).map(lambda found: list(found.values()))
images = st.fixed_dictionaries({"name": st.just("x") | words, "image": texts | st.just("ghcr.io/a/b:1")})
execs = st.fixed_dictionaries(
    {"name": st.just("iii-exec"), "config": st.fixed_dictionaries({"exec": st.lists(said, min_size=1, max_size=3)})}
)
configs = st.builds(lambda first, others: {"workers": first + others}, once, st.lists(execs | images, max_size=4))
wild_configs = st.fixed_dictionaries(
    {"workers": st.lists(st.dictionaries(st.sampled_from(["name", "class", "image", "config"]), anything), max_size=3)}
)
environments = st.dictionaries(
    st.sampled_from(["API_KEY", "TOKEN", "LEVEL", "POD_UID", "yes", "N", "PATH"]), values, max_size=4
)
keys = ["a", "b", "engine", "iii-http", "A_b", "realm", "agentos-engine", "a-b"]
containers = st.fixed_dictionaries(
    {"worker": st.sampled_from(["path://a", "path://a/", "path://..", "package://x/y"]), "version": st.just("1.0.0")},
    optional={
        "environment": environments,
        "env_file": st.lists(st.just(".env") | words, max_size=2),
        "working_dir": words,
        "scripts": st.dictionaries(st.sampled_from(["pre_run", "post_run"]), said, max_size=2),
        "startup_timeout": st.sampled_from(["60s", "2m"]),
    },
)


def linked(found: dict[str, Any]) -> dict[str, Any]:
    """Each container waits for the one before it."""
    for before, after in zip(found, list(found)[1:], strict=False):
        found[after]["depends_on"] = [before]
    return {"containers": found}


composes = st.dictionaries(st.sampled_from(keys), containers, max_size=5).map(linked)
wild_composes = st.fixed_dictionaries(
    {"containers": st.dictionaries(texts, st.dictionaries(texts | st.just("worker"), anything, max_size=3), max_size=3)}
)


def imported(name: str, document: Any) -> list[str]:
    """The texts that are made of a file in a small project; none when it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for worker in ("a", "b"):
            (root / worker).mkdir()
        manifest = f"name: beta\nscripts: {{start: x}}\nenv: {{TOKEN: {SECRET}, LEVEL: 'yes'}}\n"
        (root / "a/iii.worker.yaml").write_text(manifest)
        (root / ".env").write_text(f"SOME={SECRET}\n")
        (root / name).write_text(json.dumps(document, ensure_ascii=False), "utf-8")  # YAML too
        try:
            written, remarks = import_files(
                [str(root / name)], out=root / "fleet", realm="r", namespace="n", force=False
            )
        except ImportRefused:
            assert not (root / "fleet").exists()
            return []
        made = [Path(path).read_text("utf-8") for path in written]
        if SECRET not in json.dumps(document, ensure_ascii=False):
            assert SECRET not in "".join([*made, *map(str, remarks)])
        assert all(each.what and "\n" not in str(each) for each in remarks)
        return made


def check(made: list[str]) -> None:
    found = set()
    for text in made:
        as_kubectl, _ = read_documents(text, max_bytes=1 << 21, yaml_version=(1, 1))
        as_ours, _ = read_documents(text, max_bytes=1 << 21)
        assert as_kubectl[0].value == as_ours[0].value
        assert errors(validate(as_kubectl[0].value)) == []
        found.add((as_kubectl[0].value["kind"], as_kubectl[0].value["metadata"]["name"]))
    assert len(found) == len(made)


@settings(max_examples=150, deadline=None)
@given(configs | wild_configs)
def test_any_config_file_gives_valid_resources_or_findings(document: Any):
    check(imported("config.yaml", document))


@settings(max_examples=150, deadline=None)
@given(composes | wild_composes)
def test_any_compose_file_gives_valid_resources_or_findings(document: Any):
    check(imported("worker-compose.yaml", document))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(texts, texts | st.lists(texts | st.integers() | st.booleans(), max_size=3), max_size=4))
def test_what_is_written_as_yaml_is_read_as_it_was(resource: Any):
    text = resource_yaml(resource, heading=["a comment\nof two lines"])

    for version in ((1, 1), (1, 2)):
        documents, findings = read_documents(text, max_bytes=1 << 20, yaml_version=version)
        assert findings == []
        assert documents[0].value == resource


@settings(deadline=None)
@given(
    st.lists(words, max_size=3),
    st.sampled_from(["--api-key {}", "--token={}", "API_KEY={}", "--password '{}'", 'X="redis://u:{}@h"']),
    st.lists(words, max_size=3),
)
def test_a_secret_in_a_command_is_found_wherever_it_stands(before: list[str], given: str, after: list[str]):
    script, names = without_secrets(" ".join([*before, given.format(SECRET), *after]))

    assert SECRET not in script
    assert names


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "node",
                'MODE="a b"',
                "-H'x: y'",
                "'a b'",
                '"c d"e',
                "sh -c 'x && y=1 z'",
                "--level",
                "$X",
                "TOKEN=$(cat",
                "f)",
                "--token $T",
                "API_KEY=${K-}",
                "&&",
                ";",
                "a'",
                '"',
            ]
        ),
        max_size=6,
    )
)
def test_a_command_without_a_secret_stays_as_it_is(parts: list[str]):
    script = " ".join(parts)

    assert without_secrets(script) == (script, [])
