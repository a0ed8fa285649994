"""The cost explorer: saved bytes and FLOPs of a training step, from a table of counts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import draw
from ..util.checks import check_known
from .panel import Explorer, dropdown

BATCH = 64  # images of the counted step
CHOICES = {  # argument of ``run_cost`` → text in the list → value
    "network": {
        "CNN, 16-32-64-64": "cnn",
        "CNN, twice as wide": "cnn-2x",
        "CNN, four times as wide": "cnn-4x",
        "ResNet18, 3×3 stem": "resnet18",
        "MobileNetV3-small": "mobilenet_v3_small",
    },
    "pixels": {"32 × 32": 32, "224 × 224": 224},
    "classes": {"10": 10, "100": 100, "1,000": 1000},
    "cut": {"every layer": "layer", "every block": "block", "every stage": "stage"},
    "hidden": {"plain 1×1": 0, "hidden 64": 64},
}
STEPS = {  # name → rule of ``TrainingStep``
    "backprop": "bp",
    "backprop, checkpointing": "bp-checkpoint",
    "SFF": "sff",
    "SFF, recompute": "sff-recompute",
}
OTHERS = list(STEPS)[1:]
TABLE = Path(__file__).with_name("costs.jsonl")  # data/make_costs.py counts it


@dataclass(frozen=True)
class CostResult:
    """Counts of one training step of 64 images."""

    setting: dict[str, str | int]  # the arguments of ``run_cost``
    flops: dict[str, int]  # by the names of STEPS
    saved: dict[str, int]  # peak bytes for the backward pass
    saved_by_block: list[int]  # SFF's peak in each block

    def ratios(self, step: str) -> tuple[float, float]:
        """Saved bytes and FLOPs of a step, over backprop's."""
        saved, flops = self.saved, self.flops
        return saved[step] / saved["backprop"], flops[step] / flops["backprop"]

    def row(self) -> dict[str, object]:
        """The counts as plain values, for a table."""
        row: dict[str, object] = {}
        for step in OTHERS:
            saved, flops = self.ratios(step)
            row |= {f"{step}: FLOPs": round(flops, 2), f"{step}: bytes": round(saved, 2)}
        return row | {
            "backprop: GFLOPs": round(self.flops["backprop"] / 1e9, 2),
            "backprop: MB": round(self.saved["backprop"] / 1e6, 1),
            "blocks": len(self.saved_by_block),
            **self.setting,
        }

    def __str__(self) -> str:
        words = f"Backprop takes {self.flops['backprop'] / 1e9:,.2f} GFLOPs and saves "
        words += f"{self.saved['backprop'] / 1e6:,.1f} MB a step"
        for step in OTHERS:
            saved, flops = self.ratios(step)
            words += f"; {step} {flops:.2f} × the FLOPs and {saved:.2f} × the bytes"
        return words + "."


@lru_cache(maxsize=1)
def read_table() -> dict[tuple, dict]:
    """The stored counts by setting, in the order of ``CHOICES``."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    return {tuple(row["setting"]): row for row in map(json.loads, lines)}


def run_cost(
    network: str = "cnn", pixels: int = 32, classes: int = 10, cut: str = "layer", hidden: int = 0
) -> CostResult:
    """Look up the cost of a step of 64 images.

    For SFF, also recomputing, and backprop, also checkpointing. ``analysis.cost`` counts any other
    network.

    Args:
        network: ``"cnn"``, ``"cnn-2x"``, ``"cnn-4x"``, ``"resnet18"`` or ``"mobilenet_v3_small"``.
        pixels: per side, 32 or 224, of three channels.
        classes: K: 10, 100 or 1,000.
        cut: ``"layer"``, ``"block"`` or ``"stage"``, see ``localize``.
        hidden: channels of the hidden layer of the heads, 64, or 0 for the plain head.
    """
    setting = dict(zip(CHOICES, (network, pixels, classes, cut, hidden), strict=True))
    for name, value in setting.items():
        check_known(value, list(CHOICES[name].values()), name)
    counts = read_table()[tuple(setting.values())]
    flops, saved = (dict(zip(STEPS, counts[name], strict=True)) for name in ("flops", "saved"))
    return CostResult(setting, flops, saved, counts["blocks"])


@draw.course_style()
def draw_cost(kept: Sequence[CostResult], result: CostResult) -> Figure:
    """Draw FLOPs against saved bytes, both over backprop's, and SFF's bytes block by block.

    Args:
        kept: earlier results, drawn small and numbered.
        result: what is drawn large.
    """
    fig, (plane, blocks) = draw.new_figure(
        draw.WIDTH, 3.6, ncols=2, width_ratios=[1.3, 1],
        title=["A step, over backprop's", "Saved for backward, MB"],
        xlabel=["saved bytes ÷ backprop's", "block at work"], ylabel=["FLOPs ÷ backprop's", ""],
        margins={"left": 0.07, "right": 0.99, "bottom": 0.14, "top": 0.92, "wspace": 0.15},
    )  # fmt: skip
    marks = []
    for number, counted in enumerate((result, *kept)):
        for step in STEPS if number == 0 else OTHERS:
            look = draw.rule_style(STEPS[step]).line | {"linestyle": "none"}
            look |= {"markersize": 5, "alpha": 0.5} if number else {"markersize": 10, "label": step}
            plane.plot(*counted.ratios(step), **look)
            marks.append((*counted.ratios(step), str(number or ""), draw.GREY))
    plane.axhline(1, color=draw.GREY, linewidth=0.8, linestyle=":")
    plane.axvline(1, color=draw.GREY, linewidth=0.8, linestyle=":")
    x, y = ([mark[i] for mark in marks] for i in (0, 1))
    plane.set_xlim(0, max(1.15, 1.1 * max(x)))
    plane.set_ylim(min(0.5, 0.9 * min(y)), max(1.7, 1.1 * max(y)))
    plane.legend(loc="best", fontsize=9)
    _draw_blocks(blocks, result)
    draw.number_marks(plane, marks)
    return draw.with_alt(
        fig,
        "FLOPs against saved bytes over backprop's for SFF and checkpointed backprop, and SFF's "
        f"saved megabytes by block with backprop's as a line. {result}",
    )


def _draw_blocks(ax: Axes, result: CostResult) -> None:
    """SFF's saved bytes in each block, and backprop's as a line."""
    at_work = [saved / 1e6 for saved in result.saved_by_block]
    places = range(1, len(at_work) + 1)
    ax.bar(places, at_work, color=draw.OKABE_ITO["blue"], width=0.7)
    whole = result.saved["backprop"] / 1e6
    ax.axhline(whole, color=draw.OKABE_ITO["black"], linestyle=(0, (6, 2)))
    ax.set_ylim(0, 1.15 * max(whole, *at_work))
    ax.set_xticks(places if len(at_work) <= 12 else places[::2])
    ax.text(0.98, 1.01 * whole, "backprop, whole network", ha="right", va="bottom",
            transform=ax.get_yaxis_transform(), fontsize=9)  # fmt: skip
    ax.grid(axis="x", visible=False)


def cost_explorer() -> Explorer:
    """Show the cost of a training step, and a widget to look up other networks."""
    controls = {name: dropdown(name, choices) for name, choices in CHOICES.items()}
    controls["hidden"].description = "head"
    return Explorer(
        controls, run_cost, draw_cost, [run_cost(), run_cost(classes=1000)],
        title="Kept: one step; FLOPs and saved bytes over those of backprop",
        caption="Counted, not timed. Large marks: what the controls say; small ones: what was "
        "kept.",
    ).show()  # fmt: skip
