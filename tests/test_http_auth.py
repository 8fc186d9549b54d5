"""Whatever a Realm may say of its REST port, its engine understands."""

import json

from agentos_contracts.findings import errors
from agentos_contracts.validation import validate_realm
from agentos_engine.config_file.http_auth import parse_http_auth
from agentos_operator.plan.objects.engine import engine_statefulset, http_auth
from hypothesis import given
from hypothesis import strategies as st

KINDS = st.sampled_from(["apiKey", "jwt", "none"])
METHODS = st.lists(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]), min_size=1, max_size=3, unique=True
)
SEGMENTS = st.sampled_from(
    ["a", "b.c", ":id", ":key", "..a", "$(A)", "x:run", "%61", "..", "", "*", "a*", "~", "'", "ü"]
)
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(parts))
ROUTES = st.fixed_dictionaries({"path": PATHS, "auth": KINDS}, optional={"methods": METHODS})
JWT = st.fixed_dictionaries(
    {
        "issuer": st.sampled_from(["https://login.example.org", "$(POD)"]),
        "audience": st.text(min_size=1, max_size=4),
        "jwksUrl": st.sampled_from(["https://login.example.org/keys", "http://dex.auth.svc:5556/keys", "ftp://x"]),
    }
)
HTTP = st.fixed_dictionaries({}, optional={"auth": KINDS, "jwt": JWT, "routes": st.lists(ROUTES, max_size=4)})


def realm(http: dict) -> dict:
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Realm",
        "metadata": {"name": "prod", "uid": "u"},
        "spec": {"namespace": "prod", "http": http},
    }


@given(HTTP)
def test_an_engine_understands_every_realm_that_is_admitted(http):
    resource = realm(http)
    if errors(validate_realm(resource)):
        return
    (container,) = engine_statefulset(resource, "agentos:1")["spec"]["template"]["spec"]["containers"]
    (text,) = [each["value"] for each in container["env"] if each["name"] == "AGENTOS_HTTP_AUTH"]
    told = text.replace("$$", "$")  # as Kubernetes does
    assert json.loads(told) == http_auth(resource)
    options = parse_http_auth(told)
    assert options.auth == http.get("auth", "apiKey")
    assert [rule.path for rule in options.routes] == [route["path"] for route in http.get("routes", ())]
    assert (options.api_keys_file is not None) == options.uses("apiKey", "apiKey")
