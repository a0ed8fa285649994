"""One campaign on one GPU, in order of value: what works, accuracy, memory, speed.

    python results/pack_images.py FOLDER gpu_data/cifar10.npz     before, on any machine
    python results/gpu.py gpu_data/cifar10.npz --budget 25        on the GPU; minutes
    python results/gpu.py --page                                  only the page, from the lines
    python results/gpu.py --rehearse                              every line of it on a CPU, tiny

Each run is a line of gpu.jsonl as soon as it is done. The same command goes on after the last line;
a run is not begun when the time left is less than the longest run of its kind took. Order: doctor
and smoke tests of every CUDA path against float32 on the CPU; ResNet18 on CIFAR-10 by six rows,
seed 0; memory and seconds per step by batch size; more seeds; a step with 100 and 1,000 classes;
MobileNetV3; 100 classes made from the ten (``pack_images.times_ten``). All rows share epochs,
schedule, augmentation and label smoothing; learning rates are not tuned. Accuracy per epoch is on
test images, and nothing is chosen by it. Writes gpu.jsonl, gpu.md and gpu.png.
"""

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
import torchvision
from pack_images import pack, times_ten, unpack
from torch.nn.functional import cross_entropy

from sff_teach import cnn, fit, localize
from sff_teach.analysis.cost import TrainingStep, cuda_peak, live_bytes, time_paired
from sff_teach.data import Splits, batches
from sff_teach.draw import new_figure, png, rule_style
from sff_teach.study import Recipe, cached_run, get_recipe, machine, measure_run, read_runs
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
STEPS = ("bp", "bp-checkpoint", "sff", "sff-recompute")
TOLERANCE = {"float32": 0.02, "bf16": 0.05, "fp16": 0.05}  # of the loss, relative


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is: the defaults for a GPU, or tiny for the rehearsal."""

    device: str = "cuda"
    epochs: int = 15
    images: int | None = None  # None for all
    batch: int = 256
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    step_batches: tuple[int, ...] = (128, 512, 1024, 2048, 4096, 8192, 16384)
    rounds: int = 9
    classes: tuple[int, ...] = (10, 100, 1000)
    smoke_images: int = 2048
    networks: tuple[str, ...] = ("resnet18", "mobilenet_v3_large")

    @property
    def precisions(self) -> tuple[str, ...]:
        """fp16 needs a GPU."""
        return ("float32", "bf16", "fp16") if self.device == "cuda" else ("float32", "bf16")


REHEARSAL = Scale(
    device="cpu", epochs=1, images=48, batch=16, seeds=(0,), step_batches=(4, 8), rounds=1,
    classes=(10, 100), smoke_images=64,
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
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                result = {"out_of_memory": True}
            return result | {"took": time.monotonic() - start, "machine": machine()}

        run = cached_run(self.store, key, timed)
        print({k: v for k, v in run.items() if isinstance(v, str | int | float | bool)}, flush=True)

    # ------------------------------------------------------------ what works

    def smoke(self) -> None:
        """Every way to train on the device, compared with float32 on the CPU."""
        self.do({"what": "doctor"}, lambda: {"report": report()})
        plain = TrainConfig(epochs=2, batch_size=64, lr=2e-3, device="cpu", channels_last=False)
        reference = self.smoke_loss(plain)
        here = replace(plain, device=self.scale.device)
        ways = {f"{p}": replace(here, precision=p) for p in self.scale.precisions}
        best = self.scale.precisions[-1]
        ways["channels-last"] = replace(here, channels_last=True)
        ways["compiled"] = replace(here, compile=True)
        ways["all together"] = replace(here, channels_last=True, compile=True, precision=best)
        for name, config in ways.items():
            tolerance = TOLERANCE[config.precision]
            self.do(
                {"what": "smoke", "name": name},
                lambda config=config, tolerance=tolerance: compare_losses(
                    self.smoke_loss(config), reference, tolerance
                ),
            )
        self.do({"what": "smoke", "name": "augmented on the device"}, self.augmented)
        self.do({"what": "smoke", "name": "killed and resumed"}, self.resumed)

    def smoke_loss(self, config: TrainConfig, **options) -> float:
        """The last epoch's mean training loss of a small network."""
        return smoke_training(self.splits, self.scale.smoke_images, config, **options)

    def augmented(self) -> dict:
        """Other random numbers than on the CPU, so only roughly the same loss."""
        config = TrainConfig(epochs=2, augment="flip-crop", lr=2e-3, device="cpu")
        expected = self.smoke_loss(config)
        return compare_losses(
            self.smoke_loss(replace(config, device=self.scale.device)), expected, 0.2
        )

    def resumed(self) -> dict:
        """A training killed after its first epoch goes on to the loss of one that was not."""
        config = TrainConfig(epochs=2, lr=2e-3, device=self.scale.device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.pt"
            victim = torch.multiprocessing.get_context("spawn").Process(
                target=train_and_die,
                args=(self.splits, self.scale.smoke_images, config, str(path)),
            )
            victim.start()
            victim.join()
            result = compare_losses(
                self.smoke_loss(config, checkpoint=path), self.smoke_loss(config), 0.02
            )
        return result | {"killed": victim.exitcode == -signal.SIGKILL}

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
            step()  # recomputation looks for its cuts in the first step
            peak = cuda_peak(step)
            if peak is None:
                peak = live_bytes(step, step.preexisting_tensors)
            try:
                timed = time_paired(self.step("bp", classes, batch), step, rounds=self.scale.rounds)
            except torch.cuda.OutOfMemoryError:  # backprop's step; this rule's own has run
                return {"peak_bytes": peak, "bp_out_of_memory": True}
            return {
                "peak_bytes": peak, "seconds": timed.b, "ratio": timed.ratio, "low": timed.low,
                "high": timed.high,
            }  # fmt: skip

        self.do({"what": "step", "rule": rule, "classes": classes, "batch": batch}, make)

    def step(self, rule: str, classes: int, batch: int) -> TrainingStep:
        """A step of ResNet18 on random images, in float32."""
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=classes)
        model = localize(network, classes, stem="small", input_shape=(3, 32, 32))
        x = torch.randn(batch, 3, 32, 32, device=self.scale.device)
        y = torch.randint(classes, (batch,), device=self.scale.device)
        return TrainingStep(model.to(self.scale.device), rule, (x, y))

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
        for seed in more[:2]:
            for row in ROWS:
                self.accuracy(row, resnet, seed)
        for classes in self.scale.classes[1:]:
            for rule in STEPS:
                self.step_cost(rule, classes, self.scale.step_batches[0])
        for network in others:
            for row in ROWS:
                self.accuracy(row, network, first)
        for row in ROWS:
            self.accuracy(row, resnet, first, classes=100)
        for seed in more[2:]:
            for row in ROWS:
                self.accuracy(row, resnet, seed)


