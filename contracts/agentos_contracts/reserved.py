"""Names of a realm's objects that are the operator's alone: one list for every field in which a Worker can name an object."""

ENGINE_NAME = "agentos-engine"
TOKEN_SECRET_PREFIX = "agentos-token-"  # noqa: S105 (a name)
"""What the names of the Secrets with the workers' identities begin with."""
API_KEY_SECRET = "agentos-api-key"  # noqa: S105 (a name)
"""Name of the Secret in a realm's namespace that holds the key of its REST port."""
ENGINE_VOLUME_PREFIX = f"data-{ENGINE_NAME}-"
"""What the names of the PersistentVolumeClaims of the realm's engine begin with."""

_TOKEN = "holds a Worker's identity on the bus, which no other may read; name another Secret"  # noqa: S105
_API_KEY = "holds the key of the realm's REST port, which is for its callers; name another Secret"
_ENGINE_VOLUME = "is the volume on which the realm's engine keeps the data of all workers; name another"


def reserved_object(name: str) -> str | None:
    """Return why a Worker may not name this object, as the end of a sentence; None when it may."""
    if name.startswith(TOKEN_SECRET_PREFIX):
        return _TOKEN
    if name == API_KEY_SECRET:
        return _API_KEY
    return _ENGINE_VOLUME if name.startswith(ENGINE_VOLUME_PREFIX) else None
