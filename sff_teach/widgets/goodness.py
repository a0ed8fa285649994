"""The goodness explorer: move a threshold through the goodness of positives and negatives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import draw
from ..goodness import mean_squares, sum_squares
from ..util.checks import check_known, check_positive, check_samples
from .panel import STYLE, Explorer, button, dropdown

GOODNESS = {"sum": ("sum of squares", sum_squares), "mean": ("mean of squares", mean_squares)}
LOOK = {
    kind: draw.rule_style(name, i).line | {"linestyle": "none"}
    for i, (kind, (name, _)) in enumerate(GOODNESS.items())
}


@dataclass(frozen=True, eq=False)
class GoodnessSplit:
    """Goodness of positives and negatives, and a threshold."""

    kind: str  # "sum" or "mean" of squares
    theta: float
    positive: Tensor  # (B,)
    negative: Tensor  # (B,)

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
        """Mean of the two shares; 0.5 by guessing."""
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
    """Goodness of positives and negatives, and a threshold between them.

    Args:
        positive_h: (B, D) activations.
        negative_h: (B, D) activations.
        kind: ``"sum"`` or ``"mean"`` of squares.
        theta: the threshold; None takes the middle between the two medians.
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
    kept: Sequence[GoodnessSplit], split: GoodnessSplit, span: tuple[float, float]
) -> Figure:
    """Draw the two distributions with the threshold, and the share of right answers.

    Args:
        kept: earlier splits, of either goodness, drawn small and numbered.
        split: what is drawn large.
        span: ends of the axis of thresholds.
    """
    fig, (left, right) = draw.new_figure(
        draw.WIDTH, 3.8, ncols=2, width_ratios=[1.9, 1], title=["", "Right answers, %"],
        xlabel=["", "threshold θ"],
        margins={"left": 0.08, "right": 0.98, "bottom": 0.23, "top": 0.91, "wspace": 0.18},
    )  # fmt: skip
    draw.draw_goodness(
        split.positive, split.negative, split.theta, ax=left,
        xlabel=f"goodness g ({GOODNESS[split.kind][0]})",
    )  # fmt: skip
    right.set_xscale("log")
    right.set_xlim(span)
    right.set_ylim(44, 103)
    right.axhline(50, color=draw.GREY, linewidth=1, linestyle=(0, (1, 1.3)))
    right.text(0.98, 49.2, "guessing", transform=right.get_yaxis_transform(), ha="right", va="top",
               fontsize=9, color=draw.GREY)  # fmt: skip
    marks = []
    for i, shown in enumerate((split, *kept)):
        point, look = (shown.theta, 100 * shown.right), LOOK[shown.kind]
        large = {"markersize": 6} if i else {"markersize": 10, "markeredgecolor": draw.INK}
        right.plot(*point, **look, **large)
        marks.append((*point, str(i or ""), look["color"]))
    for kind in dict.fromkeys(shown.kind for shown in (split, *kept)):
        right.plot([], [], **LOOK[kind], markersize=6, label=GOODNESS[kind][0])
    right.legend(loc="upper right", bbox_to_anchor=(1, -0.17), ncols=2, borderaxespad=0,
                 columnspacing=1, handletextpad=0.2)  # fmt: skip
    draw.number_marks(right, marks)
    return draw.with_alt(
        fig,
        "Histograms of goodness of positives and negatives with the threshold, and the share of "
        f"right answers against the threshold. {split}",
    )


def _decades(positive_h: Tensor, negative_h: Tensor, theta: float) -> tuple[float, float]:
    """Exponents of ten between which the goodness of either kind lies."""
    both = torch.cat([positive_h, negative_h]).detach().cpu().double()
    values = torch.cat([function(both) for _, function in GOODNESS.values()])
    values = torch.cat([values[values > 1e-6], torch.tensor([theta])])
    low, high = values.quantile(0.01).item(), values.max().item()
    return math.floor(math.log10(min(low, theta))), math.ceil(math.log10(high))


def goodness_explorer(
    positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
) -> Explorer:
    """Show the goodness of positives and negatives, and a widget to move the threshold θ.

    Args:
        positive_h: (B, D) activations.
        negative_h: (B, D) activations.
        kind: ``"sum"`` or ``"mean"`` of squares.
        theta: the threshold to start from; None takes the middle.
    """
    for name, h in (("positive_h", positive_h), ("negative_h", negative_h)):
        check_samples(h, name)
    theta = goodness_split(positive_h, negative_h, kind, theta).theta
    low, high = _decades(positive_h, negative_h, theta)
    controls = {
        "kind": dropdown("goodness", {name: key for key, (name, _) in GOODNESS.items()}, kind),
        "theta": ipywidgets.FloatLogSlider(
            value=theta, base=10, min=low, max=high, step=0.02, description="threshold θ",
            readout_format=".3g", style=STYLE, layout=ipywidgets.Layout(width="420px"),
        ),
    }  # fmt: skip

    def to_the_middle() -> None:
        middle = goodness_split(positive_h, negative_h, controls["kind"].value)
        controls["theta"].value = middle.theta

    return Explorer(
        controls, partial(goodness_split, positive_h, negative_h),
        partial(draw_goodness_split, span=(10.0**low, 10.0**high)),
        title="Kept thresholds",
        caption="Move θ, or take the other goodness: the same number is then no threshold any "
        "more.",
        others=[button("θ to the middle", "arrows-h", "Set θ between the medians", to_the_middle)],
    ).show()  # fmt: skip
