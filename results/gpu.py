"""One campaign on one GPU, in order of value: what works, accuracy, memory, speed.

    python results/pack_images.py FOLDER gpu_data/cifar10.npz     before, on any machine
    python results/gpu.py gpu_data/cifar10.npz --budget 25        on the GPU; minutes
    python results/gpu.py --page                                  only the page, from the lines
    python results/gpu.py --rehearse                              every line of it on a CPU, tiny

Each run is a line of gpu.jsonl as soon as it is done. The same command goes on after the last line;
a run is not begun when the time left is less than the longest run of its kind took. A run that
raises is a line with its error, and the campaign goes on; delete the line to try it again. Order:
doctor and smoke tests of every CUDA path against float32 on the CPU; ResNet18 on CIFAR-10 by six
rows, seed 0; memory and seconds per step by batch size; the largest batch; what each switch brings;
two more seeds; a step with 100 and 1,000 classes; MobileNetV3; 100 classes made from the ten
(``pack_images.times_ten``); the recipes as they are; more seeds. All rows share epochs, schedule,
augmentation and label smoothing; learning rates are not tuned. Accuracy per epoch is on test
images, and nothing is chosen by it. Writes gpu.jsonl, gpu.md, which also says what to do first, and
gpu.png.
"""

import argparse
import gc
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial, partialmethod
from pathlib import Path
from statistics import mean

import torch
import torchvision
from pack_images import pack, times_ten, unpack
from torch.nn.functional import cross_entropy

from sff_teach import SFF, block_optimizers, cnn, fit, localize, sff_step
from sff_teach.analysis.cost import TrainingStep, cuda_peak, live_bytes, time_paired
from sff_teach.data import LabelledTensors, Splits, batches
from sff_teach.draw import new_figure, png, rule_style
from sff_teach.study import (
    Recipe,
    build,
    cached_run,
    get_recipe,
    interval,
    machine,
    measure_run,
    read_runs,
)
from sff_teach.training.config import TrainConfig
from sff_teach.util.doctor import report

