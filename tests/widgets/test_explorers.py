"""The explorers: what they compute, trials that stay until Clear, Stop, and errors."""

import base64
import io
import itertools
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from data import make_costs
from sff_teach import cnn, fit, load, localize
from sff_teach.analysis.cost import training_cost
from sff_teach.goodness import mean_squares
from sff_teach.study.runs import read_runs
from sff_teach.study.summary import FASHION, best_rate
from sff_teach.widgets import (
    cost,
    fraction,
    goodness_explorer,
    goodness_split,
    inspector,
    layers,
    layers_explorer,
    panel,
    run_cost,
    run_fraction,
    run_layers,
)

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
    small = {"images": 200, "epochs": 1}
    return [run_layers(2, 1, rule="bp", **small), run_layers(2, 2, **small)]


@pytest.fixture
def explorer(trials):
    made = layers_explorer(trials)
    for name, value in {"images": 200, "epochs": 1, "layers": 3, "blocks": 2}.items():
        made.controls[name].value = value
    return made


def test_blocks_are_of_equal_length_and_earlier_ones_longer():
    assert layers.plan_layers(6, 4)[1] == (2, 4, 5)
    shapes = ((1, 28, 28), (16, 14, 14), (32, 7, 7), (64, 7, 7), (64, 3, 3))
    assert layers.plan_layers(4, 2)[0] == shapes


def test_a_trial_stays_until_clear_and_is_not_added_twice(explorer):
    for _ in range(2):
        explorer.train.click()
        explorer.wait()
        assert len(explorer.results) == 3
    assert "trial 3 already" in explorer.status.value
    assert not explorer.train.disabled and explorer.stop.disabled
    names = list(explorer.results[-1].row())
    assert names[0] == "last block %"
    assert "<img" in explorer.network.value
    explorer.clear.click()
    assert explorer.results == [] and explorer.table.value == ""


def test_stop_ends_the_run_which_is_then_no_trial(explorer):
    explorer.controls["epochs"].value = 40
    started = threading.Event()
    on_epoch = explorer.on_epoch
    explorer.on_epoch = lambda history: (on_epoch(history), started.set())
    explorer.train.click()
    assert started.wait(WAIT)
    assert explorer.train.disabled and not explorer.stop.disabled
    explorer.stop.click()
    explorer.wait(WAIT)
    assert not explorer.busy and len(explorer.results) == 2
    assert "stopped" in explorer.status.value and explorer.progress.value == 0


def test_an_error_is_one_red_sentence_and_the_next_run_works(explorer):
    explorer.controls["images"].options = [("200", 200), ("too many", 10_000)]
    explorer.controls["images"].value = 10_000
    explorer.train.click()
    explorer.wait()
    assert "<b>Error:</b> images must be at most" in explorer.status.value
    explorer.controls["images"].value = 200
    explorer.train.click()
    explorer.wait()
    assert len(explorer.results) == 3


def test_a_run_that_diverges_is_no_trial(explorer, trials):
    def diverged(**settings):
        result = run_layers(images=200, epochs=1)
        result.history.stopped = "diverged"
        return result

    explorer.run = diverged
    explorer.train.click()
    explorer.wait()
    assert "diverged" in explorer.status.value and len(explorer.results) == 2


def test_running_the_cell_again_stops_the_old_training_and_keeps_its_trials(trials, monkeypatch):
    monkeypatch.setattr(panel, "running_cell", lambda: "a cell")
    monkeypatch.setattr(panel, "display", lambda *_, **__: None)
    first = layers_explorer(trials[:1])
    first.add(trials[1])
    second = layers_explorer(trials[:1])
    assert second.results == trials and first._stop.is_set()


def test_the_axes_of_a_training_do_not_move(trials):
    fig = layers.draw_layers(trials, trials[1].history)
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
    result = run_fraction(share, stop=stop)
    assert result.images == round(10_000 * share) and result.history.stopped
    assert fraction.draw_fraction([], None, fraction.stored_curves(RESULTS)).alt


def test_a_point_lies_where_it_was_measured():
    result = run_fraction(0.005)
    axes = fraction.draw_fraction([result]).axes[0]
    marks = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_markersize() == 10]
    assert marks == [[50, 100 * result.accuracy]]


# ---------------------------------------------------------------- goodness


def test_goodness_split_counts_both_sides():
    torch.manual_seed(0)
    h = 1.5 * torch.randn(200, 50), torch.randn(150, 50)
    split = goodness_split(*h)
    assert torch.equal(split.positive, mean_squares(h[0])) and split.right > 0.9
    assert split.positive_above == (split.positive > split.theta).sum().item() / 200
    made = goodness_explorer(*h)
    made.controls["kind"].value = "sum"  # θ stays, and is far too small now
    made.wait()
    assert made.result.right == 0.5 and "θ" in made.status.value
    made.box.children[1].children[1].click()  # θ to the middle
    made.wait()
    assert made.result.right > 0.9
    made.keep.click()
    made.keep.click()
    assert len(made.results) == 1 and "trial 1 already" in made.status.value


