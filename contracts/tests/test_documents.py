import pytest
from agentos_contracts.documents import MAX_DEPTH, read_documents
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 64 * 1024


def values(text, **options):
    documents, findings = read_documents(text, max_bytes=LIMIT, **options)
    assert findings == []
    return [document.value for document in documents]


def only_finding(text):
    documents, findings = read_documents(text, max_bytes=LIMIT)
    assert documents == []
    assert len(findings) == 1
    return findings[0]


def test_documents_become_plain_values():
    text = "a: 1\nb: [x, 2.5, true, null, 2026-01-02]\n---\n- &i {k: v}\n- *i\n---\nx: &m {p: 1, q: 1}\ny: {<<: *m, q: 2}\n"
    assert values(text) == [
        {"a": 1, "b": ["x", 2.5, True, None, "2026-01-02"]},
        [{"k": "v"}, {"k": "v"}],
        {"x": {"p": 1, "q": 1}, "y": {"p": 1, "q": 2}},
    ]


def test_kubectl_reads_yes_as_a_boolean_and_iii_as_a_text():
    assert values("a: yes") == [{"a": "yes"}]
    assert values("a: yes", yaml_version=(1, 1)) == [{"a": True}]


@pytest.mark.parametrize(
    ("text", "by_iii", "by_kubectl"),
    [
        ("yes", "yes", True),
        ("off", "off", False),
        ("010", 10, 8),
        ("12:30:45", "12:30:45", "12:30:45"),
        ("2026-01-02 03:04:05", "2026-01-02 03:04:05", "2026-01-02 03:04:05"),
        ("1e3", 1000.0, 1000.0),
        ("0x1f", 31, 31),
        ("~", None, None),
        ("!!str 5", "5", "5"),
        ("'yes'", "yes", "yes"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_scalar_is_what_its_reader_takes_it_for(text, by_iii, by_kubectl):
    assert values(f"a: {text}") == [{"a": by_iii}]
    assert values(f"a: {text}", yaml_version=(1, 1)) == [{"a": by_kubectl}]


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert values("\ufeffname: w") == [{"name": "w"}]


def test_a_path_leads_to_its_line_and_an_unknown_one_to_the_nearest():
    (document,), _ = read_documents(
        "spec:\n  owns:\n    - a\n    - b\n  env: {A.B: 1}\n  manifest:\n    x: 1\n", max_bytes=LIMIT
    )
    assert document.line_of("spec.owns[1]") == 4
    assert document.line_of("spec.owns[9]") == 2
    assert document.line_of("spec.env[A.B]") == 5
    assert document.line_of("spec.manifest.y.z") == 6
    assert document.line_of("other") == document.line_of("") == 1


def test_all_duplicate_keys_are_found_with_their_lines():
    documents, findings = read_documents("a: 1\nb: {c: 1, c: 2}\na: 2\n", max_bytes=LIMIT)
    assert documents == []
    assert [(finding.reason, finding.line) for finding in findings] == [("DuplicateKey", 2), ("DuplicateKey", 3)]
    assert str(findings[1]) == "the key a is given twice in the same map; remove one"


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("a: [1,\nb: 2", "NotYAML", 2),
        ("a: 'x", "NotYAML", 1),
        ("a: \x01", "NotYAML", None),
        ("a: *nowhere", "NotYAML", 1),
        ("a: !!python/object:os.system x", "UnknownTag", 1),
        ("? [a]\n: b", "KeyNotText", 1),
        ("a: &a [*a]", "TooDeep", 1),
        ("[" * 5000, "TooDeep", None),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "TooDeep", 1),
        ("a: x\n" + "#" * LIMIT, "TooLarge", None),
        ("a: \ud800", "NotText", None),
        ("<<: 5", "BadMerge", 1),
        ("a: b\nc: .nan", "NotJSON", 2),
        ("a: -.inf", "NotJSON", 1),
        ("a: 1e999", "NotJSON", 1),
        ("a: !!bool maybe", "NotYAML", 1),
        ("a: !!int x", "NotYAML", 1),
        ("a: 1\nb: " + "9" * 5000, "NotYAML", 2),
    ],
)
def test_what_cannot_be_read_is_one_finding(text, reason, line):
    finding = only_finding(text)
    assert (finding.reason, finding.line) == (reason, line)
    assert "\n" not in finding.message


def test_an_alias_bomb_is_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert only_finding("\n".join(lines)).reason == "TooLarge"


@given(st.one_of(st.text(max_size=60), st.text(alphabet="ab:-[]{}&*!|>%'\"#,? \n\t<0.", max_size=40)))
def test_any_text_gives_documents_or_findings(text):
    documents, findings = read_documents(text, max_bytes=LIMIT)
    assert not (documents and findings)
