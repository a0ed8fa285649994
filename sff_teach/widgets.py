"""Two explorers: vary the layers and blocks of an SFF CNN; move a threshold through goodness.

Each is a function that computes, a function that draws, and a thin widget over the two. Training
runs in a background thread, so that Stop is heard; it only assigns widget traits and never prints.
Works with ipywidgets 7.7 and 8. With no front end what remains is the static figure shown first.
"""

import base64
import csv
import html
import io
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from . import plots
from ._checks import check_count, check_known, check_positive
from .core import SFF, GoodnessHead, LocalBlock
from .data import load
from .goodness import mean_squares, sum_squares
from .models import cnn
from .train import History, fit

WIDTHS, POOL_AFTER = (16, 32, 64, 64, 64, 64), (1, 2, 4)  # a net of L layers has the first L
LAYERS = (2, 3, 4, 5, 6)
RULES = ("sff", "deepsup", "bp-goodness", "bp")
KERNELS = (1, 3, 5)
IMAGES = (200, 500, 1000, 3000, 9000)
EPOCHS = (1, 2, 4, 8, 16, 40)
SEEDS = (0, 1, 2, 3, 4)
JUDGES = {"last": "last block", "mean": "mean of blocks"}
GOODNESS = {"sum": ("sum of squares", sum_squares), "mean": ("mean of squares", mean_squares)}
REDRAW_SECONDS = 1.0  # while training, at least; drawing takes a fifth of it


# ---------------------------------------------------------------- layers and blocks: compute


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
        }


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
    pool = len(load(data).train)
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


def results_csv(results: Sequence[LayersResult]) -> str:
    """The trials as CSV, one line each, with every block's accuracy in the last column."""
    rows = [
        {"trial": i}
        | one.row()
        | {"blocks %": " ".join(f"{100 * a:.1f}" for a in one.block_accuracy)}
        for i, one in enumerate(results, 1)
    ]
    file = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


# ---------------------------------------------------------------- layers and blocks: draw


