"""What a Worker should look like: one module for each condition, named as in the table of reasons; ``stages`` runs them."""

from .snapshot import EngineView, Obstacle, WorkerInput, WorkerPlan
from .stages import plan

__all__ = ["EngineView", "Obstacle", "WorkerInput", "WorkerPlan", "plan"]
