"""Studies: kept run by run, resumable, and summarised by a library's statistics."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from sff_teach.study import (
    Recipe,
    build,
    interval,
    load_for,
    measure_run,
    read_runs,
    study,
    summarise,
    table,
)

TINY = Recipe(data="digits", network="cnn3", fraction=0.1, epochs=1, device="cpu")


def test_a_record_holds_all_that_is_needed_to_doubt_it():
    record = measure_run(TINY, progress=False)
    assert record["on"] == "test"
    assert record["images"] == 130  # 10 % of the 1,294 left for training, 13 a class
    assert len(record["block_accuracy"]) == 3
    assert record["recipe"]["lr"] == TINY.lr
    assert len(record["epochs"]) == 1
    assert {"torch", "python", "device", "threads", "revision"} <= record["machine"].keys()
    json.dumps(record)  # ready for JSON
    again = measure_run(TINY, progress=False)
    assert again["accuracy"] == record["accuracy"]  # same seed, same machine
    assert measure_run(TINY, on="valid", progress=False)["on"] == "valid"


def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    recipes = [replace(TINY, seed=seed) for seed in range(3)]
    first = study(recipes[:2], path, progress=False)
    import sff_teach.study.runs as module

    ran = []
    honest = module.measure_run
    monkeypatch.setattr(
        module, "measure_run", lambda r, *a, **k: ran.append(r.seed) or honest(r, *a, **k)
    )
    records = study(recipes, path, progress=False)
    assert ran == [2]
    assert records[:2] == first
    assert len(read_runs(path)) == 3
    study([recipes[0]], path, on="valid", progress=False)  # another question, another run
    assert ran == [2, 0]


def test_ctrl_c_keeps_the_finished_runs(tmp_path, monkeypatch, capsys):
    import sff_teach.study.runs as module

    honest = module.measure_run

    def interrupted(recipe, *args, **options):
        if recipe.seed == 1:
            raise KeyboardInterrupt
        return honest(recipe, *args, **options)

    monkeypatch.setattr(module, "measure_run", interrupted)
    path = tmp_path / "runs.jsonl"
    records = study([replace(TINY, seed=s) for s in range(3)], path, progress=False)
    assert [r["seed"] for r in records] == [0]
    assert len(read_runs(path)) == 1
    assert "1 of 3 runs" in capsys.readouterr().out


def test_interval_is_students():
    values = [0.80, 0.82, 0.81, 0.85, 0.79]
    mean, low, high = interval(values)
    half = stats.t.ppf(0.975, 4) * stats.sem(values)
    assert (low, high) == pytest.approx((mean - half, mean + half))
    assert math.isnan(interval([0.5])[1])
    assert interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def record(rule, seed, accuracy):
    return {"rule": rule, "images": 200, "seed": seed, "accuracy": accuracy,
            "parameters": 7, "seconds": 1.0}  # fmt: skip


def test_differences_are_paired_by_seed():
    # sff is 1 point ahead in every seed: the pairs show it, the overlapping intervals would not
    runs = [record("bp", s, 0.7 + 0.05 * s) for s in range(5)]
    runs += [record("sff", s, 0.71 + 0.05 * s + 0.0001 * (s % 2)) for s in range(5)]
    bp, sff = summarise(runs)
    assert bp.difference is None and bp.verdict == "–"
    assert sff.difference == pytest.approx(0.01, abs=1e-4)
    assert sff.verdict == "better than bp"
    assert sff.low < bp.high
    text = table([bp, sff])
    assert "| 200 | sff | 5 | 81.0 |" in text and "better than bp" in text


@pytest.mark.parametrize("shift, verdict", [(-0.02, "worse than bp"), (0.0, "no difference shown")])
def test_verdicts(shift, verdict):
    runs = [record("bp", s, 0.7) for s in range(5)]
    runs += [record("sff", s, 0.7 + shift + 0.001 * (-1) ** s) for s in range(4)]
    assert summarise(runs)[1].verdict == verdict
    assert summarise(runs)[1].n == 4


def test_torchvision_networks_get_colour_and_quick_statistics():
    recipe = Recipe(data="digits", network="mobilenet_v3_small", fraction=0.05, cut=2, epochs=1)
    splits = load_for(recipe)
    assert splits.train.channels == splits.test.channels == 3
    assert torch.equal(splits.train.x[:, 0], splits.train.x[:, 2])
    model = build(recipe, splits.train)
    momenta = {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}
    assert load_for(replace(recipe, network="cnn3")).train.channels == 1


def test_torchvision_networks_are_refused_what_is_no_image():
    with pytest.raises(ValueError, match="no images"):
        load_for(Recipe(data="breast-cancer", network="resnet18"))


def test_a_run_with_many_decimals_is_found_again(tmp_path):
    recipe = replace(TINY, lr=10**-2.5, fraction=1 / 9)
    path = tmp_path / "runs.jsonl"
    assert study([recipe], path, progress=False) == study([recipe], path, progress=False)
    assert len(path.read_text().splitlines()) == 1


def test_nothing_is_trained_that_cannot_be_measured(monkeypatch):
    monkeypatch.setattr("sff_teach.study.runs.fit", None)
    with pytest.raises(ValueError, match="no images"):
        measure_run(replace(TINY, validation=0.0), on="valid")