HERE = Path(__file__).parent
ROWS = {  # name → rule, head and cut
    "bp": ("bp", "plain", "block"),  # drops the head
    "sff, accurate head": ("sff", "accurate", "block"),
    "sff, accurate head, cut for memory": ("sff", "accurate", "memory"),
    "sff, plain head": ("sff", "plain", "block"),
    "bp-goodness": ("bp-goodness", "accurate", "block"),
    "deepsup": ("deepsup", "accurate", "block"),
}
FEW = ("bp", "sff, accurate head", "deepsup")  # of these rows, beyond ResNet18 and ten classes
STEPS = ("bp", "bp-checkpoint", "sff", "sff-recompute")
HALF = {"channels_last": True, "precision": "auto"}
SWITCHES = {  # name → what differs from float32 in torch's own layout
    "float32": {},
    "channels-last": {"channels_last": True},
    "half precision": {"precision": "auto"},
    "both": HALF,
    "both, compiled": HALF | {"compile": True},
}
SMOKE = TrainConfig(epochs=2, lr=2e-3, channels_last=False, device="cpu")
TOLERANCE = {"float32": 0.02, "bf16": 0.05, "fp16": 0.05}  # of the loss, relative
PEAK_TOLERANCE = 0.5  # of bytes: a GPU's convolutions want room of their own
NO_ROOM = "out of memory"
GFLOP = 3.33  # of backprop's step of ResNet18 per image, see cost_resnet18.md


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is: the defaults for a GPU, or tiny for the rehearsal."""

    device: str = "cuda"
    epochs: int = 15
    images: int | None = None  # None for all
    batch: int = 256
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    step_batches: tuple[int, ...] = (128, 512, 1024, 2048, 4096)
    rounds: int = 9
    classes: tuple[int, ...] = (10, 100, 1000)
    room: float = 16e9  # bytes in which the largest batch is looked for
    unit: int = 256  # of the largest batch
    units: int = 128  # the search stays below
    smoke_images: int = 2000  # no multiple of the batch: the last one is smaller
    smoke_batch: int = 64
    switch_images: int = 10240
    networks: tuple[str, ...] = ("resnet18", "mobilenet_v3_large")
    recipes: tuple[str, ...] = ("cifar10-resnet18", "cifar10-mobilenet-v3")
    recipe_changes: dict = field(default_factory=dict)


REHEARSAL = Scale(
    device="cpu", epochs=1, images=48, batch=16, seeds=(0,), step_batches=(2, 4), rounds=1,
    classes=(10, 100), room=60e6, unit=2, units=3, smoke_images=48, smoke_batch=20, switch_images=4,
    recipes=("cifar10-resnet18",), recipe_changes={"epochs": 1},
)  # fmt: skip


@dataclass
class Campaign:
    """Runs of every kind, each kept in one file of JSON lines."""

    scale: Scale
    splits: Splits
    store: Path
    seconds: float  # the budget
    begun: float = field(default_factory=time.monotonic)

    def do(self, key: dict, make: Callable[[], dict]) -> None:
        """Make and keep one run, unless it is there already or there is no time for it."""
        kind = [run for run in read_runs(self.store) if run["what"] == key["what"]]
        longest = max((run["took"] for run in kind), default=0.0)
        left = self.seconds - (time.monotonic() - self.begun)
        stored = any(all(run.get(k) == v for k, v in key.items()) for run in kind)
        if not stored and left < longest:
            print(f"no time for {key}", flush=True)
            return

        def timed() -> dict:
            start = time.monotonic()
            try:
                result = make()
            except torch.OutOfMemoryError:
                result = {"error": NO_ROOM}
            except Exception as error:  # one run less; the others do not depend on it
                synchronise()  # raises if the GPU itself is of no use any more
                traceback.print_exc()
                result = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            return result | {"took": time.monotonic() - start, "machine": machine()}

        run = cached_run(self.store, key, timed)
        gc.collect()
        torch.cuda.empty_cache()
        print({k: v for k, v in run.items() if isinstance(v, str | int | float | bool)}, flush=True)

    # ------------------------------------------------------------ what works

    def smoke(self) -> None:
        """Every way to train on the device, compared with float32 on the CPU."""
        self.do({"what": "doctor"}, lambda: {"report": report()})
        plain = replace(SMOKE, batch_size=self.scale.smoke_batch)
        reference = cache(lambda: self.smoke_loss(plain))
        here = replace(plain, device=self.scale.device)
        ways = {precision: replace(here, precision=precision) for precision in TOLERANCE}
        ways["channels-last"] = replace(here, channels_last=True)
        ways["compiled"] = replace(here, compile=True)
        ways["all together"] = replace(here, channels_last=True, compile=True, precision="bf16")
        for name, config in ways.items():
            self.compare(
                name, partial(self.smoke_loss, config), reference, TOLERANCE[config.precision]
            )
        augmented = {"augment": "flip-crop-cutout"}  # random numbers are drawn on the CPU
        self.compare(
            "augmented on the device",
            partial(self.smoke_loss, replace(here, **augmented)),
            lambda: self.smoke_loss(replace(plain, **augmented)),
            TOLERANCE["float32"],
        )
        self.compare(
            "one fused optimiser",
            lambda: loop_loss(self.smoke_data, here, together=True),
            lambda: loop_loss(self.smoke_data, plain, together=False),
            TOLERANCE["float32"],
        )
        batch = self.scale.step_batches[0]
        self.compare(
            "peak bytes of a step",
            lambda: peak_bytes(self.step("sff", 10, batch)),
            lambda: peak_bytes(self.step("sff", 10, batch, device="cpu")),
            PEAK_TOLERANCE,
        )
        self.do({"what": "smoke", "name": "killed and resumed"}, lambda: self.resumed(here))

    @cached_property
    def smoke_data(self) -> LabelledTensors:
        """The first training images."""
        train = self.splits.train
        return train.subset(torch.arange(min(self.scale.smoke_images, len(train))))

    def smoke_loss(self, config: TrainConfig, **options) -> float:
        """The last epoch's mean training loss of a small network."""
        return smoke_training(self.smoke_data, config, **options)

    def compare(
        self,
        name: str,
        value: Callable[[], float],
        expected: Callable[[], float],
        tolerance: float,
    ) -> None:
        """One smoke test: a value from the device beside the CPU's."""
        key = {"what": "smoke", "name": name}
        self.do(key, lambda: compared(value(), expected(), tolerance))

    def resumed(self, config: TrainConfig) -> dict:
        """A training killed after its first epoch: one more gives the loss of one never killed."""
        epochs = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.pt"
            data = Path(folder) / "data.pt"  # a file, because shared memory is often small
            torch.save(self.smoke_data, data)
            victim = torch.multiprocessing.get_context("spawn").Process(
                target=train_and_die, args=(str(data), config, str(path))
            )
            victim.start()
            victim.join()
            loss = self.smoke_loss(config, checkpoint=path, on_epoch=lambda h: epochs.append(1))
        result = compared(loss, self.smoke_loss(config), TOLERANCE["float32"])
        killed = victim.exitcode == -signal.SIGKILL
        return result | {"killed": killed, "ok": result["ok"] and killed and len(epochs) == 1}

    # ------------------------------------------------------------ accuracy

    def recipe(self, row: str, network: str, seed: int) -> Recipe:
        """The GPU recipe of a rule at this campaign's size."""
        rule, head, cut = ROWS[row]
        return replace(
            get_recipe("cifar10-resnet18", rule), network=network, head=head, cut=cut, seed=seed,
            epochs=self.scale.epochs, batch_size=self.scale.batch, device=self.scale.device,
            augment="flip-crop-cutout",
        )  # fmt: skip

    @cached_property
    def hundred(self) -> Splits:
        """The same images in ten times as many classes."""
        return times_ten(self.splits)

    def accuracy(self, row: str, network: str, seed: int, classes: int | None = None) -> None:
        """One training; the test images are measured after every epoch."""
        recipe = self.recipe(row, network, seed)

        def make() -> dict:
            train, _, test = self.splits if classes is None else self.hundred
            record = measure_run(recipe, splits=Splits(train, test, test), progress=False)
            rate = recipe.epochs * len(train) / record["seconds"]
            return record | {"images_per_second": rate}

        key = {"what": "accuracy", "row": row, "network": network, "seed": seed}
        self.do(key | {"classes": classes or 10, "epochs_planned": recipe.epochs}, make)

    def as_it_is(self, name: str) -> None:
        """A recipe of the course, unchanged, for `results/recipes.py`."""
        recipe = replace(get_recipe(name), device=self.scale.device, **self.scale.recipe_changes)

        def make() -> dict:
            train, _, test = self.splits
            record = measure_run(recipe, splits=Splits(train, test, test), progress=False)
            if "JPEG" in train.name:
                record["recipe"]["data"] += " (JPEG copy)"
            return record

        self.do({"what": "recipe", "name": name}, make)

    def bare_loop(self) -> None:
        """Images per second of backprop in the barest loop: the limit for the rows above."""
        size, device = self.scale.batch, torch.device(self.scale.device)

        def make() -> dict:
            network = torchvision.models.resnet18(num_classes=10)
            network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = torch.nn.Identity()
            network = network.to(device, memory_format=torch.channels_last)
            optimizer = torch.optim.AdamW(network.parameters(), fused=True)
            x, y = next(batches(self.splits.train, size))
            x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
            steps = 2 if self.scale.device == "cpu" else 60
            for step in range(steps + 1):
                if step == 1:  # the first one warms up
                    synchronise()
                    start = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16):
                    loss = cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()
            synchronise()
            return {"images_per_second": steps * len(x) / (time.perf_counter() - start)}

        self.do({"what": "bare loop"}, make)

    # ------------------------------------------------------------ memory and speed

    def step_cost(self, rule: str, classes: int, batch: int) -> None:
        """Peak bytes and seconds of a step, beside backprop's."""

        def make() -> dict:
            step = self.step(rule, classes, batch)
            peak = peak_bytes(step)
            try:
                timed = time_paired(self.step("bp", classes, batch), step, rounds=self.scale.rounds)
            except torch.OutOfMemoryError:  # backprop's step; this rule's own has run
                return {"peak_bytes": peak, "bp_out_of_memory": True}
            return {
                "peak_bytes": peak, "seconds": timed.b, "ratio": timed.ratio, "low": timed.low,
                "high": timed.high,
            }  # fmt: skip

        self.do({"what": "step", "rule": rule, "classes": classes, "batch": batch}, make)

    def largest_batch(self, rule: str) -> None:
        """The largest batch, a multiple of ``unit``, whose step fits into ``room``: bisection."""

        def make() -> dict:
            low, high = 0, self.scale.units
            while high - low > 1:
                middle = (low + high) // 2
                fits = self.fits(rule, middle * self.scale.unit)
                low, high = (middle, high) if fits else (low, middle)
            return {"largest": low * self.scale.unit}

        self.do({"what": "largest", "rule": rule, "room": self.scale.room}, make)

    def fits(self, rule: str, batch: int) -> bool:
        """Whether ``room`` is enough for a step."""
        if self.scale.device == "cpu":
            return peak_bytes(self.step(rule, 10, batch)) <= self.scale.room
        torch.cuda.empty_cache()
        share = self.scale.room / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
        try:
            step = self.step(rule, 10, batch)
            for _ in range(2):
                step()
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return True

    def step(self, rule: str, classes: int, batch: int, device: str | None = None) -> TrainingStep:
        """A step of ResNet18 on random images, in float32."""
        device = device or self.scale.device
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=classes)
        model = localize(network, classes, stem="small", input_shape=(3, 32, 32))
        x = torch.randn(batch, 3, 32, 32, device=device)
        y = torch.randint(classes, (batch,), device=device)
        return TrainingStep(model.to(device), rule, (x, y))

    def switch(self, row: str, name: str) -> None:
        """Images per second with some switches: the second of two short epochs, on full batches."""
        options = {"channels_last": False, "precision": "float32"} | SWITCHES[name]
        recipe = replace(self.recipe(row, "resnet18", 0), epochs=2, **options)

        def make() -> dict:
            part = self.splits.train.subset(torch.arange(self.scale.switch_images))
            history = fit(build(recipe, part), part, None, recipe, progress=False)
            return {"images_per_second": len(part) / history.rows[1]["seconds"]}

        self.do({"what": "switch", "row": row, "name": name}, make)

    # ------------------------------------------------------------ all of it

    def run(self) -> None:
        """Everything, the most valuable first."""
        first, *more = self.scale.seeds
        resnet, *others = self.scale.networks
        self.smoke()
        self.bare_loop()
        for row in ROWS:
            self.accuracy(row, resnet, first)
        for batch in self.scale.step_batches:
            for rule in STEPS:
                self.step_cost(rule, self.scale.classes[0], batch)
        for rule in STEPS:
            self.largest_batch(rule)
        for name in SWITCHES:
            for row in ("bp", "sff, accurate head"):
                self.switch(row, name)
        for seed in more[:2]:
            for row in ROWS:
                self.accuracy(row, resnet, seed)
        for classes in self.scale.classes[1:]:
            for rule in STEPS:
                self.step_cost(rule, classes, self.scale.step_batches[0])
        for network in others:
            for row in FEW:
                self.accuracy(row, network, first)
        for row in FEW:
            self.accuracy(row, resnet, first, classes=100)
        for name in self.scale.recipes:
            self.as_it_is(name)
        for seed in more[2:]:
            for row in ROWS:
                self.accuracy(row, resnet, seed)


