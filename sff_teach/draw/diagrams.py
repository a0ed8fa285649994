"""Diagrams of the algorithms and of networks, in one visual language.

Black arrow: activations. Dashed orange arrow: gradient. Grey box: weights that learn inside a
block. Yellow box: a head. Double bar: detach. No rule has these colours. One unit is one inch.
"""

import html
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, Polygon, Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from ..cut.table import BlockTable
from .style import GREY, INK, OKABE_ITO, WIDTH, course_style, ink, new_figure, tint, with_alt

BLOCK, HEAD, GRADIENT = "#4D4D4D", OKABE_ITO["yellow"], ink(OKABE_ITO["orange"], 3)
DASHES = (0, (3.5, 1.8))
FENCE = {"facecolor": "#F5F5F5", "edgecolor": "#BDBDBD", "linewidth": 1}
IDLE = {"facecolor": "#F5F5F5", "edgecolor": "#BDBDBD", "hatch": "////"}
UPDATE = {"color": INK, "marker": "D", "markersize": 5, "markeredgecolor": "w", "linestyle": ""}
SEVEN = (".........." ".........." ".#######.." "......##.." ".....##..." ".....#...."
         "....##...." "....#....." "...##....." "..........")  # fmt: skip


# ---------------------------------------------------------------- the vocabulary


def _canvas(height):
    fig = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def _text(ax, x, y, text, *, size=9, colour=INK, ha="center", bold=False):
    weight = "bold" if bold else "normal"
    ax.text(x, y, text, fontsize=size, color=colour, ha=ha, va="center", fontweight=weight,
            linespacing=1.25, zorder=6)  # fmt: skip


def _rounded(ax, x, y, w, h, radius, **look):
    shape = f"round,pad=0,rounding_size={min(radius, w / 3, h / 3)}"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=shape, **look))


def _box(ax, x, y, w, h, text="", colour=BLOCK):
    amount = 0.45 if colour == HEAD else 0.22
    look = {"facecolor": tint(colour, amount), "edgecolor": ink(colour), "linewidth": 1.4}
    _rounded(ax, x, y, w, h, 0.08, zorder=3, **look)
    _text(ax, x + w / 2, y + h / 2, text)


def _arrow(ax, *points, gradient=False, size=0.1):
    """A polyline with an arrowhead at its end."""
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


# ---------------------------------------------------------------- the algorithms


def _stored(name: str) -> Figure:
    """A drawing of the folder ``pictures``: its PNG, with the SVG's description as alt text.

    The SVG is the source. After a change, export the PNG from it at 160 dots per inch.
    """
    folder = Path(__file__).parent / "pictures"
    pixels = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
    fig = Figure(figsize=(pixels.shape[1] / 160, pixels.shape[0] / 160), dpi=160)
    FigureCanvasAgg(fig)
    fig.figimage(pixels)
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    return with_alt(fig, html.unescape(svg.partition("<desc>")[2].partition("</desc>")[0]))


diagram_backprop = partial(_stored, "backprop")  # one loss, its gradient through every block
diagram_ff = partial(_stored, "ff")  # two passes, goodness and threshold in every layer
diagram_sff = partial(_stored, "sff")  # one pass, a head and a loss on every block, detach, a vote
diagram_block = partial(_stored, "block")  # the inside of a LocalBlock
diagram_pipeline = partial(_stored, "pipeline")  # GPipe (Huang et al. 2019, section 2.3) and SFF
diagram_checkpointing = partial(_stored, "checkpointing")  # what waits for the backward pass
diagram_controls = partial(_stored, "controls")  # bp, bp-goodness, deepsup and sff, one step apart
diagram_seam = partial(_stored, "seam")  # three ways on from a network that SFF trained
diagram_cka = partial(_stored, "cka")  # two networks compared by which images are alike


# ---------------------------------------------------------------- measured times, networks


