"""The layers explorer: vary the layers and blocks of an SFF CNN."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from .. import draw
from ..core import SFF, GoodnessHead, LocalBlock
from ..data.sets import ImageSet, load
from ..models import cnn
from ..training.fit import History, fit
from ..util.checks import check_count, check_known, explained
from .panel import KERNELS, RULES, SEEDS, TrialsPanel, display_box, dropdown, slider

WIDTHS, POOL_AFTER = (16, 32, 64, 64, 64, 64), (1, 2, 4)  # a net of L layers has the first L
LAYERS = (2, 3, 4, 5, 6)
IMAGES = (200, 500, 1000, 3000, 9000)
EPOCHS = (1, 2, 4, 8, 16, 40)
JUDGES = {"last": "last block", "mean": "mean of blocks"}


# ---------------------------------------------------------------- compute


@dataclass(frozen=True)
class LayersResult:
    """One trial: what was trained, and what it reached on the validation images.

    ``blocks`` is 1 for ``bp`` and ``bp-goodness``, which join them. ``shapes``: (C, H, W) of the
    image and after each layer. ``cuts``: layers in front of each cut. ``history``: of ``fit``.
    """

    rule: str
    layers: int
    blocks: int
    kernel_size: int
    images: int
    epochs: int
    seed: int
    shapes: tuple[tuple[int, int, int], ...]
    cuts: tuple[int, ...]
    history: History

    @property
    def complete(self) -> bool:
        """Whether all epochs ran; a run that was stopped is no trial."""
        return self.history.stopped is None

    @property
    def block_accuracy(self) -> list[float]:
        """Each block's own accuracy on the validation images after the last epoch, in [0, 1]."""
        return self.history.last["valid_block_accuracy"]

    def accuracy(self, judge: str = "last") -> float:
        """Validation accuracy of the ``"last"`` block or of the ``"mean"`` of blocks, in [0, 1]."""
        check_known(judge, JUDGES, "judge")
        return self.block_accuracy[-1] if judge == "last" else self.history.last["valid_accuracy"]

    def row(self) -> dict[str, object]:
        """The trial as plain values, for a table."""
        return {
            "rule": self.rule,
            "layers": self.layers,
            "blocks": self.blocks,
            "head": f"{self.kernel_size}×{self.kernel_size}" if self.rule != "bp" else "linear",
            "images": self.images,
            "epochs": self.epochs,
            "seed": self.seed,
            "last block %": round(100 * self.accuracy("last"), 1),
            "mean of blocks %": round(100 * self.accuracy("mean"), 1),
            "seconds": round(self.history.seconds, 1),
            "blocks %": " ".join(f"{100 * a:.1f}" for a in self.block_accuracy),
        }


