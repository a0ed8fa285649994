"""Blocks of an SFF network on several processes: an exact pipeline without bubbles.

A block's update needs nothing from later blocks, and its output is computed before its update. So a
process passes its output on after the forward pass, learns by itself, and takes the next batch,
while the next process works on what it got. The weights come out bit for bit as in one process.
"""

import pickle
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn
from tqdm.auto import tqdm

from ._checks import check_count, check_fits, check_known, check_positive, check_seed
from ._modes import looking
from .core import SFF, GoodnessHead
from .data import DataSet, batches
from .losses import class_loss
from .train import AUGMENTATIONS, SCHEDULES, History, as_data_set, learning_rate

AHEAD = 2  # outputs that may wait for the next process


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
    cuts = combinations(range(1, len(seconds)), processes - 1)
    plans = ([0, *cut, len(seconds)] for cut in cuts)
    return min(plans, key=lambda plan: max(sum(seconds[a:b]) for a, b in pairwise(plan)))


def block_seconds(model: SFF, x: Tensor, y: Tensor, rounds: int = 3) -> list[float]:
    """Seconds of forward and backward of every block on one batch, the fastest of some rounds.

    The model's running statistics and gradients stay as they are.
    """
    model = pickle.loads(pickle.dumps(model)).train()
    fastest = [float("inf")] * len(model.blocks)
    for _ in range(rounds):
        h = x
        for k, block in enumerate(model.blocks):
            start = time.perf_counter()
            out, g = block(h)
            class_loss(g, y).backward()
            fastest[k] = min(fastest[k], time.perf_counter() - start)
            h = model.hand_over(block, out)
    return fastest


@dataclass(frozen=True)
class _Job:
    """What every process has to know."""

    plan: list[int]
    shapes: list[tuple[int, ...]]  # of the images, then of every block's output
    images: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: str
    label_smoothing: float
    augment: str | None
    seed: int
    threads: int
    progress: bool
    folder: str

    @property
    def sizes(self) -> list[int]:
        """Images per batch of an epoch; a last one of a single image is left out."""
        full, rest = divmod(self.images, self.batch_size)
        return [self.batch_size] * full + ([rest] if rest > 1 else [])


def fit_pipeline(
    model: SFF,
    train: DataSet | tuple[Tensor, Tensor],
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
    progress: bool = True,
) -> History:
    """Train like ``fit(model, train, rule="sff", ...)``, with the blocks on several processes.

    On a CPU the weights are those of ``fit`` bit for bit, at the same number of threads, unless a
    block draws random numbers of its own (dropout). Blocks are shared out by their measured time.
    Starting the processes takes some seconds. A script that calls this needs Python's usual
    ``if __name__ == "__main__":``, because each process imports it anew.

    Args:
        model: from ``localize``, with goodness heads; trained in place, left in evaluation mode.
        processes: how many, each with at least one block. threads: of torch, in each.
        The others: see ``fit``.

    Returns:
        The History, without validation; ``seconds`` of a row are the first process's.

    Raises:
        ValueError, TypeError: bad arguments, before anything is trained.
        RuntimeError: a process died or failed; the model is as it was before.

    Source: no bubble and no stale weight follow from SFF's locality; backprop's pipelines have
    either (GPipe, Huang et al. 2019; PipeDream, Narayanan et al. 2019).
    """
    if not isinstance(model, SFF) or not all(
        isinstance(b.head, GoodnessHead) for b in model.blocks
    ):
        raise TypeError("model must be an SFF network with goodness heads, as localize returns it.")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("threads", threads)):
        check_count(value, name)
    check_positive(lr=lr)
    check_seed(seed)
    check_known(schedule, SCHEDULES, "schedule")
    check_known(augment, (None, *AUGMENTATIONS), "augment")
    train = as_data_set(train, "train")
    check_fits(model, train.x[:2], "train x")
    first = min(batch_size, len(train))
    plan = balance(block_seconds(model, train.x[:first], train.y[:first]), processes)
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(
            plan, _shapes(model, train.x[:2]), len(train), epochs, batch_size, lr, weight_decay,
            schedule, label_smoothing, augment, seed, threads, progress, folder,
        )  # fmt: skip
        try:
            spawn(_work, (job, pickle.dumps(model), train), nprocs=processes)
        except ProcessRaisedException as error:
            reason = str(error).strip().splitlines()[-1]
            raise RuntimeError(
                f"process {error.error_index + 1} of the pipeline failed ({reason}); the model is "
                "as it was before."
            ) from None
        except ProcessExitedException as error:
            raise RuntimeError(
                f"process {error.error_index + 1} of the pipeline died (exit code "
                f"{error.exit_code}; killed, perhaps for lack of memory); the model is as it was "
                "before."
            ) from None
        reports = [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(processes)
        ]
    for (start, stop), report in zip(pairwise(plan), reports, strict=True):
        for block, state in zip(model.blocks[start:stop], report["blocks"], strict=True):
            block.load_state_dict(state)
    model.eval()
    return _history(model, job, reports)


def _shapes(model: SFF, x: Tensor) -> list[tuple[int, ...]]:
    shapes = [tuple(x.shape[1:])]
    with looking(model):
        for block in model.blocks:
            x = model.hand_over(block, block(x)[0])
            shapes.append(tuple(x.shape[1:]))
    return shapes


