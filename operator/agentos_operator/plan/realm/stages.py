"""The stages of a decision on one Realm: one for each condition, in the order in which they have to become true."""

from agentos_contracts.external_engine import external_engine
from agentos_contracts.reasons import NOT_STARTED, RealmCondition
from agentos_contracts.worker import ENGINE_NAME

from ...kinds import HTTP_ROUTE, INGRESS, NETWORK_POLICY, Key, Object, key_of
from ..conditions import Verdict
from ..objects.engine import engine_service, engine_service_account, engine_statefulset, http_auth, verify_keys_secret
from ..objects.exposure import exposure, http_ingress, http_route
from ..objects.network_policy import WORKERS_POLICY, engine_network_policy, workers_network_policy
from ..objects.network_policy import wanted as wants_network_policy
from ..objects.realm import api_key_secret, realm_namespace
from .engine_available import engine_available
from .engine_linked import engine_linked
from .exposed import exposed
from .namespace_ready import namespace_is_right, namespace_ready
from .snapshot import RealmInput, RealmPlan
from .status import status


def plan(i: RealmInput) -> RealmPlan:
    """Decides. Pure: the same input gives the same plan."""
    verdicts: dict[str, Verdict] = {RealmCondition.NAMESPACE_READY: namespace_ready(i)}
    mine = verdicts[RealmCondition.NAMESPACE_READY].ok
    children: tuple[Object, ...] = ()
    dedicated = external_engine(i.realm) is None
    if mine and dedicated:
        # Before the engine, so that it is never reached by whom it should not.
        children = (
            *_network_policies(i),
            engine_service_account(i.realm),
            engine_service(i.realm),
            *_exposure(i),
            verify_keys_secret(i.realm, i.verify_keys),
            engine_statefulset(i.realm, i.image, i.engine_environment),
        )
    verdicts[RealmCondition.ENGINE_AVAILABLE] = engine_available(i) if mine else Verdict(False, NOT_STARTED)
    verdicts[RealmCondition.ENGINE_LINKED] = engine_linked(i)
    verdicts[RealmCondition.EXPOSED] = exposed(i) if mine else Verdict(False, NOT_STARTED)
    namespace = realm_namespace(i.realm) if mine and not namespace_is_right(i) else None
    api_key = api_key_secret(i.realm) if mine and dedicated and "apiKeysFile" in http_auth(i.realm) else None
    absent = _absent(i, children) if mine and dedicated else ()
    return RealmPlan(namespace, api_key, children, absent, mine and not i.token_missing, status(i, verdicts))


def _network_policies(i: RealmInput) -> tuple[Object, ...]:
    if not wants_network_policy(i.realm):
        return ()
    return engine_network_policy(i.realm, i.operator_peers, i.metrics_peers), workers_network_policy(i.realm)


def _exposure(i: RealmInput) -> tuple[Object, ...]:
    match exposure(i.realm).get("type"):
        case "Ingress":
            return (http_ingress(i.realm),)
        case "Gateway" if i.gateway_api:
            return (http_route(i.realm),)
        case _:
            return ()


def _absent(i: RealmInput, children: tuple[Object, ...]) -> tuple[Key, ...]:
    """What a Realm may have asked for before, and does not any more."""
    namespace = i.realm["spec"]["namespace"]
    optional = (
        (NETWORK_POLICY, ENGINE_NAME),
        (NETWORK_POLICY, WORKERS_POLICY),
        (INGRESS, ENGINE_NAME),
        (HTTP_ROUTE, ENGINE_NAME),
    )
    made = {key_of(child) for child in children}
    return tuple(key for kind, name in optional if (key := Key(kind.kind, namespace, name)) not in made)
