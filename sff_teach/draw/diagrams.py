"""The algorithms and the network as pictures, drawn in one visual language.

Black arrow: activations. Dashed vermillion arrow: gradient. Blue box: weights that learn inside a
block. Orange box: a head. Double bar: detach, which no gradient passes. Hatched bar: the true
class. One unit is one inch, so that text and boxes keep their proportion.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from ..cut.table import BlockTable
from ..util.checks import SFFError
from .style import GREY, INK, OKABE_ITO, WIDTH, course_style, ink, tint, with_alt

BLOCK, HEAD, GRADIENT = OKABE_ITO["blue"], OKABE_ITO["orange"], OKABE_ITO["vermillion"]
POSITIVE, NEGATIVE = OKABE_ITO["blue"], OKABE_ITO["orange"]
DASHES = (0, (3.5, 1.8))
FENCE = {"facecolor": "#F5F5F5", "edgecolor": "#BDBDBD", "linewidth": 1}
SMALL, NORMAL, LARGE = 9, 10, 11
SEVEN = (".........." ".........." ".#######.." "......##.." ".....##..." ".....#...."
         "....##...." "....#....." "...##....." "..........")  # fmt: skip


# ---------------------------------------------------------------- the vocabulary


def _canvas(height, width=WIDTH):
    fig = Figure(figsize=(width, height))
    FigureCanvasAgg(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def _text(ax, x, y, text, *, size=SMALL, colour=INK, ha="center", va="center", bold=False):
    weight = "bold" if bold else "normal"
    ax.text(x, y, text, fontsize=size, color=colour, ha=ha, va=va, fontweight=weight,
            linespacing=1.25, zorder=6)  # fmt: skip


def _rounded(ax, x, y, w, h, radius, **look):
    shape = f"round,pad=0,rounding_size={min(radius, w / 3, h / 3)}"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=shape, **look))


def _box(ax, x, y, w, h, text="", colour=BLOCK, *, strength=0.22, size=NORMAL, bold=False):
    look = {"facecolor": tint(colour, strength), "edgecolor": ink(colour), "linewidth": 1.4}
    _rounded(ax, x, y, w, h, 0.08, zorder=3, **look)
    if text:
        _text(ax, x + w / 2, y + h / 2, text, size=size, bold=bold)


def _fence(ax, x, y, w, h):
    """What belongs to one block: a quiet frame around everything its loss may change."""
    _rounded(ax, x, y, w, h, 0.12, zorder=1, **FENCE)


def _arrow(ax, *points, gradient=False, size=0.1):
    """A polyline with a head at its last point."""
    points = np.array(points, dtype=float)
    direction = points[-1] - points[-2]
    direction /= np.linalg.norm(direction)
    side = np.array([-direction[1], direction[0]])
    foot = points[-1] - 1.3 * size * direction
    look = {"color": GRADIENT, "linestyle": DASHES} if gradient else {"color": "black"}
    shaft = np.vstack([points[:-1], points[-1] - 1.1 * size * direction])
    ax.add_line(Line2D(*shaft.T, linewidth=1.6, solid_capstyle="butt", zorder=4, **look))
    head = [points[-1], foot + 0.55 * size * side, foot - 0.55 * size * side]
    ax.add_patch(Polygon(head, closed=True, color=look["color"], linewidth=0, zorder=4))


def _detach(ax, x, low, high, half=0.035):
    """The double bar: activations pass, gradients do not."""
    weight = 2.2 * half / 0.035
    for colour, width in (("white", 2.7 * weight), (INK, weight)):
        for at in (x - half, x + half):
            ax.add_line(Line2D([at, at], [low, high], color=colour, linewidth=width, zorder=5))


def _bars(ax, x, y, w, h, values, true=None):
    """Goodness of a few classes as bars on a line; the true class dark and hatched."""
    slot = w / len(values)
    for k, value in enumerate(values):
        is_true = k == true
        ax.add_patch(
            Rectangle(
                (x + (k + 0.14) * slot, y),
                0.72 * slot,
                h * value,
                facecolor=tint(BLOCK, 0.8 if is_true else 0.3),
                edgecolor=INK if is_true else ink(BLOCK),
                hatch="/////" if is_true else None,
                linewidth=1 if is_true else 0.6,
                zorder=3,
            )
        )
    ax.add_line(Line2D([x, x + w], [y, y], color=INK, linewidth=1, zorder=4))


def _image(ax, x, y, size, label=None):
    """A ten-by-ten seven; with `label` the first row carries it as Hinton's overlay does."""
    pixels = np.array([0.85 * (c == "#") for c in SEVEN]).reshape(10, 10)
    if label is not None:
        pixels[0] = 0
        pixels[0, label] = 1
    ax.imshow(1 - pixels, cmap="gray", vmin=0, vmax=1, extent=(x, x + size, y, y + size),
              interpolation="nearest", zorder=3, aspect="auto")  # fmt: skip
    ax.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=INK, linewidth=1, zorder=4))
    if label is not None:
        frame = {"edgecolor": ink(OKABE_ITO["green"]), "linewidth": 1.8, "zorder": 5}
        ax.add_patch(Rectangle((x, y + 0.9 * size), size, size / 10, fill=False, **frame))


def _maps(ax, x, y, size, count, colour, step=0.07):
    """A tensor of `count` feature maps, as a stack of squares."""
    for i in reversed(range(count)):
        corner = (x + i * step, y + i * step)
        ax.add_patch(Rectangle(corner, size, size, facecolor=tint(colour, 0.25 + 0.1 * (i == 0)),
                               edgecolor=ink(colour), linewidth=0.9, zorder=3))  # fmt: skip


