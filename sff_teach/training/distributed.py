"""Data-parallel training: each process or machine learns from its part of every batch.

    torchrun --nproc-per-node 2 -m sff_teach train NAME

Each gradient is summed over the processes as soon as backward has computed it. The weights are
those of one process on the whole batch, up to the order of sums.
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
from torch.distributed.nn.functional import all_reduce  # whose backward sums as well

from ..core import SFF
from ..rules import Rule, StepResult
from ..rules_extra import OverlappingSFF
from ..util.checks import SFFError

_LOST = (
    "another process of this training ended, or the training was told to end; with a checkpoint "
    "the same command resumes after the last complete epoch"
)


class LostProcess(RuntimeError):
    """A process of the training failed or was lost."""


def is_distributed() -> bool:
    """Whether this process belongs to a group of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def torchrun(device: str = "auto") -> Iterator[tuple[str, int]]:
    """Within a ``with``, join the processes that torchrun started; a single process needs none.

    Yields the device of this process, for ``"cuda"`` one GPU per process, and its rank.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield device, 0
        return
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise SFFError(f"there are {count} GPUs here; use torchrun --nproc-per-node {count}")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    elif device == "auto":
        device = "cpu"
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        yield device, dist.get_rank()
        dist.barrier()  # else a process that ends first breaks the connections
    finally:
        signal.signal(signal.SIGTERM, previous)
        dist.destroy_process_group()


def _on_sigterm(number: int, frame: Any) -> None:
    raise LostProcess(_LOST)


class SingleProcess:
    """A training on one process, which has the whole of every batch."""

    count = 1
    rank = 0
    smallest_batch = 2  # BatchNorm cannot train on one sample

    def synchronized(self, learner: Rule) -> AbstractContextManager:
        """The context in which ``step`` may be called."""
        return nullcontext()

    def shard(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch."""
        return x, y

    def step(self, learner: Rule, x: Tensor, y: Tensor, progress: float) -> StepResult:
        """``learner.step`` on this process's shard; the result is that of the whole batch."""
        return learner.step(x, y, progress)

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is true in any process."""
        return flag


class DataParallel(SingleProcess):
    """A training on several processes, each with a part of every batch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.count = dist.get_world_size()
        self.rank = dist.get_rank()
        self.smallest_batch = max(2, self.count)
        self.fraction = 1.0  # of the batch's samples in this process

    @contextmanager
    def synchronized(self, learner: Rule) -> Iterator[None]:
        """Within the ``with``, gradients and statistics of BatchNorm are summed over processes."""
        if not isinstance(learner.model, SFF) or isinstance(learner, OverlappingSFF):
            raise SFFError("this rule trains on one process only; start it without torchrun")
        with ExitStack() as undo:
            for parameter in learner.model.parameters():
                if parameter.requires_grad:
                    hook = parameter.register_post_accumulate_grad_hook(_sum_gradient)
                    undo.callback(hook.remove)
            for module in learner.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.forward = partial(_synchronized_batch_norm, module)
                    undo.callback(delattr, module, "forward")  # back to the class's method
            loss = learner.loss
            # The mean over a shard is weighted by its share of the batch. The loss is scaled and
            # not the gradient, since BatchNorm sums gradients over processes before that.
            learner.loss = lambda g, y: self.fraction * loss(g, y)
            undo.callback(delattr, learner, "loss")  # back to the class's method
            yield

    def shard(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch."""
        own_x, own_y = (part.tensor_split(self.count)[self.rank] for part in (x, y))
        self.fraction = len(own_y) / len(y)
        return own_x, own_y

    def step(self, learner: Rule, x: Tensor, y: Tensor, progress: float) -> StepResult:
        """One step of all processes, each on its part of the batch."""
        with _translate_connection_errors():
            result = learner.step(x, y, progress)
            measured = torch.stack([result.losses, result.correct.float()])
            dist.all_reduce(measured)
        return StepResult(measured[0], measured[1].round().long())

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is true in any process."""
        with _translate_connection_errors():
            flags = torch.tensor(float(flag), device=self.device)
            dist.all_reduce(flags)
        return flags.item() > 0


def _sum_gradient(parameter: Tensor) -> None:
    dist.all_reduce(parameter.grad)


def _synchronized_batch_norm(module: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """BatchNorm, ``(x - mean) / sqrt(var + eps) · w + b``, with the statistics of all processes."""
    if not module.training:
        return type(module).forward(module, x)
    dims = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    h = x if x.dtype == torch.float64 else x.float()  # also under autocast
    n = all_reduce(h.new_tensor(x.numel() / x.shape[1]))
    mean = all_reduce(h.sum(dims)) / n  # (C,)
    centred = h - mean.view(shape)
    variance = all_reduce(centred.square().sum(dims)) / n  # (C,)
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


@contextmanager
def _translate_connection_errors() -> Iterator[None]:
    """Replace the errors of a broken connection by LostProcess, which says what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        broken = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if not broken or isinstance(error, LostProcess):
            raise
        raise LostProcess(_LOST) from None
