import pytest
from agentos_contracts import reasons
from agentos_contracts.dependencies import Dependency, unmet

READY = Dependency("mem", "memory", "1.4.0", ready=True)
STARTING = Dependency("mem", "memory", "1.4.0", ready=False)
UNKNOWN = Dependency("mem", "memory", None, ready=True)


@pytest.mark.parametrize(
    ("dependencies", "providers"),
    [
        pytest.param({}, [], id="nothing is needed"),
        pytest.param({"iii-state": "^1"}, [], id="the engine has it"),
        pytest.param({"memory": "^1.2"}, [READY], id="a ready Worker fits"),
        pytest.param({"memory": "^1.2"}, [STARTING, READY], id="one of two is ready"),
        pytest.param({"memory": " * "}, [UNKNOWN], id="any version will do"),
    ],
)
def test_what_is_there_is_not_lacking(dependencies, providers):
    assert unmet(dependencies, providers, {"iii-state"}) is None


@pytest.mark.parametrize(
    ("wanted", "providers", "reason", "said"),
    [
        ("^1", [], reasons.DEPENDENCY_MISSING, "needs memory ^1, which no Worker here has as its manifest's name; "),
        (
            "^1",
            [Dependency("memory", "other", "1.0.0", ready=True)],
            reasons.DEPENDENCY_MISSING,
            "needs memory ^1, which no Worker here has as its manifest's name; ",
        ),
        ("^2", [READY], reasons.DEPENDENCY_VERSION, "needs memory ^2; Worker mem has 1.4.0; "),
        ("^2", [UNKNOWN], reasons.DEPENDENCY_VERSION, "needs memory ^2; Worker mem has no known version; "),
        ("^1", [STARTING], reasons.DEPENDENCY_NOT_READY, "needs memory ^1; Worker mem is not Ready yet"),
    ],
)
def test_what_is_lacking_is_said(wanted, providers, reason, said):
    lacking = unmet({"memory": wanted}, iter(providers), set())
    assert lacking is not None
    assert lacking[0] is reason
    assert lacking[1].startswith(said)


def test_of_several_the_first_by_name_is_told():
    lacking = unmet({"z": "*", "iii-state": "*", "b": "*"}, [], {"iii-state"})
    assert lacking is not None
    assert lacking[1].startswith("needs b *")
