"""Charts of trainings, comparisons of rules, goodness and images, each with an alt text."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ..training import Evaluation, History
from ..training.history import summary_of
from ..util.checks import SFFError
from ..util.stats import interval
from .style import (
    BLOCK_MARKERS,
    GREY,
    INK,
    LABEL_SIZE,
    NEGATIVE,
    POSITIVE,
    RULE_STYLE,
    WIDTH,
    block_colours,
    course_style,
    end_labels,
    in_words,
    ink,
    new_figure,
    number_marks,
    rule_style,
    shortened,
    tint,
    with_alt,
)

# ---------------------------------------------------------------- training


@course_style()
def draw_history(history: History, *, epochs: int | None = None) -> Figure:
    """Draw loss and accuracy per epoch, block by block.

    Args:
        history: of a training.
        epochs: their total number, which fixes the axes of a figure during training.
    """
    rows = history.rows
    epoch = [row["epoch"] for row in rows]
    blocks = len(rows[0]["train_loss"])
    validated = any("valid_accuracy" in row for row in rows)
    title = ["Training loss", f"{'Validation' if validated else 'Training'} accuracy, %"]
    fig, (left, right) = new_figure(WIDTH, 3.5, ncols=2, title=title, xlabel="epoch")
    for ax in (left, right):
        epoch_axis(ax, max(epoch[-1], epochs or 0))
    if epochs:
        left.set_ylim(0, 1.05 * np.max([row["train_loss"] for row in rows]))
        right.set_ylim(0, 100)
    end_labels(left, block_lines(left, history, "train_loss"))
    figure = "valid_block_accuracy" if validated else "train_accuracy"
    labels = block_lines(right, history, figure, 100)
    if validated:
        if blocks > 1:
            vote = _percent([row.get("valid_accuracy") for row in rows])
            colour = rule_style("vote").colour
            right.plot(epoch, vote, color=colour, linestyle=(0, (4, 1.5)), linewidth=2.4)
            labels.append((*_last(epoch, vote), "vote", colour))
        if not history.rule.startswith("ff"):  # its share of correct pairs is no accuracy
            train = _percent([row["train_accuracy"][-1] for row in rows])
            right.plot(epoch, train, color=GREY, linestyle=(0, (1, 1.3)), linewidth=1.6)
            name = "in training" if blocks == 1 else f"block {blocks} in training"
            labels.append((*_last(epoch, train), name, GREY))
    end_labels(right, labels)
    return with_alt(fig, f"Loss and accuracy per epoch. {describe_history(history)}")


def describe_history(history: History) -> str:
    """Loss and accuracy of the last epoch, as text."""
    last = history.rows[-1]
    return f"After epoch {last['epoch']}: {summary_of(last)}."


def epoch_axis(ax: Axes, last: int) -> None:
    """Set the x axis to the epochs from 1 to the last.

    Args:
        ax: a panel.
        last: the number of epochs.
    """
    margin = 0.5 if last == 1 else 0.03 * last
    ax.set_xlim(1 - margin, last + margin)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))


def block_lines(ax: Axes, history: History, name: str, unit: float = 1) -> list[tuple]:
    """Draw a measurement of every block over the epochs; return the labels of the lines.

    Args:
        ax: a panel.
        history: of a training.
        name: of the measurement; an epoch that was cut short may lack it.
        unit: a factor.
    """
    epoch = [row["epoch"] for row in history.rows]
    blocks = len(history.rows[0]["train_loss"])
    unknown = [None] * blocks
    values = unit * np.array([row.get(name, unknown) for row in history.rows], dtype=float)
    labels = []
    for k, colour in enumerate(block_colours(blocks, history.rule)):
        ax.plot(epoch, values[:, k], color=colour, linestyle="-", linewidth=1.6,
                marker=BLOCK_MARKERS[k] if blocks <= len(BLOCK_MARKERS) else None,
                markevery=max(1, len(epoch) // 8))  # fmt: skip
        if blocks <= len(BLOCK_MARKERS) or k in (0, blocks - 1):
            name = "one block" if blocks == 1 else f"block {k + 1}"
            labels.append((*_last(epoch, values[:, k]), name, colour))
    return labels


def _last(x: Sequence, y: Sequence) -> tuple:
    """The last point that is a number (NaN where there is none)."""
    finite = np.flatnonzero(np.isfinite(y))
    return (x[finite[-1]], y[finite[-1]]) if len(finite) else (x[-1], np.nan)


@course_style()
def draw_block_accuracy(
    results: Mapping[str, Evaluation | Sequence[Evaluation]], *, chance: float | None = None
) -> Figure:
    """Draw accuracy by block, and the vote of all blocks as a dashed line.

    Args:
        results: an Evaluation by rule or any other name; or a list of them, one per seed.
        chance: accuracy of guessing, in [0, 1], for a dotted line.
    """
    fig, ax = new_figure(7.5, 3.8, xlabel="block (1 is next to the image)", ylabel="accuracy, %")
    groups = {
        name: result if isinstance(result, list | tuple) else [result]
        for name, result in results.items()
    }
    deepest = max(len(result.block_accuracy) for group in groups.values() for result in group)
    edge, labels, words = deepest + 0.3, [], []
    for i, (name, group) in enumerate(groups.items()):
        look = rule_style(name, i)
        runs = _percent([result.block_accuracy for result in group])  # (seeds, blocks)
        depth, mean = range(1, runs.shape[1] + 1), runs.mean(0)
        prefix = f"{look.label}: " if len(groups) > 1 else ""
        if len(depth) == 1:  # no vote
            ax.axhline(mean[0], color=look.colour, linestyle=look.dash, linewidth=1.4)
            labels.append((edge, mean[0], f"{prefix}{mean[0]:.1f}", look.colour))
            words.append(f"{look.label} {mean[0]:.1f}")
            continue
        for run in runs if len(runs) > 1 else []:
            ax.plot(depth, run, color=look.colour, linestyle="-", alpha=0.25, linewidth=1)
        ax.plot(depth, mean, **look.line)
        vote = _percent([result.accuracy for result in group]).mean()
        ax.axhline(vote, color=look.colour, linestyle=(0, (2, 1.5)), linewidth=1.4)
        labels.append((depth[-1], mean[-1], f"{prefix}last block {mean[-1]:.1f}", look.colour))
        labels.append((edge, vote, f"{prefix}vote {vote:.1f}", look.colour))
        by_block = ", ".join(f"{value:.1f}" for value in mean)
        words.append(f"{look.label} {by_block}; vote {vote:.1f}")
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, linestyle=(0, (1, 1.3)), linewidth=1.2)
        labels.append((edge, 100 * chance, f"guessing {100 * chance:.0f}", GREY))
    ax.set_xticks(range(1, deepest + 1, 1 if deepest <= 20 else 2))
    ax.set_xlim(0.7, edge)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    end_labels(ax, labels)
    return with_alt(fig, f"Accuracy by block from the first to the last, %: {'. '.join(words)}.")


# ---------------------------------------------------------------- distributions of goodness


@course_style()
def draw_goodness(
    positive: ArrayLike,
    negative: ArrayLike,
    theta: float | None = None,
    *,
    xlabel: str = "goodness g",
    ax: Axes | None = None,
) -> Figure:
    """Draw the distributions of two sets of goodness values, their medians, and the threshold θ.

    Args:
        positive: (B,) values.
        negative: (B,) values.
        theta: the threshold; the share of each set above it is then written beside its median.
        xlabel: of the panel.
        ax: a panel to draw into, instead of a new figure.
    """
    if ax is None:
        _, ax = new_figure(7.0, 3.6)
    groups = [_numpy(values).ravel().astype(float) for values in (positive, negative)]
    both = np.concatenate(groups)
    bins = _bins(both)
    counts = [np.histogram(values, bins)[0] / len(values) * 100 for values in groups]
    looks = (("positive", POSITIVE, None), ("negative", NEGATIVE, "////"))
    marks = []  # (where, text, colour, dash)
    for i, (values, count, (name, colour, hatch)) in enumerate(zip(groups, counts, looks)):
        ax.stairs(count, bins, fill=True, color=tint(colour, 0.35), alpha=0.75, zorder=2 + i)
        outline = {"facecolor": "none", "edgecolor": ink(colour), "hatch": hatch, "linewidth": 1.6}
        ax.stairs(count, bins, fill=hatch is not None, zorder=4 + i, **outline)
        text = f"{name}: median {_number(np.median(values))}"
        if theta is not None:
            text += f", {100 * np.mean(values > theta):.0f} % above θ"
        marks.append((np.median(values), text, ink(colour), "-"))
    if theta is not None:
        marks.append((theta, f"threshold θ = {_number(theta)}", INK, (0, (4, 2))))
    _mark(ax, marks, max(count.max() for count in counts))
    ax.spines["bottom"].set_zorder(9)
    ax.set(xlabel=xlabel, ylabel="share, %")
    beyond = int((both > bins[-1]).sum())
    if beyond:
        ax.annotate(f"{beyond} more →", (1, 0.03), xycoords="axes fraction", ha="right", fontsize=9)
    words = f"Distributions of goodness. {'; '.join(text for _, text, *_ in marks)}."
    before = getattr(ax.figure, "alt", "")
    return with_alt(ax.figure, f"{before} {words}".strip())


def _bins(values: np.ndarray) -> np.ndarray:
    """Edges of forty bins, without a long tail that would compress the others."""
    low, high = values.min(), values.max()
    reach = low + 1.3 * (np.quantile(values, 0.995) - low)
    if high - low > 1.2 * (reach - low) > 0:
        high = reach
    return np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)


def _mark(ax: Axes, marks: list[tuple], top: float) -> None:
    """Vertical lines with texts at rising heights above `top`, so that no line crosses a text."""
    inches = ax.get_position().width * ax.figure.get_figwidth()
    step = 0.14
    if inches < 4.5:
        marks = [(where, text.replace(", ", "\n"), *look) for where, text, *look in marks]
        step = 0.24
    low, high = ax.get_xlim()
    low = min(low, *(where for where, *_ in marks))  # a threshold may lie outside the data
    high = max(high, *(where for where, *_ in marks))
    # Room for the text, at about 0.075 inch a letter.
    letters = max(len(line) for _, text, *_ in marks for line in text.split("\n"))
    room = (high - low) * (0.1 + 0.075 * letters) / inches
    first = min(where for where, *_ in marks)
    leftward = np.mean([where for where, *_ in marks]) > (low + high) / 2
    leftward = leftward and (low < 0 or first >= room)  # goodness is not negative: no axis below 0
    marks = sorted(marks, key=lambda mark: mark[0], reverse=not leftward)
    ends = [low, high]
    for i, (where, text, colour, dash) in enumerate(marks):
        height = top * (1.1 + step * i)
        line = {"color": colour, "linestyle": dash, "linewidth": 1.5, "zorder": 7}
        ax.plot([where] * 2, [0, height + 0.06 * top], **line)
        side = {"ha": "right" if leftward else "left", "xytext": (-5 if leftward else 5, 0)}
        at = {"xy": (where, height), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, **at, **side, fontsize=LABEL_SIZE, color=colour, zorder=8)
        ends += [where - room if leftward else where + room]
    ax.set_xlim(min(ends), max(ends))
    ax.set_ylim(0, top * (1.2 + step * (len(marks) - 1)))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# ---------------------------------------------------------------- comparing rules


@course_style()
def draw_compare(rows: Iterable[Mapping]) -> Figure:
    """Draw mean and 95 % interval per rule, a panel per data size, every seed as a small mark.

    Args:
        rows: one dict per run with ``rule``, ``images`` and ``accuracy`` (in [0, 1]), such as the
            records of ``study``. Four sizes fit.
    """
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault((row["rule"], row["images"]), []).append(100 * row["accuracy"])
    rules = _known_first(rule for rule, _ in groups)
    sizes = sorted({size for _, size in groups})
    looks = [rule_style(rule, i) for i, rule in enumerate(rules)]
    fig, axes = new_figure(WIDTH, 1.35 + 0.5 * len(rules), ncols=len(sizes), sharey=True)
    axes = np.atleast_1d(axes)
    ranges, words = [], []
    for ax, size in zip(axes, sizes):
        values = [groups.get((rule, size), []) for rule in rules]
        ranges.append(_compare_panel(ax, looks, values))
        if "bp" in rules and len(rules) > 1 and ("bp", size) in groups:
            middle = interval(groups["bp", size])[0]
            ax.axvline(middle, color=GREY, linestyle=(0, (1, 2)), linewidth=1)
        seeds = " to ".join(map(str, sorted({len(v) for v in values if v})))
        ax.set_title(f"{size:,} images\n{seeds} seed{'s' if seeds != '1' else ''}")
        means = ", ".join(f"{look.label} {np.mean(v):.1f}" for look, v in zip(looks, values) if v)
        words.append(f"{size:,} images: {means}")
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
    key += "; dotted: backprop's mean" if "bp" in rules and len(rules) > 1 else ""
    fig.supxlabel(f"test accuracy, %    ({key})", fontsize=10)
    fig.get_layout_engine().set(wspace=0.06)
    return with_alt(fig, f"Mean test accuracy in %. {'. '.join(words)}.")


def _known_first(names: Iterable[str]) -> list[str]:
    """The known rules in their usual order, then the other names."""
    names = list(dict.fromkeys(names))
    return [n for n in RULE_STYLE if n in names] + [n for n in names if n not in RULE_STYLE]


def _compare_panel(ax: Axes, looks: list, values: list[list[float]]) -> tuple[float, float]:
    """Mean, interval and seeds of every rule at one data size; return the lowest and highest."""
    ends: list[float] = []
    for i, (look, seeds) in enumerate(zip(looks, values)):
        if not seeds:
            continue
        mean, low, high = interval(seeds)
        ends += [x for x in (*seeds, low, high) if np.isfinite(x)]
        ax.errorbar(mean, i, xerr=high - mean, color=look.colour, marker=look.marker, markersize=7,
                    capsize=3, elinewidth=1.8)  # fmt: skip
        if len(seeds) > 1:
            ax.plot(seeds, [i + 0.24] * len(seeds), color=look.colour, marker=look.marker,
                    markersize=3.5, alpha=0.4, linestyle="none")  # fmt: skip
        text = ax.annotate(f"{mean:.1f}", (mean, i), xytext=(0, 7), textcoords="offset points",
                           ha="center", fontsize=LABEL_SIZE, color=ink(look.colour))  # fmt: skip
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    return min(ends), max(ends)


@course_style()
def draw_by_blocks(rows: Iterable[Mapping]) -> Figure:
    """Draw accuracy against the number of blocks, with 95 % intervals, per rule.

    Rules with a single block get a band across the figure, or a text at its lower edge.

    Args:
        rows: one dict per run with ``rule``, ``accuracy`` (in [0, 1]) and ``block_accuracy``, such
            as the records of ``study`` for one network.
    """
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        blocks = len(row["block_accuracy"])
        groups.setdefault((row["rule"], blocks), []).append(100 * row["accuracy"])
    counts = sorted({blocks for _, blocks in groups})
    fig, ax = new_figure(8.0, 4.2, xlabel="number of blocks", ylabel="test accuracy, %")
    measured = {group: interval(values) for group, values in groups.items()}
    several = [m for (_, blocks), m in measured.items() if blocks > 1] or list(measured.values())
    floor = 2 * min(low for _, low, _ in several) - max(high for *_, high in several)
    labels, words = [], []
    for i, rule in enumerate(_known_first(name for name, _ in groups)):
        look = rule_style(rule, i)
        own = [blocks for blocks in counts if (rule, blocks) in groups]
        means, lows, highs = np.array([measured[rule, n] for n in own]).T
        words.append(f"{look.label}: " + ", ".join(f"{m:.1f} in {n}" for m, n in zip(means, own)))
        if own == [1] and highs[0] < floor:
            ax.margins(y=0.15)  # room for the text
            text = f"↓ {look.label}: {means[0]:.1f} ({lows[0]:.1f} … {highs[0]:.1f})"
            ax.annotate(text, (0.02, 0.03), xycoords="axes fraction", fontsize=LABEL_SIZE,
                        color=ink(look.colour))  # fmt: skip
            continue
        if own == [1]:
            ax.axhspan(lows[0], highs[0], color=look.colour, alpha=0.1, linewidth=0)
            ax.axhline(means[0], **look.line | {"marker": ""})
            ax.plot(1, means[0], **look.line)
        else:
            aside = np.array(own) * 1.012 ** (i - 1.5)  # so that no rule hides another
            ax.errorbar(aside, means, yerr=highs - means, capsize=3, elinewidth=1.4, **look.line)
        labels.append((counts[-1], means[-1], look.label, look.colour))
    ax.set_xscale("log")
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    end_labels(ax, labels)
    return with_alt(fig, f"Mean test accuracy in % by number of blocks. {'; '.join(words)}.")


@course_style()
def draw_differences(
    effects: Mapping[str, Sequence[float]],
    *,
    base: str = "bp",
    rules: Sequence[str] = (),
    margin: float | None = None,
) -> Figure:
    """Draw differences with their 95 % intervals, one row each, in the colour of the row's rule.

    Args:
        effects: name of a row → mean, lower and upper end, in points. Names of rules in it, and in
            ``base``, are written out.
        base: what all of them are differences to.
        rules: the rule of each row; by default the first word of its name.
        margin: of non-inferiority, in points; None draws no line.
    """
    looks = [rule_style(rule) for rule in rules or [re.split("[ ,]", row)[0] for row in effects]]
    effects = {in_words(row): effect for row, effect in effects.items()}
    title = f"points more than {in_words(base)}"
    fig, ax = new_figure(WIDTH, 0.4 * len(effects) + 1, xlabel=title)
    for i, ((mean, low, high), look) in enumerate(zip(effects.values(), looks, strict=True)):
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], capsize=4,
                    **look.line | {"linestyle": "none"})  # fmt: skip
        ax.text(1.02, i, f"{mean:+.1f} ({low:+.1f} … {high:+.1f})", va="center",
                fontsize=LABEL_SIZE, transform=ax.get_yaxis_transform())  # fmt: skip
    ax.axvline(0, color=GREY, linestyle=":")
    if margin is not None:
        ax.axvline(-margin, color=GREY, linestyle="--")
    ax.set_yticks(range(len(effects)), list(effects))
    ax.set_ylim(len(effects) - 0.5, -0.5)
    words = (
        f"{row}: {m:+.1f} ({low:+.1f} to {high:+.1f})" for row, (m, low, high) in effects.items()
    )
    return with_alt(fig, f"P{title[1:]}, with 95 % intervals. {'; '.join(words)}.")


@course_style()
def draw_frontier(points: Sequence[Mapping]) -> Figure:
    """Draw accuracy against memory and against FLOPs, one mark per way to run a step.

    A number refers to a row; open marks recompute parts. The line joins the Pareto-optimal points.

    Args:
        points: dicts with ``row`` (whose first word is the rule), ``measured_as`` (the row whose
            accuracy it has), ``minus_bp`` (mean and 95 % interval, as fractions; None for backprop
            itself), ``saved_ratio`` and ``flops_ratio`` over backprop's.
    """
    points = [point for point in points if point["measured_as"]]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(p["measured_as"] for p in points), 1)}
    fig, (memory, flops, names) = new_figure(
        WIDTH, 0.21 * max(len(numbers), 14) + 1.2, ncols=3, width_ratios=[1, 1, 1.05],
        title=["Memory", "Computation", ""],
        xlabel=["saved bytes ÷ backprop's", "FLOPs ÷ backprop's", ""],
        ylabel=["accuracy minus backprop's, points", "", ""],
    )  # fmt: skip
    names.set_axis_off()
    for name, number in numbers.items():
        names.text(0, 1 - (number - 0.5) / len(numbers), f"{number}  {in_words(name)}",
                   fontsize=LABEL_SIZE, va="center", transform=names.transAxes,
                   color=ink(_frontier_style(name).colour))  # fmt: skip
    for ax, ratio in ((memory, "saved_ratio"), (flops, "flops_ratio")):
        places = []
        for point in points:
            mean, low, high = (100 * (v or 0.0) for v in point["minus_bp"])
            look = _frontier_style(point["row"])
            fill = look.colour if point["row"] == point["measured_as"] else "white"
            ax.errorbar(point[ratio], mean, yerr=[[mean - low], [high - mean]], color=look.colour,
                        marker=look.marker, markerfacecolor=fill, markersize=7,
                        elinewidth=0.7)  # fmt: skip
            places.append((point[ratio], mean, f"{numbers[point['measured_as']]}", INK))
        ends = [place[:2] for place in places]
        best = sorted(end for end in ends if not any(_dominates(other, end) for other in ends))
        ax.plot(*zip(*best, strict=True), color=GREY, linestyle="-", linewidth=1, zorder=0)
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        number_marks(ax, places)
    words = (
        f"{in_words(p['row'])}: {100 * (p['minus_bp'][0] or 0):+.1f} points, "
        f"{p['saved_ratio']:.2f} of the bytes, {p['flops_ratio']:.2f} of the FLOPs"
        for p in points
    )
    return with_alt(fig, f"Accuracy minus backprop's, by memory and by FLOPs. {'; '.join(words)}.")


def _frontier_style(row: str):
    return rule_style(row.split(",")[0].split(" ")[0])


def _dominates(a: tuple, b: tuple) -> bool:
    """Whether (cost, accuracy) `a` dominates `b`."""
    return a != b and a[0] <= b[0] and a[1] >= b[1]


# ---------------------------------------------------------------- images


@course_style()
def draw_images(
    pixels: ArrayLike, titles: Sequence[str] | None = None, *, ncols: int = 8, width: float = WIDTH
) -> Figure:
    """Draw a grid of images.

    Args:
        pixels: (N, C, H, W) or (N, H, W) in [0, 1].
        titles: a text for each image.
        ncols: images in a row.
        width: of the figure, in inches; images are at most 1.6 inches wide.
    """
    ncols = min(ncols, len(pixels))
    nrows = -(-len(pixels) // ncols)
    lines = 0 if titles is None else 1 + max(str(title).count("\n") for title in titles)
    cell = min(width / ncols, 1.6)
    aspect = pixels[0].shape[-2] / pixels[0].shape[-1]
    fig, axes = new_figure(cell * ncols, nrows * (cell * aspect + 0.2 * lines), nrows, ncols)
    axes = np.atleast_1d(axes).ravel()
    for ax in axes:
        _bare(ax)
    for ax, image in zip(axes, pixels):
        draw_picture(ax, image)
    for ax, title in zip(axes, titles or ()):
        ax.set_title(str(title), fontsize=9, fontweight="normal", loc="center", pad=3)
    words = ", ".join(" ".join(str(title).split()) for title in titles or ())
    return with_alt(fig, f"{len(pixels)} images{': ' + words if words else ''}.")


@course_style()
def draw_class_goodness(
    g: ArrayLike, classes: Sequence[str], y: int, *, image: ArrayLike
) -> Figure:
    """Draw the goodness of every class for one image, a panel per block and one for their mean.

    At most five blocks are drawn, and ten classes.

    Args:
        g: (blocks, K), from ``model.block_goodness(x)[0]``.
        classes: K names.
        y: the true class, which is hatched and named.
        image: its pixels, drawn first.
    """
    g = _numpy(g).astype(float)
    vote = g.mean(0)
    rows = np.arange(len(vote))
    if len(rows) > 10:
        rows = np.argsort(-vote)[:10]
        if y not in rows:
            rows[-1] = y
    picked = np.unique(np.linspace(0, len(g) - 1, min(len(g), 5)).round().astype(int))
    panels = [(f"block {k + 1}", g[k]) for k in picked]
    panels += [("vote (mean)", vote)] if len(g) > 1 else []
    ratios = [0.9] + [1] * len(panels)
    width = min(WIDTH, 1.6 + 1.55 * len(ratios))
    letters = int((width - 1.5) / len(ratios) / 0.1) - 2  # what a title has room for
    height = max(1.1 + 0.21 * len(rows), 2.4)
    fig, (picture, *axes) = new_figure(width, height, ncols=len(ratios), width_ratios=ratios)
    draw_picture(picture, image)
    picture.set_title("image", fontsize=10, loc="center")
    for ax, (name, values) in zip(axes, panels):
        _class_bars(ax, values, rows, y)
        best = int(values.argmax())
        mark = "✓" if best == y else "✗"
        ax.set_title(f"{name}\n{shortened(classes[best], letters)} {mark}", fontsize=10)
    names = [f"true: {shortened(classes[k])}" if k == y else shortened(classes[k]) for k in rows]
    axes[0].set_yticks(range(len(rows)), names)
    for label, k in zip(axes[0].get_yticklabels(), rows):
        label.set_fontweight("bold" if k == y else "normal")
    fig.supxlabel("goodness g (each panel has its own scale)", fontsize=10)
    chosen = ", ".join(f"{name} {classes[int(values.argmax())]}" for name, values in panels)
    return with_alt(
        fig, f"Goodness of the classes for one image. Highest: {chosen}. True class: {classes[y]}."
    )


def _class_bars(ax: Axes, values: np.ndarray, rows: np.ndarray, y: int) -> None:
    """A bar per class, the highest one dark, the true one hatched."""
    best = int(values.argmax())
    for i, k in enumerate(rows):
        true = {"edgecolor": INK, "hatch": "////", "linewidth": 1.2} if k == y else {"linewidth": 0}
        face = tint(INK, 0.7 if k == best else 0.2)
        ax.barh(i, values[k], height=0.74, facecolor=face, **true)
    ax.set_yticks(range(len(rows)), [])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, max(1e-9, 1.05 * values.max()))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


@course_style()
def draw_goodness_maps(image: ArrayLike, maps: Mapping[str, Sequence[ArrayLike]]) -> Figure:
    """Draw an image and each block's goodness maps z², enlarged to its size.

    The number under a map is its mean: the goodness of that class, with one filter per class.

    Args:
        image: (C, H, W) pixels in [0, 1].
        maps: by class, (h, w) arrays, one per block.
    """
    height, width = np.shape(image)[-2:]
    rows = {
        name: [_numpy(values).astype(float) for values in group] for name, group in maps.items()
    }
    blocks = len(next(iter(rows.values())))
    cell = min(1.7, (WIDTH - 0.4) / (blocks + 1))
    size = (cell * (blocks + 1) + 0.4, (cell + 0.1) * len(rows) + 0.5)
    fig, axes = new_figure(*size, len(rows), blocks + 1)
    axes = np.array(axes).reshape(len(rows), blocks + 1)
    limits = [max(group[k].max() for group in rows.values()) or 1.0 for k in range(blocks)]
    words = []
    for i, (name, group) in enumerate(rows.items()):
        draw_picture(axes[i, 0], image)
        axes[i, 0].set_ylabel(name, fontsize=10, fontweight="bold")
        for ax, values, limit in zip(axes[i, 1:], group, limits, strict=True):
            ax.imshow(values, cmap="cividis", vmin=0, vmax=limit, interpolation="nearest",
                      extent=(-0.5, width - 0.5, height - 0.5, -0.5))  # fmt: skip
            _bare(ax)
            ax.set_xlabel(f"mean {values.mean():.3g}", fontsize=9, labelpad=2)
        words.append(
            f"{name} mean by block {', '.join(f'{values.mean():.3g}' for values in group)}"
        )
    for k, ax in enumerate(axes[0]):
        ax.set_title(f"block {k}" if k else "image", fontsize=10, loc="center")
    return with_alt(fig, f"An image and the goodness maps of every block. {'; '.join(words)}.")


def draw_picture(ax: Axes, pixels: ArrayLike) -> None:
    """Show one image in given axes without ticks.

    Args:
        ax: a panel.
        pixels: (C, H, W) or (H, W) in [0, 1].
    """
    pixels = _numpy(pixels)
    low, high = pixels.min(), pixels.max()
    if low < -1e-3 or high > 1 + 1e-3:  # imshow would clip silently
        raise SFFError(f"pixels run from {low:.2f} to {high:.2f}, not 0 to 1; use data.pixels()")
    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.ndim == 2 else {}
    ax.imshow(np.clip(pixels, 0, 1), interpolation="nearest", **grey)
    _bare(ax)


def _bare(ax: Axes) -> None:
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _numpy(values: ArrayLike) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy()


def _percent(fraction: ArrayLike) -> np.ndarray:
    return 100 * np.asarray(fraction, dtype=float)  # None becomes NaN
