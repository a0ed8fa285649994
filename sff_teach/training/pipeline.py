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
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn
from tqdm.auto import tqdm

from ..core import SFF, LocalBlock, hand_over
from ..data.sets import LabelledTensors
from ..losses import class_loss
from ..rules import ScalableForwardForward
from ..util.checks import check_count, check_fits, check_labels, explained
from ..util.modes import evaluating
from .checkpoint import Checkpoint
from .distributed import LostProcess
from .history import (
    BAR_AFTER_SECONDS,
    History,
    as_labelled_tensors,
    check_batches,
    check_image_options,
    checked_settings,
    learning_rate,
    pick_device,
    training_batches,
)

AHEAD = 2  # outputs that may wait for the next process
LOOK = 0.1  # seconds between two looks at what the processes have done
VALID_BATCH = 500  # as in train.evaluate


@explained()
def balance(seconds: Sequence[float], processes: int) -> list[int]:
    """Share blocks out in order so that the slowest process has the least to do.

    Args:
        seconds: per block, or any other cost. processes: how many; each gets at least one block.

    Returns:
        processes + 1 positions: process r has the blocks from ``[r]`` up to ``[r + 1]``.

    Raises:
        ValueError: more processes than blocks, or none.
    """
    check_count(processes, "processes")
    if processes > len(seconds):
        raise ValueError(
            f"processes={processes} is more than the {len(seconds)} blocks; give "
            f"{len(seconds)} or fewer, or cut the network into more blocks."
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


@explained()
def best_ratio(seconds: Sequence[float], plan: Sequence[int]) -> float:
    """How much faster than one process the plan can be at best: all seconds ÷ the slowest's."""
    return sum(seconds) / max(sum(seconds[a:b]) for a, b in pairwise(plan))


@explained()
def block_seconds(
    model: SFF, x: Tensor, y: Tensor, *, rounds: int = 8, limit: float = 2.0, threads: int = 1
) -> list[float]:
    """Seconds of a training step of every block on one batch, the fastest of some rounds.

    Nothing in the model changes.

    Args:
        x: (B, C, H, W). y: (B,). rounds: at most; after ``limit`` seconds three are enough.
        threads: of torch, while measuring.
    """
    model = copy.deepcopy(model).train()
    optimizers = [_adamw(block.parameters(), 0.0) for block in model.blocks]
    fastest = [float("inf")] * len(model.blocks)
    before, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            for count in range(rounds):
                h = x
                for k, (block, optimizer) in enumerate(zip(model.blocks, optimizers, strict=True)):
                    start = time.perf_counter()
                    h, g = _forward(block, h, model.normalise)
                    _learn(g, y, optimizer)
                    fastest[k] = min(fastest[k], time.perf_counter() - start)
                if count >= 2 and time.perf_counter() - began > limit:
                    break
    finally:
        torch.set_num_threads(before)
    return fastest


@dataclass(frozen=True)
class _Job:
    """What every process has to know."""

    plan: list[int]
    shapes: list[tuple[int, ...]]  # of the images, then of every block's output
    formats: list[torch.memory_format]  # and how they lie in memory
    normalise: str
    images: int
    valid_images: int
    first: int  # epochs that are behind us already
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: str
    label_smoothing: float
    augment: str | None
    seed: int
    threads: int
    devices: list[str]
    keep_optimizers: bool
    trace: bool
    folder: str

    @property
    def sizes(self) -> list[int]:
        """Images per batch of an epoch; a last one of a single image is left out."""
        full, rest = divmod(self.images, self.batch_size)
        return [self.batch_size] * full + ([rest] if rest > 1 else [])

    @property
    def valid_sizes(self) -> list[int]:
        """Images per batch of the validation after each epoch; all are in."""
        full, rest = divmod(self.valid_images, VALID_BATCH)
        return [VALID_BATCH] * full + ([rest] if rest else [])


def fit_pipeline(
    model: SFF,
    train: LabelledTensors | tuple[Tensor, Tensor],
    valid: LabelledTensors | tuple[Tensor, Tensor] | None = None,
    *,
    processes: int = 2,
    epochs: int = 5,
    batch_size: int = 64,
    lr: float = 5e-3,
    weight_decay: float = 0.01,
    schedule: str = "one-cycle",
    label_smoothing: float = 0.0,
    augment: str | None = None,
    seed: int = 0,
    threads: int = 1,
    devices: Sequence[str] | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    checkpoint: str | Path | None = None,
    trace: list[dict] | None = None,
) -> History:
    """Train like ``fit(model, train, valid, rule="sff", ...)``, with the blocks on processes.

    On CPUs the weights are those of ``fit`` bit for bit, at the same number of threads. One thing
    differs: a block that draws random numbers of its own (dropout) draws others than in ``fit``,
    though the same ones in every pipeline. Blocks are shared out by their measured time. Starting
    the processes takes some seconds. A script that calls this needs Python's usual
    ``if __name__ == "__main__":``, because each process imports it anew.

    Args:
        model: from ``localize``; trained in place, left in evaluation mode.
        processes: how many, each with at least one block. threads: of torch, in each.
        devices: one per process, such as ``["cuda:0", "cuda:1"]``; None for the CPU. Outputs
            travel through the CPU's memory.
        checkpoint: as for ``fit``, and in the same form: either goes on from the other's file.
        trace: a list, to which one record is added per process, block and step: ``process``,
            ``block`` and ``step``, from 0; ``start``, ``sent`` and ``stop`` of forward and of the
            learning after it, in seconds.
        The others: see ``fit``.

    Returns:
        The History. ``seconds`` of a row: from the first process's first batch, or the last one's
        end of the epoch before, to the last one's end. Its settings also have the ``plan``, see
        ``balance``, and the measured ``block_seconds``. Ctrl-C leaves the model with the weights
        of the last complete epoch and returns what was measured until then.

    Raises:
        ValueError, TypeError: bad arguments, before anything is trained.
        OSError: the checkpoint cannot be written, or another process trains with it.
        LostProcess: a RuntimeError: a process died or failed; the model is as it was before.

    Source: no bubble and no stale weight follow from SFF's locality; backprop's pipelines have
    either (GPipe, Huang et al. 2019; PipeDream, Narayanan et al. 2019).
    """
    settings = checked_settings(
        epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, schedule=schedule,
        label_smoothing=label_smoothing, augment=augment, seed=seed,
    )  # fmt: skip
    check_count(threads, "threads")
    check_count(processes, "processes")
    if devices is not None and len(devices) != processes:
        raise ValueError(f"devices names {len(devices)} for processes={processes}; give one each.")
    devices = [str(pick_device(name)) for name in devices or ["cpu"] * processes]
    if not isinstance(model, SFF):
        raise TypeError("model must be an SFF network; give what localize returns.")
    train = as_labelled_tensors(train, "train")
    check_image_options(train.x, augment)
    if isinstance(valid, LabelledTensors) and not len(valid):
        valid = None
    valid = None if valid is None else as_labelled_tensors(valid, "valid")
    check_batches(model, len(train), batch_size)
    own = copy.deepcopy(model).cpu()  # what the processes learn; the caller's only gets the result
    for data in (train, valid):
        if data is not None:
            check_labels(data.y, own.num_classes, f"{data.name} y")
            check_fits(own, data.x[:2], f"{data.name} x")
    generator = torch.Generator().manual_seed(seed)
    learner = ScalableForwardForward(own, lambda p: _adamw(p, lr, weight_decay),
                                     label_smoothing=label_smoothing)  # fmt: skip
    settings["precision"] = "float32"
    parameters = sum(p.numel() for p in own.blocks.parameters() if p.requires_grad)
    history = History("sff", settings, parameters)
    first = min(batch_size, len(train))
    costs = block_seconds(own, train.x[:first], train.y[:first], threads=threads)
    plan = balance(costs, processes)
    saved = None
    if checkpoint is not None:
        saved = Checkpoint(checkpoint, learner, history, generator, train)
    lock = saved.exclusive_lock() if saved is not None else nullcontext()
    with lock, tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # as in fit: it belongs to a checkpoint
        shapes, formats = _layouts(own, train.x[:2])
        job = _Job(
            plan, shapes, formats, own.normalise, len(train), 0 if valid is None else len(valid),
            saved.resume() if saved else 0, epochs, batch_size, lr, weight_decay, schedule,
            label_smoothing, augment, seed, threads, devices, saved is not None, trace is not None,
            folder,
        )  # fmt: skip
        if job.first < epochs:
            _hand_out(job, learner, train, valid)
        clock = None
        try:
            for reports in _reports(job, generator.get_state(), train, progress):
                _take_over(learner, generator, job, reports)
                row, clock = _row(job, reports, clock)
                if valid is not None:
                    goodness = torch.cat([report["goodness"] for report in reports], dim=1)
                    row |= _validation(own, goodness, valid.y)
                history.rows.append(row)
                if trace is not None:
                    trace += [record for report in reports for record in report["trace"]]
                if saved is not None:
                    saved.save()
                if on_epoch is not None:
                    on_epoch(history)
        except KeyboardInterrupt:
            history.stopped = "interrupted"
    model.load_state_dict(own.state_dict())
    model.eval()
    history.settings |= {"plan": plan, "block_seconds": costs}
    return history


def _adamw(parameters, lr: float, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


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


def _layouts(model: SFF, x: Tensor) -> tuple[list[tuple[int, ...]], list[torch.memory_format]]:
    """Shape (without B) and memory format of the images and of every block's output."""
    outputs = [x]
    with evaluating(model):
        for block in model.blocks:
            outputs.append(_forward(block, outputs[-1], model.normalise)[0])
    last = [h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()
            if h.dim() == 4 else False for h in outputs]  # fmt: skip
    formats = [torch.channels_last if yes else torch.contiguous_format for yes in last]
    return [tuple(h.shape[1:]) for h in outputs], formats


# ---------------------------------------------------------------- in the process that was called


def _hand_out(job: _Job, learner: ScalableForwardForward, train: LabelledTensors, valid) -> None:
    """Put what the processes need into the folder: images for the first, its blocks for each."""
    folder = Path(job.folder)
    try:
        images = {"x": train.x, "y": train.y}
        if valid is not None:
            images |= {"valid_x": valid.x, "valid_y": valid.y}
        torch.save(images, folder / "images.pt")  # a file, because shared memory is often small
        for rank, (start, stop) in enumerate(pairwise(job.plan)):
            optimizers = [optimizer.state_dict() for optimizer in learner.optimizers[start:stop]]
            stage = pickle.dumps((learner.model.blocks[start:stop], optimizers))
            (folder / f"stage{rank}").write_bytes(stage)
    except (OSError, RuntimeError) as error:
        raise LostProcess(
            f"what the processes need could not be written to {folder} "
            f"({str(error).strip().splitlines()[0]}); free some space, or set TMPDIR to another "
            "folder."
        ) from None


def _reports(
    job: _Job, order: Tensor, train: LabelledTensors, progress: bool
) -> Iterator[list[dict]]:
    """Run the processes; per epoch, once all are through with it, their reports."""
    if job.first == job.epochs:
        return
    world, steps = len(job.plan) - 1, len(job.sizes)
    done = torch.full((1,), job.first * steps).share_memory_()  # steps of the first process
    about = replace(train, x=train.x[:0], y=train.y[:0])
    bar = tqdm(total=job.epochs * steps, unit="step", delay=BAR_AFTER_SECONDS, leave=False,
               disable=not progress)  # fmt: skip
    context = spawn(_work, (job, order, about, done), nprocs=world, join=False)
    try:
        with bar:
            for epoch in range(job.first, job.epochs):
                bar.set_description(f"sff epoch {epoch + 1}/{job.epochs} ({world} processes)")
                files = [_report(job, epoch, rank) for rank in range(world)]
                while not all(file.exists() for file in files):
                    context.join(timeout=LOOK)
                    if done.item() > bar.n:
                        bar.update(done.item() - bar.n)
                yield [torch.load(file, weights_only=True) for file in files]
                for file in files:
                    file.unlink()
            while not context.join(timeout=LOOK):
                pass
    except ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise LostProcess(
            f"process {error.error_index + 1} of the pipeline failed ({reason}){_hint(reason)}; "
            "the model is as it was before."
        ) from None
    except ProcessExitedException as error:
        raise LostProcess(
            f"process {error.error_index + 1} of the pipeline died (exit code {error.exit_code}; "
            "killed, perhaps for lack of memory); the model is as it was before."
        ) from None
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
        for file in context.error_files:  # torch's way to send a traceback; it leaves them lying
            Path(file).unlink(missing_ok=True)


def _hint(reason: str) -> str:
    if "__main__" in reason:
        return "; move the class or function it names into a file that can be imported"
    return ""


def _take_over(learner, generator: torch.Generator, job: _Job, reports: list[dict]) -> None:
    """The processes' state after an epoch becomes this one's."""
    for (start, stop), report in zip(pairwise(job.plan), reports, strict=True):
        for block, state in zip(learner.model.blocks[start:stop], report["blocks"], strict=True):
            block.load_state_dict(state)
        if job.keep_optimizers:
            for optimizer, state in zip(
                learner.optimizers[start:stop], report["optimizers"], strict=True
            ):
                optimizer.load_state_dict(state)
    generator.set_state(reports[0]["generator"])


def _row(job: _Job, reports: list[dict], clock: float | None) -> tuple[dict, float]:
    """An epoch's row in the history, and when it ended."""
    images, began = sum(job.sizes), reports[0]["began"]
    began = began if clock is None else max(began, clock)
    clock = max(report["ended"] for report in reports)
    losses, correct = (
        torch.cat([report[name] for report in reports]).tolist() for name in ("losses", "correct")
    )
    row = {
        "epoch": reports[0]["epoch"] + 1,
        "complete": True,
        "seconds": clock - began,
        "steps": len(job.sizes),
        "train_loss": [loss / images for loss in losses],
        "train_accuracy": [count / images for count in correct],
    }
    return row, clock


def _validation(model: SFF, goodness: Tensor, y: Tensor) -> dict:
    """What ``fit`` measures after an epoch, from every block's goodness (N, blocks, K)."""
    right, loss = 0, 0.0
    for g, labels in zip(goodness.split(VALID_BATCH), y.split(VALID_BATCH), strict=True):
        voted = model.combine(g)
        right += (voted.argmax(1) == labels).sum().item()
        loss += nn.functional.cross_entropy(voted, labels, reduction="sum").item()
    by_block = (goodness.argmax(2) == y[:, None]).sum(0).tolist()
    return {
        "valid_accuracy": right / len(y),
        "valid_loss": loss / len(y),
        "valid_block_accuracy": [count / len(y) for count in by_block],
    }


def _report(job: _Job, epoch: int, rank: int) -> Path:
    return Path(job.folder) / f"report-{epoch}-{rank}"


# ---------------------------------------------------------------- in each process


def _work(rank: int, job: _Job, order: Tensor, about: LabelledTensors, done: Tensor) -> None:
    torch.set_num_threads(job.threads)
    world = len(job.plan) - 1
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)  # nobody else is to reach the processes
    store = dist.FileStore(str(Path(job.folder) / "meet"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    device = torch.device(job.devices[rank])
    blocks, states = pickle.loads((Path(job.folder) / f"stage{rank}").read_bytes())
    blocks.to(device).train()
    optimizers = [_adamw(block.parameters(), job.lr, job.weight_decay) for block in blocks]
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    generator = torch.Generator()
    generator.set_state(order)
    stream = _own_batches(job, about, generator) if rank == 0 else _received(job, rank)
    start, stop = job.plan[rank : rank + 2]
    send = _Sender(rank + 1, job.formats[stop]) if rank + 1 < world else None
    steps = len(job.sizes)
    for epoch in range(job.first, job.epochs):
        sums, hits = torch.zeros(len(blocks)), torch.zeros(len(blocks), dtype=torch.int64)
        began, trace = None, []
        for number in range(epoch * steps, (epoch + 1) * steps):
            x, y = next(stream)
            began = time.monotonic() if began is None else began
            x, y = x.to(device), y.to(device)
            rate = learning_rate(number / (job.epochs * steps), job.lr, job.schedule)
            for k, (block, optimizer) in enumerate(zip(blocks, optimizers, strict=True)):
                times = [time.monotonic()]
                torch.manual_seed((job.seed * 1_000_003 + number) * 1009 + start + k)  # of dropout
                x, g = _forward(block, x, job.normalise)
                if block is blocks[-1] and send is not None:
                    send(x, y)  # before learning: the next process can begin
                times.append(time.monotonic())
                optimizer.param_groups[0]["lr"] = rate
                loss = _learn(g, y, optimizer, job.label_smoothing)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss of block {start + k + 1} is no longer finite in epoch "
                        f"{epoch + 1}; try a learning rate below lr={job.lr:g}"
                    )
                sums[k] += loss.cpu() * len(y)
                hits[k] += (g.argmax(1) == y).sum().cpu()
                if job.trace:
                    times.append(time.monotonic())
                    times = dict(zip(("start", "sent", "stop"), times, strict=True))
                    trace.append({"process": rank, "block": start + k, "step": number} | times)
            if rank == 0:
                done.fill_(number + 1)
        report = {"epoch": epoch, "losses": sums, "correct": hits, "began": began,
                  "ended": time.monotonic(), "trace": trace,
                  "generator": generator.get_state()}  # fmt: skip
        report["goodness"] = _validate(job, blocks, stream, send, device)
        report["blocks"] = [dict(block.state_dict()) for block in blocks]
        if job.keep_optimizers:
            report["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
        path = _report(job, epoch, rank)
        torch.save(report, path.with_name("unfinished-" + path.name))
        os.replace(path.with_name("unfinished-" + path.name), path)
    if send is not None:
        send.finish()
    dist.barrier()  # nobody closes the door while another still reads
    dist.destroy_process_group()


def _validate(job: _Job, blocks: nn.ModuleList, stream, send, device: torch.device) -> Tensor:
    """Send the validation images through as well: (N, blocks, K) goodness of these blocks."""
    found = []
    with evaluating(blocks):
        for _ in job.valid_sizes:
            x, y = next(stream)
            x, goodness = x.to(device), []
            for block in blocks:
                x, g = _forward(block, x, job.normalise)
                goodness.append(g)
            if send is not None:
                send(x, y)
            found.append(torch.stack(goodness, dim=1).cpu())
    return torch.cat(found) if found else torch.empty(0)


def _own_batches(job: _Job, about: LabelledTensors, generator: torch.Generator):
    """What ``fit`` would train on: the same order, the same augmentation."""
    images = torch.load(Path(job.folder) / "images.pt", weights_only=True, mmap=True)
    train = replace(about, x=images["x"], y=images["y"])
    for _ in range(job.first, job.epochs):
        yield from training_batches(train, job.batch_size, generator, job.augment)
        if job.valid_images:
            yield from zip(
                images["valid_x"].split(VALID_BATCH), images["valid_y"].split(VALID_BATCH),
                strict=True,
            )  # fmt: skip


def _received(job: _Job, rank: int):
    """The batches as the process before sends them, one asked for ahead."""
    shape, layout = job.shapes[job.plan[rank]], job.formats[job.plan[rank]]

    def ask(size: int):
        x = torch.empty(size, *shape).to(memory_format=layout)
        y = torch.empty(size, dtype=torch.int64)
        return x, y, (dist.irecv(_flat(x), rank - 1), dist.irecv(y, rank - 1))

    sizes = iter((job.sizes + job.valid_sizes) * (job.epochs - job.first))
    waiting = ask(next(sizes))
    while waiting is not None:
        x, y, works = waiting
        for work in works:
            work.wait()
        size = next(sizes, None)
        waiting = None if size is None else ask(size)
        yield x, y


def _flat(x: Tensor) -> Tensor:
    """The same memory as a row, also if it is channels-last."""
    return (x if x.is_contiguous() else x.movedim(1, 3)).view(-1)


class _Sender:
    """Sends outputs on without waiting, but never more than ``AHEAD`` at a time."""

    def __init__(self, to: int, layout: torch.memory_format):
        self.to, self.layout, self.works = to, layout, deque()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        while len(self.works) >= AHEAD:
            self._wait()
        x, y = _flat(x.cpu().contiguous(memory_format=self.layout)), y.cpu().contiguous()
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
