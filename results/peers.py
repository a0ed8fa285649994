"""Forward-forward and local-loss code of other people beside ours: one set, epochs, sizes, machine.

    python results/peers.py --loewex A --mpezeshki B --cwcomp C --local-loss D     some 70 minutes

A to D are checkouts of github.com/loeweX/Forward-Forward, mpezeshki/pytorch_forward_forward,
andreaspapac/CwComp and anokland/local-loss. Their code runs from there, unchanged, with the
optimisers and learning rates it has; nothing of it is copied here. What is set from outside: the
images (the 10,000 and 2,000 of the Fashion-MNIST sample), the epochs, the widths, the processor in
place of a GPU. Ours run with the recipes' rates. Nobody's rate is tuned for this budget, so read
the table for orders of magnitude.

Two sizes: perceptrons of two layers of 500 units, and CNNs of four 3×3 convolutions with 20, 40, 60
and 80 channels. Every run has a process of its own; seconds are its processor time in training,
memory is what its peak adds to what it held before. Goes on where it stopped; a row whose path is
not given is left out. Writes peers.jsonl and peers.md.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from claims import difference
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sff_teach import FFNetwork, cnn, evaluate, fit, load, localize
from sff_teach.models import mlp
from sff_teach.study import cached_run, interval, machine, read_runs

HERE = Path(__file__).parent
STORE = HERE / "peers.jsonl"
SEEDS, EPOCHS, BATCH, UNITS, WIDTHS = 5, 4, 100, 500, (20, 40, 60, 80)
LINKS = {  # row → what the table calls it
    "mpezeshki": "[mpezeshki](https://github.com/mpezeshki/pytorch_forward_forward)'s `ff`",
    "loewex": "[loeweX](https://github.com/loeweX/Forward-Forward)'s `ff`",
    "cwcomp": "[CwComp](https://github.com/andreaspapac/CwComp), channel groups",
    "local_loss": "[local-loss](https://github.com/anokland/local-loss), predsim",
}

# A method returns: train, which trains; score, the test accuracy; and the network.
Method = tuple[Callable[[], None], Callable[[], float], nn.Module]


def images() -> tuple:
    """Training and test images of the sample."""
    train, _, test = load("fashion-mnist-sample", validation=0)
    return train, test


def shuffled(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of batches in a new order."""
    for index in torch.randperm(len(x)).split(BATCH):
        yield x[index], y[index]


def on_the_processor() -> None:
    """Let code that was written for a GPU run without one."""
    nn.Module.cuda = lambda self, *_: self
    Tensor.cuda = lambda self, *_, **__: self


def absent(*names: str) -> None:
    """Put empty modules in the place of packages that a checkout imports and does not need here."""
    for name in names:
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__getattr__ = lambda attribute: SimpleNamespace


# ---------------------------------------------------------------- other people's


def mpezeshki(path: Path, seed: int) -> Method:
    """Layer after layer, as its main.py does, here with batches of 100 images."""
    sys.path.insert(0, str(path))
    on_the_processor()
    import main as theirs

    theirs.tqdm = lambda steps: steps
    train, test = images()
    x, y = train.x.flatten(1), train.y
    net = theirs.Net([x.shape[1], UNITS, UNITS])

    def learn() -> None:
        for number, layer in enumerate(net.layers):
            layer.num_epochs = 1
            for _ in range(EPOCHS):
                for images, labels in shuffled(x, y):
                    positive = theirs.overlay_y_on_x(images, labels)
                    wrong = labels[torch.randperm(len(labels))]  # as it draws them, some are right
                    negative = theirs.overlay_y_on_x(images, wrong)
                    with torch.no_grad():
                        for before in net.layers[:number]:
                            positive, negative = before(positive), before(negative)
                    layer.train(positive, negative)

    def score() -> float:
        with torch.no_grad():
            return (net.predict(test.x.flatten(1)) == test.y).float().mean().item()

    return learn, score, nn.ModuleList(net.layers)


