"""The explorers that answer at once: cost and inspector, every value of every control."""

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

from sff_teach import cnn, fit, load, localize
from sff_teach import draw as plots
from sff_teach.analysis import cost as measure
from sff_teach.analysis.probes import block_votes
from sff_teach.widgets import (
    CostExplorer,
    Inspector,
    cost_explorer,
    draw_cost,
    draw_inspector,
    inspector,
    read_upload,
    run_cost,
    run_inspector,
)
from sff_teach.widgets import _cost as cost_module
from sff_teach.widgets.inspector import CHOICE, MAX_BYTES, TRUTH

from .test_widgets import assert_readable, saved_files

PNG = b"\x89PNG"


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("step, rule", list(cost_module.STEPS.items()))
@pytest.mark.parametrize("change", [{}, {"hidden": 32, "cut": 2}, {"classes": 100}])
def test_counts_without_computing_are_the_counts_of_a_real_step(step, rule, change):
    settings = {"classes": 10, "cut": "layer", "hidden": 0, "batch": 16} | change
    result = run_cost(resolution=28, **settings)
    model = localize(
        cnn(3), settings["classes"], cut=settings["cut"], hidden=settings["hidden"],
        input_shape=(3, 28, 28),
    )  # fmt: skip
    batch = torch.randn(16, 3, 28, 28), torch.randint(10, (16,))
    real = measure.training_cost(model, rule, batch)
    assert (result.flops[step], result.saved[step]) == (real.flops, real.saved)
    if step == "SFF":
        assert list(result.saved_by_block) == real.saved_by_block


SWEEPS = {
    "network": list(cost_module.NETWORKS),
    "width": list(cost_module.WIDTHS),
    "resolution": list(cost_module.RESOLUTIONS),
    "classes": list(cost_module.CLASSES),
    "cut": list(cost_module.CUTS),
    "hidden": list(cost_module.HEADS),
    "batch": list(cost_module.BATCHES),
}


@pytest.mark.parametrize("name, value", [(n, v) for n, values in SWEEPS.items() for v in values])
def test_every_value_of_every_cost_control(name, value):
    explorer = CostExplorer()
    assert set(explorer.controls) == set(SWEEPS)
    assert [v for _, v in explorer.controls[name].options] == SWEEPS[name]
    explorer.controls[name].value = value
    explorer.update()
    assert explorer.result is not None, explorer.status.value
    assert getattr(explorer.result, name) == value
    assert explorer.picture.png.startswith(PNG)
    assert all(count > 0 for count in explorer.result.saved.values())
    explorer.keep.click()
    assert len(explorer.results) == 1 and "sff-cost.csv" in explorer.save.value


def test_cost_grows_with_what_it_should():
    small, large = run_cost(), run_cost(width=2)
    assert large.flops["backprop"] > 3 * small.flops["backprop"]
    assert run_cost(batch=256).saved["SFF"] > 3.9 * small.saved["SFF"]
    assert run_cost(classes=1000).ratio("SFF", "flops") > small.ratio("SFF", "flops")


def test_figures_of_costs_are_readable_also_where_marks_coincide():
    kept = [run_cost(), run_cost(classes=100), run_cost(classes=1000), run_cost(classes=1000)]
    assert_readable(draw_cost(kept[-1], kept))
    numbers = {text.get_text() for text in draw_cost(kept[-1], kept).axes[0].texts}
    assert "3, 4" in numbers


@pytest.mark.parametrize(
    "value, text",
    [(1.934, "1.93"), (22.34, "22.3"), (3408.94, "3,410"), (0.5, "0.50"), (99.96, "100")],
)
def test_counts_are_written_without_powers_of_ten(value, text):
    assert cost_module._rounded(value) == text


def test_width_belongs_to_the_plain_cnn():
    explorer = CostExplorer()
    explorer.controls["network"].value = "resnet18"
    assert explorer.controls["width"].disabled


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"network": "resnet"}, "network"),
        ({"resolution": 4}, "resolution=4"),
        ({"classes": 0}, "classes"),
        ({"cut": "layers"}, "cut"),
        ({"batch": 0}, "batch"),
    ],
)
def test_bad_costs_are_one_sentence(bad, words):
    with pytest.raises(ValueError, match=words) as caught:
        run_cost(**bad)
    assert "\n" not in str(caught.value)


def test_kept_costs_stay_until_clear_and_errors_are_red(monkeypatch):
    explorer = cost_explorer()
    assert len(explorer.results) == 2 and "1000" in explorer.table.value
    assert list(saved_files(explorer)) == ["sff-cost.csv", "sff-cost.png"]
    explorer.controls["hidden"].value = 32
    explorer.keep.click()
    assert len(explorer.results) == 3
    assert len(draw_cost(explorer.result, explorer.results).axes) == 2

    def broken(**settings):
        raise RuntimeError("no counter here")

    monkeypatch.setattr(explorer, "run", broken)
    explorer.controls["hidden"].value = 64
    assert "Error:</b> no counter here" in explorer.status.value and explorer.keep.disabled
    explorer.keep.click()
    assert len(explorer.results) == 3
    monkeypatch.undo()
    explorer.clear.click()
    assert explorer.results == [] and explorer.table.value == ""
    assert explorer.result is not None and not explorer.keep.disabled


# ---------------------------------------------------------------- inspector


@pytest.fixture(scope="module")
def seen():
    train, _, test = load("digits", fraction=0.3)
    models = {}
    for rule in ("sff", "deepsup"):
        torch.manual_seed(0)
        model = localize(cnn(1, (8, 16), ()), 10, cut="layer", input_shape=(1, 8, 8))
        fit(model, train, rule=rule, epochs=3, lr=0.02, progress=False)
        models[rule] = model
    return models, test