def smoke_model(data: LabelledTensors) -> SFF:
    """A three-layer network in two blocks."""
    torch.manual_seed(0)
    network = cnn(data.channels, widths=(16, 32, 32), pool_after=(1, 2))
    return localize(network, data.num_classes, cut=2, input_shape=(data.channels, *data.size))


def smoke_training(data: LabelledTensors, config: TrainConfig, **options) -> float:
    """Train a small network: the last epoch's mean training loss."""
    history = fit(smoke_model(data), data, None, config, progress=False, **options)
    return sum(history.rows[-1]["train_loss"])


def train_and_die(data: str, config: TrainConfig, checkpoint: str) -> None:
    """In a process of its own: SIGKILL after the first epoch."""
    die = lambda history: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    own = torch.load(data, weights_only=False)  # this script wrote it
    smoke_training(own, config, checkpoint=checkpoint, on_epoch=die)


def loop_loss(data: LabelledTensors, config: TrainConfig, together: bool) -> float:
    """The mean loss of a loop with one fused optimiser, or with a plain one for each block."""
    model = smoke_model(data).to(config.device).train()
    make = partial(torch.optim.AdamW, lr=config.lr, fused=together)
    optimizers = block_optimizers(model, make, together=together)
    losses = [
        sff_step(model, x.to(config.device), y.to(config.device), optimizers).losses.sum()
        for x, y in batches(data, config.batch_size)
    ]
    return torch.stack(losses).mean().item()


