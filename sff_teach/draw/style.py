"""The look of every figure: colours, settings, `show`; private, see `plots` for what to use.

A figure is a `matplotlib.figure.Figure` that never met pyplot, so a thread may draw it.
"""

import base64
import html
import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ..util.checks import check_count, check_number, explained, short_repr

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
INK, GREY, PALE = "#222222", "#6B6B6B", "#E4E4E4"  # text; axes and notes; grid
WIDTH = 9.0  # inches: the full width of a notebook, shown at 100 CSS pixels per inch
MARK, TOUCH, NUMBER = 13, 7, 9  # points: room for a mark; marks closer share a number; its font
MAX_BYTES = 120_000  # of one PNG, so that a notebook with a dozen figures stays light


class RuleStyle(NamedTuple):
    """How one learning rule looks in every figure."""

    colour: str
    marker: str
    dash: str | tuple
    label: str

    @property
    def line(self) -> dict:
        """Keyword arguments for `ax.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}


RULE_STYLE = {
    "bp": RuleStyle(OKABE_ITO["black"], "o", (0, (6, 2)), "backprop"),
    "bp-goodness": RuleStyle(
        OKABE_ITO["vermillion"], "s", (0, (3, 1.5)), "backprop, goodness head"
    ),
    "deepsup": RuleStyle(OKABE_ITO["green"], "^", (0, (5, 1.5, 1, 1.5)), "deep supervision"),
    "sff": RuleStyle(OKABE_ITO["blue"], "D", "-", "SFF"),
    "sff-overlap": RuleStyle(OKABE_ITO["blue"], ">", (0, (10, 2)), "SFF, overlap"),
    "sff-lookahead": RuleStyle(OKABE_ITO["green"], "d", (0, (7, 1.5, 2, 1.5)), "SFF, look-ahead"),
    "ff": RuleStyle(OKABE_ITO["purple"], "v", (0, (1, 1.2)), "forward-forward"),
    "ff-greedy": RuleStyle(OKABE_ITO["vermillion"], "<", (0, (1, 2.5)), "forward-forward, greedy"),
}
# For anything else that is compared (a head size, a recipe): told apart in the same three ways.
OTHER_STYLES = (
    (OKABE_ITO["blue"], "P", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    (OKABE_ITO["vermillion"], "X", (0, (2, 1))),
    (OKABE_ITO["green"], "p", (0, (8, 2))),
    (OKABE_ITO["purple"], "h", (0, (4, 1, 2, 1))),
    (GREY, "*", (0, (1, 2))),
)

_DEPTH = LinearSegmentedColormap.from_list("depth", ["#4BA3DB", OKABE_ITO["blue"], "#00263D"])
_RC = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[style.colour for style in RULE_STYLE.values()])
    + cycler(linestyle=[style.dash for style in RULE_STYLE.values()]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "mathtext.fontset": "dejavusans",
    "savefig.bbox": None,
    "savefig.transparent": False,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}
_LOCK = threading.RLock()  # matplotlib's settings are global, and widgets draw from a thread


@contextmanager
def course_style() -> Iterator[None]:
    """The course's matplotlib settings, as a context manager or a decorator."""
    with _LOCK, matplotlib.rc_context(_RC):
        yield


# ---------------------------------------------------------------- showing


@explained()
@course_style()
def png(fig: Figure, dpi: float = 160) -> bytes:
    """Return `fig` as PNG bytes, at `dpi` or as much below it as keeps the picture under 120 kB.

    Of its colours 256 are kept: nobody notices in a plot, and the file is a third as large.
    """
    if not isinstance(fig, Figure):
        raise TypeError(f"fig must be a figure, not {short_repr(fig)}; draw one.")
    check_number(dpi, "dpi", 10, 1000)
    for resolution in (dpi, 0.8 * dpi, 0.6 * dpi):
        drawn, buffer = io.BytesIO(), io.BytesIO()
        fig.savefig(drawn, format="png", dpi=resolution, facecolor="white")
        picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()


