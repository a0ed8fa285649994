"""The algorithms and the network as pictures, drawn in one visual language.

Black arrow: activations. Dashed vermillion arrow: gradient. Blue box: weights that learn inside a
block. Orange box: a head. Double bar: detach, which no gradient passes. Hatched bar: the true
class. One unit is one inch, so that text and boxes keep their proportion.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from PIL import Image

from ..cut.table import BlockTable
from ..util.checks import SFFError
from .style import GREY, INK, OKABE_ITO, WIDTH, course_style, ink, tint, with_alt

BLOCK, HEAD, GRADIENT = OKABE_ITO["blue"], OKABE_ITO["orange"], OKABE_ITO["vermillion"]
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


def _image(ax, x, y, size):
    """A ten-by-ten seven."""
    pixels = np.array([0.85 * (c == "#") for c in SEVEN]).reshape(10, 10)
    ax.imshow(1 - pixels, cmap="gray", vmin=0, vmax=1, extent=(x, x + size, y, y + size),
              interpolation="nearest", zorder=3, aspect="auto")  # fmt: skip
    ax.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=INK, linewidth=1, zorder=4))


def _title(ax, text):
    _text(ax, 0.15, ax.get_ylim()[1] - 0.22, text, size=LARGE, bold=True, ha="left")


# ---------------------------------------------------------------- the algorithms


def diagram_backprop() -> Figure:
    """Backpropagation: one loss at the end, its gradient through every block."""
    return _stored("backprop")


def diagram_ff() -> Figure:
    """Hinton's forward-forward: two passes, a goodness and a threshold in every layer."""
    return _stored("ff")


def diagram_sff() -> Figure:
    """SFF: one pass, a head and a loss on every block, detach between them, a vote."""
    return _stored("sff")


def diagram_block() -> Figure:
    """The inside of a LocalBlock: body, head, goodness, loss, and what the next one gets."""
    return _stored("block")


def diagram_pipeline() -> Figure:
    """Who is busy when: backprop in a pipeline of micro-batches (GPipe), and blocks of SFF.

    Source: Huang et al. 2019, section 2.3, for GPipe and its share of idle time.
    """
    return _stored("pipeline")


def diagram_checkpointing() -> Figure:
    """Draw what waits for the backward pass at one moment, by four ways to train."""
    return _stored("checkpointing")


def diagram_seam() -> Figure:
    """Draw a network that SFF trained, and what goes on from it under three rules."""
    return _stored("seam")


def diagram_cka() -> Figure:
    """Draw how CKA compares two networks: not features, but which images are alike."""
    return _stored("cka")


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


# ---------------------------------------------------------------- measured times, networks


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


def _timeline_key(ax, x, y):
    _work(ax, x, y - 0.1, 0.3, 0.2, False)
    _text(ax, x + 0.38, y, "forward", ha="left")
    _work(ax, x + 1.1, y - 0.1, 0.3, 0.2, True)
    _text(ax, x + 1.48, y, "backward", ha="left")
    _update(ax, x + 2.4, y)
    _text(ax, x + 2.55, y, "weights change", ha="left")
    _idle(ax, x + 3.8, y - 0.1, 0.3, 0.2)
    _text(ax, x + 4.18, y, "idle", ha="left")


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
    _timeline_key(ax, left, 0.2)
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
