"""Throughput of SFF's exact pipeline: two processes of one thread each against one such process.

    python results/pipeline.py            some twenty minutes; wants a machine without other work,
                                          and goes on where it stopped
    python results/pipeline.py backprop   the same two processes as a pipeline of backprop (GPipe)
    python results/pipeline.py table      only writes pipeline.md anew

Each round trains the same network three times, in turn and in an order that changes: by ``fit`` in
one process; by ``fit_pipeline`` on two; and by ``fit`` in two processes at once that have nothing
to do with each other, which is what this machine gives to two processes at best. All have one
thread. The first epoch warms up; the ones after it count. Writes pipeline.jsonl and pipeline.md.
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ stand in the Makefile: set them, or the times
depend on what the process did before.

The control: backprop on one process, and on two by torch's own GPipe schedule, whose batches are
cut into parts and whose gradients travel back. The number of parts is the best of PARTS in a trial
that is not counted. Writes pipeline_backprop.jsonl.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.multiprocessing.spawn import spawn

from sff_teach.analysis.cost import median_interval
from sff_teach.core import LinearHead
from sff_teach.data import from_arrays
from sff_teach.study import Recipe, build, cached_run, machine, read_runs
from sff_teach.training.fit import fit
from sff_teach.training.pipeline import balance, fit_pipeline, measure_blocks

HERE = Path(__file__).parent
STORE, PAGE = HERE / "pipeline.jsonl", HERE / "pipeline.md"
CONTROL = HERE / "pipeline_backprop.jsonl"
PARTS = (2, 4, 8)  # of a batch; GPipe at best: 2 · parts / (parts + 1) times one process
ROUNDS, EPOCHS, BAR = 6, 2, 1.8
TRIAL = -1  # the round by which the number of parts is chosen
DRAWN = 8  # steps of the stored timeline
ROWS = {  # network, cut, head, image, batch size, batches per epoch
    "cnn4, 4 blocks, 28×28": (Recipe(network="cnn4"), (1, 28, 28), 64, 400),
    "cnn5, 5 blocks, 32×32": (Recipe(network="cnn5", kernel_size=3), (3, 32, 32), 64, 120),
    "ResNet18, 9 blocks, 32×32": (
        Recipe(network="resnet18", cut="block", stem="small"),
        (3, 32, 32),
        32,
        16,
    ),
}


def prepare(row: str):
    """The row's network and images; the same at every call."""
    recipe, shape, batch, batches = ROWS[row]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch * batches, *shape, generator=generator)
    data = from_arrays(x, torch.arange(len(x)) % 10)
    options = {"epochs": EPOCHS, "batch_size": batch, "lr": 1e-3, "progress": False}
    return build(recipe, data), data, options


def rate(row: str, rows: list[dict]) -> float:
    """Images per second after the first epoch."""
    _, _, batch, batches = ROWS[row]
    return batch * batches * (EPOCHS - 1) / sum(r["seconds"] for r in rows[1:])


def one(row: str) -> dict:
    """One process."""
    model, data, options = prepare(row)
    return {"one": rate(row, fit(model, data, **options).rows)}


def two(row: str) -> dict:
    """Two processes that share the blocks."""
    model, data, options = prepare(row)
    trace = []
    history = fit_pipeline(model, data, processes=2, trace=trace, **options)
    plan, seconds = history.settings["plan"], history.settings["block_seconds"]
    return {
        "two": rate(row, history.rows), "plan": plan, "block_seconds": seconds,
        "allowed": sum(seconds) / max(sum(seconds[a:b]) for a, b in pairwise(plan)),
        "busy": busy(trace), "timeline": middle(trace),
    }  # fmt: skip


