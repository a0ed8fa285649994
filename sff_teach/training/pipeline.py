"""Blocks of an SFF network on several processes: an exact pipeline without bubbles.

A block's update needs nothing from later blocks. So a process sends its output on right after the
forward pass; it updates its blocks while the next process computes. The weights are bit for bit
those of one process.
"""

import copy
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from ..core import SFF, hand_over
from ..data import LabelledTensors
from ..losses import class_loss
from ..rules import StepResult, summarise
from ..util.checks import SFFError, check_count
from .checkpoint import Checkpoint, load_optimizer_states, optimizer_states
from .config import TrainConfig
from .distributed import LostProcess
from .history import CHECK_EVERY, EpochMetrics, History, learning_rate
from .loader import Loader, lay_out
from .loop import train_epochs
from .prepare import Run, optimizer_maker, prepare, resolve_config

MAX_PENDING = 2  # outputs on their way to the next process
POLL = 0.1  # seconds between two checks for reports


def fit_pipeline(
    model: SFF,
    train: LabelledTensors | tuple,
    valid: LabelledTensors | tuple | None = None,
    config: TrainConfig | None = None,
    *,
    processes: int = 2,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    checkpoint: str | Path | None = None,
    trace: list[dict] | None = None,
    **overrides: Any,
) -> History:
    """Train like ``fit(model, train, valid, rule="sff", ...)``, with the blocks on processes.

    The weights are those of ``fit`` on the CPU bit for bit, at the same number of threads, except
    that dropout draws other random numbers. Blocks are distributed by their measured time, torch's
    threads evenly. A script that calls this needs ``if __name__ == "__main__":``, because each
    process imports it.

    Source: SFF's locality allows a pipeline without bubbles or stale weights; backprop's pipelines
    have one of them (GPipe, Huang et al. 2019; PipeDream, Narayanan et al. 2019).

    Args:
        model: from ``localize``; trained in place, left in evaluation mode.
        train: a LabelledTensors or a pair (x, y) of tensors or arrays.
        valid: the same, measured after every epoch, while the processes continue.
        config: how to train; ``rule`` must be ``"sff"``, ``precision`` float32.
        processes: their number, each with at least one block.
        progress: as for ``fit``.
        on_epoch: as for ``fit``.
        checkpoint: as for ``fit``, which can resume from the file and the other way round.
        trace: a list that gets one record per process, block and step (all from 0), with the
            seconds at which it started, sent its output, and stopped.
        overrides: settings of TrainConfig that replace those of ``config``.

    Returns:
        The History; its settings also have the ``plan``, see ``balance``, and the measured
        ``block_seconds``. After Ctrl-C the model has the weights of the last complete epoch.

    Raises:
        SFFError: values that do not fit together, before anything is trained.
        LostProcess: a RuntimeError: a process died or failed; the model is unchanged.
    """
    config = resolve_config(config, overrides)
    _check_pipeline(model, config, processes)
    own = copy.deepcopy(model).cpu()  # the caller's model only gets the result
    run = prepare(own, train, valid, config.replace(device="cpu"))
    if not run.train.in_memory:
        raise TypeError("a pipeline reads tensors in memory: give a LabelledTensors or (x, y)")
    saved = Checkpoint(checkpoint, run)
    threads = max(1, torch.get_num_threads() // processes)
    with (
        run.training(saved.exclusive_lock()),
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as undo,
    ):
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads)
        first = saved.resume()
        job = _make_job(
            run, processes, first=first, threads=threads, trace=trace is not None,
            keep_optimizers=checkpoint is not None, folder=Path(folder),
        )  # fmt: skip
        with closing(_epoch_rows(job, run, progress, trace)) as rows:
            train_epochs(run, saved, first, lambda epoch: next(rows), on_epoch)
    model.load_state_dict(own.state_dict())
    model.eval()
    run.history.settings |= {"plan": job.plan, "block_seconds": job.costs.seconds}
    return run.history


def _check_pipeline(model: SFF, config: TrainConfig, processes: int) -> None:
    """Raise for what a pipeline does not support."""
    check_count(processes, "processes")
    if not isinstance(model, SFF):
        raise TypeError("model must be an SFF network; give what localize returns")
    if config.rule != "sff":
        raise SFFError(f'a pipeline is for rule="sff", not for "{config.rule}"')
    if config.device not in ("auto", "cpu"):
        raise SFFError(f"a pipeline works on the CPU, not on device={config.device!r}")
    if config.precision not in ("float32", "auto") or config.compile:
        raise SFFError("a pipeline works without precision and compile")


