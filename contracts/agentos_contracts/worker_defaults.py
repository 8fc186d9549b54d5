"""``spec.workerDefaults`` of a Realm: what its Workers have that leave it out themselves."""

from pydantic import Field

from agentos_contracts.pod_template import PodTemplate
from agentos_contracts.resource import Model, Resources
from agentos_contracts.worker import EnvVars, PullSecrets


class WorkerDefaults(Model):
    """What the realm's Workers have that neither their spec nor their manifest says."""

    env: EnvVars | None = Field(
        None,
        description="Environment variables; those of a Worker's manifest and spec of the same name go before them.",
    )
    image_pull_secrets: PullSecrets | None = Field(
        None,
        description="Secrets of the realm's namespace with which images are pulled, for Workers without "
        "spec.imagePullSecrets.",
    )
    resources: Resources | None = Field(
        None,
        description="Compute resources of the container, for Workers that have none in their spec or their manifest.",
    )
    template: PodTemplate | None = Field(
        None,
        description="A part of a pod template, merged into every Worker's pods before the Worker's own; see "
        "kubectl explain worker.spec.template.",
    )
