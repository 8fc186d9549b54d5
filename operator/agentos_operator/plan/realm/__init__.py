"""What a Realm should look like: one module for each condition, named as in the table of reasons; ``stages`` runs them."""

from .deleting import deleting
from .namespace_ready import own_namespace
from .snapshot import RealmInput, RealmPlan
from .stages import plan

__all__ = ["RealmInput", "RealmPlan", "deleting", "own_namespace", "plan"]
