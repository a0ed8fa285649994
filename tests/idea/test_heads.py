"""Richer heads and learned votes: what they compute, where their gradients go, what they refuse."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from sff_teach.core import GoodnessHead, LinearHead
from sff_teach.cut import describe
from sff_teach.cut.localize import localize
from sff_teach.heads import HiddenHead, learn_vote
from sff_teach.losses import class_loss
from sff_teach.models import cnn
from sff_teach.rules import get_rule
from sff_teach.study.recipes import Recipe
from sff_teach.study.runs import build, run, study
from sff_teach.training.evaluation import evaluate
from sff_teach.training.loader import as_labelled_tensors
from sff_teach.util.checks import SFFError

from .test_core import make_model
from .test_rules import adamw, stream


@pytest.mark.parametrize(("kernel_size", "filters"), [(1, 1), (3, 2)])
def test_a_hidden_head_is_a_convolution_and_then_class_goodness(kernel_size, filters):
    torch.manual_seed(0)
    head = HiddenHead(4, 3, hidden=6, kernel_size=kernel_size, filters=filters)
    h = torch.randn(5, 4, 9, 8)
    convolution, norm, _ = head.convolution
    a = F.conv2d(h, convolution.weight, stride=2, padding=1)
    a = (a - a.mean((0, 2, 3), keepdim=True)) / (
        a.var((0, 2, 3), correction=0, keepdim=True) + norm.eps
    ).sqrt()
    z = F.conv2d(a.relu(), head.weight, head.bias, padding="same")  # (5, 3·filters, 5, 4)
    expected = z.square().reshape(5, 3, -1).mean(2)
    torch.testing.assert_close(head(h), expected)
    torch.testing.assert_close(head.activation(h), z)


def test_a_hidden_head_of_a_sequence_is_a_convolution_along_it():
    torch.manual_seed(0)
    head = HiddenHead(4, 3, hidden=6, kernel_size=3, dims=1)
    h = torch.randn(5, 4, 9)
    convolution, norm, _ = head.convolution
    a = F.conv1d(h, convolution.weight, stride=2, padding=1)
    a = (a - a.mean((0, 2), keepdim=True)) / (
        a.var((0, 2), correction=0, keepdim=True) + norm.eps
    ).sqrt()
    z = F.conv1d(a.relu(), head.weight, head.bias, padding="same")  # (5, 3, 5)
    torch.testing.assert_close(head(h), z.square().mean(2))
    torch.testing.assert_close(head.activation(h), z)


def test_the_accurate_head_pools_convolves_and_scales():
    torch.manual_seed(0)
    model = localize(cnn(1, (4, 6), (1,)), 3, cut="layer", head="accurate", input_shape=(1, 24, 24))
    head = model.blocks[0].head.eval()
    assert (head.hidden, head.weight.shape[2:], head.scale) == (96, (3, 3), 4.0)
    h = torch.randn(2, 4, 24, 6)  # the side of 6 is below 8 and stays
    pooled = h.reshape(2, 4, 8, 3, 6).mean(3)
    z = F.conv2d(head.convolution(pooled), head.weight, head.bias, padding="same")
    torch.testing.assert_close(head(h), 4 * z.square().mean((2, 3)))
    with pytest.raises(SFFError, match="leave these two out"):
        localize(cnn(1), 3, head="accurate", hidden=8, input_shape=(1, 28, 28))


def test_localize_gives_hidden_heads_and_bp_drops_them():
    model = localize(cnn(1, (4, 6), (1,)), 3, cut="layer", hidden=8, input_shape=(1, 8, 8))
    assert all(isinstance(block.head, HiddenHead) for block in model.blocks)
    assert [row.head_form for row in describe(model, input_shape=(1, 8, 8))] == ["direct"] * 2
    rule = get_rule("bp")(model, adamw)
    assert isinstance(rule.model.blocks[0].head, LinearHead)
    assert rule.model.blocks[0].head.linear.in_features == 6


def test_hidden_heads_fit_models_with_channels_last():
    model = localize(torchvision.models.swin_t(), 3, cut=2, hidden=8, input_shape=(3, 32, 32))
    x = torch.randn(2, 3, 32, 32)
    assert model.block_goodness(x).shape == (2, 2, 3)
    assert model.blocks[0].head.channel_dim == -1


def test_a_hidden_heads_loss_stays_in_its_block():
    model = localize(cnn(2, (4, 6), (1,)), 3, cut="layer", hidden=8, input_shape=(2, 8, 8)).train()
    x, y = next(stream(1))
    first, second = model.blocks
    h, _ = first(x)
    class_loss(second(model.hand_over(first, h))[1], y).backward()
    assert all(p.grad is None for p in first.parameters())
    assert all(p.grad is not None for p in second.parameters())


def test_what_hidden_heads_refuse():
    with pytest.raises(ValueError, match="hidden"):
        HiddenHead(4, 3, hidden=0)
    with pytest.raises(ValueError, match="block 1 .*hidden=0"):
        localize(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), 3, hidden=8, input_shape=(4,))


def test_learned_votes_turn_away_from_a_block_that_knows_nothing():
    torch.manual_seed(0)
    model = make_model()
    data = as_labelled_tensors(tuple(torch.cat(part) for part in zip(*stream(20), strict=True)))
    rule = get_rule("sff")(model.train(), adamw)
    for x, y in stream(60):
        rule.step(x, y)
    head = GoodnessHead(6, 3)  # block 2 judges with random weights
    model.blocks[1].head = head
    equal = evaluate(model.eval(), data, vote="mean")
    weights = learn_vote(model, data.x, data.y)
    assert model.vote == "learned" and torch.equal(weights, model.vote_weights)
    assert weights[1].abs() < weights[[0, 2]].max() / 2
    assert evaluate(model, data).loss < equal.loss
    goodness = model.block_goodness(data.x[:7])
    torch.testing.assert_close(model(data.x[:7]), (goodness * weights[:, None]).sum(1))


def test_learned_votes_of_a_model_elsewhere(monkeypatch):
    """The images go to the model's device, whatever their own; "meta" stands for a GPU."""
    torch.manual_seed(0)
    model, here = make_model(), as_labelled_tensors(next(stream(1)))
    seen = []

    def goodness(x):
        seen.append(x.device.type)
        return torch.randn(len(x), 3, 3)

    monkeypatch.setattr(model, "block_goodness", goodness)
    model.to("meta")
    learn_vote(model, here.x, here.y)
    assert seen == ["meta"]


def test_a_recipe_with_learned_votes_and_a_record_from_before_hidden_heads(tmp_path):
    recipe = Recipe(
        data="digits", network="cnn3", fraction=0.05, epochs=1, vote="learned", hidden=4
    )
    model, _ = run(recipe)
    assert model.vote == "learned" and not torch.equal(model.vote_weights, torch.ones(3) / 3)
    assert isinstance(
        build(recipe, as_labelled_tensors(next(stream(1)))).blocks[0].head, HiddenHead
    )

    plain = Recipe(data="digits", network="cnn3", fraction=0.05, epochs=1)
    path = tmp_path / "runs.jsonl"
    (record,) = study([plain], path, progress=False)
    path.write_text(path.read_text().replace('"hidden": 0, ', ""))
    (again,) = study([plain], path, progress=False)
    assert "hidden" not in again["recipe"]  # read, not run
    assert again["accuracy"] == record["accuracy"]
