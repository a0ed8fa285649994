"""Device, precision, memory layout and compilation of a training."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core import SFF, LocalBlock
from ..rules import Rule
from ..util.checks import SFFError


def pick_device(name: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else Apple's MPS, else the CPU; any other name if it is usable here.

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
        raise SFFError(f"device={name!r} is not usable here; see `sff-teach doctor`") from None


def pick_precision(name: str, device: torch.device) -> str:
    """ "auto" by device: bf16 on a GPU that has it, fp16 on another, float32 elsewhere.

    Args:
        name: of ``config.PRECISIONS``.
        device: of the network.
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@contextmanager
def accelerated(
    learner: Rule, precision: str, *, channels_last: bool = False, compile: bool = False
) -> Iterator[None]:
    """Within the ``with``, set precision, layout and compilation of a rule's model.

    Forward passes run under ``torch.autocast``; class goodness itself stays in float32. With fp16
    the gradients of every optimiser are scaled.

    Args:
        learner: the rule.
        precision: from ``pick_precision``.
        channels_last: the memory layout of images.
        compile: whether to ``torch.compile`` the bodies; they stay compiled.
    """
    blocks = learner.model.blocks if isinstance(learner.model, SFF) else []
    device = next(learner.model.parameters()).device
    with ExitStack() as undo:
        if channels_last:
            learner.model.to(memory_format=torch.channels_last)
            undo.callback(learner.model.to, memory_format=torch.contiguous_format)
        if precision == "fp16":
            undo.callback(setattr, learner, "optimizers", learner.optimizers)
            learner.optimizers = [GradScaledOptimizer(o, device) for o in learner.optimizers]
        for k, block in enumerate(blocks if precision != "float32" else []):
            optimizer = learner.optimizers[min(k, len(learner.optimizers) - 1)]
            scale = optimizer.scale_gradient if precision == "fp16" else None
            block.forward = _half_precision_forward(block, device, precision, scale)
            undo.callback(delattr, block, "forward")  # back to the class's method
        for block in blocks if compile else []:
            block.body.compile()
        yield


def _half_precision_forward(
    block: LocalBlock, device: torch.device, precision: str, scale: Callable | None
) -> Callable:
    """A block's forward in half precision, with goodness in float32 and its gradient scaled."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    forward = block.forward

    def half(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, dtype=dtype):
            h, g = forward(x)
        g = g.float()
        if scale is not None and g.requires_grad:
            g.register_hook(scale)  # the same as a scaled loss
        return h, g

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
        self.scaler.scale(torch.ones((), device=device))  # creates its scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def scale_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient times the scale."""
        return self.scaler.scale(gradient)

    def step(self) -> None:
        """Step the optimiser unless a gradient is infinite; adapt the scale."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
