"""Cutting models: stages equal the original bit for bit, share its parameters, and learn locally.

A few families of torchvision's classifiers are tested every day, all of them by ``-m nightly``,
with their smallest members. test_model_zoos.py takes every classifier.
"""

import copy
import pickle
import random
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from sff_teach import cnn, cnn1d, mlp
from sff_teach.analysis.cost import TrainingStep, saved_by_block
from sff_teach.core import SFF, LinearHead
from sff_teach.cut import cut_points, describe, split_stages, trace
from sff_teach.cut.graph import matching_nodes, stage_graph, stage_module
from sff_teach.cut.localize import localize, small_stem
from sff_teach.cut.measure import EXAMPLES, feature_points, measure
from sff_teach.losses import class_loss
from sff_teach.models import NETWORKS
from sff_teach.util.checks import SFFError

# name: image size, (layers, blocks), parts of the model that are no features
FAMILIES = {
    "alexnet": (64, (5, 5), {"classifier"}),
    "convnext_tiny": (32, (22, 22), {"classifier"}),
    "densenet121": (32, (8, 8), {"classifier"}),
    "efficientnet_b0": (32, (38, 18), {"classifier"}),
    "googlenet": (64, (12, 10), {"fc", "aux1", "aux2"}),
    "inception_v3": (299, (16, 12), {"fc", "AuxLogits"}),
    "maxvit": (32, (17, 10), {"classifier"}),  # a narrow one
    "mnasnet0_5": (32, (32, 18), {"classifier"}),
    "mobilenet_v2": (32, (32, 19), {"classifier"}),
    "mobilenet_v3_small": (32, (26, 13), {"classifier"}),
    "regnet_x_400mf": (32, (23, 23), {"fc"}),
    "regnet_y_400mf": (32, (17, 17), {"fc"}),
    "resnet18": (32, (9, 9), {"fc"}),
    "resnet50": (32, (17, 17), {"fc"}),
    "shufflenet_v2_x0_5": (32, (18, 18), {"fc"}),
    "squeezenet1_1": (64, (17, 9), {"classifier"}),
    "swin_t": (64, (28, 16), {"head"}),
    "swin_v2_t": (64, (28, 16), {"head"}),
    "vgg11_bn": (32, (8, 8), {"classifier"}),
    "vit_b_32": (64, (25, 13), {"heads"}),
}
DAILY = ("densenet121", "mobilenet_v3_small", "resnet18", "swin_t")


def build(name, size):
    if name == "maxvit":
        return torchvision.models.MaxVit((size, size), 8, 2, [8, 16], [1, 2], 4, 0.2)
    options = {}
    if name in ("googlenet", "inception_v3"):
        # Without dropout, as the auxiliary classifiers, which no stage has, would draw from it.
        options = {"init_weights": False, "dropout": 0.0}
    if name.startswith("vit"):
        options = {"image_size": size}
    return torchvision.models.get_model(name, **options)


@dataclass
class Case:
    model: nn.Module
    x: Tensor
    layers: list[nn.Module]
    blocks: list[nn.Module]
    counts: tuple[int, int]
    tail: set[str]
    touched: bool  # whether cutting changed the model or drew random numbers


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in DAILY else pytest.mark.nightly) for name in FAMILIES
    ],
)
def case(request):
    torch.manual_seed(0)
    size, counts, tail = FAMILIES[request.param]
    model = build(request.param, size)
    x = torch.randn(2, 3, size, size)
    before = fingerprint(model)
    shape = (3, size, size)
    layers, blocks = (split_stages(model, cut, input_shape=shape) for cut in ("layer", "block"))
    touched = fingerprint(model) != before
    return Case(model, x, layers, blocks, counts, tail, touched)


def fingerprint(model):
    modes = [module.training for module in model.modules()]
    return [*vars(model), *model.state_dict(), *modes, *torch.get_rng_state().tolist()]


def state(model):
    return {name: tensor.clone() for name, tensor in model.named_buffers()}


def compose(stages, x):
    for stage in stages:
        x = stage(x)
    return x


