"""The `agentos-operator` command."""

import asyncio

import pytest
from agentos_contracts.tokens import Identity, Role, Verifier
from agentos_operator import __main__ as command
from agentos_operator.api import Api
from agentos_operator.keys import signing_key

ENVIRONMENT = {"POD_NAMESPACE": "agentos-system", "POD_NAME": "operator-0", "AGENTOS_IMAGE": "agentos:1"}


@pytest.fixture
def called(api, monkeypatch):
    """Runs the command with these arguments on an API in memory."""

    async def connect() -> object:
        return api

    async def close() -> None:
        pass

    api.close = close
    monkeypatch.setattr(Api, "connect", connect)
    monkeypatch.setattr(command, "_log_json", lambda level: None)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["agentos-operator", *arguments])
        command.main()

    return call


@pytest.mark.parametrize(
    ("arguments", "subject"), [(["--realm", "prod"], "host"), (["--realm", "prod", "--subject", "ann"], "ann")]
)
def test_a_token_is_printed_with_which_a_person_may_connect(api, called, capsys, arguments, subject):
    called("token", *arguments)
    token = capsys.readouterr().out.strip()
    key = asyncio.run(signing_key(api, "agentos-system"))
    told = Verifier.from_text(key.verify_key).verify(token)
    assert told == Identity("prod", subject, subject, Role.HOST)


@pytest.mark.parametrize("missing", sorted(ENVIRONMENT))
def test_a_missing_setting_is_named(called, monkeypatch, capsys, missing):
    monkeypatch.delenv(missing)
    with pytest.raises(SystemExit) as ended:
        called("run")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"agentos-operator: the environment variable {missing} is not set; the chart sets it\n"
    )
