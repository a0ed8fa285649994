"""Less memory must not mean another update: every way of saving against the plain step."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from sff_teach import GoodnessHead, LocalBlock, cnn, localize
from sff_teach.analysis.cost import TrainingStep, flops, saved_bytes, training_cost
from sff_teach.analysis.memory import (
    VARIANTS,
    CheckpointedModule,
    _choices,
    checkpoint_bodies,
    choose_recomputed,
    recompute,
)
from sff_teach.core import SFF
from sff_teach.cut.graph import trace
from sff_teach.data import from_arrays
from sff_teach.losses import class_loss
from sff_teach.study import build, get_recipe
from tests._helpers import nightly_but

K = 3


class Residual(nn.Module):
    """Two layers and a shortcut, with dropout if wanted: what a block of ResNet does."""

    def __init__(self, channels, dropout=0.0):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(self.first(x))))


def network(dropout=0.0):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
    bodies = [stem, Residual(8, dropout), Residual(8, dropout), nn.Sequential(nn.Conv2d(8, 8, 1))]
    return SFF(LocalBlock(body, GoodnessHead(8, K)) for body in bodies).train()


def batch(images=8):
    torch.manual_seed(1)
    return torch.randn(images, 1, 8, 8), torch.randint(K, (images,))


def train(model, rule="sff", steps=3):
    """Train the model itself, not a copy."""
    learner = VARIANTS[rule](model, lambda p: torch.optim.AdamW(p, lr=0.01))
    torch.manual_seed(2)
    results = [learner.step(*batch()) for _ in range(steps)]
    return torch.stack([result.losses.detach().sum() for result in results])


def assert_same_weights(one, two, **tolerance):
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, n=name: f"{n}: {text}", **tolerance)
    for (name, a), (_, b) in zip(one.named_buffers(), two.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, n=name: f"{n}: {text}", **tolerance)


# The same operations on the same numbers, only later: no rounding of its own, so exactly equal.
EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recompute_gives_the_same_update_and_statistics(dropout):
    plain, lean = network(dropout), network(dropout)
    names, bodies = list(lean.state_dict()), [block.body for block in lean.blocks]
    with recompute(lean, batch()[0][:2]) as recomputed:
        assert [bool(nodes) for nodes in recomputed] == [False, True, True, False]
        losses = train(lean)
    assert torch.equal(losses, train(plain))
    assert_same_weights(plain, lean, **EXACT)
    assert [block.body for block in lean.blocks] == bodies
    assert list(lean.state_dict()) == names


def test_recompute_lowers_the_peak_to_two_maps_and_the_input():
    plain, lean = (TrainingStep(network(), rule, batch()) for rule in ("sff", "sff-recompute"))
    lean()
    extra = flops(lean) - flops(plain)
    image_map = 8 * 8 * 64 * 4  # bytes: images, channels, positions, float32
    difference = saved_bytes(plain, plain.preexisting_tensors) - saved_bytes(
        lean, lean.preexisting_tensors
    )
    # Of input, conv, norm + ReLU (in place), conv, output one half waits at a time: input, second
    # convolution and output; then input, first convolution and ReLU. Two maps less.
    assert difference == pytest.approx(2 * image_map, rel=0.02)  # and a few numbers per channel
    # Only the first convolution of each residual block runs again, not the one after it.
    assert extra == 2 * (2 * 8 * 64 * 8 * 8 * 9)


def test_recompute_puts_the_bodies_back_after_an_error_and_in_the_right_mode():
    model = network()
    bodies = [block.body for block in model.blocks]
    with pytest.raises(RuntimeError, match="stop"), recompute(model, batch()[0][:2]):
        model.eval()
        assert not any(m.training for block in model.blocks for m in block.body.modules())
        raise RuntimeError("stop")
    assert [block.body for block in model.blocks] == bodies
    assert not any(module.training for module in model.modules())


def test_inside_recompute_evaluation_is_the_same():
    model = network()
    train(model)
    x, _ = batch()
    expected = model.eval()(x)
    with recompute(model, x[:2]):
        assert torch.equal(model(x), expected)


def test_choosing_changes_nothing():
    model, x = network(dropout=0.5), batch()[0]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert choose_recomputed(model, x[:2]) == choose_recomputed(model, x[:2])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_body_that_cannot_be_traced_is_left_alone():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3))

        def forward(self, x):
            return self.layers(x) if x.sum() > 0 else self.layers(-x)

    model = SFF([LocalBlock(Branching(), GoodnessHead(4, K))])
    assert choose_recomputed(model, batch()[0][:2]) == [[]]


def test_recompute_works_on_what_localize_made():
    torch.manual_seed(0)
    model = localize(cnn(widths=(8,) * 6, pool_after=(3,)), K, cut=2, input_shape=(1, 8, 8))
    lean = copy.deepcopy(model)
    names = choose_recomputed(lean, batch()[0][:2])
    assert names[0]
    checkpoint_bodies(lean, names)
    assert sum(isinstance(m, CheckpointedModule) for m in lean.modules()) > 2  # parts of a block
    assert torch.equal(train(model.train()), train(lean.train()))
    assert_same_weights(model, lean, **EXACT)


class InPlace(nn.Module):
    """Operations without FLOPs that overwrite what other operations made."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        h = nn.functional.silu(self.norm(x), inplace=True)
        h = self.norm(self.first(h))
        z = torch.sigmoid(self.second(x).mul_(2))  # the convolution's output is lost
        h += z  # and so is what the norm made, before the second convolution
        return torch.relu(h)


