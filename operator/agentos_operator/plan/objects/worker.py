"""A Worker's own objects beside its Deployment."""

import base64
import hashlib

from agentos_contracts.reserved import TOKEN_SECRET_PREFIX

from ...kinds import Object
from .metadata import seal, worker_metadata


def token_secret_name(worker: str) -> str:
    return f"{TOKEN_SECRET_PREFIX}{worker}"


def token_hash(token: str) -> str:
    """By which a pod template tells which token its pods have."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def worker_service_account(worker: Object, realm: str) -> Object:
    """An account with no rights; its token is not mounted."""
    return seal(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": worker_metadata(worker, realm),
            "automountServiceAccountToken": False,
        }
    )


def worker_token_secret(worker: Object, realm: str, token: str) -> Object:
    """The worker's identity on the bus; deleting the Worker deletes it."""
    metadata = worker_metadata(worker, realm, token_secret_name(worker["metadata"]["name"]))
    data = {"token": base64.b64encode(token.encode()).decode()}
    return seal(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": data,
        }
    )
