"""What a training step of ResNet18 costs under SFF, backprop, and backprop's ways to save memory.

    python results/cost_resnet18.py counts       FLOPs and bytes: exact, about 3 minutes
    python results/cost_resnet18.py seconds      time, on a quiet machine: about 10 minutes
    python results/cost_resnet18.py table        only writes cost_resnet18.md anew

torchvision's ResNet18 for 32×32 images (3×3 stem), one block per residual block and one for the
stem, batch 32, random images. Each command replaces its own records in cost_resnet18.jsonl. Seconds
are paired: one step of backprop and one of the other rule, in turn; reported is the median ratio.
Set the Makefile's MALLOC settings, as for pipeline.py.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torchvision

from sff_teach.analysis.cost import (
    PairedTiming,
    StepCost,
    TrainingStep,
    time_paired,
    training_cost,
)
from sff_teach.cut.localize import localize
from sff_teach.study import machine

HERE = Path(__file__).parent
STORE, PAGE = HERE / "cost_resnet18.jsonl", HERE / "cost_resnet18.md"
CLASSES, BATCH, SIZE = (10, 100, 1000), 32, 32
ROWS = {  # name → rule, form of the heads
    "bp": ("bp", "auto"),
    "bp, goodness head": ("bp-goodness", "auto"),
    "bp, checkpointing": ("bp-checkpoint", "auto"),
    "bp, recompute": ("bp-recompute", "auto"),
    "bp, 4 accumulated parts": ("bp-accumulate", "auto"),
    "deep supervision": ("deepsup", "auto"),
    "sff, direct heads": ("sff", "direct"),
    "sff, losses summed": ("sff-summed", "auto"),
    "sff": ("sff", "auto"),
    "sff, recompute": ("sff-recompute", "auto"),
}
BARS = {  # classes → row → (FLOPs, saved bytes, seconds) over bp's, at most
    10: {"sff": (0.86, 0.29, 0.95), "sff, recompute": (1.00, 0.20, None)},
    100: {"sff": (0.90, 0.36, None)},
    1000: {"sff": (1.06, 0.40, 1.2)},
}


def build(classes: int, form: str):
    """The network, cut into nine blocks, and a batch; the same at every call."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=classes)
    model = localize(network, classes, form=form, stem="small", input_shape=(3, SIZE, SIZE))
    batch = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(classes, (BATCH,))
    return model, batch


def step(classes: int, row: str) -> TrainingStep:
    rule, form = ROWS[row]
    model, batch = build(classes, form)
    return TrainingStep(model, rule, batch)


def load() -> list[dict]:
    if not STORE.exists():
        return []
    return [json.loads(line) for line in STORE.read_text().splitlines()]


def store(records: list[dict], what: str) -> None:
    """Put these records in the place of the old ones of their kind."""
    kept = [record for record in load() if record["what"] != what]
    lines = [json.dumps(record) for record in [*kept, *records]]
    STORE.write_text("\n".join(lines) + "\n")


def count() -> None:
    records = []
    for classes in CLASSES:
        for row, (rule, form) in ROWS.items():
            model, batch = build(classes, form)
            result = replace(training_cost(model, rule, batch), rule=row)
            records.append({"what": "counts", "form": form, **asdict(result)})
            print(f"{classes:5d} {row:24s} {result.flops:.3e} FLOPs, {result.saved:,} bytes")
    store([{**record, "machine": machine()} for record in records], "counts")


