"""The explorers: every value of every control, the buttons in their thread, and what they show."""

import base64
import csv
import html
import io
import re
import threading
from itertools import product

import pytest
import torch
from matplotlib.figure import Figure

from sff_teach import draw as plots
from sff_teach.goodness import mean_squares, sum_squares
from sff_teach.widgets import (
    FractionExplorer,
    GoodnessExplorer,
    LayersExplorer,
    draw_fraction,
    draw_goodness_grid,
    draw_goodness_split,
    draw_layers,
    draw_layers_network,
    fraction_explorer,
    goodness_explorer,
    goodness_split,
    layers_explorer,
    plan_layers,
    run_fraction,
    run_layers,
    starting_results,
    stored_curves,
)
from sff_teach.widgets import _fraction as fraction
from sff_teach.widgets import _layers as layers_module
from sff_teach.widgets.goodness import GOODNESS
from sff_teach.widgets.layers import EPOCHS, IMAGES, JUDGES, KERNELS, LAYERS, RULES, SEEDS
from sff_teach.widgets.panel import trials_csv, trials_html

from .test_plots import contrast_on_white, drawn_texts, layout_faults

TINY = {"data": "digits", "images": 100, "epochs": 1}
PNG = b"\x89PNG"
WAIT = 60  # seconds; a trial on 100 digits takes a tenth of one


@pytest.fixture(scope="module")
def trials():
    return starting_results(**TINY)


@pytest.fixture
def explorer(trials):
    made = LayersExplorer(trials, data="digits")
    made.controls["images"].value, made.controls["epochs"].value = 200, 1
    return made


def rows_of(trials):
    return LayersExplorer(trials).rows()


def values(control):
    """Every value that a dropdown or a slider can take."""
    if hasattr(control, "options"):
        return [value for _, value in control.options]
    return list(range(control.min, control.max + 1))


def is_drawn(image):
    """Whether an image widget shows a picture."""
    return image.png.startswith(PNG) and 'alt="' in image.value and image.layout.display == "block"


def assert_readable(fig):
    """Texts do not touch, stay inside, and are large and dark enough."""
    texts = drawn_texts(fig)
    assert texts and layout_faults(fig, texts) == []
    for text, _ in texts:
        assert text.get_fontsize() >= 9 and contrast_on_white(text.get_color()) >= 4.5, text


def saved_files(explorer):
    """Name → content of the files that the explorer offers."""
    links = re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', explorer.save.value)
    return {name: base64.b64decode(html.unescape(content)) for name, content in links}


def click_and_wait(explorer):
    explorer.train.click()
    explorer.thread.join(WAIT)
    assert not explorer.thread.is_alive()


# ---------------------------------------------------------------- layers: the pure functions


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layers", LAYERS)
def test_every_number_of_layers_and_blocks_runs_and_draws(rule, layers):
    joined = rule.startswith("bp")
    for blocks in (1, layers) if joined else range(1, layers + 1):
        result = run_layers(layers, blocks, rule=rule, **TINY)
        assert result.complete
        assert len(result.shapes) == layers + 1
        assert result.blocks == len(result.block_accuracy) == (1 if joined else blocks)
        assert len(result.cuts) == result.blocks - 1
        assert 0 <= result.accuracy("last") <= 1 and 0 <= result.accuracy("mean") <= 1
        assert len(draw_layers([result]).axes) == 3
        assert len(draw_layers_network(result).axes) == 1


@pytest.mark.parametrize("name, choices", [("kernel_size", KERNELS), ("seed", SEEDS)])
def test_every_kernel_and_seed_trains_its_own_network(name, choices):
    losses = [run_layers(**(TINY | {name: v})).history.last["train_loss"][0] for v in choices]
    assert len(set(losses)) == len(choices)


@pytest.mark.parametrize("epochs", EPOCHS)
def test_every_number_of_epochs(epochs):
    result = run_layers(layers=2, blocks=2, **(TINY | {"epochs": epochs}))
    assert len(result.history.rows) == epochs
    assert plots.png(draw_layers([result])).startswith(PNG)