def test_only_the_last_of_many_requests_is_answered():
    made = goodness_explorer(torch.rand(20, 5) + 1, torch.rand(20, 5))
    answered, go = [], threading.Event()
    made.answer = lambda settings: (answered.append(settings["theta"]), go.wait(WAIT))
    for theta in (0.2, 0.3, 0.4, 0.5):
        made.controls["theta"].value = theta
    go.set()
    made.wait()
    assert len(answered) <= 2 and answered[-1] == pytest.approx(0.5)


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize(
    "setting",
    [
        ("cnn", 32, 10, "stage", 64),
        pytest.param(("cnn-2x", 32, 100, "layer", 0), marks=pytest.mark.nightly),
        pytest.param(("resnet18", 32, 1000, "block", 0), marks=pytest.mark.nightly),
        pytest.param(("mobilenet_v3_small", 32, 10, "block", 64), marks=pytest.mark.nightly),
    ],
)
def test_stored_counts_are_those_of_real_steps(setting):
    result, model, pixels = run_cost(*setting), make_costs.build(*setting), setting[1]
    batch = torch.randn(cost.BATCH, 3, pixels, pixels), torch.randint(10, (cost.BATCH,))
    for step, rule in cost.STEPS.items():
        real = training_cost(model, rule, batch)
        assert (result.flops[step], result.saved[step]) == (real.flops, real.saved)
        assert rule != "sff" or result.saved_by_block == real.saved_by_block
    assert cost.draw_cost([result], result).alt.endswith(str(result))


def test_the_table_is_what_its_script_counts():
    setting = ("cnn-4x", 224, 1000, "layer", 0)
    assert cost.read_table()[setting] == {"setting": list(setting)} | make_costs.count(*setting)


def test_every_setting_is_in_the_table():
    assert set(cost.read_table()) == set(
        itertools.product(*(choices.values() for choices in cost.CHOICES.values()))
    )
    with pytest.raises(ValueError, match="pixels"):
        run_cost(pixels=28)


# ---------------------------------------------------------------- inspector


@pytest.fixture(scope="module")
def seen():
    train, _, test = load("digits", fraction=0.3)
    torch.manual_seed(0)
    model = localize(cnn(1, (8, 16), ()), 10, cut="layer", input_shape=(1, 8, 8))
    fit(model, train, epochs=2, lr=0.02, progress=False)
    return {"SFF": model}, test


def upload(name, content):
    return f"{name}\n{base64.b64encode(content).decode()}"


def test_votes_and_goodness_are_the_networks_own(seen):
    models, test = seen
    view = inspector(models, test, 7).result.views["SFF"]
    with torch.no_grad():
        goodness = models["SFF"].block_goodness(test.x[7:8])[0]
    assert torch.allclose(view.goodness, goodness, atol=1e-5)


def test_next_mistake_is_one_and_maps_of_any_class_are_drawn(seen):
    made = inspector(*seen)
    made.box.children[1].children[1].click()  # Next mistake
    made.wait()
    assert made.result.views["SFF"].prediction != made.result.label
    made.controls["evidence"].value = "3"
    made.wait()
    assert made.result.shown(made.result.views["SFF"]) == 3


@pytest.mark.parametrize(
    "content, word",
    [
        (b"GIF89a" + bytes(6), "GIF"),
        (bytes(4) + b"ftypheic", "HEIC"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4), "damaged"),
        (b"", "empty"),
    ],
)
def test_files_are_named_as_what_they_are_and_the_next_one_works(seen, content, word):
    made, file = inspector(*seen), io.BytesIO()
    Image.new("RGBA", (20, 30), "white").save(file, "PNG")
    made.controls["upload"].value = upload("me.png", content)
    made.wait()
    assert word in made.status.value and "Error" in made.status.value
    for invert in (False, True):
        made.controls["upload"].value = upload("me.png", file.getvalue())
        made.controls["invert"].value = invert
        made.wait()
        assert made.result.name == "me.png" and made.result.true == "?"
        assert made.result.image.mean() == 1 - invert
    made.controls["number"].value = 5
    made.wait()
    assert made.result.name == "number 5"


def test_inspector_refuses_what_has_no_goodness(seen):
    test = seen[1]
    with pytest.raises(ValueError):
        inspector({}, test)
    with pytest.raises(TypeError):
        inspector({"plain": torch.nn.Linear(2, 2)}, test)
