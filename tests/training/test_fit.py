"""fit and evaluate: what they measure, how they end, and what they refuse."""

import threading
import time

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from sff_teach import rules
from sff_teach.cut.localize import localize
from sff_teach.data import from_arrays, load
from sff_teach.forward_forward import FFNetwork
from sff_teach.models import cnn, cnn1d, mlp
from sff_teach.study.runs import CONTROLS
from sff_teach.training import prepare
from sff_teach.training.evaluation import evaluate, evaluate_votes
from sff_teach.training.fit import fit
from sff_teach.training.history import History, learning_rate, summary_of
from tests._helpers import nightly_but

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    return load("digits", fraction=0.3)


def network(rule="sff", seed=0):
    torch.manual_seed(seed)
    if rule.startswith("ff"):
        return FFNetwork(mlp(64, (200, 200)).children(), 10)
    return localize(cnn(1, (8, 16), pool_after=(1,)), 10, cut="layer")


@pytest.mark.parametrize("rule", nightly_but(("sff", "ff"), rules.RULES))
def test_every_rule_learns_digits(rule, digits):
    model = network(rule)
    history = fit(model, digits.train, digits.valid, rule=rule, epochs=40, lr=1e-2, **QUIET)
    assert history.stopped is None
    assert [row["epoch"] for row in history.rows] == list(range(1, 41))
    assert all(row["complete"] for row in history.rows)
    # chance is 10 %; each rule was at 90 to 95 % when this was written
    assert evaluate(model, digits.test).accuracy > 0.8
    assert not model.training


def test_fit_takes_the_update_of_the_readable_loop(digits):
    """``fit`` steps all blocks at once, ``sff_step`` one after the other.

    A block's input is made before its weights change, so both take the same gradients; what may
    differ is the rounding of one AdamW over all blocks and of several.
    """
    fast, readable = network(), network()
    x, y = digits.train.x[:200], digits.train.y[:200]
    batches = [(x[k : k + 50], y[k : k + 50]) for k in range(0, 200, 50)]
    fit(fast, batches, epochs=2, lr=1e-2, schedule="constant", channels_last=False, **QUIET)
    optimizers = rules.block_optimizers(
        readable, lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.01)
    )
    for _ in range(2):
        for batch in batches:
            rules.sff_step(readable.train(), *batch, optimizers)
    for a, b in zip(fast.parameters(), readable.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-6


def test_history_has_one_number_per_block(digits):
    history = fit(network(), digits.train, digits.valid, epochs=2, **QUIET)
    row = history.last
    assert len(row["train_loss"]) == len(row["train_accuracy"]) == 2
    assert len(row["valid_block_accuracy"]) == 2
    assert history.parameters == sum(p.numel() for p in network().parameters())
    assert history.column("epoch") == [1, 2]
    assert history.seconds == sum(history.column("seconds"))
    assert "validation" in str(history)
    fit(network(), digits.train, None, epochs=1, **QUIET)  # validation is optional


def test_same_seed_same_weights_and_the_callers_random_state_is_untouched(digits):
    models = [network(), network()]
    state = torch.get_rng_state()
    for model in models:
        fit(model, digits.train, epochs=2, seed=3, augment="flip-crop", **QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_evaluate_is_the_manual_count_and_changes_nothing(digits):
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = evaluate(model, digits.test)
    assert model.training  # back in the mode it was in
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.eval()
    with torch.no_grad():
        goodness = model.block_goodness(digits.test.x)
    right = (goodness.argmax(2) == digits.test.y[:, None]).double().mean(0)
    # the same counts: batches of another size may round one goodness in 10⁷ otherwise
    assert result.block_accuracy == pytest.approx(right.tolist(), abs=1 / len(digits.test))
    assert result.n == len(digits.test)
    last = evaluate(model, digits.test, vote="last")
    assert last.accuracy == pytest.approx(right[-1].item(), abs=1 / len(digits.test))


@pytest.mark.parametrize("rule", ["sff", "ff"])
def test_several_votes_in_one_pass_are_those_of_several_passes(rule, digits):
    model = network(rule)
    votes = (None, "mean", "last")
    together = evaluate_votes(model, digits.test, votes)
    assert together == [evaluate(model, digits.test, vote=vote) for vote in votes]
    with pytest.raises(ValueError, match="vote.*first"):
        evaluate(model, digits.test, vote="first")


def test_evaluating_leaves_every_module_in_its_own_mode(digits):
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5)).eval()
    classifier[2].train()  # half of it frozen, as in fine-tuning
    before = [module.training for module in classifier.modules()]
    evaluate(classifier, digits.test)
    assert [module.training for module in classifier.modules()] == before


def test_bad_validation_labels_are_found_before_training(digits):
    with pytest.raises(ValueError, match="from 0 to 9"):
        fit(network(), digits.train, (digits.valid.x, digits.valid.y + 1), epochs=1, **QUIET)


def test_stop_event_ends_after_the_current_step(digits):
    stop, seen = threading.Event(), []

    def on_epoch(history):
        seen.append(len(history.rows))
        stop.set()

    history = fit(network(), digits.train, epochs=50, stop=stop, on_epoch=on_epoch, **QUIET)
    assert history.stopped == "stopped"
    assert len(history.rows) == 1
    assert seen[0] == 1


