"""Blocks of an SFF network on several processes: an exact pipeline without bubbles.

A block's update needs nothing from later blocks, and its output is computed before its update. So a
process passes its output on after the forward pass, learns by itself, and takes the next batch,
while the next process works on what it got. The weights come out bit for bit as in one process.
"""

import copy
import os
import pickle
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from ..core import SFF, LocalBlock, hand_over
from ..data import LabelledTensors
from ..losses import class_loss
from ..rules import StepResult
from ..util.checks import SFFError, check_count
from ..util.modes import evaluating
from .checkpoint import Checkpoint, load_optimizer_states, optimizer_states
from .config import TrainConfig
from .distributed import LostProcess
from .evaluation import BATCH, VoteCount
from .history import EpochMetrics, History, divergence, learning_rate, mean_row
from .loader import MemoryLoader, lay_out
from .precision import pick_device
from .prepare import Run, optimizer_maker, prepare, resolve_config
from .progress import progress_bar

AHEAD = 2  # outputs that may wait for the next process
POLL = 0.1  # seconds between two looks at what the processes have done
CHECK_EVERY = 50  # steps between two looks at whether losses are finite


def balance(seconds: Sequence[float], processes: int) -> list[int]:
    """Share blocks out in order so that the slowest process has the least to do.

    Args:
        seconds: per block, or any other cost.
        processes: how many; each gets at least one block.

    Returns:
        processes + 1 positions: process r has the blocks from ``[r]`` up to ``[r + 1]``.

    Raises:
        SFFError: more processes than blocks, or none.
    """
    check_count(processes, "processes")
    if processes > len(seconds):
        raise SFFError(
            f"processes={processes} is more than the {len(seconds)} blocks; cut the network into "
            "more blocks"
        )

    @cache
    def best(start: int, parts: int) -> tuple[float, list[int]]:
        """The slowest part's seconds, and the cuts, of the blocks from ``start`` on."""
        if parts == 1:
            return sum(seconds[start:]), [len(seconds)]
        plans = []
        for cut in range(start + 1, len(seconds) - parts + 2):
            slowest, cuts = best(cut, parts - 1)
            plans.append((max(sum(seconds[start:cut]), slowest), [cut, *cuts]))
        return min(plans, key=itemgetter(0))

    return [0, *best(0, processes)[1]]


def best_ratio(seconds: Sequence[float], plan: Sequence[int]) -> float:
    """How much faster than one process the plan can be at best: all seconds ÷ the slowest's.

    Args:
        seconds: per block.
        plan: from ``balance``.
    """
    return sum(seconds) / max(sum(seconds[a:b]) for a, b in pairwise(plan))


@dataclass(frozen=True)
class BlockCosts:
    """What a training step measured on a model's copy.

    Attributes:
        seconds: per block, the fastest of some rounds.
        shapes: of one sample: of the input, then of every block's output.
        strides: of the same.
    """

    seconds: list[float]
    shapes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]]


def measure_blocks(
    model: SFF,
    x: Tensor,
    y: Tensor,
    *,
    rounds: int = 8,
    limit: float = 2.0,
    threads: int = 1,
) -> BlockCosts:
    """Time a training step of every block on one batch; nothing in the model changes.

    Args:
        model: the network.
        x: (B, C, ...), laid out as in training.
        y: (B,).
        rounds: at most; after ``limit`` seconds three are enough.
        limit: in seconds.
        threads: of torch, while measuring.
    """
    model = copy.deepcopy(model).train()
    make = optimizer_maker(TrainConfig(), torch.device("cpu"))
    optimizers = [make(block.parameters()) for block in model.blocks]
    fastest = [float("inf")] * len(model.blocks)
    before, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            for count in range(rounds):
                outputs = [x]
                for k, (block, optimizer) in enumerate(zip(model.blocks, optimizers, strict=True)):
                    start = time.perf_counter()
                    h, g = _forward(block, outputs[-1], model.normalise)
                    _learn(g, y, optimizer)
                    fastest[k] = min(fastest[k], time.perf_counter() - start)
                    outputs.append(h)
                if count >= 2 and time.perf_counter() - began > limit:
                    break
    finally:
        torch.set_num_threads(before)
    shapes = [tuple(h.shape[1:]) for h in outputs]
    return BlockCosts(fastest, shapes, [h.stride()[1:] for h in outputs])