@plots.style()
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
    fig, (loss, depth, trials) = plots.new_figure(
        plots.WIDTH,
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
    colours, labels = plots.block_colours(losses.shape[1]), []
    for k, colour in enumerate(colours):
        marker = plots.MARKERS[k % len(plots.MARKERS)]
        every = {"markevery": max(1, len(epoch) // 8)}
        loss.plot(epoch, losses[:, k], color=colour, marker=marker, linestyle="-", **every)
        if len(colours) > 1:
            labels.append((epoch[-1], losses[-1, k], f"block {k + 1}", colour))
    last = max(epoch[-1], history.settings["epochs"], 2)  # the axis stays while training goes on
    loss.set_xlim(1 - 0.04 * last, last * 1.04)
    loss.set_ylim(bottom=0)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    plots.end_labels(loss, labels)

    measured = [row for row in rows if "valid_block_accuracy" in row]
    accuracy = 100 * np.array(
        measured[-1]["valid_block_accuracy"] if measured else rows[-1]["train_accuracy"]
    )
    place = range(1, len(accuracy) + 1)
    depth.plot(place, accuracy, color=plots.OKABE_ITO["blue"], linestyle="-", zorder=1)
    for k, colour in enumerate(colours):
        marker = plots.MARKERS[k % len(plots.MARKERS)]
        depth.plot(k + 1, accuracy[k], color=colour, marker=marker, markersize=7)
    labels = [(len(accuracy), accuracy[-1], f"last {accuracy[-1]:.1f}", colours[-1])]
    if measured and len(accuracy) > 1:
        vote, red = 100 * measured[-1]["valid_accuracy"], plots.OKABE_ITO["vermillion"]
        depth.axhline(vote, color=red, linestyle=(0, (4, 1.5)), linewidth=1.8)
        labels.append((len(accuracy) + 0.3, vote, f"mean {vote:.1f}", red))
    depth.set_xlim(0.7, len(accuracy) + 0.3)
    depth.set_ylim(0, 100)  # the same for every run
    depth.set_xticks(place)
    if not measured:
        depth.set_title("In training, by block, %")
    plots.end_labels(depth, labels)


def _draw_trials(ax, results, judge):
    lines, shown = {}, set()
    for number, one in enumerate(results, 1):
        rest = (one.rule, one.layers, one.kernel_size, one.images, one.epochs, one.seed)
        lines.setdefault(rest, []).append((one.blocks, 100 * one.accuracy(judge), number))
    for (rule, *_), points in lines.items():
        look = plots.rule_style(rule)
        aside = 0.07 * (RULES.index(rule) - 1.5)
        label = None if rule in shown else look.label
        shown.add(rule)
        points = sorted(points)
        x, y = [blocks + aside for blocks, *_ in points], [accuracy for _, accuracy, _ in points]
        ax.plot(x, y, **look.line, linewidth=1.2, markersize=7, alpha=0.9, label=label)
        for at, height, (*_, number) in zip(x, y, points, strict=True):
            ax.annotate(f"{number}", (at, height), xytext=(6, 3), textcoords="offset points",
                        fontsize=9, color=plots.ink(look.colour))  # fmt: skip
    ax.set_xlim(0.5, len(WIDTHS) + 0.5)
    ax.set_xticks(range(1, len(WIDTHS) + 1))
    if lines:
        heights = [height for points in lines.values() for _, height, _ in points]
        middle = (min(heights) + max(heights)) / 2
        # At least ten points high: a difference of one is within the noise of a seed.
        half = max(5.0, 0.65 * (max(heights) - min(heights)))
        ax.set_ylim(middle - half, middle + half)
        ax.legend(loc="best")
    else:
        _say_empty(ax, "no trial yet")


def _say_empty(ax, text):
    ax.set_yticks([])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=plots.ink("grey"))


def draw_layers_network(result: LayersResult) -> Figure:
    """Draw the trial's network with its cuts, and over each block the accuracy it reached."""
    notes = None
    if result.history.rows and "valid_block_accuracy" in result.history.last:
        notes = [f"{100 * accuracy:.0f} %" for accuracy in result.block_accuracy]
    image, *shapes = result.shapes
    return plots.draw_network(shapes, result.cuts, rule=result.rule, input_shape=image, notes=notes)


def describe_layers(results: Sequence[LayersResult], judge: str = "last") -> str:
    """The trials in a sentence each, for a caption or an alternative text."""
    if not results:
        return "No trial yet."
    lines = []
    for number, one in enumerate(results, 1):
        blocks = "1 block" if one.blocks == 1 else f"{one.blocks} blocks"
        lines.append(
            f"Trial {number}: {plots.rule_style(one.rule).label}, {one.layers} layers in {blocks}, "
            f"{100 * one.accuracy(judge):.1f} % by the {JUDGES[judge]}."
        )
    return " ".join(lines)


# ---------------------------------------------------------------- layers and blocks: the widget


class LayersExplorer:
    """The widget of ``layers_explorer``: ``box`` is what is displayed, ``results`` the trials.

    Args:
        results: trials to start from.
        data: what to train on, see ``run_layers``.
    """

    def __init__(self, results: Sequence[LayersResult] = (), data: str = "fashion-mnist-sample"):
        self.results = list(results)
        self.data = data
        self.thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._drawn = 0.0
        self.controls = {
            "rule": _dropdown("rule", {plots.rule_style(rule).label: rule for rule in RULES}),
            "layers": _slider("layers", LAYERS[0], LAYERS[-1], 4),
            "blocks": _slider("blocks", 1, 4, 4),
            "kernel_size": _dropdown("head kernel", {f"{k}×{k}": k for k in KERNELS}, 3),
            "images": _dropdown("images", {f"{n:,}": n for n in IMAGES}, 1000),
            "epochs": _dropdown("epochs", {str(n): n for n in EPOCHS}, 4),
            "seed": _dropdown("seed", {str(n): n for n in SEEDS}),
        }
        self.judge = _dropdown("judge by", {label: key for key, label in JUDGES.items()})
        self.train = _button("Train", "play", "Train a network with these settings", "success")
        self.stop = _button("Stop", "stop", "Stop after the current step; the run does not count")
        self.clear = _button("Clear", "trash", "Forget all trials")
        self.stop.disabled = True
        self.progress = ipywidgets.FloatProgress(
            min=0, max=1, value=0, layout=_layout(width="300px")
        )
        self.status = ipywidgets.HTML()
        self.network, self.picture = _image(plots.WIDTH), _image(plots.WIDTH)
        self.caption, self.table, self.save = (ipywidgets.HTML() for _ in range(3))
        self.controls["layers"].observe(self._on_layers, "value")
        self.controls["rule"].observe(self._on_rule, "value")
        self.judge.observe(self._on_judge, "value")
        self.train.on_click(self._on_train)
        self.stop.on_click(lambda button: self._stop.set())
        self.clear.on_click(self._on_clear)
        row = _layout(flex_flow="row wrap", align_items="center")
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([*self.controls.values(), self.judge], layout=row),
                ipywidgets.HBox([self.train, self.stop, self.clear, self.progress], layout=row),
                self.status,
                self.network,
                self.picture,
                self.caption,
                self.table,
                self.save,
            ]
        )
        self._list_trials()
        self._say("Choose, predict, then press Train.")

    def __repr__(self) -> str:
        return f"LayersExplorer({len(self.results)} trials)"

    @property
    def settings(self) -> dict:
        """What the controls say, as arguments for ``run_layers``."""
        return {name: control.value for name, control in self.controls.items()}

    def _say(self, text: str, error: bool = False) -> None:
        colour = plots.ink(plots.OKABE_ITO["vermillion"]) if error else "inherit"
        text = f"<b>Error:</b> {html.escape(text)}" if error else html.escape(text)
        self.status.value = f'<span role="status" style="color:{colour}">{text}</span>'

    def _on_layers(self, change) -> None:
        self.controls["blocks"].max = change["new"]

    def _on_rule(self, change) -> None:
        self.controls["blocks"].disabled = change["new"].startswith("bp")
        self.controls["kernel_size"].disabled = change["new"] == "bp"

    def _on_judge(self, change) -> None:
        if self.results and not self.train.disabled:
            self._draw()

    def _on_clear(self, button) -> None:
        self.results.clear()
        self._list_trials()
        self._say("All trials are forgotten.")
        for image in (self.network, self.picture):
            image.layout.display = "none"
        self.caption.value = ""

    def _on_train(self, button) -> None:
        if self.thread is not None and self.thread.is_alive():
            return  # one run at a time
        self._stop.clear()
        self._busy(True)
        self.progress.value = 0
        self._say("Training …")
        self.thread = threading.Thread(target=self._work, args=(self.settings,), daemon=True)
        self.thread.start()

    def _busy(self, busy: bool) -> None:
        self.train.disabled = self.clear.disabled = busy
        self.stop.disabled = not busy

    def _work(self, settings: dict) -> None:
        """In the background thread: train, then add a trial or say what went wrong."""
        try:
            result = run_layers(
                **settings, data=self.data, on_epoch=self._on_epoch, stop=self._stop
            )
            ended = result.history.stopped
            if result.complete:
                self.results.append(result)
                self._list_trials()
                self._say(
                    f"Trial {len(self.results)}: last block {result.accuracy('last'):.1%}, "
                    f"mean of blocks {result.accuracy('mean'):.1%} of the validation images."
                )
            elif ended == "diverged":
                self._say("the loss is no longer finite, so this run is no trial.", error=True)
            else:
                self._say("Stopped. A run that was cut short is no trial.")
            if result.history.rows:
                self._draw(result)
        except Exception as error:  # nobody would see it in a thread
            self._say(str(error) or type(error).__name__, error=True)
        finally:
            self._busy(False)

    def _on_epoch(self, history: History) -> None:
        epochs = history.settings["epochs"]
        self.progress.value = len(history.rows) / epochs
        self._say(f"Training: epoch {len(history.rows)} of {epochs} is over.")
        if history.rows and time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._show(self.picture, draw_layers(self.results, history, judge=self.judge.value))
            self._drawn = time.monotonic()

    def _draw(self, result: LayersResult | None = None) -> None:
        result = result or self.results[-1]
        picture = draw_layers(self.results, result.history, judge=self.judge.value)
        self._show(self.network, draw_layers_network(result))
        self._show(self.picture, picture)
        self.caption.value = _small(describe_layers(self.results, self.judge.value))

    @staticmethod
    def _show(image: ipywidgets.Image, fig: Figure) -> None:
        image.value = plots.png(fig)
        image.layout.display = "block"

    def _list_trials(self) -> None:
        self.table.value, self.save.value = trials_html(self.results), csv_link(self.results)


