"""Figures of the course in one style: Okabe–Ito colours, a marker or dash besides, alt text.

Every function returns a `matplotlib.figure.Figure`; `show` puts it into a notebook. None of them
touches pyplot, so they may be called from a background thread. The diagrams of the algorithms are
in `diagrams.py` and, like the style, can be had from here.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ..training.fit import Evaluation, History
from ..util.checks import explained
from ..util.stats import interval
from .style import (
    GREY,
    INK,
    OKABE_ITO,
    RULE_STYLE,
    WIDTH,
    block_colours,
    course_style,
    display_data,
    end_labels,
    figure_data,
    ink,
    new_figure,
    number_marks,
    rule_style,
    shortened,
    tint,
)

MARKERS = "os^DvP"  # of the blocks


# ---------------------------------------------------------------- small helpers


def _numpy(values):
    return torch.as_tensor(values).detach().cpu().numpy()


def _percent(fraction):
    return 100 * np.asarray(fraction, dtype=float)  # None becomes NaN


def _picture(pixels):
    """(C, H, W) or (H, W) in [0, 1] → what imshow takes."""
    pixels = _numpy(pixels)
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    elif pixels.ndim == 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    elif pixels.ndim != 2:
        raise ValueError(
            "pixels of an image must be (1, H, W), (3, H, W) or (H, W), not "
            f"{tuple(pixels.shape)}; give one image's."
        )
    if pixels.min() < -1e-3 or pixels.max() > 1 + 1e-3:
        raise ValueError(
            f"pixels run from {pixels.min():.2f} to {pixels.max():.2f}, not from 0 to 1: "
            "pass the images of `data.pixels()`, which undoes the standardisation."
        )
    return np.clip(pixels, 0, 1)


@explained()
def draw_picture(ax: Axes, pixels: ArrayLike) -> None:
    """Show one image, (C, H, W) or (H, W) in [0, 1], in given axes without ticks."""
    _imshow(ax, _picture(pixels))


def _imshow(ax, picture, **kwargs):
    if picture.ndim == 2:
        kwargs = {"cmap": "gray", "vmin": 0, "vmax": 1} | kwargs
    ax.imshow(picture, interpolation="nearest", **kwargs)
    _bare(ax)


def _bare(ax):
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


# ---------------------------------------------------------------- training


@explained()
@course_style()
def draw_history(
    histories: History | Sequence[History],
    *,
    names: Sequence[str] | None = None,
    epochs: int | None = None,
) -> Figure:
    """Draw loss and accuracy per epoch, of one history block by block or of several side by side.

    `histories`: one History or a list of them (`.rule`, `.rows`). `names`: what to call them
    (default: the rules). `epochs`: where the x axis ends, for a figure that grows during training.
    """
    runs = list(histories) if isinstance(histories, list | tuple) else [histories]
    if not runs or any(not run.rows for run in runs):
        raise ValueError("histories has a run without an epoch: train for at least one epoch.")
    fig, (left, right) = new_figure(
        WIDTH, 3.5, ncols=2, title=["Training loss", "Accuracy, %"], xlabel="epoch"
    )
    if len(runs) == 1:
        _one_history(left, right, runs[0])
    else:
        _many_histories(left, right, runs, names)
    last = max(max(run.rows[-1]["epoch"] for run in runs), epochs or 0)
    for ax in (left, right):
        ax.set_xlim(
            0.5 if last == 1 else 1 - 0.03 * last, last + (0.5 if last == 1 else 0.03 * last)
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    return fig


@explained()
class LiveHistory:
    """Training made visible: ``fit(..., on_epoch=LiveHistory())`` keeps one figure up to date.

    In a notebook the figure of ``draw_history`` appears after the first epoch and is redrawn in
    place, at most once in `every` seconds and always after the last epoch. Elsewhere nothing is
    shown, and fit's progress bar says what there is to say. Use a new one for each training.
    """

    def __init__(self, every: float = 1.0):
        self.every, self._handle, self._drawn = every, None, -math.inf

    def __call__(self, history: History) -> None:
        """Show the history so far."""
        epochs = history.settings["epochs"]
        over = len(history.rows) == epochs or history.stopped
        if not history.rows or (time.monotonic() - self._drawn < self.every and not over):
            return
        data = figure_data(
            draw_history(history, epochs=epochs),
            alt="Two curves that grow while the network trains: loss and accuracy per epoch, by "
            "block.",
            caption=describe_history(history),
        )
        if self._handle is None:
            self._handle = display_data(data, display_id=True)
        elif self._handle:
            self._handle.update(data, raw=True)
        self._drawn = time.monotonic()


@explained()
def describe_history(history: History) -> str:
    """The last epoch in words: loss and accuracy."""
    last = history.last
    losses = ", ".join(f"{loss:.3g}" for loss in last["train_loss"])
    blocks = "by block " if len(last["train_loss"]) > 1 else ""
    text = f"After epoch {last['epoch']} of {history.settings['epochs']}: loss {blocks}{losses}"
    if "valid_accuracy" in last:
        text += f"; {100 * last['valid_accuracy']:.1f} % of the validation images"
    return text + "."


def _one_history(left, right, run):
    epoch = [row["epoch"] for row in run.rows]
    loss = np.array([row["train_loss"] for row in run.rows], dtype=float)  # (epochs, blocks)
    train = _percent([row["train_accuracy"] for row in run.rows])
    blocks = loss.shape[1]
    unknown = [None] * blocks  # an interrupted epoch has no validation
    valid = _percent([row.get("valid_block_accuracy", unknown) for row in run.rows])
    validated = np.isfinite(valid).any()
    depth = valid if validated else train
    right.set_title("Validation accuracy, %" if validated else "Training accuracy, %")
    colours = block_colours(blocks)
    look = {"linestyle": "-", "markevery": max(1, len(epoch) // 8), "linewidth": 1.6}
    for ax, values in ((left, loss), (right, depth)):
        labels = []
        for k in range(blocks):
            marker = MARKERS[k] if blocks <= 6 else None
            ax.plot(epoch, values[:, k], color=colours[k], marker=marker, **look)
            if blocks <= 6 or k in (0, blocks - 1):
                name = "one block" if blocks == 1 else f"block {k + 1}"
                labels.append((*_last(epoch, values[:, k]), name, colours[k]))
        if ax is right and validated:
            if blocks > 1:
                vote = _percent([row.get("valid_accuracy") for row in run.rows])
                colour = OKABE_ITO["vermillion"]
                ax.plot(epoch, vote, color=colour, linestyle=(0, (4, 1.5)), linewidth=2.4)
                labels.append((*_last(epoch, vote), "vote", colour))
            ax.plot(epoch, train[:, -1], color=GREY, linestyle=(0, (1, 1.3)), linewidth=1.6)
            name = "in training" if blocks == 1 else f"block {blocks} in training"
            labels.append((*_last(epoch, train[:, -1]), name, GREY))
        end_labels(ax, labels)


def _last(x, y):
    """The last point that is a number (NaN where there is none)."""
    finite = np.flatnonzero(np.isfinite(y))
    return (x[finite[-1]], y[finite[-1]]) if len(finite) else (x[-1], np.nan)


def _many_histories(left, right, runs, names):
    names = [run.rule for run in runs] if names is None else list(names)
    if len(names) != len(runs):
        raise ValueError(
            f"names has {len(names)} entries for {len(runs)} histories: give one each."
        )
    validated = all("valid_accuracy" in run.rows[0] for run in runs)
    left.set_title("Training loss of the last block")
    right.set_title("Validation accuracy, %" if validated else "Training accuracy, last block, %")
    known, labels = list(dict.fromkeys(names)), {}
    for run, name in zip(runs, names):
        look = rule_style(name, known.index(name))
        epoch = [row["epoch"] for row in run.rows]
        loss = [row["train_loss"][-1] for row in run.rows]
        accuracy = [row.get("valid_accuracy") for row in run.rows]
        if not validated:
            accuracy = [row["train_accuracy"][-1] for row in run.rows]
        several = {"linewidth": 1.8 if names.count(name) == 1 else 1.0, "markersize": 4.5}
        several["markevery"] = max(1, len(epoch) // 8)
        left.plot(epoch, loss, **look.line, **several)
        right.plot(epoch, _percent(accuracy), **look.line, **several)
        labels[name] = (*_last(epoch, _percent(accuracy)), look.label, look.colour)
    end_labels(right, labels.values())


@explained()
@course_style()
def draw_block_accuracy(
    results: Evaluation | History | Mapping, *, chance: float | None = None
) -> Figure:
    """Draw accuracy by block depth, and the vote of all blocks as a dashed line.

    `results`: one Evaluation (`.accuracy`, `.block_accuracy`) or History (its last epoch counts),
    or a dict from a rule or any name to one of them or to a list of them (one per seed: the line
    is their mean, each seed is faint). `chance`: accuracy of guessing, drawn as a dotted line.
    """
    if not isinstance(results, dict):
        results = {getattr(results, "rule", "one network"): results}
    fig, ax = new_figure(7.5, 3.8, xlabel="block (1 is next to the image)", ylabel="accuracy, %")
    groups = {
        name: [_accuracies(one) for one in (group if isinstance(group, list | tuple) else [group])]
        for name, group in results.items()
    }
    deepest = max(len(blocks) for pairs in groups.values() for _, blocks in pairs)
    edge, labels = deepest + 0.3, []
    for i, (name, pairs) in enumerate(groups.items()):
        look = rule_style(name, i)
        runs = np.array([blocks for _, blocks in pairs])  # (seeds, blocks)
        depth, mean = range(1, runs.shape[1] + 1), runs.mean(0)
        prefix = f"{look.label}: " if len(groups) > 1 else ""
        if len(depth) == 1:  # nothing to vote on: a level for the others to meet
            ax.axhline(mean[0], color=look.colour, linestyle=look.dash, linewidth=1.4)
            labels.append((edge, mean[0], f"{prefix}{mean[0]:.1f}", look.colour))
            continue
        for run in runs if len(runs) > 1 else []:
            ax.plot(depth, run, color=look.colour, linestyle="-", alpha=0.25, linewidth=1)
        ax.plot(depth, mean, **look.line)
        vote = np.mean([vote for vote, _ in pairs])
        ax.axhline(vote, color=look.colour, linestyle=(0, (2, 1.5)), linewidth=1.4)
        labels.append((depth[-1], mean[-1], f"{prefix}last block {mean[-1]:.1f}", look.colour))
        labels.append((edge, vote, f"{prefix}vote {vote:.1f}", look.colour))
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, linestyle=(0, (1, 1.3)), linewidth=1.2)
        labels.append((edge, 100 * chance, f"guessing {100 * chance:.0f}", GREY))
    ax.set_xticks(range(1, deepest + 1, 1 if deepest <= 20 else 2))
    ax.set_xlim(0.7, edge)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    end_labels(ax, labels)
    return fig


def _accuracies(result):
    """Evaluation or History → (vote in %, accuracy of every block in %)."""
    if hasattr(result, "rows"):
        row = result.rows[-1]
        if row.get("valid_accuracy") is None:
            raise ValueError(
                "history has no validation accuracy: pass `valid` to fit, or an Evaluation."
            )
        return _percent(row["valid_accuracy"]), _percent(row["valid_block_accuracy"])
    return _percent(result.accuracy), _percent(result.block_accuracy)


@explained()
@course_style()
def draw_goodness(
    positive: ArrayLike,
    negative: ArrayLike,
    theta: float | None = None,
    *,
    title: str | None = None,
    names: tuple[str, str] = ("positive", "negative"),
    xlabel: str = "goodness g",
    ax: Axes | None = None,
) -> Figure:
    """Draw the distributions of two sets of goodness values, their medians, and the threshold θ.

    `positive`, `negative`: (B,) values each. With `theta` the share of each above it is written
    beside its median. `ax`: a panel to draw into instead of a new figure.
    """
    groups = [_numpy(values).ravel().astype(float) for values in (positive, negative)]
    for name, values in zip(("positive", "negative"), groups):
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"{name} must hold finite values; give at least one.")
    if ax is None:
        _, ax = new_figure(7.0, 3.6)
    both = np.concatenate(groups)
    low, high = both.min(), both.max()
    reach = low + 1.3 * (np.quantile(both, 0.995) - low)
    if high - low > 1.2 * (reach - low) > 0:  # a long thin tail would squash the rest
        high = reach
    bins = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
    counts = [np.histogram(values, bins)[0] / len(values) * 100 for values in groups]
    top = max(count.max() for count in counts)
    marks = []  # (where, text, colour, dash)
    for i, (name, values, count) in enumerate(zip(names, groups, counts)):
        colour, hatch = ((OKABE_ITO["blue"], None), (OKABE_ITO["orange"], "////"))[i]
        ax.stairs(count, bins, fill=True, color=tint(colour, 0.35), alpha=0.75, zorder=2 + i)
        outline = {"facecolor": "none", "edgecolor": ink(colour), "hatch": hatch, "linewidth": 1.6}
        ax.stairs(count, bins, fill=hatch is not None, zorder=4 + i, **outline)
        text = f"{name}: median {_number(np.median(values))}"
        if theta is not None:
            text += f", {100 * np.mean(values > theta):.0f} % above θ"
        marks.append((np.median(values), text, ink(colour), "-"))
    if theta is not None:
        marks.append((theta, f"threshold θ = {_number(theta)}", INK, (0, (4, 2))))
    _mark(ax, marks, top)
    ax.spines["bottom"].set_zorder(9)
    ax.set(xlabel=xlabel, ylabel="share, %")
    if title:
        ax.set_title(title)
    beyond = int((both > bins[-1]).sum())
    if beyond:
        ax.annotate(f"{beyond} more →", (1, 0.03), xycoords="axes fraction", ha="right", fontsize=9)
    return ax.figure


def _mark(ax, marks, top):
    """Vertical lines with a text each, as stairs above `top`, so that no line crosses a text."""
    inches = ax.get_position().width * ax.figure.get_figwidth()
    step = 0.14
    if inches < 4.5:
        marks = [(where, text.replace(", ", "\n"), *look) for where, text, *look in marks]
        step = 0.24
    low, high = ax.get_xlim()
    low = min(low, *(where for where, *_ in marks))  # a threshold may lie outside the data
    high = max(high, *(where for where, *_ in marks))
    leftward = np.mean([where for where, *_ in marks]) > (low + high) / 2
    marks = sorted(marks, key=lambda mark: mark[0], reverse=not leftward)
    ends = [low, high]
    for i, (where, text, colour, dash) in enumerate(marks):
        height = top * (1.1 + step * i)
        line = {"color": colour, "linestyle": dash, "linewidth": 1.5, "zorder": 7}
        ax.plot([where] * 2, [0, height + 0.06 * top], **line)
        side = {"ha": "right" if leftward else "left", "xytext": (-5 if leftward else 5, 0)}
        at = {"xy": (where, height), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, **at, **side, fontsize=9, color=colour, zorder=8)
        # Room for the text, at about 0.075 inch a letter.
        room = (high - low) * (0.1 + 0.075 * max(map(len, text.split("\n")))) / inches
        ends += [where - room if leftward else where + room]
    ax.set_xlim(min(ends), max(ends))
    ax.set_ylim(0, top * (1.2 + step * (len(marks) - 1)))


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# ---------------------------------------------------------------- comparing rules


def _by_rule_and_size(rows):
    """rows → (rules in the house order, sizes, {(rule, size): accuracies in %})."""
    rows = list(rows)
    if not rows:
        raise ValueError(
            "rows is empty: pass one dict per run with rule, images, seed and accuracy."
        )
    for key in ("rule", "images", "accuracy"):
        if any(key not in row for row in rows):
            raise ValueError(
                f"rows has an entry without {key!r}: each needs rule, images and accuracy."
            )
    names = list(dict.fromkeys(row["rule"] for row in rows))
    rules = _known_first(names)
    sizes = sorted({row["images"] for row in rows})
    groups = {}
    for row in rows:
        groups.setdefault((row["rule"], row["images"]), []).append(100 * row["accuracy"])
    return rules, sizes, groups


@explained()
@course_style()
def draw_compare(rows: Iterable[Mapping], *, measure: str = "test accuracy") -> Figure:
    """Draw mean and 95 % interval per rule, a panel per data size, every seed as a small mark.

    `rows`: dicts with rule, images, seed, accuracy (a fraction), such as the records of `study`.
    All panels span the same number of percentage points, so lengths can be compared across them,
    while each has its own range. Four sizes fit; for more see `draw_learning_curves`.
    """
    rules, sizes, groups = _by_rule_and_size(rows)
    fig, axes = new_figure(WIDTH, 1.35 + 0.5 * len(rules), ncols=len(sizes), sharey=True)
    axes = np.atleast_1d(axes)
    looks = [rule_style(rule, i) for i, rule in enumerate(rules)]
    reference = "bp" in rules and len(rules) > 1
    ranges = []
    for ax, size in zip(axes, sizes):
        ends = []
        for i, (rule, look) in enumerate(zip(rules, looks)):
            values = groups.get((rule, size), [])
            if not values:
                continue
            mean, low, high = interval(values)
            ends += [x for x in (*values, low, high) if np.isfinite(x)]
            bar = {"marker": look.marker, "markersize": 7, "capsize": 3, "elinewidth": 1.8}
            ax.errorbar(mean, i, xerr=high - mean, color=look.colour, **bar)
            if len(values) > 1:
                seed = {"marker": look.marker, "markersize": 3.5, "alpha": 0.4, "linestyle": "none"}
                ax.plot(values, [i + 0.24] * len(values), color=look.colour, **seed)
            if reference and rule == "bp":
                ax.axvline(mean, color=GREY, linestyle=(0, (1, 2)), linewidth=1)
            above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            text = ax.annotate(
                f"{mean:.1f}", (mean, i), fontsize=9, color=ink(look.colour), **above
            )
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        ranges.append((min(ends), max(ends)))
        _title_with_seeds(ax, size, {len(groups[rule, size]) for rule, n in groups if n == size})
    span = max(1.0, 1.25 * max(high - low for low, high in ranges))
    for ax, (low, high) in zip(axes, ranges):
        ax.set_xlim((low + high - span) / 2, (low + high + span) / 2)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5 if len(sizes) < 4 else 3))
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(rules)), [look.label for look in looks])
    axes[0].set_ylim(len(rules) - 0.5, -0.6)
    several = max(map(len, groups.values())) > 1
    key = "mean, 95 % interval; small: single seeds" if several else "one seed, so no interval"
    key += "; dotted: backprop's mean" if reference else ""
    fig.supxlabel(f"{measure}, %    ({key})", fontsize=10)
    fig.get_layout_engine().set(wspace=0.06)
    return fig


def _title_with_seeds(ax, size, seeds):
    count = " to ".join(f"{n}" for n in sorted({min(seeds), max(seeds)}))
    ax.set_title(f"{size:,} images", pad=18)
    below = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
    text = f"{count} seed{'s' if max(seeds) > 1 else ''}"
    ax.annotate(text, (0, 1), fontsize=9, color=GREY, **below)


@explained()
@course_style()
def draw_learning_curves(rows: Iterable[Mapping], *, measure: str = "test accuracy") -> Figure:
    """Draw accuracy against the number of training images (log scale), with intervals, per rule.

    `rows` as in `draw_compare`. The rules stand a little beside each other: none hides another.
    """
    rules, sizes, groups = _by_rule_and_size(rows)
    fig, ax = new_figure(8.0, 4.2, xlabel="training images", ylabel=f"{measure}, %")
    aside, labels = (sizes[-1] / sizes[0]) ** 0.014, []
    for i, rule in enumerate(rules):
        look = rule_style(rule, i)
        own = [size for size in sizes if (rule, size) in groups]
        x = np.array(own) * aside ** (i - (len(rules) - 1) / 2)
        means, _, highs = np.array([interval(groups[rule, size]) for size in own]).T
        ax.errorbar(x, means, yerr=highs - means, capsize=3, elinewidth=1.4, **look.line)
        for size, where in zip(own, x):
            values = groups[rule, size]
            ax.plot([where] * len(values), values, color=look.colour, alpha=0.3, linestyle="none",
                    marker=look.marker, markersize=3)  # fmt: skip
        labels.append((x[-1], means[-1], look.label, look.colour))
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    end_labels(ax, labels)
    return fig


def _known_first(names):
    """The known rules among the names in their usual order, then the others as they come."""
    return [n for n in RULE_STYLE if n in names] + [n for n in names if n not in RULE_STYLE]


@explained()
@course_style()
def draw_by_blocks(rows: Iterable[Mapping], *, measure: str = "test accuracy") -> Figure:
    """Draw accuracy against the number of blocks, with 95 % intervals, per rule.

    `rows`: dicts with rule, accuracy (a fraction) and block_accuracy (its length is the number of
    blocks), such as the records of `study` for one network. Rules with a single block, such as bp,
    get a band across the figure: their mean and interval, to compare every other point with.
    """
    groups = {}
    for row in rows:
        key = row["rule"], len(row["block_accuracy"])
        groups.setdefault(key, []).append(100 * row["accuracy"])
    if not groups:
        raise ValueError("rows is empty: pass the records of at least one run.")
    names = dict.fromkeys(name for name, _ in groups)
    rules = _known_first(names)
    most = max(blocks for _, blocks in groups)
    fig, ax = new_figure(8.0, 4.2, xlabel="number of blocks", ylabel=f"{measure}, %")
    labels = []
    for i, rule in enumerate(rules):
        look = rule_style(rule, i)
        counts = sorted(blocks for name, blocks in groups if name == rule)
        means, lows, highs = np.array([interval(groups[rule, n]) for n in counts]).T
        if counts == [1]:
            ax.axhspan(lows[0], highs[0], color=look.colour, alpha=0.1, linewidth=0)
            ax.plot([1, most], means[[0, 0]], **look.line)
        else:
            where = np.array(counts) * 1.012 ** (i - 1.5)
            ax.errorbar(where, means, yerr=highs - means, capsize=3, elinewidth=1.4, **look.line)
        labels.append((most, means[-1], look.label, look.colour))
    ax.set_xscale("log")
    ticks = sorted({blocks for _, blocks in groups})
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    end_labels(ax, labels)
    return fig


@explained()
@course_style()
def draw_frontier(points: Sequence[Mapping]) -> Figure:
    """Draw accuracy against memory and against FLOPs, one mark per way to run a step.

    `points`: dicts with `row` (its first word is the rule), `measured_as` (the row whose accuracy
    it has), `minus_bp` (mean and both ends of the 95 % interval, as fractions; None for backprop
    itself), `saved_ratio` and `flops_ratio` over backprop's. A number stands for a row; its open
    mark computes parts again. The line joins what nothing beats on both axes: further left is
    cheaper, further up more accurate.
    """
    points = [one for one in points if one["measured_as"]]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(p["measured_as"] for p in points), 1)}
    fig, (memory, flops, names) = new_figure(
        WIDTH, 0.21 * max(len(numbers), 14) + 1.2, ncols=3, width_ratios=[1, 1, 0.8],
        title=["Memory", "Computation", ""],
        xlabel=["saved bytes ÷ backprop's", "FLOPs ÷ backprop's", ""],
        ylabel=["accuracy minus bp, points", "", ""],
    )  # fmt: skip
    names.set_axis_off()
    for name, number in numbers.items():
        names.text(0, 1 - (number - 0.5) / len(numbers), f"{number}  {name}", fontsize=9,
                   va="center", transform=names.transAxes,
                   color=ink(_frontier_style(name).colour))  # fmt: skip
    for ax, ratio in ((memory, "saved_ratio"), (flops, "flops_ratio")):
        places = []
        for one in points:
            mean, low, high = (100 * (v or 0.0) for v in one["minus_bp"])
            look = _frontier_style(one["row"])
            fill = look.colour if one["row"] == one["measured_as"] else "white"
            ax.errorbar(one[ratio], mean, yerr=[[mean - low], [high - mean]], color=look.colour,
                        marker=look.marker, markerfacecolor=fill, markersize=7,
                        elinewidth=0.7)  # fmt: skip
            places.append((one[ratio], mean))
        best = sorted(at for at in places if not any(_beats(other, at) for other in places))
        ax.plot(*zip(*best, strict=True), color=GREY, linestyle="-", linewidth=1, zorder=0)
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        written = [f"{numbers[one['measured_as']]}" for one in points]
        number_marks(ax, [(*at, text, INK) for at, text in zip(places, written)])
    return fig


def _frontier_style(row):
    return rule_style(row.split(",")[0].split(" ")[0])


def _beats(a, b):
    """Whether (cost, accuracy) `a` is as good as `b` in both and better in one."""
    return a != b and a[0] <= b[0] and a[1] >= b[1]


# ---------------------------------------------------------------- images


@explained()
@course_style()
def draw_images(
    pixels: ArrayLike,
    titles: Sequence[str] | None = None,
    *,
    ncols: int = 8,
    width: float = WIDTH,
) -> Figure:
    """Draw a grid of images: `pixels` (N, C, H, W) or (N, H, W) in [0, 1], `titles` one each."""
    pictures = [_picture(image) for image in pixels]
    if not pictures:
        raise ValueError("pixels holds no image: pass at least one.")
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(
            f"titles has {len(titles)} entries for {len(pictures)} images: give one each."
        )
    ncols = min(ncols, len(pictures))
    nrows = -(-len(pictures) // ncols)
    lines = 0 if titles is None else 1 + max(str(title).count("\n") for title in titles)
    cell = min(width / ncols, 1.6)
    aspect = pictures[0].shape[0] / pictures[0].shape[1]
    fig, axes = new_figure(cell * ncols, nrows * (cell * aspect + 0.2 * lines), nrows, ncols)
    for i, ax in enumerate(np.atleast_1d(axes).flat):
        _bare(ax)
        if i < len(pictures):
            _imshow(ax, pictures[i])
            if titles is not None:
                ax.set_title(str(titles[i]), fontsize=9, fontweight="normal", loc="center", pad=3)
    return fig


@explained()
@course_style()
def draw_class_goodness(
    g: ArrayLike,
    classes: Sequence[str],
    y: int | None = None,
    *,
    image: ArrayLike | None = None,
    top: int = 10,
) -> Figure:
    """Draw the goodness of every class for one image, a panel per block and one for their mean.

    `g`: (blocks, K), from `model.block_goodness(x)[0]`. `classes`: K names. `y`: the true class,
    hatched and named; None if nobody knows it. `image`: its pixels, drawn first. Of more than `top`
    classes the best of the mean (and the true one) are shown, of more than five blocks five.
    """
    g = _numpy(g).astype(float)
    if g.ndim != 2 or g.shape[1] != len(classes):
        raise ValueError(
            f"g must be (blocks, {len(classes)}) for {len(classes)} classes, not {tuple(g.shape)}; "
            "give model.block_goodness(x)[0]."
        )
    vote = g.mean(0)
    rows = np.arange(len(vote))
    if len(rows) > top:
        rows = np.argsort(-vote)[:top]
        if y is not None and y not in rows:
            rows = np.append(rows[:-1], y)
    picked = np.unique(np.linspace(0, len(g) - 1, min(len(g), 5)).round().astype(int))
    panels = [(f"block {k + 1}", g[k]) for k in picked] + (
        [("vote (mean)", vote)] if len(g) > 1 else []
    )
    first = 0 if image is None else 1
    ratios = [0.9] * first + [1] * len(panels)
    height = 1.1 + 0.21 * len(rows)
    width = min(WIDTH, 1.6 + 1.55 * (len(panels) + first))
    letters = int((width - 1.5) / len(ratios) / 0.1) - 2  # what a title has room for
    fig, axes = new_figure(width, max(height, 2.4), ncols=len(ratios), width_ratios=ratios)
    axes = np.atleast_1d(axes)
    if image is not None:
        _imshow(axes[0], _picture(image))
        axes[0].set_title("image", fontsize=10, loc="center")
    for ax, (name, values) in zip(axes[first:], panels):
        best = int(values.argmax())
        for i, k in enumerate(rows):
            strong = k == best
            ax.barh(
                i,
                values[k],
                height=0.74,
                facecolor=tint(OKABE_ITO["blue"], 0.85 if strong else 0.25),
                edgecolor=INK if k == y else "none",
                hatch="////" if k == y else None,
                linewidth=1.2 if k == y else 0,
            )
        mark = "" if y is None else (" ✓" if best == y else " ✗")
        ax.set_title(f"{name}\n{shortened(classes[best], letters)}{mark}", fontsize=10)
        ax.set_yticks(range(len(rows)), [])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlim(0, max(1e-9, 1.05 * values.max()))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    names = [f"true: {shortened(classes[k])}" if k == y else shortened(classes[k]) for k in rows]
    axes[first].set_yticks(range(len(rows)), names)
    for label, k in zip(axes[first].get_yticklabels(), rows):
        label.set_fontweight("bold" if k == y else "normal")
    fig.supxlabel("goodness g (each panel has its own scale)", fontsize=10)
    return fig


@explained()
@course_style()
def draw_goodness_maps(
    image: ArrayLike,
    maps: Sequence[ArrayLike] | Mapping[str, Sequence[ArrayLike]],
    *,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draw an image and where each block finds evidence: the maps z², blown up to its size.

    `image`: (C, H, W) pixels in [0, 1]. `maps`: a list of (h, w) arrays, one per block, or a dict
    from a row's name (a class) to such a list. `titles`: one per block. The number under a map is
    its mean, which *is* the goodness of that class (with one filter per class). Maps above each
    other share one colour scale that begins at 0.
    """
    picture = _picture(image)
    maps = maps if isinstance(maps, dict) else {"": maps}
    rows = {name: [_numpy(one).astype(float) for one in group] for name, group in maps.items()}
    blocks = len(next(iter(rows.values())))
    if any(len(group) != blocks for group in rows.values()) or not blocks:
        raise ValueError("maps must hold as many blocks in every row; give at least one.")
    titles = [f"block {k + 1}" for k in range(blocks)] if titles is None else titles
    cell = min(1.7, (WIDTH - 0.4) / (blocks + 1))
    size = (cell * (blocks + 1) + 0.4, (cell + 0.1) * len(rows) + 0.5)
    fig, axes = new_figure(*size, len(rows), blocks + 1)
    axes = np.array(axes).reshape(len(rows), blocks + 1)
    height, width = picture.shape[:2]
    limits = [max(group[k].max() for group in rows.values()) or 1.0 for k in range(blocks)]
    for i, (name, group) in enumerate(rows.items()):
        _imshow(axes[i, 0], picture)
        axes[i, 0].set_ylabel(name, fontsize=10, fontweight="bold")
        for k, one in enumerate(group):
            ax = axes[i, k + 1]
            ax.imshow(one, cmap="cividis", vmin=0, vmax=limits[k], interpolation="nearest",
                      extent=(-0.5, width - 0.5, height - 0.5, -0.5))  # fmt: skip
            _bare(ax)
            ax.set_xlabel(f"mean {one.mean():.3g}", fontsize=9, labelpad=2)
            if i == 0:
                ax.set_title(titles[k], fontsize=10, loc="center")
    axes[0, 0].set_title("image", fontsize=10, loc="center")
    return fig
