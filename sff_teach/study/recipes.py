"""Recipes: the settings of a run, and the named recipes of the course."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..training.config import TrainConfig
from ..util.checks import check_known


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainConfig):
    """All settings of a run: training, data, network.

    Attributes:
        data: name of the data set, see ``data.load``.
        fraction: share of the training images, in (0, 1], drawn with ``seed``.
        validation: share of the training images that is held out, in [0, 1).
        network: a name of ``models.NETWORKS``, or of a torchvision classifier.
        stem: see ``localize``, as for all below.
        cut: ``bp`` merges the blocks again; ``ff`` trains every layer on its own loss.
        kernel_size: of the heads' convolutions.
        filters: of a head per class.
        hidden: channels of a convolution before the goodness, 0 for none.
        head: ``"plain"`` or ``"accurate"``.
        normalise: axes of the normalisation between blocks.
        vote: how the blocks' predictions are combined.
    """

    data: str = "fashion-mnist-sample"
    fraction: float = 1.0
    validation: float = 0.1
    network: str = "cnn4"
    stem: str | None = None
    cut: int | str = "layer"
    kernel_size: int = 1
    filters: int = 1
    hidden: int = 0
    head: str = "plain"
    normalise: str = "all"
    vote: str = "mean"


# Settings that did not exist when the first runs were stored, with the values of those runs.
LEGACY_SETTINGS = {"channels_last": False, "precision": "float32", "compile": False}


def stored_recipe(record: Mapping) -> Recipe:
    """The recipe of a stored run, also if it lacks later settings."""
    return Recipe(**(LEGACY_SETTINGS | record["recipe"]))


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe of the course, with its default rule, and learning rates for other rules."""

    about: str  # for ``sff-teach train list``
    recipe: Recipe
    rates: Mapping[str, float] = field(default_factory=dict)  # peak learning rate by rule


SAMPLE = Recipe(epochs=4)
LAPTOP = Recipe(augment="flip-crop", validation=0.0, cut=2, kernel_size=3, epochs=4, lr=3e-3)
# The same budget for every rule.
GPU = Recipe(
    augment="flip-crop", validation=0.0, cut="block", head="accurate", epochs=40, batch_size=128,
    lr=3e-3, weight_decay=0.05, label_smoothing=0.1, precision="auto", channels_last=True,
)  # fmt: skip

RECIPES = {
    "digits": NamedRecipe(
        about="8×8 digits: a CNN of three layers, each its own block; a few seconds",
        recipe=replace(SAMPLE, data="digits", network="cnn3", epochs=20),
    ),
    "digits-mlp": NamedRecipe(
        about="Hinton's Forward-Forward on 8×8 digits: a perceptron of two layers of 500",
        recipe=replace(SAMPLE, data="digits", rule="ff", network="mlp", epochs=40),
    ),
    "fashion": NamedRecipe(
        about="Fashion-MNIST sample: four layers, each its own block, the paper's plain 1×1 head",
        recipe=SAMPLE,
    ),
    "fashion-2-blocks": NamedRecipe(
        about="Fashion-MNIST sample: the same network in two blocks with 3×3 heads",
        recipe=replace(SAMPLE, cut=2, kernel_size=3),
    ),
    "fashion-mlp": NamedRecipe(
        about="Hinton's Forward-Forward on the Fashion-MNIST sample: two layers of 500",
        recipe=replace(SAMPLE, rule="ff", network="mlp", epochs=15),
    ),
    "breast-cancer": NamedRecipe(
        about="scikit-learn's breast-cancer table: a perceptron of three layers",
        recipe=replace(SAMPLE, data="breast-cancer", network="mlp3", epochs=30, batch_size=32),
    ),
    "docstrings": NamedRecipe(
        about="which library a sentence comes from: four convolutions along the text",
        recipe=replace(SAMPLE, data="docstrings", network="cnn1d", epochs=8),
    ),
    "cifar10-cnn5-laptop": NamedRecipe(
        about="CIFAR-10 without a GPU: five layers in two blocks, 4 epochs",
        recipe=replace(LAPTOP, data="cifar10", network="cnn5"),
        rates={"bp-goodness": 1.5e-3, "sff": 1.5e-3},  # see results/laptop_cifar10.md
    ),
    "cifar10-cnn5-accurate-laptop": NamedRecipe(
        about="CIFAR-10 without a GPU: five layers cut for memory, accurate heads, 4 epochs",
        recipe=replace(
            LAPTOP,
            data="cifar10",
            network="cnn5",
            cut="memory",
            head="accurate",
            kernel_size=1,
            vote="last",
            channels_last=True,
        ),
        rates={"deepsup": 1.5e-3},  # see results/accurate_head.md
    ),
    "cifar100-cnn5-laptop": NamedRecipe(
        about="CIFAR-100 without a GPU: five layers in two blocks, 4 epochs",
        recipe=replace(LAPTOP, data="cifar100", network="cnn5"),
    ),
    "cifar10-resnet18-laptop": NamedRecipe(
        about="5,000 images of CIFAR-10 without a GPU: ResNet18 in four blocks, 4 epochs",
        recipe=replace(
            LAPTOP, data="cifar10", network="resnet18", stem="small", cut=4, fraction=0.1
        ),
    ),
    "imagenette-resnet18-laptop": NamedRecipe(
        about="A fifth of Imagenette, 160 pixels, without a GPU: ResNet18 in four blocks, 4 epochs",
        recipe=replace(LAPTOP, data="imagenette", network="resnet18", cut=4, fraction=0.2),
    ),
    "cifar10-resnet18": NamedRecipe(
        about="CIFAR-10 on a GPU: ResNet18 in nine blocks, 40 epochs",
        recipe=replace(GPU, data="cifar10", network="resnet18", stem="small"),
    ),
    "cifar10-mobilenet-v3": NamedRecipe(
        about="CIFAR-10 on a GPU: MobileNetV3 in its blocks, 40 epochs",
        recipe=replace(GPU, data="cifar10", network="mobilenet_v3_large", stem="small"),
    ),
    "cifar100-resnet18": NamedRecipe(
        about="CIFAR-100 on a GPU: ResNet18 in nine blocks, 40 epochs",
        recipe=replace(GPU, data="cifar100", network="resnet18", stem="small"),
    ),
    "cifar100-mobilenet-v3": NamedRecipe(
        about="CIFAR-100 on a GPU: MobileNetV3 in its blocks, 40 epochs",
        recipe=replace(GPU, data="cifar100", network="mobilenet_v3_large", stem="small"),
    ),
    "imagenette-resnet18": NamedRecipe(
        about="Imagenette, 160 pixels, on a GPU: ResNet18 in nine blocks, 40 epochs",
        recipe=replace(GPU, data="imagenette", network="resnet18"),
    ),
}


def get_recipe(name: str, rule: str | None = None) -> Recipe:
    """The recipe of that name with a rule and its peak learning rate.

    Args:
        name: a key of ``RECIPES``.
        rule: a learning rule; None for the recipe's default.
    """
    check_known(name, RECIPES, "recipe")
    named = RECIPES[name]
    rule = named.recipe.rule if rule is None else rule
    return replace(named.recipe, rule=rule, lr=named.rates.get(rule, named.recipe.lr))


def expected(name: str) -> str:
    """The result of a recipe in one line, measured by ``results/recipes.py``; "" without one."""
    measured = json.loads((Path(__file__).parent / "expected.json").read_text(encoding="utf-8"))
    return measured.get(name, {}).get(get_recipe(name).rule, "")