def _history(model: SFF, job: _Job, reports: list[dict]) -> History:
    names = ("epochs", "batch_size", "lr", "weight_decay", "schedule", "label_smoothing",
             "augment", "seed")  # fmt: skip
    settings = {name: getattr(job, name) for name in names}
    trained = sum(p.numel() for block in model.blocks for p in block.parameters())
    history = History("sff", settings | {"plan": job.plan}, trained)
    images = sum(job.sizes)
    for epoch in range(job.epochs):
        losses = [loss for report in reports for loss in report["losses"][epoch].tolist()]
        correct = [count for report in reports for count in report["correct"][epoch].tolist()]
        history.rows.append(
            {
                "epoch": epoch + 1,
                "complete": True,
                "seconds": reports[0]["seconds"][epoch],
                "steps": len(job.sizes),
                "train_loss": [loss / images for loss in losses],
                "train_accuracy": [count / images for count in correct],
            }
        )
    return history


# ---------------------------------------------------------------- in each process


def _work(rank: int, job: _Job, pickled: bytes, train: DataSet) -> None:
    model = pickle.loads(pickled)  # its own: tensors that are sent would be shared with the caller
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    world = len(job.plan) - 1
    store = dist.FileStore(str(Path(job.folder) / "meet"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    start, stop = job.plan[rank : rank + 2]
    blocks = nn.ModuleList(model.blocks[start:stop]).train()
    optimizers = [
        torch.optim.AdamW(block.parameters(), lr=job.lr, weight_decay=job.weight_decay)
        for block in blocks
    ]
    stream = _own_batches(job, train) if rank == 0 else _received(job, rank)
    send = _Sender(rank + 1) if rank + 1 < world else None
    steps = len(job.sizes)
    losses, correct, seconds = [], [], []
    bar = tqdm(total=job.epochs * steps, unit="step", delay=2, leave=False,
               disable=rank != 0 or not job.progress)  # fmt: skip
    with bar:
        for epoch in range(job.epochs):
            sums, hits = torch.zeros(len(blocks)), torch.zeros(len(blocks), dtype=torch.int64)
            began = time.perf_counter()
            for step in range(steps):
                x, y = next(stream)
                rate = learning_rate((epoch * steps + step) / (job.epochs * steps), job.lr,
                                     job.schedule)  # fmt: skip
                for k, (block, optimizer) in enumerate(zip(blocks, optimizers, strict=True)):
                    h, g = block(x)
                    x = model.hand_over(block, h)  # cut, normalised
                    if k == len(blocks) - 1 and send is not None:
                        send(x, y)  # before learning: the next process can begin
                    loss = class_loss(g, y, job.label_smoothing)
                    optimizer.param_groups[0]["lr"] = rate
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    if not torch.isfinite(loss):
                        raise FloatingPointError(
                            f"the loss of block {start + k + 1} is no longer finite in epoch "
                            f"{epoch + 1}; try a learning rate below lr={job.lr:g}"
                        )
                    sums[k] += loss.detach() * len(y)
                    hits[k] += (g.argmax(1) == y).sum()
                bar.update()
            losses.append(sums)
            correct.append(hits)
            seconds.append(time.perf_counter() - began)
    if send is not None:
        send.finish()
    report = {"blocks": [dict(block.state_dict()) for block in blocks], "losses": losses,
              "correct": correct, "seconds": seconds}  # fmt: skip
    torch.save(report, Path(job.folder) / f"{rank}.pt")
    dist.barrier()  # nobody closes the door while another still reads
    dist.destroy_process_group()


def _own_batches(job: _Job, train: DataSet):
    """What ``fit`` would train on: the same order, the same augmentation."""
    generator = torch.Generator().manual_seed(job.seed)
    for _ in range(job.epochs):
        for x, y in batches(
            train,
            job.batch_size,
            shuffle=True,
            generator=generator,
            drop_last=job.images % job.batch_size == 1,
        ):
            if job.augment is not None:
                x = AUGMENTATIONS[job.augment](x, generator)
            yield x, y


def _received(job: _Job, rank: int):
    """The batches as the process before sends them, one asked for ahead."""
    shape = job.shapes[job.plan[rank]]

    def ask(size: int):
        x, y = torch.empty(size, *shape), torch.empty(size, dtype=torch.int64)
        return x, y, (dist.irecv(x, rank - 1), dist.irecv(y, rank - 1))

    sizes = iter(job.sizes * job.epochs)
    waiting = ask(next(sizes))
    while waiting is not None:
        x, y, works = waiting
        for work in works:
            work.wait()
        size = next(sizes, None)
        waiting = None if size is None else ask(size)
        yield x, y


class _Sender:
    """Sends outputs on without waiting, but never more than ``AHEAD`` at a time."""

    def __init__(self, to: int):
        self.to, self.works = to, deque()

    def __call__(self, x: Tensor, y: Tensor) -> None:
        while len(self.works) >= AHEAD:
            self._wait()
        x, y = x.contiguous(), y.contiguous()  # kept here until they have left
        self.works.append((x, y, dist.isend(x, self.to), dist.isend(y, self.to)))

    def finish(self) -> None:
        """Wait until everything has left."""
        while self.works:
            self._wait()

    def _wait(self) -> None:
        *_, first, second = self.works.popleft()
        first.wait()
        second.wait()