def figure_html(fig: Figure, *, alt: str, caption: str) -> str:
    """Return `fig` as an HTML `<figure>` with the picture inside, its alt text and its caption."""
    for name, text in (("alt", alt), ("caption", caption)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} is empty: say in words what the figure shows.")
    return (
        f'<figure style="margin: 0.5em 0 1em 0">{image_html(png(fig), fig.get_figwidth(), alt)}'
        f"<figcaption>{html.escape(caption.strip())}</figcaption></figure>"
    )


@explained()
def image_html(picture: bytes, inches: float, alt: str) -> str:
    """An `<img>` with a PNG inside it, 100 CSS pixels to the inch."""
    data = base64.b64encode(picture).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt.strip())}" '
        f'width="{round(100 * inches)}" style="max-width:100%; height:auto">'
    )


def figure_data(fig: Figure, *, alt: str, caption: str) -> dict[str, str]:
    """``figure_html``, and the words alone for where there is no HTML; as ``display`` takes it."""
    markup = figure_html(fig, alt=alt, caption=caption)
    return {"text/html": markup, "text/plain": f"[{alt.strip()}] {caption.strip()}"}


def display_data(data: dict[str, str], **options):
    """IPython's ``display`` of raw data, with its return value; False outside a notebook."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return False
    return get_ipython() is not None and display(data, raw=True, **options)


def show(fig: Figure, *, alt: str, caption: str) -> None:
    """Show `fig` in the notebook with its alt text and, under it, a caption in words.

    `alt` says what is to be seen for those who cannot see it, `caption` how to read it. Outside a
    notebook only the caption is printed. Raises ValueError when either is empty.
    """
    if display_data(figure_data(fig, alt=alt, caption=caption)) is False:
        print(caption.strip())


@explained()
@course_style()
def new_figure(
    width: float = 6.5,
    height: float = 3.6,
    nrows: int = 1,
    ncols: int = 1,
    *,
    title: str | list[str] | None = None,
    xlabel: str | list[str] | None = None,
    ylabel: str | list[str] | None = None,
    **subplots,
) -> tuple[Figure, Axes | np.ndarray]:
    """Return `(fig, ax)` in the course's style, `(fig, axes)` with more than one panel.

    `width` and `height` in inches (9 fills a notebook). `title`, `xlabel` and `ylabel` are one text
    for all panels or a list with one each. Other arguments go to `Figure.subplots` (`sharey=True`).
    """
    for name, value in (("width", width), ("height", height)):
        check_number(value, name, 0.1, 200)
    for name, value in (("nrows", nrows), ("ncols", ncols)):
        check_count(value, name, maximum=200)
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(nrows, ncols, squeeze=False, **subplots)
    for i, ax in enumerate(axes.flat):
        texts = {"title": title, "xlabel": xlabel, "ylabel": ylabel}
        ax.set(
            **{
                name: text if isinstance(text, str) else text[i]
                for name, text in texts.items()
                if text is not None
            }
        )
    if axes.size == 1:
        return fig, axes[0, 0]
    return fig, axes[0] if nrows == 1 else axes[:, 0] if ncols == 1 else axes


# ---------------------------------------------------------------- small helpers


@explained()
def tint(colour: str, amount: float) -> str:
    """Mix `colour` with white: amount 1 keeps it, 0 is white."""
    return to_hex(1 - amount * (1 - np.array(to_rgb(colour))))


@explained()
def ink(colour: str) -> str:
    """Darken `colour` until text in it has a contrast of at least 4.5 on white."""
    rgb = np.array(to_rgb(colour))
    while _contrast_on_white(rgb) < 4.5:
        rgb = 0.95 * rgb
    return to_hex(rgb)


def _contrast_on_white(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


@explained()
def block_colours(count: int) -> list[str]:
    """Return `count` blues from light (first block) to dark (last): depth, also in greyscale."""
    check_count(count, "count", minimum=0, maximum=10_000)
    return [to_hex(_DEPTH(t)) for t in (np.linspace(0, 1, count) if count > 1 else [0.6])]


def shortened(name: object, letters: int = 14) -> str:
    """The name, or as much of it as there is room for."""
    name = str(name)
    return name if len(name) <= letters else name[: letters - 1] + "…"


@explained()
def rule_style(name: str, position: int = 0) -> RuleStyle:
    """Return the style of a rule, or one of the spare styles (by `position`) for any other name."""
    return RULE_STYLE.get(name) or RuleStyle(*OTHER_STYLES[position % len(OTHER_STYLES)], str(name))


@explained()
@course_style()
def end_labels(ax: Axes, labels: Iterable[tuple[float, float, str, str]]) -> None:
    """Write labels at the right edge of `ax`, moved apart where they would touch.

    `labels`: `(x, y, text, colour)` in data coordinates, usually the last point of each line.
    A thin line joins a label to its point. Call it last: it fixes the y limits.
    """
    labels = sorted((one for one in labels if np.isfinite(one[1])), key=lambda one: one[1])
    ax.set_ylim(ax.get_ylim())
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = [to_axes.transform((x, y))[1] for x, y, *_ in labels]
    gap = 9 * 1.45 / 72 / (ax.get_position().height * ax.figure.get_figheight())
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
    for (x, y, text, colour), height in zip(labels, _spread(wanted, gap)):
        ax.annotate(
            text,
            xy=(x, y),
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=ink(colour),
            annotation_clip=False,
            arrowprops=line | {"relpos": (0, 0.5)},
        )


@explained()
@course_style()
def number_marks(ax: Axes, marks: Iterable[tuple[float, float, str, str]]) -> None:
    """Write a number beside each mark: where there is room, and once for marks that lie together.

    `marks`: `(x, y, text, colour)` in data coordinates; a mark without text is only kept clear.
    Call it last: it fixes the limits.
    """
    marks = list(marks)
    fig = ax.figure
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    if fig.get_layout_engine() is not None:
        fig.get_layout_engine().execute(fig)  # where the axes will be
    points = ax.transData.transform(np.reshape([mark[:2] for mark in marks], (-1, 2)))
    points = points * 72 / fig.dpi  # (marks, 2)
    groups: list[list[int]] = []  # marks that touch the first of their group
    for i, place in enumerate(points):
        near = [group for group in groups if np.abs(place - points[group[0]]).max() < TOUCH]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    panel = ax.bbox.extents * 72 / fig.dpi
    taken = [(*(place - MARK / 2), *(place + MARK / 2)) for place in points]
    for group in groups:
        named = [i for i in group if marks[i][2]]
        text = ", ".join(dict.fromkeys(marks[i][2] for i in named))
        if not text:
            continue
        (left, low), (right, top) = points[group].min(0), points[group].max(0)
        middle = (left + right) / 2
        wide, high = 0.62 * NUMBER * len(text) + 1, 1.1 * NUMBER
        places = [
            (x, y, x + wide, y + high)
            for away in (MARK / 2, MARK / 2 + 5, MARK / 2 + 10)
            for x, y in (
                (right + away, top + 1 + away - MARK / 2),
                (left - wide - away, top + 1 + away - MARK / 2),
                (right + away, low - high - 1 - away + MARK / 2),
                (left - wide - away, low - high - 1 - away + MARK / 2),
                (middle - wide / 2, top + 1 + away),
                (middle - wide / 2, low - high - 1 - away),
            )
        ]
        best = min(places, key=lambda box: sum(_common(box, one) for one in taken)
                   + wide * high - _common(box, panel))  # fmt: skip
        taken.append(best)
        colours = {marks[i][3] for i in named}
        ax.annotate(text, marks[group[0]][:2], xytext=np.array(best[:2]) - points[group[0]],
                    textcoords="offset points", fontsize=NUMBER, zorder=8,
                    color=ink(colours.pop()) if len(colours) == 1 else INK)  # fmt: skip


def _common(a, b):
    """Area that two boxes (left, bottom, right, top) have in common."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)


def _spread(wanted, gap):
    """Move sorted heights in [0, 1] at least `gap` apart, each cluster around its middle."""
    clusters = []  # [heights], each drawn `gap` apart around its centre

    def centre(cluster):
        half = gap * (len(cluster) - 1) / 2
        return min(max(np.mean(cluster), half), max(1 - half, half))

    for height in wanted:
        clusters.append([height])
        while len(clusters) > 1:
            low, high = clusters[-2:]
            if centre(high) - centre(low) >= gap * (len(low) + len(high)) / 2:
                break
            clusters[-2:] = [low + high]
    return [centre(c) + gap * (i - (len(c) - 1) / 2) for c in clusters for i in range(len(c))]