@dataclass(frozen=True)
class _Job:
    """The settings of every process."""

    config: TrainConfig
    plan: list[int]  # which blocks each process has, see balance
    costs: "BlockCosts"  # with shapes and strides of the blocks' inputs
    normalise: str  # between blocks
    channels_last: bool
    sizes: list[int]  # samples per batch of an epoch
    first: int  # epochs done before
    threads: int  # of torch, in each process
    trace: bool  # whether reports hold the times of every step
    keep_optimizers: bool  # whether they hold the optimisers' state
    folder: Path  # of the files that the processes exchange

    @property
    def processes(self) -> int:
        """Their number."""
        return len(self.plan) - 1

    def report(self, epoch: int, rank: int) -> Path:
        """The file with a process's results of an epoch."""
        return self.folder / f"report-{epoch}-{rank}"


def _make_job(run: Run, processes: int, **others: Any) -> _Job:
    """Time the blocks on the first batch and distribute them over the processes."""
    data, batch_size = run.train.data, run.config.batch_size
    x = lay_out(data.x[:batch_size], "cpu", run.channels_last)
    costs = measure_blocks(run.model, x, data.y[:batch_size])
    starts = range(0, run.steps() * batch_size, batch_size)
    return _Job(
        config=run.config,
        plan=balance(costs.seconds, processes),
        costs=costs,
        normalise=run.model.normalise,
        channels_last=run.channels_last,
        sizes=[min(batch_size, len(data) - start) for start in starts],
        **others,
    )


def _epoch_rows(job: _Job, run: Run, progress: bool, trace: list[dict] | None) -> Iterator[dict]:
    """Run the processes; after each epoch load their weights, validate and yield its row."""
    # a file, because shared memory is often small
    start = {
        "train": run.train.data,
        "order": run.generator.get_state(),
        "blocks": run.model.blocks,
        "optimizers": optimizer_states(run.learner.optimizers),
    }
    torch.save(start, job.folder / "start.pt")
    steps_done = torch.zeros(1, dtype=torch.int64).share_memory_()  # steps of the first process
    context = spawn(_run_process, (job, steps_done), nprocs=job.processes, join=False)
    ended = 0.0  # time at which the epoch before ended
    try:
        with run.progress_bar(progress) as bar:
            for epoch in range(job.first, job.config.epochs):
                bar.set_description(
                    f"sff epoch {epoch + 1} ({job.processes} processes)", refresh=False
                )
                files = [job.report(epoch, rank) for rank in range(job.processes)]
                while not all(file.exists() for file in files):
                    context.join(timeout=POLL)
                    bar.update(max(0, steps_done.item() - bar.n))
                reports = [torch.load(file, weights_only=True) for file in files]
                for file in files:
                    file.unlink()
                _load_reports(run, reports)
                row = _merge_rows(reports, ended) | run.validate()
                ended = max(report["ended"] for report in reports)
                if trace is not None:
                    trace += [record for report in reports for record in report["trace"]]
                yield {"epoch": epoch + 1, "complete": True} | row
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise LostProcess(_failure_message(error)) from None
    finally:
        for process in context.processes:
            process.kill()
            process.join()
        for file in context.error_files:  # torch does not remove the tracebacks it sent
            Path(file).unlink(missing_ok=True)


def _failure_message(error: ProcessRaisedException | ProcessExitedException) -> str:
    """Why a process ended, in a sentence."""
    if isinstance(error, ProcessRaisedException):
        what = f"failed ({str(error).strip().splitlines()[-1]})"
    elif error.exit_code > 0:
        what = 'could not start; does the script say `if __name__ == "__main__":`?'
    else:
        what = f"died (exit code {error.exit_code}; killed, perhaps for lack of memory)"
    return f"process {error.error_index + 1} of the pipeline {what}; the model is as it was before"


def _load_reports(run: Run, reports: list[dict]) -> None:
    """Load the processes' state after an epoch into this one."""
    states = [state for report in reports for state in report["blocks"]]
    for block, state in zip(run.model.blocks, states, strict=True):
        block.load_state_dict(state)
    states = [state for report in reports for state in report["optimizers"]]
    if states:
        load_optimizer_states(run.learner.optimizers, states)
    run.generator.set_state(reports[0]["order"])


def _merge_rows(reports: list[dict], previous: float) -> dict:
    """One row from those of the processes; ``previous`` is when the epoch before ended."""
    row = dict(reports[0]["row"])
    for name in ("train_loss", "train_accuracy"):
        row[name] = [value for report in reports for value in report["row"][name]]
    ended = max(report["ended"] for report in reports)
    row["seconds"] = ended - max(reports[0]["began"], previous)
    return row


# ---------------------------------------------------------------- in each process