def test_ctrl_c_keeps_what_was_measured(digits, monkeypatch):
    steps = 0
    honest = rules.ScalableForwardForward.step

    def interrupted(self, *args):
        nonlocal steps
        steps += 1
        if steps == 9:
            raise KeyboardInterrupt
        return honest(self, *args)

    monkeypatch.setattr(rules.ScalableForwardForward, "step", interrupted)
    history = fit(network(), digits.train, digits.valid, epochs=5, **QUIET)
    assert history.stopped == "interrupted"
    assert [row["complete"] for row in history.rows] == [True, False]
    assert history.last["steps"] == 8 - history.rows[0]["steps"]


def test_ctrl_c_between_two_epochs_keeps_them(digits):
    def drawing(history):
        if len(history.rows) == 2:
            raise KeyboardInterrupt

    model = network()
    history = fit(model, digits.train, epochs=5, on_epoch=drawing, **QUIET)
    assert history.stopped == "interrupted" and len(history.rows) == 2
    assert not model.training


def test_frozen_weights_are_not_counted(digits):
    model = network()
    for block in model.blocks:
        block.body.requires_grad_(False)
    heads = sum(p.numel() for block in model.blocks for p in block.head.parameters())
    assert fit(model, digits.train, epochs=1, **QUIET).parameters == heads


def test_a_diverging_loss_stops_training_and_keeps_history(digits):
    with pytest.warns(UserWarning, match="block 1 is no longer finite in epoch 1.*below lr=1e"):
        history = fit(network(), digits.train, epochs=3, lr=1e30, schedule="constant", **QUIET)
    assert history.stopped == "diverged"
    assert not history.last["complete"]


def test_a_last_batch_of_one_image_is_left_out():
    x, y = torch.randn(65, 1, 4, 4), torch.arange(65) % 10
    # after two pools a 4×4 image is 1×1, where BatchNorm can't normalise a single one
    torch.manual_seed(0)
    model = localize(cnn(1, (4, 4), pool_after=(1, 2)), 10, cut="layer")
    history = fit(model, (x, y), epochs=1, batch_size=64, **QUIET)
    assert history.last["steps"] == 1


def test_a_plain_classifier_trains_by_bp_only(digits):
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    history = fit(classifier, digits.train, rule="bp", epochs=25, lr=1e-2, **QUIET)
    assert history.last["train_accuracy"][0] > 0.8
    assert evaluate(classifier, digits.test).accuracy > 0.8


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    rates = [learning_rate(progress, 2.0, "one-cycle") for progress in (0, 0.1, 0.3, 0.9, 1)]
    assert rates[0] == pytest.approx(0.08) and rates[2] == pytest.approx(2.0)
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(0, abs=1e-7)
    assert learning_rate(0.9, 2.0, "constant") == 2.0


def test_a_column_that_is_not_there(digits):
    history = fit(network(), digits.train, epochs=1, **QUIET)
    with pytest.raises(ValueError, match='epoch 1 has no "valid_accuracy"; it has epoch, '):
        history.column("valid_accuracy")


def test_an_empty_history_says_so():
    with pytest.raises(ValueError, match="no rows"):
        _ = History(rule="sff", settings={}, parameters=1).last
    assert str(History(rule="sff", settings={}, parameters=1)) == "sff: no epoch ran"


X, Y = torch.randn(40, 1, 8, 8), torch.arange(40) % 10


@pytest.mark.parametrize(
    "train, options, error, message",
    [
        ((X, Y + 1), {}, ValueError, "labels|classes"),
        ((X, Y.float()), {}, TypeError, "float32"),
        ((X[:, 0, 0, 0], Y), {}, ValueError, "shape"),
        ((X[:, 0], Y), {"augment": "flip-crop"}, ValueError, "for images"),
        ((X[:, 0], Y), {"device": "cpu"}, ValueError, "train x"),
        ((X.expand(-1, 3, -1, -1), Y), {}, ValueError, "train x"),
        ((X * float("nan"), Y), {}, ValueError, "NaN"),
        ((X[:0], Y[:0]), {}, ValueError, "train x"),
        ((X[:1], Y[:1]), {}, ValueError, "BatchNorm"),
        ((X, Y[:-1]), {}, ValueError, "39"),
        (X, {}, TypeError, "labelled"),
        ([], {}, ValueError, "no batches"),
        (iter([(X, Y)]), {}, ValueError, "only once"),
        ((X, Y), {"rule": "SFF"}, ValueError, "sff"),
        ((X, Y), {"epochs": 0}, ValueError, "epochs"),
        ((X, Y), {"batch_size": 1}, ValueError, "BatchNorm"),
        ((X, Y), {"batch_size": 2.5}, TypeError, "batch_size"),
        ((X, Y), {"lr": -1}, ValueError, "lr"),
        ((X, Y), {"schedul": "constant"}, ValueError, "schedule"),
        ((X, Y), {"device": "cuda:9"}, ValueError, "device"),
    ],
)
def test_bad_input_is_found_before_training(train, options, error, message):
    with pytest.raises(error, match=message):
        fit(network(), train, **(QUIET | options))


