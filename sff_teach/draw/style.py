"""The style of every figure: colours, settings, labels, and ``show``.

Figures are made without pyplot, so that a background thread can draw them.
"""

import base64
import html
import io
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

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
INK, GREY = "#222222", "#6B6B6B"  # text; axes and notes
WIDTH = 9.0  # inches: the full width of a notebook, shown at 100 CSS pixels per inch
MAX_BYTES = 120_000  # of one PNG, to keep notebooks small
LABEL_SIZE = 9  # points, of the texts that are placed by hand
MARK_SIZE = 13  # points kept free around a mark
SAME_PLACE = 7  # points: marks closer than this share one number


class RuleStyle(NamedTuple):
    """The style of one learning rule in every figure."""

    colour: str
    marker: str | tuple
    dash: str | tuple
    label: str

    @property
    def line(self) -> dict:
        """Keyword arguments for ``ax.plot``."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}


_BLACK, _BLUE, _PURPLE = OKABE_ITO["black"], OKABE_ITO["blue"], OKABE_ITO["purple"]
_VERMILLION, _GREEN = OKABE_ITO["vermillion"], OKABE_ITO["green"]
# Rules, then variants of ``analysis.memory``: a variant has its rule's colour and its own marker.
RULE_STYLE = {
    "bp": RuleStyle(_BLACK, "o", (0, (6, 2)), "backprop"),
    "bp-goodness": RuleStyle(_VERMILLION, "s", (0, (3, 1.5)), "backprop, goodness head"),
    "deepsup": RuleStyle(_GREEN, "^", (0, (5, 1.5, 1, 1.5)), "deep supervision"),
    "sff": RuleStyle(_BLUE, "D", "-", "SFF"),
    "sff-overlap": RuleStyle(_BLUE, ">", (0, (10, 2)), "SFF, overlap"),
    "sff-lookahead": RuleStyle(_BLUE, "d", (0, (7, 1.5, 2, 1.5)), "SFF, look-ahead"),
    "ff": RuleStyle(_PURPLE, "v", (0, (1, 1.2)), "forward-forward"),
    "ff-greedy": RuleStyle(_PURPLE, "<", (0, (1, 2.5)), "forward-forward, greedy"),
    "random": RuleStyle(GREY, "x", (0, (1, 4)), "random layers"),
    "bp-checkpoint": RuleStyle(_BLACK, "X", (0, (3, 1, 1, 1)), "backprop, checkpointing"),
    "bp-accumulate": RuleStyle(_BLACK, "P", (0, (2, 3)), "backprop, accumulation"),
    "bp-recompute": RuleStyle(_BLACK, (8, 1, 0), (0, (9, 1.5)), "backprop, recompute"),
    "sff-recompute": RuleStyle(_BLUE, "*", (0, (4, 1, 1, 1, 1, 1)), "SFF, recompute"),
    "sff-summed": RuleStyle(_BLUE, "p", (0, (1.5, 1)), "SFF, losses summed"),
}
# For other things that are compared (networks, losses, the vote): olive, browns and greys, as no
# rule has.
OTHER_STYLES = (
    ("#6E6E2E", "8", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    ("#4D4D4D", (4, 1, 45), (0, (2, 1))),
    ("#B08D57", "h", (0, (8, 2))),
    ("#8C8C8C", (6, 1, 0), (0, (4, 1, 2, 1))),
    ("#4A2F1B", "H", (0, (1, 2))),
)
_CODE_NAMES = "|".join(sorted(set(RULE_STYLE) - {"random"}, key=len, reverse=True))
POSITIVE, NEGATIVE = OKABE_ITO["sky"], "#8B5A2B"  # images of forward-forward
BLOCK_MARKERS = "os^DvP"

_SETTINGS = {
    **rc_params_from_file(Path(__file__).with_name("course.mplstyle"), use_default_template=False),
    "axes.prop_cycle": cycler(color=[style.colour for style in RULE_STYLE.values()])
    + cycler(linestyle=[style.dash for style in RULE_STYLE.values()]),
}
_LOCK = threading.RLock()  # matplotlib's settings are global; widgets draw in threads


@contextmanager
def course_style() -> Iterator[None]:
    """The course's matplotlib settings, as a context manager or a decorator."""
    with _LOCK, matplotlib.rc_context(_SETTINGS):
        yield


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
    margins: dict[str, float] | None = None,
    **subplots: Any,
) -> tuple[Figure, Any]:
    """A figure in the course's style, and its axes: one, or an array of them.

    Args:
        width: in inches; 9 fills a notebook.
        height: in inches.
        nrows: rows of panels.
        ncols: columns of panels.
        title: one text for all panels, or a list with one for each.
        xlabel: likewise.
        ylabel: likewise.
        margins: of ``Figure.subplots_adjust``; by default a constrained layout, which is slow.
        **subplots: other arguments of ``Figure.subplots``, such as ``sharey=True``.
    """
    fig = Figure(figsize=(width, height), layout=None if margins else "constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(nrows, ncols, squeeze=False, **subplots)
    if margins:
        fig.subplots_adjust(**margins)
    for i, ax in enumerate(axes.flat):
        for name, text in {"title": title, "xlabel": xlabel, "ylabel": ylabel}.items():
            ax.set(**{name: text[i] if isinstance(text, list) else text or ""})
    return fig, axes[0, 0] if axes.size == 1 else axes.squeeze()


# ---------------------------------------------------------------- showing


def with_alt(fig: Figure, text: str) -> Figure:
    """Attach an alternative text to a figure, for ``show``; return the figure.

    Args:
        fig: the figure.
        text: a description.
    """
    fig.alt = text
    return fig


def show(fig: Figure, *, caption: str, alt: str | None = None) -> None:
    """Show a figure in the notebook, with a caption under it; elsewhere print the caption.

    Args:
        fig: the figure.
        caption: how to read the figure.
        alt: a description for screen readers; by default that of ``with_alt``.
    """
    if display_data(figure_data(fig, caption=caption, alt=alt)) is False:
        print(caption.strip())
    else:
        display_data(caption_data(caption))


def figure_data(
    fig: Figure, *, caption: str, alt: str | None = None, quick: bool = False
) -> dict[str, Any]:
    """A figure by MIME type: HTML with alt text and caption, PNG, and text.

    Args:
        fig: as for ``show``.
        caption: as for ``show``.
        alt: as for ``show``.
        quick: whether to use ``quick_png``.
    """
    alt = getattr(fig, "alt", None) if alt is None else alt
    for name, text in (("alt", alt), ("caption", caption)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} is empty: say in words what the figure shows.")
    picture = quick_png(fig) if quick else png(fig)
    markup = (
        f'<figure style="margin: 0.5em 0 1em 0">{image_html(picture, fig.get_figwidth(), alt)}'
        f"<figcaption>{html.escape(caption.strip())}</figcaption></figure>"
    )
    return {
        "text/html": markup,
        "image/png": base64.b64encode(picture).decode("ascii"),
        "text/plain": f"[{alt.strip()}] {caption.strip()}",
    }


def caption_data(caption: str) -> dict[str, str]:
    """A second output, for viewers that show the PNG and no HTML: the caption, elsewhere nothing.

    Args:
        caption: as for ``show``.
    """
    escaped = re.sub(r"([\\`*_\[\]<>#$|~&])", r"\\\1", caption.strip())
    return {"text/html": "<!-- caption: above -->", "text/markdown": escaped}


def display_data(data: dict[str, Any], **options: Any) -> Any:
    """The result of IPython's ``display`` of raw data; False outside a notebook.

    Args:
        data: MIME type → content.
        **options: of ``display``, such as ``display_id``.
    """
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return False
    return get_ipython() is not None and display(data, raw=True, **options)


@course_style()
def png(fig: Figure) -> bytes:
    """A figure as PNG bytes in 256 colours, at 160 dots per inch or less, see ``MAX_BYTES``."""
    for dpi in (160, 128, 96):
        drawn, buffer = io.BytesIO(), io.BytesIO()
        fig.savefig(drawn, format="png", dpi=dpi, facecolor="white")
        picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()


@course_style()
def quick_png(fig: Figure) -> bytes:
    """A figure as PNG bytes, made fast but larger, for figures that are redrawn often."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=100, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def image_html(picture: bytes, inches: float, alt: str) -> str:
    """An ``<img>`` with a PNG inside it, 100 CSS pixels to the inch.

    Args:
        picture: the PNG.
        inches: width of the figure.
        alt: alternative text.
    """
    data = base64.b64encode(picture).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt.strip())}" '
        f'width="{round(100 * inches)}" style="max-width:100%; height:auto">'
    )


# ---------------------------------------------------------------- colours and names


def rule_style(name: str, position: int = 0) -> RuleStyle:
    """The style of a rule, or one of the spare styles for any other name.

    Args:
        name: of a rule, or of anything else that is compared.
        position: which of the spare styles.
    """
    return RULE_STYLE.get(name) or RuleStyle(*OTHER_STYLES[position % len(OTHER_STYLES)], str(name))


def in_words(text: str) -> str:
    """A text with the rules' names as figures show them: "sff, then bp" is "SFF, then backprop".

    Args:
        text: the name of a row, for example.
    """
    return re.sub(rf"(?<![\w-])({_CODE_NAMES})(?![\w-])", lambda m: RULE_STYLE[m[0]].label, text)


def block_colours(count: int, rule: str = "sff") -> list[str]:
    """Shades of a rule's colour from light (first block) to dark (last), apart in greyscale too.

    Args:
        count: of blocks; a single one has the rule's own colour.
        rule: its name.
    """
    colour = rule_style(rule).colour
    if count == 1:
        return [colour]
    light = np.array(to_rgb(ink(tint(colour, 0.5), 3)))
    dark = 0.35 * np.array(to_rgb(colour))
    return [to_hex(light + t * (dark - light)) for t in np.linspace(0, 1, count)]


def tint(colour: str, amount: float) -> str:
    """A colour mixed with white.

    Args:
        colour: any matplotlib colour.
        amount: 1 keeps the colour, 0 is white.
    """
    return to_hex(1 - amount * (1 - np.array(to_rgb(colour))))


def ink(colour: str, contrast: float = 4.5) -> str:
    """A colour, darkened until it has enough contrast on white (WCAG: text 4.5, graphics 3).

    Args:
        colour: any matplotlib colour.
        contrast: the ratio.
    """
    rgb = np.array(to_rgb(colour))
    while _contrast_on_white(rgb) < contrast:
        rgb = 0.95 * rgb
    return to_hex(rgb)


def _contrast_on_white(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def shortened(name: object, letters: int = 14) -> str:
    """A name, shortened to a number of letters.

    Args:
        name: anything that has a ``str``.
        letters: their maximum, with the ellipsis.
    """
    name = str(name)
    return name if len(name) <= letters else name[: letters - 1] + "…"


# ---------------------------------------------------------------- labels


@course_style()
def end_labels(ax: Axes, labels: Iterable[tuple[float, float, str, str]]) -> None:
    """Write labels at the right edge of a panel, without overlap.

    Call it last: it fixes the y limits.

    Args:
        ax: the panel.
        labels: ``(x, y, text, colour)`` in data coordinates, usually the last point of each line.
    """
    labels = sorted(
        (label for label in labels if np.isfinite(label[1])), key=lambda label: label[1]
    )
    ax.set_ylim(ax.get_ylim())
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = [to_axes.transform((x, y))[1] for x, y, *_ in labels]
    gap = LABEL_SIZE * 1.45 / 72 / (ax.get_position().height * ax.figure.get_figheight())
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4,
            "relpos": (0, 0.5)}  # fmt: skip
    for (x, y, text, colour), height in zip(labels, _spread(wanted, gap), strict=True):
        ax.annotate(text, (x, y), (1.05, height), textcoords="axes fraction", va="center",
                    fontsize=LABEL_SIZE, color=ink(colour), annotation_clip=False,
                    arrowprops=line)  # fmt: skip


def _spread(wanted: list[float], gap: float) -> list[float]:
    """Move sorted heights in [0, 1] at least `gap` apart, each cluster around its middle."""
    clusters: list[list[float]] = []

    def centre(cluster: list[float]) -> float:
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


@course_style()
def number_marks(ax: Axes, marks: Iterable[tuple[float, float, str, str]]) -> None:
    """Write a text beside each mark where there is room; marks at one place share a text.

    Call it last: it fixes the limits.

    Args:
        ax: the panel.
        marks: ``(x, y, text, colour)`` in data coordinates; a mark without text is only kept free.
    """
    marks, fig = list(marks), ax.figure
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    if fig.get_layout_engine() is not None:
        fig.get_layout_engine().execute(fig)  # where the axes will be
    points = ax.transData.transform(np.reshape([mark[:2] for mark in marks], (-1, 2)))
    points = points * 72 / fig.dpi
    panel = ax.bbox.extents * 72 / fig.dpi
    taken = [(*(point - MARK_SIZE / 2), *(point + MARK_SIZE / 2)) for point in points]

    for group in _by_place(points):
        texts = dict.fromkeys(marks[i][2] for i in group if marks[i][2])
        if not texts:
            continue
        text = ", ".join(texts)
        size = 0.62 * LABEL_SIZE * len(text) + 1, 1.1 * LABEL_SIZE
        # The place with the least overlap with others and outside the panel.
        box = min(
            _places_around(points[group], *size),
            key=lambda box: sum(_overlap(box, other) for other in taken) - _overlap(box, panel),
        )
        taken.append(box)
        colours = {marks[i][3] for i in group if marks[i][2]}
        ax.annotate(text, marks[group[0]][:2], xytext=np.array(box[:2]) - points[group[0]],
                    textcoords="offset points", fontsize=LABEL_SIZE, zorder=8,
                    color=ink(colours.pop()) if len(colours) == 1 else INK)  # fmt: skip


def _by_place(points: np.ndarray) -> list[list[int]]:
    """Groups of indices of points within SAME_PLACE of the first of the group."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        for group in groups:
            if np.abs(point - points[group[0]]).max() < SAME_PLACE:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _places_around(points: np.ndarray, width: float, height: float) -> list[tuple]:
    """Boxes (left, bottom, right, top) for a text around some points, nearest first."""
    (left, low), (right, top) = points.min(0), points.max(0)
    corners = []
    for far in (0, 5, 10):
        away = MARK_SIZE / 2 + far
        beside = (right + away, left - width - away)
        corners += [(x, y) for y in (top + 1 + far, low - height - 1 - far) for x in beside]
        middle = (left + right - width) / 2
        corners += [(middle, top + 1 + away), (middle, low - height - 1 - away)]
    return [(x, y, x + width, y + height) for x, y in corners]


def _overlap(a: tuple, b: tuple) -> float:
    """Area that two boxes (left, bottom, right, top) have in common."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
