"""The stages of a decision on one Worker: one for each condition, in the order in which they have to become true."""

from agentos_contracts.effective import Effective
from agentos_contracts.reasons import HANDING_OVER, NOT_STARTED, SATISFIED, WorkerCondition

from ...kinds import DEPLOYMENT, DISRUPTION_BUDGET, Object
from ...settings import REGISTERED_GATE
from ..conditions import Verdict, is_true, summarize
from ..objects.deployment import worker_deployment
from ..objects.disruption_budget import worker_disruption_budget
from ..objects.worker import token_hash, worker_service_account, worker_token_secret
from ..pods import REGISTRATION_GRACE, containers_ready_for, live
from .available import available
from .dependencies_ready import dependencies_ready
from .engine_linked import engine_linked
from .functions_claimed import functions_claimed, must_not_run
from .functions_in_sync import functions_in_sync
from .manifest_valid import manifest_valid
from .registered import gate, is_about_to_get_more, pod_answers, registered
from .replicas import replicas, says
from .snapshot import EngineView, WorkerInput, WorkerPlan
from .status import status
from .within_quota import within_quota

UNREADY_RETRY = 30.0
"""Seconds after which a Worker that runs and is not Ready is looked at again without any event."""


def plan(i: WorkerInput) -> WorkerPlan:
    """Decides. Pure: the same input gives the same plan."""
    verdicts: dict[str, Verdict] = {
        WorkerCondition.MANIFEST_VALID: manifest_valid(i),
        WorkerCondition.ENGINE_LINKED: engine_linked(i),
        WorkerCondition.WITHIN_QUOTA: within_quota(i),
        WorkerCondition.FUNCTIONS_CLAIMED: functions_claimed(i),
        WorkerCondition.DEPENDENCIES_READY: dependencies_ready(i),
    }
    started = i.deployment is not None
    in_realm = i.engine is not None
    valid, claim = verdicts[WorkerCondition.MANIFEST_VALID].ok, verdicts[WorkerCondition.FUNCTIONS_CLAIMED]
    fits, claimed = verdicts[WorkerCondition.WITHIN_QUOTA].ok, claim.ok or claim.reason is HANDING_OVER
    may_start = in_realm and valid and fits and claimed and verdicts[WorkerCondition.DEPENDENCIES_READY].ok
    if started and not verdicts[WorkerCondition.DEPENDENCIES_READY].ok and in_realm and valid and fits and claimed:
        # Dependencies gate the first start only; what runs goes on, and is updated.
        may_start = True
        verdicts[WorkerCondition.DEPENDENCIES_READY] = Verdict(
            True,
            SATISFIED,
            f"were ready at the first start; now: {verdicts[WorkerCondition.DEPENDENCIES_READY].message}",
        )
    children: tuple[Object, ...] = ()
    if may_start and i.effective is not None and i.engine is not None:
        children = _children(i, i.effective, i.engine)
    # The pods outlast the engine of a deleted Realm: while it ends they answer the calls in progress.
    stop = started and ((not in_realm and not i.engine_ending) or must_not_run(i))
    runs = (started and not stop) or bool(children)
    verdicts[WorkerCondition.AVAILABLE] = available(i) if runs else Verdict(False, NOT_STARTED)
    verdicts[WorkerCondition.REGISTERED] = registered(i) if runs else Verdict(False, NOT_STARTED)
    in_sync = functions_in_sync(i) if runs else Verdict(False, NOT_STARTED)
    ready = summarize(verdicts).ok or not runs
    wanted = [(pod, gate(i, pod)) for pod in live(i.pods)]
    gates = tuple((pod, is_open) for pod, is_open in wanted if is_open != is_true(pod, REGISTERED_GATE))
    unwanted = (DEPLOYMENT, DISRUPTION_BUDGET) if stop else ()
    if children and not any(child["kind"] == DISRUPTION_BUDGET.kind for child in children):
        unwanted = (DISRUPTION_BUDGET,)
    return WorkerPlan(
        children, unwanted, gates, status(i, verdicts, in_sync, children, running=runs), _look_again_after(i, ready)
    )


def _children(i: WorkerInput, effective: Effective, engine: EngineView) -> tuple[Object, ...]:
    realm = engine.realm
    accounts = () if i.worker["spec"].get("serviceAccountName") else (worker_service_account(i.worker, realm),)
    number = replicas(i)
    budgets = (worker_disruption_budget(i.worker, realm),) if number.at_least > 1 else ()
    digest = token_hash(i.token) if i.token else ""
    # Somebody else's engine gets no token of the operator's.
    tokens = (worker_token_secret(i.worker, realm, i.token),) if i.token else ()
    deployment = worker_deployment(
        i.worker, realm, effective, digest, number.wanted, says(i.worker["spec"]), engine.external
    )
    return (*tokens, *accounts, *budgets, deployment)


def _look_again_after(i: WorkerInput, ready: bool) -> float | None:
    """When a grace ends that this plan relied on."""
    if i.engine is None:
        return None
    if not i.engine.linked:
        return i.grace - i.engine.down_for + 0.1 if i.engine.down_for < i.grace else None
    grace = [
        i.grace - min(i.quiet_for.get(pod["metadata"]["uid"], 0.0), i.engine.up_for) + 0.1
        for pod in live(i.pods)
        if gate(i, pod) and not pod_answers(i, pod)
    ]
    connecting = [
        REGISTRATION_GRACE - seconds + 0.1
        for pod in live(i.pods)
        if (seconds := containers_ready_for(pod, i.now)) is not None and seconds < REGISTRATION_GRACE
    ]
    granting = [
        REGISTRATION_GRACE - i.quiet_for.get(pod["metadata"]["uid"], 0.0) + 0.1
        for pod in live(i.pods)
        if is_about_to_get_more(i, pod)
    ]
    # What is not watched may be what keeps it from being Ready, so that is looked at again.
    return min([*grace, *granting, *([] if ready else [*connecting, UNREADY_RETRY])], default=None)