def compared(value: float, expected: float, tolerance: float) -> dict:
    """Whether a value is within a relative tolerance of another."""
    difference = abs(value - expected) / abs(expected)
    return {
        "value": value, "expected": expected, "difference": difference, "tolerance": tolerance,
        "ok": difference <= tolerance,
    }  # fmt: skip


def peak_bytes(step: TrainingStep) -> int:
    """Peak bytes of a step, gradients included."""
    step()  # recomputation chooses its parts in the first one
    return cuda_peak(step) if step.x.is_cuda else live_bytes(step, step.preexisting_tensors)


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---------------------------------------------------------------- page and figure

FIRST = """
## What to do first, with a card

1. Before, where CIFAR-10 lies as a folder (`train/` and `test/`, a folder of images per class):
   `python results/pack_images.py FOLDER gpu_data/cifar10.npz`. The JPEG copy takes 18 MB; git
   ignores `gpu_data/`. Then `make rehearse`: the campaign, tiny, on the processor.
2. Copy the repository with `gpu_data/` to the machine with the card. `make install` there; or, in a
   Python that has torch 2.9 or newer, `pip install -e .`. `python -m sff_teach doctor` must name
   the card.
3. `python results/gpu.py gpu_data/cifar10.npz --budget 25`, in minutes. (The folder in place of the
   file works, too.) Where a command is ended sooner, give fewer minutes and type it again: it goes
   on after the last line. The first run of a kind is begun whatever is left, so keep three minutes.
4. Bring back `results/gpu.jsonl`, one line a run, and add it to git with `gpu.md` and `gpu.png`. If
   the machine went away before it wrote these two: `python results/gpu.py --page`, anywhere.
5. Read *What works* first. A **no** is a bug to find before any other number is believed;
   afterwards delete its line and those that it touched, and start again.
6. `python results/recipes.py` writes what the recipes reached into their list. Notebook 12,
   section 6, draws curves of `laptop_resnet18.jsonl`; `"what": "accuracy"` has the same fields.

## How long it should take

{estimate}
"""
ESTIMATE = """\
Estimated from counts, not measured. Counted in a step of 256 images:

| network | row | GFLOP an image | values moved an image, 10⁶ | operations a step |
|---|---|--:|--:|--:|
| resnet18 | bp | 3.33 | 11.0 | 254 |
| resnet18 | sff, accurate head | 2.93 | 11.8 | 532 |
| mobilenet_v3_large | bp | 0.97 | 6.4 | 692 |
| mobilenet_v3_large | sff, accurate head | 0.99 | 7.0 | 1,240 |

An H100 in bfloat16 may do 150 TFLOP/s on such convolutions and move 2.5 TB/s, and an operation
takes 10 µs to start. So ResNet18's step takes 8 ms if starting hides behind computing, and 20 ms if
nothing goes well; a training of 15 epochs takes 25 to 60 s, and MobileNetV3's, which waits for
starts, as long. In minutes: smoke tests 2; six rows of a seed 2.5 to 6, three seeds 7 to 18; steps
and the largest batch 2 to 4; switches 2 to 4, mostly compiling; three rows each of MobileNetV3 and
of 100 classes 3 to 6. Together 16 to 34. If it is slow, 25 minutes end in MobileNetV3 or the third
seed; the recipes of 40 epochs (5 to 10) and more seeds come with a second call.

A T4, the usual free card, may do 20 TFLOP/s in float16 and move 0.25 TB/s: 13 s for an epoch of
ResNet18 by this count, and up to 30 s.\
"""