class InPlaceByView(InPlace):
    """The same through views, which the graph does not show."""

    def forward(self, x):
        h = self.norm(self.first(x))
        z = self.second(x)
        z.flatten(1).mul_(2)
        h.view(-1).add_(torch.sigmoid(z).view(-1))
        return torch.relu(h)


class InputInPlace(InPlace):
    """Overwrites the block's input, so nothing can start from it again."""

    def forward(self, x):
        h = torch.tanh(x + 1)
        x.mul_(2)
        return torch.relu(self.first(h) + x)


@pytest.mark.parametrize("body, possible", [(InPlace, 5), (InPlaceByView, 5), (InputInPlace, 0)])
def test_what_is_overwritten_is_not_where_recomputing_starts(body, possible):
    """A run from values that have changed since would compute something else."""
    torch.manual_seed(0)
    plain = SFF([LocalBlock(body(), GoodnessHead(8, K))]).train()
    x, y = torch.randn(8, 8, 8, 8), batch()[1]
    choices = list(_choices(trace(plain.blocks[0].body), x))
    assert len(choices) >= possible and bool(choices) == bool(possible)
    for names in [[], *choices]:
        model = copy.deepcopy(plain)
        parameters = list(model.parameters())
        checkpoint_bodies(model, [names])
        h, g = model.blocks[0](x.clone())
        class_loss(g, y).backward()
        found = [h, *(p.grad for p in parameters if p.grad is not None)]
        if not names:
            expected = found
        for value, other in zip(found, expected, strict=True):
            assert torch.equal(value, other), names


@pytest.mark.parametrize(
    "name",
    nightly_but(
        ("mobilenet_v3_small",),
        ("mobilenet_v3_small", "resnet18", "vgg11", "densenet121", "convnext_tiny"),
    ),
)
def test_torchvisions_models_learn_the_same_with_fewer_bytes(name):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=K)
    model = localize(network, K, input_shape=(3, 64, 64))
    images = torch.randn(4, 3, 64, 64), torch.randint(K, (4,))
    trained, saved = [], []
    for rule in ("sff", "sff-recompute"):
        step = TrainingStep(model, rule, images)
        parameters = list(step.model.parameters())  # before bodies are replaced
        torch.manual_seed(1)  # dropout, stochastic depth
        step(), step()
        trained.append([*parameters, *step.model.original.buffers()])
        saved.append(saved_bytes(step, step.preexisting_tensors))
    assert all(torch.equal(plain, lean) for plain, lean in zip(*trained, strict=True))
    assert saved[1] < saved[0]


def test_the_documented_recipe_needs_less_than_half_of_backprops_bytes_and_no_more_flops():
    """``cifar10-cnn5-accurate-laptop`` beside the same network under backprop."""
    recipe = get_recipe("cifar10-cnn5-accurate-laptop")
    sff = build(recipe, from_arrays(torch.rand(10, 3, 32, 32), torch.arange(10)))
    images = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    bp, lean = (training_cost(sff, rule, images) for rule in ("bp", "sff-recompute"))
    assert lean.flops <= bp.flops
    assert lean.saved <= 0.5 * bp.saved