@course_style()
def draw_timeline(trace: Sequence[dict]) -> Figure:
    """Draw the timeline of a pipeline's processes, as ``fit_pipeline`` measured it.

    Args:
        trace: the records that ``fit_pipeline(..., trace=trace)`` adds, of some ten steps.
    """
    processes = sorted({r["process"] for r in trace})
    first = min(r["start"] for r in trace)
    span = 1000 * (max(r["stop"] for r in trace) - first)  # milliseconds
    fig, ax = new_figure(
        WIDTH, 0.7 * len(processes) + 1.3, title="Who worked when: measured", xlabel="milliseconds"
    )
    busy = []
    for place, process in enumerate(processes):
        records = [r for r in trace if r["process"] == process]
        start, sent, stop = (
            np.array([1000 * (r[name] - first) for r in records])
            for name in ("start", "sent", "stop")
        )
        ax.barh(place, stop.max() - start.min(), 0.6, start.min(), **IDLE)
        steps = np.array([r["step"] for r in records])
        for odd in (0, 1):  # neighbours differ
            k = steps % 2 == odd
            ax.barh([place] * k.sum(), (sent - start)[k], 0.6, start[k], **_bar(BLOCK, odd))
            ax.barh([place] * k.sum(), (stop - sent)[k], 0.6, sent[k], **_bar(GRADIENT, odd))
        ax.plot(stop, [place] * len(stop), zorder=4, **UPDATE)
        for step in sorted(set(steps)):
            low, high = start[steps == step].min(), stop[steps == step].max()
            if high - low > 0.016 * span * len(str(step + 1)):  # room for the number
                _text(ax, (low + high) / 2, place - 0.45, f"{step + 1}")
        busy.append(f"{(stop - start).sum() / (stop.max() - start.min()):.0%}")
    names = [f"process {p + 1}\n{share} busy" for p, share in zip(processes, busy)]
    ax.set_yticks(range(len(processes)), names)
    ax.set_ylim(len(processes) - 0.5, -0.65)
    ax.grid(False)
    key = [Patch(**_bar(BLOCK), label="forward"), Patch(**_bar(GRADIENT), label="backward")]
    key += [Line2D([], [], **UPDATE, label="a block's weights change"), Patch(**IDLE, label="idle")]
    key += [Line2D([], [], linestyle="", label="shades change with the batch")]
    fig.legend(handles=key, loc="outside lower left", ncols=5)
    return with_alt(
        fig,
        f"Timeline of {len(processes)} processes over {span:.0f} ms: forward passes, backward "
        f"passes and waiting. Busy: {', '.join(busy)} of the time.",
    )


def _bar(colour: str, darker: bool = False) -> dict:
    """The style of a bar of a forward or backward pass."""
    return {"facecolor": tint(colour, 0.25 + 0.25 * darker), "edgecolor": ink(colour)}


@course_style()
def draw_network(
    shapes: Iterable[Sequence[int]] | BlockTable,
    cuts: Iterable[int] = (),
    *,
    rule: str = "sff",
    input_shape: Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
    title: str | None = None,
    picture: ArrayLike | None = None,
) -> Figure:
    """Draw a network layer by layer, its blocks enclosed, a head on each, a double bar at each cut.

    Args:
        shapes: the output shape (C, H, W) of every layer, or (C, N) for N tokens; or the table of
            ``describe``, whose blocks are then drawn as one layer each, cut from each other.
        cuts: the number of layers before each cut, from 1 to ``len(shapes) - 1``.
        rule: ``"sff"``; ``"deepsup"`` shows the gradient crossing.
        input_shape: the image's (C, H, W).
        notes: a short text per block, written above its head (``"83 %"``).
        title: of the drawing.
        picture: pixels of the input image, (C, H, W) in [0, 1]; by default a drawn 7.
    """
    if isinstance(shapes, BlockTable):
        shapes, cuts = [row.output_shape for row in shapes], range(1, len(shapes))
    shapes, cuts = [tuple(shape) for shape in shapes], sorted(cuts)
    blocks = [range(a, b) for a, b in zip([0, *cuts], [*cuts, len(shapes)])]

    fig, ax = _canvas(3.1 + 0.25 * (notes is not None) + 0.3 * (title is not None))
    left, middle, low, head = 1.75, 1.4, 0.65, 2.35  # x of the frames; y of layers, frames, heads
    heights, widths, starts, between, margin = _network_sizes(shapes, cuts, left, WIDTH - 0.2)
    ends = starts + widths
    edges = [(starts[block[0]], ends[block[-1]]) for block in blocks]
    roomy = min(end - start for start, end in edges) > 0.5
    gradient = min(widths) > 0.2  # for all heads or none: one without would have a meaning
    if title is not None:
        _text(ax, 0.15, ax.get_ylim()[1] - 0.22, title, size=11, bold=True, ha="left")
    _network_input(ax, input_shape, middle, left, picture)
    for block, (start, end) in zip(blocks, edges):
        frame = start - margin, low, end - start + 2 * margin, head + 0.36 - low
        _rounded(ax, *frame, 0.12, zorder=1, **FENCE)
        for i in block:
            _box(ax, starts[i], middle - heights[i] / 2, widths[i], heights[i])
        last, name = block[-1], "linear" if rule == "bp" else "head"
        _network_head(
            ax, end, widths[last], min(end - start, 0.9), middle + heights[last] / 2, head,
            name if roomy else "", gradient,
        )  # fmt: skip
        if block is not blocks[0]:
            _crossing(ax, start - between, start, middle, rule)
    _block_labels(ax, [(start + end) / 2 for start, end in edges], head, roomy, notes)
    _shape_labels(ax, starts + widths / 2, shapes, [block[-1] for block in blocks], low - 0.2)
    words = f"A network of {len(shapes)} layers in {len(blocks)} blocks, each with a head."
    words += "" if notes is None else f" Notes on the blocks: {', '.join(notes)}."
    return with_alt(fig, words if title is None else f"{title}. {words}")


