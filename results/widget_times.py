"""How long the explorers of the notebooks take to answer, and how much of a training they draw.

    python results/widget_times.py

Seconds of processor time, so that other work on the machine matters little. Each explorer runs in a
process of its own, as in a notebook's kernel. Writes widget_times.md, in two minutes.
"""

import gc
import multiprocessing
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch

from sff_teach import cnn, fit, load, localize, widgets
from sff_teach.draw import live
from sff_teach.study import machine
from sff_teach.widgets import cost

HERE = Path(__file__).parent


def seconds(work: Callable[[], Any]) -> float:
    """Processor time that something takes."""
    start = process_time()
    work()
    return process_time() - start


def answers(name: str) -> list[float]:
    """Make an explorer, move its controls one by one; seconds of each answer."""
    explorer, moves = globals()[f"make_{name}"]()
    gc.collect()  # it takes 0.3 s, which else fall into one of the answers

    def move(control: str, value: Any) -> None:
        explorer.controls[control].value = value
        explorer.wait()

    return [seconds(partial(move, *one)) for one in moves]


def make_goodness() -> tuple:
    """As many activations as in notebook 01; the threshold is dragged."""
    torch.manual_seed(0)
    explorer = widgets.goodness_explorer(1.5 * torch.randn(1000, 500), torch.randn(1000, 500))
    return explorer, [("theta", 1 + i / 10) for i in range(1, 11)]


def make_cost() -> tuple:
    """Every choice that a list offers, for MobileNetV3."""
    moves = [("network", "mobilenet_v3_small")]
    for name, choices in list(cost.CHOICES.items())[1:]:
        moves += [(name, value) for value in reversed(choices.values())]
    return widgets.cost_explorer(), moves


def make_reach() -> tuple:
    """Cuts go one by one, then every rule."""
    moves = [(layer, False) for layer in "1234"] + [(layer, True) for layer in "1234"]
    moves += [("rule", rule) for rule in ("sff-overlap", "deepsup", "bp-goodness", "bp")]
    return widgets.reach_explorer(), moves


def make_schedule() -> tuple:
    """From two workers to eight, with up to 32 micro-batches."""
    moves = [("workers", n) for n in (2, 5, 8)] + [("parts", n) for n in (1, 8, 32)]
    return widgets.schedule_explorer(), [*moves, ("first", 3.0)]


def make_inspector() -> tuple:
    """Two networks of four blocks, as in notebook 11."""
    train, _, test = load("fashion-mnist-sample", 0.02)
    nets = {}
    for rule in ("sff", "deepsup"):
        nets[rule] = localize(cnn(), 10, cut="layer", input_shape=(1, 28, 28))
        fit(nets[rule], train, rule=rule, epochs=1, progress=False)
    explorer = widgets.inspector(nets, test)
    moves = [("number", n) for n in range(1, 6)]
    return explorer, [*moves, ("evidence", "the true class")]


def drawn(name: str, settings: dict) -> tuple[float, float]:
    """Train once in an explorer; seconds of the whole, and of what was drawn on the way."""
    explorer = getattr(widgets, f"{name}_explorer")([])
    for control, value in settings.items():
        explorer.controls[control].value = value
    drawing, on_epoch = [], explorer.on_epoch
    explorer.on_epoch = lambda history: drawing.append(seconds(lambda: on_epoch(history)))
    explorer.add = lambda result: 1  # the end is no part of the training
    explorer.draw_network = None
    explorer.on_train()
    whole = seconds(explorer.wait)
    return whole, sum(drawing)


def drawn_live(images: float, epochs: int) -> tuple[float, float]:
    """The same for ``LiveHistory``, which draws while a cell trains."""

    class Handle:
        def update(self, *_: Any, **__: Any) -> None:
            pass

    live.display_data = lambda *_, **__: Handle()
    train, valid, _ = load("fashion-mnist-sample", images)
    net = localize(cnn(), 10, cut="layer", input_shape=(1, 28, 28))
    drawing, show = [], live.LiveHistory()
    whole = seconds(
        lambda: fit(
            net, train, valid, epochs=epochs, progress=False,
            on_epoch=lambda history: drawing.append(seconds(lambda: show(history))),
        )
    )  # fmt: skip
    return whole - drawing.pop(), sum(drawing)  # the last picture stays


ANSWERS = {  # explorer → seconds that an answer may take
    "goodness": 0.3,
    "cost": 0.5,
    "reach": 0.5,
    "schedule": 0.5,
    "inspector": 0.5,
}
TRAININGS = {
    "layers, 1,000 images, 4 epochs": (drawn, "layers", {}),
    "layers, 1,000 images, 16 epochs": (drawn, "layers", {"epochs": 16}),
    "fraction, 500 images": (drawn, "fraction", {}),
    "LiveHistory, 1,000 images, 8 epochs": (drawn_live, 0.1, 8),
}


def alone(function: Callable, *args: Any) -> Any:
    """What a function returns in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def main() -> None:
    """Measure, and write the page."""
    made = machine()
    text = [
        "# How fast the explorers answer",
        "",
        "Written by `python results/widget_times.py`; do not edit. Seconds of processor time, "
        f"{made['device']}. About every tenth picture",
        "waits some 0.3 s for Python's garbage collector; the slowest answer may be such a one.",
        "",
        "| explorer | first answer | median | slowest | may take |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, limit in ANSWERS.items():
        found = alone(answers, name)
        numbers = (found[0], statistics.median(found), max(found), limit)
        text.append(f"| {name} | {' | '.join(f'{number:.2f}' for number in numbers)} |")
        print(text[-1], flush=True)
    text += ["", "Drawing during a training, without the last picture (at most a tenth):", ""]
    text += ["| training | seconds | drawing | share |", "|---|--:|--:|--:|"]
    for name, (function, *args) in TRAININGS.items():
        whole, drawing = alone(function, *args)
        text.append(f"| {name} | {whole:.1f} | {drawing:.2f} | {drawing / whole:.0%} |")
        print(text[-1], flush=True)
    (HERE / "widget_times.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