def test_checkpointing_keeps_running_statistics_as_one_pass_would():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    lean = copy.deepcopy(plain)
    x = batch()[0]
    plain(x).sum().backward()
    CheckpointedModule(lean)(x).sum().backward()
    assert torch.equal(plain[1].running_mean, lean[1].running_mean)
    assert plain[1].num_batches_tracked == lean[1].num_batches_tracked == 1
    assert torch.equal(plain[0].weight.grad, lean[0].weight.grad)


@pytest.mark.parametrize(
    "plain, variant",
    [("sff", "sff-summed"), ("bp", "bp-checkpoint"), ("bp", "bp-recompute")],
)
def test_variants_make_the_same_update(plain, variant):
    models = [network(), network()]
    losses = []
    for model, rule in zip(models, (plain, variant)):
        torch.manual_seed(3)  # bp makes a fresh linear head
        losses.append(train(model, rule))
    torch.testing.assert_close(*losses, **EXACT)
    assert_same_weights(*models, **EXACT)


def without_batchnorm():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3))
    return SFF([LocalBlock(body.double(), GoodnessHead(4, K).double())])


def sgd_step(model, rule, images):
    torch.manual_seed(3)
    learner = VARIANTS[rule](model, lambda p: torch.optim.SGD(p, lr=0.1))
    x, y = batch(images)
    return learner.step(x.to(next(model.parameters()).dtype), y)


@pytest.mark.parametrize("images", [8, 7, 3])
def test_accumulation_is_backprop_where_no_batchnorm_looks_at_the_batch(images):
    whole, parts = without_batchnorm(), without_batchnorm()
    expected, result = sgd_step(whole, "bp", images), sgd_step(parts, "bp-accumulate", images)
    # float64, sums of a few hundred terms in another order
    assert_same_weights(whole, parts, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.losses, expected.losses, rtol=1e-12, atol=1e-12)
    assert torch.equal(result.correct, expected.correct)


def test_accumulation_is_not_backprop_with_batchnorm():
    whole, parts = network(), network()
    sgd_step(whole, "bp", 8), sgd_step(parts, "bp-accumulate", 8)
    weights = (next(model.parameters()) for model in (whole, parts))
    assert not torch.allclose(*weights, rtol=1e-3)


class FunctionalDropout(nn.Module):
    """Training computes something else than evaluation, so there is no single graph to halve."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        h = nn.functional.dropout(self.features(x), 0.5, self.training)
        h = self.features[2](h)
        return self.head(h.mean((2, 3)))


def test_recomputation_leaves_alone_what_another_graph_would_change():
    """Dropout of training, a hook, and two children that split_module would call the same."""
    images = torch.randn(4, 1, 12, 12), torch.arange(4)
    for cut, rule in ((1, "sff-recompute"), (2, "bp-recompute")):  # bp joins two blocks
        dropping = localize(FunctionalDropout(), 10, cut=cut, input_shape=(1, 12, 12))
        step = TrainingStep(dropping, rule, images)
        step()
        assert step.learner.recomputed == [[]]
    hooked = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    hooked.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
    named = nn.Sequential()
    named.add_module("a", nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh()))
    named.add_module("a_0", nn.Conv2d(4, 4, 3))
    for body in (hooked, named):
        model = SFF([LocalBlock(body, GoodnessHead(4, K))])
        assert choose_recomputed(model, batch()[0][:2]) == [[]]


@pytest.mark.parametrize("rule", ["bp", "sff-overlap"])
def test_other_rules_train_the_same_inside_recompute(rule):
    plain, lean = network(), network()
    torch.manual_seed(3)  # bp makes a fresh linear head
    losses = train(plain, rule)
    with recompute(lean, batch()[0][:2]) as names:
        assert any(names)
        torch.manual_seed(3)
        assert torch.equal(train(lean, rule), losses)
    assert not any(isinstance(module, CheckpointedModule) for module in lean.modules())
    assert_same_weights(plain, lean, **EXACT)


def test_recompute_leaves_frozen_layers_frozen():
    model = network()
    model.blocks[1].body.norm.eval()
    with recompute(model, batch()[0][:2]) as names:
        assert names[1]
    assert not model.blocks[1].body.norm.training
