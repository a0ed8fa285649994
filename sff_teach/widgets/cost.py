"""The cost explorer: what a training step keeps and computes, for any size, without running it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torchvision
from matplotlib.figure import Figure

from .. import draw
from ..analysis.cost import TrainingStep, count_step
from ..cut.localize import localize
from ..models import cnn
from ..util.checks import check_count, check_known, explained
from .panel import InstantPanel, display_box, dropdown

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
LOOK = {  # colour by rule, filled marker by plain step
    "backprop": {"color": draw.OKABE_ITO["black"], "marker": "o"},
    "backprop, checkpointing": {
        "color": draw.OKABE_ITO["black"], "marker": "o", "markerfacecolor": "white",
    },
    "SFF": {"color": draw.OKABE_ITO["blue"], "marker": "D"},
    "SFF, recompute": {
        "color": draw.OKABE_ITO["blue"], "marker": "D", "markerfacecolor": "white",
    },
}  # fmt: skip


@dataclass(frozen=True)
class CostResult:
    """Counts of one training step: ``flops`` and ``saved`` bytes, by the names of ``STEPS``.

    ``saved_by_block``: SFF's peak while each block is at work.
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
        row = {
            "network": self.network,
            "width": f"{self.width}×" if self.network == "cnn" else "–",
            "pixels": f"{self.resolution}×{self.resolution}",
            "classes": self.classes,
            "cut": self.cut,
            "blocks": len(self.saved_by_block),
            "head": HEADS[self.hidden],
            "batch": self.batch,
            "bp GFLOPs": round(self.flops["backprop"] / 1e9, 2),
            "bp MB": round(self.saved["backprop"] / 1e6, 1),
        }
        for step, rule in list(STEPS.items())[1:]:
            row[f"{rule} FLOPs"] = round(self.ratio(step, "flops"), 2)
            row[f"{rule} bytes"] = round(self.ratio(step, "saved"), 2)
        return row


@explained()
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
    and nothing allocated, so a large network counts as fast as a small one. FLOPs and saved bytes
    come out as ``measure.cost`` counts them on real tensors.

    Args:
        network: one of ``NETWORKS``. width: times 16-32-64-64 channels; the CNN's only.
        resolution: pixels per side, of three channels. classes: K. cut, hidden: see ``localize``.
        batch: images in a step.

    Raises:
        ValueError, TypeError: bad arguments.
    """
    check_known(network, NETWORKS, "network")
    for name, value in (("width", width), ("resolution", resolution), ("classes", classes)):
        check_count(value, name)
    check_count(batch, "batch")
    if network == "cnn" and resolution < 8:
        raise ValueError(
            f"resolution={resolution} is too small for three poolings; give 8 or more."
        )
    with torch.device("meta"):
        if network == "cnn":
            net, stem = cnn(3, [width * c for c in (16, 32, 64, 64)]), None
        else:
            net = torchvision.models.get_model(network, num_classes=classes)
            stem = "small" if network == "resnet18" else None
        model = localize(
            net, classes, cut=cut, hidden=hidden, stem=stem, input_shape=(3, resolution, resolution)
        )
    x = torch.empty(batch, 3, resolution, resolution, device="meta")
    y = torch.empty(batch, dtype=torch.int64, device="meta")
    counts = {name: count_step(TrainingStep(model, rule, (x, y))) for name, rule in STEPS.items()}
    return CostResult(
        network, width, resolution, classes, cut, hidden, batch,
        {name: flops for name, (flops, _, _) in counts.items()},
        {name: saved for name, (_, saved, _) in counts.items()},
        tuple(counts["SFF"][2]),
    )  # fmt: skip


@explained()
@draw.course_style()
def draw_cost(result: CostResult, kept: Sequence[CostResult] = ()) -> Figure:
    """Draw FLOPs against saved bytes, both over backprop's, and SFF's bytes block by block.

    `kept`: earlier results, small and numbered. Left is less memory, down is less computation.
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

    at_work = [saved / 1e6 for saved in result.saved_by_block]
    places = range(1, len(at_work) + 1)
    blocks.bar(places, at_work, color=draw.OKABE_ITO["blue"], width=0.7)
    whole = result.saved["backprop"] / 1e6
    blocks.axhline(whole, color=draw.OKABE_ITO["black"], linestyle=(0, (6, 2)))
    blocks.set_ylim(0, 1.15 * max(whole, *at_work))
    blocks.set_xticks(list(places) if len(at_work) <= 12 else list(places)[::2])
    blocks.text(0.98, 1.01 * whole, "backprop, whole network", ha="right", va="bottom",
                transform=blocks.get_yaxis_transform(), fontsize=9)  # fmt: skip
    blocks.grid(axis="x", visible=False)
    draw.number_marks(plane, numbers)
    return fig


