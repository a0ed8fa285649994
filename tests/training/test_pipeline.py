"""The pipeline of processes: bit for bit one process's weights, and a clear end when one dies."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from sff_teach import cnn, fit, load, localize
from sff_teach.core import LocalBlock
from sff_teach.training import checkpoint
from sff_teach.training.distributed import LostProcess
from sff_teach.training.pipeline import balance, fit_pipeline, measure_blocks
from tests._helpers import descendants, plain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits():
    return load("digits", fraction=1.0)


def network(dropout=0.0, **options):
    torch.manual_seed(0)
    layers = cnn(1, (6, 8, 8), ())
    if dropout:
        for layer in layers:
            layer.append(nn.Dropout(dropout))
    return localize(layers, 10, cut="layer", input_shape=(1, 8, 8), **options)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def equal(a: nn.Module, b: nn.Module) -> bool:
    weights = b.state_dict()
    return all(torch.equal(value, weights[key]) for key, value in a.state_dict().items())


@pytest.mark.nightly
@pytest.mark.parametrize(
    "processes, options",
    [
        (2, {"channels_last": None}),
        # "none" hands on a channels-last output as it lies
        (3, {"hidden": 4, "kernel_size": 3, "normalise": "none"}),
    ],
)
def test_a_hundred_steps_give_the_weights_of_one_process(digits, processes, options):
    layout = options.pop("channels_last", True)
    part = digits.train.subset(slice(0, 1010))  # the last batch is smaller
    settings = {"epochs": 2, "batch_size": 20, "lr": 0.01, "augment": "flip-crop", "seed": 3,
                "channels_last": layout}  # fmt: skip
    alone, shared = network(**options), network(**options)
    expected = fit(alone, part, digits.valid, rule="sff", progress=False, **settings)
    trace = []
    history = fit_pipeline(
        shared, part, digits.valid, processes=processes, progress=False, trace=trace, **settings
    )
    assert sum(row["steps"] for row in history.rows) == 102
    assert equal(alone, shared)
    assert plain(history) == plain(expected)  # validation among it
    plan = history.settings["plan"]
    assert len(plan) == processes + 1 and len(history.settings["block_seconds"]) == 3
    assert history.parameters == expected.parameters and not shared.training
    assert 0 < history.seconds < 600 and all(row["seconds"] > 0 for row in history.rows)

    assert len(trace) == 3 * 102
    times = {(r["block"], r["step"]): r for r in trace}
    for (block, step), r in times.items():
        assert r["start"] <= r["sent"] <= r["stop"]
        assert plan[r["process"]] <= block < plan[r["process"] + 1]
        if block:  # the first process's clock is the others'
            assert times[block - 1, step]["start"] < r["start"]
    # the pipeline at work: the first process does not wait for the last one
    assert any(times[0, step + 1]["start"] < times[2, step]["stop"] for step in range(101))


def test_the_default_set_gives_the_weights_of_one_process():
    """As ``load`` returns it: with one channel both memory layouts look the same to torch."""
    train, valid, _ = load("fashion-mnist-sample", 0.06)

    def small():
        torch.manual_seed(0)
        return localize(cnn(1, (6, 8, 8), (1,)), 10, cut="layer", input_shape=(1, 28, 28))

    alone, shared = small(), small()
    settings = {"epochs": 2, "lr": 0.01, "progress": False}
    expected = fit(alone, train, valid, **settings)
    history = fit_pipeline(shared, train, valid, **settings)
    assert equal(alone, shared) and plain(history) == plain(expected)


@pytest.mark.nightly
def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.training.test_pipeline import fit_pipeline, load, network\n"
        "fit_pipeline(network(), load('digits', fraction=0.1).train, epochs=1, progress=False)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert run.returncode and '__name__ == "__main__"' in run.stderr.splitlines()[-1]


@pytest.mark.nightly
def test_resnet18_as_it_comes():
    def resnet():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=10)
        return localize(model, 10, cut="block", stem="small", input_shape=(3, 16, 16))

    data = torch.randn(33, 3, 16, 16), torch.randint(10, (33,))  # one image is left out
    alone, shared = resnet(), resnet()
    settings = {"epochs": 2, "batch_size": 16, "lr": 0.01, "progress": False}
    fit(alone, data, **settings)
    history = fit_pipeline(shared, data, **settings)
    assert len(shared.blocks) == 9 and history.last["steps"] == 2
    assert equal(alone, shared)
    assert equal(alone.original, shared.original)  # its pooling and classifier as well


@pytest.mark.nightly
def test_dropout_does_not_depend_on_who_has_the_block(digits):
    one, two = network(dropout=0.3), network(dropout=0.3)
    settings = {"epochs": 1, "batch_size": 50, "progress": False}
    first = fit_pipeline(one, digits.train, processes=1, **settings)
    second = fit_pipeline(two, digits.train, processes=3, **settings)
    assert equal(one, two) and plain(first) == plain(second)


@pytest.mark.nightly
def test_fit_and_the_pipeline_go_on_from_each_other(digits, tmp_path):
    path = tmp_path / "run.pt"
    settings = {"epochs": 4, "lr": 0.01, "augment": "flip-crop", "progress": False}
    whole = network()
    expected = fit(whole, digits.train, digits.valid, **settings)

    stop = threading.Event()
    fit(
        network(), digits.train, digits.valid, checkpoint=path, stop=stop,
        on_epoch=lambda history: stop.set(), **settings,
    )  # fmt: skip
    assert len(checkpoint.read(path)["rows"]) == 1

    def interrupt(history):
        if len(history.rows) == 3:
            raise KeyboardInterrupt

    middle = network()
    cut = fit_pipeline(
        middle, digits.train, digits.valid, checkpoint=path, on_epoch=interrupt, **settings
    )
    assert cut.stopped == "interrupted" and plain(cut) == plain(expected)[:3]
    state = checkpoint.read(path)["modules"]["model"]
    assert all(torch.equal(value, state[key]) for key, value in middle.state_dict().items())

    last = network()
    history = fit(last, digits.train, digits.valid, checkpoint=path, **settings)
    assert plain(history) == plain(expected) and equal(whole, last)
    done = network()
    again = fit_pipeline(done, digits.train, digits.valid, checkpoint=path, **settings)
    assert plain(again) == plain(expected) and equal(whole, done)  # nothing was left to do


KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.training.test_pipeline import fit_pipeline, load, network
if __name__ == "__main__":
    digits = load("digits", fraction=1.0)
    fit_pipeline(network(), digits.train, epochs=12, lr=0.01, batch_size=32, progress=False,
                 checkpoint={path!r})
"""


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_killed_it_leaves_a_checkpoint_and_no_process(digits, tmp_path):
    path, script = tmp_path / "run.pt", tmp_path / "killed.py"
    script.write_text(KILLED.format(root=str(ROOT), path=str(path)))
    process = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},  # nobody clears it up
    )
    try:
        wait_for(lambda: process.poll() is not None or (path.exists() and rows(path) >= 2))
        children = descendants(process.pid)
    finally:
        process.kill()
        process.wait()
    left = rows(path)
    assert 2 <= left < 12 and len(children) >= 2
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    settings = {"epochs": 12, "lr": 0.01, "batch_size": 32, "progress": False}
    resumed, never = network(), network()
    history = fit(resumed, digits.train, checkpoint=path, **settings)
    assert plain(history) == plain(fit(never, digits.train, **settings))
    assert equal(never, resumed)


