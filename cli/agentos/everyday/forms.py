"""Forms of output."""

from enum import StrEnum


class Form(StrEnum):
    """Forms in which a list, or one thing of a list, is shown."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class DataForm(StrEnum):
    """Forms in which a value is shown."""

    JSON = "json"
    YAML = "yaml"
