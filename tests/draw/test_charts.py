"""Figures: readable (no overlap, nothing clipped, not by colour alone), accessible, no pyplot."""

import base64
import html
import io
import re
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from sff_teach import cnn, fit, load, localize
from sff_teach import draw as plots
from sff_teach.cut.table import BlockRow, BlockTable
from sff_teach.draw import live
from sff_teach.draw import style as _figures
from sff_teach.rules import RULES
from sff_teach.study import interval

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]  # fmt: skip
FOUR_LAYERS = [(16, 14, 14), (32, 7, 7), (64, 7, 7), (64, 3, 3)]
TABLE = BlockTable(
    BlockRow(f"layer{i}", 1000, 650, shape, 10**6, 10**4, "direct")
    for i, shape in enumerate([(64, 32, 32), (128, 16, 16), (256, 8, 8)], 1)
)
RESNET18 = [(64, 32, 32)] * 5 + [(128, 16, 16)] * 4 + [(256, 8, 8)] * 4 + [(512, 4, 4)] * 4


def history(rule="sff", blocks=4, epochs=10, level=0.86, valid=True):
    rows = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-epoch / 3)
        accuracy = [level * rise * (0.8 + 0.2 * (k + 1) / blocks) for k in range(blocks)]
        row = {
            "epoch": epoch,
            "train_loss": [2.3 * np.exp(-epoch / 4) * (1.5 - k / blocks) for k in range(blocks)],
            "train_accuracy": [a + 0.02 for a in accuracy],
        }
        if valid:
            row |= {"valid_accuracy": accuracy[-1] - 0.01, "valid_block_accuracy": accuracy}
        rows.append(row)
    return SimpleNamespace(rule=rule, rows=rows)


def evaluation(*blocks, vote=0.85):
    return SimpleNamespace(accuracy=vote, block_accuracy=list(blocks))


def study_rows(sizes=(200, 1000, 10000), seeds=5):
    noise = np.random.default_rng(0)
    return [
        {"rule": rule, "images": n, "seed": seed, "accuracy": level + noise.normal(0, 0.01)}
        for n, base in zip(sizes, (0.74, 0.83, 0.88))
        for rule, level in zip(RULES, base + np.linspace(0.01, -0.06, len(RULES)))
        for seed in range(seeds)
    ]


