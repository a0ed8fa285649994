"""The explorers: what they compute, trials that stay until Clear, Stop, and errors."""

import io
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from sff_teach import cnn, fit, load, localize
from sff_teach.analysis import cost as measure
from sff_teach.goodness import mean_squares
from sff_teach.study.runs import read_runs
from sff_teach.study.summary import FASHION, best_rate
from sff_teach.widgets import (
    cost,
    draw_fraction,
    draw_layers,
    fraction,
    goodness_split,
    inspector,
    layers_explorer,
    panel,
    run_cost,
    run_fraction,
    run_inspector,
    run_layers,
)
from sff_teach.widgets.fraction import FractionExplorer
from sff_teach.widgets.goodness import GoodnessExplorer
from sff_teach.widgets.inspector import Inspector, read_upload
from sff_teach.widgets.layers import LayersExplorer, plan_layers

WAIT = 60
RESULTS = Path(__file__).parents[2] / "results"


def first_middle_last(control):
    """What a control is tried with every day; the whole range nightly."""
    values = list(control)
    picked = {0, len(values) // 2, len(values) - 1}
    return [v if i in picked else pytest.param(v, marks=pytest.mark.nightly)
            for i, v in enumerate(values)]  # fmt: skip


# ---------------------------------------------------------------- trials


@pytest.fixture(scope="module")
def trials():
    small = {"images": 200, "epochs": 1, "data": "digits"}
    return [run_layers(2, 1, rule="bp", **small), run_layers(2, 2, **small)]


@pytest.fixture
def explorer(trials):
    made = LayersExplorer(trials, "digits")
    for name, value in {"images": 200, "epochs": 1, "layers": 3, "blocks": 2}.items():
        made.controls[name].value = value
    return made


def test_blocks_are_of_equal_length_and_earlier_ones_longer():
    assert plan_layers(6, 4)[1] == (2, 4, 5)
    assert plan_layers(4, 2)[0] == ((1, 28, 28), (16, 14, 14), (32, 7, 7), (64, 7, 7), (64, 3, 3))


def test_a_trial_stays_until_clear_and_is_not_added_twice(explorer):
    for _ in range(2):
        explorer.train.click()
        explorer.wait()
        assert len(explorer.results) == 3
    assert "trial 3 already" in explorer.status.value
    assert not explorer.train.disabled and explorer.stop.disabled
    names = list(explorer.results[-1].row())
    assert names[0] == "last block %"
    assert "sff-layers.csv" in explorer.save.value and "sff-layers.png" in explorer.save.value
    assert "Network of trial 3" in explorer.network.value or explorer.network.png
    explorer.clear.click()
    assert explorer.results == [] and explorer.table.value == ""


def test_stop_ends_the_run_which_is_then_no_trial(explorer):
    explorer.controls["epochs"].value = 40
    started = threading.Event()
    on_epoch = explorer._on_epoch
    explorer._on_epoch = lambda history: (on_epoch(history), started.set())
    explorer.train.click()
    assert started.wait(WAIT)
    assert explorer.train.disabled and not explorer.stop.disabled
    explorer.stop.click()
    explorer.wait(WAIT)
    assert not explorer.busy and len(explorer.results) == 2
    assert "Stopped" in explorer.status.value and explorer.progress.value == 0


def test_an_error_is_one_red_sentence_and_the_next_run_works(explorer):
    explorer.controls["images"].value = 3000  # more than digits has
    explorer.train.click()
    explorer.wait()
    assert "<b>Error:</b> images=3000" in explorer.status.value
    explorer.controls["images"].value = 200
    explorer.train.click()
    explorer.wait()
    assert len(explorer.results) == 3


def test_a_run_that_diverges_is_no_trial(explorer, trials):
    def diverged(**settings):
        result = run_layers(images=200, epochs=1, data="digits")
        result.history.stopped = "diverged"
        return result

    explorer.run = diverged
    explorer.train.click()
    explorer.wait()
    assert "finite" in explorer.status.value and len(explorer.results) == 2


def test_running_the_cell_again_stops_the_old_training_and_keeps_its_trials(trials, capsys):
    panel._SHOWN.clear()
    first = layers_explorer(trials[:1], data="digits")
    first.add(trials[1])
    second = layers_explorer(trials[:1], data="digits")
    assert second.results == trials and first._stop.is_set()
    panel._SHOWN.clear()
    assert capsys.readouterr().out.count("Validation accuracy") == 2  # without a front end


def test_the_axes_of_a_training_do_not_move(trials):
    fig = draw_layers(trials, trials[1].history)
    assert fig.axes[0].get_ylim()[0] == 0 and fig.axes[1].get_ylim() == (0, 100)
    assert fig.alt.startswith("Training goes on.")


@pytest.mark.parametrize("bad", [{"layers": 7}, {"blocks": 5}, {"rule": "ff"}, {"images": 10**6}])
def test_wrong_layers_are_refused(bad):
    with pytest.raises(ValueError):
        run_layers(**bad)


# ---------------------------------------------------------------- data fraction


def test_rates_and_curves_are_the_stored_studys():
    for (rule, blocks), rates in fraction.RATES.items():
        for share, rate in zip(FASHION.values(), rates, strict=True):
            found = []
            for record in read_runs(RESULTS / "fashion_rules_tuning.jsonl"):
                row = record["recipe"]
                cut = 2 if blocks == 2 else "layer"
                fits = row["rule"] == rule and row.get("fraction", 1.0) == share
                if fits and (rule.startswith("bp") or row.get("cut", "layer") == cut):
                    found.append(record)
            assert best_rate(found) == rate
    curves = fraction.stored_curves(RESULTS)
    assert {rule: len(v[200]) for rule, v in curves.items()} == dict.fromkeys(fraction.CURVES, 5)
    assert fraction.stored_curves(RESULTS / "none") == {}


@pytest.mark.parametrize("share", first_middle_last(fraction.FRACTIONS))
def test_every_data_size_draws(share):
    stop = threading.Event()
    stop.set()  # before the first step
    result = FractionExplorer().run(fraction=share, rule="sff", blocks=2, kernel_size=3, seed=0,
                                    stop=stop)  # fmt: skip
    assert result.images == round(10_000 * share) and result.history.stopped
    assert draw_fraction([], fraction.stored_curves(RESULTS)).alt


def test_a_point_lies_where_it_was_measured():
    result = run_fraction(0.005)
    axes = draw_fraction([result]).axes[0]
    marks = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_markersize() == 10]
    assert marks == [[50, 100 * result.accuracy]]


