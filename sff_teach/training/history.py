"""The measurements of a training, and its learning-rate schedule."""

import math
import time
from dataclasses import dataclass, field

import torch

from ..rules import StepResult
from ..util.checks import SFFError

CHECK_EVERY = 50  # steps between two checks that losses are finite
WARM_UP = 0.3  # share of the steps in which the learning rate rises
FIRST_RATE = 0.04  # as a share of the peak


@dataclass
class History:
    """The measurements of ``fit``: one row per epoch, and why training ended.

    Attributes:
        rule: name of the rule.
        settings: of the training, without the rule and the device.
        parameters: how many were trained.
        rows: dicts with epoch (from 1), seconds (of training), steps, complete (False if cut
            short), train_loss and train_accuracy (lists by block; for ``ff`` the share of positives
            above their negatives), and if validated valid_accuracy, valid_loss and
            valid_block_accuracy.
        stopped: None when all epochs ran, else "interrupted", "stopped" or "diverged".
    """

    rule: str
    settings: dict
    parameters: int
    rows: list[dict] = field(default_factory=list)
    stopped: str | None = None

    @property
    def seconds(self) -> float:
        """Training time of all epochs, without validation."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def last(self) -> dict:
        """The row of the last epoch."""
        if not self.rows:
            raise SFFError("history has no rows: fit stopped before its first step")
        return self.rows[-1]

    def column(self, name: str) -> list:
        """One measurement over the epochs, e.g. ``column("valid_accuracy")``."""
        for row in self.rows:
            if name not in row:  # nothing was validated, or the epoch was cut short
                raise SFFError(f'epoch {row["epoch"]} has no "{name}"; it has {", ".join(row)}')
        return [row[name] for row in self.rows]

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.rule}: no epoch ran"
        row = self.last
        result = f"loss {row['train_loss'][-1]:.3f}"
        if "valid_accuracy" in row:
            result = f"validation {row['valid_accuracy']:.1%}"
        ended = f", {self.stopped}" if self.stopped else ""
        return f"{self.rule}: {result} after {row['epoch']} epochs, {self.seconds:.1f} s{ended}"


class EpochMetrics:
    """Sums the results of an epoch's steps on the device, without synchronising with it."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.steps = 0
        self.samples = 0
        self.losses: torch.Tensor | float = 0.0  # (blocks,), summed over samples
        self.correct: torch.Tensor | int = 0  # (blocks,)

    def add(self, result: StepResult, samples: int) -> None:
        """Add one step and its number of samples."""
        self.steps += 1
        self.samples += samples
        self.losses = self.losses + result.losses * samples
        self.correct = self.correct + result.correct

    def divergence(self, epoch: int, lr: float, first_block: int = 1) -> str | None:
        """A message if a block's loss is not finite, else None; synchronises with the device."""
        diverged = (~torch.isfinite(torch.as_tensor(self.losses))).nonzero()  # a sum keeps NaN
        if not len(diverged):
            return None
        return (
            f"the loss of block {first_block + int(diverged[0])} is no longer finite in epoch "
            f"{epoch + 1}. Try a learning rate below lr={lr:g}"
        )

    def row(self) -> dict:
        """The epoch's measurements under their names in a History."""
        row = {"seconds": time.perf_counter() - self.start, "steps": self.steps}
        if self.steps:
            row["train_loss"] = [loss / self.samples for loss in self.losses.tolist()]
            row["train_accuracy"] = [count / self.samples for count in self.correct.tolist()]
        return row


def learning_rate(progress: float, lr: float, schedule: str) -> float:
    """The learning rate at a point of the training.

    One cycle is a cosine up to the peak, then one down to 0, as in
    ``torch.optim.lr_scheduler.OneCycleLR``, but without state to save. Source: Smith & Topin 2019.

    Args:
        progress: share of the steps done, in [0, 1].
        lr: the peak.
        schedule: ``"one-cycle"`` or ``"constant"``.
    """
    if schedule == "constant":
        return lr
    if progress < WARM_UP:
        return lr * (FIRST_RATE + (1 - FIRST_RATE) * _half_cosine(progress / WARM_UP))
    return lr * (1 - _half_cosine((progress - WARM_UP) / (1 - WARM_UP)))


def _half_cosine(t: float) -> float:
    return (1 - math.cos(t * math.pi)) / 2


def summary_of(row: dict) -> str:
    """An epoch's loss and accuracy by block, in one line."""
    text = f"loss {_by_block(row['train_loss'], '{:.3g}')}"
    if "valid_accuracy" in row:
        text += f", validation {_by_block(row['valid_block_accuracy'], '{:.0%}')}"
        if len(row["valid_block_accuracy"]) > 1:
            text += f", vote {row['valid_accuracy']:.1%}"
    return text


def _by_block(values: list[float], form: str) -> str:
    texts = [form.format(value) for value in values]
    return " ".join(texts if len(texts) <= 6 else [*texts[:2], "…", *texts[-2:]])