def smoke_training(splits: Splits, images: int, config: TrainConfig, **options) -> float:
    """Train a three-layer network in two blocks on some images: the last training loss."""
    torch.manual_seed(0)
    data = splits.train.subset(torch.arange(min(images, len(splits.train))))
    network = cnn(data.channels, widths=(16, 32, 32), pool_after=(1, 2))
    model = localize(network, data.num_classes, cut=2, input_shape=(data.channels, *data.size))
    history = fit(model, data, None, config, progress=False, **options)
    return sum(history.rows[-1]["train_loss"])


def train_and_die(splits: Splits, images: int, config: TrainConfig, checkpoint: str) -> None:
    """In a process of its own: SIGKILL after the first epoch."""
    die = lambda history: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    smoke_training(splits, images, config, checkpoint=checkpoint, on_epoch=die)


def compare_losses(loss: float, expected: float, tolerance: float) -> dict:
    """Whether a loss is within a relative tolerance of another."""
    difference = abs(loss - expected) / abs(expected)
    return {
        "loss": loss, "expected": expected, "difference": difference, "tolerance": tolerance,
        "ok": difference <= tolerance,
    }  # fmt: skip


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---------------------------------------------------------------- page and figure


def page(runs: list[dict]) -> Iterator[str]:
    """Lines of gpu.md."""
    yield from ["# On a GPU", "", "Generated by `python results/gpu.py` from `gpu.jsonl`.", ""]
    if not runs:
        yield "Not yet measured on a GPU."
        return
    yield f"{runs[-1]['machine']['device']}, torch {runs[-1]['machine']['torch']}."
    yield from ["", "## What works", "", "| path | loss, relative difference | at most | ok |"]
    yield "|---|--:|--:|---|"
    for r in of(runs, "smoke"):
        yield f"| {r['name']} | {r['difference']:.1e} | {r['tolerance']:g} | {r['ok']} |"
    yield from ["", "## Accuracy", ""]
    yield "| network | classes | row | seed | test accuracy % | seconds | images/s | peak GB |"
    yield "|---|--:|---|--:|--:|--:|--:|--:|"
    for r in of(runs, "accuracy"):
        yield (
            f"| {r['network']} | {r['classes']} | {r['row']} | {r['seed']} "
            f"| {100 * r['accuracy']:.2f} | {r['seconds']:.0f} | {r['images_per_second']:,.0f} "
            f"| {r['peak_bytes'] / 1e9:.2f} |"
        )
    for r in of(runs, "bare loop"):
        yield f"\nThe barest loop of backprop: {r['images_per_second']:,.0f} images/s."
    yield from ["", "## A step of ResNet18, float32", ""]
    yield "| classes | batch | rule | peak GB | ms | seconds ÷ bp | 95 % interval |"
    yield "|--:|--:|---|--:|--:|--:|---|"
    for r in of(runs, "step"):
        cells = "does not fit | – | – | –"
        if "bp_out_of_memory" in r:
            cells = f"{r['peak_bytes'] / 1e9:.2f} | – | bp does not fit | –"
        elif "out_of_memory" not in r:
            cells = (
                f"{r['peak_bytes'] / 1e9:.2f} | {1e3 * r['seconds']:.1f} | {r['ratio']:.2f} "
                f"| {r['low']:.2f} … {r['high']:.2f}"
            )
        yield f"| {r['classes']} | {r['batch']} | {r['rule']} | {cells} |"