@pytest.mark.parametrize("images", IMAGES)
def test_every_number_of_images_is_exact(images):
    stop = threading.Event()
    stop.set()  # before the first step: only the data are made ready
    result = run_layers(images=images, stop=stop)
    assert result.images == images
    assert not result.complete
    assert plots.png(draw_layers([], result.history)).startswith(PNG)
    assert plots.png(draw_layers_network(result)).startswith(PNG)


def test_a_trial_repeats_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    for rule in RULES:  # bp makes a new head inside fit
        first, second = (run_layers(rule=rule, **TINY).history.rows[0] for _ in range(2))
        assert first["train_loss"] == second["train_loss"]
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_have_equal_length_and_shapes_are_the_networks():
    assert plan_layers(4, 2)[1] == (2,)
    assert plan_layers(5, 2)[1] == (3,)
    assert plan_layers(6, 4)[1] == (2, 4, 5)
    assert plan_layers(4, 4)[1] == (1, 2, 3)
    for layers in LAYERS:
        shapes, cuts = plan_layers(layers, layers)
        model = layers_module._build(shapes, cuts, 1, 10)
        x = torch.zeros(1, *shapes[0])
        for block, shape in zip(model.blocks, shapes[1:]):
            x, _ = block(x)
            assert tuple(x.shape[1:]) == shape


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"blocks": 5}, "blocks=5"),
        ({"layers": 7}, "layers=7"),
        ({"layers": 0}, "layers=0"),
        ({"rule": "sfff"}, 'did you mean "sff"'),
        ({"rule": "ff"}, "ff"),
        ({"images": 5000}, "images=5000"),
        ({"images": 0}, "images=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"kernel_size": 2}, "kernel_size"),
        ({"data": "breast-cancer", "images": 100}, 'data="breast-cancer" holds no images'),
    ],
)
def test_bad_settings_are_one_sentence(bad, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        run_layers(**(TINY | bad))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("judge", JUDGES)
def test_trials_stay_in_the_figure_and_in_the_csv(trials, judge):
    fig = draw_layers(trials, judge=judge)
    panel = fig.axes[2]
    drawn = sorted(round(y, 6) for line in panel.lines for y in line.get_ydata())
    assert drawn == sorted(round(100 * one.accuracy(judge), 6) for one in trials)
    assert [text.get_text() for text in panel.texts] == ["1", "2", "3"]
    low, high = panel.get_ylim()
    assert high - low >= 10
    rows = list(csv.DictReader(io.StringIO(trials_csv(rows_of(trials)))))
    assert [row["rule"] for row in rows] == ["bp", "sff", "sff"]
    assert float(rows[0][f"{JUDGES[judge]} %"]) == round(100 * trials[0].accuracy(judge), 1)
    assert len(rows[2]["blocks %"].split()) == 4


def test_without_trials_there_is_a_figure_that_says_so():
    fig = draw_layers([])
    assert fig.axes[2].texts[0].get_text() == "no trial yet"
    assert trials_csv([]) == "" == trials_html([], "Trials")
    assert plots.png(fig).startswith(PNG)
    with pytest.raises(ValueError, match="judge"):
        draw_layers([], judge="first")


# ---------------------------------------------------------------- layers: the widget


def test_controls_offer_what_the_sweeps_above_swept(explorer):
    offered = {name: values(control) for name, control in explorer.controls.items()}
    assert offered.pop("blocks") == list(range(1, 5))  # up to the layers; see the next test
    assert set(offered) == {"rule", "layers", "kernel_size", "images", "epochs", "seed"}
    assert offered["rule"] == list(RULES)
    assert offered["layers"] == list(LAYERS)
    assert offered["kernel_size"] == list(KERNELS)
    assert offered["images"] == list(IMAGES)
    assert offered["epochs"] == list(EPOCHS)
    assert offered["seed"] == list(SEEDS)
    assert values(explorer.judge) == list(JUDGES)


def test_no_control_can_ask_for_more_blocks_than_layers(explorer):
    for first, second in product(LAYERS, LAYERS):
        explorer.controls["layers"].value = first
        assert explorer.controls["blocks"].max == first
        explorer.controls["blocks"].value = first
        explorer.controls["layers"].value = second
        assert explorer.settings["blocks"] == min(first, second)


@pytest.mark.parametrize("rule", RULES)
def test_train_adds_a_trial(explorer, rule, capfd):
    before = len(explorer.results)
    explorer.controls["rule"].value = rule
    assert explorer.controls["blocks"].disabled == rule.startswith("bp")
    assert explorer.controls["kernel_size"].disabled == (rule == "bp")
    click_and_wait(explorer)
    assert len(explorer.results) == before + 1
    assert explorer.results[-1].rule == rule
    assert explorer.progress.value == 1
    assert is_drawn(explorer.network) and is_drawn(explorer.picture)
    assert f"Trial {before + 1}:" in explorer.status.value
    assert f"Trial {before + 1}:" in explorer.caption.value
    assert not explorer.train.disabled and explorer.stop.disabled
    assert capfd.readouterr() == ("", "")  # the thread prints nothing


def test_csv_link_holds_all_trials(explorer):
    assert saved_files(explorer)["sff-layers.csv"].decode() == trials_csv(explorer.rows())
    assert explorer.table.value.count("<tr>") == 1 + len(explorer.results)


def test_judging_by_the_mean_redraws_without_training(explorer):
    explorer.judge.value = "mean"
    assert is_drawn(explorer.picture)
    assert "mean of blocks" in explorer.caption.value
    assert explorer.thread is None


def test_clear_forgets_everything(explorer, trials):
    explorer.judge.value = "mean"
    explorer.clear.click()
    assert explorer.results == [] and len(trials) == 3  # the caller's list is its own
    assert explorer.table.value == explorer.save.value == explorer.caption.value == ""
    assert explorer.picture.layout.display == explorer.network.layout.display == "none"
    explorer.judge.value = "last"  # nothing to draw, and no error
    click_and_wait(explorer)
    assert len(explorer.results) == 1


def test_stop_ends_the_run_which_is_then_no_trial(explorer, monkeypatch):
    started = threading.Event()

    def waits_for_stop(on_epoch, stop, **settings):
        def slow(history):
            on_epoch(history)
            started.set()
            assert stop.wait(WAIT)

        return run_layers(on_epoch=slow, stop=stop, **settings)

    monkeypatch.setattr(layers_module, "run_layers", waits_for_stop)
    explorer.controls["epochs"].value = 40
    explorer.train.click()
    assert started.wait(WAIT)
    thread, before = explorer.thread, len(explorer.results)
    assert explorer.train.disabled and explorer.clear.disabled and not explorer.stop.disabled
    explorer.train.click()  # one run at a time
    assert explorer.thread is thread
    assert "epoch 1 of 40" in explorer.status.value
    assert explorer.progress.value == 1 / 40
    explorer.stop.click()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert len(explorer.results) == before
    assert "Stopped" in explorer.status.value
    assert is_drawn(explorer.picture)  # what was measured is drawn
    assert not explorer.train.disabled
    monkeypatch.undo()
    explorer.controls["epochs"].value = 1
    click_and_wait(explorer)  # and the next one runs to its end
    assert len(explorer.results) == before + 1


def test_an_error_is_one_red_sentence(explorer, monkeypatch):
    def broken(**settings):
        raise ValueError("images=5 <b>is</b> too small; give more.")

    monkeypatch.setattr(layers_module, "run_layers", broken)
    click_and_wait(explorer)
    assert "<b>Error:</b> images=5 &lt;b&gt;is&lt;/b&gt; too small" in explorer.status.value
    assert plots.ink(plots.OKABE_ITO["vermillion"]) in explorer.status.value
    assert not explorer.train.disabled and explorer.stop.disabled
    monkeypatch.undo()
    explorer.controls["images"].value = 3000  # more than digits has: a true error of the function
    click_and_wait(explorer)
    assert "images=3000 is more than" in explorer.status.value
    assert len(explorer.results) == 3


def test_a_run_that_diverges_says_so(explorer, monkeypatch):
    def diverged(**settings):
        result = run_layers(**settings)
        result.history.stopped = "diverged"
        return result

    monkeypatch.setattr(layers_module, "run_layers", diverged)
    click_and_wait(explorer)
    assert "Error:" in explorer.status.value and "finite" in explorer.status.value
    assert len(explorer.results) == 3


def test_layers_explorer_shows_a_figure_even_without_a_front_end(trials, capsys):
    made = layers_explorer(trials, data="digits")
    assert made.results == list(trials)
    assert "Trial 3: SFF, 4 layers in 4 blocks" in capsys.readouterr().out  # the caption
    assert "3 trials" in repr(made)
    files = saved_files(made)  # the figure above can be saved before anything is trained
    assert files["sff-layers.png"] == plots.png(draw_layers(trials))
    assert list(files) == ["sff-layers.csv", "sff-layers.png"]
    assert made.picture.value == ""  # and is not shown twice
    made.clear.click()
    assert saved_files(made) == {}


def test_figures_of_trials_are_readable_also_where_trials_coincide(trials, two_points):
    assert_readable(draw_layers([*trials, *trials]))
    assert_readable(draw_layers(trials, trials[0].history, judge="mean"))
    assert_readable(draw_fraction([*two_points, *two_points]))
    assert_readable(draw_layers_network(trials[-1]))


def test_no_callback_lets_an_error_vanish(explorer, activations, monkeypatch):
    """ipywidgets sends what a callback raises to a log that nobody reads."""
    made = GoodnessExplorer(*activations)

    def broken(*args, **kwargs):
        raise KeyError("broken here")

    monkeypatch.setattr(plots, "png", broken)
    monkeypatch.setattr("sff_teach.widgets.goodness.goodness_split", broken)
    monkeypatch.setattr(threading, "Thread", broken)
    explorer.controls.pop("blocks")
    calls = {
        explorer: [
            lambda: setattr(explorer.judge, "value", "mean"),
            lambda: setattr(explorer.controls["layers"], "value", 2),
            explorer.train.click,
        ],
        made: [made.middle.click, made.keep.click, lambda: setattr(made.kind, "value", "sum")],
    }
    for panel, actions in calls.items():
        for act in actions:
            panel.error = None
            panel._say("fine")
            act()
            assert isinstance(panel.error, KeyError)
            assert panel.status.value.count("<b>Error:</b> KeyError: ") == 1, panel.status.value
    assert not explorer.train.disabled and explorer.stop.disabled
    monkeypatch.undo()
    made.theta.value *= 1.1
    assert "Error" not in made.status.value


# ---------------------------------------------------------------- data fraction


@pytest.fixture(scope="module")
def two_points():
    return [run_fraction(0.005, rule) for rule in ("bp", "sff")]


def test_epochs_and_rates_are_the_stored_studys():
    assert [fraction.epochs_for(n) for n in (50, 200, 1000, 10_000)] == [40, 40, 15, 4]
    assert 15 < fraction.epochs_for(500) < 40
    text = (fraction.RESULTS / "fashion_rules.md").read_text()
    tuned = dict(
        re.findall(r"^\| (bp|sff 2 blocks 3×3|sff 4 blocks 1×1) \| ([\d.]+) \|", text, re.M)
    )
    assert fraction.rate_for("bp", 1, 220) == float(tuned["bp"])
    assert fraction.rate_for("sff", 2, 150) == float(tuned["sff 2 blocks 3×3"])
    assert fraction.rate_for("sff", 2, 150, folder=fraction.RESULTS / "none") == 0.005


def test_stored_curves_are_those_of_the_table():
    curves = stored_curves()
    assert set(curves) == {"bp", "bp-goodness", "deepsup", "sff"}
    text = (fraction.RESULTS / "fashion_rules.md").read_text()
    for images, accuracies in curves["sff"].items():
        mean = 100 * sum(accuracies) / len(accuracies)
        assert f"| {images:,} | sff 2 blocks 3×3 | 5 | {mean:.1f} |" in text
    assert stored_curves(fraction.RESULTS / "none") == {}


def test_points_lie_where_they_were_measured_on_top_of_the_curves(two_points):
    axes = draw_fraction(two_points).axes[0]
    marks = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_markersize() == 10]
    assert marks == [[50, 100 * one.accuracy] for one in two_points]
    numbers = [one.get_text() for one in axes.texts if one.get_text().isdigit()]
    assert numbers == ["1", "2"]
    empty = draw_fraction([], curves={})
    assert plots.png(empty).startswith(PNG)
    running = draw_fraction([], history=two_points[0].history)
    assert running.axes[0].get_title("left") == "training: epoch 40 of 40"


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"fraction": 0}, "fraction=0"),
        ({"fraction": 50}, "did you mean 0.5"),
        ({"rule": "ff"}, "ff"),
        ({"blocks": 5}, "blocks=5"),
        ({"blocks": 0}, "blocks=0"),
        ({"kernel_size": 2}, "kernel_size"),
    ],
)
def test_bad_fractions_are_one_sentence(bad, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        run_fraction(**({"fraction": 0.005} | bad))
    assert "\n" not in str(caught.value)


SWEPT = {
    "fraction": list(fraction.FRACTIONS),
    "rule": list(fraction.RULES),
    "blocks": [1, 2, 3, 4],
    "kernel_size": list(fraction.KERNELS),
    "seed": list(fraction.SEEDS),
}


def test_controls_of_the_fraction_explorer_offer_what_is_swept():
    made = FractionExplorer()
    assert {name: values(control) for name, control in made.controls.items()} == SWEPT


@pytest.mark.parametrize("name, value", [(n, v) for n, vs in SWEPT.items() for v in vs])
def test_every_value_of_every_fraction_control_runs_and_draws(name, value, two_points):
    made = FractionExplorer(two_points)
    made.controls["fraction"].value = 0.005
    made.controls[name].value = value
    stop = threading.Event()
    stop.set()  # before the first step: data and network are made and tested, not trained
    result = made.run(**made.settings, on_epoch=None, stop=stop)
    assert result.images == (round(10_000 * value) if name == "fraction" else 50)
    joined = made.controls["rule"].value.startswith("bp")
    assert result.blocks == (1 if joined else made.controls["blocks"].value)
    if name != "fraction":
        recipe = {"blocks": "cut"}.get(name, name)
        assert getattr(result.recipe, recipe) == value
    made.results.append(result)
    assert isinstance(made.draw(), Figure)


def test_a_point_stays_until_clear_and_can_be_saved(two_points):
    made = FractionExplorer(two_points)
    made.controls["fraction"].value = 0.005
    click_and_wait(made)
    assert len(made.results) == 3 and is_drawn(made.picture)
    assert "tuned peak rate" in made.status.value
    assert made.results[-1].row()["images"] == 50
    kinds = re.findall(r'download="([^"]+)" href="data:([^;]+);base64,([^"]+)"', made.save.value)
    assert [kind[:2] for kind in kinds] == [
        ("sff-fraction.csv", "text/csv"),
        ("sff-fraction.png", "image/png"),
    ]
    assert base64.b64decode(kinds[1][2]) == made.picture.png
    assert base64.b64decode(kinds[0][2]).decode().count("\r\n") == 4
    made.clear.click()
    assert made.results == [] and made.save.value == ""


def test_fraction_explorer_shows_a_figure_even_without_a_front_end(two_points, capsys):
    made = fraction_explorer(two_points)
    assert made.results == two_points
    assert "Trial 2: SFF on 50 images" in capsys.readouterr().out
    assert list(saved_files(made)) == ["sff-fraction.csv", "sff-fraction.png"]


# ---------------------------------------------------------------- goodness


@pytest.fixture
def activations():
    generator = torch.Generator().manual_seed(0)
    return 1.5 * torch.randn(200, 50, generator=generator), torch.randn(
        150, 50, generator=generator
    )


def test_goodness_split_counts_both_sides(activations):
    for kind, function in (("sum", sum_squares), ("mean", mean_squares)):
        split = goodness_split(*activations, kind)
        assert torch.equal(split.positive, function(activations[0]))
        assert split.positive_above == (split.positive > split.theta).sum().item() / 200
        assert split.negative_below == (split.negative < split.theta).sum().item() / 150
        assert split.right > 0.9  # the spreads differ by half, D = 50: nearly apart
    assert goodness_split(*activations, "sum", 2.0).right == 0.5  # a threshold made for the mean


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"kind": "max"}, "kind"),
        ({"theta": 0.0}, "theta"),
        ({"positive_h": torch.zeros(0, 3)}, "positive_h"),
        ({"negative_h": torch.tensor([[float("nan")]])}, "negative_h"),
        ({"negative_h": torch.ones(3)}, "negative_h"),
    ],
)
def test_bad_activations_are_one_sentence(activations, bad, words):
    good = {"positive_h": activations[0], "negative_h": activations[1]}
    with pytest.raises(ValueError, match=words):
        goodness_split(**(good | bad))


