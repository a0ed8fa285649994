"""Training and evaluation: one loop for every rule."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..core import SFF
from ..data.sets import LabelledTensors, batches
from ..forward_forward import FFNetwork
from ..rules import Rule, StepResult, get_rule, wrap_classifier
from ..util.checks import (
    check_callable,
    check_count,
    check_fits,
    check_flag,
    check_labels,
    check_module,
    explained,
    short_repr,
)
from ..util.modes import evaluating
from .checkpoint import Checkpoint
from .config import TrainConfig
from .distributed import Alone, Team, running
from .history import (
    BAR_AFTER_SECONDS,
    History,
    as_labelled_tensors,
    check_batches,
    check_image_options,
    checked_settings,
    learning_rate,
    pick_device,
    training_batches,
)
from .pipeline import fit_pipeline
from .precision import accelerated, check_acceleration, pick_precision, to_device_if_it_fits


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a data set.

    ``accuracy`` of the vote, ``block_accuracy`` of each block alone, both shares in [0, 1];
    ``loss`` the mean cross-entropy of the vote; ``n`` images.
    """

    accuracy: float
    block_accuracy: list[float]
    loss: float
    n: int


def fit(
    model: nn.Module,
    train: LabelledTensors | tuple[Tensor, Tensor],
    valid: LabelledTensors | tuple[Tensor, Tensor] | None = None,
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

    Args:
        model: from ``localize`` for ``sff``, ``deepsup``, ``bp-goodness`` and ``bp``; an
            ``FFNetwork`` for ``ff`` and ``ff-greedy``; any classifier for ``bp``. It is trained in
            place, moved to the device, and left in evaluation mode. ``bp`` and ``bp-goodness``
            join its blocks into one.
        train: a LabelledTensors, or tensors x (N, C, ...) and y (N,): images, sequences, a table.
        valid: measured after every epoch; nothing is chosen by it.
        config: how to train; None for the defaults of TrainConfig.
        progress: show a bar when training takes longer than two seconds, with the last epoch's
            loss and validation accuracy block by block.
        on_epoch: called with the history after every epoch. ``plots.LiveHistory()`` draws it.
        stop: an event; once set, training ends after the current step.
        checkpoint: a file that is written after every epoch, whole or not at all. If it is there
            already, training goes on after its last epoch, on a CPU bit for bit as if it had never
            stopped; model, data and settings must be the same.
        pipeline: for ``sff``, how many processes on the CPU share the blocks, and torch's threads;
            the weights stay those of one process with as many threads as each of them has. See
            ``pipeline.fit_pipeline``, also for several GPUs.
        overrides: settings of TrainConfig that replace those of ``config``.

    On a CUDA device the training images are kept there if they take half of its free memory or
    less, and augmented there. In a process group (torchrun) every process learns from its part of
    each batch, see ``distributed``. On Linux the calling process keeps the memory of freed tensors
    from then on, see ``_faster.keep_memory``.

    Returns:
        The History. Ctrl-C, ``stop`` and a loss that is no longer finite end training early and
        return what was measured so far; ``history.stopped`` says which. With ``pipeline`` such a
        loss is a RuntimeError, and the model is as it was before.

    Raises:
        ValueError, TypeError: bad arguments, before anything is trained.
        OSError: the checkpoint cannot be written, or another process trains with it.
    """
    check_module(model)
    check_flag(progress=progress)
    if on_epoch is not None:
        check_callable(on_epoch, "on_epoch", "a function of the history")
    if stop is not None and not hasattr(stop, "is_set"):
        raise TypeError(f"stop must be a threading.Event, not {short_repr(stop)}; make one.")
    config = (TrainConfig() if config is None else config).replace(**overrides)
    rule, device, precision = config.rule, config.device, config.precision
    epochs, batch_size, lr, schedule = config.epochs, config.batch_size, config.lr, config.schedule
    seed, augment = config.seed, config.augment
    channels_last, compile = config.channels_last, config.compile
    settings = checked_settings(
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=config.weight_decay,
        schedule=schedule, label_smoothing=config.label_smoothing, augment=augment, seed=seed,
    )  # fmt: skip
    rule_class = get_rule(rule)
    if pipeline is not None:
        _check_pipeline(rule, device, {
            "stop": stop is not None, "precision": precision not in ("float32", "auto"),
            "channels_last": channels_last, "compile": compile,
        })  # fmt: skip
        check_count(pipeline, "pipeline")
        threads = max(1, torch.get_num_threads() // pipeline)
        return fit_pipeline(
            model, train, valid, processes=pipeline, threads=threads, progress=progress,
            on_epoch=on_epoch, checkpoint=checkpoint, **settings,
        )  # fmt: skip
    train = as_labelled_tensors(train, "train")
    check_image_options(train.x, augment, channels_last)
    if isinstance(valid, LabelledTensors) and not len(valid):
        valid = None  # load(..., validation=0)
    valid = None if valid is None else as_labelled_tensors(valid, "valid")
    device = pick_device(device)
    settings["precision"] = precision = pick_precision(precision, device)
    model = _as_network(model, train, device)
    check_acceleration(model, rule_class, precision, compile, device)
    if valid is not None:
        _as_network(model, valid, device)
    check_batches(model, len(train), batch_size)

    generator = torch.Generator().manual_seed(seed)
    learner = rule_class(
        model,
        lambda parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=config.weight_decay),
        label_smoothing=config.label_smoothing,
        generator=generator,
    )
    parameters = sum(p.numel() for group in learner.groups() for p in group if p.requires_grad)
    history = History(rule=rule, settings=settings, parameters=parameters)
    team = Team(learner, device) if running() else Alone()
    if team.processes > 1 and batch_size < team.smallest_batch:
        raise ValueError(
            f"batch_size={batch_size} is less than an image for each of the {team.processes} "
            f"processes; give {team.smallest_batch} or more."
        )
    saved = None
    if checkpoint is not None:
        saved = Checkpoint(checkpoint, learner, history, generator, train)
    train = to_device_if_it_fits(train, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    rest = len(train) % batch_size  # images in the last batch, if it is not full
    steps = len(train) // batch_size + (rest >= team.smallest_batch)
    devices = [device] if device.type == "cuda" else []
    bar = tqdm(
        total=epochs * steps,
        unit="step",
        delay=BAR_AFTER_SECONDS,
        leave=False,
        disable=not progress or team.rank > 0,
    )
    quick = accelerated(learner, device, precision, channels_last, compile)
    lock = saved.exclusive_lock(not team.rank) if saved is not None else nullcontext()
    with lock, bar, quick, team.together(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        first = saved.resume() if saved is not None else 0
        if team.rank:
            torch.manual_seed(seed + (team.rank << 32) + first)  # its own dropout
        bar.update(first * steps)
        for epoch in range(first, epochs):
            bar.set_description(f"{rule} epoch {epoch + 1}/{epochs}")
            meter, row = _Meter(), {"epoch": epoch + 1, "complete": False}
            with _ended_by_ctrl_c(history, team):
                model.train()
                for x, y in training_batches(
                    train, batch_size, generator, augment, team.smallest_batch
                ):
                    if team.any(stop is not None and stop.is_set()):
                        history.stopped = "stopped"
                        break
                    done = (epoch * steps + meter.steps) / (epochs * steps)
                    _set_learning_rates(learner, done, lr, schedule)
                    images = len(y)
                    x, y = team.share(x, y)
                    x = x.to(device, memory_format=layout)
                    result = team.step(learner, x, y.to(device), done, images)
                    if not torch.isfinite(result.losses).all():
                        history.stopped = "diverged"
                        warnings.warn(_divergence(result.losses, epoch, lr), stacklevel=2)
                        break
                    meter.add(result, images)
                    bar.update()
            row |= meter.row()
            with _ended_by_ctrl_c(history, team):
                if valid is not None and history.stopped is None:
                    row |= _validation(*_measure(model, valid))
            row["complete"] = history.stopped is None
            if meter.steps:
                history.rows.append(row)
                bar.set_postfix_str(_so_far(row), refresh=False)
            with _ended_by_ctrl_c(history, team):
                if saved is not None and history.stopped is None and not team.rank:
                    saved.save()
                if on_epoch is not None:
                    on_epoch(history)
            if history.stopped:
                break
    model.eval()
    return history


def _check_pipeline(rule: str, device: str, without: dict[str, bool]) -> None:
    if rule != "sff":
        raise ValueError(
            f'pipeline is for rule="sff", whose blocks need nothing from later ones, not for '
            f'"{rule}"; leave it out.'
        )
    if device not in ("auto", "cpu"):
        raise ValueError(
            f'pipeline works on the CPU, not on device="{device}"; call fit_pipeline with devices=.'
        )
    for name, given in without.items():
        if given:
            raise ValueError(f"pipeline does not work with {name}; leave one of them out.")


@contextmanager
def _ended_by_ctrl_c(history: History, team: Alone) -> Iterator[None]:
    """Ctrl-C leaves the ``with`` and ends the training, which keeps what it has."""
    try:
        yield
    except KeyboardInterrupt:
        if team.processes > 1:
            raise  # the others would wait for this one
        history.stopped = "interrupted"


class _Meter:
    """Adds up what the steps of one epoch measured."""

    def __init__(self):
        self.steps, self.images, self.losses, self.correct = 0, 0, 0.0, 0
        self.start = time.perf_counter()

    def add(self, result: StepResult, images: int) -> None:
        self.steps += 1
        self.images += images
        self.losses = self.losses + result.losses * images
        self.correct = self.correct + result.correct

    def row(self) -> dict:
        row = {"seconds": time.perf_counter() - self.start, "steps": self.steps}
        if self.steps:
            row["train_loss"] = [loss / self.images for loss in self.losses.tolist()]
            row["train_accuracy"] = [right / self.images for right in self.correct.tolist()]
        return row


def _so_far(row: dict) -> str:
    """An epoch's figures, block by block, for the progress bar."""

    def each(values: list[float], form: str) -> str:
        shown = [form.format(value) for value in values]
        return " ".join(shown if len(shown) <= 6 else [*shown[:2], "…", *shown[-2:]])

    text = f"loss {each(row['train_loss'], '{:.3g}')}"
    if "valid_accuracy" in row:
        text += f", validation {each(row['valid_block_accuracy'], '{:.0%}')}"
        if len(row["valid_block_accuracy"]) > 1:
            text += f", vote {row['valid_accuracy']:.1%}"
    return text


def _validation(result: Evaluation) -> dict:
    return {
        "valid_accuracy": result.accuracy,
        "valid_loss": result.loss,
        "valid_block_accuracy": result.block_accuracy,
    }


def _set_learning_rates(learner: Rule, done: float, lr: float, schedule: str) -> None:
    for group, optimizer in enumerate(learner.optimizers):
        now = learning_rate(learner.progress(group, done), lr, schedule)
        for parameter_group in optimizer.param_groups:
            parameter_group["lr"] = now


def _divergence(losses: Tensor, epoch: int, lr: float) -> str:
    block = int((~torch.isfinite(losses)).nonzero()[0]) + 1
    return (
        f"the loss of block {block} is no longer finite in epoch {epoch + 1}; training stopped and "
        f"the history up to here is kept. Try a learning rate below lr={lr:g}."
    )


def _as_network(model: nn.Module, data: LabelledTensors, device: torch.device) -> SFF | FFNetwork:
    """The model on its device, known to take these samples; a classifier becomes one block."""
    network = (
        model if isinstance(model, SFF | FFNetwork) else wrap_classifier(model, data.num_classes)
    )
    check_labels(data.y, network.num_classes, f"{data.name} y")
    network.to(device)
    if isinstance(network, SFF) and network.original is not None:
        network.original.to(device)  # its pooling and classifier, which no block owns
    check_fits(network, data.x[:2].to(device), f"{data.name} x", network.num_classes)
    return network


@explained()
def evaluate(
    model: nn.Module,
    data: LabelledTensors | tuple[Tensor, Tensor],
    *,
    vote: str | None = None,
    batch_size: int = 500,
) -> Evaluation:
    """Measure a network on a data set, block by block; nothing in the network changes.

    Args:
        model: as for ``fit``; evaluated in evaluation mode, then put back into the mode it was in.
        data: a LabelledTensors, or tensors x (N, C, ...) and y (N,).
        vote: ``"mean"``, ``"last"`` or another that the network knows; None for the model's own.
        batch_size: images at a time.

    Returns:
        An Evaluation.

    Raises:
        ValueError, TypeError: data or labels that do not fit the network, an unknown vote.
    """
    return evaluate_votes(model, data, (vote,), batch_size=batch_size)[0]


@explained()
def evaluate_votes(
    model: nn.Module,
    data: LabelledTensors | tuple[Tensor, Tensor],
    votes: Sequence[str | None],
    *,
    batch_size: int = 500,
) -> list[Evaluation]:
    """``evaluate`` with several votes from a single pass over the data, one Evaluation each."""
    check_module(model)
    data = as_labelled_tensors(data, "data")
    network = _as_network(model, data, next(model.parameters()).device)
    return _measure(network, data, votes, batch_size)


def _measure(
    network: SFF | FFNetwork,
    data: LabelledTensors,
    votes: Sequence[str | None] = (None,),
    batch_size: int = 500,
) -> list[Evaluation]:
    """``evaluate_votes`` on what has been checked already."""
    device = next(network.parameters()).device
    right, loss = [0] * len(votes), [0.0] * len(votes)
    correct = 0  # by block
    with evaluating(network):
        for x, y in batches(data, batch_size):
            y = y.to(device)
            goodness = network.block_goodness(x.to(device))  # (B, blocks, K)
            correct = correct + (goodness.argmax(2) == y[:, None]).sum(0)
            for i, vote in enumerate(votes):
                voted = network.combine(goodness, vote)  # (B, K)
                right[i] += (voted.argmax(1) == y).sum().item()
                loss[i] += nn.functional.cross_entropy(voted, y, reduction="sum").item()
    n = len(data)
    by_block = [count / n for count in correct.tolist()]
    return [Evaluation(r / n, by_block, total / n, n) for r, total in zip(right, loss)]
