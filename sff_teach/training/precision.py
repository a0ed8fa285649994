"""Where and how fast a training computes: device, precision, memory layout, compilation."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from ..core import SFF, LocalBlock
from ..rules import Rule
from ..rules_extra import OverlappingSFF
from ..util.checks import SFFError, short_repr
from .config import TrainConfig


def pick_device(name: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else Apple's MPS, else the CPU; any other name if it works here.

    Args:
        name: as for ``torch.device``, or ``"auto"``.

    Raises:
        SFFError: this machine does not have the device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).cpu().new_empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, ValueError, ImportError):
        raise SFFError(
            f'device={short_repr(name)} is not usable here; use "auto" or "cpu", and see '
            "`sff-teach doctor`"
        ) from None


def pick_precision(name: str, device: torch.device) -> str:
    """``"auto"`` by device: bf16 on a GPU that has it, fp16 on another, float32 elsewhere.

    Args:
        name: of ``config.PRECISIONS``; any other than ``"auto"`` stays.
        device: where the network computes.
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def check_acceleration(
    model: nn.Module, rule: type[Rule], precision: str, compile: bool, device: torch.device
) -> None:
    """Raise SFFError for options that do not work with this network, rule or machine.

    Args:
        model: the network.
        rule: its learning rule.
        precision: from ``pick_precision``.
        compile: whether ``torch.compile`` is asked for.
        device: where the network computes.
    """
    if (precision != "float32" or compile) and not isinstance(model, SFF):
        raise SFFError("precision and compile are for networks of blocks, not for Forward-Forward")
    if precision == "fp16" and issubclass(rule, OverlappingSFF):
        raise SFFError(
            'precision="fp16" scales the gradients of every block by itself, and this rule lets '
            'gradients cross a boundary; use "bf16" or "float32"'
        )
    if compile and device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise SFFError("compile=True needs a C++ compiler on a CPU; install g++")


@contextmanager
def accelerated(
    learner: Rule, config: TrainConfig, precision: str, channels_last: bool, device: torch.device
) -> Iterator[None]:
    """Make the blocks of a rule's model faster for the time of a training.

    Forward passes run under ``torch.autocast``; class goodness itself stays in float32. With fp16
    the gradients of every optimiser are scaled (``torch.amp.GradScaler``).

    Args:
        learner: the rule.
        config: says whether to compile.
        precision: from ``pick_precision``.
        channels_last: the memory layout of images.
        device: where the network computes.
    """
    blocks = learner.model.blocks if isinstance(learner.model, SFF) else []
    with ExitStack() as undo:
        if channels_last:
            learner.model.to(memory_format=torch.channels_last)
            undo.callback(learner.model.to, memory_format=torch.contiguous_format)
        if precision == "fp16":
            undo.callback(setattr, learner, "optimizers", learner.optimizers)
            learner.optimizers = [GradScaledOptimizer(o, device) for o in learner.optimizers]
        for k, block in enumerate(blocks if precision != "float32" else []):
            optimizer = learner.optimizers[min(k, len(learner.optimizers) - 1)]
            block.forward = _half_precision_forward(block, device, precision, optimizer)
            undo.callback(delattr, block, "forward")  # the class's own again
        for block in blocks if config.compile else []:
            block.body.compile()
        yield


def _half_precision_forward(block: LocalBlock, device: torch.device, precision: str, optimizer):
    """A block's forward in half precision, with goodness in float32, its gradient scaled."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    forward = block.forward

    def half(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, dtype=dtype):
            h, g = forward(x)
        g = g.float()
        return h, optimizer.scale(g) if precision == "fp16" else g

    return half


class GradScaledOptimizer:
    """An optimiser whose gradients are unscaled before a step; a step with inf is skipped.

    Args:
        optimizer: the one that steps.
        device: of its parameters.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type)
        self.one = torch.ones((), device=device)
        self.scaler.scale(self.one)  # the scaler makes its scale on first use

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def scale(self, g: Tensor) -> Tensor:
        """g, whose gradient will be multiplied by the scale."""
        return scale_gradient(g, self.scaler.scale(self.one))

    def step(self) -> None:
        """Step the optimiser unless a gradient is infinite; adapt the scale."""
        self.scaler.step(self.optimizer)
        self.scaler.update()


def scale_gradient(g: Tensor, by: Tensor | float) -> Tensor:
    """g itself, whose gradient will be multiplied: what multiplying the loss would do.

    Args:
        g: any tensor.
        by: the factor.
    """
    return _ScaleGradient.apply(g, by)


class _ScaleGradient(Function):
    @staticmethod
    def forward(ctx, g: Tensor, by: Tensor | float) -> Tensor:
        ctx.by = by
        return g.view_as(g)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.by, None


def to_device_if_it_fits(x: Tensor, y: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The samples on a CUDA device if they take no more than half of its free memory.

    Args:
        x: (N, C, ...).
        y: (N,).
        device: any; on another than CUDA nothing is moved.
    """
    if device.type != "cuda":
        return x, y
    free, _ = torch.cuda.mem_get_info(device)
    if x.numel() * x.element_size() > free / 2:
        return x, y
    return x.to(device), y.to(device)