def _key(ax, x, y, *, detach=True):
    """The legend of the visual language, in one line."""
    _arrow(ax, (x, y), (x + 0.4, y))
    _text(ax, x + 0.48, y, "activations", ha="left")
    _arrow(ax, (x + 1.5, y), (x + 1.9, y), gradient=True)
    _text(ax, x + 1.98, y, "gradient", ha="left")
    if detach:
        _detach(ax, x + 2.9, y - 0.09, y + 0.09)
        _text(ax, x + 3.05, y, "detach: activations pass, gradients do not", ha="left")


def _title(ax, text):
    _text(ax, 0.15, ax.get_ylim()[1] - 0.22, text, size=LARGE, bold=True, ha="left")


# ---------------------------------------------------------------- the algorithms


@course_style()
def diagram_backprop() -> Figure:
    """Draw backpropagation: one loss at the end, its gradient through every block."""
    fig, ax = _canvas(2.75)
    _title(ax, "Backprop: one loss, and its gradient runs through the whole network")
    _image(ax, 0.15, 1.05, 0.9)
    _text(ax, 0.6, 0.85, "image x")
    left, width, step = 1.55, 1.25, 1.75
    for k in range(3):
        x = left + k * step
        _box(ax, x, 0.95, width, 1.1, f"block {k + 1}", bold=True)
        _arrow(ax, (x - 0.5 if k else 1.1, 1.75), (x, 1.75))
        if k:
            _arrow(ax, (x, 1.25), (x - 0.5, 1.25), gradient=True)
    x = left + 3 * step
    _box(ax, x, 0.95, 0.95, 1.1, "pool\n+ linear", HEAD)
    _arrow(ax, (x - 0.5, 1.75), (x, 1.75))
    _arrow(ax, (x, 1.25), (x - 0.5, 1.25), gradient=True)
    _box(ax, x + 1.35, 0.95, 0.7, 1.1, "loss\nL", GREY)
    _arrow(ax, (x + 0.95, 1.75), (x + 1.35, 1.75))
    _arrow(ax, (x + 1.35, 1.25), (x + 0.95, 1.25), gradient=True)
    _arrow(ax, (x + 1.7, 0.6), (x + 1.7, 0.95))
    _text(ax, x + 1.7, 0.48, "label y")
    _text(ax, left + 1.5 * step - 0.25, 0.75,
          "every block keeps its activations until the gradient comes back to it")  # fmt: skip
    _key(ax, 0.15, 0.2, detach=False)
    return with_alt(
        fig,
        "Backprop: an image passes through three blocks, a pooling and linear layer and one loss, "
        "which gets the label. The gradient, dashed, runs from the loss back through every block.",
    )


@course_style()
def diagram_ff() -> Figure:
    """Draw Hinton's forward-forward: two passes, a goodness and a threshold in every layer."""
    fig, ax = _canvas(5.15)
    _title(ax, "Forward-forward: two passes, and every layer has an aim of its own")
    left, width, step, low, high = 1.8, 1.5, 2.6, 1.8, 3.4
    for k in range(3):
        x = left + k * step
        _box(ax, x, low, width, high - low)
        _text(ax, x + width / 2, 2.82, f"layer {k + 1}", size=NORMAL, bold=True)
        _text(ax, x + width / 2, 2.42, "the same weights\nin both passes")
    for sign, name, told, label, levels in (
        (1, "positive pass", "right label: 7", 7, (0.62, 0.7, 0.82)),
        (-1, "negative pass", "wrong label: 2", 2, (0.42, 0.36, 0.25)),
    ):
        colour = POSITIVE if sign > 0 else NEGATIVE
        lane, corner, gauge = (3.1, 2.7, 4.0) if sign > 0 else (2.1, 1.6, 0.98)
        edge, end = (high, gauge) if sign > 0 else (low, gauge + 0.22)
        _image(ax, 0.35, corner, 0.9, label)
        at = corner + (1.05 if sign > 0 else -0.33)
        _text(ax, 0.8, at + 0.2, name, colour=ink(colour), bold=True)
        _text(ax, 0.8, at, told)
        for k, level in enumerate(levels):
            x = left + k * step
            _arrow(ax, (x - step + width if k else 1.3, lane), (x, lane))
            _arrow(ax, (x + 0.3, edge), (x + 0.3, end))
            _arrow(ax, (x + 1.2, end), (x + 1.2, edge), gradient=True)
            _text(ax, x + 0.75, (edge + end) / 2, "$g = \\sum h^2$")
            _gauge(ax, x, gauge, width, level, colour, sign)
    for k in (1, 2):
        x = left + k * step - (step - width) / 2
        for lane in (3.1, 2.1):
            _detach(ax, x, lane - 0.14, lane + 0.14)
        _text(ax, x, 2.6, "detach,\nnormalise")
    _key(ax, 0.15, 0.18)
    return with_alt(
        fig,
        "Forward-forward: three layers in a row. A positive pass with the right label 7 and a "
        "negative pass with the wrong label 2 go through the same layers. Above and below every "
        "layer stands its own goodness with a threshold: to be raised for the positive, lowered "
        "for the negative. Between layers a double bar marks detach and normalise.",
    )