def rows(path: Path) -> int:
    return len(checkpoint.read(path)["rows"])


def wait_for(what, seconds=300):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.nightly
def test_a_loss_that_explodes_is_a_sentence_and_leaves_the_model(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, before = network(), network()
    with pytest.raises(LostProcess, match=r"process \d of the pipeline failed .*finite") as caught:
        fit_pipeline(model, digits.train, epochs=3, lr=1e30, progress=False, schedule="constant")
    assert "\n" not in str(caught.value)
    assert equal(model, before)
    assert not list(tmp_path.iterdir())  # nothing stays on the disk


class Doomed(nn.Module):
    """A body whose process is killed at its fifth batch, wherever that is."""

    def __init__(self, body):
        super().__init__()
        self.body, self.left, self.home = body, 5, os.getpid()

    def forward(self, x):
        if os.getpid() != self.home:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.body(x)


@pytest.mark.nightly
def test_a_killed_process_ends_the_run_with_a_sentence(digits):
    model, before = network(), network()
    model.blocks[-1] = LocalBlock(Doomed(model.blocks[-1].body), model.blocks[-1].head)
    with pytest.raises(RuntimeError, match=r"process \d of the pipeline (died|failed)") as caught:
        fit_pipeline(model, digits.train, epochs=1000, progress=False)
    assert "the model is as it was before" in str(caught.value)
    assert torch.equal(model.blocks[0].head.weight, before.blocks[0].head.weight)


def test_blocks_are_shared_out_evenly():
    assert balance([1, 1, 1, 1], 2) == [0, 2, 4]
    assert balance([5, 1, 1, 1], 2) == [0, 1, 4]
    assert balance([1, 1, 1, 5], 3) == [0, 1, 3, 4] or balance([1, 1, 1, 5], 3) == [0, 2, 3, 4]
    assert balance([2, 3], 1) == [0, 2]
    with pytest.raises(ValueError, match="processes=5 is more than the 4 blocks"):
        balance([1, 1, 1, 1], 5)


def test_balance_finds_the_best_plan_and_takes_its_time_for_many_blocks():
    random = torch.Generator().manual_seed(0)
    for count in range(1, 8):
        seconds = torch.randint(1, 9, (count,), generator=random).tolist()
        for processes in range(1, count + 1):

            def slowest(plan, seconds=seconds):
                return max(sum(seconds[a:b]) for a, b in pairwise(plan))

            cuts = combinations(range(1, count), processes - 1)
            best = min(slowest([0, *cut, count]) for cut in cuts)
            assert slowest(balance(seconds, processes)) == best
    assert len(balance([1.0] * 60, 30)) == 31  # there are 10¹⁶ ways


def test_measuring_blocks_changes_nothing(digits):
    model, before = network(dropout=0.1), network(dropout=0.1)
    random = torch.get_rng_state()
    seconds = measure_blocks(model, digits.train.x[:50], digits.train.y[:50]).seconds
    assert len(seconds) == 3 and all(0 < s < 10 for s in seconds)
    assert equal(model, before) and all(p.grad is None for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"processes": 4}, "processes=4"),
        ({"processes": 0}, "processes"),
        ({"epochs": 0}, "epochs"),
        ({"lr": -1.0}, "lr"),
    ],
)
def test_bad_arguments_are_one_sentence(digits, bad, words):
    with pytest.raises(ValueError, match=words) as caught:
        fit_pipeline(network(), digits.train, **({"epochs": 1, "progress": False} | bad))
    assert "\n" not in str(caught.value)


