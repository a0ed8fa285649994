"""The explorers of gradient reach and of pipeline schedules: what they compute and answer."""

import pytest

from sff_teach.widgets import reach_explorer, run_reach, run_schedule, schedule_explorer


def reached(rule, cuts):
    """For each loss the layers that it moves."""
    moved = run_reach(rule, cuts).moved
    return [[i for i, m in enumerate(row, 1) if m] for row in moved]


@pytest.mark.parametrize(
    "rule, cuts, expected",
    [
        ("sff", (1, 3), [[1], [2, 3], [4, 5]]),
        ("sff", (), [[1, 2, 3, 4, 5]]),
        ("sff-overlap", (1, 3), [[1], [1, 2, 3], [2, 3, 4, 5]]),
        ("deepsup", (1, 3), [[1], [1, 2, 3], [1, 2, 3, 4, 5]]),
        ("bp", (1, 3), [[1, 2, 3, 4, 5]]),
        ("bp-goodness", (1, 3), [[1, 2, 3, 4, 5]]),
    ],
)
def test_a_loss_reaches_what_its_rule_allows(rule, cuts, expected):
    assert reached(rule, cuts) == expected


@pytest.mark.parametrize("workers, parts", [(2, 1), (4, 4), (8, 32)])
def test_even_stages_wait_as_long_as_gpipes_formula_says(workers, parts):
    idle = run_schedule(workers, parts).idle
    assert idle["gpipe"] == pytest.approx((workers - 1) / (parts + workers - 1))
    assert idle["sff"] == pytest.approx(0)


def test_the_slowest_stage_decides():
    assert run_schedule(2, 8, first=3.0).idle["sff"] == pytest.approx(1 - 4 / 6)


@pytest.mark.parametrize("made, name, value, said", [
    (reach_explorer, "1", False, "loss 1 moves 1, 2;"),
    (schedule_explorer, "workers", 2, "20% idle"),
])  # fmt: skip
def test_a_control_is_answered_and_kept(made, name, value, said):
    explorer = made()
    explorer.controls[name].value = value
    explorer.wait()
    assert said in explorer.status.value and said in explorer.picture.value
    explorer.keep.click()
    assert len(explorer.results) == 1 and "<table>" in explorer.table.value
