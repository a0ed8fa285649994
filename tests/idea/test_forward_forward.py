"""Forward-Forward: labels in the image, negatives that are wrong, layers that learn alone."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sff_teach import models
from sff_teach.core import hand_over
from sff_teach.forward_forward import (
    FFNetwork,
    embed_label,
    ff_step,
    hard_labels,
    neutral_label,
    readout_step,
    wrong_labels,
)
from sff_teach.goodness import mean_squares, sum_squares


def random_batch(n=12, num_classes=4, channels=1, size=(4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, *size, generator=generator)
    return x, torch.randint(num_classes, (n,), generator=generator)


def small_mlp(widths=(16, 12, 8), num_classes=4, seed=0, **options):
    torch.manual_seed(seed)
    return FFNetwork(models.mlp(20, widths), num_classes, **options)


def small_cnn(num_classes=4, seed=0, **options):
    torch.manual_seed(seed)
    return FFNetwork(models.cnn(1, (4, 6), pool_after=(1,)), num_classes, **options)


def optimizers_of(network, lr=0.01):
    return [torch.optim.Adam(layer.parameters(), lr=lr) for layer in network.layers]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module, before):
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# Labels in the image


def test_embedding_writes_one_hot_into_the_first_pixels_and_nothing_else():
    x, y = random_batch(channels=2, size=(2, 3))
    original = x.clone()
    embedded = embed_label(x, y, 4, high=2.5)
    assert torch.equal(x, original)  # the caller's images are left alone
    pixels = embedded.flatten(2)
    assert torch.equal(pixels[:, 0, :4], 2.5 * nn.functional.one_hot(y, 4).float())
    assert torch.equal(pixels[:, 0, 4:], x.flatten(2)[:, 0, 4:])
    assert torch.equal(embedded[:, 1], x[:, 1])


def test_embedding_of_a_sample_does_not_depend_on_its_batch():
    x, y = random_batch()
    together = embed_label(x, y, 4)
    alone = torch.cat([embed_label(x[i : i + 1], y[i : i + 1], 4) for i in range(len(x))])
    assert torch.equal(together, alone)


def test_embedding_takes_images_of_any_memory_layout():
    x, y = random_batch(channels=3)
    strided = x.to(memory_format=torch.channels_last)
    assert torch.equal(embed_label(strided, y, 4), embed_label(x, y, 4))
    expanded = x[:1].expand(12, -1, -1, -1)  # all images share memory
    assert torch.equal(embed_label(expanded, y, 4), embed_label(expanded.clone(), y, 4))


def test_neutral_label_is_the_mean_of_all_embeddings():
    x, _ = random_batch()
    original = x.clone()
    neutral = neutral_label(x, 4, high=2.0)
    every = [embed_label(x, torch.full((12,), k), 4, high=2.0) for k in range(4)]
    assert torch.equal(x, original)
    assert torch.equal(neutral.flatten(1)[:, :4], torch.full((12, 4), 0.5))
    # a mean of four float32 numbers rounds in the last digit
    torch.testing.assert_close(neutral, torch.stack(every).mean(0), rtol=1e-6, atol=1e-6)


def test_images_that_cannot_hold_the_label_are_refused():
    x, y = random_batch(size=(1, 3))
    for write in (lambda: embed_label(x, y, 4), lambda: neutral_label(x, 4)):
        with pytest.raises(ValueError, match="4 pixels"):
            write()
    with pytest.raises(ValueError, match="4 pixels"):
        embed_label(x.flatten(1), y, 4)
    with pytest.raises(ValueError, match="labels"):
        embed_label(random_batch()[0], y[:-1], 4)
    with pytest.raises(ValueError, match="label 4"):
        embed_label(random_batch()[0], torch.full((12,), 4), 4)


# Negatives


@pytest.mark.parametrize("num_classes", range(2, 13))
def test_wrong_labels_never_carry_the_true_label_exhaustively(num_classes):
    y = torch.arange(num_classes).repeat_interleave(300)
    wrong = wrong_labels(y, num_classes, torch.Generator().manual_seed(0))
    assert (wrong != y).all()
    pairs = set(zip(y.tolist(), wrong.tolist(), strict=True))
    assert len(pairs) == num_classes * (num_classes - 1)  # every wrong label of every class occurs


@given(st.integers(2, 200), st.data())
def test_wrong_labels_are_wrong_and_valid_for_any_labels(num_classes, data):
    y = torch.tensor(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=20)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    wrong = wrong_labels(y, num_classes, torch.Generator().manual_seed(seed))
    assert (wrong != y).all()
    assert ((wrong >= 0) & (wrong < num_classes)).all() and wrong.dtype == torch.int64


def test_wrong_labels_are_even():
    wrong = wrong_labels(
        torch.full((30_000,), 3), 10, torch.Generator().manual_seed(1)
    )  # 9 classes, 3,333 each; five standard deviations are 5 √(30,000 · 1/9 · 8/9) = 272
    counts = torch.bincount(wrong, minlength=10)
    assert counts[3] == 0
    assert ((counts[counts > 0] - 30_000 / 9).abs() < 272).all()


def test_one_class_has_no_wrong_labels():
    with pytest.raises(ValueError, match="num_classes"):
        wrong_labels(torch.zeros(3, dtype=torch.int64), 1)


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=9),
    st.integers(0, 2**32),
)
def test_hard_labels_are_wrong_for_any_goodness(goodness, seed):
    num_classes = len(goodness)
    y = torch.arange(num_classes)
    g = torch.tensor(goodness).expand(num_classes, -1)
    wrong = hard_labels(g, y, torch.Generator().manual_seed(seed))
    assert (wrong != y).all() and ((wrong >= 0) & (wrong < num_classes)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_hard_labels_leave_a_broken_network_to_the_loss(value):
    y = torch.arange(5)
    assert (hard_labels(torch.full((5, 5), value), y) != y).all()


def test_hard_labels_follow_the_softmax_of_the_wrong_classes():
    g = torch.log(torch.tensor([100.0, 1.0, 2.0, 5.0])).expand(16_000, -1)
    y = torch.zeros(16_000, dtype=torch.int64)  # its own goodness, the highest, does not count
    counts = torch.bincount(hard_labels(g, y, torch.Generator().manual_seed(0)), minlength=4)
    expected = torch.tensor([0.0, 2_000.0, 4_000.0, 10_000.0])
    # five standard deviations of the widest count: 5 √(16,000 · 5/8 · 3/8) = 306
    assert counts[0] == 0 and ((counts - expected).abs() < 306).all()


def test_a_network_draws_its_own_hard_negatives_and_is_not_changed_by_it():
    network = small_cnn(negatives="hard", slope=1e6).train()  # so steep that the best always wins
    x, y = random_batch()
    before = state(network)
    wrong = network.negative_labels(x, y, torch.Generator().manual_seed(0))
    assert same(network, before)  # not even BatchNorm's statistics
    assert all(module.training for module in network.modules())
    g = network.eval()(x).scatter(1, y[:, None], -1.0)
    assert torch.equal(wrong, g.argmax(1))


def test_hard_negatives_by_the_read_out_take_one_neutral_pass():
    network = small_cnn(negatives="readout").train()
    with torch.no_grad():
        network.readout.weight.mul_(1e6)  # so steep that the best always wins
    x, y = random_batch()
    before = state(network)
    wrong = network.negative_labels(x, y, torch.Generator().manual_seed(0))
    assert same(network, before) and network.training
    logits = network.eval().readout(network.neutral_features(x))
    assert torch.equal(wrong, logits.scatter(1, y[:, None], float("-inf")).argmax(1))


# The network


def test_k_passes_agree_with_a_loop_by_hand():
    network = small_mlp().eval()
    x, _ = random_batch()
    by_hand = torch.empty(12, 3, 4)
    for k in range(4):
        h = embed_label(x, torch.full((12,), k), 4)
        for number, layer in enumerate(network.layers):
            h = layer(h / h.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (h.dim() - 1)))
            by_hand[:, number, k] = h.square().mean(1)
    goodness = network.block_goodness(x)
    # another order of operations in float32
    torch.testing.assert_close(goodness, by_hand, rtol=1e-4, atol=1e-6)
    assert torch.equal(network(x), goodness[:, 1:].mean(1))
    assert torch.equal(network.predict(x), goodness[:, 1:].mean(1).argmax(1))


def test_votes():
    goodness = torch.rand(5, 3, 4)
    network = small_mlp()
    assert torch.equal(network.combine(goodness), goodness[:, 1:].mean(1))  # Hinton's
    assert torch.equal(network.combine(goodness, "mean"), goodness.mean(1))
    assert torch.equal(network.combine(goodness, "last"), goodness[:, -1])
    assert torch.equal(small_mlp(vote="last").combine(goodness), goodness[:, -1])
    single = small_mlp(widths=(16,))
    assert torch.equal(single.combine(goodness[:, :1]), goodness[:, 0])  # no other layer to ask


def test_a_layer_does_not_see_the_length_of_what_came_before():
    network = small_mlp().eval()
    x, y = random_batch()
    x = embed_label(x, y, 4)
    for a, b in zip(network.features(x), network.features(100 * x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # scaling rounds in float32


def test_prediction_trains_and_changes_nothing():
    network = small_cnn().eval()
    x, _ = random_batch()
    before, original = state(network), x.clone()
    network(x), network.predict(x), network.predict_one_pass(x)
    assert same(network, before) and torch.equal(x, original)
    assert not network.predict(x).requires_grad


@pytest.mark.parametrize("goodness", ["mean", "sum"])
def test_loss_is_log_2_at_the_threshold(goodness):
    network = small_mlp(goodness=goodness)
    theta = {"mean": 1.0, "sum": 7.0}[goodness]  # seven activations, each at mean square 1
    at = torch.full((6,), theta)
    loss = network.layer_loss(at, at, activations=7)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)  # float32
    assert network.layer_loss(at + 0.1, at - 0.1, activations=7) < loss


def test_symba_is_log_2_at_equal_goodness_whatever_the_level():
    network = small_mlp(loss="symba")
    for level in (0.0, 1.0, 50.0):
        at = torch.full((6,), level)
        assert network.layer_loss(at, at, 7).item() == pytest.approx(math.log(2), rel=1e-6)


def test_sum_with_theta_of_width_is_the_mean_with_a_slope_of_width():
    h = torch.randn(10, 7).relu()
    by_sum, by_mean = small_mlp(goodness="sum"), small_mlp(goodness="mean", slope=7.0)
    losses = [
        net.layer_loss(*f(h).chunk(2), activations=7)
        for net, f in ((by_sum, sum_squares), (by_mean, mean_squares))
    ]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)  # float32, other order


def test_explicit_theta_is_used():
    at = torch.full((6,), 2.0)
    loss = small_mlp(theta=2.0).layer_loss(at, at, activations=7)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goodness": "men"}, "did you mean 'mean'"),
        ({"loss": "simba"}, "did you mean 'symba'"),
        ({"negatives": "easy"}, "negatives"),
        ({"vote": "first"}, "vote"),
        ({"theta": 0.0}, "theta"),
        ({"slope": -1.0}, "slope"),
        ({"high": math.nan}, "high"),
        ({"loss": "symba", "theta": 1.0}, "no threshold"),
        ({"num_classes": 1}, "num_classes"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_mlp(**options)


@pytest.mark.parametrize("layers", [[], [nn.Linear(20, 4), nn.ReLU()]])
def test_layers_without_anything_to_learn_are_refused(layers):
    with pytest.raises(ValueError, match="layer"):
        FFNetwork(layers, 4)


# The learning rule


@pytest.mark.parametrize("build", [small_mlp, small_cnn])
def test_a_layers_loss_reaches_no_other_layer(build):
    for k in range(len(build().layers)):
        network = build().train()
        x, y = random_batch()
        activations = network.features(embed_label(x, y, 4))
        network.layer_goodness(activations[k]).sum().backward()
        for number, layer in enumerate(network.layers):
            grads = [p.grad for p in layer.parameters()]
            assert all((g is not None) == (number == k) for g in grads), (number, k)
        assert network.readout.weight.grad is None


@pytest.mark.parametrize("build", [small_mlp, small_cnn])
@pytest.mark.parametrize("loss", ["logistic", "symba"])
@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_it_overfits_one_batch(build, loss, negatives):
    network = build(loss=loss, negatives=negatives).train()
    x, y = random_batch()
    optimizers = optimizers_of(network, lr=0.02)
    generator = torch.Generator().manual_seed(0)
    steps = [ff_step(network, x, y, optimizers, generator)[0] for _ in range(80)]
    first, last = torch.stack(steps[:5]).mean(0), torch.stack(steps[-5:]).mean(0)
    assert (last < first / 2).all(), (first, last)
    assert (network.eval().predict(x) == y).float().mean() > 0.9  # chance is 0.25


def test_step_reports_losses_and_right_comparisons_of_the_untrained_layers():
    network = small_mlp().train()
    x, y = random_batch()
    reference = copy.deepcopy(network)
    wrong = wrong_labels(y, 4, torch.Generator().manual_seed(5))
    losses, correct = ff_step(
        network, x, y, optimizers_of(network), torch.Generator().manual_seed(5)
    )
    positive, negative = (reference.features(embed_label(x, label, 4)) for label in (y, wrong))
    for k, (a, b) in enumerate(zip(positive, negative, strict=True)):
        a, b = mean_squares(a), mean_squares(b)
        expected = reference.layer_loss(a, b, 0).item()
        assert losses[k].item() == pytest.approx(expected, rel=1e-5)  # 24 rows at once or twice 12
        assert correct[k] == (a > b).sum()
    assert losses.shape == correct.shape == (3,) and not losses.requires_grad


def test_same_seed_same_step():
    ends = []
    for _ in range(2):
        network = small_cnn(negatives="hard").train()
        generator = torch.Generator().manual_seed(3)
        optimizers = optimizers_of(network)
        for seed in range(5):
            ff_step(network, *random_batch(seed=seed), optimizers, generator)
        ends.append(state(network))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("only", [0, 1])
def test_greedy_training_touches_one_layer(only):
    network = small_cnn().train()
    x, y = random_batch()
    before = [state(layer) for layer in network.layers]
    readout = state(network.readout)
    losses, _ = ff_step(network, x, y, optimizers_of(network), only=only)
    for number, layer in enumerate(network.layers):
        assert same(layer, before[number]) == (number != only)  # BatchNorm's statistics as well
    assert same(network.readout, readout)
    assert torch.isfinite(losses).all() and len(losses) == 2
    network.train()
    ff_step(network, x, y, optimizers_of(network))  # a joint step afterwards trains all again
    assert all(not same(layer, before[k]) for k, layer in enumerate(network.layers))


def test_steps_that_do_not_fit_the_layers_are_refused():
    network = small_mlp()
    x, y = random_batch()
    optimizers = optimizers_of(network)
    with pytest.raises(ValueError, match="2 optimizers for 3 layers"):
        ff_step(network, x, y, optimizers[:2])


# The read-out


@pytest.mark.parametrize("build", [small_mlp, small_cnn])
def test_the_readout_learns_and_the_layers_do_not(build):
    network = build().train()
    x, y = random_batch()
    layers, readout = state(network.layers), state(network.readout)
    optimizer = torch.optim.Adam(network.readout.parameters(), lr=0.05)
    readout_step(network, x, y, optimizer)
    assert same(network.layers, layers) and not same(network.readout, readout)
    assert all(p.grad is None for p in network.layers.parameters())
    for _ in range(150):
        readout_step(network, x, y, optimizer)
    # chance is 0.25; the CNN's read-out sees six channel means, too few to fit 12 images
    assert (network.eval().predict_one_pass(x) == y).float().mean() > 0.6


def test_the_readout_sees_normalised_activations_of_all_layers_but_the_first():
    network = small_mlp().eval()
    x, _ = random_batch()
    activations = network.features(neutral_label(x, 4))
    expected = torch.cat([hand_over(h, "length") for h in activations[1:]], dim=1)
    assert torch.equal(network.neutral_features(x), expected)
    assert network.readout.in_features == 12 + 8
    assert small_mlp(widths=(16,)).readout.in_features == 16


def test_ff_step_trains_the_readout_when_asked_and_only_then():
    x, y = random_batch()
    for asked in (True, False):
        network = small_mlp().train()
        optimizer = torch.optim.Adam(network.readout.parameters()) if asked else None
        before = state(network.readout)
        ff_step(network, x, y, optimizers_of(network), readout_optimizer=optimizer)
        assert same(network.readout, before) != asked


def test_digits_in_fifteen_epochs():
    """A guard on quality: the popular public code's mistakes cost far more than this band."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    x, y = (x - x.mean()) / x.std(), torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    held_out, rest = order[:360], order[360:]
    network = FFNetwork(models.mlp(64, (200, 200)), 10).train()
    optimizers = [torch.optim.AdamW(layer.parameters(), lr=5e-3) for layer in network.layers]
    readout_optimizer = torch.optim.AdamW(network.readout.parameters(), lr=5e-3)
    for _ in range(15):
        for batch in rest[torch.randperm(len(rest))].split(64):
            ff_step(network, x[batch], y[batch], optimizers, None, readout_optimizer)
    network.eval()
    k_pass = (network.predict(x[held_out]) == y[held_out]).float().mean()
    one_pass = (network.predict_one_pass(x[held_out]) == y[held_out]).float().mean()
    assert k_pass > 0.88 and one_pass > 0.85, (k_pass, one_pass)