def of(runs: list[dict], what: str) -> list[dict]:
    """The runs of one kind."""
    return [run for run in runs if run["what"] == what]


def draw(runs: list[dict]):
    """Test accuracy by epoch of every row, seed 0, ResNet18."""
    fig, ax = new_figure(8, 4.2, xlabel="epoch", ylabel="test accuracy, %")
    for run in of(runs, "accuracy"):
        if (run["network"], run["classes"], run["seed"]) == ("resnet18", 10, 0):
            look = rule_style(run["rule"])
            style = "--" if "plain" in run["row"] else "-"
            values = [100 * row["valid_accuracy"] for row in run["epochs"]]
            epochs = range(1, 1 + len(values))
            ax.plot(epochs, values, style, color=look.colour, marker=look.marker, label=run["row"])
    ax.legend(frameon=False)
    return fig


def write(store: Path) -> None:
    """Page and figure beside the lines."""
    runs = read_runs(store)
    store.with_suffix(".md").write_text("\n".join(page(runs)) + "\n", encoding="utf-8")
    if of(runs, "accuracy"):
        store.with_suffix(".png").write_bytes(png(draw(runs)))


def rehearse(folder: Path) -> None:
    """The whole campaign, tiny, on this CPU; then once more, which must find every line."""
    torch._dynamo.config.disable = True  # compiling for a CPU takes a minute that proves nothing
    packed = folder / "images.npz"
    pack("fashion-mnist-sample", packed)
    splits = unpack(packed, limit=REHEARSAL.images)
    store = folder / "gpu.jsonl"
    Campaign(REHEARSAL, splits, store, seconds=600).run()
    lines = store.read_bytes()
    Campaign(REHEARSAL, splits, store, seconds=0).run()
    assert store.read_bytes() == lines, "the second round ran something again"
    failed = [run["name"] for run in of(read_runs(store), "smoke") if not run["ok"]]
    assert not failed, f"smoke tests failed: {failed}"
    write(store)
    print(store.with_suffix(".md").read_text())


def main() -> None:
    """The campaign on the GPU, its rehearsal, or its page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, help="a file of results/pack_images.py")
    parser.add_argument("--budget", type=float, default=25, help="minutes (default 25)")
    parser.add_argument("--epochs", type=int, default=15, help="of every training (default 15)")
    parser.add_argument("--out", type=Path, default=HERE / "gpu.jsonl", help="the lines")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if options.rehearse:
        with tempfile.TemporaryDirectory() as folder:
            rehearse(Path(folder))
        return
    if not options.page:
        if options.data is None or not torch.cuda.is_available():
            raise SystemExit("This needs a GPU and a file of results/pack_images.py.")
        begun = time.monotonic()
        scale = Scale(epochs=options.epochs)
        splits = unpack(options.data)
        Campaign(scale, splits, options.out, 60 * options.budget, begun).run()
    write(options.out)


if __name__ == "__main__":
    main()