def _gauge(ax, x, y, width, level, colour, sign):
    """Goodness as a bar against its threshold θ, and where learning pushes it."""
    middle = x + width / 2
    ax.add_patch(Rectangle((x, y), width, 0.22, facecolor="white", edgecolor=GREY, linewidth=1))
    full = {"facecolor": tint(colour, 0.55), "edgecolor": ink(colour), "zorder": 3}
    full["hatch"] = None if sign > 0 else "////"
    ax.add_patch(Rectangle((x, y), width * level, 0.22, **full))
    ax.add_line(Line2D([middle] * 2, [y - 0.06, y + 0.28], color=INK, linewidth=2.2, zorder=5))
    beyond = y + 0.39 if sign > 0 else y - 0.18
    _text(ax, middle, beyond, "θ")
    aim = "raise g above θ" if sign > 0 else "push g below θ"
    _text(ax, middle, beyond + sign * 0.22, aim, colour=ink(colour), bold=True)


@course_style()
def diagram_sff() -> Figure:
    """Draw SFF: one pass, a head and a loss on every block, detach between them, a vote."""
    fig, ax = _canvas(5.6)
    _title(ax, "SFF: one pass, a head and a loss on every block, no gradient between blocks")
    _image(ax, 0.15, 0.98, 0.9)
    _text(ax, 0.6, 0.8, "image x")
    left, width, step = 1.4, 1.9, 2.68
    goodness = ((0.8, 0.5, 0.85, 0.4, 0.7), (0.5, 0.3, 0.9, 0.4, 0.45), (0.22, 0.12, 1, 0.2, 0.15))
    for k in range(3):
        x = left + k * step
        _fence(ax, x, 0.7, width, 3.55)
        _box(ax, x + 0.15, 0.95, 1.6, 0.95, f"block {k + 1}", bold=True)
        _box(ax, x + 0.15, 2.28, 1.6, 0.55, "head: 1×1 conv,\nK channels", HEAD, size=SMALL)
        _bars(ax, x + 0.15, 3.2, 0.8, 0.6, goodness[k], true=2)
        _text(ax, x + 0.15, 4.05, "goodness", ha="left")
        _box(ax, x + 1.2, 3.2, 0.55, 0.52, f"loss\n$L_{k + 1}$", GREY, size=SMALL)
        _text(ax, x + 1.475, 4.05, "label y")
        _arrow(ax, (x + 1.475, 3.95), (x + 1.475, 3.72), size=0.08)
        _arrow(ax, (x + 0.55, 1.9), (x + 0.55, 2.28))
        _arrow(ax, (x + 0.55, 2.83), (x + 0.55, 3.18))
        _arrow(ax, (x + 0.98, 3.4), (x + 1.2, 3.4), size=0.08)
        _arrow(ax, (x + 1.475, 3.2), (x + 1.475, 2.83), gradient=True)
        _arrow(ax, (x + 1.475, 2.28), (x + 1.475, 1.9), gradient=True)
        _arrow(ax, (x - step + 1.75 if k else 1.1, 1.42), (x + 0.15, 1.42))
        if k:
            gap = x - (step - width) / 2
            _detach(ax, gap, 1.24, 1.6)
            _text(ax, gap, 0.97, "detach,\nnormalise")
        _arrow(ax, (x + 0.55, 4.25), (x + 0.55, 4.68))
        _text(ax, x + 0.65, 4.45, f"$g^{{({k + 1})}}$: K numbers", ha="left")
    vote = "vote: average the blocks' goodness and choose the largest"
    _box(ax, left, 4.68, 2 * step + width, 0.4, vote, OKABE_ITO["green"])
    _key(ax, 0.15, 0.25)
    _bars(ax, 6.45, 0.16, 0.18, 0.2, (1,), true=0)
    _text(ax, 6.75, 0.25, "the true class", ha="left")
    return with_alt(
        fig,
        "SFF: the image passes through three blocks. Each block has a head that turns its output "
        "into one goodness per class, and a loss that gets the label. The gradient, dashed, goes "
        "from a block's loss into that block only. Between blocks stands a double bar: activations "
        "are normalised and pass, gradients do not. The blocks' goodness is averaged for the vote.",
    )


