"""Count what a training step costs, for every setting of the cost explorer.

    python data/make_costs.py

Adds the lines that sff_teach/widgets/costs.jsonl does not have yet; remove it to count all anew, in
about ten minutes. The steps run on torch's "meta" tensors, which have a shape and no values.
"""

import itertools
import json

import torch
import torchvision

from sff_teach import SFF, cnn, localize
from sff_teach.analysis.cost import TrainingStep, flops, saved_by_block
from sff_teach.widgets.cost import BATCH, CHOICES, STEPS, TABLE, read_table

WIDTHS = {"cnn": 1, "cnn-2x": 2, "cnn-4x": 4}


def build(network: str, pixels: int, classes: int, cut: str, hidden: int) -> SFF:
    """The cut network."""
    stem = "small" if network == "resnet18" else None
    if network in WIDTHS:
        net = cnn(3, [WIDTHS[network] * channels for channels in (16, 32, 64, 64)])
    else:
        net = torchvision.models.get_model(network, num_classes=classes)
    shape = (3, pixels, pixels)
    return localize(net, classes, cut=cut, hidden=hidden, stem=stem, input_shape=shape)


def count(*setting: str | int) -> dict[str, list[int]]:
    """FLOPs and saved bytes of the four steps, and SFF's saved bytes by block."""
    with torch.device("meta"):
        model, pixels = build(*setting), setting[1]
        few, batch = (
            (torch.empty(n, 3, pixels, pixels), torch.empty(n, dtype=torch.int64))
            for n in (2, BATCH)
        )
    found = {"flops": [], "saved": []}
    for rule in STEPS.values():
        step = TrainingStep(model, rule, few)
        if rule == "sff-recompute":
            step()  # chooses at its first call what to compute again
        found["flops"].append(flops(step) * BATCH // 2)
        step.x, step.y = batch
        by_block = saved_by_block(step)
        found["saved"].append(max(by_block))
        if rule == "sff":
            found["blocks"] = by_block
    return found


def main() -> None:
    """Count what is missing."""
    known = read_table()
    with TABLE.open("a", encoding="utf-8") as file:
        for setting in itertools.product(*(choices.values() for choices in CHOICES.values())):
            if setting not in known:
                file.write(json.dumps({"setting": setting} | count(*setting)) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
