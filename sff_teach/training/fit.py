"""Training: one loop for every rule."""

import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..util.checks import SFFError, check_count
from ..util.progress import Bar
from .checkpoint import Checkpoint
from .config import TrainConfig
from .history import CHECK_EVERY, EpochMetrics, History, learning_rate, summary_of
from .loader import Data, lay_out
from .loop import ended_by_ctrl_c, train_epochs
from .pipeline import fit_pipeline
from .prepare import Run, prepare, resolve_config


def fit(
    model: nn.Module,
    train: Data,
    valid: Data | None = None,
    config: TrainConfig | None = None,
    *,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    stop: threading.Event | None = None,
    checkpoint: str | Path | None = None,
    pipeline: int | None = None,
    **overrides: Any,
) -> History:
    """Train a network by a rule, with AdamW.

    In a process group (torchrun) every process learns from its part of each batch.

    Args:
        model: from ``localize`` for ``sff``, ``deepsup``, ``bp-goodness`` and ``bp``; an
            ``FFNetwork`` for ``ff`` and ``ff-greedy``; any classifier for ``bp``. It is trained in
            place, moved to the device, and left in evaluation mode. ``bp`` and ``bp-goodness``
            join its blocks into one.
        train: a LabelledTensors; a pair (x, y) of tensors or arrays, x (N, C, ...) and y (N,); a
            torch Dataset; or any iterable of batches (x, y) that can be read once per epoch, such
            as a DataLoader, in its own order and batch size. Its y may be soft labels (B, K).
        valid: the same, measured after every epoch; it does not influence the training.
        config: how to train; None for the defaults of TrainConfig.
        progress: whether to show a bar, if training takes longer than two seconds.
        on_epoch: called with the history after every epoch, for example ``LiveHistory()``.
        stop: an event; once set, training ends after the current step.
        checkpoint: a file that is written atomically after every epoch. If it exists, training
            resumes after its last epoch, on a CPU bit for bit as if it had never stopped; model,
            data and settings must be the same. A DataLoader has to draw its order in this process
            from a global generator.
        pipeline: for ``sff``, how many processes on the CPU share the blocks; see ``fit_pipeline``.
        overrides: settings of TrainConfig that replace those of ``config``.

    Returns:
        The History. Ctrl-C, ``stop`` and a loss that is not finite end training early, see
        ``history.stopped``. With ``pipeline`` such a loss is a RuntimeError.

    Raises:
        SFFError: values that do not fit together, before anything is trained.
        OSError: the checkpoint cannot be written, or another process uses it.
    """
    config = resolve_config(config, overrides)
    if pipeline is not None:
        check_count(pipeline, "pipeline")
        if stop is not None:
            raise SFFError("pipeline does not work with stop")
        return fit_pipeline(
            model, train, valid, config, processes=pipeline,
            progress=progress, on_epoch=on_epoch, checkpoint=checkpoint,
        )  # fmt: skip
    run = prepare(model, train, valid, config)
    saved = Checkpoint(checkpoint, run)
    for data in filter(None, (run.train, run.valid)):
        data.to_device_if_it_fits(run.device)
    with run.training(saved.exclusive_lock()), run.progress_bar(progress) as bar:
        first = saved.resume()
        bar.update(first * (run.steps() or 0))
        train_epoch = partial(_train_and_measure, run, stop, bar)
        train_epochs(run, saved, first, train_epoch, on_epoch)
    run.model.eval()
    return run.history


def _train_and_measure(run: Run, stop: threading.Event | None, bar: Bar, epoch: int) -> dict:
    """One epoch of training, then the validation: a row for the history."""
    bar.set_description(f"{run.config.rule} epoch {epoch + 1}/{run.config.epochs}", refresh=False)
    metrics = EpochMetrics()
    with ended_by_ctrl_c(run):
        _train_epoch(run, epoch, metrics, stop, bar)
    row = {"epoch": epoch + 1, "complete": False} | metrics.row()
    with ended_by_ctrl_c(run):
        if run.history.stopped is None:
            row |= run.validate()
    row["complete"] = run.history.stopped is None
    if row["steps"]:
        bar.set_postfix_str(summary_of(row), refresh=False)
    return row


def _train_epoch(
    run: Run, epoch: int, metrics: EpochMetrics, stop: threading.Event | None, bar: Bar
) -> None:
    """Train on every batch once, unless ``stop`` is set or a loss is not finite."""
    config, learner, processes = run.config, run.learner, run.processes
    steps = run.steps() or 1  # if unknown, the schedule is constant
    run.model.train()
    if processes.rank:  # other dropout masks in each process
        torch.manual_seed(config.seed + (processes.rank << 32) + epoch)
    for x, y in run.batches():
        if stop is not None and processes.any(stop.is_set()):
            run.history.stopped = "stopped"
            return
        progress = min((epoch + metrics.steps / steps) / config.epochs, 1.0)
        for group, optimizer in enumerate(learner.optimizers):
            position = learner.schedule_progress(group, progress)
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate(position, config.lr, config.schedule)
        samples = len(y)
        x, y = processes.shard(x, y)
        x = lay_out(x, run.device, run.channels_last)
        y = y.to(run.device, non_blocking=True)
        metrics.add(processes.step(learner, x, y, progress), samples)
        bar.update()
        if metrics.steps % CHECK_EVERY == 0 and _diverged(run, metrics, epoch):
            return
    _diverged(run, metrics, epoch)


def _diverged(run: Run, metrics: EpochMetrics, epoch: int) -> bool:
    """Whether a loss is not finite; then training is stopped with a warning."""
    reason = metrics.divergence(epoch, run.config.lr)
    if reason is None:
        return False
    run.history.stopped = "diverged"
    warnings.warn(f"training stopped: {reason}.", stacklevel=5)
    return True
