"""Every page says what the stored runs say, and every stored run is found again."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from sff_teach.study import RECIPES, runs, stored_recipe

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = (
    "beyond_images",
    "cifar_rules",
    "fashion_rules",
    "features",
    "forward_forward",
    "laptop_cifar10",
    "normalisation",
    "residual_blocks",
    "transfer",
)


@pytest.fixture
def written(monkeypatch):
    """The pages that a script writes, by name; it may neither train nor change a file."""

    def refuse(*args, **kwargs):
        raise AssertionError("a stored run was not found again")

    pages = {}
    monkeypatch.setattr(Path, "write_text", lambda self, text, **_: pages.update({self.name: text}))
    monkeypatch.setattr(runs, "measure_run", refuse)
    monkeypatch.setattr(runs, "append_run", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setenv("SFF_CIFAR10", "cifar10-jpeg")
    monkeypatch.syspath_prepend(str(RESULTS))
    return pages


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_finds_all_its_runs_and_writes_the_same_page(name, written):
    runpy.run_path(str(RESULTS / f"{name}.py"), run_name="__main__")
    assert written[f"{name}.md"] == (RESULTS / f"{name}.md").read_text()


def test_what_to_expect_of_the_recipes(written):
    runpy.run_path(str(RESULTS / "recipes.py"))["write"]()
    assert written["recipes.md"] == (RESULTS / "recipes.md").read_text()
    stored = RESULTS.parent / "sff_teach" / "study" / "expected.json"
    assert written["expected.json"] == stored.read_text()
    assert json.loads(written["expected.json"]).keys() <= RECIPES.keys()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_stored_recipe_can_be_read(path):
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "recipe" in record:
            recipe = stored_recipe(record)
            assert {k: getattr(recipe, k) for k in record["recipe"]} == record["recipe"]