def classifier(model, size):
    """What follows the features, as a module."""
    evaluation, training = trace(model), trace(model, training=True)
    measure(evaluation, (EXAMPLES, 3, size, size))
    end, pairs = feature_points(evaluation)[-1], matching_nodes(evaluation, training)
    (logits,) = next(iter(reversed(evaluation.graph.nodes))).args
    graphs = (evaluation, end, logits), (training, pairs[end], pairs[logits])
    return stage_module((evaluation, training), *(stage_graph(*graph) for graph in graphs))


@torch.no_grad()
def test_stages_and_classifier_equal_the_original_bit_for_bit(case):
    model, start = case.model, state(case.model)
    stages = [*case.layers, classifier(model, case.x.shape[-1])]
    for training in (False, True):
        for module in (model, *stages):
            module.train(training)
        torch.manual_seed(1)
        expected = model(case.x)
        if not isinstance(expected, Tensor):
            expected = expected.logits  # beside the auxiliary ones, in training
        after = state(model)
        for name, buffer in model.named_buffers():
            buffer.copy_(start[name])
        torch.manual_seed(1)  # the same dropout
        assert torch.equal(compose(stages, case.x), expected)
        for name, buffer in model.named_buffers():  # the same statistics, in the same buffers
            assert name.split(".")[0] in case.tail or torch.equal(buffer, after[name])


def test_every_feature_parameter_belongs_to_exactly_one_stage(case):
    names = {id(p): name for name, p in case.model.named_parameters()}
    buffers = {id(b) for b in case.model.buffers()}
    for stages in (case.layers, case.blocks):
        owned = [id(p) for stage in stages for p in stage.parameters()]
        assert len(owned) == len(set(owned))
        left = {names[key] for key in names.keys() - set(owned)}
        assert {name.split(".")[0] for name in left} == case.tail
        assert all(id(b) in buffers for stage in stages for b in stage.buffers())
        for stage in stages:  # the original's names inside
            assert all(names[id(p)] == name for name, p in stage.named_parameters())


def test_cutting_gives_the_known_blocks_and_leaves_the_model_alone(case):
    assert case.counts == (len(case.layers), len(case.blocks))
    assert not case.touched


def test_blocks_learn_locally(case):
    model = localize(case.model, 5, cut="block", input_shape=case.x.shape[1:]).train()
    y, x = torch.tensor([1, 3]), case.x
    if not isinstance(
        case.model, torchvision.models.MaxVit
    ):  # whose windows need the whole image; the others learn on less
        x = x[..., :96, :96]
    for number, block in enumerate(model.blocks):
        h, g = block(x)
        assert g.shape == (2, 5)
        class_loss(g, y).backward()
        for other, neighbour in enumerate(model.blocks):
            gradients = [p.grad is not None for p in neighbour.parameters()]
            assert all(gradients) if other == number else not any(gradients)
        model.zero_grad()
        x = model.hand_over(block, h)


# --- the rule ------------------------------------------------------------------------------------


def points_of(model):
    return [node.name for node in cut_points(trace(model))]


def test_cut_points_are_where_one_tensor_is_alive():
    names = points_of(torchvision.models.resnet18())
    assert len(names) == 23
    assert names[:6] == ["conv1", "bn1", "relu", "maxpool", "add", "layer1_0_relu_1"]
    assert not any("downsample" in name or name.endswith("conv2") for name in names)


class Tied(nn.Module):
    """The same convolution twice, with another between."""

    def __init__(self):
        super().__init__()
        self.first, self.tied, self.between = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x):
        return self.tied(self.between(self.tied(self.first(x))))


def test_no_cut_between_two_uses_of_a_parameter():
    assert points_of(Tied()) == ["first", "tied_1"]
    assert len(split_stages(Tied(), "layer")) == 2


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = F.relu(self.a(x), inplace=True)
        x = self.b(x)
        x.relu_()
        return self.c(x).sigmoid_()


def test_no_stage_overwrites_the_output_of_the_one_before():
    model, x = InPlace().eval(), torch.randn(2, 3, 5, 5)
    for count in (1, 2):
        outputs, h = [], x
        for stage in split_stages(model, count):
            h = stage(h)
            outputs.append((h, h.clone()))
        assert all(torch.equal(h, kept) for h, kept in outputs)
        assert torch.equal(h, model(x))


# --- training and evaluation ---------------------------------------------------------------------