def busy(trace: list[dict]) -> list[float]:
    """Per process, the share of the time after the first epoch in which it computed."""
    later = [r for r in trace if r["step"] >= (max(t["step"] for t in trace) + 1) // EPOCHS]
    span = max(r["stop"] for r in later) - min(r["start"] for r in later)
    return [
        sum(r["stop"] - r["start"] for r in later if r["process"] == process) / span
        for process in (0, 1)
    ]


def middle(trace: list[dict]) -> list[dict]:
    """A few steps from the last epoch."""
    last = max(r["step"] for r in trace) - 1
    return [r for r in trace if last - DRAWN < r["step"] <= last]


def _independent(rank: int, row: str, results: Tensor) -> None:
    torch.set_num_threads(1)
    model, data, options = prepare(row)
    results[rank, 1] = 1  # ready
    while results[:, 1].sum() < 2:
        time.sleep(0.001)
    results[rank, 0] = rate(row, fit(model, data, **options).rows)


def independent(row: str) -> dict:
    """Two processes, a whole network each."""
    results = torch.zeros(2, 2).share_memory_()
    spawn(_independent, (row, results), nprocs=2)
    return {"independent": results[:, 0].sum().item()}


def _gpipe(rank: int, row: str, plan: list[int], parts: int, folder: str, results: Tensor) -> None:
    """One of the two stages of backprop: bodies without heads, and a linear head at the end.

    Images and weights are channels-last, and AdamW is fused, as in ``fit``.
    """
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/meet", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model, data, _ = prepare(row)
    head = model.blocks[-1].head
    bodies = [block.body for block in model.blocks]
    with torch.no_grad():
        handed = nn.Sequential(*bodies[: plan[1]])(data.x[:2]).shape[1:]
    if rank:  # gloo sends flat tensors; the next convolution makes them channels-last again
        last = LinearHead(head.channels, head.num_classes, head.channel_dim)
        own = nn.Sequential(nn.Unflatten(1, handed), *bodies[plan[1] :], last)
    else:
        own = nn.Sequential(*bodies[: plan[1]], nn.Flatten())
    own = own.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, fused=True)
    stage = PipelineStage(own, rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, n_microbatches=parts, loss_fn=nn.functional.cross_entropy)
    _, _, batch, batches = ROWS[row]
    images = data.x.contiguous(memory_format=torch.channels_last)
    for epoch in range(EPOCHS):
        if epoch == EPOCHS - 1:
            began = time.perf_counter()
        for x, y in zip(images.split(batch), data.y.split(batch)):
            optimizer.zero_grad()
            schedule.step(target=y) if rank else schedule.step(x)
            optimizer.step()
    dist.barrier()
    results[rank] = batch * batches / (time.perf_counter() - began)
    dist.destroy_process_group()


def backprop(row: str, one_first: bool, parts: int) -> dict:
    """Backprop on one process and on two, in an order that changes from round to round."""
    record = {"machine": machine()}
    model, data, options = prepare(row)
    plan = balance(measure_blocks(model, data.x[: ROWS[row][2]], data.y[: ROWS[row][2]]).seconds, 2)
    for arm in ("one", "two") if one_first else ("two", "one"):
        if arm == "one":
            record["one"] = rate(row, fit(prepare(row)[0], data, rule="bp", **options).rows)
        else:
            results = torch.zeros(2).share_memory_()
            with tempfile.TemporaryDirectory() as folder:
                spawn(_gpipe, (row, plan, parts, folder, results), nprocs=2)
            record["two"] = results.min().item()
    return record | {"plan": plan}


def measure(rounds: int) -> None:
    """Run the rounds that are not stored yet; each is on disk as soon as it is done."""
    torch.set_num_threads(1)
    for row in ROWS:
        for number in range(rounds):
            record = cached_run(
                STORE, {"row": row, "round": number}, partial(one_round, row, number)
            )
            print(
                f"{row}: {record['one']:.0f} → {record['two']:.0f} images/s, "
                f"× {record['two'] / record['one']:.2f}", flush=True,
            )  # fmt: skip


def measure_backprop(rounds: int) -> None:
    """The control's trials and rounds that are not stored yet."""
    torch.set_num_threads(1)
    for row in ROWS:
        trials = [control(row, TRIAL, parts) for parts in PARTS]
        best = max(trials, key=lambda trial: trial["two"] / trial["one"])["parts"]
        for number in range(rounds):
            control(row, number, best)


def control(row: str, number: int, parts: int) -> dict:
    """A round of the control, or the stored one."""
    key = {"row": row, "round": number, "parts": parts}
    record = cached_run(CONTROL, key, partial(backprop, row, number % 2 == 1, parts))
    print(f"{row}: backprop, {parts} parts, × {record['two'] / record['one']:.2f}", flush=True)
    return record


