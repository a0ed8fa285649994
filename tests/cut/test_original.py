"""A model and its blocks stay one: mode, device, dtype, state, and under bp the prediction."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from sff_teach import cnn, fit, load, localize
from sff_teach.heads import learn_classifier
from sff_teach.rules import get_rule
from sff_teach.util.checks import SFFError
from sff_teach.util.modes import evaluating

IMAGE = (3, 16, 16)


def resnet(**options):
    torch.manual_seed(0)
    return torchvision.models.resnet.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=1000, **options
    )


def cut(model, **options):
    return localize(model, 10, input_shape=IMAGE, **options)


@pytest.fixture(scope="module")
def images():
    digits = load("digits").train.as_rgb().subset(range(200))
    return digits.x.repeat_interleave(2, 2).repeat_interleave(2, 3), digits.y


def test_after_backprop_the_original_predicts(images):
    model = resnet()
    network = cut(model)
    fit(network, images, rule="bp", epochs=2, progress=False)
    x = images[0][:50]
    network.eval()
    assert model.fc.out_features == 10
    assert torch.equal(model(x), network(x))
    assert (model(x).argmax(1) == images[1][:50]).float().mean() > 0.5


def test_a_classifier_of_several_layers_is_replaced_too(images):
    model = torchvision.models.mobilenet_v3_small()
    network = cut(model)
    fit(network, images, rule="bp", epochs=1, progress=False)
    network.eval()
    x = images[0][:5]
    torch.testing.assert_close(model(x), network(x))


def test_a_model_that_ends_in_another_way_is_left_alone(images):
    model = torchvision.models.squeezenet1_1()
    network = localize(model, 10, input_shape=(3, 64, 64))
    assert network.classifier is None
    before = copy.deepcopy(model.state_dict())
    get_rule("bp")(network, lambda parameters: torch.optim.SGD(parameters, 0.1))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_after_sff_one_call_makes_a_classifier_of_the_last_features(images):
    model, (x, y) = resnet(), images
    network = cut(model)
    fit(network, images, rule="sff", epochs=2, progress=False)
    weight = model.conv1.weight.clone()
    assert learn_classifier(network, x, y) is model
    assert model.fc.out_features == 10 and not model.training
    assert (model(x).argmax(1) == y).float().mean() > 0.5
    assert torch.equal(model.conv1.weight, weight)
    plain = resnet()
    plain.fc = nn.Linear(512, 10)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(x[:5]), model(x[:5]))


def test_an_original_without_such_a_classifier_says_so():
    network = localize(cnn(), 10, cut=1)
    with pytest.raises(SFFError, match="mean of the last features"):
        learn_classifier(network, torch.randn(4, 1, 8, 8), torch.arange(4))


def test_looking_for_the_classifier_leaves_no_hook():
    model = resnet()
    cut(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.nightly
def test_the_trained_original_can_be_exported(images):
    model, x = resnet(), images[0][:5]
    fit(cut(model), images, rule="bp", epochs=1, progress=False)
    exported = torch.export.export(model.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_mode_and_dtype_travel():
    model = resnet()
    network = cut(model)
    assert network.eval() is network and not model.fc.training
    network.train()
    assert model.fc.training
    with evaluating(network):
        assert not model.fc.training
    assert model.fc.training
    network.double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(torch.rand(2, *IMAGE, dtype=torch.float64)).dtype == torch.float64


def test_state_travels():
    first, second = cut(resnet()), cut(resnet())
    with torch.no_grad():
        for parameter in first.original.parameters():
            parameter.add_(torch.randn_like(parameter))
    second.load_state_dict(first.state_dict())
    for a, b in zip(first.original.parameters(), second.original.parameters()):
        assert torch.equal(a, b)
    old = {k: v for k, v in first.state_dict().items() if not k.startswith("original.")}
    second.load_state_dict(old)  # as it was written before the original travelled


def test_a_copy_is_one_with_its_own_original():
    network = cut(resnet())
    other = copy.deepcopy(network)
    assert other.original is not network.original
    with torch.no_grad():
        other.original.conv1.weight.zero_()
    assert next(other.blocks[0].body.parameters()).abs().max() == 0
    assert network.original.conv1.weight.abs().max() > 0


def test_the_parameters_are_listed_once():
    network = cut(resnet())
    names = [name for name, _ in network.named_parameters()]
    assert not any(name.startswith("original") for name in names)
    assert isinstance(network.original.fc, nn.Linear)