class Dropping(nn.Module):
    """Functional dropout, and a batch size read at the start for the classifier's sake."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
        self.classifier = nn.Linear(8 * 24 * 24, 10)

    def forward(self, x):
        batch = x.size(0)
        x = F.dropout(F.relu(self.a(x)), 0.5, self.training)
        x = F.relu(F.dropout2d(self.b(x), 0.5, training=self.training))
        x = self.classifier(x.view(batch, -1))
        return x if self.training else x.softmax(1)


@pytest.mark.parametrize("training_when_cut", [False, True])
def test_functional_dropout_obeys_each_stage_mode(training_when_cut):
    model = Dropping().train(training_when_cut)
    first, second = split_stages(model, 2)
    x = torch.ones(1, 1, 28, 28)
    assert first.training == training_when_cut
    assert torch.equal(first(x), F.relu(model.a(x))) == (not training_when_cut)
    h = first.eval()(x)
    assert torch.equal(h, F.relu(model.a(x)))
    second.train()  # one stage's mode is not another's
    assert torch.equal(first(x), h)
    draws = {tuple((second(h).amax((0, 2, 3)) > 0).tolist()) for _ in range(20)}
    assert len(draws) > 1


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = x + torch.randn_like(x)
        return self.b(x)


def test_what_only_training_computes_is_computed_in_training_only():
    model, x = Noisy(), torch.randn(2, 3, 8, 8)
    stages = split_stages(model, 1)
    for training in (False, True):
        stages[0].train(training)
        model.train(training)
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        assert torch.equal(compose(stages, x), expected)
        assert torch.equal(compose(stages, x), expected) != training


class NormAct(nn.BatchNorm2d):
    """A norm with an activation inside and statistics of its own, as in timm."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        return self.act(
            F.batch_norm(x, self.running_mean, self.running_var, training=self.training)
        )