def one_round(row: str, number: int) -> dict:
    """All three arms, in an order that changes from round to round."""
    record = {"machine": machine()}
    arms = [one, two, independent]
    for arm in arms[number % 3 :] + arms[: number % 3]:
        record |= arm(row)
    if number:
        del record["timeline"]  # one is enough to draw
    return record


def interval(values: list[float]) -> str:
    """Median, and the interval it lies in at 95 %; below six values, the least and the largest."""
    low, high = median_interval(values) if len(values) >= 6 else (min(values), max(values))
    return f"{median(values):.2f} ({low:.2f} … {high:.2f})"


def verdict(ratio: float, allowed: float) -> str:
    """Whether the pipeline reaches the bar, and whether its shares could."""
    if ratio >= BAR:
        return "yes"
    return "the balance does not allow it" if allowed < BAR else "**no**"


def write_table() -> None:
    """Turn the stored records into a page."""
    records = [json.loads(line) for line in STORE.read_text().splitlines()]
    about, rounds = records[0]["machine"], max(record["round"] for record in records) + 1
    spread = "its 95 % interval" if rounds >= 6 else "the least and the largest"
    lines = [
        "# Throughput of the exact pipeline: two processes against one",
        "",
        "Generated by `python results/pipeline.py` from `pipeline.jsonl`; do not edit. One thread "
        f"per process; {about['device']}, torch {about['torch']}. Median of {rounds} rounds, each "
        f"of which measures all columns in turn, and {spread}.",
        "",
        "*Pipeline*: images per second of two processes that share the blocks, over one process's. "
        "*Allowed*: what the shares would give if handing on cost nothing: all blocks' seconds "
        "over those of the process that has more. *Two alone*: two trainings at once that have "
        "nothing to do with each other: more than that this machine does not give.",
        "",
        "| network | blocks of the two | one, images/s | pipeline | allowed | two alone "
        f"| at least {BAR}? |",
        "|---|---|--:|---|--:|---|---|",
    ]
    for row in ROWS:
        mine = [record for record in records if record["row"] == row]
        ratios = [record["two"] / record["one"] for record in mine]
        plans = Counter(tuple(record["plan"]) for record in mine)
        (_, cut, end), _ = plans.most_common(1)[0]
        cells = [
            row, f"{cut} + {end - cut}", f"{median(r['one'] for r in mine):,.0f}",
            interval(ratios), f"{median(r['allowed'] for r in mine):.2f}",
            interval([r["independent"] / r["one"] for r in mine]),
            verdict(median(ratios), median(r["allowed"] for r in mine)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    PAGE.write_text("\n".join(lines + control_table()) + "\n")
    print(PAGE.read_text())


def control_table() -> list[str]:
    """Lines about backprop on the same two processes; none before they are measured."""
    records = [record for record in read_runs(CONTROL) if record["round"] != TRIAL]
    if not records:
        return []
    lines = [
        "",
        "## The control: backprop on the same two processes",
        "",
        "torch's GPipe schedule; images per second over backprop's on one process. Every batch is "
        "cut into parts, each of which has its own statistics of BatchNorm; the number of parts "
        f"is the best of {', '.join(map(str, PARTS))} in a trial that is not counted. *At best*: "
        "2 · parts / (parts + 1).",
        "",
        "| network | parts | rounds | one, images/s | GPipe | at best |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for row in ROWS:
        if mine := [record for record in records if record["row"] == row]:
            parts = mine[0]["parts"]
            cells = [
                row, f"{parts}", f"{len(mine)}", f"{median(r['one'] for r in mine):,.0f}",
                interval([record["two"] / record["one"] for record in mine]),
                f"{2 * parts / (parts + 1):.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, or only write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("measure", "backprop", "table"),
                        default="measure")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options = parser.parse_args()
    if options.what == "measure":
        measure(options.rounds)
    if options.what == "backprop":
        measure_backprop(options.rounds)
    write_table()


if __name__ == "__main__":
    main()