def test_votes_and_goodness_are_the_networks_own(seen):
    models, test = seen
    for number in (0, 7):
        result = run_inspector(models, test, number)
        x = test.x[number : number + 1]
        for name, model in models.items():
            view = result.views[name]
            with torch.no_grad():
                goodness = model.block_goodness(x)[0]
            assert torch.allclose(view.goodness, goodness, atol=1e-5)
            assert view.votes == block_votes(model, x)[0].tolist()
            assert view.prediction == int(model.predict(x))
            assert torch.allclose(view.running[-1], goodness.mean(0).softmax(0), atol=1e-5)


def test_every_evidence_and_the_ends_of_the_images(seen):
    models, test = seen
    made = Inspector(models, test)
    assert made.controls["number"].max == len(test) - 1
    assert list(made.controls["evidence"].options) == [CHOICE, TRUTH, *test.classes]
    for evidence in made.controls["evidence"].options:
        made.controls["evidence"].value = evidence
        made.update()
        assert made.result is not None, made.status.value
        assert made.result.evidence == evidence and made.picture.png.startswith(PNG)
    for number in (len(test) - 1, 0):
        made.controls["number"].value = number
        assert made.result.name == f"number {number}"
        assert_readable(draw_inspector(made.result))
    for number in range(len(test)):
        result = run_inspector(models, test, number)
        assert result.name == f"number {number}" and result.label == int(test.y[number])


def test_an_error_while_looking_for_a_mistake_is_one_red_sentence(seen, monkeypatch):
    models, test = seen
    made = Inspector(models, test)

    def broken(x):
        raise RuntimeError("shapes differ\nand a long story about it")

    monkeypatch.setattr(next(iter(models.values())), "block_goodness", broken)
    made.mistake.click()
    assert "<b>Error:</b> shapes differ</span>" in made.status.value
    assert isinstance(made.error, RuntimeError)


def test_next_mistake_is_one(seen):
    models, test = seen
    made = Inspector(models, test)
    first = next(iter(models.values()))
    wrong = (first.predict(test.x) != test.y).nonzero().flatten().tolist()
    made.mistake.click()
    assert made.controls["number"].value == next(n for n in wrong if n > 0)
    made.controls["number"].value = wrong[-1]
    made.mistake.click()
    assert made.controls["number"].value == wrong[0]  # and round again


def test_next_mistake_judges_as_the_picture_does_and_changes_nothing(seen):
    models, test = seen
    model = copy.deepcopy(next(iter(models.values()))).train()
    model.vote = "last"
    before = copy.deepcopy(model.state_dict())
    made = Inspector({"sff": model}, test)
    for _ in range(5):
        made.mistake.click()
        assert made.result.views["sff"].prediction != made.result.label
    assert model.training
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def picture(mode="L", size=(20, 30), form="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 255, np.uint8)).convert(mode).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("mode, form", [("L", "PNG"), ("RGB", "JPEG"), ("P", "PNG"), ("1", "BMP")])
def test_uploads_become_images_of_the_data(seen, mode, form):
    _, test = seen
    pixels = read_upload(picture(mode, form=form), "a.png", test)
    assert pixels.shape == (1, 8, 8) and 0.95 < pixels.min() <= pixels.max() <= 1
    assert read_upload(picture(mode, form=form), "a.png", test, invert=True).max() < 0.05


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "cannot be read"),
        (b"not an image at all", "cannot be read"),
        (picture()[:40], "cannot be read"),
        (b"0" * (MAX_BYTES + 1), "MB"),
        (b"GIF89a" + b"\x00" * 40, "cannot be read"),
    ],
)
def test_bad_uploads_are_one_red_sentence(seen, content, words):
    models, test = seen
    with pytest.raises(ValueError, match=words):
        read_upload(content, "../../etc/passwd", test)
    made = Inspector(models, test)
    made._on_upload({"new": ({"name": "x.png", "content": memoryview(content)},)})
    assert "Error:" in made.status.value and words in made.status.value
    assert made.keep.disabled
    made.controls["number"].value = 3  # and it goes on
    assert made.result.name == "number 3"


def test_both_generations_of_ipywidgets_upload(seen):
    models, test = seen
    for files in (
        ({"name": "me.png", "content": memoryview(picture())},),
        {"me.png": {"content": picture(), "metadata": {}}},
    ):
        made = Inspector(models, test)
        made._on_upload({"new": files})
        assert made.result.name == "me.png" and made.result.true == "?"
        before = made.picture.png
        made.invert.value = True
        assert made.picture.png != before
        made.keep.click()
        assert made.rows()[0]["image"] == "me.png"


def test_inspector_shows_a_figure_and_refuses_what_has_no_goodness(seen):
    models, test = seen
    made = inspector(models, test, number=2)
    assert made.controls["number"].value == 2
    assert list(saved_files(made)) == ["sff-inspect.png"]
    assert len(draw_inspector(run_inspector(models, test, 2)).axes) == 2 * (2 + 2)
    assert plots.png(draw_inspector(run_inspector(models, test, 2, TRUTH))).startswith(PNG)
    torch.manual_seed(0)
    plain = localize(cnn(1, (8, 16), ()), 10, cut="layer", input_shape=(1, 8, 8))
    fit(plain, test, rule="bp", epochs=1, progress=False)
    with pytest.raises(TypeError, match="goodness heads"):
        run_inspector({"bp": plain}, test)
    with pytest.raises(ValueError, match="models is empty"):
        run_inspector({}, test)
    with pytest.raises(ValueError, match="number=-1"):
        run_inspector(models, test, -1)
    with pytest.raises(ValueError, match="evidence"):
        run_inspector(models, test, 0, "shoe")