def test_images_that_do_not_fit_are_refused(digits):
    x, y = digits.train.x[:20], digits.train.y[:20]
    with pytest.raises(ValueError, match="valid x"):
        fit_pipeline(network(), (x, y), (x.expand(-1, 3, -1, -1), y), progress=False)
    with pytest.raises(ValueError, match="one sample"):
        fit_pipeline(network(), (x[:1], y[:1]), progress=False)
    with pytest.raises(ValueError, match=r"is for images \(N, C, H, W\)"):
        fit_pipeline(network(), (digits.train.x.flatten(1), digits.train.y), augment="flip-crop")
    with pytest.raises(ValueError, match="label 12"):
        fit_pipeline(network(), (x, y + 12 - y.max()), progress=False)


def test_only_networks_of_blocks_with_goodness(digits):
    with pytest.raises(TypeError, match="SFF network"):
        fit_pipeline(cnn(1, (4,), ()), digits.train)
    joined = network()
    fit(joined, digits.train.subset(slice(0, 64)), rule="bp", epochs=1, progress=False)
    with pytest.raises(ValueError, match="linear head"):
        fit_pipeline(joined, digits.train)


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"rule": "deepsup"}, 'is for rule="sff"'),
        ({"device": "cuda"}, "not on device"),
        ({"stop": threading.Event()}, "does not work with stop"),
        ({"precision": "bf16"}, "precision"),
        ({"compile": True}, "compile"),
        ({"pipeline": 0}, "pipeline must be"),
    ],
)
def test_fit_refuses_what_a_pipeline_does_not_do(digits, bad, words):
    with pytest.raises(ValueError, match=words):
        fit(network(), digits.train, **({"pipeline": 2, "progress": False} | bad))
