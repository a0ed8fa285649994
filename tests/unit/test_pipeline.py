"""The pipeline of processes: bit for bit one process's weights, and a clear end when one dies."""

import multiprocessing
import threading
import time

import pytest
import torch
from torch import nn

from sff_teach import cnn, fit, load, localize
from sff_teach.core import LocalBlock
from sff_teach.pipeline import _Job, balance, block_seconds, fit_pipeline


@pytest.fixture(scope="module")
def digits():
    return load("digits", fraction=1.0, validation=0).train


def network(**options):
    torch.manual_seed(0)
    return localize(cnn(1, (6, 8, 8), ()), 10, cut="layer", input_shape=(1, 8, 8), **options)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("processes, options", [(2, {}), (3, {"hidden": 4, "kernel_size": 3})])
def test_a_hundred_steps_give_the_weights_of_one_process(digits, one_thread, processes, options):
    part = digits.subset(slice(0, 1010))  # the last batch is smaller
    settings = {"epochs": 2, "batch_size": 20, "lr": 0.01, "augment": "flip-crop", "seed": 3}
    alone, shared = network(**options), network(**options)
    expected = fit(alone, part, rule="sff", progress=False, **settings)
    history = fit_pipeline(shared, part, processes=processes, progress=False, **settings)
    assert sum(row["steps"] for row in history.rows) == 102
    weights = shared.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in alone.state_dict().items())
    for row, wanted in zip(history.rows, expected.rows, strict=True):
        assert row["train_accuracy"] == wanted["train_accuracy"]
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-6)
    assert len(history.settings["plan"]) == processes + 1
    assert history.parameters == expected.parameters and not shared.training


def test_a_loss_that_explodes_is_a_sentence_and_leaves_the_model(digits):
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"process \d of the pipeline failed .*finite") as caught:
        fit_pipeline(model, digits, epochs=3, lr=1e30, progress=False, schedule="constant")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Slow(nn.Module):
    """A body that takes its time, so that there is a moment to kill it."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        time.sleep(0.05)
        return self.body(x)


def test_a_killed_process_ends_the_run_with_a_sentence(digits):
    model = network()
    for i, block in enumerate(model.blocks):
        model.blocks[i] = LocalBlock(Slow(block.body), block.head)

    def kill():
        for _ in range(600):
            time.sleep(0.1)
            born = multiprocessing.active_children()
            if len(born) == 2:
                time.sleep(5)
                born[-1].kill()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match=r"process \d of the pipeline (died|failed)"):
        fit_pipeline(model, digits, epochs=1000, progress=False)
    killer.join()


def test_blocks_are_shared_out_evenly():
    assert balance([1, 1, 1, 1], 2) == [0, 2, 4]
    assert balance([5, 1, 1, 1], 2) == [0, 1, 4]
    assert balance([1, 1, 1, 5], 3) == [0, 1, 3, 4] or balance([1, 1, 1, 5], 3) == [0, 2, 3, 4]
    assert balance([2, 3], 1) == [0, 2]
    with pytest.raises(ValueError, match="processes=5 is more than the 4 blocks"):
        balance([1, 1, 1, 1], 5)


def test_measuring_blocks_changes_nothing(digits):
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    seconds = block_seconds(model, digits.x[:50], digits.y[:50])
    assert len(seconds) == 3 and all(0 < s < 10 for s in seconds)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_batches_of_an_epoch_are_those_of_fit():
    rest = (0.1, 0.0, "constant", 0.0, None, 0, 1, False, "")
    for images, batch, sizes in ((10, 4, [4, 4, 2]), (9, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3])):
        assert _Job([0, 1], [], images, 1, batch, *rest).sizes == sizes


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"processes": 4}, "processes=4"),
        ({"processes": 0}, "processes"),
        ({"epochs": 0}, "epochs"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": "cosine"}, "schedule"),
        ({"augment": "mixup"}, "augment"),
    ],
)
def test_bad_arguments_are_one_sentence(digits, bad, words):
    with pytest.raises(ValueError, match=words) as caught:
        fit_pipeline(network(), digits, **({"epochs": 1, "progress": False} | bad))
    assert "\n" not in str(caught.value)


def test_only_networks_with_goodness_heads(digits):
    with pytest.raises(TypeError, match="goodness heads"):
        fit_pipeline(cnn(1, (4,), ()), digits)
    joined = network()
    fit(joined, digits.subset(slice(0, 64)), rule="bp", epochs=1, progress=False)
    with pytest.raises(TypeError, match="goodness heads"):
        fit_pipeline(joined, digits)