@explained()
def plan_layers(
    layers: int, blocks: int, channels: int = 1, size: tuple[int, int] = (28, 28)
) -> tuple[tuple[tuple[int, int, int], ...], tuple[int, ...]]:
    """Shapes (C, H, W), the image's first, and the cuts that make `blocks` blocks of equal length.

    Where the layers cannot be shared out equally, the earlier blocks get one more.
    """
    check_count(layers, "layers")
    check_count(blocks, "blocks")
    if layers > len(WIDTHS):
        raise ValueError(
            f"layers={layers} is more than {len(WIDTHS)}; give {len(WIDTHS)} or fewer."
        )
    if blocks > layers:
        raise ValueError(
            f"blocks={blocks} is more than the {layers} layers; give {layers} or fewer."
        )
    height, width = size
    shapes = [(channels, height, width)]
    for number in range(1, layers + 1):
        if number in POOL_AFTER:
            height, width = height // 2, width // 2
        shapes.append((WIDTHS[number - 1], height, width))
    lengths = [layers // blocks + (k < layers % blocks) for k in range(blocks)]
    return tuple(shapes), tuple(int(cut) for cut in np.cumsum(lengths)[:-1])


def run_layers(
    layers: int = 4,
    blocks: int = 4,
    kernel_size: int = 3,
    rule: str = "sff",
    images: int = 1000,
    epochs: int = 4,
    seed: int = 0,
    *,
    data: str = "fashion-mnist-sample",
    on_epoch: Callable[[History], None] | None = None,
    stop: threading.Event | None = None,
) -> LayersResult:
    """Train a plain CNN of `layers` layers cut into `blocks` blocks, and validate it.

    AdamW with a peak of 5e-3, one cycle, batches of 64, no augmentation. The test images are not
    touched: a widget is for choosing, and nothing may be chosen on them.

    Args:
        layers: 1 to 6; 16, 32, 64, … channels, max-pool after 1, 2 and 4.
        blocks: 1 to `layers`, of equal length. ``bp`` and ``bp-goodness`` join them into one.
        kernel_size: of the heads. rule: one of ``RULES``.
        images: training images, class-balanced, drawn with `seed`. epochs: passes over them.
        seed: subset, initial weights, order. The caller's random state is left as it is.
        data: a name for ``data.load``.
        on_epoch, stop: see ``fit``.

    Raises:
        ValueError, TypeError: bad arguments, before anything is trained.
    """
    check_known(rule, RULES, "rule")
    check_count(images, "images")
    plan_layers(layers, blocks)
    everything = load(data).train
    if not isinstance(everything, ImageSet):
        raise ValueError(f'data="{data}" holds no images; give a set of images, such as "digits".')
    pool = len(everything)
    if images > pool:
        raise ValueError(
            f"images={images} is more than the {pool:,} of {data}; give {pool} or fewer."
        )
    train, valid, _ = load(data, images / pool, seed)
    shapes, cuts = plan_layers(layers, blocks, train.channels, train.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(shapes, cuts, kernel_size, train.num_classes)
        history = fit(
            model,
            train,
            valid,
            rule=rule,
            epochs=epochs,
            seed=seed,
            progress=False,
            on_epoch=on_epoch,
            stop=stop,
        )
    blocks = len(model.blocks)
    cuts = cuts if blocks > 1 else ()
    return LayersResult(
        rule, layers, blocks, kernel_size, len(train), epochs, seed, shapes, cuts, history
    )


def _build(shapes, cuts, kernel_size: int, num_classes: int) -> SFF:
    channels, *widths = (shape[0] for shape in shapes)
    net = list(cnn(channels, widths, [after for after in POOL_AFTER if after <= len(widths)]))
    blocks = []
    for start, end in zip((0, *cuts), (*cuts, len(net)), strict=True):
        head = GoodnessHead(widths[end - 1], num_classes, kernel_size)
        blocks.append(LocalBlock(nn.Sequential(*net[start:end]), head))
    return SFF(blocks)


def starting_results(**settings: object) -> list[LayersResult]:
    """Three trials to start from: backprop, SFF in two blocks and in four; about five seconds."""
    runs = ({"blocks": 1, "rule": "bp"}, {"blocks": 2}, {"blocks": 4})
    return [run_layers(**(run | settings)) for run in runs]


# ---------------------------------------------------------------- draw


@explained()
@draw.course_style()
def draw_layers(
    results: Sequence[LayersResult], history: History | None = None, *, judge: str = "last"
) -> Figure:
    """Draw one run's loss and accuracy by block, and all trials' accuracy against their blocks.

    `history`: the run in progress; without it the first two panels show the last trial. `judge`: by
    which prediction the trials are compared, see ``LayersResult.accuracy``. A number beside a mark
    is the trial's; a line joins trials that differ in their blocks alone.
    """
    check_known(judge, JUDGES, "judge")
    if history is None and results:
        history = results[-1].history
    fig, (loss, depth, trials) = draw.new_figure(
        draw.WIDTH,
        3.5,
        ncols=3,
        width_ratios=[1, 1, 1.5],
        title=["Training loss", "Accuracy by block, %", f"All trials: {JUDGES[judge]}, %"],
        xlabel=["epoch", "block", "blocks in the network"],
    )
    if history is not None and history.rows:
        _draw_run(loss, depth, history)
    else:
        _say_empty(loss, "no run yet")
        _say_empty(depth, "no run yet")
    _draw_trials(trials, results, judge)
    return fig


def _draw_run(loss, depth, history):
    rows = history.rows
    losses = np.array([row["train_loss"] for row in rows], dtype=float)  # (epochs, blocks)
    epoch = [row["epoch"] for row in rows]
    colours, labels = draw.block_colours(losses.shape[1]), []
    for k, colour in enumerate(colours):
        marker = draw.MARKERS[k % len(draw.MARKERS)]
        every = {"markevery": max(1, len(epoch) // 8)}
        loss.plot(epoch, losses[:, k], color=colour, marker=marker, linestyle="-", **every)
        if len(colours) > 1:
            labels.append((epoch[-1], losses[-1, k], f"block {k + 1}", colour))
    last = max(epoch[-1], history.settings["epochs"], 2)  # the axis stays while training goes on
    loss.set_xlim(1 - 0.04 * last, last * 1.04)
    loss.set_ylim(bottom=0)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    draw.end_labels(loss, labels)

    measured = [row for row in rows if "valid_block_accuracy" in row]
    accuracy = 100 * np.array(
        measured[-1]["valid_block_accuracy"] if measured else rows[-1]["train_accuracy"]
    )
    place = range(1, len(accuracy) + 1)
    depth.plot(place, accuracy, color=draw.OKABE_ITO["blue"], linestyle="-", zorder=1)
    for k, colour in enumerate(colours):
        marker = draw.MARKERS[k % len(draw.MARKERS)]
        depth.plot(k + 1, accuracy[k], color=colour, marker=marker, markersize=7)
    labels = [(len(accuracy), accuracy[-1], f"last {accuracy[-1]:.1f}", colours[-1])]
    if measured and len(accuracy) > 1:
        vote, red = 100 * measured[-1]["valid_accuracy"], draw.OKABE_ITO["vermillion"]
        depth.axhline(vote, color=red, linestyle=(0, (4, 1.5)), linewidth=1.8)
        labels.append((len(accuracy) + 0.3, vote, f"mean {vote:.1f}", red))
    depth.set_xlim(0.7, len(accuracy) + 0.3)
    depth.set_ylim(0, 100)  # the same for every run
    depth.set_xticks(place)
    if not measured:
        depth.set_title("In training, by block, %")
    draw.end_labels(depth, labels)


def _draw_trials(ax, results, judge):
    lines, shown, numbers = {}, set(), []
    for number, one in enumerate(results, 1):
        rest = (one.rule, one.layers, one.kernel_size, one.images, one.epochs, one.seed)
        lines.setdefault(rest, []).append((one.blocks, 100 * one.accuracy(judge), number))
    for (rule, *_), points in lines.items():
        look = draw.rule_style(rule)
        aside = 0.07 * (RULES.index(rule) - 1.5)
        label = None if rule in shown else look.label
        shown.add(rule)
        points = sorted(points)
        x, y = [blocks + aside for blocks, *_ in points], [accuracy for _, accuracy, _ in points]
        ax.plot(x, y, **look.line, linewidth=1.2, markersize=7, alpha=0.9, label=label)
        numbers += [(at, height, f"{number}", look.colour)
                    for at, height, (*_, number) in zip(x, y, points)]  # fmt: skip
    ax.set_xlim(0.5, len(WIDTHS) + 0.5)
    ax.set_xticks(range(1, len(WIDTHS) + 1))
    if lines:
        heights = [height for points in lines.values() for _, height, _ in points]
        middle = (min(heights) + max(heights)) / 2
        # At least ten points high: a difference of one is within the noise of a seed.
        half = max(5.0, 0.65 * (max(heights) - min(heights)))
        ax.set_ylim(middle - half, middle + half)
        ax.legend(loc="best")
        draw.number_marks(ax, numbers)
    else:
        _say_empty(ax, "no trial yet")


def _say_empty(ax, text):
    ax.set_yticks([])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=draw.ink("grey"))


@explained()
def draw_layers_network(result: LayersResult) -> Figure:
    """Draw the trial's network with its cuts, and over each block the accuracy it reached."""
    notes = None
    if result.history.rows and "valid_block_accuracy" in result.history.last:
        notes = [f"{100 * accuracy:.0f} %" for accuracy in result.block_accuracy]
    image, *shapes = result.shapes
    return draw.draw_network(shapes, result.cuts, rule=result.rule, input_shape=image, notes=notes)


@explained()
def describe_layers(results: Sequence[LayersResult], judge: str = "last") -> str:
    """The trials in a sentence each, for a caption or an alternative text."""
    if not results:
        return "No trial yet."
    lines = []
    for number, one in enumerate(results, 1):
        blocks = "1 block" if one.blocks == 1 else f"{one.blocks} blocks"
        lines.append(
            f"Trial {number}: {draw.rule_style(one.rule).label}, {one.layers} layers in {blocks}, "
            f"{100 * one.accuracy(judge):.1f} % by the {JUDGES[judge]}."
        )
    return " ".join(lines)


# ---------------------------------------------------------------- the widget


class LayersExplorer(TrialsPanel):
    """The widget of ``layers_explorer``: ``box`` is what is displayed, ``results`` the trials.

    Args:
        results: trials to start from.
        data: what to train on, see ``run_layers``.
    """

    title = "Trials, on validation images"

    def __init__(self, results: Sequence[LayersResult] = (), data: str = "fashion-mnist-sample"):
        self.data = data
        controls = {
            "rule": dropdown("rule", {draw.rule_style(rule).label: rule for rule in RULES}),
            "layers": slider("layers", LAYERS[0], LAYERS[-1], 4),
            "blocks": slider("blocks", 1, 4, 4),
            "kernel_size": dropdown("head kernel", {f"{k}×{k}": k for k in KERNELS}, 3),
            "images": dropdown("images", {f"{n:,}": n for n in IMAGES}, 1000),
            "epochs": dropdown("epochs", {str(n): n for n in EPOCHS}, 4),
            "seed": dropdown("seed", {str(n): n for n in SEEDS}),
        }
        self.judge = dropdown("judge by", {label: key for key, label in JUDGES.items()})
        super().__init__(controls, [self.judge], results, "sff-layers")
        self.controls["layers"].observe(self._guarded(self._on_layers), "value")
        self.judge.observe(self._guarded(self._on_judge), "value")

    def _on_layers(self, change) -> None:
        self.controls["blocks"].max = change["new"]

    def _on_judge(self, change) -> None:
        if self.results and not self.train.disabled:
            self._draw()

    def run(self, **settings) -> LayersResult:
        """``run_layers`` on this explorer's data."""
        return run_layers(**settings, data=self.data)

    def draw(self, history: History | None = None) -> Figure:
        """``draw_layers``."""
        return draw_layers(self.results, history, judge=self.judge.value)

    def draw_network(self, result: LayersResult) -> Figure:
        """``draw_layers_network``."""
        return draw_layers_network(result)

    def describe(self) -> str:
        """``describe_layers``."""
        return describe_layers(self.results, self.judge.value)

    def summary(self, result: LayersResult) -> str:
        """Both votes."""
        return (
            f"last block {result.accuracy('last'):.1%}, "
            f"mean of blocks {result.accuracy('mean'):.1%} of the validation images."
        )


def layers_explorer(
    results: Sequence[LayersResult] | None = None, *, data: str = "fashion-mnist-sample"
) -> LayersExplorer:
    """Show some trials as a figure, then a widget that adds more, with other layers, blocks, rules.

    `results`: trials to start from; None trains ``starting_results``. Returns the explorer, whose
    `results` are all trials so far.
    """
    results = starting_results(data=data) if results is None else list(results)
    explorer = LayersExplorer(results, data)
    if results:
        text, fig = describe_layers(results), draw_layers(results)
        explorer.offer(fig)
        draw.show(
            fig,
            alt="Three panels: the last trial's training loss per epoch, its accuracy by block, "
            f"and the accuracy of every trial against its number of blocks. {text}",
            caption=f"Validation accuracy, one seed per trial. {text}",
        )
    display_box(explorer.box)
    return explorer