@dataclass(frozen=True)
class _Job:
    """What every process has to know."""

    config: TrainConfig
    plan: list[int]
    costs: BlockCosts
    normalise: str
    channels_last: bool
    samples: int
    valid_samples: int
    first: int  # epochs that are behind us already
    threads: int
    devices: list[str]
    keep_optimizers: bool
    trace: bool
    folder: str

    @property
    def processes(self) -> int:
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

    def report(self, epoch: int, rank: int) -> Path:
        """The file in which a process tells what an epoch brought."""
        return Path(self.folder) / f"report-{epoch}-{rank}"

    def started(self, rank: int) -> Path:
        """The file that says that a process has begun."""
        return Path(self.folder) / f"started-{rank}"


def fit_pipeline(
    model: SFF,
    train: LabelledTensors | tuple,
    valid: LabelledTensors | tuple | None = None,
    config: TrainConfig | None = None,
    *,
    processes: int = 2,
    threads: int = 1,
    devices: Sequence[str] | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    checkpoint: str | Path | None = None,
    trace: list[dict] | None = None,
    **overrides: Any,
) -> History:
    """Train like ``fit(model, train, valid, rule="sff", ...)``, with the blocks on processes.

    On CPUs the weights are those of ``fit`` bit for bit, at the same number of threads. One thing
    differs: a block that draws random numbers of its own (dropout) draws others than in ``fit``,
    though the same ones in every pipeline. Blocks are shared out by their measured time. Starting
    the processes takes some seconds. A script that calls this needs Python's usual
    ``if __name__ == "__main__":``, because each process imports it anew.

    Args:
        model: from ``localize``; trained in place, left in evaluation mode.
        train: a LabelledTensors or a pair (x, y) of tensors or arrays.
        valid: the same, measured after every epoch.
        config: how to train; ``rule`` must be ``"sff"``, ``precision`` float32.
        processes: how many, each with at least one block.
        threads: of torch, in each process.
        devices: one per process, such as ``["cuda:0", "cuda:1"]``; None for the CPU. Outputs
            travel through the CPU's memory.
        progress: as for ``fit``.
        on_epoch: as for ``fit``.
        checkpoint: as for ``fit``, and in the same form: either goes on from the other's file.
        trace: a list, to which one record is added per process, block and step: ``process``,
            ``block`` and ``step``, from 0; ``start``, ``sent`` and ``stop`` of forward and of the
            learning after it, in seconds.
        overrides: settings of TrainConfig that replace those of ``config``.

    Returns:
        The History. ``seconds`` of a row: from the first process's first batch, or the last one's
        end of the epoch before, to the last one's end. Its settings also have the ``plan``, see
        ``balance``, and the measured ``block_seconds``. Ctrl-C leaves the model with the weights
        of the last complete epoch and returns what was measured until then.

    Raises:
        SFFError: values that do not fit together, before anything is trained.
        TypeError: an argument of the wrong kind.
        OSError: the checkpoint cannot be written, or another process trains with it.
        LostProcess: a RuntimeError: a process died or failed; the model is as it was before.

    Source: no bubble and no stale weight follow from SFF's locality; backprop's pipelines have
    either (GPipe, Huang et al. 2019; PipeDream, Narayanan et al. 2019).
    """
    config = resolve_config(config, overrides).replace(device="cpu")
    devices = _check_pipeline(model, config, processes, threads, devices)
    own = copy.deepcopy(model).cpu()  # what the processes learn; the caller's only gets the result
    run = prepare(own, train, valid, config)
    if not all(isinstance(data, MemoryLoader | None) for data in (run.train, run.valid)):
        raise TypeError("a pipeline reads tensors in memory: give a LabelledTensors or (x, y)")
    saved = Checkpoint(checkpoint, run.learner, run.history, run.generator, run.train.fingerprint())
    with ExitStack() as stack:
        stack.enter_context(saved.exclusive_lock())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        torch.manual_seed(config.seed)  # as in fit: it belongs to a checkpoint
        if run.channels_last:
            own.to(memory_format=torch.channels_last)
        first = saved.resume()
        costs = _measure_run(run, threads)
        job = _Job(
            config=config,
            plan=balance(costs.seconds, processes),
            costs=costs,
            normalise=own.normalise,
            channels_last=run.channels_last,
            samples=len(run.train.data),
            valid_samples=0 if run.valid is None else len(run.valid.data),
            first=first,
            threads=threads,
            devices=devices,
            keep_optimizers=checkpoint is not None,
            trace=trace is not None,
            folder=folder,
        )
        ended = 0.0  # the epoch before
        try:
            for reports in _reports(job, run, progress):
                _take_over(run, job, reports)
                run.history.rows.append(_row(run, job, reports, ended))
                ended = max(report["ended"] for report in reports)
                if trace is not None:
                    trace += [record for report in reports for record in report["trace"]]
                saved.save()
                if on_epoch is not None:
                    on_epoch(run.history)
        except KeyboardInterrupt:
            run.history.stopped = "interrupted"
    model.load_state_dict(own.state_dict())
    model.eval()
    run.history.settings |= {"plan": job.plan, "block_seconds": costs.seconds}
    return run.history


