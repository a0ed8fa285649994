"""What each process of a pipeline does: train its blocks, hand their outputs on, report."""

import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core import LocalBlock, hand_over
from ..data import LabelledTensors
from ..losses import class_loss
from ..rules import StepResult
from ..util.modes import evaluating
from .checkpoint import load_optimizer_states, optimizer_states
from .config import TrainConfig
from .evaluation import BATCH
from .history import EpochMetrics, divergence, learning_rate
from .loader import MemoryLoader, lay_out
from .plan import BlockCosts
from .prepare import optimizer_maker

AHEAD = 2  # outputs that may wait for the next process
CHECK_EVERY = 50  # steps between two looks at whether losses are finite

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Job:
    """What every process has to know.

    Attributes:
        config: how to train.
        plan: which blocks each process has, see ``balance``.
        costs: shapes and strides of what the processes hand on.
        normalise: between blocks, see ``core.hand_over``.
        channels_last: the memory layout of images.
        samples: training samples.
        valid_samples: validation samples.
        first: epochs that are over already.
        threads: of torch, in each process.
        devices: one per process.
        keep_optimizers: whether reports hold the optimisers' state.
        trace: whether reports hold the times of every step.
        folder: where the processes meet, read their blocks and report.
    """

    config: TrainConfig
    plan: list[int]
    costs: BlockCosts
    normalise: str
    channels_last: bool
    samples: int
    valid_samples: int
    first: int
    threads: int
    devices: list[str]
    keep_optimizers: bool
    trace: bool
    folder: Path

    @property
    def processes(self) -> int:
        """How many share the blocks."""
        return len(self.plan) - 1

    @property
    def sizes(self) -> list[int]:
        """Samples per batch of an epoch; a last one of a single sample is left out."""
        full, rest = divmod(self.samples, self.config.batch_size)
        return [self.config.batch_size] * full + ([rest] if rest > 1 else [])

    @property
    def valid_sizes(self) -> list[int]:
        """Samples per batch of the validation after each epoch; all are in."""
        full, rest = divmod(self.valid_samples, BATCH)
        return [BATCH] * full + ([rest] if rest else [])

    def stage(self, rank: int) -> Path:
        """The file with a process's blocks and the state of their optimisers."""
        return self.folder / f"stage-{rank}"

    def report(self, epoch: int, rank: int) -> Path:
        """The file in which a process tells what an epoch brought."""
        return self.folder / f"report-{epoch}-{rank}"

    def started(self, rank: int) -> Path:
        """The file that says that a process has begun."""
        return self.folder / f"started-{rank}"


def work(rank: int, job: Job, order: Tensor, about: LabelledTensors, done: Tensor) -> None:
    """Train the blocks of one process, epoch by epoch, and report after each.

    Args:
        rank: of this process.
        job: what there is to do.
        order: state of the generator that draws order and augmentation.
        about: the training set without its samples.
        done: (1,) shared with the caller: steps that the first process has taken.
    """
    job.started(rank).touch()
    torch.set_num_threads(job.threads)
    _join_group(rank, job)
    stage = _Stage(rank, job)
    generator = torch.Generator()
    generator.set_state(order)
    stream = _own_batches(job, about, generator) if rank == 0 else _received(job, rank)
    for epoch in range(job.first, job.config.epochs):
        report = stage.train_epoch(epoch, stream, done)
        report |= {"goodness": stage.validate(stream), "generator": generator.get_state()}
        path = job.report(epoch, rank)
        unfinished = path.with_name("unfinished-" + path.name)
        torch.save(report, unfinished)
        os.replace(unfinished, path)
    if stage.send is not None:
        stage.send.finish()
    dist.barrier()  # a process that leaves early breaks the connections of the others
    dist.destroy_process_group()


def _join_group(rank: int, job: Job) -> None:
    """Connect the processes, by the machine's own network interface only."""
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    store = dist.FileStore(str(job.folder / "meet"), job.processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.processes)


