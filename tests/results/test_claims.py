"""Verdicts follow from runs: made-up runs give the verdicts they must, the pages are fresh."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from results import claims
from results.claims import CLAIMS, Effect
from results.partitioning import ChannelGroups
from sff_teach.study import Recipe

ROOT = Path(__file__).parents[2]


def effect(low, high, condition="here", **more):
    return Effect(condition, 5, (low + high) / 2, low, high, **more)


@pytest.mark.parametrize(
    ("test", "low", "high", "outcome"),
    [
        (claims.NON_INFERIOR, -0.9, 0.1, "supported"),
        (claims.NON_INFERIOR, -0.5, -0.1, "supported"),  # behind, but by less than the margin
        (claims.NON_INFERIOR, -1.1, 0.5, "undecided"),  # a whole point is not excluded
        (claims.NON_INFERIOR, -3.2, -2.4, "contradicted"),
        (claims.SUPERIOR, 0.1, 2.0, "supported"),
        (claims.SUPERIOR, -0.1, 9.0, "undecided"),
        (claims.SUPERIOR, -3.0, -0.1, "contradicted"),
    ],
)
def test_the_outcome_of_a_difference(test, low, high, outcome):
    assert test.outcomes([effect(low, high)]) == [outcome]


@pytest.mark.parametrize(
    ("test", "low", "high", "outcome"),
    [
        (claims.RATIO_AT_MOST, 0.8, 1.0, "supported"),
        (claims.RATIO_AT_MOST, 0.8, 1.11, "undecided"),
        (claims.RATIO_AT_MOST, 1.2, 1.3, "contradicted"),
        (claims.RATIO_BELOW_ONE, 0.3, 0.3, "supported"),
        (claims.RATIO_BELOW_ONE, 0.3, 1.0, "undecided"),
    ],
)
def test_the_outcome_of_a_ratio(test, low, high, outcome):
    assert test.outcomes([effect(low, high, unit="×")]) == [outcome]


def test_several_effects_are_corrected():
    narrow = [effect(0.02, 2.0, str(k)) for k in range(5)]  # each alone: p just below 0.05
    assert claims.SUPERIOR.outcomes(narrow[:1]) == ["supported"]
    assert claims.SUPERIOR.outcomes(narrow) == ["undecided"] * 5


def test_verdicts():
    claim = CLAIMS[0]
    good, bad = effect(-0.5, 0.5, "A"), effect(-5, -3, "B")
    control = effect(-5, -3, "C", decides=False)
    assert claim.verdict([good, control]) == "supported"
    assert claim.verdict([bad]) == "contradicted"
    assert claim.verdict([good, bad]) == "depends: 1 supported, 1 contradicted"
    assert claim.verdict([]) == claim.verdict([control]) == claims.ABSENT


def run(rule, seed, accuracy, lr=0.01, **settings):
    recipe = Recipe(rule=rule, seed=seed, lr=lr, **settings)
    return {
        "rule": rule, "seed": seed, "images": 200, "accuracy": accuracy, "accuracy_mean": accuracy,
        "accuracy_last": accuracy - 0.01, "recipe": asdict(recipe),
    }  # fmt: skip


def store(path, runs):
    path.write_text("".join(json.dumps(one) + "\n" for one in runs))


def test_effects_are_paired_by_seed_and_at_the_tuned_rate(tmp_path):
    sff = {"cut": 2, "kernel_size": 3, "fraction": 0.02}
    runs = [run("bp", s, 0.70 + 0.05 * s, fraction=0.02) for s in range(5)]
    runs += [run("sff", s, 0.72 + 0.05 * s + 0.001 * (s % 2), **sff) for s in range(5)]
    runs += [run("sff", s, 0.1, lr=0.5, **sff) for s in range(5)]  # an earlier grid's choice
    tuning = [run("sff", 100, 0.8, **sff), run("sff", 100, 0.2, lr=0.5, **sff)]
    store(tmp_path / "fashion_rules.jsonl", runs)
    store(tmp_path / "fashion_rules_tuning.jsonl", tuning)
    claim = next(c for c in CLAIMS if c.title.startswith("better"))
    (found,) = claim.effects(tmp_path)
    assert found.n == 5 and found.mean == pytest.approx(2.04)
    assert found.high - found.low < 0.2  # the seeds' own spread of 20 points cancels in the pairs
    assert claim.verdict([found]) == "supported"
    averaging = CLAIMS[-1].effects(tmp_path)
    assert [e.mean for e in averaging] == [pytest.approx(1.0)]


def test_beyond_images_counts_the_papers_head_and_shows_the_controls(tmp_path):
    tasks = {"breast cancer, all rows": "3", "breast cancer, 40 rows": "3", "docstrings": "4"}
    rows = {"bp": 0.5, "bp-goodness": 0.48, "deepsup {} blocks": 0.47, "sff {} blocks": 0.46}
    store(
        tmp_path / "beyond_images.jsonl",
        [
            {"task": task, "row": row.format(n), "on": on, "seed": s, "accuracy": value + 0.01 * s}
            for task, n in tasks.items()
            for row, value in rows.items()
            for on in ("valid", "test")
            for s in range(5)
        ],
    )
    claim = next(c for c in CLAIMS if "medicine" in c.title)
    found = claim.effects(tmp_path)
    assert len(found) == 9
    assert [e.condition for e in found if e.decides] == list(tasks)
    assert all(e.mean == pytest.approx(-4) for e in found if e.decides)
    assert {round(e.mean) for e in found if not e.decides} == {-2, -3}
    assert claim.verdict(found) == "contradicted"


def test_without_runs_nothing_is_claimed(tmp_path):
    for claim in CLAIMS:
        assert claim.effects(tmp_path) == []
    text = claims.page(tmp_path)
    assert text.count(claims.ABSENT) == len(CLAIMS)
    assert "supported" not in text.partition("|---")[2]


def test_commands_and_files_exist():
    for claim in CLAIMS:
        assert (ROOT / claim.command.split()[1]).exists(), claim.command
        for name in claim.file.split(", "):
            assert name.endswith(".jsonl")


def test_the_pages_say_what_the_runs_say():
    assert claims.write(ROOT, check=True) == [], "run `make claims`"


def test_writing_pages_and_picture(tmp_path):
    (tmp_path / "results").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{claims.START}\nold\n{claims.END}\nafter\n")
    everything = ["results/claims.md", "README.md", "results/claims.png"]
    assert claims.write(tmp_path, check=True) == everything
    assert "old" in readme.read_text()
    claims.write(tmp_path)
    assert claims.write(tmp_path, check=True) == []
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    readme.write_text("no markers")
    with pytest.raises(ValueError):
        claims.write(tmp_path)


def test_the_picture_shows_every_deciding_effect():
    fig = claims.forest(ROOT / "results")
    found = [e for c in CLAIMS for e in c.effects(ROOT / "results") if e.decides]
    marks = [line for ax in fig.axes for line in ax.lines if len(line.get_xdata()) == 1]
    assert len(marks) == len(found)


RECORDS = sorted((ROOT / "results").glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_stored_runs_say_where_they_come_from(path):
    for line in path.read_text().splitlines():
        record = json.loads(line)
        anywhere = path.stem == "closing_the_gap_frontier"  # counts
        aside = record.get("row") == "linear model" or record.get("on") == "valid"
        if not anywhere and not (path.stem == "beyond_images" and aside):
            assert {"torch", "revision", "device", "python"} <= set(record["machine"])
        if "recipe" in record:
            assert {"seed", "epochs"} <= set(record)
            if record.get("name") not in ("random", "pixels"):  # controls without training
                assert len(record["epochs"]) == record["recipe"]["epochs"]
                assert 0 < record["accuracy"] < 1
            assert "/" not in record["recipe"]["data"]  # no machine's path


def test_channel_groups_share_out_every_channel_once():
    h = torch.randn(2, 7, 4, 5)
    square = h.square().mean((2, 3))  # (2, 7)
    expected = torch.stack(
        [square[:, :3].mean(1), square[:, 3:5].mean(1), square[:, 5:].mean(1)], 1
    )
    torch.testing.assert_close(ChannelGroups(7, 3)(h), expected)
