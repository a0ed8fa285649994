"""The cost explorer: what a training step keeps and computes, for any size, without running it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torchvision
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import draw
from ..analysis.cost import TrainingStep, flops, saved_by_block
from ..core import SFF
from ..cut.localize import localize
from ..models import cnn
from ..util.checks import SFFError, check_count, check_known
from .panel import Explorer, dropdown

NETWORKS = {
    "cnn": "CNN of four layers",
    "resnet18": "ResNet18, 3×3 stem",
    "mobilenet_v3_small": "MobileNetV3-small",
}
CLASSES = (10, 100, 200, 1000)
WIDTHS = (1, 2, 4)  # times 16-32-64-64
RESOLUTIONS = (28, 32, 64, 96, 128, 224)
CUTS = {"layer": "every layer", "block": "every block", "stage": "every stage", 2: "two blocks"}
HEADS = {0: "plain 1×1", 32: "hidden 32", 64: "hidden 64"}
BATCHES = (16, 64, 256)
STEPS = {  # what is counted: name → rule or variant of ``TrainingStep``
    "backprop": "bp",
    "backprop, checkpointing": "bp-checkpoint",
    "SFF": "sff",
    "SFF, recompute": "sff-recompute",
}
LOOK = {step: {k: v for k, v in draw.rule_style(rule).line.items() if k != "linestyle"}
        for step, rule in STEPS.items()}  # fmt: skip

_LOCK = threading.Lock()  # the steps are shared


@dataclass(frozen=True)
class CostResult:
    """Counts of one training step.

    Attributes:
        network: one of ``NETWORKS``.
        width: of the plain CNN, times 16-32-64-64.
        resolution: pixels per side.
        classes: K.
        cut: see ``localize``.
        hidden: channels of the hidden layer of the heads, or 0.
        batch: images in a step.
        flops: by the names of ``STEPS``.
        saved: bytes for the backward pass at their peak, by the names of ``STEPS``.
        saved_by_block: SFF's peak while each block is at work.
    """

    network: str
    width: int
    resolution: int
    classes: int
    cut: str | int
    hidden: int
    batch: int
    flops: dict[str, int]
    saved: dict[str, int]
    saved_by_block: tuple[int, ...]

    def ratio(self, step: str, figure: str) -> float:
        """``"flops"`` or ``"saved"`` of a step, over backprop's."""
        counts = getattr(self, figure)
        return counts[step] / counts["backprop"]

    def row(self) -> dict[str, object]:
        """The counts as plain values, for a table."""
        row: dict[str, object] = {}
        for step, rule in list(STEPS.items())[1:]:
            row[f"{rule} FLOPs"] = round(self.ratio(step, "flops"), 2)
            row[f"{rule} bytes"] = round(self.ratio(step, "saved"), 2)
        return row | {
            "bp GFLOPs": round(self.flops["backprop"] / 1e9, 2),
            "bp MB": round(self.saved["backprop"] / 1e6, 1),
            "network": self.network,
            "width": f"{self.width}×" if self.network == "cnn" else "–",
            "pixels": f"{self.resolution}×{self.resolution}",
            "classes": self.classes,
            "cut": self.cut,
            "blocks": len(self.saved_by_block),
            "head": HEADS[self.hidden],
            "batch": self.batch,
        }

    def __str__(self) -> str:
        parts = (
            f"{step} {self.ratio(step, 'flops'):.2f} × the FLOPs and "
            f"{self.ratio(step, 'saved'):.2f} × the bytes"
            for step in list(STEPS)[1:]
        )
        return (
            f"Backprop takes {_rounded(self.flops['backprop'] / 1e9)} GFLOPs and saves "
            f"{_rounded(self.saved['backprop'] / 1e6)} MB a step; {'; '.join(parts)}."
        )