def _check_pipeline(
    model: SFF, config: TrainConfig, processes: int, threads: int, devices: Sequence[str] | None
) -> list[str]:
    """The devices of the processes; SFFError for what a pipeline cannot do."""
    check_count(threads, "threads")
    check_count(processes, "processes")
    if config.rule != "sff":
        raise SFFError(
            f'a pipeline is for rule="sff", whose blocks need nothing from later ones, not for '
            f'"{config.rule}"'
        )
    if config.precision not in ("float32", "auto") or config.compile:
        raise SFFError("a pipeline works without precision and compile")
    if not isinstance(model, SFF):
        raise TypeError("model must be an SFF network; give what localize returns")
    if devices is not None and len(devices) != processes:
        raise SFFError(f"devices names {len(devices)} for processes={processes}")
    return [str(pick_device(name)) for name in devices or ["cpu"] * processes]


def _measure_run(run: Run, threads: int) -> BlockCosts:
    """``measure_blocks`` on the first batch as the first process will see it."""
    data = run.train.data
    size = min(run.config.batch_size, len(data))
    x = lay_out(data.x[:size], "cpu", run.channels_last)
    return measure_blocks(run.model, x, data.y[:size], threads=threads)


def _forward(block: LocalBlock, x: Tensor, normalise: str) -> tuple[Tensor, Tensor]:
    """The next block's input and the goodness of this one."""
    h, g = block(x)
    return hand_over(h, normalise, channel_dim=block.head.channel_dim), g


