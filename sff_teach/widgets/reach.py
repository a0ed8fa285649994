"""The reach explorer: which loss updates which layer, for any cuts and rule."""

import copy
from collections.abc import Sequence
from itertools import count, pairwise
from typing import NamedTuple

import ipywidgets
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch.nn.utils import parameters_to_vector

from .. import draw
from ..cut.localize import localize
from ..losses import class_loss
from ..models import cnn
from ..rules import get_rule
from .panel import Explorer, dropdown

LAYERS = 5
NAMES = ("sff", "sff-overlap", "deepsup", "bp-goodness", "bp")


class Reach(NamedTuple):
    """How far one step with a single loss moves a layer's weights: ``moved[loss][layer]``."""

    rule: str
    cuts: tuple[int, ...]
    moved: list[list[float]]

    def row(self) -> dict[str, object]:
        """The result as plain values, for a table."""
        cuts = ", ".join(map(str, self.cuts)) or "nowhere"
        label, _, reach = str(self).partition(", layers by loss: ")
        return {"reach": reach, "rule": label, "cut after": cuts}

    def __str__(self) -> str:
        reached = ([str(i) for i, m in enumerate(row, 1) if m] for row in self.moved)
        words = (f"loss {k} moves {', '.join(layers)}" for k, layers in enumerate(reached, 1))
        return f"{draw.rule_style(self.rule).label}, layers by loss: {'; '.join(words)}."


def run_reach(rule: str = "sff", cuts: Sequence[int] = (1, 2, 3, 4)) -> Reach:
    """The change of each layer in one step of a rule with a single loss, for each loss.

    Args:
        rule: one of ``NAMES``.
        cuts: the layers, counted from 1, after which a block of a network of five layers ends.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x, y = cnn(1, (4,) * LAYERS, ()), torch.randn(16, 1, 8, 8), torch.arange(16) % 4
        parts = [net[start:end] for start, end in pairwise((0, *cuts, LAYERS))]
        model = localize(net, 4, stages=parts, input_shape=(1, 8, 8))
    moved = []
    for k in range(1 if rule.startswith("bp") else len(parts)):
        learner = get_rule(rule)(
            copy.deepcopy(model), lambda weights: torch.optim.SGD(weights, lr=1.0)
        )
        block = count()
        learner.loss = lambda g, y, k=k, block=block: class_loss(g, y) * (next(block) == k)
        learner.step(x, y)
        weights = zip(*(map(_weights, layers) for layers in (net, learner.model.original)))
        moved.append([(after - before).norm().item() for before, after in weights])
    return Reach(rule, tuple(cuts), moved)


def _weights(layer: torch.nn.Module) -> torch.Tensor:
    return parameters_to_vector(layer.parameters()).detach()


@draw.course_style()
def draw_reach(result: Reach) -> Figure:
    """A row per loss, a column per layer."""
    rule, cuts, moved = result
    look = draw.rule_style(rule)
    fig, ax = draw.new_figure(draw.WIDTH, 3.2, title=look.label)
    colours = ListedColormap(["white", draw.tint(look.colour, 0.35)])
    ax.imshow(np.array(moved) > 0, colours, vmin=0, vmax=1, aspect="auto")
    for (k, layer), size in np.ndenumerate(moved):
        ax.text(layer, k, f"{size:.2f}" if size else "–", ha="center", va="center")
    for cut in () if rule.startswith("bp") else cuts:
        ax.axvline(cut - 0.515, color=draw.INK, linewidth=1.5)
        ax.axvline(cut - 0.485, color=draw.INK, linewidth=1.5)
    ax.set_xticks(range(LAYERS), [f"layer {i}" for i in range(1, LAYERS + 1)])
    ax.set_yticks(range(len(moved)), [f"loss {k}" for k in range(1, len(moved) + 1)])
    ax.set_ylim(LAYERS - 0.5, -0.5)
    ax.grid(visible=False)
    return draw.with_alt(fig, f"A row per loss, a column per layer. {result}")


def reach_explorer() -> Explorer:
    """Show which loss updates which layer, and a widget to change cuts and rule."""
    controls = {"rule": dropdown("rule", {draw.rule_style(r).label: r for r in NAMES})}
    for i in range(1, LAYERS):
        controls[f"{i}"] = ipywidgets.Checkbox(
            value=True, indent=False, description=f"a block ends after layer {i}",
            layout=ipywidgets.Layout(width="auto", margin="0 1em 0 0"),
        )  # fmt: skip
    return Explorer(
        controls,
        lambda rule, **ends: run_reach(rule, [int(layer) for layer in ends if ends[layer]]),
        lambda _, result: draw_reach(result),
        title="Kept: which loss moves which layer",
        caption="Each row is one real step of the rule with a single loss on; a number says how "
        "far that step moved the layer's weights. A dash: not at all. Double bar: a block ends.",
    ).show()