def page(runs: list[dict]) -> Iterator[str]:
    """Lines of gpu.md."""
    yield from ["# On a GPU", "", "Generated by `python results/gpu.py` from `gpu.jsonl`.", ""]
    if runs:
        yield f"{runs[-1]['machine']['device']}, torch {runs[-1]['machine']['torch']}."
        for section in (smoke_table, summary_table, accuracy_table, step_table, speed_table):
            yield from section(runs)
    else:
        yield "Not yet measured on a GPU."
    yield FIRST.rstrip().format(estimate=ESTIMATE)


def smoke_table(runs: list[dict]) -> Iterator[str]:
    """Every path beside float32 on the CPU."""
    yield from ["", "## What works", ""]
    yield "Training losses, or a step's peak bytes, beside float32 on the CPU."
    yield from ["", "| path | relative difference | at most | ok |", "|---|--:|--:|---|"]
    for r in of(runs, "smoke"):
        cells = f"{r.get('error')} | – | **no**"
        if "error" not in r:
            verdict = "yes" if r["ok"] else "**no**"
            cells = f"{r['difference']:.1e} | {r['tolerance']:g} | {verdict}"
        yield f"| {r['name']} | {cells} |"


def summary_table(runs: list[dict]) -> Iterator[str]:
    """ResNet18 on ten classes, over the seeds that a row shares with backprop."""
    by_row = {
        row: {r["seed"]: r for r in finished(runs, "accuracy") if first_network(r, row)}
        for row in ROWS
    }
    yield from ["", "## ResNet18 against the goals", ""]
    yield (
        "Goals for SFF: at least 94 %, at most 0.5 points behind bp, at most 1.1 times its "
        "seconds. 95 % intervals over seeds, paired."
    )
    yield from ["", "| row | seeds | test accuracy % | minus bp, points | seconds ÷ bp |"]
    yield "|---|--:|--:|---|--:|"
    for row, own in by_row.items():
        pairs = [(own[seed], by_row["bp"][seed]) for seed in own if seed in by_row["bp"]]
        if pairs:
            points, low, high = interval([100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs])
            spread = f" ({low:+.1f} … {high:+.1f})" if len(pairs) > 1 else ""
            accuracy = mean(100 * a["accuracy"] for a, _ in pairs)
            ratio = mean(a["seconds"] / b["seconds"] for a, b in pairs)
            yield f"| {row} | {len(pairs)} | {accuracy:.2f} | {points:+.2f}{spread} | {ratio:.2f} |"