def _network_sizes(shapes, cuts, left, right):
    """Heights, widths and left edges of the layers; the gap at a cut; a frame's margin."""
    sides = np.array([np.prod(shape[1:], dtype=float) ** 0.5 for shape in shapes])
    heights = np.maximum(0.18, 1.3 * (sides / sides.max()) ** 0.5)
    widths = np.array([0.3 + 0.1 * max(0, np.log2(shape[0]) - 3) for shape in shapes])
    between = min(0.7, 3.2 / max(1, len(cuts)))
    margin = min(0.09, between / 5)
    gaps = np.full(len(shapes), min(0.09, 1.2 / len(shapes)))  # before each layer
    gaps[cuts] = between
    gaps[0] = margin
    widths *= min(2.2, (right - left - gaps.sum() - margin) / widths.sum())
    return heights, widths, left + np.cumsum(gaps + widths) - widths, between, margin


def _network_head(ax, right, layer, width, bottom, top, name, gradient):
    """The head over a block's last layer (`layer` wide), activations up and gradient down."""
    _box(ax, right - width, top, width, 0.26, name, HEAD)
    x = right - layer / 2
    if gradient:
        aside = min(0.1, layer / 4)
        size = 0.8 * aside
        _arrow(ax, (x - aside, bottom), (x - aside, top), size=size)
        _arrow(ax, (x + aside, top), (x + aside, bottom), size=size, gradient=True)
    else:
        _arrow(ax, (x, bottom), (x, top), size=0.07)


def _network_input(ax, shape, middle, left, picture):
    pixels = 1 - np.array([0.85 * (c == "#") for c in SEVEN]).reshape(10, 10)
    if picture is not None:
        pixels = np.asarray(picture).transpose(1, 2, 0)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(0.8, 1.4, middle - 0.3, middle + 0.3),
              interpolation="nearest", zorder=3, aspect="auto")  # fmt: skip
    frame = {"fill": False, "edgecolor": INK, "linewidth": 1, "zorder": 4}
    ax.add_patch(Rectangle((0.8, middle - 0.3), 0.6, 0.6, **frame))
    _arrow(ax, (1.42, middle), (left, middle), size=0.08)
    _text(ax, 0.15, middle - 0.95, "channels", ha="left", colour=GREY)
    _text(ax, 0.15, middle - 1.17, "positions", ha="left", colour=GREY)
    if shape is not None:
        _text(ax, 1.1, middle - 0.95, f"{shape[0]}")
        _text(ax, 1.1, middle - 1.17, "×".join(map(str, shape[1:])))


def _crossing(ax, start, end, y, rule):
    """The arrows from one block to the next: with SFF no gradient."""
    size = min(0.09, (end - start) / 3)
    if rule == "deepsup":
        _arrow(ax, (start, y + 0.09), (end, y + 0.09), size=size)
        _arrow(ax, (end, y - 0.09), (start, y - 0.09), size=size, gradient=True)
    else:
        _arrow(ax, (start, y), (end, y), size=size)
        middle, half = (start + end - size) / 2, min(0.035, (end - start) / 10)
        for colour, width in (("white", 170 * half), (INK, 63 * half)):  # the double bar
            for x in (middle - half, middle + half):
                bar = [x, x], [y - 0.16, y + 0.16]
                ax.add_line(Line2D(*bar, color=colour, linewidth=width, zorder=5))


def _block_labels(ax, centres, y, roomy, notes):
    """Numbers, where there is room, and notes above the heads of the blocks."""
    if not roomy:
        _text(ax, 0.15, y + 0.5, "block", ha="left", colour=GREY)
        _text(ax, 0.15, y + 0.13, "head", ha="left", colour=GREY)
    labelled = 0.0  # x of the last number
    for k, centre in enumerate(centres, 1):
        if centre > labelled + 0.2:
            _text(ax, centre, y + 0.5, f"block {k}" if roomy else f"{k}")
            labelled = centre
        if notes is not None:
            _text(ax, centre, y + 0.72, notes[k - 1], bold=True)


def _shape_labels(ax, centres, shapes, first, y):
    """Channels and positions under the layers where there is room, the layers `first` first."""
    taken = []
    for i in sorted(range(len(shapes)), key=lambda i: i not in first):
        x, (channels, *positions) = centres[i], shapes[i]
        texts = f"{channels}", "×".join(map(str, positions)) or "1"
        half = 0.04 * max(map(len, texts)) + 0.03
        if all(x - half > high or x + half < low for low, high in taken):
            taken.append((x - half, x + half))
            _text(ax, x, y, texts[0])
            _text(ax, x, y - 0.22, texts[1])