def measure(rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    records = []
    for classes in CLASSES:
        baseline = step(classes, "bp")
        for row in list(ROWS)[1:]:
            result = time_paired(baseline, step(classes, row), rounds=rounds)
            records.append({"what": "seconds", "rule": row, "classes": classes, **asdict(result)})
            print(
                f"{classes:5d} {row:24s} {result.ratio:.2f} ({result.low:.2f} … {result.high:.2f})"
            )
    store([{**record, "machine": machine()} for record in records], "seconds")


def table(costs: Sequence[StepCost], times: dict[str, PairedTiming] | None = None) -> str:
    """Costs as a Markdown table, beside them their ratio to the first row's.

    Args:
        costs: one per row.
        times: by rule, paired with the first row's rule as ``a``.
    """
    columns = ["rule", "GFLOPs", "÷", "saved, MB", "÷", "live, MB", "÷"]
    columns += ["seconds ÷", "95 % interval"] if times else []
    lines = [f"| {' | '.join(columns)} |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    first = costs[0]
    for c in costs:
        cells = [c.rule]
        for field, unit in (("flops", 1e9), ("saved", 1e6), ("live", 1e6)):
            value = getattr(c, field)
            cells += [f"{value / unit:,.1f}", f"{value / getattr(first, field):.3f}"]
        if times:
            t = times.get(c.rule)
            cells += [f"{t.ratio:.2f}", f"{t.low:.2f} … {t.high:.2f}"] if t else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table() -> None:
    """Turn the stored records into a page."""
    fields = set(StepCost.__dataclass_fields__)
    costs, times, machines = {}, {}, {}
    for record in load():
        machines[record["what"]] = record["machine"]
        key = record["classes"], record["rule"]
        if record["what"] == "counts":
            costs[key] = StepCost(**{k: v for k, v in record.items() if k in fields})
        else:
            times[key] = PairedTiming(**{k: record[k] for k in PairedTiming.__dataclass_fields__})
    text = [
        "# A training step of ResNet18: FLOPs, memory, seconds",
        "",
        "Generated by `python results/cost_resnet18.py` from `cost_resnet18.jsonl`; do not edit.",
        "torchvision's ResNet18, 3×3 stem, 32×32 images, nine blocks, batch 32, SGD without "
        "momentum. *Saved*: activations kept for backward, at the peak. *Live*: every tensor made "
        "in the step, gradients of parameters among them, at the peak; neither holds parameters or "
        "batch. MB = 10⁶ bytes. ÷: over bp.",
        "",
        f"Counts, the same on every run: torch {machines['counts']['torch']}.",
    ]
    if "seconds" in machines:
        on, rounds = machines["seconds"], next(iter(times.values())).rounds
        text += [
            f"Seconds: {on['device']}, {on['threads']} threads, torch {on['torch']}; bp and the "
            f"row's rule in turn, median of {rounds} ratios and its 95 % interval.",
        ]
    for classes in CLASSES:
        by_row = {row: times[classes, row] for row in ROWS if (classes, row) in times}
        rows = table([costs[classes, row] for row in ROWS], by_row)
        text += ["", f"## {classes:,} classes", "", rows]
    text += ["", "## Bars", "", *_bars(costs, times)]
    PAGE.write_text("\n".join(text) + "\n")
    print(PAGE.read_text())


def _bars(costs: dict, times: dict) -> list[str]:
    lines = ["| classes | row | of bp | at most | measured | met |", "|--:|---|---|--:|--:|---|"]
    for classes, rows in BARS.items():
        for row, bars in rows.items():
            c, first, t = costs[classes, row], costs[classes, "bp"], times.get((classes, row))
            measured = (c.flops / first.flops, c.saved / first.saved, t and t.ratio)
            for name, bar, value in zip(("FLOPs", "saved", "seconds"), bars, measured):
                if bar is not None and value is not None:
                    met = "yes" if value <= bar else "**no**"
                    lines.append(
                        f"| {classes} | {row} | {name} | {bar:.2f} | {value:.3f} | {met} |"
                    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("counts", "seconds", "table"))
    parser.add_argument("--rounds", type=int, default=15, help="pairs of steps (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default 2)")
    options = parser.parse_args()
    if options.what == "counts":
        count()
    elif options.what == "seconds":
        measure(options.rounds, options.threads)
    write_table()


if __name__ == "__main__":
    main()
