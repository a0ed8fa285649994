"""One training on several processes or machines: each learns from its part of every batch.

    torchrun --nproc-per-node 2 -m sff_teach train NAME

After a block's backward pass its gradients are summed over the processes, then the block takes its
step. The weights are those of one process on the joined batch, but for the order of sums.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function

from ..core import SFF
from ..rules import Rule, StepResult
from ..rules_extra import OverlappingSFF
from ..util.checks import SFFError

_LOST = (
    "another process of this training ended, or the training was told to end; a checkpoint holds "
    "everything up to its last epoch, and the same command goes on from there"
)


class LostProcess(RuntimeError):
    """A process of the training failed or is gone."""


def is_distributed() -> bool:
    """True in a process that trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def torchrun(device: str = "auto") -> Iterator[tuple[str, int]]:
    """Join the processes that torchrun started, for the time of a ``with``; alone, do nothing.

    Args:
        device: ``"auto"`` or ``"cuda"``: a GPU for each process of a machine, if there is one.

    Yields:
        The device of this process, and its rank.

    Raises:
        SFFError: more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield device, 0
        return
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise SFFError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here; "
                f"use --nproc-per-node {torch.cuda.device_count()}, or --device cpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    elif device == "auto":
        device = "cpu"
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        yield device, dist.get_rank()
        dist.barrier()  # a process that leaves early breaks the connections of the others
    finally:
        signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()


def _on_sigterm(number: int, frame: Any) -> None:
    raise LostProcess(_LOST)


class SingleProcess:
    """A training on one process: all of every batch is its own."""

    processes = 1
    rank = 0
    smallest_batch = 2  # BatchNorm cannot train on one sample

    def shard(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch."""
        return x, y

    def step(self, learner: Rule, x: Tensor, y: Tensor, done: float, n: int) -> StepResult:
        """``learner.step`` on this process's part of ``n`` samples, measured on all of them."""
        return learner.step(x, y, done)

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is true in any process."""
        return flag

    def synchronized(self, learner: Rule) -> AbstractContextManager:
        """The time in which ``step`` may be called."""
        return nullcontext()


class DataParallel(SingleProcess):
    """A training on several processes, each with a part of every batch.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.processes = dist.get_world_size()
        self.rank = dist.get_rank()
        self.smallest_batch = max(2, self.processes)
        self.fraction = 1.0  # of the batch's samples that are here

    @contextmanager
    def synchronized(self, learner: Rule) -> Iterator[None]:
        """Blocks exchange gradients and statistics of BatchNorm, until the ``with`` is left."""
        if not isinstance(learner.model, SFF) or isinstance(learner, OverlappingSFF):
            raise SFFError("this rule trains on one process only; start it without torchrun")
        with ExitStack() as undo:
            for root in learner.modules().values():
                for module in root.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.forward = _joined_batch_norm(module, self.device)
                        undo.callback(delattr, module, "forward")  # the class's own again
            undo.callback(setattr, learner, "optimizers", learner.optimizers)
            learner.optimizers = [_SummingOptimizer(o) for o in learner.optimizers]
            loss = learner.loss
            # A mean over a part becomes a part of the batch's mean. The loss is scaled and not the
            # gradient, because gradients of BatchNorm's statistics cross processes before that.
            learner.loss = lambda g, y: self.fraction * loss(g, y)
            undo.callback(delattr, learner, "loss")  # the class's own again
            yield

    def shard(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch."""
        return tuple(part.tensor_split(self.processes)[self.rank] for part in (x, y))

    def step(self, learner: Rule, x: Tensor, y: Tensor, done: float, n: int) -> StepResult:
        """One step of all processes together, on a part of ``n`` samples."""
        self.fraction = len(y) / n
        with _connection_errors_explained():
            result = learner.step(x, y, done)
            measured = torch.stack([result.losses.detach(), result.correct.float()])
            dist.all_reduce(measured)
        return StepResult(measured[0], measured[1].round().long())

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is true in any process."""
        with _connection_errors_explained():
            flags = torch.tensor(float(flag), device=self.device)
            dist.all_reduce(flags)
        return flags.item() > 0


class _SummingOptimizer:
    """An optimiser whose gradients are summed over the processes before it steps."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def step(self) -> None:
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        if gradients:
            joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(joined)
            parts = joined.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))
        self.optimizer.step()


@contextmanager
def _connection_errors_explained() -> Iterator[None]:
    """Turn the errors of a broken connection into one that says what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        broken = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if not broken or isinstance(error, LostProcess):
            raise
        raise LostProcess(_LOST) from None


def _joined_batch_norm(module: nn.modules.batchnorm._BatchNorm, device: torch.device):
    """The forward of a BatchNorm over the joined batch: torch's on a GPU, else ours."""
    if device.type != "cuda":
        return partial(_normalise_joined, module)
    joined = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # the same parameters and statistics

    def forward(x: Tensor) -> Tensor:
        joined.training = module.training
        return joined(x)

    return forward


class _Sum(Function):
    """A tensor summed over the processes, and so is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def _normalise_joined(module: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """``(x - mean) / sqrt(var + eps) · weight + bias`` with mean and variance of all processes."""
    if not module.training:
        return type(module).forward(module, x)
    dims = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    h = x if x.dtype == torch.float64 else x.float()  # also under autocast
    n = _Sum.apply(h.new_tensor(x.numel() / x.shape[1]))
    mean = _Sum.apply(h.sum(dims)) / n  # (C,)
    centred = h - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / n  # (C,)
    if module.track_running_stats:
        with torch.no_grad():
            module.num_batches_tracked += 1
            step = module.momentum
            step = 1.0 / module.num_batches_tracked.item() if step is None else step
            module.running_mean.lerp_(mean, step)
            module.running_var.lerp_(variance * n / (n - 1), step)
    y = centred * (variance + module.eps).rsqrt().view(shape)
    if module.affine:
        y = y * module.weight.view(shape) + module.bias.view(shape)
    return y.to(x.dtype)