class Counting(nn.Module):
    """Counts batches in a buffer, outside of its layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.register_buffer("batches", torch.tensor(0.0))

    def forward(self, x):
        x = self.a(x)
        if self.training:
            self.batches.add_(1)
        return self.b(x)


def test_statistics_that_only_training_collects_are_collected_by_the_stages():
    norm = nn.Sequential(nn.Conv2d(3, 8, 3), NormAct(8), nn.Conv2d(8, 8, 3))
    counting, x = Counting(), torch.randn(4, 3, 9, 9)
    compose([stage.train() for stage in split_stages(norm, "layer")], x)
    compose([stage.train() for stage in split_stages(counting, "layer")], x)
    assert norm[1].num_batches_tracked == counting.batches == 1


def test_layers_frozen_in_evaluation_mode_stay_frozen():
    model = torchvision.models.resnet18().train()
    model.bn1.eval()
    split_stages(model, input_shape=(3, 32, 32))
    assert not model.bn1.training and model.layer1[0].bn1.training


def test_hooks_run_with_the_stages_and_never_see_a_proxy():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3)))
    seen, images = [], torch.randn(2, 3, 16, 16)
    handle = model.register_forward_pre_hook(lambda module, args: (args[0] * 2 - 1,))
    model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    model.eval()
    stages = split_stages(model, "layer", input_shape=(3, 16, 16))
    assert all(isinstance(output, Tensor) for output in seen)
    for _ in range(2):  # with the hook on the images, and when its handle has removed it
        seen.clear()
        assert torch.equal(compose(stages, images), model(images))
        assert len(seen) == 2
        handle.remove()


def test_copies_pickles_and_state_dicts_keep_the_weights_shared():
    torch.manual_seed(0)
    sff = localize(torchvision.models.efficientnet_b0(), 10)
    x = torch.randn(2, 3, 32, 32)
    twins = [sff, copy.deepcopy(sff), pickle.loads(pickle.dumps(sff.eval()))]
    for training in (True, False):
        outputs = []
        for twin in twins:
            twin.train(training)
            torch.manual_seed(1)  # the same stochastic depth
            outputs.append(twin(x))
        assert all(torch.equal(outputs[0], output) for output in outputs)
    for twin in twins[1:]:
        bodies = {id(p) for block in twin.blocks for p in block.body.parameters()}
        assert bodies < {id(p) for p in twin.original.parameters()}
        assert not bodies & {id(p) for p in sff.parameters()}
    other = localize(torchvision.models.efficientnet_b0(), 10).eval()
    other.load_state_dict(sff.state_dict())
    assert torch.equal(other(x), sff.eval()(x))
    assert "blocks.0.body.features.0.0.weight" in sff.state_dict()


# --- what is a feature, and what a block ---------------------------------------------------------


def shapes(model, input_shape, **options):
    table = describe(localize(model, 10, input_shape=input_shape, **options), input_shape)
    return [row.output_shape for row in table]


def test_features_end_before_pooling_class_token_and_classifier():
    squeeze = torchvision.models.squeezenet1_1()  # its classifier convolves before it pools
    assert shapes(squeeze, (3, 64, 64))[-1] == (512, 3, 3)
    headless = torchvision.models.resnet18()
    headless.fc = nn.Identity()
    assert shapes(headless, (3, 64, 64))[-1] == (512, 2, 2)
    adaptive = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Dropout()
    )
    assert shapes(adaptive, (1, 8, 8)) == [(4, 6, 6)]  # as in VGG
    vit = torchvision.models.vit_b_32(image_size=64)
    assert shapes(vit, (3, 64, 64), cut=2) == [(5, 768), (5, 768)]
    average = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten())
    assert shapes(average, (1, 8, 8)) == [(4, 6, 6)]


def test_a_model_without_classifier_is_features_all_through():
    assert shapes(cnn(), (1, 28, 28), cut="layer")[-1] == (64, 3, 3)
    assert shapes(cnn(1, (4, 8), (1, 2)), (1, 4, 4), cut="layer")[-1] == (8, 1, 1)


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3}, {"hidden": 6}])
def test_sequences_are_cut_and_judged_along_their_length(options):
    body = cnn1d(7, (8, 10), (1,), kernel_size=5)
    model = localize(body, 3, cut="layer", **options)  # needs no input_shape
    x = torch.randn(4, 7, 12)
    assert model.block_goodness(x).shape == (4, 2, 3)
    assert [row.output_shape for row in describe(model, (7, 12))] == [(8, 6), (10, 12 // 2)]
    kernel = options.get("kernel_size", 1)
    assert all(b.head.weight.shape == (3, b.head.weight.shape[1], kernel) for b in model.blocks)
    h = body.eval()(x)
    model.eval()
    for block in model.blocks:
        block.body.eval()
    first, second = (block.body for block in model.blocks)
    torch.testing.assert_close(second(first(x)), h, rtol=0, atol=0)


def test_a_tables_columns_are_channels():
    body = mlp(30, (16, 8))
    model = localize(body, 2, cut="layer")  # needs no input_shape
    assert model.block_goodness(torch.randn(4, 30)).shape == (4, 2, 2)
    assert [row.output_shape for row in describe(model, (30,))] == [(16,), (8,)]
    for wide in ({"kernel_size": 3}, {"hidden": 4}):
        with pytest.raises(SFFError, match="block 1"):
            localize(body, 2, cut="layer", **wide)
    with pytest.raises(SFFError, match="cannot run"):
        localize(body, 2, cut="layer", input_shape=(29,))


def test_a_perceptron_has_vectors_for_features():
    assert shapes(mlp(784, (50, 40)), (1, 28, 28), cut="layer") == [(50,), (40,)]
    with_classifier = nn.Sequential(mlp(784, (50, 40)), nn.Linear(40, 10))
    assert shapes(with_classifier, (1, 28, 28), cut="layer") == [(40,)]
    assert shapes(with_classifier, (1, 28, 28), cut=2) == [(50,), (40,)]


def test_channels_are_found_wherever_the_model_puts_them():
    swin = localize(torchvision.models.swin_t(), 10, cut="layer")
    assert {block.head.channel_dim for block in swin.blocks[:-1]} == {-1}
    assert swin.blocks[-1].head.channel_dim == 1  # its last operation before pooling
    assert [block.head.channels for block in swin.blocks[::9]] == [96, 192, 384, 768]
    shuffle = localize(torchvision.models.shufflenet_v2_x0_5(), 10)
    assert [block.head.channels for block in shuffle.blocks[::4]] == [24, 48, 96, 96, 192]


def names(model, cut, input_shape=(3, 32, 32)):
    return [row.name for row in describe(localize(model, 10, cut=cut), input_shape)]


def test_blocks_are_the_repeated_modules_that_branch():
    resnet = torchvision.models.resnet18()
    residual = [f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1)]
    assert names(resnet, "block") == ["conv1…bn1", *residual]
    assert names(resnet, "stage") == ["conv1…bn1", "layer1", "layer2", "layer3", "layer4"]
    mobile = torchvision.models.mobilenet_v3_small()
    assert names(mobile, "block") == [f"features.{number}" for number in range(13)]
    alex = torchvision.models.alexnet()  # a chain: its layers
    assert names(alex, "block", (3, 64, 64)) == [f"features.{n}" for n in (0, 3, 6, 8, 10)]
    assert names(alex, "stage", (3, 64, 64))[2] == "features.6…features.10"


def test_a_number_of_blocks_gives_about_equal_cost():
    resnet = torchvision.models.resnet18()
    for count in (2, 3, 4):
        flops = [row.flops for row in describe(localize(resnet, 10, cut=count), (3, 224, 224))]
        assert len(flops) == count
        # One residual block is 13 % of the whole; no share can be off by more than that.
        assert max(flops) - min(flops) < 0.14 * sum(flops)
    with pytest.raises(SFFError, match="cut=10"):
        localize(resnet, 10, cut=10)


@pytest.mark.parametrize(
    "name", ["cnn5", "resnet18", pytest.param("mobilenet_v3_small", marks=pytest.mark.nightly)]
)
def test_cut_for_memory_keeps_the_peak_with_fewer_blocks(name):
    def saved(cut: str) -> list[int]:
        if name == "cnn5":
            sff = localize(NETWORKS[name](3, (32, 32)), 10, cut=cut)
        else:
            sff = localize(torchvision.models.get_model(name), 10, cut=cut, stem="small")
        batch = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
        return saved_by_block(TrainingStep(sff, "sff", batch))

    layers, memory = saved("layer"), saved("memory")
    assert len(memory) < 0.7 * len(layers)
    assert max(memory) < 1.02 * max(layers)
    joined = [this + following for this, following in zip(memory, memory[1:])]
    assert min(joined) > max(layers)  # no two neighbours could be one block


def test_a_sequential_is_cut_at_its_children():
    model = cnn()
    assert names(model, "layer", (1, 28, 28)) == ["layer1", "layer2", "layer3", "layer4"]
    nested = nn.Sequential(nn.Sequential(*model[:3]), model[3])
    assert len(split_stages(nested, "layer")) == 2
    assert len(split_stages(nested, 4)) == 4
    resnet = torchvision.models.resnet18()
    assert len(split_stages(nn.Sequential(*list(resnet.children())[:-2]), "block")) == 9


def test_localize_builds_what_was_asked():
    resnet = torchvision.models.resnet18()
    sff = localize(resnet, 7, cut=3, kernel_size=3, filters=2, normalise="channels", vote="last")
    assert isinstance(sff, SFF)
    assert (sff.original, sff.num_classes) == (resnet, 7)
    assert (sff.normalise, sff.vote) == ("channels", "last")
    assert {block.head.weight.shape[0] for block in sff.blocks} == {14}
    assert {block.head.weight.shape[-1] for block in sff.blocks} == {3}
    assert localize(resnet.double(), 7, cut=1).blocks[0].head.weight.dtype == torch.float64


# --- models that cannot be traced ----------------------------------------------------------------


class Choosing(nn.Module):
    """Looks at the values it computes, which tracing cannot."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x if x.mean() > 0 else -x
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