@lru_cache(maxsize=256)
def run_cost(
    network: str = "cnn",
    width: int = 1,
    resolution: int = 32,
    classes: int = 10,
    cut: str | int = "layer",
    hidden: int = 0,
    batch: int = 64,
) -> CostResult:
    """Count a training step of SFF and of backprop, each also with recomputation.

    The step runs on torch's "meta" tensors, which have a shape and no values: nothing is computed
    and nothing allocated. FLOPs and saved bytes are those of ``analysis.cost`` on real tensors.

    Args:
        network: one of ``NETWORKS``.
        width: times 16-32-64-64 channels; the CNN's only.
        resolution: pixels per side, of three channels.
        classes: K.
        cut: see ``localize``.
        hidden: see ``localize``.
        batch: images in a step.

    Raises:
        SFFError: a wrong value.
        TypeError: a value of the wrong kind.
    """
    check_known(network, NETWORKS, "network")
    for name, value in (("width", width), ("classes", classes), ("batch", batch)):
        check_count(value, name)
    if resolution < 8:
        raise SFFError(f"resolution={resolution} is too small for three poolings")
    saved = {}
    with _LOCK:
        flops_per_image, steps = _steps(network, width, resolution, classes, cut, hidden)
        for name, step in steps.items():
            step.x, step.y = _batch(batch, resolution)
            saved[name] = saved_by_block(step)
    return CostResult(
        network, width, resolution, classes, cut, hidden, batch,
        {name: batch * flops for name, flops in flops_per_image.items()},
        {name: max(by_block) for name, by_block in saved.items()},
        tuple(saved["SFF"]),
    )  # fmt: skip


def _batch(size: int, resolution: int) -> tuple[Tensor, Tensor]:
    """Images and labels without values."""
    x = torch.empty(size, 3, resolution, resolution, device="meta")
    return x, torch.empty(size, dtype=torch.int64, device="meta")