def _run_process(rank: int, job: _Job, steps_done: Tensor) -> None:
    """Train the blocks of one process; ``steps_done`` (1,) counts the first one's steps."""
    torch.set_num_threads(job.threads)
    _join_group(rank, job)
    # unpickling is safe: this training wrote the file into a private folder
    start = torch.load(job.folder / "start.pt", weights_only=False, mmap=True)
    stage = _Stage(rank, job, start["blocks"], start["optimizers"])
    generator = torch.Generator()
    generator.set_state(start["order"])
    train = Loader(start["train"], "train")
    stream = _received_batches(job, rank) if rank else _training_batches(job, train, generator)
    for epoch in range(job.first, job.config.epochs):
        report = stage.train_epoch(epoch, stream, steps_done) | {"order": generator.get_state()}
        path = job.report(epoch, rank)
        unfinished = path.with_name("unfinished-" + path.name)
        torch.save(report, unfinished)
        os.replace(unfinished, path)
    if stage.send is not None:
        stage.send.wait()
    dist.barrier()  # a process that leaves early breaks the connections of the others
    dist.destroy_process_group()


def _join_group(rank: int, job: _Job) -> None:
    """Connect the processes through the loopback interface only."""
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    store = dist.FileStore(str(job.folder / "rendezvous"), job.processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.processes)


class _Stage:
    """The blocks of one process; ``states`` are those of all blocks' optimisers."""

    def __init__(self, rank: int, job: _Job, blocks: nn.ModuleList, states: Sequence[dict]):
        self.rank = rank
        self.job = job
        self.start, stop = job.plan[rank : rank + 2]
        self.blocks = copy.deepcopy(blocks[self.start : stop]).train()
        make = optimizer_maker(job.config, torch.device("cpu"))
        self.optimizer = make(self.blocks.parameters())
        before = len(list(blocks[: self.start].parameters()))
        load_optimizer_states([self.optimizer], copy.deepcopy(states[before:]))
        last = rank + 1 == job.processes
        self.send = None if last else _Sender(rank + 1, job.costs.strides[stop])
        self.trace: list[dict] = []

    def train_epoch(self, epoch: int, stream: Iterator, steps_done: Tensor) -> dict:
        """Train one epoch; its results, and the state after it."""
        steps, metrics, began = len(self.job.sizes), EpochMetrics(), None
        self.trace = []
        for number in range(epoch * steps, (epoch + 1) * steps):
            x, y = next(stream)
            began = time.monotonic() if began is None else began
            metrics.add(self.step(number, x, y), len(y))
            if metrics.steps % CHECK_EVERY == 0 or metrics.steps == steps:
                problem = metrics.divergence(epoch, self.job.config.lr, self.start + 1)
                if problem is not None:
                    raise FloatingPointError(problem)
            if self.rank == 0:
                steps_done.fill_(number + 1)
        return {
            "row": metrics.row(),
            "began": began,
            "ended": time.monotonic(),
            "trace": self.trace,
            "blocks": [dict(block.state_dict()) for block in self.blocks],
            "optimizers": optimizer_states([self.optimizer]) if self.job.keep_optimizers else [],
        }

    def step(self, number: int, x: Tensor, y: Tensor) -> StepResult:
        """Train every block on the batch; the last output is sent on before its backward pass."""
        config, losses, goodness = self.job.config, [], []
        progress = number / (config.epochs * len(self.job.sizes))
        self.optimizer.param_groups[0]["lr"] = learning_rate(progress, config.lr, config.schedule)
        self.optimizer.zero_grad()
        for index, block in enumerate(self.blocks, self.start):
            start = time.monotonic()
            # of dropout; torch.manual_seed would look for other devices, at every step
            torch.default_generator.manual_seed((config.seed * 1_000_003 + number) * 1009 + index)
            h, g = block(x)
            x = hand_over(h, self.job.normalise, channel_dim=block.head.channel_dim)
            if block is self.blocks[-1] and self.send is not None:
                self.send(x, y)
            sent = time.monotonic()
            loss = class_loss(g, y, config.label_smoothing)
            loss.backward()
            losses.append(loss)
            goodness.append(g)
            if block is self.blocks[-1]:  # no block's input depends on the weights after the step
                self.optimizer.step()
            if self.job.trace:
                times = {"start": start, "sent": sent, "stop": time.monotonic()}
                self.trace.append({"process": self.rank, "block": index, "step": number} | times)
        return summarise(losses, goodness, y)


