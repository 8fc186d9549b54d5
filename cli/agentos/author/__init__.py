"""What the author of a worker does: make a folder, test it, look at it, build its image."""

from enum import StrEnum


class Language(StrEnum):
    """Languages that ``agentos new`` has a template for."""

    PYTHON = "python"
    NODE = "node"
    RUST = "rust"


class Tool(StrEnum):
    """Programs that build images, in the order in which ``agentos build`` looks for them."""

    DOCKER = "docker"
    PODMAN = "podman"
    BUILDAH = "buildah"
