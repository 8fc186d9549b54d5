import json
from pathlib import Path

import pytest
from agentos_contracts.semver import Range, RangeError, VersionError, parse_version
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0", "2.0.0-rc.1", "1.3.0-rc.1"]),
        ("1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0"]),
        ("1.2", ["1.2.0", "1.9.9"], ["1.1.9", "2.0.0"]),
        ("1", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0"]),
        ("^0", ["0.0.0", "0.9.9"], ["1.0.0"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.2", "0.0.4"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("~1", ["1.0.0", "1.9.9"], ["2.0.0"]),
        ("~1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("=1.2.3", ["1.2.3", "1.2.3+build"], ["1.2.4"]),
        ("=1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
        (">1", ["2.0.0"], ["1.9.9"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        (">=1.2", ["1.2.0", "9.0.0"], ["1.1.9"]),
        ("<2", ["1.9.9", "0.0.0"], ["2.0.0"]),
        ("<=1.2", ["1.2.9"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        (">=1, <2", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0"]),
        (" >= 1.5 ,< 1.7 ", ["1.5.0", "1.6.9"], ["1.7.0"]),
        ("*", ["0.0.0", "9.9.9"], ["1.0.0-rc.1"]),
        ("1.*", ["1.0.0", "1.9.9"], ["2.0.0"]),
        ("1.2.*", ["1.2.0", "1.2.9"], ["1.3.0"]),
        ("1.x", ["1.9.9"], ["2.0.0"]),
        ("^1.2.3-rc.1", ["1.2.3-rc.1", "1.2.3-rc.2", "1.2.3", "1.4.0"], ["1.2.3-beta", "1.4.0-rc.1", "2.0.0"]),
        ("=1.2.3-rc.1", ["1.2.3-rc.1"], ["1.2.3", "1.2.3-rc.2"]),
    ],
)
def test_a_range_contains_what_it_contains_in_rust(text, inside, outside):
    wanted = Range.parse(text)
    assert [version for version in inside if not wanted.contains(version)] == []
    assert [version for version in outside if wanted.contains(version)] == []
    assert str(wanted) == text


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "'^1.2'"),
        ("abc", "'^1.2'"),
        (">=1 <2", "commas, such as '>=1, <2'"),
        ("^1 || ^2", "'||' is not supported"),
        ("1.*.3", "'1.*'"),
        ("1,", "'^1.2'"),
        ("v1.2", "'^1.2'"),
        ("1.2.3.4", "'^1.2'"),
        ("01.2", "'^1.2'"),
        ("^1.2.3-", "'^1.2'"),
        ("1" * 300, "at most 256 characters"),
        (5, "got int"),
    ],
)
def test_a_bad_range_says_how_a_good_one_looks(text, remedy):
    with pytest.raises(RangeError) as caught:
        Range.parse(text)
    assert remedy in str(caught.value)


@given(st.one_of(st.text(max_size=40), st.text(alphabet="0123456789.*xX^~<>=,- +rc", max_size=30)))
def test_any_text_is_a_range_or_a_range_error(text):
    try:
        wanted = Range.parse(text)
    except RangeError:
        return
    assert wanted.contains("1.2.3") in (True, False)


@pytest.mark.parametrize("text", ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3.4", "x" * 300, "1" * 5000, None, 1.2])
def test_a_bad_version_says_how_a_good_one_looks(text):
    with pytest.raises(VersionError, match=r"write three numbers such as '1\.2\.3'"):
        parse_version(text)


CRATE = json.loads(Path(__file__).with_name("semver_crate.json").read_text())
"""What Rust's ``semver`` crate says of ranges: ``!`` when it refuses one, else 1 or 0 for each of the versions."""


def test_ranges_are_read_as_by_the_crate():
    for text, answers in CRATE["ranges"].items():
        try:
            wanted = Range.parse(text)
        except RangeError:
            assert answers == "!", text
        else:
            assert "".join(str(int(wanted.contains(version))) for version in CRATE["versions"]) == answers, text
    assert sum(answers != "!" for answers in CRATE["ranges"].values()) > 100


@pytest.mark.parametrize(
    ("text", "names"), [("^1.2.3-rc.1", True), (">=1, <2.0.0-0", True), ("^1.2", False), ("*", False)]
)
def test_a_range_knows_whether_it_names_a_pre_release(text, names):
    assert Range.parse(text).names_pre_release is names
