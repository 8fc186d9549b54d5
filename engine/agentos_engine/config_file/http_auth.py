"""Reads ``agentos.http``: who may use the REST port. The same object as JSON is the flag ``--http-auth``."""

import json
from typing import Any

from agentos_engine.config_file.document import MAX_DEPTH, Node
from agentos_engine.config_file.findings import Findings
from agentos_engine.config_file.section import Section
from agentos_engine.http_auth.policy import JWT, KINDS, MAX_RULES, HttpAuthOptions, JwtOptions, Policy, Rule, check_path
from agentos_engine.outbound.rules import UrlRefused, parse_url
from agentos_engine.triggers.routes import METHODS

MAX_TEXT = 256 << 10
"""Characters of the flag."""


def read_http_auth(section: Section) -> HttpAuthOptions:
    """Read the block; what is wrong goes to the section's findings."""
    auth = section.choice("auth", "", KINDS) or None
    routes = section.sections("routes", _rule)
    options = HttpAuthOptions(auth, section.optional_text("apiKeysFile"), _jwt(section), routes)
    section.end()
    if len(routes) > MAX_RULES:
        section.error("too_large", f"there are more than {MAX_RULES} routes", "use * for all below a path", "routes")
    if options.uses(JWT, "") and options.jwt is None and "jwt" not in section:
        section.error(
            "missing_key", "auth: jwt is asked for, but jwt is missing", "add `jwt:` with issuer and audience"
        )
    if not section.findings.failed:
        try:
            Policy("", routes)
        except ValueError as error:
            section.error("duplicate_key", str(error), "make one rule of them", "routes")
    return options


def parse_http_auth(text: str) -> HttpAuthOptions:
    """Read the JSON of the flag. Raises ValueError with all that is wrong, in one line."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"more than {MAX_TEXT >> 10} KiB")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f'not JSON: {error.msg} at character {error.pos}; write {{"auth": "apiKey", …}}') from None
    if not isinstance(value, dict):
        raise ValueError('not an object; write {"auth": "apiKey", …}')
    findings = Findings()
    options = read_http_auth(Section(_node(value, 1), "", findings))
    if findings.failed:
        raise ValueError(" | ".join(str(each) for each in findings if each.level == "error"))
    return options


def _rule(section: Section) -> Rule:
    path = section.required_text("path")
    if path:
        try:
            check_path(path)
        except ValueError as error:
            section.error("wrong_type", str(error), "write one such as /webhooks/* or /users/:id", "path")
    methods = tuple(each.upper() for each in section.texts("methods"))
    if wrong := [each for each in methods if each not in METHODS]:
        remedy = f"write some of {', '.join(METHODS)}"
        section.error("wrong_type", f"{wrong[0][:20]!r} is no method of a route", remedy, "methods")
    if "methods" in section and not methods:
        section.error("missing_key", "methods is empty, so the rule would hold for none", "name some", "methods")
    if "auth" not in section:
        section.error("missing_key", "auth is missing", f"write one of {', '.join(KINDS)}")
    return Rule(path, section.choice("auth", KINDS[0], KINDS), tuple(dict.fromkeys(methods)))


def _jwt(outer: Section) -> JwtOptions | None:
    if outer.take("jwt") is None:
        return None
    section = outer.section("jwt")
    url, file = section.optional_text("jwksUrl"), section.optional_text("jwksFile")
    options = JwtOptions(section.required_text("issuer"), section.required_text("audience"), url, file)
    section.end()
    if (url is None) == (file is None):
        section.error("missing_key", "not exactly one of jwksUrl and jwksFile is there", "say where the keys are")
    if url is not None:
        try:
            parse_url(url)
        except UrlRefused as error:
            section.error("wrong_type", str(error), "write https://HOST/PATH", "jwksUrl")
    return options


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _node(value: Any, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return Node({key: _node(each, depth + 1) for key, each in value.items()}, 0)
    if isinstance(value, list):
        return Node([_node(each, depth + 1) for each in value], 0)
    return Node(value, 0)