def _training_batches(job: _Job, train: Loader, generator: torch.Generator) -> Iterator:
    """The batches of ``fit``: the same order, augmentation and memory layout."""
    for _ in range(job.first, job.config.epochs):
        for x, y in train.shuffled(job.config.batch_size, generator, job.config.augment):
            yield lay_out(x, "cpu", job.channels_last), y


def _received_batches(job: _Job, rank: int) -> Iterator:
    """The batches from the process before; the next one is requested in advance."""
    cut = job.plan[rank]

    def request(size: int):
        x = _empty((size, *job.costs.shapes[cut]), job.costs.strides[cut])
        y = torch.empty(size, dtype=torch.int64)
        return x, y, (dist.irecv(_flat_view(x), rank - 1), dist.irecv(y, rank - 1))

    sizes = iter(job.sizes * (job.config.epochs - job.first))
    pending = request(next(sizes))
    while pending is not None:
        x, y, works = pending
        for work in works:
            work.wait()
        size = next(sizes, None)
        pending = None if size is None else request(size)
        yield x, y


class _Sender:
    """Sends outputs to the next process without waiting, at most ``MAX_PENDING`` at a time."""

    def __init__(self, to: int, strides: tuple[int, ...]):
        self.to = to
        self.strides = strides
        self.pending: deque = deque()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.wait(MAX_PENDING - 1)
        x = _flat_view(_empty(x.shape, self.strides).copy_(x))
        y = y.contiguous()
        # both tensors must live until they are sent
        self.pending.append((x, y, dist.isend(x, self.to), dist.isend(y, self.to)))

    def wait(self, remaining: int = 0) -> None:
        """Wait until at most ``remaining`` outputs are on their way."""
        while len(self.pending) > remaining:
            *_, first, second = self.pending.popleft()
            first.wait()
            second.wait()


def _empty(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A batch whose samples have these strides and follow each other in memory."""
    return torch.empty_strided(shape, (torch.Size(shape[1:]).numel(), *strides))


def _flat_view(x: Tensor) -> Tensor:
    """The same memory as a vector, in any layout."""
    return x.as_strided((x.numel(),), (1,))


# ---------------------------------------------------------------- blocks to processes


def balance(seconds: Sequence[float], processes: int) -> list[int]:
    """Distribute blocks, in order, so that the slowest process is as fast as possible.

    Args:
        seconds: per block, or any other cost.
        processes: their number; each gets at least one block.

    Returns:
        processes + 1 positions: process r has the blocks from ``[r]`` up to ``[r + 1]``.

    Raises:
        SFFError: more processes than blocks, or none.
    """
    check_count(processes, "processes")
    if processes > len(seconds):
        raise SFFError(f"processes={processes} is more than the {len(seconds)} blocks; use fewer")

    @cache
    def best(start: int, parts: int) -> tuple[float, list[int]]:
        """Seconds of the slowest part, and the cuts, for the blocks from ``start`` on."""
        if parts == 1:
            return sum(seconds[start:]), [len(seconds)]
        plans = []
        for cut in range(start + 1, len(seconds) - parts + 2):
            slowest, cuts = best(cut, parts - 1)
            plans.append((max(sum(seconds[start:cut]), slowest), [cut, *cuts]))
        return min(plans, key=itemgetter(0))

    return [0, *best(0, processes)[1]]


@dataclass(frozen=True)
class BlockCosts:
    """Times and shapes of a network's blocks in one training step.

    Attributes:
        seconds: per block, the fastest of some rounds.
        shapes: of one sample: of the input, then of every block's output.
        strides: of the same.
    """

    seconds: list[float]
    shapes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]]


def measure_blocks(model: SFF, x: Tensor, y: Tensor) -> BlockCosts:
    """Time a training step of every block on one batch; nothing in the model changes.

    Args:
        model: the network.
        x: (B, C, ...), laid out as in training.
        y: (B,).
    """
    model = copy.deepcopy(model).train()
    make = optimizer_maker(TrainConfig(), torch.device("cpu"))
    optimizers = [make(block.parameters()) for block in model.blocks]
    fastest, began = [float("inf")] * len(model.blocks), time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        for count in range(8):  # three are enough if they take two seconds
            outputs = [x]
            for k, (block, optimizer) in enumerate(zip(model.blocks, optimizers, strict=True)):
                start = time.perf_counter()
                h, g = block(outputs[-1])
                outputs.append(model.hand_over(block, h))
                optimizer.zero_grad()
                class_loss(g, y).backward()
                optimizer.step()
                fastest[k] = min(fastest[k], time.perf_counter() - start)
            if count >= 2 and time.perf_counter() - began > 2:
                break
    shapes = [tuple(h.shape[1:]) for h in outputs]
    return BlockCosts(fastest, shapes, [h.stride()[1:] for h in outputs])