@lru_cache(maxsize=16)
def _steps(*network: Any) -> tuple[dict[str, int], dict[str, TrainingStep]]:
    """What another batch has in common: FLOPs per image and a step, by the names of ``STEPS``."""
    model, batch = _network(*network), _batch(2, network[2])
    steps = {name: TrainingStep(model, rule, batch) for name, rule in STEPS.items()}
    steps["SFF, recompute"]()  # chooses at its first call what to compute again
    return {name: flops(step) // 2 for name, step in steps.items()}, steps


def _network(
    network: str, width: int, resolution: int, classes: int, cut: str | int, hidden: int
) -> SFF:
    """The cut network on meta tensors."""
    stem = "small" if network == "resnet18" else None
    with torch.device("meta"):
        if network == "cnn":
            net = cnn(3, [width * channels for channels in (16, 32, 64, 64)])
        else:
            net = torchvision.models.get_model(network, num_classes=classes)
        size = (3, resolution, resolution)
        return localize(net, classes, cut=cut, hidden=hidden, stem=stem, input_shape=size)


@draw.course_style()
def draw_cost(result: CostResult, kept: Sequence[CostResult] = ()) -> Figure:
    """Draw FLOPs against saved bytes, both over backprop's, and SFF's bytes block by block.

    Left is less memory, down is less computation.

    Args:
        result: what is drawn large.
        kept: earlier results, small and numbered.
    """
    fig, (plane, blocks) = draw.new_figure(
        draw.WIDTH, 3.6, ncols=2, width_ratios=[1.3, 1],
        title=["A step, over backprop's", "Saved for backward, MB"],
        xlabel=["saved bytes ÷ backprop's", "block at work"], ylabel=["FLOPs ÷ backprop's", ""],
    )  # fmt: skip
    numbers = []
    for number, one in enumerate(kept, 1):
        for step in STEPS:
            if step != "backprop":
                at = one.ratio(step, "saved"), one.ratio(step, "flops")
                plane.plot(*at, **LOOK[step], markersize=5, alpha=0.5, linestyle="none")
                numbers.append((*at, f"{number}", draw.GREY))
    for step in STEPS:
        at = result.ratio(step, "saved"), result.ratio(step, "flops")
        plane.plot(*at, **LOOK[step], markersize=10, linestyle="none", label=step)
        numbers.append((*at, "", draw.GREY))
    plane.axhline(1, color=draw.GREY, linewidth=0.8, linestyle=":")
    plane.axvline(1, color=draw.GREY, linewidth=0.8, linestyle=":")
    points = (result, *kept)
    right = max(one.ratio(step, "saved") for one in points for step in STEPS)
    top = max(one.ratio(step, "flops") for one in points for step in STEPS)
    plane.set_xlim(0, max(1.15, 1.1 * right))
    plane.set_ylim(min(0.5, 0.9 * min(o.ratio(s, "flops") for o in points for s in STEPS)),
                   max(1.7, 1.1 * top))  # fmt: skip
    plane.legend(loc="best", fontsize=9)

    _draw_blocks(blocks, result)
    draw.number_marks(plane, numbers)
    return draw.with_alt(
        fig,
        "FLOPs against saved bytes over backprop's for SFF and checkpointed backprop, and SFF's "
        f"saved megabytes by block with backprop's as a line. {result}",
    )


def _draw_blocks(ax: Axes, result: CostResult) -> None:
    """SFF's saved bytes while each block is at work, and backprop's as a line."""
    at_work = [saved / 1e6 for saved in result.saved_by_block]
    places = list(range(1, len(at_work) + 1))
    ax.bar(places, at_work, color=draw.OKABE_ITO["blue"], width=0.7)
    whole = result.saved["backprop"] / 1e6
    ax.axhline(whole, color=draw.OKABE_ITO["black"], linestyle=(0, (6, 2)))
    ax.set_ylim(0, 1.15 * max(whole, *at_work))
    ax.set_xticks(places if len(at_work) <= 12 else places[::2])
    ax.text(0.98, 1.01 * whole, "backprop, whole network", ha="right", va="bottom",
            transform=ax.get_yaxis_transform(), fontsize=9)  # fmt: skip
    ax.grid(axis="x", visible=False)


def _rounded(value: float) -> str:
    """Three digits, without powers of ten: 1.93, 22.3, 3,410."""
    return f"{float(f'{value:.3g}'):,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


class CostExplorer(Explorer):
    """The widget of ``cost_explorer``.

    Args:
        results: kept from the start.
    """

    title = "Kept: one step; FLOPs and saved bytes over those of bp"
    file = "sff-cost"
    caption = "Counted, not timed. Large marks: what the controls say; small ones: what was kept."

    def __init__(self, results: Sequence[CostResult] = ()):
        controls = {
            "network": dropdown("network", {text: key for key, text in NETWORKS.items()}),
            "width": dropdown("width", {f"{w} ×": w for w in WIDTHS}),
            "resolution": dropdown("pixels", {f"{r} × {r}": r for r in RESOLUTIONS}, 32),
            "classes": dropdown("classes", {f"{k:,}": k for k in CLASSES}),
            "cut": dropdown("cut", {text: key for key, text in CUTS.items()}),
            "hidden": dropdown("head", {text: key for key, text in HEADS.items()}, 0),
            "batch": dropdown("batch", {str(b): b for b in BATCHES}, 64),
        }
        super().__init__(controls, results)
        controls["network"].observe(self._on_network, "value")
        self.result = run_cost()

    def _on_network(self, change: Any) -> None:
        self.controls["width"].disabled = change["new"] != "cnn"

    def run(self, **settings: Any) -> CostResult:
        """``run_cost``."""
        return run_cost(**settings)

    def draw(self) -> Figure:
        """``draw_cost``."""
        return draw_cost(self.result, self.results)


def cost_explorer(results: Sequence[CostResult] | None = None) -> CostExplorer:
    """Show what a training step costs, and a widget that counts any other setting.

    Args:
        results: kept at the start; None takes the CNN with 10 and with 1,000 classes.

    Returns:
        The explorer.
    """
    explorer = CostExplorer([run_cost(), run_cost(classes=1000)] if results is None else results)
    explorer.show()
    return explorer