@course_style()
def diagram_block() -> Figure:
    """Draw the inside of a LocalBlock: body, head, goodness, loss, and what the next one gets."""
    fig, ax = _canvas(4.6)
    _title(ax, "Inside one block: a body, a head, a loss; the next block gets a detached copy")
    corners = [(0.85, 0.6), (4.65, 0.6), (4.65, 2.2), (8.9, 2.2), (8.9, 4.15), (0.85, 4.15)]
    ax.add_patch(Polygon(corners, closed=True, zorder=1, **FENCE))
    _text(ax, 0.95, 4.0, "all that this loss may change", ha="left", colour=GREY)
    # the way through
    _text(ax, 0.3, 1.42, "x", size=LARGE, bold=True)
    _arrow(ax, (0.42, 1.42), (1.0, 1.42))
    _box(ax, 1.0, 0.95, 2.15, 0.95)
    _text(ax, 2.075, 1.68, "body: any layers", size=NORMAL, bold=True)
    for i, name in enumerate(("conv", "norm", "ReLU", "pool")):
        _box(ax, 1.08 + 0.51 * i, 1.08, 0.46, 0.36, name, strength=0, size=SMALL)
    _arrow(ax, (3.15, 1.42), (3.5, 1.42))
    _maps(ax, 3.5, 1.12, 0.55, 5, BLOCK)
    _text(ax, 3.9, 0.8, "h  (B, C, H, W)")
    _arrow(ax, (4.4, 1.42), (5.85, 1.42))
    _detach(ax, 5.2, 1.22, 1.62)
    _text(ax, 5.2, 1.0, "detach")
    _box(ax, 5.85, 1.12, 0.95, 0.6, "layer\nnorm", GREY, strength=0.1)
    _arrow(ax, (6.8, 1.42), (7.15, 1.42))
    _box(ax, 7.15, 0.95, 0.95, 0.95, "next\nblock", strength=0.08)
    # the way up: head, goodness, loss
    _arrow(ax, (3.9, 1.97), (3.9, 2.6))
    _box(ax, 3.25, 2.6, 1.3, 0.6, "head: 1×1 conv,\nC → K channels", HEAD, size=SMALL)
    _arrow(ax, (4.55, 2.9), (4.95, 2.9))
    _maps(ax, 4.95, 2.65, 0.45, 4, HEAD)
    _text(ax, 5.25, 2.38, "z  (B, K, H, W)")
    _arrow(ax, (5.65, 2.9), (6.05, 2.9))
    _box(ax, 6.05, 2.6, 0.95, 0.6, "square,\nmean over\nH and W", GREY, strength=0.1, size=SMALL)
    _arrow(ax, (7.0, 2.9), (7.3, 2.9))
    _bars(ax, 7.3, 2.65, 0.65, 0.55, (0.35, 0.2, 0.95, 0.3), true=2)
    _text(ax, 7.62, 2.38, "g  (B, K)")
    _arrow(ax, (7.98, 2.9), (8.2, 2.9), size=0.08)
    _box(ax, 8.2, 2.6, 0.55, 0.6, "loss\nL", GREY)
    _text(ax, 8.47, 1.78, "label y")
    _arrow(ax, (8.47, 1.88), (8.47, 2.6))
    _text(ax, 6.3, 3.47, "$g_k = \\mathrm{mean}_{HW}\\,(z_k^2)$", size=NORMAL, va="baseline")
    _text(ax, 7.65, 3.47, "$L = \\log\\sum_j e^{g_j} - g_y$", size=NORMAL, va="baseline")
    _arrow(ax, (8.47, 3.2), (8.47, 3.85), (3.9, 3.85), (3.9, 3.2), gradient=True)
    _arrow(ax, (3.25, 2.9), (2.07, 2.9), (2.07, 1.9), gradient=True)
    _key(ax, 0.15, 0.25)
    return with_alt(
        fig,
        "A block: the image x passes the body and becomes h. From h a 1×1 convolution makes z with "
        "K channels; squared and averaged over positions they are K goodness values, which "
        "together with the label y give the loss. Its gradient returns through head and body and "
        "stops there; the next block gets a detached, normalised copy of h.",
    )


# ---------------------------------------------------------------- a network and its cuts


@course_style()
def diagram_pipeline(devices: int = 3, batches: int = 4) -> Figure:
    """Draw who is busy when: backprop in a pipeline of micro-batches, and blocks of SFF.

    Forward takes one unit of time, backward two. In GPipe a device waits for the gradients to come
    back, and weights change once all m micro-batches are through: of p devices' time the share
    ``(p - 1) / (m + p - 1)`` is idle. In SFF a device passes its output on after the forward pass,
    learns from the batch by itself, and takes the next one: only the start is idle, once.

    Source: Huang et al. 2019, section 2.3, for GPipe and its share of idle time.

    Args:
        devices: p.
        batches: m.
    """
    idle = (devices - 1) / (batches + devices - 1)
    rows = (
        ("backprop\n(GPipe)", f"{batches} micro-\nbatches", _gpipe_times,
         f"idle: $\\frac{{p-1}}{{m+p-1}}$ = {idle:.0%} of p = {devices} devices with "
         f"m = {batches} micro-batches, at every batch; weights change at its end"),
        ("SFF", "batch after\nbatch", _sff_times,
         "idle: at most p - 1 forward passes, at the start; weights change after every batch"),
    )  # fmt: skip
    height, gap, left = 0.42 * devices, 0.6, 1.75
    fig, ax = _canvas(2 * (height + gap) + 0.75)
    _title(ax, "Who works when: backprop in a pipeline, and SFF")
    top = ax.get_ylim()[1] - 0.5
    for number, (name, of, timeline, reading) in enumerate(rows):
        low = top - number * (height + gap) - height
        middle = low + height / 2
        _text(ax, 0.15, middle + 0.2, name, size=NORMAL, bold=True, ha="left")
        _text(ax, 0.15, middle - 0.25, of, ha="left", colour=GREY)
        _text(ax, left, low - 0.18, reading, ha="left")
        for device in range(devices):
            y = low + 0.42 * (devices - 1 - device)
            _text(ax, left - 0.08, y + 0.21, f"device {device + 1}", ha="right")
            _device_times(ax, left, y, timeline(device, devices, batches), _span(devices, batches))
    _pipeline_key(ax, left, 0.2)
    return with_alt(
        fig,
        f"Two timelines of {devices} devices. GPipe: forward passes of {batches} micro-batches, "
        f"then all backward passes; {idle:.0%} of the time is idle. SFF: every device passes "
        "forward, learns at once and takes the next batch; only the start is idle.",
    )


def _span(devices: int, batches: int) -> int:
    """Units of time that GPipe takes for one batch."""
    return 3 * (batches + devices - 1)


