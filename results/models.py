"""Which networks of other libraries `localize` cuts, and why not the others; writes models.md.

    make models-test  # makes .venv-models and tests the same networks
    .venv-models/bin/python results/models.py

No weights are downloaded: they are random, and the networks of transformers small. `localize`
itself compares the blocks with the original, in training and evaluation mode.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torchvision
from torch import nn

import sff_teach
from sff_teach.util.checks import SFFError

# Side of the images, and of the transformers' own images; 64 for all others.
TORCHVISION_SIZES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 28}
TIMM = (
    "resnet18",
    "regnetx_002",
    "convnext_atto",
    "efficientnet_lite0",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "poolformer_s12",
    "hgnet_tiny",
)
DROP_PATH = ("resnet18", "convnext_atto", "efficientnet_lite0", "vit_tiny_patch16_224")
TRANSFORMERS = {
    "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "ConvNext": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "ViT": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "image_size": 64,
    },
    "Swin": {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 4]},
}


def models() -> Iterator[tuple[str, Callable[[], nn.Module], int]]:
    """Name, maker and image size of each network: every classifier of torchvision, some others."""
    import timm
    import transformers

    for name in torchvision.models.list_models(module=torchvision.models):
        side = TORCHVISION_SIZES.get(name, 64)
        options = {"image_size": side} if name.startswith("vit") else {}
        if name in ("googlenet", "inception_v3"):
            options = {"init_weights": False}  # the old initialisation takes half a minute
        yield f"torchvision {name}", partial(torchvision.models.get_model, name, **options), side

    def size(name: str) -> int:
        return 224 if name.endswith("224") else 64

    for name in TIMM:
        yield f"timm {name}", partial(timm.create_model, name), size(name)
    for name in DROP_PATH:
        make = partial(timm.create_model, name, drop_path_rate=0.1)
        yield f"timm {name}, drop_path_rate=0.1", make, size(name)
    for name, options in TRANSFORMERS.items():
        config = getattr(transformers, f"{name}Config")(**options)
        make = partial(getattr(transformers, f"{name}ForImageClassification"), config)
        yield f"transformers {name}", make, 224 if name == "Swin" else 64  # whole windows


def outcome(make: Callable[[], nn.Module], size: int) -> tuple[str, str]:
    """What `localize` does with a network: the number of blocks and their share of its weights."""
    model = make()
    began = time.process_time()
    try:
        net = sff_teach.localize(model, 10, input_shape=(3, size, size))
    except SFFError as error:
        return "refused", str(error)
    held = sum(p.numel() for block in net.blocks for p in block.body.parameters())
    share = held / sum(p.numel() for p in model.parameters())
    seconds = time.process_time() - began
    return f"{len(net.blocks)} blocks", f"{share:.0%} of the weights, {seconds:.1f} s"


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")
    lines = [
        "# Networks of other libraries",
        "",
        "What `localize(model, 10)` does with every classifier of torchvision and with networks",
        "of timm and transformers, written by one run of `python results/models.py`. A network",
        "that is cut computes the same as before, in training and evaluation mode, with the same",
        "gradients: `localize` compares them. The seconds are processor time of one core.",
        "",
        "| network | result | |",
        "|---|---|---|",
    ]
    for name, make, size in models():
        lines.append(f"| {name} | {' | '.join(outcome(make, size))} |")
        print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