class Shaped(nn.Module):
    """Branches on shapes, which torch.fx cannot trace and torch.export can."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two, self.drop = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.5)
        self.position = nn.Parameter(torch.randn(1, 8, 8, 8))
        self.register_buffer("scale", torch.rand(8, 1, 1))
        self.fc = nn.Linear(8, 10)

    def forward(self, x, scaled=True):
        if x.shape[1] != 3:
            raise ValueError("no image in colour")
        mask = self.scale.expand(x.shape[0], 8, 8, 8)  # one for both layers, of the batch's size
        x = self.drop(F.relu(self.norm(self.one(x))))
        x = F.max_pool2d(x, 2) if x.shape[-1] > 8 else x
        x = x * mask if scaled else x
        x = F.dropout(F.gelu(self.two(x)), 0.5, self.training)
        x += self.position * mask
        return self.fc(x.flatten(2).mean(2))


def test_what_branches_on_shapes_is_captured_for_one_shape():
    torch.manual_seed(0)
    model, images = Shaped(), torch.randn(5, 3, 16, 16)
    net = localize(model, 10, cut="layer", input_shape=(3, 16, 16))
    assert len(net.blocks) == 2 and net.classifier == "fc"
    assert dict(net.blocks[0].body.named_modules())["norm"] is model.norm
    copies = [net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    for training in (True, False):
        for twin in copies:
            original = twin.original.train(training)
            stages = [block.body.train(training) for block in twin.blocks]
            start = state(original)
            torch.manual_seed(1)
            expected = original(images)
            after = state(original)
            original.load_state_dict(start, strict=False)
            torch.manual_seed(1)
            assert torch.equal(original.fc(compose(stages, images).flatten(2).mean(2)), expected)
            assert all(torch.equal(after[name], b) for name, b in original.named_buffers())
    with pytest.raises(RuntimeError, match="16.* must match .*32"):
        net(torch.randn(2, 3, 32, 32))


class UnderNoGrad(Choosing):
    def forward(self, x):
        with torch.no_grad():
            x = self.stem(x)
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


class Remembering(Choosing):
    def forward(self, x):
        assert x.shape[1] == 3
        self.last = len(x.shape)
        return self.fc(self.norm(self.conv(self.stem(x))).mean((2, 3)))


class Gambling(Choosing):
    def forward(self, x):
        assert x.shape[1] == 3
        return self.fc(self.norm(self.conv(self.stem(x))).mean((2, 3)) * random.random())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Choosing, "branches on values"),
        (UnderNoGrad, "no_grad"),
        (Remembering, "(assigns to its attributes|attrs were created)"),
        (Gambling, "random numbers in Python"),
    ],
)
def test_what_no_graph_holds_is_refused_with_the_line(model, reason, capfd):
    with pytest.raises(SFFError, match=f"{model.__name__} cannot be traced .*line.*{reason}"):
        localize(model(), 10, input_shape=(3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_stages_can_be_given_by_hand():
    model = Choosing()
    for stages in (["stem", ["conv", "norm"]], [model.stem, [model.conv, "norm"]]):
        sff = localize(model, 10, stages=stages)
        assert [row.name for row in describe(sff, (3, 8, 8))] == ["stem", "conv…norm"]
        assert sff(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert sff.blocks[0].body is model.stem


class Functional(nn.Module):
    """Activation, pooling and a change of shape stand between its parts."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.one(x))
        x = self.pool(x) if x.shape[-1] > 8 else x
        return self.fc(F.gelu(self.two(x)).mean((2, 3)))


