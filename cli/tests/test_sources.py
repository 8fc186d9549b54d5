"""Which function ids are found in a worker's source files."""

import os
from pathlib import Path

import pytest
from agentos.author import sources
from agentos.author.sources import Place, literal_ids


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def found(folder: Path, files: dict[str, str]) -> dict[str, list[str]]:
    write(folder, files)
    return {function_id: [str(place) for place in places] for function_id, places in literal_ids(folder).items()}


@pytest.mark.parametrize(
    ("line", "function_id"),
    [
        ('call("memory::recall", {})', "memory::recall"),
        ("call('memory::recall')", "memory::recall"),
        ("call(`memory::recall`)", "memory::recall"),
        ('call("engine::logs::list")', "engine::logs::list"),
        ('call("My-Worker_2::do.it-now")', "My-Worker_2::do.it-now"),
    ],
)
@pytest.mark.parametrize("name", ["worker.py", "worker.mjs", "src/main.rs", "index.ts"])
def test_an_id_in_quotes_is_found_with_its_line(tmp_path, name, line, function_id):
    assert found(tmp_path, {name: f"\n{line}\n"}) == {function_id: [f"{name}:2"]}


@pytest.mark.parametrize(
    "line",
    [
        "std::io::stdout()",
        '# call("memory::recall")',
        '  // call("memory::recall")',
        ' * call("memory::recall")',
        'f"memory::{name}"',
        '"memory::recall and more"',
        '"::recall"',
        '"memory::"',
        '"memory:recall"',
        '"a::' + "x" * 130 + '"',
        '"' + "s" * 64 + '::x"',
        "\"memory::recall'",
    ],
)
def test_what_is_no_id_in_quotes_is_not_found(tmp_path, line):
    assert found(tmp_path, {"worker.py": line}) == {}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "node_modules/x/index.js",
            ".venv/lib/x.py",
            "venv/x.py",
            "target/debug/build/x.rs",
            ".git/x.py",
            "dist/x.js",
        ),
        *("tests/helpers.py", "test/x.mjs", "__tests__/x.ts", "test_worker.py", "worker_test.py", "worker.test.mjs"),
        *("worker.spec.ts", "conftest.py", "README.md", "iii.worker.yaml", "data.json"),
    ],
)
def test_tests_and_the_code_of_others_are_passed_over(tmp_path, name):
    assert found(tmp_path, {name: '"memory::recall"'}) == {}


def test_all_places_are_told_in_their_order(tmp_path):
    files = {"b.py": '"x::y"', "a/z.py": '"x::y"', "a/c.py": '"x::y", "x::y"\n"a::b"\n"x::y"'}
    assert found(tmp_path, files) == {"a::b": ["a/c.py:2"], "x::y": ["b.py:1", "a/c.py:1", "a/c.py:3", "a/z.py:1"]}


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    write(outside, {"x.py": '"memory::recall"'})
    worker = tmp_path / "worker"
    worker.mkdir()
    (worker / "folder").symlink_to(outside)
    (worker / "x.py").symlink_to(outside / "x.py")
    assert literal_ids(worker) == {}


def test_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    assert found(tmp_path, {"worker.py": '"memory::recall"'}) == {"memory::recall": ["worker.py:1"]}


def test_what_is_read_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILES", 3)
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    files = {f"{number}.py": f'"a::f{number}"' for number in range(5)} | {"0.py": '"a::f0"' + " " * 100}
    assert sorted(found(tmp_path, files)) == ["a::f1", "a::f2", "a::f3"]


def test_places_of_one_id_are_bounded(tmp_path):
    write(tmp_path, {"a.py": '"x::y"\n' * 1000})
    assert literal_ids(tmp_path) == {"x::y": [Place("a.py", line) for line in range(1, sources.MAX_PLACES + 1)]}


def test_files_of_any_bytes_are_read(tmp_path):
    (tmp_path / "a.py").write_bytes(b'\xff\xfe\x00 "memory::recall" \xc3\x28')
    assert list(literal_ids(tmp_path)) == ["memory::recall"]
