"""A user's own loop: the public step, gradients only, and optimisers that do not fit."""

import copy

import pytest
import torch

from sff_teach import block_optimizers, sff_backward, sff_step
from sff_teach.util.checks import SFFError

from .test_core import make_model
from .test_rules import stream


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def test_one_optimiser_for_all_and_gradients_only_give_the_weights_of_one_per_block():
    models = [make_model().train() for _ in range(3)]
    per_block = block_optimizers(models[0], sgd)
    together = block_optimizers(models[1], sgd, together=True)
    own = sgd(models[2].blocks.parameters())
    for x, y in stream(5):
        expected = sff_step(models[0], x, y, per_block)
        found = sff_step(models[1], x, y, together)
        own.zero_grad()
        gradients = sff_backward(models[2], x, y)
        own.step()
        assert expected.losses.tolist() == found.losses.tolist() == gradients.losses.tolist()
    for a, b, c in zip(*(model.parameters() for model in models)):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_hard_labels_and_their_one_hot_rows_are_one_step():
    one, other = make_model().train(), make_model().train()
    for x, y in stream(2):
        hard = sff_step(one, x, y, sgd(one.blocks.parameters()))
        rows = torch.nn.functional.one_hot(y, 3).float()
        soft = sff_step(other, x, rows, sgd(other.blocks.parameters()))
        torch.testing.assert_close(hard.losses, soft.losses)
        assert torch.equal(hard.correct, soft.correct)


def test_optimisers_that_do_not_fit_are_noticed():
    model = make_model().train()
    x, y = next(stream(1))
    good = block_optimizers(model, sgd)
    theirs = block_optimizers(copy.deepcopy(model), sgd)
    everything = block_optimizers(model, sgd, together=True)
    for bad in (good[::-1], good[:2], theirs, [everything] * 3, theirs[0], good[0]):
        with pytest.raises(SFFError, match="optimizer"):
            sff_step(model, x, y, bad)
