"""What comes from Workers' authors, containers and engines: names that would lead elsewhere, and text that terminals act on."""

from datetime import UTC, datetime

import pytest
from agentos_contracts.findings import visible
from agentos_contracts.reasons import CRASH_LOOPING
from agentos_operator.kinds import CONFIG_MAP, NAMESPACE, SECRET, SERVICE_ACCOUNT
from agentos_operator.plan.conditions import Verdict, build_conditions
from agentos_operator.status import refused


@pytest.mark.parametrize(
    "name",
    [
        "..", ".", "../other", "../../kube-system/secrets/x", "/api/v1/secrets", "other/x", "x?watch=true", "x#y", "x%2Fy",
        "%2e%2e", "x;y", "a b", "x\ny", "x\\y", "ünder", "-x", "x-",
    ],
)  # fmt: skip
def test_no_name_leads_a_path_elsewhere(name):
    for kind in (CONFIG_MAP, SECRET):
        with pytest.raises(ValueError, match="is no name of an object"):
            kind.path("team", name)
        with pytest.raises(ValueError, match="is no name of an object"):
            kind.path(name, "x")
    with pytest.raises(ValueError, match="is no name of an object"):
        NAMESPACE.path(None, name)


def test_names_that_objects_have_are_taken():
    assert CONFIG_MAP.path("team-a", "my.config-1") == "/api/v1/namespaces/team-a/configmaps/my.config-1"
    assert SERVICE_ACCOUNT.path("team-a", "x") == "/api/v1/namespaces/team-a/serviceaccounts/x"
    assert CONFIG_MAP.path("team-a") == "/api/v1/namespaces/team-a/configmaps"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("plain, ünïcode and 日本語 stay", "plain, ünïcode and 日本語 stay", id="what can be seen"),
        pytest.param("one\ntwo\r\nthree\tfour", "one two three four", id="lines"),
        pytest.param("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m", id="colours of a terminal"),
        pytest.param("\x1b]0;title\x07", "\\x1b]0;title\\x07", id="a terminal's title"),
        pytest.param("a\u202eb\u2066c", "a\\u202eb\\u2066c", id="turned direction"),
        pytest.param("a\u200bb\u2028c\x00d\x9be", "a\\u200bb\\u2028c\\x00d\\x9be", id="what is not seen"),
    ],
)
def test_words_of_others_become_one_visible_line(text, told):
    assert visible(text) == told
    assert visible(told) == told


HOSTILE = "exec \x1b[2Jfailed:\nReady  True\u202e"


def test_no_condition_has_what_a_terminal_acts_on():
    made = build_conditions(
        {"Available": Verdict(False, CRASH_LOOPING, HOSTILE)},
        settled=True, progress="", before=(), generation=1, now=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert {condition["message"] for condition in made} == {"exec \\x1b[2Jfailed: Ready  True\\u202e"}
    told = refused({"status": {}}, {"conditions": made}, "Available", HOSTILE)["conditions"]
    assert all(condition["message"].isprintable() for condition in told)
