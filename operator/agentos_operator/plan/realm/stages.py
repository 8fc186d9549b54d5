"""The stages of a decision on one Realm: one for each condition, in the order in which they have to become true."""

from agentos_contracts.reasons import NOT_STARTED, RealmCondition

from ...kinds import Object
from ..conditions import Verdict
from ..objects.engine import engine_service, engine_service_account, engine_statefulset, http_auth
from ..objects.realm import api_key_secret, realm_namespace
from .engine_available import engine_available
from .engine_linked import engine_linked
from .namespace_ready import namespace_is_right, namespace_ready
from .snapshot import RealmInput, RealmPlan
from .status import status


def plan(i: RealmInput) -> RealmPlan:
    """Decides. Pure: the same input gives the same plan."""
    verdicts: dict[str, Verdict] = {RealmCondition.NAMESPACE_READY: namespace_ready(i)}
    mine = verdicts[RealmCondition.NAMESPACE_READY].ok
    children: tuple[Object, ...] = ()
    if mine:
        children = (
            engine_service_account(i.realm),
            engine_service(i.realm),
            engine_statefulset(i.realm, i.image, i.verify_keys, i.engine_environment),
        )
    verdicts[RealmCondition.ENGINE_AVAILABLE] = engine_available(i) if mine else Verdict(False, NOT_STARTED)
    verdicts[RealmCondition.ENGINE_LINKED] = engine_linked(i)
    namespace = realm_namespace(i.realm) if mine and not namespace_is_right(i) else None
    api_key = api_key_secret(i.realm) if mine and "apiKeysFile" in http_auth(i.realm) else None
    return RealmPlan(namespace, api_key, children, status(i, verdicts))
