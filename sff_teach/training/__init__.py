"""Training: configuration, loop, history, checkpoints, precision, processes."""

from .config import TrainConfig
from .evaluation import Evaluation, evaluate, evaluate_votes
from .history import History, learning_rate
from .pipeline import balance, fit_pipeline
from .precision import pick_device

__all__ = [
    "Evaluation", "History", "TrainConfig", "balance", "evaluate", "evaluate_votes",
    "fit_pipeline", "learning_rate", "pick_device",
]  # fmt: skip