def _learn(
    g: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, label_smoothing: float = 0.0
) -> Tensor:
    """The loss, after the block has learnt from it."""
    loss = class_loss(g, y, label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


# ---------------------------------------------------------------- in the process that was called


def _write_stages(job: _Job, run: Run) -> None:
    """Put what the processes need into the folder: samples for the first, its blocks for each."""
    folder = Path(job.folder)
    try:
        data = {"x": run.train.data.x, "y": run.train.data.y}
        if run.valid is not None:
            data |= {"valid_x": run.valid.data.x, "valid_y": run.valid.data.y}
        torch.save(data, folder / "data.pt")  # a file, because shared memory is often small
        for rank, (start, stop) in enumerate(pairwise(job.plan)):
            blocks = run.model.blocks[start:stop]
            states = optimizer_states(run.learner.optimizers)
            owned = {id(p) for p in blocks.parameters()}
            parameters = [
                p
                for o in run.learner.optimizers
                for group in o.param_groups
                for p in group["params"]
            ]
            own = [s for p, s in zip(parameters, states, strict=True) if id(p) in owned]
            (folder / f"stage-{rank}").write_bytes(pickle.dumps((blocks, own)))
    except (OSError, RuntimeError) as error:
        raise LostProcess(
            f"what the processes need could not be written to {folder} "
            f"({str(error).strip().splitlines()[0]}); free some space, or set TMPDIR to another "
            "folder"
        ) from None


def _reports(job: _Job, run: Run, progress: bool) -> Iterator[list[dict]]:
    """Run the processes; per epoch, once all are through with it, their reports."""
    epochs = range(job.first, job.config.epochs)
    if not epochs:
        return
    _write_stages(job, run)
    done = torch.full(
        (1,), job.first * len(job.sizes)
    ).share_memory_()  # steps of the first process
    about = replace(run.train.data, x=run.train.data.x[:0], y=run.train.data.y[:0])
    order = run.generator.get_state()
    context = spawn(_work, (job, order, about, done), nprocs=job.processes, join=False)
    try:
        with progress_bar(run, progress) as bar:
            for epoch in epochs:
                bar.set_description(f"sff epoch {epoch + 1} ({job.processes} processes)")
                files = [job.report(epoch, rank) for rank in range(job.processes)]
                while not all(file.exists() for file in files):
                    context.join(timeout=POLL)
                    bar.update(max(0, done.item() - bar.n))
                yield [torch.load(file, weights_only=True) for file in files]
                for file in files:
                    file.unlink()
            while not context.join(timeout=POLL):
                pass
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise LostProcess(_failure(job, error)) from None
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
        for file in context.error_files:  # torch does not remove the tracebacks it sent
            Path(file).unlink(missing_ok=True)


def _failure(job: _Job, error: ProcessRaisedException | ProcessExitedException) -> str:
    """What ended a process, in a sentence."""
    who, end = f"process {error.error_index + 1} of the pipeline", "the model is as it was before."
    if isinstance(error, ProcessRaisedException):
        reason = str(error).strip().splitlines()[-1]
        hint = ""
        if "__main__" in reason:
            hint = "; move the class or function it names into a file that can be imported"
        return f"{who} failed ({reason}){hint}; {end}"
    if not job.started(error.error_index).exists() and error.exit_code > 0:
        return (
            f"{who} could not start. A script that trains with a pipeline needs "
            f'`if __name__ == "__main__":` around what it does, because every process imports it '
            f"anew; {end}"
        )
    return f"{who} died (exit code {error.exit_code}; killed, perhaps for lack of memory); {end}"


def _take_over(run: Run, job: _Job, reports: list[dict]) -> None:
    """The processes' state after an epoch becomes this one's."""
    for (start, stop), report in zip(pairwise(job.plan), reports, strict=True):
        for block, state in zip(run.model.blocks[start:stop], report["blocks"], strict=True):
            block.load_state_dict(state)
    if job.keep_optimizers:
        states = [state for report in reports for state in report["optimizers"]]
        load_optimizer_states(run.learner.optimizers, states)
    run.generator.set_state(reports[0]["generator"])


def _row(run: Run, job: _Job, reports: list[dict], previous: float) -> dict:
    """An epoch's row in the history; ``previous`` is when the epoch before ended."""
    began = max(reports[0]["began"], previous)
    losses, correct = (
        torch.cat([report[name] for report in reports]).tolist() for name in ("losses", "correct")
    )
    row = {
        "epoch": reports[0]["epoch"] + 1,
        "complete": True,
        "seconds": max(report["ended"] for report in reports) - began,
        "steps": len(job.sizes),
    } | mean_row(losses, correct, sum(job.sizes))
    if run.valid is not None:
        goodness = torch.cat([report["goodness"] for report in reports], dim=1)
        count = VoteCount(run.model)
        for g, y in zip(goodness.split(BATCH), run.valid.data.y.split(BATCH), strict=True):
            count.add(g, y)
        row |= count.evaluations()[0].row()
    return row


# ---------------------------------------------------------------- in each process


def _work(rank: int, job: _Job, order: Tensor, about: LabelledTensors, done: Tensor) -> None:
    """Train the blocks of one process, epoch by epoch, and report after each."""
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


def _join_group(rank: int, job: _Job) -> None:
    """Connect the processes, by the machine's own network interface only."""
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    store = dist.FileStore(str(Path(job.folder) / "meet"), job.processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.processes)


class _Stage:
    """The blocks of one process."""

    def __init__(self, rank: int, job: _Job):
        self.rank = rank
        self.job = job
        self.start, stop = job.plan[rank : rank + 2]
        self.device = torch.device(job.devices[rank])
        blocks, states = pickle.loads((Path(job.folder) / f"stage-{rank}").read_bytes())
        self.blocks: nn.ModuleList = blocks.to(self.device).train()
        make = optimizer_maker(job.config, self.device)
        self.optimizers = [make(block.parameters()) for block in self.blocks]
        load_optimizer_states(self.optimizers, states)
        last = rank + 1 == job.processes
        self.send = None if last else _Sender(rank + 1, job.costs.strides[stop])
        self.trace: list[dict] = []

    def train_epoch(self, epoch: int, stream: Iterator, done: Tensor) -> dict:
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

    def validate(self, stream: Iterator) -> Tensor:
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


def _own_batches(
    job: _Job, about: LabelledTensors, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """What ``fit`` would train on: the same order, augmentation and memory layout."""
    data = torch.load(Path(job.folder) / "data.pt", weights_only=True, mmap=True)
    train = MemoryLoader(replace(about, x=data["x"], y=data["y"]))
    for _ in range(job.first, job.config.epochs):
        batches = train.shuffled(job.config.batch_size, generator, job.config.augment)
        for x, y in batches:
            yield lay_out(x, "cpu", job.channels_last), y
        if job.valid_samples:
            parts = (data["valid_x"].split(BATCH), data["valid_y"].split(BATCH))
            for x, y in zip(*parts, strict=True):
                yield lay_out(x, "cpu", job.channels_last), y


def _received(job: _Job, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
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
        for work in works:
            work.wait()
        size = next(sizes, None)
        waiting = None if size is None else ask(size)
        yield x, y


def _empty(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A batch whose samples have these strides, one behind the other."""
    return torch.empty_strided(shape, (torch.Size(shape[1:]).numel(), *strides))


def _memory(x: Tensor) -> Tensor:
    """The same memory as a row, whatever its layout."""
    return x.as_strided((x.numel(),), (1,))


class _Sender:
    """Sends outputs on without waiting, but never more than ``AHEAD`` at a time.

    Args:
        to: rank of the next process.
        strides: of a sample; in this layout the next process takes it.
    """

    def __init__(self, to: int, strides: tuple[int, ...]):
        self.to = to
        self.strides = strides
        self.works: deque = deque()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        while len(self.works) >= AHEAD:
            self._wait()
        x = _memory(_empty(x.shape, self.strides).copy_(x))
        y = y.cpu().contiguous()
        # both are kept here until they have left
        self.works.append((x, y, dist.isend(x, self.to), dist.isend(y, self.to)))

    def finish(self) -> None:
        """Wait until everything has left."""
        while self.works:
            self._wait()

    def _wait(self) -> None:
        *_, first, second = self.works.popleft()
        first.wait()
        second.wait()