@explained()
def describe_cost(result: CostResult) -> str:
    """The result in words."""
    network = NETWORKS[result.network]
    if result.network == "cnn" and result.width > 1:
        network += f", {result.width} times as wide"
    parts = [
        f"{step} {result.ratio(step, 'flops'):.2f} × the FLOPs and "
        f"{result.ratio(step, 'saved'):.2f} × the saved bytes"
        for step in list(STEPS)[1:]
    ]
    blocks = len(result.saved_by_block)
    return (
        f"{network}, {result.resolution}×{result.resolution} pixels, {result.classes:,} classes, "
        f"{blocks} block{'s' * (blocks > 1)}, {HEADS[result.hidden]} heads, batch {result.batch}. "
        f"Of backprop's step: {'; '.join(parts)}."
    )


def _rounded(value: float) -> str:
    """Three digits, without powers of ten: 1.93, 22.3, 3,410."""
    return f"{float(f'{value:.3g}'):,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


class CostExplorer(InstantPanel):
    """The widget of ``cost_explorer``: ``box`` is displayed, ``results`` are the kept ones."""

    title = "Kept: one step; FLOPs and saved bytes over those of bp"

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
        super().__init__(controls, [], results, "sff-cost")
        controls["network"].observe(self._guarded(self._on_network), "value")

    def _on_network(self, change) -> None:
        self.controls["width"].disabled = change["new"] != "cnn"

    def run(self, **settings) -> CostResult:
        """``run_cost``."""
        return run_cost(**settings)

    def draw(self, result: CostResult) -> Figure:
        """``draw_cost``."""
        return draw_cost(result, self.results)

    def describe(self) -> str:
        """``describe_cost`` of what is on show."""
        return describe_cost(self.result)

    def summary(self, result: CostResult) -> str:
        """Backprop's own counts, and SFF's share of them."""
        return (
            f"Backprop: {_rounded(result.flops['backprop'] / 1e9)} GFLOPs and "
            f"{_rounded(result.saved['backprop'] / 1e6)} MB a step. SFF: "
            f"{result.ratio('SFF', 'flops'):.2f} × and {result.ratio('SFF', 'saved'):.2f} ×."
        )


def cost_explorer(results: Sequence[CostResult] | None = None) -> CostExplorer:
    """Show two costs as a figure, then a widget that counts any other setting.

    `results`: what is kept at the start; None takes the CNN with 10 and with 1,000 classes. Returns
    the explorer.
    """
    results = [run_cost(), run_cost(classes=1000)] if results is None else list(results)
    explorer = CostExplorer(results)
    if results:
        text, fig = describe_cost(results[-1]), draw_cost(results[-1], results[:-1])
        explorer.offer(fig)
        draw.show(
            fig,
            alt="Left: FLOPs against saved bytes, over backprop's, for SFF and checkpointed "
            f"backprop. Right: SFF's saved megabytes by block, and backprop's as a line. {text}",
            caption=f"Counted, not timed. Large marks: {text}",
        )
    display_box(explorer.box)
    return explorer
