"""One training on several processes or machines: each learns from its part of every batch.

    torchrun --nproc-per-node 2 -m sff_teach train NAME

Every block is a ``DistributedDataParallel`` of its own. The gradients of block k travel while block
k + 1 is at work, and all blocks take their step when the batch has passed the last one. The weights
are those of one process on the joined batch, but for the order of sums.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from inspect import signature

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn.parallel import DistributedDataParallel

from ..core import SFF, LocalBlock
from ..losses import scale_gradient
from ..rules import LookaheadSFF, OverlappingSFF, Rule, StepResult
from ..util.checks import root_cause


class LostProcess(RuntimeError):
    """A process of the training failed or is gone."""


def running() -> bool:
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
        ValueError: more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield device, 0
        return
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here; "
                f"use --nproc-per-node {torch.cuda.device_count()}, or --device cpu."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    elif device == "auto":
        device = "cpu"
    before = signal.signal(signal.SIGTERM, _told_to_end)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        yield device, dist.get_rank()
        dist.barrier()  # nobody closes the door while another still talks
    finally:
        signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()


def _told_to_end(number, frame) -> None:
    raise LostProcess(_LOST)


_LOST = (
    "another process of this training ended, or the training was told to end; a checkpoint holds "
    "everything up to its last epoch, and the same command goes on from there."
)


class Alone:
    """A training on one process: all of every batch is its own."""

    processes, rank = 1, 0
    smallest_batch = 2  # BatchNorm cannot train on one image

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch."""
        return x, y

    def step(self, learner: Rule, x: Tensor, y: Tensor, done: float, n: int) -> StepResult:
        """``learner.step`` on a part of ``n`` images; what it measured of all of them."""
        return learner.step(x, y, done)

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is true in any process."""
        return flag

    def together(self) -> AbstractContextManager:
        """The time in which ``step`` may be called."""
        return nullcontext()


class Team(Alone):
    """A training on several processes.

    Args:
        learner: the rule at work; its blocks and optimisers are borrowed while ``together``.
        device: of this process.

    Raises:
        ValueError: a rule whose gradients cross a boundary, or Forward-Forward.
    """

    def __init__(self, learner: Rule, device: torch.device):
        if not isinstance(learner.model, SFF) or isinstance(learner, OverlappingSFF | LookaheadSFF):
            raise ValueError(
                "this rule trains on one process only; start it without torchrun, or use "
                "bp, bp-goodness, deepsup or sff."
            )
        self.learner, self.device = learner, device
        self.processes, self.rank = dist.get_world_size(), dist.get_rank()
        self.smallest_batch = max(2, self.processes)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Blocks exchange gradients and statistics of BatchNorm, until the ``with`` is left."""
        with ExitStack() as undo:
            blocks = self.learner.model.blocks
            for module in blocks.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.forward = _joined_batch_norm(module, self.device)
                    undo.callback(delattr, module, "forward")  # the class's own again
            self.shared = nn.ModuleList(_SharedBlock(block) for block in blocks)
            optimizers = self.learner.optimizers
            undo.callback(setattr, self.learner, "optimizers", optimizers)
            groups = [self.shared] if len(optimizers) == 1 else [[block] for block in self.shared]
            self.learner.optimizers = [_Waiting(o, g) for o, g in zip(optimizers, groups)]
            yield

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch."""
        return tuple(part.tensor_split(self.processes)[self.rank] for part in (x, y))

    def step(self, learner: Rule, x: Tensor, y: Tensor, done: float, n: int) -> StepResult:
        """One step of all processes together, on a part of ``n`` images."""
        for block in self.shared:
            block.share = len(y) / n
        own = learner.model.blocks
        with _others_alive():
            learner.model.blocks = self.shared
            try:
                result = learner.step(x, y, done)
            finally:
                learner.model.blocks = own
            for optimizer in learner.optimizers:
                optimizer.finish()
            measured = torch.stack([result.losses * len(y) / n, result.correct.float()])
            dist.all_reduce(measured)
        return StepResult(measured[0], measured[1].round().long())

    def any(self, flag: bool) -> bool:
        """True if ``flag`` is true in any process."""
        with _others_alive():
            flags = torch.tensor(float(flag), device=self.device)
            dist.all_reduce(flags)
        return flags.item() > 0


@contextmanager
def _others_alive() -> Iterator[None]:
    """Turn the errors of a broken connection into one that says what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        cause = root_cause(error)  # a step may have put it into words of its own
        broken = isinstance(cause, dist.DistError) or "gloo" in str(cause) or "NCCL" in str(cause)
        if not broken or isinstance(error, LostProcess):
            raise
        raise LostProcess(_LOST) from None


# BatchNorm's statistics are the same everywhere already. torch 2.15 gave the option a new name.
_NEW_NAME = "forward_sync_buffers" in signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


class _SharedBlock(DistributedDataParallel):
    """A block whose gradients are summed over the processes, without waiting for the sum.

    torch would wait at the end of the block's backward pass. Here the sums are under way until the
    optimiser asks for them, so that the next block need not wait.
    """

    def __init__(self, block: LocalBlock):
        super().__init__(block, gradient_as_bucket_view=True, **_NO_BUFFERS)
        self.share, self.sums = 1.0, []
        self.register_comm_hook(None, self._begin)

    @property
    def head(self) -> nn.Module:
        return self.module.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, g = super().forward(x)
        return h, scale_gradient(g, self.share)  # so that the sum is the joined batch's mean

    def _begin(self, _, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        gradients = bucket.buffer()
        self.sums.append(dist.all_reduce(gradients, async_op=True))
        on_gpu = [gradients.device] if gradients.is_cuda else []
        done = torch.futures.Future(devices=on_gpu)
        done.set_result(gradients)  # a lie for torch's sake; _Waiting knows better
        return done

    def wait(self) -> None:
        for work in self.sums:
            work.wait()
        self.sums.clear()


class _Waiting:
    """An optimiser that takes its step later, when the gradients of its blocks have arrived."""

    def __init__(self, optimizer: torch.optim.Optimizer, blocks: list[_SharedBlock]):
        self.optimizer, self.blocks = optimizer, blocks

    def __getattr__(self, name: str):
        return getattr(self.optimizer, name)

    def step(self) -> None:
        """Nothing yet: the next block's turn."""

    def finish(self) -> None:
        """Wait, and take the step."""
        for block in self.blocks:
            block.wait()
        self.optimizer.step()


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
    across = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    h = x if x.dtype == torch.float64 else x.float()  # also under autocast
    n = _Sum.apply(h.new_tensor(x.numel() / x.shape[1]))
    mean = _Sum.apply(h.sum(across)) / n  # (C,)
    centred = h - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(across)) / n  # (C,)
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