def trials_html(results: Sequence[LayersResult]) -> str:
    """The trials as an HTML table; empty without trials."""
    if not results:
        return ""
    rows = [{"trial": i} | one.row() for i, one in enumerate(results, 1)]
    for row in rows:
        del row["seconds"]  # differ from run to run; the CSV has them
    cell = 'style="padding:0 0.8em; text-align:right"'
    head = "".join(f'<th scope="col" {cell}>{name}</th>' for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td {cell}>{value}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><caption>Trials, on validation images</caption><tr>{head}</tr>{body}</table>"


def csv_link(results: Sequence[LayersResult]) -> str:
    """A link that saves the trials as CSV, with the file inside it; empty without trials."""
    if not results:
        return ""
    data = base64.b64encode(results_csv(results).encode()).decode("ascii")
    look = 'style="text-decoration:underline"'
    return f'<a download="sff-layers.csv" href="data:text/csv;base64,{data}" {look}>Save as CSV</a>'


def layers_explorer(
    results: Sequence[LayersResult] | None = None, *, data: str = "fashion-mnist-sample"
) -> LayersExplorer:
    """Show some trials as a figure, then a widget that adds more, with other layers, blocks, rules.

    `results`: trials to start from; None trains ``starting_results``. Returns the explorer, whose
    `results` are all trials so far.
    """
    results = starting_results(data=data) if results is None else list(results)
    if results:
        text = describe_layers(results)
        plots.show(
            draw_layers(results),
            alt="Three panels: the last trial's training loss per epoch, its accuracy by block, "
            f"and the accuracy of every trial against its number of blocks. {text}",
            caption=f"Validation accuracy, one seed per trial. {text}",
        )
    explorer = LayersExplorer(results, data)
    _display(explorer.box)
    return explorer


# ---------------------------------------------------------------- goodness and its threshold


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


def draw_goodness_split(split: GoodnessSplit) -> Figure:
    """Draw the two distributions and the threshold."""
    label = GOODNESS[split.kind][0]
    fig = plots.draw_goodness(
        split.positive, split.negative, split.theta, xlabel=f"goodness g ({label})"
    )
    low, high = fig.axes[0].get_xlim()
    if not low <= split.theta <= high:
        side = "left" if split.theta < low else "right"
        fig.axes[0].set_title(f"The threshold θ = {split.theta:.3g} lies {side} of all this")
    return fig


class GoodnessExplorer:
    """The widget of ``goodness_explorer``: ``box`` is displayed, ``split`` is its state."""

    def __init__(
        self, positive_h: Tensor, negative_h: Tensor, kind: str = "mean", theta: float | None = None
    ):
        self._h = positive_h, negative_h
        self.split = goodness_split(positive_h, negative_h, kind, theta)
        self.kind = _dropdown("goodness", {name: key for key, (name, _) in GOODNESS.items()}, kind)
        low, high = _decades(positive_h, negative_h, self.split.theta)
        self.theta = ipywidgets.FloatLogSlider(
            value=self.split.theta,
            base=10,
            min=low,
            max=high,
            step=0.02,
            description="threshold θ",
            readout_format=".3g",
            continuous_update=False,
            style=_STYLE,
            layout=_layout(width="420px"),
        )
        self.middle = _button("θ to the middle", "arrows-h", "Set θ between the two medians")
        self.status = ipywidgets.HTML()
        self.picture = _image(7.0)
        self.kind.observe(self._update, "value")
        self.theta.observe(self._update, "value")
        self.middle.on_click(self._on_middle)
        row = _layout(flex_flow="row wrap", align_items="center")
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.kind, self.theta, self.middle], layout=row),
                self.status,
                self.picture,
            ]
        )
        self._update()

    def __repr__(self) -> str:
        return f"GoodnessExplorer({self.kind.label}, θ = {self.theta.value:.3g})"

    def _on_middle(self, button) -> None:
        self.theta.value = goodness_split(*self._h, self.kind.value).theta

    def _update(self, change=None) -> None:
        # Another goodness keeps the number θ: that the two belong together is the point.
        self.split = goodness_split(*self._h, self.kind.value, self.theta.value)
        self.status.value = f'<span role="status">{html.escape(str(self.split))}</span>'
        self.picture.value = plots.png(draw_goodness_split(self.split))
        self.picture.layout.display = "block"


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

    Args as for ``goodness_split``: (B, D) activations. Returns the explorer.
    """
    explorer = GoodnessExplorer(positive_h, negative_h, kind, theta)
    plots.show(
        draw_goodness_split(explorer.split),
        alt="Histograms of goodness for positive and negative samples, with a vertical line at the "
        f"threshold. {explorer.split}",
        caption=f"Goodness as the {GOODNESS[kind][0]}. {explorer.split}",
    )
    explorer.picture.layout.display = "none"  # until something is moved: it is shown just above
    _display(explorer.box)
    return explorer


# ---------------------------------------------------------------- small parts

_STYLE = {"description_width": "90px"}


def _layout(**traits) -> ipywidgets.Layout:
    return ipywidgets.Layout(**traits)


def _dropdown(description: str, options: dict, value=None) -> ipywidgets.Dropdown:
    value = next(iter(options.values())) if value is None else value
    return ipywidgets.Dropdown(
        options=list(options.items()), value=value, description=description, style=_STYLE,
        layout=_layout(width="270px"),
    )  # fmt: skip


def _slider(description: str, low: int, high: int, value: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(
        min=low, max=high, value=value, description=description, style=_STYLE,
        layout=_layout(width="270px"),
    )  # fmt: skip


def _button(text: str, icon: str, tooltip: str, style: str = "") -> ipywidgets.Button:
    return ipywidgets.Button(description=text, icon=icon, tooltip=tooltip, button_style=style)


def _image(inches: float) -> ipywidgets.Image:
    """Hidden until it has a picture."""
    layout = _layout(display="none", width=f"{100 * inches:.0f}px", max_width="100%")
    return ipywidgets.Image(format="png", layout=layout)


def _small(text: str) -> str:
    return f'<span style="font-size:90%">{html.escape(text)}</span>'


def _display(box: ipywidgets.Widget) -> None:
    """In a notebook, an output of its own, so that a saved notebook can do without it."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display(box)
