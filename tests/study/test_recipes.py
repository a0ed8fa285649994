"""Recipes: one per task, for every rule."""

from dataclasses import replace

import pytest
import torch

from sff_teach.data import ImageSet, Splits, catalog, from_arrays, load
from sff_teach.data.download import SETS
from sff_teach.models import NETWORKS
from sff_teach.study import RECIPES, Recipe, get_recipe, run, stored_recipe


def few_images(name: str) -> ImageSet:
    """Some images of an embedded set; noise of the shape of a set that needs a network."""
    if name not in SETS:
        return load(name, 0.02, validation=0).train
    row = next(row for row in catalog() if row["name"] == name)
    shape = [int(n) for n in row["shape"].split("×")]
    classes = [str(k) for k in range(row["classes"])]
    return from_arrays(torch.rand(4, *shape), torch.arange(4) % 2, classes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.nightly] if "net" in n or "cifar100" in n else [])
        for n in RECIPES
    ],
)
def test_every_recipe_builds_and_takes_a_step(name):
    recipe = replace(get_recipe(name), device="cpu", epochs=1)
    data = few_images(recipe.data)
    data = data.as_rgb() if recipe.network not in NETWORKS else data
    _, history = run(recipe, Splits(data, data, data), validate=False, progress=False)
    assert history.stopped is None and history.last["steps"] >= 1


@pytest.mark.parametrize("name", RECIPES)
def test_rules_share_everything_but_their_learning_rate(name):
    own = get_recipe(name)
    for rule in ("bp", "bp-goodness", "deepsup", "sff"):
        assert replace(get_recipe(name, rule), rule=own.rule, lr=own.lr) == own


def test_each_rule_has_its_own_rate():
    rates = [get_recipe("cifar10-cnn5-laptop", rule).lr for rule in ("bp", "deepsup", "sff")]
    assert rates == [3e-3, 3e-3, 1.5e-3]


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="fashion"):
        get_recipe("fashion-sf")
    with pytest.raises(ValueError, match="sff"):
        get_recipe("fashion", "sfff")


def test_a_run_stored_before_a_setting_existed_has_the_value_it_was_made_with():
    recipe = stored_recipe({"recipe": {"rule": "bp", "epochs": 3}})
    assert recipe == Recipe(rule="bp", epochs=3, channels_last=False)
