"""The goodness explorer: move a threshold through the goodness of positives and negatives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import draw
from ..goodness import mean_squares, sum_squares
from ..util.checks import SFFError, check_known, check_positive
from .panel import STYLE, Explorer, button, dropdown

GOODNESS = {"sum": ("sum of squares", sum_squares), "mean": ("mean of squares", mean_squares)}
LOOK = {  # other colours than the positives' and negatives'
    "sum": {"color": draw.OKABE_ITO["purple"], "marker": "s"},
    "mean": {"color": draw.OKABE_ITO["green"], "marker": "o"},
}


@dataclass(frozen=True, eq=False)
class GoodnessSplit:
    """Goodness of positives and negatives, and what a threshold makes of them.

    Attributes:
        kind: ``"sum"`` or ``"mean"`` of squares.
        theta: the threshold.
        positive: (B,) goodness values.
        negative: (B,) goodness values.
    """

    kind: str
    theta: float
    positive: Tensor
    negative: Tensor

    @property
    def positive_above(self) -> float:
        """Share of the positives above the threshold, in [0, 1]."""
        return (self.positive > self.theta).double().mean().item()

    @property
    def negative_below(self) -> float:
        """Share of the negatives below the threshold, in [0, 1]."""
        return (self.negative < self.theta).double().mean().item()

    @property
    def right(self) -> float:
        """Mean of the two shares; 0.5 is what guessing gives."""
        return (self.positive_above + self.negative_below) / 2

    def row(self) -> dict[str, object]:
        """The split as plain values, for a table."""
        return {
            "right %": round(100 * self.right, 1),
            "goodness": GOODNESS[self.kind][0],
            "θ": float(f"{self.theta:.3g}"),
            "positives above %": round(100 * self.positive_above, 1),
            "negatives below %": round(100 * self.negative_below, 1),
        }

    def __str__(self) -> str:
        return (
            f"θ = {self.theta:.3g}: {self.positive_above:.0%} of the positives lie above it, "
            f"{self.negative_below:.0%} of the negatives below; {self.right:.0%} are right, and "
            "guessing gives 50%."
        )


def goodness_split(
    positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
) -> GoodnessSplit:
    """Turn activations into goodness and part it by a threshold.

    Args:
        positive_h: (B, D) activations.
        negative_h: (B, D) activations.
        kind: ``"sum"`` or ``"mean"`` of squares.
        theta: the threshold; None takes the middle between the two medians.

    Raises:
        SFFError: an unknown kind, or a threshold that is not positive.
    """
    check_known(kind, GOODNESS, "kind")
    function = GOODNESS[kind][1]
    positive, negative = function(positive_h.detach()).cpu(), function(negative_h.detach()).cpu()
    if theta is None:
        theta = (positive.median() + negative.median()).item() / 2
    check_positive(theta=theta)
    return GoodnessSplit(kind, float(theta), positive, negative)


@draw.course_style()
def draw_goodness_split(
    split: GoodnessSplit,
    kept: Sequence[GoodnessSplit] = (),
    span: tuple[float, float] | None = None,
) -> Figure:
    """Draw the two distributions with the threshold, and how many answers a threshold gets right.

    Args:
        split: what is drawn large.
        kept: earlier splits, of either goodness, small and numbered.
        span: ends of the axis of thresholds; None takes what is needed.
    """
    fig, (left, right) = draw.new_figure(
        draw.WIDTH, 3.8, ncols=2, width_ratios=[1.9, 1], title=["", "Right answers, %"],
        xlabel=["", "threshold θ"],
    )  # fmt: skip
    fig.set_layout_engine(None)  # placing by constraints is too slow while a slider is dragged
    fig.subplots_adjust(left=0.08, right=0.98, bottom=0.23, top=0.91, wspace=0.18)
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
    right.legend(loc="upper right", bbox_to_anchor=(1, -0.17), ncols=2, borderaxespad=0,
                 columnspacing=1, handletextpad=0.2)  # fmt: skip
    draw.number_marks(
        right,
        [(one.theta, 100 * one.right, f"{i}" if i else "", LOOK[one.kind]["color"])
         for i, one in enumerate((split, *kept))],
    )  # fmt: skip
    return draw.with_alt(
        fig,
        "Histograms of goodness of positives and negatives with the threshold, and the share of "
        f"right answers against the threshold. {split}",
    )


@draw.course_style()
def draw_goodness_grid(splits: Sequence[Sequence[GoodnessSplit]]) -> Figure:
    """Draw rows of splits side by side: what there is to see without moving anything."""
    rows, columns = len(splits), max(map(len, splits))
    fig, axes = draw.new_figure(draw.WIDTH, 3.5 * rows, rows, columns)
    for ax, split in zip(np.atleast_1d(axes).flat, [one for row in splits for one in row]):
        draw.draw_goodness(
            split.positive, split.negative, split.theta, ax=ax,
            xlabel=f"goodness g ({GOODNESS[split.kind][0]})",
            title=f"{GOODNESS[split.kind][0].capitalize()}: {split.right:.0%} right",
        )  # fmt: skip
    return fig


class GoodnessExplorer(Explorer):
    """The widget of ``goodness_explorer``.

    Args:
        positive_h: as for ``goodness_split``.
        negative_h: as for ``goodness_split``.
        kind: the goodness to begin with.
        theta: the threshold to begin with.
    """

    title = "Kept thresholds"
    file = "sff-goodness"
    caption = "Move θ, or take the other goodness: the same number is then no threshold any more."

    def __init__(
        self, positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
    ):
        self._h = positive_h, negative_h
        first = goodness_split(positive_h, negative_h, kind, theta)
        low, high = _decades(positive_h, negative_h, first.theta)
        self.span = 10.0**low, 10.0**high
        self.middle = button("θ to the middle", "arrows-h", "Set θ between the two medians")
        controls = {
            "kind": dropdown("goodness", {name: key for key, (name, _) in GOODNESS.items()}, kind),
            "theta": ipywidgets.FloatLogSlider(
                value=first.theta, base=10, min=low, max=high, step=0.02,
                description="threshold θ", readout_format=".3g", continuous_update=True,
                style=STYLE, layout=ipywidgets.Layout(width="420px"),
            ),
        }  # fmt: skip
        super().__init__(controls, [], [self.middle])
        self.middle.on_click(self.guarded(self._on_middle))
        self.result = first

    def run(self, **settings: Any) -> GoodnessSplit:
        """``goodness_split``; another goodness keeps θ, which then no longer fits: the point."""
        return goodness_split(*self._h, **settings)

    def draw(self) -> Figure:
        """``draw_goodness_split``."""
        return draw_goodness_split(self.result, self.results, self.span)

    def _on_middle(self, _: Any) -> None:
        kind = self.controls["kind"].value
        self.controls["theta"].value = goodness_split(*self._h, kind).theta


def _decades(positive_h: Tensor, negative_h: Tensor, theta: float) -> tuple[float, float]:
    """Exponents of ten between which the goodness of either kind lies."""
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
    """Show the goodness of positives and negatives, and a widget that moves the threshold θ.

    Above the widget stand both kinds of goodness, ``kind`` first, each with ``theta`` and with a
    threshold in the middle between the medians.

    Args:
        positive_h: (B, D) activations.
        negative_h: (B, D) activations.
        kind: ``"sum"`` or ``"mean"`` of squares.
        theta: the threshold to start from; None takes the middle.

    Raises:
        SFFError: as for ``goodness_split``, or activations that are not (B, D) and finite.
    """
    for name, h in (("positive_h", positive_h), ("negative_h", negative_h)):
        if h.dim() < 2 or h.numel() == 0 or not torch.isfinite(h).all():
            raise SFFError(f"{name} must be (B, D) and finite, not of shape {tuple(h.shape)}")
    explorer = GoodnessExplorer(positive_h, negative_h, kind, theta)
    theta = explorer.result.theta
    splits = [
        [goodness_split(positive_h, negative_h, one, where) for where in (theta, None)]
        for one in sorted(GOODNESS, key=lambda one: one != kind)
    ]
    draw.show(
        draw_goodness_grid(splits),
        caption=f"Above the {GOODNESS[kind][0]}, below the other goodness of the same activations. "
        "Left the same number as threshold in both; right a threshold in the middle between the "
        "medians.",
    )
    explorer.show()
    return explorer