@pytest.mark.parametrize("kind", GOODNESS)
def test_every_threshold_of_the_slider_draws(activations, kind):
    made = GoodnessExplorer(*activations, kind)
    steps = round((made.theta.max - made.theta.min) / made.theta.step)
    for i in range(steps + 1):
        theta = 10 ** (made.theta.min + i * made.theta.step)
        split = goodness_split(*activations, kind, theta)
        assert 0 <= split.right <= 1
        if i % 50 == 0:
            assert plots.png(draw_goodness_split(split)).startswith(PNG)


def test_moving_the_controls_moves_the_split(activations):
    made = GoodnessExplorer(*activations)
    assert made.split.kind == "mean" and made.split.right > 0.9
    before = made.picture.png
    assert is_drawn(made.picture)
    theta = made.theta.value
    made.kind.value = "sum"  # the number θ stays, and is now far too small
    assert made.theta.value == theta
    assert made.split.right == 0.5
    assert html.escape(str(made.split)) in made.status.value
    assert made.picture.png != before
    made.middle.click()
    assert made.split.right > 0.9
    for end in (made.theta.min, made.theta.max):
        made.theta.value = 10**end
        assert made.split.right <= 0.51  # beyond every goodness, but for the 1 % tail


def test_goodness_explorer_shows_a_figure_even_without_a_front_end(activations, capsys):
    made = goodness_explorer(*activations, kind="sum", theta=70.0)
    assert made.split.theta == 70 and made.split.kind == "sum"
    said = capsys.readouterr().out  # both kinds, each with this threshold and with one in between
    for kind in ("sum", "mean"):
        for theta in (70.0, None):
            split = goodness_split(*activations, kind, theta)
            assert f"{GOODNESS[kind][0].capitalize()}, {split}" in said
    assert "θ = 70" in repr(made)
    assert list(saved_files(made)) == ["sff-goodness.png"]
    assert made.picture.value == ""