def accuracy_table(runs: list[dict]) -> Iterator[str]:
    """Every training."""
    yield from ["", "## Accuracy", "", "![test accuracy by epoch](gpu.png)", ""]
    yield (
        "Seconds of training, without the tests after each epoch. Peak GB: with weights, AdamW's "
        "state, and the images, which lie on the card."
    )
    yield from [
        "",
        "| network | classes | row | seed | test accuracy % | seconds | images/s | peak GB |",
    ]
    yield "|---|--:|---|--:|--:|--:|--:|--:|"
    for r in of(runs, "accuracy"):
        cells = f"{r.get('error')} | – | – | –"
        if "error" not in r:
            stopped = f", {r['stopped']}" if r["stopped"] else ""
            cells = (
                f"{100 * r['accuracy']:.2f}{stopped} | {r['seconds']:.0f} "
                f"| {r['images_per_second']:,.0f} | {r['peak_bytes'] / 1e9:.2f}"
            )
        yield f"| {r['network']} | {r['classes']} | {r['row']} | {r['seed']} | {cells} |"
    for r in finished(runs, "bare loop"):
        rate = r["images_per_second"]
        yield (
            f"\nThe barest loop of backprop on one batch, the limit: {rate:,.0f} images/s, "
            f"{rate * GFLOP / 1e3:.1f} TFLOP/s at {GFLOP} GFLOP an image."
        )


def step_table(runs: list[dict]) -> Iterator[str]:
    """A step's bytes and seconds, and the largest batch."""
    yield from ["", "## A step of ResNet18, float32", ""]
    yield (
        "Nine blocks, plain heads, SGD; peak without weights and batch, with gradients. "
        "Convolutions are in TF32 where the card has it, torch's default. Goals for SFF: at most "
        "0.5 of bp's peak, and below bp-checkpoint's at no more seconds."
    )
    yield from [
        "",
        "| classes | batch | rule | peak GB | ÷ bp | ms | seconds ÷ bp | 95 % interval |",
    ]
    yield "|--:|--:|---|--:|--:|--:|--:|---|"
    steps = of(runs, "step")
    peaks = {(r["classes"], r["batch"]): r.get("peak_bytes") for r in steps if r["rule"] == "bp"}
    for r in steps:
        bp = peaks.get((r["classes"], r["batch"]))
        if "error" in r:
            cells = f"{r['error']} | – | – | – | –"
        else:
            share = f"{r['peak_bytes'] / bp:.2f}" if bp else "–"
            cells = f"{r['peak_bytes'] / 1e9:.2f} | {share} | – | bp does not fit | –"
        if "seconds" in r:
            cells = (
                f"{r['peak_bytes'] / 1e9:.2f} | {share} | {1e3 * r['seconds']:.1f} "
                f"| {r['ratio']:.2f} | {r['low']:.2f} … {r['high']:.2f}"
            )
        yield f"| {r['classes']} | {r['batch']} | {r['rule']} | {cells} |"
    for r in finished(runs, "largest"):
        yield f"\nLargest batch in {r['room'] / 1e9:g} GB, {r['rule']}: {r['largest']:,}."