def test_modules_and_functions_are_given_as_glue_and_compared_with_the_model():
    model, x = Functional().eval(), torch.randn(2, 3, 16, 16)
    glue = [["one", F.relu, nn.MaxPool2d(2)], ["two", lambda h: F.gelu(h)]]
    net = localize(model, 5, stages=glue, input_shape=(3, 16, 16))
    composed = compose([block.body for block in net.blocks], x)
    assert torch.equal(model.fc(composed.mean((2, 3))), model(x))
    assert net.classifier == "fc"
    for wrong in (["one", "two"], [["one", F.relu], "two"], [["one", F.gelu, "pool"], "two"]):
        with pytest.raises(SFFError, match=r"does not compute the output of stages\[[01]\]"):
            localize(model, 5, stages=wrong, input_shape=(3, 16, 16))


class Flipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else self.conv(-x)


def test_a_sequential_need_not_be_traceable():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Flipping(), nn.ReLU(), Flipping()).eval()
    x = torch.randn(2, 1, 9, 9)
    for cut in ("layer", "block", 2, 3):
        assert torch.equal(compose(split_stages(model, cut), x), model(x))
    assert len(split_stages(model, "layer")) == 3


# --- small images --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("resnet18", (64, 32, 32), (512, 4, 4)),
        ("mobilenet_v3_small", (16, 32, 32), (576, 2, 2)),
        ("shufflenet_v2_x0_5", (24, 32, 32), (1024, 4, 4)),
    ],
)
def test_small_stem_keeps_small_images_large(name, first, last):
    model = torchvision.models.get_model(name)
    found = shapes(model, (3, 32, 32), stem="small")
    assert (found[0], found[-1]) == (first, last)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 1000)  # the user's own object


