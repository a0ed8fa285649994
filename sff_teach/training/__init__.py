"""Training: configuration, loop, history, checkpoints, precision, processes."""

from .config import TrainConfig
from .fit import Evaluation, evaluate, evaluate_votes
from .history import (
    History,
    learning_rate,
    pick_device,
)
from .pipeline import (
    balance,
    fit_pipeline,
)

__all__ = [
    "Evaluation",
    "History",
    "TrainConfig",
    "balance",
    "evaluate",
    "evaluate_votes",
    "fit_pipeline",
    "learning_rate",
    "pick_device",
]