def _device_times(ax, left, y, times, span):
    """One device's row: its work, and as idle what is left."""
    unit, high = (WIDTH - left - 0.2) / span, 0.36
    _idle(ax, left, y + 0.03, span * unit, high)
    for batch, start, length, backward, update in times:
        drawn = min(length, span - start)
        text = f"{batch + 1}" if drawn == length else ""
        _work(ax, left + start * unit, y + 0.03, drawn * unit, high, backward, text)
        if update and drawn == length:
            _update(ax, left + (start + length) * unit, y + 0.21)


def _idle(ax, x, y, w, h):
    """Time in which a device waits: what is left free of this shows."""
    ax.add_patch(Rectangle((x, y), w, h, facecolor="#F5F5F5", edgecolor="#BDBDBD", hatch="////",
                           linewidth=0.8, zorder=1))  # fmt: skip


def _work(ax, x, y, w, h, backward, text="", strength=0.22):
    """Time in which a device passes forward or learns."""
    colour = GRADIENT if backward else BLOCK
    face = tint(colour, strength + 0.13 * backward)
    ax.add_patch(Rectangle((x, y), w, h, facecolor=face, edgecolor=ink(colour), linewidth=1,
                           zorder=3))  # fmt: skip
    if text:
        _text(ax, x + w / 2, y + h / 2, text)


def _update(ax, x, y, size=0.07):
    """The moment at which a device's weights change."""
    corners = [(x - size, y), (x, y + size), (x + size, y), (x, y - size)]
    ax.add_patch(Polygon(corners, closed=True, facecolor=INK, edgecolor="white", linewidth=0.8,
                         zorder=5))  # fmt: skip


def _pipeline_key(ax, x, y):
    _work(ax, x, y - 0.1, 0.3, 0.2, False)
    _text(ax, x + 0.38, y, "forward", ha="left")
    _work(ax, x + 1.1, y - 0.1, 0.3, 0.2, True)
    _text(ax, x + 1.48, y, "backward", ha="left")
    _update(ax, x + 2.4, y)
    _text(ax, x + 2.55, y, "weights change", ha="left")
    _idle(ax, x + 3.8, y - 0.1, 0.3, 0.2)
    _text(ax, x + 4.18, y, "idle", ha="left")


def _sff_times(device, devices, batches):
    """(batch, start, length, backward, update) of one device, for as long as GPipe takes."""
    span = _span(devices, batches)
    for batch, start in enumerate(range(device, span, 3)):
        yield batch, start, 1, False, False
        if start + 1 < span:
            yield batch, start + 1, 2, True, True


def _gpipe_times(device, devices, batches):
    """All forwards, then all backwards from the last device to the first, then the update."""
    for batch in range(batches):
        yield batch, device + batch, 1, False, False
    turn = devices - 1 + batches
    for i, batch in enumerate(reversed(range(batches))):
        yield batch, turn + 2 * (devices - 1 - device + i), 2, True, i == batches - 1


@course_style()
def draw_timeline(trace: Sequence[dict]) -> Figure:
    """Draw what the processes of a pipeline did when, as ``fit_pipeline`` measured it.

    A number is a batch, counted from 1; a process that has several blocks passes forward and learns
    with one after the other. What a process did before its first record and after its last one is
    not known and stays blank.

    Args:
        trace: the records that ``fit_pipeline(..., trace=trace)`` adds, of some ten steps; more get
            too narrow to read.
    """
    processes = sorted({r["process"] for r in trace})
    first, last = min(r["start"] for r in trace), max(r["stop"] for r in trace)
    row, left = 0.66, 1.0
    unit = (WIDTH - left - 0.25) / (last - first)

    def x(seconds: float) -> float:
        return left + (seconds - first) * unit

    fig, ax = _canvas(row * len(processes) + 1.1)
    _title(ax, "Who worked when: measured")
    top, busy = ax.get_ylim()[1] - 0.4, []
    for place, process in enumerate(processes):
        y = top - row * (place + 1)
        records = [r for r in trace if r["process"] == process]
        begin, end = min(r["start"] for r in records), max(r["stop"] for r in records)
        _idle(ax, x(begin), y, x(end) - x(begin), 0.4)
        _process_times(ax, y, records, x)
        busy.append(f"{sum(r['stop'] - r['start'] for r in records) / (end - begin):.0%}")
        _text(ax, left - 0.08, y + 0.3, f"process {process + 1}", ha="right")
        _text(ax, left - 0.08, y + 0.1, f"{busy[-1]} busy", ha="right", colour=GREY)
    y = top - row * len(processes) - 0.15
    _text(ax, left, y, "0", ha="left")
    _text(ax, WIDTH - 0.25, y, f"{1000 * (last - first):.0f} ms", ha="right")
    _pipeline_key(ax, left, 0.2)
    return with_alt(
        fig,
        f"Timeline of {len(processes)} processes over {1000 * (last - first):.0f} ms: forward "
        f"passes, backward passes and waiting. Busy: {', '.join(busy)} of the time.",
    )


def _process_times(ax, y, records, x):
    """The forward and backward passes of one process; `x` turns seconds into inches."""
    for r in records:
        strength = 0.22 + 0.25 * (r["step"] % 2)  # neighbours differ
        start, sent, stop = (x(r[name]) for name in ("start", "sent", "stop"))
        _work(ax, start, y, sent - start, 0.4, False, strength=strength)
        _work(ax, sent, y, stop - sent, 0.4, True, strength=strength)
        _update(ax, stop, y + 0.2, 0.05)
    for step in sorted({r["step"] for r in records}):
        start = x(min(r["start"] for r in records if r["step"] == step))
        stop = x(max(r["stop"] for r in records if r["step"] == step))
        if stop - start > 0.12 * len(str(step + 1)):
            _text(ax, (start + stop) / 2, y + 0.5, f"{step + 1}")