@pytest.mark.parametrize("kind", ["dataset", "loader", "list", "arrays"])
def test_any_iterable_of_batches_trains_like_tensors(kind, digits):
    """In the same order the weights are the same to the bit."""
    x, y = digits.train.x[:128], digits.train.y[:128]
    pairs = torch.utils.data.TensorDataset(x, y)
    whole = [(x, y)]
    given = {
        "dataset": pairs,
        "loader": torch.utils.data.DataLoader(pairs, batch_size=128),
        "list": whole,
        "arrays": [x.numpy(), y.numpy()],
    }[kind]
    one, other = network(), network()
    settings = {"epochs": 2, "batch_size": 128, **QUIET}
    expected = fit(one, whole, (x, y), **settings)
    history = fit(other, given, whole, **settings)
    assert history.last["steps"] == expected.last["steps"] == 1
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)  # the order within the batch
    assert evaluate(other, given).accuracy == evaluate(other, (x, y)).accuracy


def test_a_loader_with_workers_and_transforms():
    """As docs/own_loop.md reads images from a folder; FakeData has no order of classes."""
    to_tensor = v2.Compose([v2.ToImage(), v2.RandomCrop(12), v2.ToDtype(torch.float32, scale=True)])
    images = torchvision.datasets.FakeData(60, (3, 16, 16), 10, to_tensor)
    loader = torch.utils.data.DataLoader(images, batch_size=16, shuffle=True, num_workers=2)
    model = localize(cnn(3, (8, 16), pool_after=(1,)), 10, cut="layer")
    history = fit(model, loader, loader, epochs=2, **QUIET)
    assert [row["steps"] for row in history.rows] == [4, 4]
    assert evaluate(model, loader).n == 60


def test_gradients_switched_off_outside_do_not_stop_training(digits):
    with torch.no_grad():
        history = fit(network(), digits.train, epochs=3, lr=1e-2, **QUIET)
    assert history.last["train_loss"][-1] < history.rows[0]["train_loss"][-1]


def test_label_smoothing_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="no effect on Forward-Forward"):
        fit(network("ff"), (X, Y), rule="ff", label_smoothing=0.1, **QUIET)


def test_labels_beyond_the_models_classes(digits):
    data = from_arrays(X.clone(), Y % 10)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="from 0 to 4"):
        fit(localize(cnn(1, (4,), pool_after=()), 5, cut="layer"), data, **QUIET)


@pytest.mark.parametrize("rule", nightly_but(("sff",), CONTROLS))
@pytest.mark.parametrize("kind", ["table", "sequence"])
def test_every_control_learns_tables_and_sequences(kind, rule):
    """Class k has a bump in column k, or at any place of channel k: easy, but not for guessing."""
    random = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 4
    if kind == "table":
        x = torch.randn(240, 6, generator=random) + 3 * torch.eye(4, 6)[y]
        body, shape = mlp(6, (16, 16)), (6,)
    else:
        x = torch.randn(240, 5, 16, generator=random)
        place = torch.randint(16, (240,), generator=random)
        x[torch.arange(240), y, place] += 6
        body, shape = cnn1d(5, (16, 16), (1,), kernel_size=3), (5, 16)
    torch.manual_seed(0)
    model = localize(body, 4, cut="layer", input_shape=shape)
    history = fit(model, (x[:200], y[:200]), (x[200:], y[200:]), rule=rule, lr=0.02,
                  **(QUIET | {"epochs": 12}))  # fmt: skip
    assert history.last["train_loss"][-1] < history.rows[0]["train_loss"][-1]
    assert history.last["valid_accuracy"] > 0.6  # guessing gives 0.25
    assert evaluate(model, (x[200:], y[200:])).accuracy == history.last["valid_accuracy"]
    assert model.original is body and model.predict(x[200:]).shape == (40,)


def test_the_bar_shows_loss_and_accuracy_block_by_block(monkeypatch, capfd):
    """In a terminal the bar is all there is to see while a network trains."""
    monkeypatch.setattr(prepare, "BAR_AFTER_SECONDS", 0)
    train, valid, _ = load("digits", fraction=0.1)
    torch.manual_seed(0)
    model = localize(cnn(1, (4, 8), ()), 10, cut="layer", input_shape=(1, 8, 8))

    def pause(history):
        time.sleep(0.15)  # the bar is drawn anew ten times a second

    history = fit(model, train, valid, epochs=2, device="cpu", on_epoch=pause)
    shown = capfd.readouterr().err
    for row in history.rows[:1]:  # the last epoch's figures come when the bar is about to go
        losses = " ".join(f"{loss:.3g}" for loss in row["train_loss"])
        blocks = " ".join(f"{share:.0%}" for share in row["valid_block_accuracy"])
        vote = f"vote {row['valid_accuracy']:.1%}"
        assert f"loss {losses}, validation {blocks}, {vote}" in shown
    many = {"train_loss": [float(n) for n in range(9)]}
    assert summary_of(many) == "loss 0 1 … 7 8"
