"""``spec.engine.mode: External``: an engine that somebody else runs, where it is, and with which token it is reached."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from agentos_contracts.findings import Finding, error
from agentos_contracts.resource import DataKey, Model, ObjectName, form, form_rule, rule, rules

TOKEN_PLACE = "$(TOKEN)"  # noqa: S105 (where the token goes)
"""Stands in ``spec.engine.url`` where the token of ``tokenSecretRef`` goes."""

_HOST = "([A-Za-z0-9._-]+|\\[[0-9a-fA-F:]+\\])"
_URL = f"wss?://{_HOST}(:[0-9]{{1,5}})?([/?]([A-Za-z0-9._~%?&=+,/@:-]|[$][(]TOKEN[)])*)?"
_URL_WORDS = (
    "the address of an engine, such as ws://engine.tools.svc:49134 or wss://engine.example.com/w/$(TOKEN)/agentos, "
    "where $(TOKEN) stands for the token of tokenSecretRef"
)

URL_REQUIRED = "is required with mode: External: say where the engine is"
EXTERNAL_ONLY = "is for mode: External only: a dedicated engine is where the operator makes it"
DEDICATED_ONLY = "is for mode: Dedicated only: the operator makes nothing for an engine that somebody else runs"
TOKEN_AND_PLACE = "goes where $(TOKEN) stands in url: give both, or neither"  # noqa: S105
ENGINE_IMMUTABLE = "cannot be changed: its Workers would be on two engines at once; make another Realm"

EngineUrl = Annotated[
    str,
    Field(min_length=1, max_length=1024, json_schema_extra=rules(form_rule(_URL, _URL_WORDS))),
    AfterValidator(form(_URL, _URL_WORDS)),
]


class TokenSecretKey(Model):
    """A key of a Secret in the realm's namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: DataKey = Field("token", description="Key in the Secret.")


_EXTERNAL = "self.mode == 'External'"
ENGINE_RULES = (
    rule(f"!({_EXTERNAL}) || has(self.url)", f"url {URL_REQUIRED}", field_path=".url"),
    rule(f"{_EXTERNAL} || !has(self.url)", f"url {EXTERNAL_ONLY}", field_path=".url"),
    rule(f"{_EXTERNAL} || !has(self.tokenSecretRef)", f"tokenSecretRef {EXTERNAL_ONLY}", field_path=".tokenSecretRef"),
    rule(
        f"!({_EXTERNAL}) || !has(self.url) || has(self.tokenSecretRef) == self.url.contains('{TOKEN_PLACE}')",
        f"tokenSecretRef {TOKEN_AND_PLACE}",
        field_path=".tokenSecretRef",
    ),
    *(
        rule(f"!({_EXTERNAL}) || !has(self.{part})", f"{part} {DEDICATED_ONLY}", field_path=f".{part}")
        for part in ("storage", "resources", "image")
    ),
)
"""CEL rules of ``spec.engine``."""

_WAS = "(has(oldSelf.engine) && oldSelf.engine.mode == 'External')"
_IS = "(has(self.engine) && self.engine.mode == 'External')"
REALM_RULES = (
    rule(f"{_WAS} == {_IS}", f"mode {ENGINE_IMMUTABLE}", field_path=".engine.mode"),
    rule(
        f"!({_WAS} && {_IS}) || !has(self.engine.url) || !has(oldSelf.engine.url) || self.engine.url == oldSelf.engine.url",
        f"url {ENGINE_IMMUTABLE}",
        field_path=".engine.url",
    ),
    rule(f"!{_IS} || !has(self.http)", f"http {DEDICATED_ONLY}", field_path=".http"),
)
"""CEL rules of a Realm's ``spec``."""


def external_findings(spec: dict[str, Any]) -> list[Finding]:
    """Return what is wrong between ``mode`` and the parts of a Realm's spec; each part's form is the model's to report."""
    engine = spec.get("engine")
    if not isinstance(engine, dict):
        return []
    url, token = engine.get("url"), engine.get("tokenSecretRef")
    if engine.get("mode") != "External":
        return [
            error(f"spec.engine.{part}", "Forbidden", EXTERNAL_ONLY)
            for part in ("url", "tokenSecretRef")
            if engine.get(part) is not None
        ]
    found = [
        error(f"spec.engine.{part}", "Forbidden", DEDICATED_ONLY)
        for part in ("storage", "resources", "image")
        if engine.get(part) is not None
    ]
    if spec.get("http") is not None:
        found.append(error("spec.http", "Forbidden", DEDICATED_ONLY))
    if url is None:
        found.append(error("spec.engine.url", "Required", URL_REQUIRED))
    elif isinstance(url, str) and (token is not None) != (TOKEN_PLACE in url):
        found.append(error("spec.engine.tokenSecretRef", "Mismatch", TOKEN_AND_PLACE))
    return found


def external_engine(realm: dict[str, Any]) -> dict[str, Any] | None:
    """Return ``spec.engine`` of a Realm whose engine somebody else runs; None for one with an engine of its own."""
    engine = realm["spec"].get("engine") or {}
    return engine if engine.get("mode") == "External" else None