def goodness(seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(6, 0.6, 500), rng.gamma(3, 0.45, 500)


def class_goodness(blocks=4, classes=10):
    return torch.from_numpy(np.random.default_rng(0).gamma(1, 1, (blocks, classes)))


def maps():
    return [np.random.default_rng(n).gamma(1, 1, (n, n)) for n in (14, 7, 3)]


def rows_by_blocks(counts=(2, 4, 9), seeds=5):
    noise = np.random.default_rng(0)
    cases = [("bp", 1), ("bp-goodness", 1)]
    cases += [(rule, n) for rule in ("deepsup", "sff") for n in counts]
    return [
        {
            "rule": rule,
            "accuracy": 0.8 - n * 0.01 + noise.normal(0, 0.01),
            "block_accuracy": [0] * n,
        }
        for rule, n in cases
        for _ in range(seeds)
    ]


def two_panels():
    fig, axes = plots.new_figure(9, 3.4, ncols=2)
    plots.draw_goodness(*goodness(), 2, ax=axes[0])
    plots.draw_goodness(*[784 * g for g in goodness()], 784, ax=axes[1])
    return fig


def own_figure():
    fig, ax = plots.new_figure(title="a title", xlabel="x", ylabel="y")
    ax.plot([0, 1], [0, 1])
    plots.end_labels(ax, [(1, 1, "up", "#0072B2"), (1, 0.99, "nearly", "#E69F00")])
    return fig


def timeline(steps=6):
    """Two blocks on one process, one on another, as ``fit_pipeline`` records them."""
    return [
        {"process": p, "block": b, "step": 90 + s, "start": 7 + at + 0.05 * s,
         "sent": 7 + at + 0.05 * s + 0.008, "stop": 7 + at + 0.05 * s + 0.024}
        for s in range(steps) for p, b, at in ((0, 0, 0), (0, 1, 0.025), (1, 2, 0.035))
    ]  # fmt: skip


DIAGRAMS = {
    "network": lambda: plots.draw_network(FOUR_LAYERS, [1, 2, 3], input_shape=(1, 28, 28)),
    "network, two blocks": lambda: plots.draw_network(FOUR_LAYERS, [2], notes=["70 %", "81 %"]),
    "network, deepsup": lambda: plots.draw_network(FOUR_LAYERS, [1, 2, 3], rule="deepsup"),
    "network, from a table": lambda: plots.draw_network(TABLE, input_shape=(3, 32, 32)),
    "network, bp": lambda: plots.draw_network(RESNET18, rule="bp", input_shape=(3, 32, 32)),
    "network, one layer": lambda: plots.draw_network([(16, 14, 14)]),
    "network, residual": lambda: plots.draw_network(RESNET18, range(1, 17, 2)),
    "network, layers": lambda: plots.draw_network(RESNET18, range(1, 17), input_shape=(3, 32, 32)),
    "network, 65 blocks": lambda: plots.draw_network([(64, 112, 112)] * 65, range(1, 65)),
    "network, tokens": lambda: plots.draw_network([(192, 197)] * 12, [4, 8]),
}
CHARTS = {
    "differences": lambda: plots.draw_differences(
        {"bp-goodness 3×3": (-3.0, -4.8, -1.2), "sff 2 blocks, hidden 32": (0.5, -0.1, 1.0)},
        margin=1,
    ),
    "timeline": lambda: plots.draw_timeline(timeline()),
    "history": lambda: plots.draw_history(history()),
    "history, one block": lambda: plots.draw_history(history("bp", 1)),
    "history, nine blocks": lambda: plots.draw_history(history("sff", 9, 5), epochs=20),
    "history, one epoch": lambda: plots.draw_history(history("sff", 3, 1, valid=False)),
    "blocks": lambda: plots.draw_block_accuracy({"sff": evaluation(0.7, 0.8, 0.86)}, chance=0.1),
    "blocks, rules": lambda: plots.draw_block_accuracy(
        {"bp": evaluation(0.89), "sff": [evaluation(0.7, 0.84), evaluation(0.71, 0.85)]}
    ),
    "goodness": lambda: plots.draw_goodness(*goodness(), theta=2.0),
    "goodness, same": lambda: plots.draw_goodness(goodness()[0], goodness(1)[0], theta=2.0),
    "goodness, no threshold": lambda: plots.draw_goodness(*goodness()),
    "goodness, constant": lambda: plots.draw_goodness([1.0, 1.0], [1.0], theta=1.0),
    "goodness, two panels": two_panels,
    "compare": lambda: plots.draw_compare(study_rows()),
    "compare, one seed": lambda: plots.draw_compare(study_rows(seeds=1)),
    "compare, one size": lambda: plots.draw_compare(study_rows(sizes=[500])),
    "by blocks": lambda: plots.draw_by_blocks(rows_by_blocks()),
    "by blocks, many": lambda: plots.draw_by_blocks(rows_by_blocks((2, 3, 5, 9, 13))),
    "images": lambda: plots.draw_images(torch.rand(11, 3, 32, 32), list("abcdefghijk")),
    "images, grey": lambda: plots.draw_images(np.random.rand(3, 8, 8), ["a\nb"] * 3),
    "class goodness": lambda: plots.draw_class_goodness(
        class_goodness(), CLASSES, 9, image=torch.rand(1, 28, 28)
    ),
    "class goodness, one block": lambda: plots.draw_class_goodness(
        class_goodness(1), CLASSES, 9, image=torch.rand(1, 28, 28)
    ),
    "class goodness, 100": lambda: plots.draw_class_goodness(
        class_goodness(9, 100), [f"a long name {k}" for k in range(100)], 42, image=torch.rand(8, 8)
    ),
    "maps, two classes": lambda: plots.draw_goodness_maps(
        torch.rand(3, 32, 32), {"Sneaker": maps(), "Ankle boot": maps()}
    ),
    "own figure": own_figure,
}
FIGURES = DIAGRAMS | CHARTS


# Looked at every day: one of each kind; the others nightly.
DAILY = {
    "timeline", "network", "network, 65 blocks", "history",
    "blocks, rules", "goodness", "goodness, two panels", "compare", "by blocks",
    "class goodness", "maps, two classes",
}  # fmt: skip


def each(figures):
    return pytest.mark.parametrize(
        "name", [n if n in DAILY else pytest.param(n, marks=pytest.mark.nightly) for n in figures]
    )


def test_accuracy_by_blocks_keeps_rules_it_does_not_know():
    rows = rows_by_blocks()
    rows += [row | {"rule": "my-rule"} for row in rows if row["rule"] == "sff"]
    texts = [text.get_text() for text, _ in drawn_texts(plots.draw_by_blocks(rows))]
    assert "my-rule" in texts


@cache
def made(name):
    """A figure and its texts; drawn once for all tests that only look at it."""
    fig = FIGURES[name]()
    return fig, drawn_texts(fig)


def drawn_texts(fig):
    """Draw `fig` and return every text that was drawn, with its box in pixels."""
    texts, draw = [], Text.draw

    def record(self, renderer):
        if self.get_visible() and self.get_text().strip():
            texts.append(self)
        return draw(self, renderer)

    with pytest.MonkeyPatch.context() as patch, plots.course_style():
        patch.setattr(Text, "draw", record)
        fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    # Text's own extent, not Annotation's, which counts the arrow too.
    return [(t, Text.get_window_extent(t, renderer)) for t in dict.fromkeys(texts)]


def layout_faults(fig, texts, lines=False):
    """Texts that touch each other, leave the figure, or (with `lines`) are crossed by a line."""
    faults = []
    for i, (text, box) in enumerate(texts):
        name = repr(text.get_text())
        if box.x0 < 0 or box.y0 < 0 or box.x1 > fig.bbox.x1 or box.y1 > fig.bbox.y1:
            faults.append(f"{name} leaves the figure")
        for other, other_box in texts[i + 1 :]:
            if box.padded(-0.5).overlaps(other_box.padded(-0.5)):
                faults.append(f"{name} touches {other.get_text()!r}")
        for line in fig.findobj(Line2D) if lines else []:
            path = line.get_transform().transform_path(line.get_path())
            if len(path.vertices) and path.intersects_bbox(box.padded(-0.5), filled=False):
                faults.append(f"{name} is crossed by a line")
    return faults


def contrast_on_white(colour):
    """WCAG 2 contrast ratio, from its definition."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05)


# ---------------------------------------------------------------- every figure


@each(FIGURES)
def test_figure_is_a_figure_and_leaves_no_global_trace(name):
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    fig = FIGURES[name]()
    assert isinstance(fig, Figure)
    assert name == "own figure" or len(fig.alt) > 8
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


@each(CHARTS)
def test_texts_of_charts_neither_touch_nor_leave(name):
    assert layout_faults(*made(name)) == []


@each(DIAGRAMS)
def test_texts_of_diagrams_neither_touch_nor_leave_nor_are_crossed(name):
    assert layout_faults(*made(name), lines=True) == []


@each(FIGURES)
def test_texts_are_large_and_dark_enough_to_read(name):
    fig, texts = made(name)
    assert fig.get_figwidth() <= plots.WIDTH  # so a notebook 900 pixels wide does not shrink it
    assert texts
    for text, _ in texts:
        assert text.get_fontsize() >= 9
        assert contrast_on_white(text.get_color()) >= 4.5, text.get_text()  # WCAG 1.4.3


@each(["network, 65 blocks", "images"])
def test_png_is_light_and_opaque(name):
    fig, _ = made(name)
    data = plots.png(fig)
    assert len(data) < 120_000
    picture = Image.open(io.BytesIO(data))
    assert picture.width == pytest.approx(160 * fig.get_figwidth(), abs=1)  # whole pixels
    assert "transparency" not in picture.info
    assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


STORED = ["backprop", "ff", "sff", "block", "pipeline", "checkpointing", "controls", "seam",
          "cka"]  # fmt: skip


@pytest.mark.parametrize("name", STORED)
def test_a_stored_diagram_is_the_picture_of_its_source(name):
    fig = getattr(plots, f"diagram_{name}")()
    folder = Path(plots.__file__).parent / "pictures"
    stored = np.asarray(Image.open(folder / f"{name}.png").convert("RGB")).astype(int)
    shown = np.asarray(Image.open(io.BytesIO(plots.png(fig))).convert("RGB")).astype(int)
    assert np.abs(shown - stored).max() <= 8  # 256 colours are chosen again
    source = (folder / f"{name}.svg").read_text(encoding="utf-8")
    width, height = (float(v) for v in re.search(r'viewBox="0 0 (\S+) (\S+)"', source).groups())
    assert fig.get_size_inches() == pytest.approx((width / 72, height / 72), abs=0.02)
    assert len(fig.alt) > 100 and fig.get_figwidth() <= plots.WIDTH


def test_the_same_figure_is_the_same_file():
    assert plots.png(plots.diagram_sff()) == plots.png(plots.diagram_sff())


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda ax: ax.text(0.5, 0.5, "one") and ax.text(0.52, 0.5, "two"), "touches"),
        (lambda ax: ax.text(0.99, 0.5, "far too long"), "leaves"),
        (lambda ax: ax.text(0.5, 0.5, "word") and ax.plot([0, 1], [0.5, 0.51]), "crossed"),
    ],
)
def test_the_layout_check_finds_faults(spoil, fault):
    fig = Figure()
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    matplotlib.backends.backend_agg.FigureCanvasAgg(fig)
    spoil(ax)
    assert any(fault in one for one in layout_faults(fig, drawn_texts(fig), lines=True))


# ---------------------------------------------------------------- style


def test_rules_differ_in_marker_in_dash_and_in_name():
    assert set(plots.RULE_STYLE) >= set(RULES)
    styles = list(plots.RULE_STYLE.values()) + [plots.rule_style("other", i) for i in range(5)]
    assert len({style.marker for style in styles}) == len(styles)
    assert len({style.dash for style in styles}) == len(styles)
    assert len({style.label for style in plots.RULE_STYLE.values()}) == len(plots.RULE_STYLE)


def test_rule_colours_are_of_the_palette_and_stand_out_from_white():
    for style in plots.RULE_STYLE.values():
        assert style.colour in {*plots.OKABE_ITO.values(), plots.GREY}
        # WCAG 1.4.11 asks 3 : 1 of graphics; yellow, orange and sky blue would not do.
        assert contrast_on_white(style.colour) >= 3


@pytest.mark.parametrize("rule", RULES)
def test_block_colours_are_the_rule_s_and_get_darker_with_depth(rule):
    assert plots.block_colours(1, rule) == [plots.rule_style(rule).colour]
    light = [contrast_on_white(colour) for colour in plots.block_colours(7, rule)]
    assert light == sorted(light) and light[0] >= 3  # WCAG 1.4.11
    assert np.diff(light).min() > 0.2


def test_a_rule_s_colour_has_no_other_meaning():
    others = {plots.diagrams.BLOCK, plots.diagrams.HEAD, plots.diagrams.GRADIENT}
    others |= {plots.POSITIVE, plots.NEGATIVE}
    assert not others & {style.colour for style in plots.RULE_STYLE.values()}
    assert plots.NEGATIVE not in {plots.rule_style("other", i).colour for i in range(5)}


def test_the_readers_own_settings_do_not_leak_in():
    plain = plots.png(plots.draw_history(history()))
    with matplotlib.rc_context():
        matplotlib.style.use("dark_background")
        assert plots.png(plots.draw_history(history())) == plain


def test_a_heavy_picture_is_stored_at_a_lower_resolution():
    fig, ax = plots.new_figure(4, 3)
    ax.imshow(np.random.default_rng(0).random((300, 400, 3)))
    picture = Image.open(io.BytesIO(plots.png(fig)))
    assert picture.width < 160 * 4


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_labels_are_spread_in_order_and_inside(count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        wanted = sorted(rng.random(count) * rng.random())
        placed = _figures._spread(wanted, 0.1)
        assert np.diff(placed).min(initial=1) >= 0.1 - 1e-9  # rounding
        assert min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9  # rounding


def test_labels_with_room_stay_where_they_were_wanted():
    assert _figures._spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


# ---------------------------------------------------------------- show


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.image, self.text = [], {}, ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.image = dict(attrs)

    def handle_data(self, data):
        self.text += data


@contextmanager
def notebook(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append((bundle, raw)))
    yield shown


def test_show_emits_alt_text_and_caption_escaped(monkeypatch):
    alt, caption = 'a "quoted" <b>&amp; title', "if a < b & c: <script>alert(1)</script>"
    with notebook(monkeypatch) as shown:
        assert plots.show(own_figure(), alt=alt, caption=caption) is None
    (bundle, raw), (text, _) = shown
    page = Page()
    page.feed(bundle["text/html"])
    assert raw
    assert page.tags == ["figure", "img", "figcaption"]
    assert page.image["alt"] == alt
    assert page.text == caption
    assert page.image["style"].startswith("max-width:100%")
    assert page.image["width"] == "650"
    data = base64.b64decode(page.image["src"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).format == "PNG"
    assert not re.search("https?:", bundle["text/html"])
    assert caption in bundle["text/plain"]
    assert base64.b64decode(bundle["image/png"]) == data  # for viewers without HTML …
    said = MarkdownIt("js-default").render(text["text/markdown"])
    assert said == f"<p>{html.escape(caption, quote=False)}</p>\n"  # … and their caption
    assert re.fullmatch("<!--.*-->", text["text/html"])  # not twice elsewhere


def test_show_outside_a_notebook_prints_the_caption(capsys):
    plots.show(own_figure(), alt="a line", caption="Look at the line.")
    assert capsys.readouterr().out == "Look at the line.\n"


def test_a_figure_brings_its_own_alternative_text(monkeypatch):
    with notebook(monkeypatch) as shown:
        plots.show(plots.draw_goodness([1, 2], [0, 1], 1), caption="Look.")
    page = Page()
    page.feed(shown[0][0]["text/html"])
    assert "positive: median 1.5" in page.image["alt"]


@pytest.mark.parametrize("texts", [{"alt": " "}, {"caption": ""}, {}])
def test_show_wants_both_texts(texts):
    with pytest.raises(ValueError, match="alt|caption"):
        plots.show(own_figure(), **({"caption": "Look."} | texts))


def test_plots_work_without_jupyter_and_without_pyplot():
    code = (
        "import sys; sys.modules['IPython'] = sys.modules['ipywidgets'] = None\n"
        "from sff_teach import draw as plots\n"
        "plots.show(plots.diagram_sff(), alt='a', caption='caption')\n"
        "plots.show(plots.draw_goodness([1, 2], [0, 1], 1), alt='a', caption='caption')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "caption\ncaption\n"


# ---------------------------------------------------------------- what the figures say


def texts_of(fig):
    return [text.get_text() for text, _ in drawn_texts(fig)]


def test_history_of_one_run_shows_blocks_and_vote():
    run = history(blocks=3)
    fig = plots.draw_history(run)
    assert {"block 1", "block 2", "block 3", "vote", "block 3 in training"} <= set(texts_of(fig))
    lines = [line.get_ydata() for line in fig.axes[1].lines]
    vote = [100 * row["valid_accuracy"] for row in run.rows]
    assert any(np.allclose(y, vote) for y in lines)


def test_history_survives_an_epoch_without_validation():
    run = history()
    del run.rows[-1]["valid_accuracy"], run.rows[-1]["valid_block_accuracy"]
    assert "vote" in texts_of(plots.draw_history(run))


def test_history_leaves_room_for_the_epochs_to_come():
    assert plots.draw_history(history(epochs=3), epochs=30).axes[0].get_xlim()[1] > 30


def test_goodness_writes_medians_and_shares():
    fig = plots.draw_goodness([1, 3, 5, 7], [0, 1, 2, 9], theta=2.5)
    said = " ".join(texts_of(fig))
    assert "positive: median 4, 75 % above θ" in said
    assert "negative: median 1.5, 25 % above θ" in said
    assert "threshold θ = 2.5" in said
    hatched = [patch for patch in fig.axes[0].patches if patch.get_hatch()]
    assert len(hatched) == 1


def test_goodness_says_how_many_values_lie_beyond_the_axis():
    positive = [*np.linspace(0, 1, 1000), 500.0]
    assert "1 more →" in texts_of(plots.draw_goodness(positive, np.linspace(0, 1, 1000)))


def test_compare_draws_the_interval_of_the_study_and_every_seed():
    rows = [row for row in study_rows(sizes=[200]) if row["rule"] == "sff"]
    fig = plots.draw_compare(rows)
    values = [100 * row["accuracy"] for row in rows]
    (bar,) = fig.axes[0].collections
    ends = bar.get_segments()[0][:, 0]
    assert ends == pytest.approx(interval(values)[1:])
    assert any(sorted(line.get_xdata()) == sorted(values) for line in fig.axes[0].lines)


def test_compare_gives_all_panels_the_same_span():
    spans = [np.ptp(ax.get_xlim()) for ax in plots.draw_compare(study_rows()).axes]
    assert len(spans) == 3
    assert spans == pytest.approx([spans[0]] * 3)


def test_class_goodness_marks_the_true_class_and_names_the_choice():
    g = torch.zeros(2, 10)
    g[0, 7], g[1, 9] = 1.0, 3.0
    fig = plots.draw_class_goodness(g, CLASSES, 9, image=torch.rand(8, 8))
    for ax in fig.axes[1:]:
        assert [patch.get_hatch() is not None for patch in ax.patches] == [False] * 9 + [True]
    said = texts_of(fig)
    assert {"block 1\nSneaker ✗", "block 2\nAnkle boot ✓", "vote (mean)\nAnkle boot ✓"} <= set(said)
    assert "true: Ankle boot" in said


def test_class_goodness_of_many_classes_keeps_the_true_one():
    g = torch.arange(100.0).repeat(2, 1)
    fig = plots.draw_class_goodness(g, [f"c{k}" for k in range(100)], 0, image=torch.rand(8, 8))
    assert "true: c0" in texts_of(fig)
    assert len(fig.axes[1].patches) == 10


def test_goodness_maps_share_a_scale_and_state_the_goodness():
    small, large = np.full((3, 3), 0.5), np.full((3, 3), 2.0)
    fig = plots.draw_goodness_maps(torch.rand(1, 9, 9), {"a": [small], "b": [large]})
    assert {ax.images[0].get_clim() for ax in (fig.axes[1], fig.axes[3])} == {(0.0, 2.0)}
    assert {"mean 0.5", "mean 2", "a", "b"} <= set(texts_of(fig))


def test_network_has_a_head_on_each_block():
    assert texts_of(plots.draw_network(FOUR_LAYERS, [1, 3])).count("head") == 3
    assert "linear" in texts_of(plots.draw_network(FOUR_LAYERS, rule="bp"))


def test_pixels_that_are_not_in_0_to_1_are_refused():
    with pytest.raises(ValueError, match="pixels"):
        plots.draw_images(torch.randn(2, 1, 8, 8) * 3)


def test_a_threshold_outside_the_data_is_still_in_the_picture():
    fig = plots.draw_goodness(torch.rand(200) * 0.2, torch.rand(200) * 0.2, 2.0)
    low, high = fig.axes[0].get_xlim()
    assert low < 0.2 and high >= 2.0


# ---------------------------------------------------------------- live


class Handle:
    def __init__(self):
        self.shown = []

    def update(self, data, raw):
        assert raw
        self.shown.append(data)


def train_digits(live, epochs=3, **options):
    train, valid, _ = load("digits", fraction=0.1)
    model = localize(cnn(1, (4, 8), ()), 10, cut="layer", input_shape=(1, 8, 8))
    return fit(model, train, valid, epochs=epochs, progress=False, on_epoch=live, **options)


def test_live_history_is_one_figure_that_is_updated(monkeypatch):
    first, handle = [], Handle()
    monkeypatch.setattr(live, "display_data", lambda data, **_: first.append(data) or handle)
    monkeypatch.setattr(live, "SHARE", 1000)
    monkeypatch.setattr(live, "EVERY", 0)
    history = train_digits(plots.LiveHistory())
    assert len(first) == 2 and len(handle.shown) == 2  # a figure; at the end its caption
    last = handle.shown[-1]
    accuracy = f"{history.last['valid_accuracy']:.1%}"
    assert "After epoch 3: loss" in last["text/html"] and accuracy in last["text/html"]
    assert 'alt="Loss and accuracy' in last["text/html"]


def test_live_history_draws_the_last_epoch_however_soon_it_comes(monkeypatch):
    shown = []
    monkeypatch.setattr(live, "display_data", lambda data, **_: shown.append(data) or Handle())
    monkeypatch.setattr(live, "SHARE", 0)
    train_digits(plots.LiveHistory(), epochs=3)
    figure, caption = shown
    assert "epoch 3:" in figure["text/plain"] and "epoch 3:" in caption["text/markdown"]


def test_the_axes_of_a_live_figure_do_not_move():
    run = history(epochs=8)
    limits = []
    for epoch in (1, 3, 8):
        fig = plots.draw_history(SimpleNamespace(rule="sff", rows=run.rows[:epoch]), epochs=8)
        limits.append([(ax.get_xlim(), ax.get_ylim()) for ax in fig.axes])
    assert limits[0] == limits[1] == limits[2]
    assert limits[0][1][1] == (0, 100)


def test_drawing_takes_a_tenth_of_the_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(live.time, "process_time", lambda: now[0])
    pace = plots.Pace()
    assert not pace.due
    now[0] += 5
    assert pace.due
    with pace:
        now[0] += 0.5
    now[0] += 4.4
    assert not pace.due  # 0.5 seconds spent and 0.5 to come, of 9.9
    now[0] += 0.2
    assert pace.due


def train_a_threshold(live, steps):
    """Ten pairs whose goodness rises to 1.5, and rises and falls to 0.5."""
    for step in range(steps):
        up = step / (steps - 1)
        live(torch.linspace(0.9, 1.1, 10) * 1.5 * up, torch.linspace(0.9, 1.1, 10) * (0.5 + up % 1))


def test_live_goodness_moves_and_ends_with_a_figure_of_all_steps(monkeypatch):
    shown, handle = [], Handle()
    monkeypatch.setattr(live, "display_data", lambda data, **_: shown.append(data) or handle)
    monkeypatch.setattr(live.Pace, "due", True)
    goodness = plots.LiveGoodness(theta=1.0, steps=5)
    train_a_threshold(goodness, 5)
    assert "After step 5" in shown.pop()["text/markdown"]
    frames, last = [*shown, *handle.shown[:-1]], handle.shown[-1]
    assert len(shown) == 1 and len({frame["text/html"] for frame in frames}) == 4
    assert all("<svg" in f["text/html"] and 'aria-label="step' in f["text/html"] for f in frames)
    assert "image/png" in last and "positive from 0.00 up to 1.50" in last["text/html"]
    assert [round(q[1], 2) for q in goodness.quartiles["positive"]] == [0, 0.38, 0.75, 1.12, 1.5]


def test_live_goodness_is_silent_outside_a_notebook(capsys):
    train_a_threshold(plots.LiveGoodness(theta=1.0, steps=3), 3)
    assert capsys.readouterr().out == ""


def test_goodness_has_no_axis_below_zero():
    fig = plots.draw_goodness(1 + torch.rand(200), 0.2 + 0.6 * torch.rand(200), 1.0)
    assert fig.axes[0].get_xlim()[0] >= 0


def test_a_single_block_far_below_the_others_is_written_at_the_edge():
    single = [("bp", 1, 0.78), ("bp-goodness", 1, 0.4)]
    rows = [
        {"rule": rule, "accuracy": accuracy + seed / 1000, "block_accuracy": [0.5] * blocks}
        for rule, blocks, accuracy in [*single, ("sff", 2, 0.75), ("sff", 9, 0.77)]
        for seed in range(3)
    ]
    fig = plots.draw_by_blocks(rows)
    assert fig.axes[0].get_ylim()[0] > 60
    assert any(text.startswith("↓ backprop, goodness head: 40.1") for text in texts_of(fig))


def test_live_history_is_silent_outside_a_notebook(capsys):
    train_digits(plots.LiveHistory(), epochs=1)
    assert capsys.readouterr().out == ""


def test_a_timeline_says_how_busy_a_process_was():
    shown = " ".join(text.get_text() for text, _ in made("timeline")[1])
    # Of its own first batch's start to its last one's end: what it did before is not known.
    assert f"{6 * 0.024 / (5 * 0.05 + 0.024):.0%} busy" in shown and "91" in shown
