"""Recipes: one frozen record per run, and the named runs of the course."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..util.checks import check_known, explained


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run, apart from the machine.

    Attributes:
        data, fraction, validation: see ``data.load``; the fraction is drawn with ``seed``.
        network: a name from ``models.NETWORKS`` or of a torchvision classifier; stem: ``"small"``
            fits the latter to small images, see ``localize``.
        rule: see ``rules.RULES``. cut, kernel_size, filters, hidden, normalise, vote: see
            ``localize``; ``bp`` uses none of them, ``ff`` takes every layer of the network by
            itself.
        epochs, batch_size, lr, weight_decay, schedule, label_smoothing, augment: see ``fit``.
        seed: initial weights, subset, order. device: where.
        precision, channels_last, compile: see ``fit``.
    """

    data: str = "fashion-mnist-sample"
    fraction: float = 1.0
    validation: float = 0.1
    network: str = "cnn4"
    stem: str | None = None
    rule: str = "sff"
    cut: int | str = "layer"
    kernel_size: int = 1
    filters: int = 1
    hidden: int = 0
    normalise: str = "all"
    vote: str = "mean"
    epochs: int = 4
    batch_size: int = 64
    lr: float = 5e-3
    weight_decay: float = 0.01
    schedule: str = "one-cycle"
    label_smoothing: float = 0.0
    augment: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False


RECIPES: dict[str, Callable[[], Recipe]] = {}


def recipe(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Register a function that returns a Recipe under its name, with dashes for underscores."""
    RECIPES[function.__name__.replace("_", "-")] = function
    return function


@recipe
def digits_sff() -> Recipe:
    """8×8 digits, three layers, each its own block: a few seconds."""
    return Recipe(data="digits", network="cnn3", epochs=20)


@recipe
def fashion_sff() -> Recipe:
    """Fashion-MNIST sample, four layers, each its own block, the paper's plain 1×1 head."""
    return Recipe()


@recipe
def fashion_sff_2_blocks() -> Recipe:
    """The same network in two blocks with 3×3 heads."""
    return Recipe(cut=2, kernel_size=3)


@recipe
def fashion_bp() -> Recipe:
    """The same network by backprop, average pooling and a linear layer."""
    return Recipe(rule="bp")


@recipe
def digits_ff() -> Recipe:
    """Hinton's Forward-Forward on 8×8 digits, a perceptron of two layers of 500."""
    return Recipe(data="digits", rule="ff", network="mlp", epochs=40)


@recipe
def fashion_ff() -> Recipe:
    """Hinton's Forward-Forward on the Fashion-MNIST sample, a perceptron of two layers of 500."""
    return Recipe(rule="ff", network="mlp", epochs=15)


@recipe
def breast_cancer_sff() -> Recipe:
    """scikit-learn's breast-cancer table, a perceptron of three layers, each its own block."""
    return Recipe(data="breast-cancer", network="mlp3", epochs=30, batch_size=32)


@recipe
def docstrings_sff() -> Recipe:
    """Text: which library a sentence comes from, four convolutions along it, each its own block."""
    return Recipe(data="docstrings", network="cnn1d", epochs=8)


def family(name: str, about: str, base: Recipe, rates: dict[str, float]) -> None:
    """Register ``NAME-RULE`` for every rule in ``rates``: one budget, each its own peak rate."""

    def register(rule: str, lr: float) -> None:
        def make() -> Recipe:
            return replace(base, rule=rule, lr=lr)

        make.__doc__ = f"{about}, by {rule}."
        RECIPES[f"{name}-{rule}"] = make

    for rule, lr in rates.items():
        register(rule, lr)


# Before anybody tuned them, all rules start from the same rate.
UNTUNED = dict.fromkeys(("bp", "bp-goodness", "deepsup", "sff"), 3e-3)
AUGMENTED = Recipe(augment="flip-crop", validation=0.0)
LAPTOP = replace(AUGMENTED, cut=2, kernel_size=3, epochs=4)
family(
    "cifar10-cnn5-laptop",
    "CIFAR-10 without a GPU: five layers in two blocks, 4 epochs",
    replace(LAPTOP, data="cifar10", network="cnn5"),
    {"bp": 3e-3, "bp-goodness": 1.5e-3, "deepsup": 3e-3, "sff": 1.5e-3},  # laptop_cifar10.md
)
family(
    "cifar100-cnn5-laptop",
    "CIFAR-100 without a GPU: five layers in two blocks, 4 epochs",
    replace(LAPTOP, data="cifar100", network="cnn5"),
    UNTUNED,
)
family(
    "cifar10-resnet18-laptop",
    "5,000 images of CIFAR-10 without a GPU: ResNet18 in four blocks, 4 epochs",
    replace(LAPTOP, data="cifar10", network="resnet18", stem="small", cut=4, fraction=0.1),
    UNTUNED,
)
family(
    "imagenette-resnet18-laptop",
    "A fifth of Imagenette, 160 pixels, without a GPU: ResNet18 in four blocks, 4 epochs",
    replace(LAPTOP, data="imagenette", network="resnet18", cut=4, fraction=0.2),
    UNTUNED,
)

# One budget for a GPU: the same epochs, schedule and smoothing for every rule.
GPU = replace(
    AUGMENTED, cut="block", hidden=128, epochs=40, batch_size=128, weight_decay=0.05,
    label_smoothing=0.1, precision="auto", channels_last=True,
)  # fmt: skip
family(
    "cifar10-resnet18",
    "CIFAR-10 on a GPU: ResNet18 in nine blocks, 40 epochs",
    replace(GPU, data="cifar10", network="resnet18", stem="small"),
    UNTUNED,
)
family(
    "cifar10-mobilenet-v3",
    "CIFAR-10 on a GPU: MobileNetV3 in its blocks, 40 epochs",
    replace(GPU, data="cifar10", network="mobilenet_v3_large", stem="small"),
    UNTUNED,
)
family(
    "cifar100-resnet18",
    "CIFAR-100 on a GPU: ResNet18 in nine blocks, 40 epochs",
    replace(GPU, data="cifar100", network="resnet18", stem="small"),
    UNTUNED,
)
family(
    "cifar100-mobilenet-v3",
    "CIFAR-100 on a GPU: MobileNetV3 in its blocks, 40 epochs",
    replace(GPU, data="cifar100", network="mobilenet_v3_large", stem="small"),
    UNTUNED,
)
family(
    "imagenette-resnet18",
    "Imagenette, 160 pixels, on a GPU: ResNet18 in nine blocks, 40 epochs",
    replace(GPU, data="imagenette", network="resnet18"),
    UNTUNED,
)


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ``ValueError`` names the nearest one if it is unknown."""
    check_known(name, RECIPES, "recipe")
    return RECIPES[name]()


@lru_cache(maxsize=1)
def _measured() -> dict[str, str]:
    return json.loads((Path(__file__).parent / "expected.json").read_text(encoding="utf-8"))


@explained()
def expected(name: str) -> str:
    """Accuracy, time and memory to expect of a recipe, and where that was measured; or that nobody
    has measured it yet. Written by ``results/recipes.py``."""
    return _measured().get(name, "not yet measured")