# ---------------------------------------------------------------- goodness


def test_goodness_split_counts_both_sides():
    torch.manual_seed(0)
    h = 1.5 * torch.randn(200, 50), torch.randn(150, 50)
    split = goodness_split(*h)
    assert torch.equal(split.positive, mean_squares(h[0])) and split.right > 0.9
    assert split.positive_above == (split.positive > split.theta).sum().item() / 200
    made = GoodnessExplorer(*h)
    made.controls["kind"].value = "sum"  # θ stays, and is far too small now
    made.wait()
    assert made.result.right == 0.5 and "θ" in made.status.value
    made.middle.click()
    made.wait()
    assert made.result.right > 0.9
    made.keep.click()
    made.keep.click()
    assert len(made.results) == 1 and "trial 1 already" in made.status.value


def test_only_the_last_of_many_requests_is_answered():
    made = GoodnessExplorer(torch.rand(20, 5) + 1, torch.rand(20, 5))
    answered, go = [], threading.Event()
    made.answer = lambda settings: (answered.append(settings["theta"]), go.wait(WAIT))
    for theta in (0.2, 0.3, 0.4, 0.5):
        made.controls["theta"].value = theta
    go.set()
    made.wait()
    assert len(answered) <= 2 and answered[-1] == pytest.approx(0.5)


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("step, rule", list(cost.STEPS.items()))
def test_counts_without_computing_are_those_of_a_real_step(step, rule):
    result = run_cost(resolution=28, batch=16, cut=2, hidden=32)
    model = localize(cnn(3), 10, cut=2, hidden=32, input_shape=(3, 28, 28))
    real = measure.training_cost(
        model, rule, (torch.randn(16, 3, 28, 28), torch.randint(10, (16,)))
    )
    assert (result.flops[step], result.saved[step]) == (real.flops, real.saved)
    assert cost.draw_cost(result, [result]).alt.endswith(str(result))


@pytest.mark.nightly
@pytest.mark.parametrize("network", cost.NETWORKS)
@pytest.mark.parametrize("cut", cost.CUTS)
def test_every_network_and_cut_is_counted(network, cut):
    assert all(count > 0 for count in run_cost(network, cut=cut).saved.values())


# ---------------------------------------------------------------- inspector


@pytest.fixture(scope="module")
def seen():
    train, _, test = load("digits", fraction=0.3)
    torch.manual_seed(0)
    model = localize(cnn(1, (8, 16), ()), 10, cut="layer", input_shape=(1, 8, 8))
    fit(model, train, epochs=2, lr=0.02, progress=False)
    return {"SFF": model}, test


def png(mode="L", colour=255):
    file = io.BytesIO()
    Image.new(mode, (20, 30), colour).save(file, "PNG")
    return file.getvalue()


def test_votes_and_goodness_are_the_networks_own(seen):
    models, test = seen
    view = run_inspector(models, test, 7).views["SFF"]
    with torch.no_grad():
        goodness = models["SFF"].block_goodness(test.x[7:8])[0]
    assert torch.allclose(view.goodness, goodness, atol=1e-5)


def test_next_mistake_is_one_and_maps_of_any_class_are_drawn(seen):
    made = Inspector(*seen)
    made.mistake.click()
    made.wait()
    assert made.result.views["SFF"].prediction != made.result.label
    made.controls["evidence"].value = "3"
    made.wait()
    assert made.result.shown(made.result.views["SFF"]) == 3


def test_what_is_transparent_lands_on_white(seen):
    assert read_upload(png("RGBA", (0, 0, 0, 0)), "a.png", seen[1]).min() > 0.99
    assert read_upload(png(), "a.png", seen[1], invert=True).max() < 0.01


@pytest.mark.parametrize(
    "content, word",
    [
        (b"GIF89a" + bytes(40), "GIF"),
        (bytes(4) + b"ftypheic" + bytes(40), "HEIC"),
        (b"no image", "damaged"),
        (b"", "empty"),
    ],
)
def test_files_are_named_as_what_they_are_and_the_next_one_works(seen, content, word):
    import base64

    made = Inspector(*seen)
    for body in (content, png()):
        made.upload.value = "me.png\ndata:;base64," + base64.b64encode(body).decode()
        made.wait()
        if body == content:
            assert word in made.status.value and "Error" in made.status.value
    assert made.result.name == "me.png" and made.result.true == "?"


def test_inspector_refuses_what_has_no_goodness(seen):
    test = seen[1]
    with pytest.raises(ValueError):
        inspector({}, test)
    with pytest.raises(TypeError):
        inspector({"plain": torch.nn.Linear(2, 2)}, test)