@course_style()
def draw_network(
    shapes: Iterable[Sequence[int]] | BlockTable,
    cuts: Iterable[int] = (),
    *,
    rule: str = "sff",
    input_shape: Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a network layer by layer, its blocks enclosed, a head on each, a double bar at each cut.

    A layer's height grows with the square root of its resolution, its width with the logarithm of
    its channels.

    Args:
        shapes: the output shape (C, H, W) of every layer, or (C, N) for N tokens; or the table of
            ``describe``, whose blocks are then drawn as one layer each, cut from each other.
        cuts: how many layers stand in front of each cut, from 1 to ``len(shapes) - 1``.
        rule: ``"sff"``; ``"deepsup"`` shows the gradient crossing; ``"bp"`` and ``"bp-goodness"``
            allow no cut.
        input_shape: the image's (C, H, W).
        notes: a short text per block, written above its head (``"83 %"``).
        title: of the drawing.
    """
    if isinstance(shapes, BlockTable):
        shapes, cuts = [row.output_shape for row in shapes], range(1, len(shapes))
    shapes, cuts = [tuple(shape) for shape in shapes], sorted(cuts)
    if cuts and not 0 < cuts[0] <= cuts[-1] < len(shapes):
        raise SFFError(f"cuts must lie between 1 and {len(shapes) - 1}, not {cuts}")
    blocks = [range(a, b) for a, b in zip([0, *cuts], [*cuts, len(shapes)])]

    fig, ax = _canvas(3.1 + 0.25 * (notes is not None) + 0.3 * (title is not None))
    left, middle = 1.75, 1.4
    heights, widths, between, inside = _network_sizes(shapes, len(cuts), WIDTH - 0.2 - left)
    margin = min(0.09, between / 5)
    low, head = middle - 0.75, middle + 0.95
    spans = [sum(widths[list(block)]) + inside * (len(block) - 1) for block in blocks]
    roomy = min(spans) > 0.5
    gradient = min(widths) > 0.2  # drawn for every head or for none: one without would mean a lot
    if title is not None:
        _title(ax, title)
    _network_input(ax, input_shape, middle, left)
    if not roomy:
        _text(ax, 0.15, head + 0.5, "block", ha="left", colour=GREY)
        _text(ax, 0.15, head + 0.13, "head", ha="left", colour=GREY)
    x, numbered, columns = left + margin, 0.0, []
    for k, (block, span) in enumerate(zip(blocks, spans)):
        _fence(ax, x - margin, low, span + 2 * margin, head + 0.36 - low)
        place = x
        for i in block:
            _box(ax, place, middle - heights[i] / 2, widths[i], heights[i])
            columns.append((place + widths[i] / 2, shapes[i], i == block[-1]))
            place += widths[i] + inside
        layer, tip = widths[block[-1]], middle + heights[block[-1]] / 2
        name = ("linear" if rule == "bp" else "head") if roomy else ""
        _network_head(ax, x + span, layer, min(span, 0.9), tip, head, name, gradient)
        centre = x + span / 2
        if centre > numbered + 0.2:
            _text(ax, centre, head + 0.5, f"block {k + 1}" if roomy else f"{k + 1}")
            numbered = centre
        if notes is not None:
            _text(ax, centre, head + 0.72, notes[k], bold=True)
        x += span
        if k + 1 < len(blocks):
            _crossing(ax, x, x + between, middle, rule)
            x += between
    _shape_labels(ax, columns, low - 0.2)
    said = "" if notes is None else f" Notes on the blocks: {', '.join(notes)}."
    return with_alt(
        fig, f"A network of {len(shapes)} layers in {len(blocks)} blocks, each with a head.{said}"
    )


def _network_sizes(shapes, cuts, room):
    """Heights and widths of the layers, the gap at a cut, and the gap between layers of a block."""
    sides = np.array([np.prod(shape[1:], dtype=float) ** 0.5 for shape in shapes])
    heights = np.maximum(0.18, 1.3 * (sides / sides.max()) ** 0.5)
    widths = np.array([0.3 + 0.1 * max(0, np.log2(shape[0]) - 3) for shape in shapes])
    between = min(0.7, 3.2 / max(1, cuts))
    inside = min(0.09, 1.2 / len(shapes))
    gaps = between * cuts + inside * (len(shapes) - cuts - 1) + 2 * min(0.09, between / 5)
    return heights, widths * min(2.2, (room - gaps) / widths.sum()), between, inside


def _network_head(ax, right, layer, width, bottom, top, name, gradient):
    """The head over a block's last layer (`layer` wide), activations up and gradient down."""
    _box(ax, right - width, top, width, 0.26, name, HEAD, size=SMALL)
    x = right - layer / 2
    if gradient:
        aside = min(0.1, layer / 4)
        size = 0.8 * aside
        _arrow(ax, (x - aside, bottom), (x - aside, top), size=size)
        _arrow(ax, (x + aside, top), (x + aside, bottom), size=size, gradient=True)
    else:
        _arrow(ax, (x, bottom), (x, top), size=0.07)


def _network_input(ax, shape, middle, left):
    _image(ax, 0.8, middle - 0.3, 0.6)
    _arrow(ax, (1.42, middle), (left, middle), size=0.08)
    _text(ax, 0.15, middle - 0.95, "channels", ha="left", colour=GREY)
    _text(ax, 0.15, middle - 1.17, "positions", ha="left", colour=GREY)
    if shape is not None:
        _text(ax, 1.1, middle - 0.95, f"{shape[0]}")
        _text(ax, 1.1, middle - 1.17, "×".join(map(str, shape[1:])))


def _crossing(ax, start, end, y, rule):
    """What passes from one block to the next: with SFF no gradient."""
    size = min(0.09, (end - start) / 3)
    if rule == "deepsup":
        _arrow(ax, (start, y + 0.09), (end, y + 0.09), size=size)
        _arrow(ax, (end, y - 0.09), (start, y - 0.09), size=size, gradient=True)
    else:
        _arrow(ax, (start, y), (end, y), size=size)
        half = min(0.035, (end - start) / 10)
        _detach(ax, (start + end - size) / 2, y - 0.16, y + 0.16, half)


def _shape_labels(ax, columns, y):
    """Channels and positions under the layers where there is room, last layers of blocks first."""
    taken = []
    for x, shape, _ in sorted(columns, key=lambda column: not column[2]):
        texts = (f"{shape[0]}", "×".join(map(str, shape[1:])) or "1")
        half = 0.04 * max(map(len, texts)) + 0.03
        if all(x - half > high or x + half < low for low, high in taken):
            taken.append((x - half, x + half))
            _text(ax, x, y, texts[0])
            _text(ax, x, y - 0.22, texts[1])


# ---------------------------------------------------------------- ideas of single notebooks


@course_style()
def diagram_checkpointing() -> Figure:
    """Draw what waits for the backward pass at one moment, by four ways to train."""
    fig, ax = _canvas(4.35)
    _title(ax, "What is kept while block 2 of 4 is at work on the gradient")
    left, width, step, height = 2.05, 0.8, 1.1, 0.5
    rows = (  # name, share of each block that is kept, whether inputs are, what it costs
        ("backprop", (1, 1, 0, 0), False, "keeps all blocks at the peak;\none forward pass"),
        ("checkpointing", (0, 1, 0, 0), True, "keeps block inputs and one block;\n"
         "every block runs forward twice"),
        ("accumulation", (0.25, 0.25, 0, 0), False, "keeps all blocks at the peak, of a\n"
         "quarter of the batch; four passes"),
        ("SFF", (0, 1, 0, 0), False, "keeps one block and its head;\none forward pass"),
    )  # fmt: skip
    for i, (name, kept, inputs, cost) in enumerate(rows):
        y = 3.2 - 0.83 * i
        _text(ax, 0.15, y + height / 2, name, size=NORMAL, bold=True, ha="left")
        for k, share in enumerate(kept):
            x = left + k * step
            _box(ax, x, y, width, height, strength=0)
            if share:
                filled = {"facecolor": tint(BLOCK, 0.45), "edgecolor": ink(BLOCK), "zorder": 3}
                ax.add_patch(Rectangle((x, y), width, height * share, **filled))
            _text(ax, x + width / 2, y + height / 2, f"{k + 1}")
            if inputs and k < 2:
                ax.add_patch(Rectangle((x - 0.13, y), 0.07, height, color=BLOCK, zorder=3))
            if k and name == "SFF":
                _detach(ax, x - (step - width) / 2, y + 0.05, y + height - 0.05)
            elif k == 2:
                _arrow(ax, (x - 0.02, y + 0.12), (x - 0.2, y + 0.12), gradient=True, size=0.07)
        if name == "SFF":
            _box(ax, left + step, y + height + 0.04, width, 0.17, "head", HEAD, strength=0.45)
            _text(ax, left + width / 2, y - 0.13, "done")
            _text(ax, left + 2.5 * step + width / 2, y - 0.13, "not begun")
        _text(ax, left + 4 * step + 0.1, y + height / 2, cost, ha="left")
    ax.add_patch(Rectangle((0.15, 0.12), 0.3, 0.16, facecolor=tint(BLOCK, 0.45),
                           edgecolor=ink(BLOCK)))  # fmt: skip
    _text(ax, 0.55, 0.2, "kept", ha="left")
    ax.add_patch(Rectangle((1.15, 0.1), 0.07, 0.2, color=BLOCK))
    _text(ax, 1.32, 0.2, "a block's input, kept", ha="left")
    _arrow(ax, (3.5, 0.2), (3.1, 0.2), gradient=True)
    _text(ax, 3.6, 0.2, "gradient", ha="left")
    return with_alt(
        fig,
        "Four rows of four blocks at the moment when block 2 computes its gradients. Backprop "
        "still keeps blocks 1 and 2 in full; checkpointing keeps the two blocks' inputs and block "
        "2, which it has run again; accumulation keeps a quarter of blocks 1 and 2; SFF keeps "
        "block 2 and its head, block 1 is done and blocks 3 and 4 have not begun.",
    )


@course_style()
def diagram_seam() -> Figure:
    """Draw a network that SFF trained, and what goes on from it under three rules."""
    fig, ax = _canvas(4.9)
    _title(ax, "The seam: what each rule takes over from a network that SFF trained")
    rows = (
        ("sff", "keeps everything"),
        ("deepsup", "drops the cut"),
        ("bp", "drops the cut,\nthe normalisation\nand the heads"),
    )
    for i, (rule, text) in enumerate(rows):
        y = 3.2 - 1.42 * i
        _text(ax, 0.15, y + 0.75, rule, size=LARGE, bold=True, ha="left")
        _text(ax, 0.15, y + 0.27, text, ha="left")
        _arrow(ax, (1.65, y + 0.25), (2.1, y + 0.25))
        for k, x in enumerate((2.1, 4.8)):
            _box(ax, x, y, 1.3, 0.5, f"body {k + 1}", bold=True)
            if rule != "bp":
                _box(ax, x + 0.1, y + 0.75, 0.6, 0.32, f"head {k + 1}", HEAD, size=SMALL)
                _box(ax, x + 0.95, y + 0.75, 0.5, 0.32, "loss", GREY, size=SMALL)
                _arrow(ax, (x + 0.3, y + 0.5), (x + 0.3, y + 0.75), size=0.07)
                _arrow(ax, (x + 0.5, y + 0.75), (x + 0.5, y + 0.5), gradient=True, size=0.07)
                _arrow(ax, (x + 0.7, y + 0.91), (x + 0.95, y + 0.91), size=0.07)
        if rule == "bp":
            _arrow(ax, (3.4, y + 0.33), (4.8, y + 0.33))
        else:
            _arrow(ax, (3.4, y + 0.33), (3.85, y + 0.33), size=0.08)
            _box(ax, 3.85, y + 0.06, 0.5, 0.42, "norm", GREY, strength=0.1, size=SMALL)
            _arrow(ax, (4.35, y + 0.33), (4.8, y + 0.33), size=0.08)
        if rule == "sff":
            _detach(ax, 3.6, y + 0.17, y + 0.49)
        else:
            _arrow(ax, (4.8, y - 0.07), (3.4, y - 0.07), gradient=True)
        if rule == "bp":
            _box(ax, 6.55, y, 1.25, 0.5, "pool + linear,\nnew", HEAD, size=SMALL)
            _arrow(ax, (6.1, y + 0.33), (6.55, y + 0.33), size=0.08)
            _arrow(ax, (6.55, y + 0.12), (6.1, y + 0.12), gradient=True, size=0.08)
            _box(ax, 8.15, y + 0.08, 0.55, 0.34, "loss", GREY, size=SMALL)
            _arrow(ax, (7.8, y + 0.33), (8.15, y + 0.33), size=0.07)
            _arrow(ax, (8.15, y + 0.16), (7.8, y + 0.16), gradient=True, size=0.07)
    return with_alt(
        fig,
        "Two bodies under three rules. sff: each body has its head and loss, between them stand "
        "detach and normalisation. deepsup: the same without detach, so the gradient crosses. bp: "
        "the two bodies alone, without normalisation and heads, then pooling, a new linear layer "
        "and one loss.",
    )


@course_style()
def diagram_cka() -> Figure:
    """Draw how CKA compares two networks: not features, but which images are alike."""
    fig, ax = _canvas(3.6)
    _title(ax, "CKA: do two networks find the same images alike?")
    _image(ax, 0.3, 1.5, 0.75)
    for shift in (0.06, 0.12):
        corner = (0.3 + shift, 1.5 + shift)
        ax.add_patch(Rectangle(corner, 0.75, 0.75, fill=False, edgecolor=INK, zorder=2))
    _text(ax, 0.7, 1.25, "the same\nn images", va="top")
    groups = np.repeat([0, 1, 2], 2)
    same = (groups[:, None] == groups).astype(float)
    wave = 0.5 + 0.5 * np.sin(3.0 * np.add.outer(np.arange(6), np.arange(6)))
    for name, y, table, letter in (
        ("network 1", 1.95, 0.6 * same + 0.25 * wave + 0.15 * np.eye(6), ("A", "K = A Aᵀ")),
        ("network 2", 0.4, 0.5 * same + 0.3 * (1 - wave) + 0.2 * np.eye(6), ("B", "L = B Bᵀ")),
    ):
        middle = y + 0.5
        _arrow(ax, (1.3, 1.9), (2.0, middle))
        _box(ax, 2.0, middle - 0.35, 1.25, 0.7, name, bold=True)
        _arrow(ax, (3.25, middle), (3.7, middle))
        _box(ax, 3.7, middle - 0.45, 0.6, 0.9, letter[0], HEAD, size=LARGE, bold=True)
        _text(ax, 4.0, middle - 0.6, "features, n × C")
        _arrow(ax, (4.3, middle), (5.1, middle))
        ax.imshow(table, cmap="cividis", extent=(5.1, 6.1, y, y + 1), zorder=3, aspect="auto")
        _text(ax, 5.6, y - 0.12, f"{letter[1]},  n × n")
    _arrow(ax, (6.1, 2.45), (6.9, 1.95))
    _arrow(ax, (6.1, 0.9), (6.9, 1.45))
    _box(ax, 6.9, 1.3, 1.75, 0.8, "CKA:\ncosine of the\ntwo tables", GREY, size=SMALL)
    _text(ax, 7.77, 1.1, "1: the same images are alike\n0: no relation", va="top")
    return with_alt(
        fig,
        "The same n images go through two networks. Each gives a table of features, A and B, and "
        "from it an n by n table K or L of how alike two images are. CKA is the cosine of the two "
        "n by n tables, after centring: 1 if the same images are alike, 0 without any relation.",
    )
