"""Blocks of an SFF network on several processes: an exact pipeline without bubbles.

A block's update needs nothing from later blocks, and its output is computed before its update. So a
process passes its output on after the forward pass, learns by itself, and takes the next batch,
while the next process works on what it got. The weights come out bit for bit as in one process.

This module is the process that the user called; ``stage`` is what the others do.
"""

import copy
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from ..core import SFF
from ..data import LabelledTensors
from ..util.checks import SFFError, check_count
from .checkpoint import Checkpoint, load_optimizer_states, optimizer_states
from .config import TrainConfig
from .distributed import LostProcess
from .evaluation import BATCH, VoteCount
from .history import History, mean_row
from .loader import MemoryLoader, lay_out
from .plan import BlockCosts, balance, measure_blocks
from .precision import pick_device
from .prepare import Run, prepare, resolve_config
from .progress import progress_bar
from .stage import Job, work

POLL = 0.1  # seconds between two looks at what the processes have done


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
        job = Job(
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
            folder=Path(folder),
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


def _write_stages(job: Job, run: Run) -> None:
    """Put what the processes need into the folder: samples for the first, its blocks for each."""
    data = {"x": run.train.data.x, "y": run.train.data.y}
    if run.valid is not None:
        data |= {"valid_x": run.valid.data.x, "valid_y": run.valid.data.y}
    states = iter(optimizer_states(run.learner.optimizers))
    try:
        torch.save(data, job.folder / "data.pt")  # a file, because shared memory is often small
        for rank, (start, stop) in enumerate(pairwise(job.plan)):
            blocks = run.model.blocks[start:stop]
            own = list(islice(states, len(list(blocks.parameters()))))
            job.stage(rank).write_bytes(pickle.dumps((blocks, own)))
    except (OSError, RuntimeError) as error:
        raise LostProcess(
            f"what the processes need could not be written to {job.folder} "
            f"({str(error).strip().splitlines()[0]}); free some space, or set TMPDIR to another "
            "folder"
        ) from None


def _reports(job: Job, run: Run, progress: bool) -> Iterator[list[dict]]:
    """Run the processes; per epoch, once all are through with it, their reports."""
    epochs = range(job.first, job.config.epochs)
    if not epochs:
        return
    _write_stages(job, run)
    steps = torch.tensor([job.first * len(job.sizes)]).share_memory_()  # of the first process
    about = replace(run.train.data, x=run.train.data.x[:0], y=run.train.data.y[:0])
    arguments = (job, run.generator.get_state(), about, steps)
    context = spawn(work, arguments, nprocs=job.processes, join=False)
    try:
        with progress_bar(run, progress) as bar:
            for epoch in epochs:
                bar.set_description(f"sff epoch {epoch + 1} ({job.processes} processes)")
                files = [job.report(epoch, rank) for rank in range(job.processes)]
                while not all(file.exists() for file in files):
                    context.join(timeout=POLL)
                    bar.update(max(0, steps.item() - bar.n))
                yield [torch.load(file, weights_only=True) for file in files]
                for file in files:
                    file.unlink()
            while not context.join(timeout=POLL):
                pass
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise LostProcess(_failure(job, error)) from None
    finally:
        for process in context.processes:
            process.kill()
            process.join()
        for file in context.error_files:  # torch does not remove the tracebacks it sent
            Path(file).unlink(missing_ok=True)


def _failure(job: Job, error: ProcessRaisedException | ProcessExitedException) -> str:
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


def _take_over(run: Run, job: Job, reports: list[dict]) -> None:
    """The processes' state after an epoch becomes this one's."""
    for (start, stop), report in zip(pairwise(job.plan), reports, strict=True):
        for block, state in zip(run.model.blocks[start:stop], report["blocks"], strict=True):
            block.load_state_dict(state)
    if job.keep_optimizers:
        states = [state for report in reports for state in report["optimizers"]]
        load_optimizer_states(run.learner.optimizers, states)
    run.generator.set_state(reports[0]["generator"])


def _row(run: Run, job: Job, reports: list[dict], previous: float) -> dict:
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
