"""What a training measured, and the learning rate it had."""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..rules import StepResult
from ..util.checks import SFFError

CHECK_EVERY = 50  # steps between two looks at whether losses are finite


@dataclass
class History:
    """What ``fit`` measured: one row per epoch, and why it ended.

    Attributes:
        rule: its name.
        settings: what ``fit`` was called with.
        parameters: how many were trained.
        rows: dicts with epoch (from 1), seconds (of training only), steps, train_loss and
            train_accuracy (lists, one number per block; for ``ff`` the share of positives above
            their negatives, where chance gives half), and with validation data valid_accuracy,
            valid_loss, valid_block_accuracy; ``complete`` is False for an epoch that was cut short.
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
        """The last epoch's row; never a "best" one."""
        if not self.rows:
            raise SFFError("history has no rows: fit stopped before its first step")
        return self.rows[-1]

    def column(self, name: str) -> list:
        """One figure over the epochs, e.g. ``column("valid_accuracy")``.

        Raises:
            SFFError: an epoch lacks it: nothing was validated, or the epoch was cut short.
        """
        missing = [row["epoch"] for row in self.rows if name not in row]
        if missing:
            known = ", ".join(self.rows[missing[0] - self.rows[0]["epoch"]])
            raise SFFError(f'epoch {missing[0]} has no "{name}"; it has {known}')
        return [row[name] for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for JSON."""
        return asdict(self)

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
    """Adds up what the steps of one epoch measured, on the device, without waiting for it."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.steps = 0
        self.samples = 0
        self.losses: torch.Tensor | float = 0.0  # (blocks,), summed over samples
        self.correct: torch.Tensor | int = 0  # (blocks,)

    def add(self, result: StepResult, samples: int) -> None:
        """Add one step on so many samples."""
        self.steps += 1
        self.samples += samples
        self.losses = self.losses + result.losses * samples
        self.correct = self.correct + result.correct

    def diverged_block(self) -> int | None:
        """The first block (from 1) whose loss is no longer finite; this waits for the device.

        One loss that is NaN or infinite leaves the sum so.
        """
        if not self.steps:
            return None
        bad = (~torch.isfinite(self.losses)).nonzero()
        return int(bad[0]) + 1 if len(bad) else None

    def row(self) -> dict:
        """The epoch's figures, as History keeps them."""
        row = {"seconds": time.perf_counter() - self.start, "steps": self.steps}
        if self.steps:
            row["train_loss"] = [loss / self.samples for loss in self.losses.tolist()]
            row["train_accuracy"] = [count / self.samples for count in self.correct.tolist()]
        return row


def divergence(block: int, epoch: int, lr: float) -> str:
    """What to say when a loss is no longer finite.

    Args:
        block: its number, from 1.
        epoch: from 0.
        lr: peak learning rate.
    """
    return (
        f"the loss of block {block} is no longer finite in epoch {epoch + 1}. "
        f"Try a learning rate below lr={lr:g}"
    )


def one_cycle(done: float, warm_up: float = 0.3, start: float = 0.04) -> float:
    """The learning rate, as a share of its peak, when ``done`` of all steps are over.

    Cosine up from ``start`` to 1 over the first ``warm_up`` of the steps, cosine down to 0 over
    the rest (Smith & Topin's one-cycle in the form of ``torch.optim.lr_scheduler.OneCycleLR``; a
    plain function of the step has no state to save).

    Args:
        done: share of all steps, in [0, 1].
        warm_up: share of the steps in which the rate rises.
        start: the first rate, as a share of the peak.
    """
    if done < warm_up:
        return start + (1 - start) * _half_cosine(done / warm_up)
    return 1 - _half_cosine((done - warm_up) / (1 - warm_up))


def learning_rate(done: float, lr: float, schedule: str) -> float:
    """The rate after some of the steps.

    Args:
        done: share of all steps, in [0, 1].
        lr: the peak.
        schedule: ``"one-cycle"`` or ``"constant"``.
    """
    return lr * one_cycle(done) if schedule == "one-cycle" else lr


def _half_cosine(t: float) -> float:
    return (1 - math.cos(t * math.pi)) / 2


def summary_of(row: dict) -> str:
    """An epoch's figures, block by block, in a line for the progress bar."""
    text = f"loss {_by_block(row['train_loss'], '{:.3g}')}"
    if "valid_accuracy" in row:
        text += f", validation {_by_block(row['valid_block_accuracy'], '{:.0%}')}"
        if len(row["valid_block_accuracy"]) > 1:
            text += f", vote {row['valid_accuracy']:.1%}"
    return text


def _by_block(values: list[float], form: str) -> str:
    texts = [form.format(value) for value in values]
    return " ".join(texts if len(texts) <= 6 else [*texts[:2], "…", *texts[-2:]])
