"""The goodness explorer: move a threshold through the goodness of positives and negatives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import draw
from ..goodness import mean_squares, sum_squares
from ..util.checks import check_known, check_positive, explained
from .panel import STYLE, InstantPanel, button, display_box, dropdown, layout

GOODNESS = {"sum": ("sum of squares", sum_squares), "mean": ("mean of squares", mean_squares)}
LOOK = {  # other colours than the positives' and negatives'
    "sum": {"color": draw.OKABE_ITO["purple"], "marker": "s"},
    "mean": {"color": draw.OKABE_ITO["green"], "marker": "o"},
}


@dataclass(frozen=True, eq=False)
class GoodnessSplit:
    """Goodness of positives and negatives (B,) each, and what a threshold makes of them.

    ``positive_above``, ``negative_below``: the shares on their right side of ``theta``, in [0, 1].
    """

    kind: str
    theta: float
    positive: Tensor
    negative: Tensor

    @property
    def positive_above(self) -> float:
        return (self.positive > self.theta).double().mean().item()

    @property
    def negative_below(self) -> float:
        return (self.negative < self.theta).double().mean().item()

    @property
    def right(self) -> float:
        """Mean of the two shares; 0.5 is what guessing gives."""
        return (self.positive_above + self.negative_below) / 2

    def row(self) -> dict[str, object]:
        """The split as plain values, for a table."""
        return {
            "goodness": GOODNESS[self.kind][0],
            "θ": float(f"{self.theta:.3g}"),
            "positives above %": round(100 * self.positive_above, 1),
            "negatives below %": round(100 * self.negative_below, 1),
            "right %": round(100 * self.right, 1),
        }

    def __str__(self) -> str:
        return (
            f"θ = {self.theta:.3g}: {self.positive_above:.0%} of the positives lie above it, "
            f"{self.negative_below:.0%} of the negatives below; {self.right:.0%} are right, and "
            "guessing gives 50%."
        )


@explained()
def goodness_split(
    positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
) -> GoodnessSplit:
    """Turn activations into goodness and part it by a threshold.

    Args:
        positive_h, negative_h: (B, D) activations.
        kind: ``"sum"`` or ``"mean"`` of squares.
        theta: the threshold; None takes the middle between the two medians.

    Raises:
        ValueError: an unknown kind, no activations, or some that are not finite.
    """
    check_known(kind, GOODNESS, "kind")
    for name, h in (("positive_h", positive_h), ("negative_h", negative_h)):
        if h.dim() < 2 or h.numel() == 0 or not torch.isfinite(h).all():
            raise ValueError(
                f"{name} of shape {tuple(h.shape)} must be (B, D), not empty, and finite; "
                "give a layer's activations, one row per image."
            )
    function = GOODNESS[kind][1]
    positive, negative = function(positive_h.detach()).cpu(), function(negative_h.detach()).cpu()
    if theta is None:
        theta = (positive.median() + negative.median()).item() / 2
    check_positive(theta=theta)
    return GoodnessSplit(kind, float(theta), positive, negative)


@explained()
@draw.course_style()
def draw_goodness_split(
    split: GoodnessSplit,
    kept: Sequence[GoodnessSplit] = (),
    span: tuple[float, float] | None = None,
) -> Figure:
    """Draw the two distributions with the threshold, and how many answers a threshold gets right.

    `kept`: earlier splits, of either goodness, small and numbered. `span`: ends of the axis of
    thresholds; None takes what is needed.
    """
    fig, (left, right) = draw.new_figure(
        draw.WIDTH, 3.8, ncols=2, width_ratios=[1.9, 1], title=["", "Right answers, %"],
        xlabel=["", "threshold θ"],
    )  # fmt: skip
    draw.draw_goodness(
        split.positive, split.negative, split.theta, ax=left,
        xlabel=f"goodness g ({GOODNESS[split.kind][0]})",
    )  # fmt: skip
    right.set_xscale("log")
    thetas = [one.theta for one in (split, *kept)]
    right.set_xlim(span or (min(thetas) / 5, max(thetas) * 5))
    right.set_ylim(44, 103)
    right.axhline(50, color=draw.GREY, linewidth=1, linestyle=(0, (1, 1.3)))
    right.text(0.98, 49.2, "guessing", transform=right.get_yaxis_transform(), ha="right", va="top",
               fontsize=9, color=draw.GREY)  # fmt: skip
    for one in kept:
        right.plot(one.theta, 100 * one.right, **LOOK[one.kind], markersize=6, linestyle="none")
    right.plot(split.theta, 100 * split.right, **LOOK[split.kind], markersize=10, linestyle="none",
               markeredgecolor=draw.INK)  # fmt: skip
    for kind in dict.fromkeys(one.kind for one in (split, *kept)):
        right.plot([], [], **LOOK[kind], markersize=6, linestyle="none", label=GOODNESS[kind][0])
    right.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=2, borderaxespad=0,
                 columnspacing=1, handletextpad=0.2)  # fmt: skip
    draw.number_marks(
        right,
        [(one.theta, 100 * one.right, f"{i}" if i else "", LOOK[one.kind]["color"])
         for i, one in enumerate((split, *kept))],
    )  # fmt: skip
    return fig


@explained()
@draw.course_style()
def draw_goodness_grid(splits: Sequence[Sequence[GoodnessSplit]]) -> Figure:
    """Draw splits side by side: what there is to see without moving anything."""
    rows, columns = len(splits), max(map(len, splits))
    fig, axes = draw.new_figure(draw.WIDTH, 3.5 * rows, rows, columns)
    for ax, split in zip(np.atleast_1d(axes).flat, [one for row in splits for one in row]):
        draw.draw_goodness(
            split.positive, split.negative, split.theta, ax=ax,
            xlabel=f"goodness g ({GOODNESS[split.kind][0]})",
            title=f"{GOODNESS[split.kind][0].capitalize()}: {split.right:.0%} right",
        )  # fmt: skip
    return fig


class GoodnessExplorer(InstantPanel):
    """The widget of ``goodness_explorer``: ``box`` is displayed, ``split`` is what it shows."""

    title = "Kept thresholds"

    def __init__(
        self, positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
    ):
        self._h = positive_h, negative_h
        first = goodness_split(positive_h, negative_h, kind, theta)
        self.kind = dropdown("goodness", {name: key for key, (name, _) in GOODNESS.items()}, kind)
        low, high = _decades(positive_h, negative_h, first.theta)
        self.span = 10.0**low, 10.0**high
        self.theta = ipywidgets.FloatLogSlider(
            value=first.theta,
            base=10,
            min=low,
            max=high,
            step=0.02,
            description="threshold θ",
            readout_format=".3g",
            continuous_update=False,
            style=STYLE,
            layout=layout(width="420px"),
        )
        self.middle = button("θ to the middle", "arrows-h", "Set θ between the two medians")
        super().__init__(
            {"kind": self.kind, "theta": self.theta}, [self.middle], [], "sff-goodness"
        )
        self.middle.on_click(self._guarded(self._on_middle))
        self.update()

    def __repr__(self) -> str:
        return f"GoodnessExplorer({self.kind.label}, θ = {self.theta.value:.3g})"

    @property
    def split(self) -> GoodnessSplit:
        """What the controls say."""
        return self.result

    def run(self, kind: str, theta: float) -> GoodnessSplit:
        """``goodness_split``; another goodness keeps θ, which then no longer fits: the point."""
        return goodness_split(*self._h, kind, theta)

    def draw(self, result: GoodnessSplit) -> Figure:
        """``draw_goodness_split``."""
        return draw_goodness_split(result, self.results, self.span)

    def describe(self) -> str:
        """What the figure shows."""
        kept = "".join(f" Kept {i}: {one}" for i, one in enumerate(self.results, 1))
        return (
            "Histograms of goodness of positives and negatives, and the threshold; beside them the "
            f"share of right answers against the threshold. {self.split}{kept}"
        )

    def summary(self, result: GoodnessSplit) -> str:
        """Threshold and shares."""
        return str(result)

    def _on_middle(self, button) -> None:
        self.theta.value = goodness_split(*self._h, self.kind.value).theta


def _decades(positive_h: Tensor, negative_h: Tensor, theta: float) -> tuple[float, float]:
    """Exponents of ten between which every goodness of either kind lies."""
    values = [theta]
    for kind in GOODNESS:
        split = goodness_split(positive_h, negative_h, kind, theta)
        both = torch.cat([split.positive, split.negative]).double()
        values += [both.quantile(0.01).item(), both.max().item()]
    values = [value for value in values if value > 1e-6]
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def goodness_explorer(
    positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
) -> GoodnessExplorer:
    """Show the goodness of positives and negatives as a figure, then a widget that moves θ.

    The figure has both kinds of goodness, `kind` first, each with `theta` and with a threshold in
    the middle between the medians. Args as for ``goodness_split``: (B, D) activations. Returns the
    explorer.
    """
    explorer = GoodnessExplorer(positive_h, negative_h, kind, theta)
    splits = [
        [
            goodness_split(positive_h, negative_h, one, where)
            for where in (explorer.split.theta, None)
        ]
        for one in sorted(GOODNESS, key=lambda one: one != kind)
    ]
    text = " ".join(f"{GOODNESS[one.kind][0].capitalize()}, {one}" for row in splits for one in row)
    fig = draw_goodness_grid(splits)
    draw.show(
        fig,
        alt="Four panels, each with histograms of goodness for positive and negative samples and a "
        f"vertical line at the threshold. {text}",
        caption=f"Above the {GOODNESS[kind][0]}, below the other goodness of the same activations. "
        "Left the same number as threshold in both; right a threshold in the middle between the "
        f"medians. {text}",
    )
    explorer.picture.hide()  # until something is moved
    explorer.caption.value = ""
    explorer.offer(fig)
    display_box(explorer.box)
    return explorer
