"""What a training begins with, on one process or several: everything checked and in its place."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from ..core import SFF
from ..data import LabelledTensors
from ..forward_forward import FFNetwork
from ..rules import Rule, get_rule
from ..util.checks import SFFError, check_module
from .config import TrainConfig
from .distributed import is_distributed
from .evaluation import as_network
from .history import History
from .loader import Data, MemoryLoader, StreamLoader, as_loader, pick_layout
from .precision import check_acceleration, pick_device, pick_precision


@dataclass
class Run:
    """A training that is about to begin.

    Attributes:
        config: how to train.
        model: the network, on its device.
        device: where it is.
        channels_last: the memory layout of images.
        train: what it learns from.
        valid: what it is measured on after every epoch, or None.
        generator: draws order, augmentation and negatives.
        learner: the rule with its optimisers.
        history: without rows.
    """

    config: TrainConfig
    model: SFF | FFNetwork
    device: torch.device
    channels_last: bool
    train: MemoryLoader | StreamLoader
    valid: MemoryLoader | StreamLoader | None
    generator: torch.Generator
    learner: Rule
    history: History

    def steps(self, smallest_batch: int = 2) -> int | None:
        """Steps of an epoch; None if nobody knows."""
        return self.train.steps(self.config.batch_size, smallest_batch)


def resolve_config(config: TrainConfig | None, overrides: dict) -> TrainConfig:
    """The settings to train with.

    Args:
        config: None for the defaults.
        overrides: settings that replace those of ``config``, by name.
    """
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, not {type(config).__name__}")
    return (TrainConfig() if config is None else config).replace(**overrides)


def prepare(model: nn.Module, train: Data, valid: Data | None, config: TrainConfig) -> Run:
    """Check everything that ``fit`` was given, and build what trains.

    Args:
        model: as for ``fit``.
        train: as for ``fit``.
        valid: as for ``fit``.
        config: how to train.

    Raises:
        SFFError: values that do not fit together.
        TypeError: something of the wrong kind.
    """
    check_module(model)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    loader = as_loader(train, "train")
    if config.augment is not None and loader.sample.dim() != 4:
        raise SFFError(f"augment={config.augment!r} is for images (N, C, H, W)")
    check_batches(model, loader, config)
    network = as_network(model, loader, device)
    check_acceleration(network, get_rule(config.rule), precision, config.compile, device)
    measured = None if _is_empty(valid) else as_loader(valid, "valid")
    if measured is not None:
        as_network(network, measured, device)
    generator = torch.Generator().manual_seed(config.seed)
    learner = get_rule(config.rule)(
        network,
        optimizer_maker(config, device),
        label_smoothing=config.label_smoothing,
        generator=generator,
        # a GradScaler belongs to a block, and torchrun sums one block's gradients at a time
        together=precision != "fp16" and not is_distributed(),
    )
    settings = config.settings() | {"precision": precision}
    parameters = sum(p.numel() for group in learner.groups() for p in group if p.requires_grad)
    return Run(
        config=config,
        model=network,
        device=device,
        channels_last=pick_layout(config.channels_last, network, loader.sample, device),
        train=loader,
        valid=measured,
        generator=generator,
        learner=learner,
        history=History(config.rule, settings, parameters),
    )


def _is_empty(valid: Data | None) -> bool:
    """No validation: None, or what load(..., validation=0) gives."""
    return valid is None or (isinstance(valid, LabelledTensors) and not len(valid))


def optimizer_maker(
    config: TrainConfig, device: torch.device
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """From parameters to AdamW; torch's fused form where there is one.

    Args:
        config: has the learning rate and the weight decay.
        device: of the parameters.
    """
    fused = device.type in ("cpu", "cuda")
    return partial(AdamW, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def check_batches(
    model: nn.Module, loader: MemoryLoader | StreamLoader, config: TrainConfig
) -> None:
    """Raise SFFError where BatchNorm would have a single sample, or the schedule no end.

    Args:
        model: what will train.
        loader: what it will learn from.
        config: has batch size and schedule.
    """
    steps = loader.steps(config.batch_size)
    if steps is None and config.schedule != "constant":
        raise SFFError(
            "train has no len(), so nobody knows where the learning rate's schedule ends; give "
            'a DataLoader with a length, or schedule="constant"'
        )
    if isinstance(loader, StreamLoader):
        return
    if len(loader.data) == 1:
        raise SFFError("train holds one sample; BatchNorm needs at least two")
    norms = (isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if config.batch_size == 1 and any(norms):
        raise SFFError("batch_size=1: BatchNorm needs at least two samples per batch")