def loewex(path: Path, seed: int) -> Method:
    """All layers on every batch; a linear read-out of the second layer predicts."""
    sys.path.insert(0, str(path))
    absent("hydra", "hydra.utils", "omegaconf")
    from src import utils

    numbers = {
        "learning_rate": 1e-3, "weight_decay": 3e-4, "momentum": 0.9, "epochs": EPOCHS,
        "downstream_learning_rate": 1e-2, "downstream_weight_decay": 3e-3,
    }  # its config.yaml  # fmt: skip
    model = {"peer_normalization": 0.03, "momentum": 0.9, "hidden_dim": UNITS, "num_layers": 2}
    opt = SimpleNamespace(
        seed=seed, device="cpu", input=SimpleNamespace(batch_size=BATCH),
        model=SimpleNamespace(**model), training=SimpleNamespace(**numbers),
    )  # fmt: skip
    net, optimizer = utils.get_model_and_optimizer(opt)
    train, test = images()
    pixels = {part: data.values() for part, data in (("train", train), ("test", test))}

    def with_label(x: Tensor, label: Tensor) -> Tensor:
        x = x.clone()
        x[:, 0, 0, :10] = label
        return x

    def learn() -> None:
        for epoch in range(EPOCHS):
            optimizer_now = utils.update_learning_rate(optimizer, opt, epoch)
            for x, y in shuffled(pixels["train"], train.y):
                wrong = (y + torch.randint(1, 10, y.shape)) % 10
                inputs = {
                    "pos_images": with_label(x, one_hot(y, 10).float()),
                    "neg_images": with_label(x, one_hot(wrong, 10).float()),
                    "neutral_sample": with_label(x, torch.full((10,), 0.1)),
                }
                optimizer_now.zero_grad()
                net(inputs, {"class_labels": y})["Loss"].backward()
                optimizer_now.step()

    def score() -> float:
        neutral = with_label(pixels["test"], torch.full((10,), 0.1))
        opt.input.batch_size = len(test.y)
        with torch.no_grad():
            found = net.forward_downstream_classification_model(
                {"neutral_sample": neutral}, {"class_labels": test.y}
            )
        return float(found["classification_accuracy"])

    return learn, score, net


def cwcomp(path: Path, seed: int) -> Method:
    """Its CFSE network with channel-wise goodness; its softmax predictor is left out."""
    sys.path.insert(0, str(path / "src"))
    on_the_processor()
    absent("cv2")
    from Models import CW_Comp

    net = CW_Comp(
        list(WIDTHS), batch_size=BATCH, CFSE=True, sf_pred=False, dataset="FMNIST",
        ILT="Acc", loss_="CwC_CE",
    )  # fmt: skip
    train, test = images()

    def learn() -> None:
        net.train()
        for epoch in range(EPOCHS):
            for x, y in shuffled(train.x, train.y):
                net.train_(x, y, y[torch.randperm(len(y))], epoch)

    def score() -> float:
        net.eval()
        with torch.no_grad():
            return (net.predict(test.x) == test.y).float().mean().item()

    return learn, score, net


def local_loss(path: Path, seed: int) -> Method:
    """Every layer by its prediction and similarity loss, with the network of four convolutions."""
    text = (path / "train.py").read_text()
    definitions = text[: text.index("''' The main training and testing loop '''")]
    layers = str([*WIDTHS[:2], "M", *WIDTHS[2:], "M"])
    definitions = re.sub(r"('vgg8b':\s*)\[[^\]]*\]", rf"\g<1>{layers}", definitions)
    train, test = images()
    options = f"--dataset FashionMNIST --model vgg8b --num-layers 0 --no-cuda --no-print-stats \
        --batch-size {BATCH} --seed {seed}"
    sys.argv = ["train.py", *options.split()]

    from torchvision import datasets

    def ours(root: str, train: bool = True, **_) -> torch.utils.data.TensorDataset:
        part = images()[0] if train else images()[1]
        return torch.utils.data.TensorDataset(part.x, part.y)

    datasets.FashionMNIST = ours
    theirs: dict = {"__name__": "theirs"}
    exec(compile(definitions, "train.py", "exec"), theirs)
    net, optimizer = theirs["model"], theirs["optimizer"]

    def learn() -> None:
        net.train()
        for _ in range(EPOCHS):
            for x, y in shuffled(train.x, train.y):
                optimizer.zero_grad()
                net.optim_zero_grad()
                output, _ = net(x, y, theirs["to_one_hot"](y, 10))
                loss = nn.functional.cross_entropy(output, y) * (1 - theirs["args"].beta)
                loss.backward()  # of the output layer; the others stepped in the forward pass
                optimizer.step()

    def score() -> float:
        net.eval()
        with torch.no_grad():
            output, _ = net(test.x, test.y, theirs["to_one_hot"](test.y, 10))
        return (output.argmax(1) == test.y).float().mean().item()

    return learn, score, net


# ---------------------------------------------------------------- ours


def ours(rule: str, seed: int, **how) -> Method:
    """One of our rules with AdamW and the one-cycle schedule."""
    train, test = images()
    if rule == "ff":
        net = FFNetwork(mlp(784, [UNITS, UNITS]).children(), 10)
    else:
        network = cnn(1, widths=WIDTHS, pool_after=(2, 4))
        net = localize(network, 10, input_shape=(1, 28, 28), **how)

    def learn() -> None:
        options = {"rule": rule, "epochs": EPOCHS, "batch_size": BATCH, "seed": seed}
        fit(net, train, lr=0.005, progress=False, **options)

    return learn, lambda: evaluate(net, test).accuracy, net