def test_goodness_figures_are_readable_and_keep_every_point(activations):
    kept = [
        goodness_split(*activations, kind, theta)
        for kind in ("sum", "mean")
        for theta in (2.0, 2.1, None, 90.0)
    ]
    fig = draw_goodness_split(kept[0], kept, (0.1, 1000.0))
    assert_readable(fig)
    marks = [
        line.get_xydata()[0].tolist()
        for line in fig.axes[1].lines
        if line.get_markersize() == 6 and len(line.get_xydata())  # not the legend's
    ]
    for split in kept:
        assert [split.theta, 100 * split.right] in marks
    written = [text for one in fig.axes[1].texts for text in one.get_text().split(", ")]
    assert {str(i) for i in range(1, len(kept) + 1)} <= set(written)
    assert_readable(draw_goodness_grid([kept[:2], kept[-2:]]))
    made = GoodnessExplorer(*activations)
    made.keep.click()
    assert f"Kept 1: {made.split}" in html.unescape(made.picture.value)


def test_kept_thresholds_stay_until_clear(activations):
    made = GoodnessExplorer(*activations)
    made.keep.click()
    made.kind.value = "sum"
    made.middle.click()
    made.keep.click()
    rows = made.rows()
    assert [row["goodness"] for row in rows] == ["mean of squares", "sum of squares"]
    assert rows[0]["θ"] < rows[1]["θ"] and rows[0]["right %"] == pytest.approx(
        100 * goodness_split(*activations).right, abs=0.06
    )
    assert "sff-goodness.csv" in made.save.value and "sff-goodness.png" in made.save.value
    made.clear.click()
    assert made.rows() == [] and made.split is not None