class _Stage:
    """The blocks of one process."""

    def __init__(self, rank: int, job: Job):
        self.rank = rank
        self.job = job
        self.start, stop = job.plan[rank : rank + 2]
        self.device = torch.device(job.devices[rank])
        blocks, states = pickle.loads(job.stage(rank).read_bytes())
        self.blocks: nn.ModuleList = blocks.to(self.device).train()
        make = optimizer_maker(job.config, self.device)
        self.optimizers = [make(block.parameters()) for block in self.blocks]
        load_optimizer_states(self.optimizers, states)
        last = rank + 1 == job.processes
        self.send = None if last else _Sender(rank + 1, job.costs.strides[stop])
        self.trace: list[dict] = []

    def train_epoch(self, epoch: int, stream: Batches, done: Tensor) -> dict:
        """One epoch; what it brought, and the state after it."""
        steps, metrics, began = len(self.job.sizes), EpochMetrics(), None
        self.trace = []
        for number in range(epoch * steps, (epoch + 1) * steps):
            x, y = next(stream)
            began = time.monotonic() if began is None else began
            metrics.add(self.step(number, x.to(self.device), y.to(self.device)), len(y))
            if metrics.steps % CHECK_EVERY == 0 or metrics.steps == steps:
                block = metrics.diverged_block()
                if block is not None:
                    lr = self.job.config.lr
                    raise FloatingPointError(divergence(self.start + block, epoch, lr))
            if self.rank == 0:
                done.fill_(number + 1)
        return {
            "epoch": epoch,
            "began": began,
            "ended": time.monotonic(),
            "losses": metrics.losses.cpu(),
            "correct": metrics.correct.cpu(),
            "trace": self.trace,
            "blocks": [dict(block.state_dict()) for block in self.blocks],
            "optimizers": optimizer_states(self.optimizers) if self.job.keep_optimizers else [],
        }

    def step(self, number: int, x: Tensor, y: Tensor) -> StepResult:
        """Every block learns from the batch; the last one's output is sent on before it learns."""
        config, losses, correct = self.job.config, [], []
        done = number / (config.epochs * len(self.job.sizes))
        rate = learning_rate(done, config.lr, config.schedule)
        for k, (block, optimizer) in enumerate(zip(self.blocks, self.optimizers, strict=True)):
            start = time.monotonic()
            index = self.start + k
            torch.manual_seed((config.seed * 1_000_003 + number) * 1009 + index)  # of dropout
            x, g = _forward(block, x, self.job.normalise)
            if block is self.blocks[-1] and self.send is not None:
                self.send(x, y)
            sent = time.monotonic()
            optimizer.param_groups[0]["lr"] = rate
            losses.append(_learn(g, y, optimizer, config.label_smoothing))
            correct.append((g.argmax(1) == y).sum())
            if self.job.trace:
                times = {"start": start, "sent": sent, "stop": time.monotonic()}
                self.trace.append({"process": self.rank, "block": index, "step": number} | times)
        return StepResult(torch.stack(losses), torch.stack(correct))

    def validate(self, stream: Batches) -> Tensor:
        """Send the validation samples through as well: (N, blocks, K) goodness of these blocks."""
        found = []
        with evaluating(self.blocks):
            for _ in self.job.valid_sizes:
                x, y = next(stream)
                x, goodness = x.to(self.device), []
                for block in self.blocks:
                    x, g = _forward(block, x, self.job.normalise)
                    goodness.append(g)
                if self.send is not None:
                    self.send(x, y)
                found.append(torch.stack(goodness, dim=1).cpu())
        return torch.cat(found) if found else torch.empty(0)


def _forward(block: LocalBlock, x: Tensor, normalise: str) -> tuple[Tensor, Tensor]:
    """The next block's input and the goodness of this one."""
    h, g = block(x)
    return hand_over(h, normalise, channel_dim=block.head.channel_dim), g


def _learn(g: Tensor, y: Tensor, optimizer: Optimizer, label_smoothing: float) -> Tensor:
    """The loss, after the block has learnt from it."""
    loss = class_loss(g, y, label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def _own_batches(job: Job, about: LabelledTensors, generator: torch.Generator) -> Batches:
    """What ``fit`` would train on: the same order, augmentation and memory layout."""
    data = torch.load(job.folder / "data.pt", weights_only=True, mmap=True)
    train = MemoryLoader(replace(about, x=data["x"], y=data["y"]))
    for _ in range(job.first, job.config.epochs):
        batches = train.shuffled(job.config.batch_size, generator, job.config.augment)
        for x, y in batches:
            yield lay_out(x, "cpu", job.channels_last), y
        if job.valid_samples:
            parts = (data["valid_x"].split(BATCH), data["valid_y"].split(BATCH))
            for x, y in zip(*parts, strict=True):
                yield lay_out(x, "cpu", job.channels_last), y


def _received(job: Job, rank: int) -> Batches:
    """The batches as the process before sends them, one asked for ahead."""
    cut = job.plan[rank]

    def ask(size: int):
        x = _empty((size, *job.costs.shapes[cut]), job.costs.strides[cut])
        y = torch.empty(size, dtype=torch.int64)
        return x, y, (dist.irecv(_memory(x), rank - 1), dist.irecv(y, rank - 1))

    sizes = iter((job.sizes + job.valid_sizes) * (job.config.epochs - job.first))
    waiting = ask(next(sizes))
    while waiting is not None:
        x, y, works = waiting
        for request in works:
            request.wait()
        size = next(sizes, None)
        waiting = None if size is None else ask(size)
        yield x, y


class _Sender:
    """Sends outputs on without waiting, but never more than ``AHEAD`` at a time.

    Args:
        to: rank of the next process.
        strides: of a sample; in this layout the next process takes it.
    """

    def __init__(self, to: int, strides: tuple[int, ...]):
        self.to = to
        self.strides = strides
        self.waiting: deque = deque()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.finish(AHEAD - 1)
        x = _memory(_empty(x.shape, self.strides).copy_(x))
        y = y.cpu().contiguous()
        # both tensors are kept here until they have left
        self.waiting.append((x, y, dist.isend(x, self.to), dist.isend(y, self.to)))

    def finish(self, left: int = 0) -> None:
        """Wait until no more than so many outputs are still on their way."""
        while len(self.waiting) > left:
            *_, first, second = self.waiting.popleft()
            first.wait()
            second.wait()


def _empty(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A batch whose samples have these strides, one behind the other."""
    return torch.empty_strided(shape, (torch.Size(shape[1:]).numel(), *strides))


def _memory(x: Tensor) -> Tensor:
    """The same memory as a row, whatever its layout."""
    return x.as_strided((x.numel(),), (1,))