ROWS = {  # size, and what makes the method; a path is handed to other people's
    "mpezeshki": ("2 × 500 units", mpezeshki),
    "loewex": ("2 × 500 units", loewex),
    "ff": ("2 × 500 units", lambda _, seed: ours("ff", seed)),
    "cwcomp": ("4 convolutions", cwcomp),
    "local_loss": ("4 convolutions", local_loss),
    "sff": ("4 convolutions", lambda _, seed: ours("sff", seed, cut=2, kernel_size=3)),
    "bp": ("4 convolutions", lambda _, seed: ours("bp", seed)),
    **{
        f"{rule}, accurate": (
            "4 convolutions",
            lambda _, seed, rule=rule: ours(rule, seed, cut="layer", head="accurate"),
        )
        for rule in ("bp-goodness", "deepsup", "sff")
    },
}
NAMES = LINKS | {
    "ff": "ours, `ff`",
    "sff": "ours, `sff`, two blocks, 3×3 heads",
    "bp": "ours, `bp`",
    "bp-goodness, accurate": "ours, `bp-goodness`, accurate head at the end",
    "deepsup, accurate": "ours, `deepsup`, accurate head on every layer",
    "sff, accurate": "ours, `sff`, one layer per block, accurate heads",
}


def measure(row: str, path: Path | None, seed: int) -> dict:
    """One run, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    learn, score, net = ROWS[row][1](path, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    learn()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "accuracy": score(),
        "seconds": seconds,
        "megabytes": (peak - before) / 1024,
        "parameters": sum(p.numel() for p in nn.Module.parameters(net)),
    }


def measure_apart(row: str, path: Path | None, seed: int) -> dict:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--one", row, str(path or ""), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"machine": machine()}


def write() -> None:
    """The page, of what is stored."""
    stored = read_runs(STORE)
    runs = {row: {run["seed"]: run for run in stored if run["row"] == row} for row in ROWS}
    text = [
        "# Other people's code beside ours",
        "",
        "Generated by `python results/peers.py` from `peers.jsonl`; do not edit.",
        f"Fashion-MNIST sample, 10,000 training and 2,000 test images, {EPOCHS} epochs, batches of "
        f"{BATCH}, one thread, {stored[0]['machine']['device']}; {SEEDS} seeds, 95 % intervals by "
        "Student's t, differences in points, paired by seed, medians of seconds and memory. "
        "Everybody's code has its own optimiser and learning rate; none was tuned for this budget, "
        "and the peers' papers train longer. Seconds are processor time. Memory is by how much "
        "training raises the process's peak: 0 where making network and images had needed more.",
        "",
        "| code | size | accuracy % | 95 % interval | minus our bp | parameters | seconds "
        "| memory, MB |",
        "|---|---|--:|---|---|--:|--:|--:|",
    ]
    for row, (size, _) in ROWS.items():
        found = runs[row].values()
        if len(found) < 2:
            continue
        middle, low, high = interval([100 * run["accuracy"] for run in found])
        seconds, memory = (median(run[key] for run in found) for key in ("seconds", "megabytes"))
        minus = "–"
        if size == ROWS["bp"][0] and row != "bp":
            (effect,) = difference(row, runs[row], runs["bp"], "accuracy")
            minus = f"{effect.mean:+.1f} ({effect.low:+.1f} … {effect.high:+.1f})"
        text.append(
            f"| {NAMES[row]} | {size} | {middle:.1f} | {low:.1f} … {high:.1f} | {minus} | "
            f"{next(iter(found))['parameters']:,} | {seconds:.0f} | {memory:.0f} |"
        )
    (HERE / "peers.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    """Run what is missing, seed by seed, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in LINKS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, help="path of the checkout")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        row, path, seed = options.one
        print(json.dumps(measure(row, Path(path), int(seed))))
        return
    for seed in range(SEEDS):
        for row in ROWS:
            path = getattr(options, row, None)
            if row in LINKS and path is None:
                continue
            key = {"row": row, "seed": seed, "epochs": EPOCHS}
            run = cached_run(STORE, key, lambda row=row, p=path, s=seed: measure_apart(row, p, s))
            print(
                f"{row} {seed}: {100 * run['accuracy']:.1f} % in {run['seconds']:.0f} s", flush=True
            )
    write()


if __name__ == "__main__":
    main()
