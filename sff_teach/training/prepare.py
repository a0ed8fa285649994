"""What a training begins with, on one process or several: everything checked and in its place."""

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
    """A training that is about to begin."""

    config: TrainConfig
    model: SFF | FFNetwork  # on its device
    device: torch.device
    channels_last: bool  # the memory layout of images
    train: Loader
    valid: Loader | None  # measured after every epoch
    generator: torch.Generator  # of order, augmentation and negatives
    learner: Rule  # with its optimisers
    history: History
    team: SingleProcess  # the processes that train together

    def steps(self) -> int | None:
        """Steps of an epoch; None if that is unknown."""
        return self.train.steps(self.config.batch_size, self.team.smallest_batch)

    def batches(self) -> Iterator:
        """One epoch of training: x (B, C, ...) and y, in a new order."""
        config = self.config
        return self.train.shuffled(
            config.batch_size, self.generator, config.augment, self.team.smallest_batch
        )

    def validate(self) -> dict:
        """What an epoch's row says of the validation data; nothing without them."""
        if self.valid is None:
            return {}
        return measure(self.model, self.valid, self.channels_last)[0].row()

    @contextmanager
    def training(self, lock: AbstractContextManager) -> Iterator[None]:
        """All that holds while the network trains, the checkpoint's lock included."""
        config, precision = self.config, self.history.settings["precision"]
        options = {"channels_last": self.channels_last, "compile": config.compile}
        cuda = [self.device] if self.device.type == "cuda" else []
        with (
            lock,
            torch.random.fork_rng(devices=cuda),
            torch.enable_grad(),  # perhaps a cell that evaluates switched it off
            accelerated(self.learner, precision, **options),
            self.team.synchronized(self.learner),
        ):
            torch.manual_seed(config.seed)
            yield

    def progress_bar(self, show: bool) -> Bar:
        """A bar over all steps, with an estimate; it appears when training takes a while."""
        steps = self.steps()
        return Bar(
            total=None if steps is None else self.config.epochs * steps, unit="step",
            delay=BAR_AFTER_SECONDS, leave=False, disable=not show or self.team.rank > 0,
        )  # fmt: skip


def resolve_config(config: TrainConfig | None, overrides: dict) -> TrainConfig:
    """The settings to train with: those of the config, or the defaults, with some replaced."""
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, not {type(config).__name__}")
    return (TrainConfig() if config is None else config).replace(**overrides)


def prepare(model: nn.Module, train: Data, valid: Data | None, config: TrainConfig) -> Run:
    """Check everything that ``fit`` was given, and build what trains."""
    check_module(model)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    team = DataParallel(device) if is_distributed() else SingleProcess()
    loader = Loader(train, "train")
    _check_batches(model, loader, config, team)
    network = as_network(model, loader, device)
    rule = get_rule(config.rule)
    _check_acceleration(network, rule, precision, config.compile, device)
    if isinstance(valid, LabelledTensors) and not len(valid):
        valid = None  # what load(..., validation=0) gives
    if valid is not None:
        valid = Loader(valid, "valid")
        as_network(network, valid, device)
    generator = torch.Generator().manual_seed(config.seed)
    learner = rule(
        network,
        optimizer_maker(config, device),
        label_smoothing=config.label_smoothing,
        generator=generator,
        together=precision != "fp16",  # a block whose gradient overflows skips a step by itself
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
        team=team,
    )


def optimizer_maker(
    config: TrainConfig, device: torch.device
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """From parameters to AdamW; torch's fused form where there is one."""
    fused = device.type in ("cpu", "cuda")
    return partial(AdamW, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def _check_batches(
    model: nn.Module, loader: Loader, config: TrainConfig, team: SingleProcess
) -> None:
    """Raise SFFError where a batch is too small, the schedule has no end, or nothing to augment."""
    if config.augment is not None and loader.sample.dim() != 4:
        raise SFFError(f"augment={config.augment!r} is for images (N, C, H, W)")
    if team.processes > 1 and config.batch_size < team.smallest_batch:
        raise SFFError(f"batch_size={config.batch_size} is below the {team.processes} processes")
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
    """Raise SFFError for options that do not work with this network, rule or machine."""
    if (precision != "float32" or compile) and not isinstance(model, SFF):
        raise SFFError("precision and compile are for networks of blocks, not for Forward-Forward")
    if precision == "fp16" and issubclass(rule, OverlappingSFF):
        raise SFFError('precision="fp16" scales every block by itself; use "bf16" with this rule')
    if compile and device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise SFFError("compile=True needs a C++ compiler on a CPU; install g++")