def test_small_stem_keeps_narrow_kernels_and_replaces_wide_ones():
    mobile = torchvision.models.mobilenet_v2()
    weight = mobile.features[0][0].weight
    small_stem(mobile)
    assert mobile.features[0][0].weight is weight
    resnet = torchvision.models.resnet18()
    assert small_stem(resnet).keys() == {"conv1", "maxpool"}
    conv = resnet.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert conv.bias is None


def test_small_stem_leaves_a_model_that_it_does_not_suit():
    vit = torchvision.models.vit_b_32(image_size=64)
    before = str(vit)
    with pytest.raises(SFFError, match="cannot run"):
        localize(vit, 10, stem="small", input_shape=(3, 64, 64))
    assert str(vit) == before
    with pytest.raises(SFFError, match="stem"):
        localize(cnn(), 10, stem="small")


# --- the table -----------------------------------------------------------------------------------


def test_describe_counts_as_by_hand():
    model = localize(cnn(1, (16, 32), (1,)), 100, cut="layer")
    first, second = table = describe(model, (1, 28, 28))
    assert (first.name, first.output_shape) == ("layer1", (16, 14, 14))
    assert first.parameters == 9 * 16 + 2 * 16
    assert first.flops == 2 * 28 * 28 * 9 * 16
    assert first.head_parameters == 16 * 100 + 100
    assert second.flops == 2 * 14 * 14 * 9 * 16 * 32
    assert (first.head_form, second.head_form) == ("moments", "moments")
    direct = localize(cnn(1, (16, 32), (1,)), 100, cut="layer", form="direct")
    assert describe(direct, (1, 28, 28))[0].head_flops == 2 * 14 * 14 * 16 * 100
    assert "layer2" in str(table) and "moments" in repr(table)
    model.blocks[1].head = LinearHead(32, 2)
    assert [row.head_form for row in describe(model, (1, 28, 28))] == ["moments", "linear"]
    assert str(table).splitlines()[-1].split()[1:3] == ["4,848", "5,000"]


def test_describe_changes_nothing():
    model = localize(torchvision.models.resnet18(), 10).train()
    before = state(model)
    with torch.no_grad():
        describe(model, (3, 32, 32))
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert model.training and model.blocks[0].body.bn1.training
    with pytest.raises(SFFError, match="input_shape"):
        describe(model, (1, 32, 32))


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cut": "blok"}, SFFError, "'block'"),
        ({"cut": 0}, SFFError, "cut"),
        ({"cut": 2.5}, TypeError, "cut"),
        ({"stem": "tiny"}, SFFError, "stem"),
        ({"input_shape": (3, 0, 0)}, SFFError, "input_shape"),
        ({"input_shape": (1, 64, 64)}, SFFError, "cannot run"),
        ({"stages": []}, SFFError, "empty"),
        ({"stages": ["conv1", "layer9"]}, SFFError, "layer9"),
        ({"stages": ["conv1", "conv1"]}, SFFError, "share"),
        ({"stages": ["layer1", "conv1"]}, SFFError, r"stages\[0\]"),
        ({"stages": [nn.Conv2d(3, 3, 3)]}, SFFError, "own parts"),
        ({"stages": ["conv1"], "cut": 2}, SFFError, "both"),
    ],
)
def test_bad_input_is_one_sentence(options, error, message):
    with pytest.raises(error, match=message) as raised:
        localize(torchvision.models.resnet18(), 10, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong", [{"normalise": "al"}, {"filters": 0}, {"kernel_size": 2}, {"cut": 2.5}, {"cut": 99}]
)
def test_a_refused_model_stays_as_it_was(wrong):
    model = torchvision.models.resnet18()
    before = str(model)
    with pytest.raises((ValueError, TypeError)):
        localize(model, 10, stem="small", input_shape=(3, 32, 32), **wrong)
    assert str(model) == before
    localize(model, 10, stem="small", input_shape=(3, 32, 32))


def test_bad_models_are_one_sentence():
    with pytest.raises(TypeError, match="model must be a torch"):
        localize("resnet18", 10)
    vit = torchvision.models.vit_b_32()
    with pytest.raises(SFFError, match="image height"):
        localize(vit, 10, input_shape=(3, 32, 32))
    with pytest.raises(SFFError, match="block 1"):
        localize(vit, 10, kernel_size=3)