def speed_table(runs: list[dict]) -> Iterator[str]:
    """What each switch brings."""
    rates = {(r["row"], r["name"]): r["images_per_second"] for r in finished(runs, "switch")}
    yield from ["", "## What each switch brings", "", "ResNet18, images/s, and over float32.", ""]
    yield from ["| row | switches | images/s | × |", "|---|---|--:|--:|"]
    for (row, name), rate in rates.items():
        base = rates.get((row, "float32"))
        yield f"| {row} | {name} | {rate:,.0f} | {f'{rate / base:.2f}' if base else '–'} |"


def of(runs: list[dict], what: str) -> list[dict]:
    """The runs of one kind."""
    return [run for run in runs if run["what"] == what]


def finished(runs: list[dict], what: str) -> list[dict]:
    """Those of one kind that gave a result."""
    return [run for run in of(runs, what) if "error" not in run]


def first_network(run: dict, row: str) -> bool:
    """Whether a run is ResNet18's on ten classes, of this row."""
    return (run["network"], run["classes"], run["row"]) == ("resnet18", 10, row)


def failures(runs: list[dict]) -> list[str]:
    """Smoke tests that differ, and runs that raised; what does not fit into memory is a result."""
    return [
        f"{run['what']} {run.get('name', run.get('row', run.get('rule', '')))}: "
        f"{run.get('error', 'differs from the CPU')}"
        for run in runs
        if not run.get("ok", True) or run.get("error", NO_ROOM) != NO_ROOM
    ]


def draw(runs: list[dict]):
    """Test accuracy by epoch of every row, seed 0, ResNet18."""
    fig, ax = new_figure(8, 4.2, xlabel="epoch", ylabel="test accuracy, %")
    lines = {"plain": "--", "memory": ":"}  # by a word of the row's name
    for row in ROWS:
        for run in finished(runs, "accuracy"):
            if first_network(run, row) and run["seed"] == 0:
                look = rule_style(run["rule"])
                line = next((lines[word] for word in lines if word in row), "-")
                values = [100 * e["valid_accuracy"] for e in run["epochs"] if "valid_accuracy" in e]
                epochs = range(1, 1 + len(values))
                ax.plot(epochs, values, line, color=look.colour, marker=look.marker, label=row)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return fig


def write(store: Path) -> None:
    """Page and figure beside the lines."""
    runs = read_runs(store)
    store.with_suffix(".md").write_text("\n".join(page(runs)) + "\n", encoding="utf-8")
    if finished(runs, "accuracy"):
        store.with_suffix(".png").write_bytes(png(draw(runs)))


def rehearse(folder: Path) -> None:
    """The whole campaign, tiny, on this CPU; then once more, which must find every line."""
    # blocks are traced; making machine code of them for a CPU takes minutes that prove nothing
    torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend="eager")
    packed, store = folder / "images.npz", folder / "gpu.jsonl"
    pack("fashion-mnist-sample", packed)
    splits = unpack(packed, limit=REHEARSAL.images)
    Campaign(REHEARSAL, splits, store, seconds=600).run()
    lines = store.read_bytes()
    Campaign(REHEARSAL, splits, store, seconds=0).run()
    if store.read_bytes() != lines:
        raise SystemExit("The second round ran something again.")
    write(store)
    print(store.with_suffix(".md").read_text(encoding="utf-8"))


def main() -> None:
    """The campaign on the GPU, its rehearsal, or its page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", type=Path, help="a file of results/pack_images.py, or its folder"
    )
    parser.add_argument("--budget", type=float, default=25, help="minutes (default 25)")
    parser.add_argument("--epochs", type=int, default=15, help="of every training (default 15)")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.jsonl", help="the lines")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if options.rehearse:
        with tempfile.TemporaryDirectory() as folder:
            rehearse(Path(folder))
            check(Path(folder) / "gpu.jsonl")
        return
    if options.page:
        write(options.out)
        return
    if options.data is None or not torch.cuda.is_available():
        raise SystemExit("This needs a GPU and a file of results/pack_images.py.")
    begun = time.monotonic()
    scale, splits = Scale(epochs=options.epochs), unpack(options.data)
    try:
        Campaign(scale, splits, options.out, 60 * options.budget, begun).run()
    finally:
        write(options.out)
    check(options.out)


def check(store: Path) -> None:
    """End with what failed, if anything did."""
    if failed := failures(read_runs(store)):
        raise SystemExit("\n".join(["Failed:", *failed]))


if __name__ == "__main__":
    main()
