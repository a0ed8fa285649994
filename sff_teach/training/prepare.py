"""The start of a training: check the arguments of ``fit`` and build what it trains."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from ..core import SFF
from ..data import LabelledTensors
from ..forward_forward import FFNetwork
from ..rules import Rule, get_rule
from ..rules_extra import OverlappingSFF
from ..util.checks import SFFError, check_module
from ..util.progress import Bar
from .config import TrainConfig
from .distributed import DataParallel, SingleProcess, is_distributed
from .evaluation import as_network, measure
from .history import History
from .loader import Data, Loader, pick_layout
from .precision import accelerated, pick_device, pick_precision

BAR_AFTER_SECONDS = 2.0


@dataclass
class Run:
    """A checked training: configuration, model, data, rule and history."""

    config: TrainConfig
    model: SFF | FFNetwork  # on its device
    device: torch.device
    channels_last: bool  # the memory layout of images
    train: Loader
    valid: Loader | None  # measured after every epoch
    generator: torch.Generator  # of order, augmentation and negatives
    learner: Rule  # with its optimisers
    history: History
    processes: SingleProcess  # those that train together

    def steps(self) -> int | None:
        """Steps per epoch; None if unknown."""
        return self.train.steps(self.config.batch_size, self.processes.smallest_batch)

    def batches(self) -> Iterator:
        """One epoch of training: x (B, C, ...) and y, in a new order."""
        config = self.config
        return self.train.shuffled(
            config.batch_size, self.generator, config.augment, self.processes.smallest_batch
        )

    def validate(self) -> dict:
        """An epoch's measurements on the validation data; {} without any."""
        if self.valid is None:
            return {}
        return measure(self.model, self.valid, self.channels_last)[0].row()

    @contextmanager
    def training(self, lock: AbstractContextManager) -> Iterator[None]:
        """All contexts of a training: lock, random state, precision, processes."""
        config, precision = self.config, self.history.settings["precision"]
        options = {"channels_last": self.channels_last, "compile": config.compile}
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            lock,
            torch.random.fork_rng(devices=cuda),
            torch.enable_grad(),  # the caller may have switched it off
            accelerated(self.learner, precision, **options),
            self.processes.synchronized(self.learner),
        ):
            torch.manual_seed(config.seed)
            yield

    def progress_bar(self, show: bool) -> Bar:
        """A bar over all steps, shown if training takes more than two seconds."""
        steps = self.steps()
        return Bar(
            total=None if steps is None else self.config.epochs * steps, unit="step",
            delay=BAR_AFTER_SECONDS, leave=False, disable=not show or self.processes.rank > 0,
        )  # fmt: skip


def resolve_config(config: TrainConfig | None, overrides: dict) -> TrainConfig:
    """The config, or the default one, with some settings replaced."""
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, not {type(config).__name__}")
    return (TrainConfig() if config is None else config).replace(**overrides)


def prepare(model: nn.Module, train: Data, valid: Data | None, config: TrainConfig) -> Run:
    """Check everything that ``fit`` was given, and build what trains."""
    check_module(model)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    processes = DataParallel(device) if is_distributed() else SingleProcess()
    loader = Loader(train, "train")
    _check_batches(model, loader, config, processes)
    network = as_network(model, loader, device)
    rule = get_rule(config.rule)
    _check_acceleration(network, rule, precision, config.compile, device)
    if isinstance(valid, LabelledTensors) and not len(valid):
        valid = None  # as from load(..., validation=0)
    if valid is not None:
        valid = Loader(valid, "valid")
        as_network(network, valid, device)
    generator = torch.Generator().manual_seed(config.seed)
    learner = rule(
        network,
        optimizer_maker(config, device),
        label_smoothing=config.label_smoothing,
        generator=generator,
        together=precision != "fp16",  # fp16: a block may skip a step
    )
    parameters = sum(p.numel() for group in learner.groups() for p in group if p.requires_grad)
    return Run(
        config=config,
        model=network,
        device=device,
        channels_last=pick_layout(config.channels_last, network, loader.sample, device),
        train=loader,
        valid=valid,
        generator=generator,
        learner=learner,
        history=History(config.rule, config.settings() | {"precision": precision}, parameters),
        processes=processes,
    )


def optimizer_maker(
    config: TrainConfig, device: torch.device
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """A function from parameters to AdamW, fused where torch supports it."""
    fused = device.type in ("cpu", "cuda")
    return partial(AdamW, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def _check_batches(
    model: nn.Module, loader: Loader, config: TrainConfig, processes: SingleProcess
) -> None:
    """Raise if a batch is too small, the schedule has no end, or samples cannot be augmented."""
    if config.augment is not None and loader.sample.dim() != 4:
        raise SFFError(f"augment={config.augment!r} is for images (N, C, H, W)")
    if processes.count > 1 and config.batch_size < processes.smallest_batch:
        raise SFFError(f"batch_size={config.batch_size} is below the {processes.count} processes")
    steps = loader.steps(config.batch_size)
    if steps is None and config.schedule != "constant":
        raise SFFError('train has no len(), so the schedule has no end; give schedule="constant"')
    if loader.samples == 1:
        raise SFFError("train holds one sample; BatchNorm needs at least two")
    norms = (isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if loader.samples is not None and config.batch_size == 1 and any(norms):
        raise SFFError("batch_size=1: BatchNorm needs at least two samples per batch")


def _check_acceleration(
    model: nn.Module, rule: type[Rule], precision: str, compile: bool, device: torch.device
) -> None:
    """Raise for settings that this network, rule or machine does not support."""
    if (precision != "float32" or compile) and not isinstance(model, SFF):
        raise SFFError("precision and compile are for networks of blocks, not for Forward-Forward")
    if precision == "fp16" and issubclass(rule, OverlappingSFF):
        raise SFFError('precision="fp16" scales every block by itself; use "bf16" with this rule')
    if compile and device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise SFFError("compile=True needs a C++ compiler on a CPU; install g++")
