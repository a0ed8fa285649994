"""Options of ``fit`` that change how fast it computes, not what: precision, layout, compilation."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core import SFF, LocalBlock
from ..data.sets import LabelledTensors
from ..losses import scale_gradient
from ..rules import LookaheadSFF, OverlappingSFF, Rule
from ..util.checks import check_known

PRECISIONS = ("float32", "auto", "bf16", "fp16")


def pick_precision(name: str, device: torch.device) -> str:
    """``"auto"`` by device: bf16 on a GPU that has it, fp16 on another, float32 elsewhere."""
    check_known(name, PRECISIONS, "precision")
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def check_acceleration(
    model: nn.Module, rule: type[Rule], precision: str, compile: bool, device: torch.device
) -> None:
    """Raise ValueError for options that do not work with this network, rule or machine."""
    if (precision != "float32" or compile) and not isinstance(model, SFF):
        raise ValueError(
            "precision and compile are for networks of blocks; leave them out for Forward-Forward."
        )
    if precision == "fp16" and issubclass(rule, OverlappingSFF | LookaheadSFF):
        raise ValueError(
            'precision="fp16" scales the gradients of every block by itself, and this rule lets '
            'gradients cross a boundary; use "bf16" or "float32".'
        )
    if compile and device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise ValueError(
                f"compile=True needs a C++ compiler on a CPU, and there is no {compiler}; install "
                "one, or leave compile out."
            )


@contextmanager
def accelerated(
    learner: Rule, device: torch.device, precision: str, channels_last: bool, compile: bool
) -> Iterator[None]:
    """Make the blocks of a rule's model faster for the time of a training.

    Forward passes run under ``torch.autocast``; class goodness itself stays in float32. With fp16
    the gradients of every optimiser are scaled (``torch.amp.GradScaler``).
    """
    with ExitStack() as undo:
        if channels_last:
            learner.model.to(memory_format=torch.channels_last)
            undo.callback(learner.model.to, memory_format=torch.contiguous_format)
        blocks = learner.model.blocks if isinstance(learner.model, SFF) else []
        if precision == "fp16":
            undo.callback(setattr, learner, "optimizers", learner.optimizers)
            learner.optimizers = [_Scaled(o, device) for o in learner.optimizers]
        for k, block in enumerate(blocks):
            if precision != "float32":
                scaled = learner.optimizers[min(k, len(learner.optimizers) - 1)]
                _mix(block, device, scaled if precision == "fp16" else None)
                undo.callback(delattr, block, "forward")  # the class's own again
            if compile:
                block.body.compile()
                undo.callback(setattr, block.body, "_compiled_call_impl", None)
        yield


def _mix(block: LocalBlock, device: torch.device, scaled: "_Scaled | None") -> None:
    """Let a block compute in half precision, its goodness scaled on the way back if asked."""
    dtype = torch.bfloat16 if scaled is None else torch.float16
    forward = torch.autocast(device.type, dtype=dtype)(block.forward)

    def mixed(x: Tensor) -> tuple[Tensor, Tensor]:
        h, g = forward(x)
        g = g.float()
        return h, g if scaled is None else scale_gradient(g, scaled.scaler.get_scale())

    block.forward = mixed


class _Scaled:
    """An optimiser whose gradients are unscaled before a step; a step with inf is skipped."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type)
        self.scaler.scale(torch.ones(1, device=device))  # the scale is made on first use

    def __getattr__(self, name: str):
        return getattr(self.optimizer, name)

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def to_device_if_it_fits(data: LabelledTensors, device: torch.device) -> LabelledTensors:
    """The images on a CUDA device if they take no more than half of its free memory."""
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    if data.x.numel() * data.x.element_size() > free / 2:
        return data
    return replace(data, x=data.x.to(device), y=data.y.to(device))
