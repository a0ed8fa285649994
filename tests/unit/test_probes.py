"""Probes: against independent formulas and cases whose answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from sff_teach import probes
from sff_teach.models import cnn
from sff_teach.rules import get_rule
from sff_teach.split import localize

from .test_rules import adamw


def network(cut="layer"):
    torch.manual_seed(0)
    return localize(cnn(1, (4, 6, 8), (1,)), 3, cut=cut, input_shape=(1, 12, 12)).eval()


def test_features_are_what_the_network_computes_itself():
    model, x = network(), torch.randn(7, 1, 12, 12)
    first, second, _ = model.blocks
    expected = first(x)[0]
    found = probes.features(model, x, batch_size=3)
    assert len(found) == 3
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], second(model.hand_over(first, expected))[0])
    assert not found[0].requires_grad


@pytest.mark.parametrize("cut", ["layer", 2])
def test_layers_of_the_original_are_found_in_a_network_that_bp_joined(cut):
    model = network(cut)
    layers = [model.original.layer1, model.original.layer2, model.original.layer3]
    x = torch.randn(5, 1, 12, 12)
    joined = get_rule("bp")(model, adamw).model.eval()
    found = probes.features(joined, x, layers)
    expected = x
    for layer, h in zip(layers, found, strict=True):
        expected = layer(expected)
        torch.testing.assert_close(h, expected)
    with pytest.raises(ValueError, match="layer 1 of layers never ran"):
        probes.features(joined, x, [nn.Conv2d(1, 1, 1)])
    assert not any(m._forward_hooks for m in model.modules())


def test_cka_by_its_definition_and_its_invariances():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60, 4, 3, 3, generator=generator)
    b = a.flatten(1)[:, :20] + torch.randn(60, 20, generator=generator)
    x, y = a.flatten(1).double().numpy(), b.double().numpy()
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert probes.linear_cka(a, b) == pytest.approx(expected)
    turn = torch.linalg.qr(torch.randn(36, 36, generator=generator))[0]
    assert probes.linear_cka(a, 3 * a.flatten(1) @ turn + 5) == pytest.approx(1, abs=1e-6)
    other = torch.randn(2000, 3, generator=generator), torch.randn(2000, 3, generator=generator)
    assert probes.linear_cka(*other) < 0.01


def test_a_probe_reads_what_is_there_and_not_what_is_not():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (300,), generator=generator)
    h = torch.randn(300, 5, 4, 4, generator=generator)
    told = h.clone()
    told[:, :3] += 3 * nn.functional.one_hot(y, 3)[:, :, None, None]
    assert probes.linear_probe((told[:200], y[:200]), (told[200:], y[200:])) > 0.95
    assert probes.linear_probe((h[:200], y[:200]), (h[200:], y[200:])) < 0.55
    flat = told.flatten(1)
    assert probes.linear_probe((flat[:200], y[:200]), (flat[200:], y[200:])) > 0.95


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "filters": 2}, {"hidden": 5}])
def test_the_mean_of_a_goodness_map_is_the_class_goodness(options):
    torch.manual_seed(0)
    model = localize(
        cnn(1, (4, 6), (1,)), 3, cut="layer", form="direct", input_shape=(1, 12, 12), **options
    ).eval()
    x = torch.randn(4, 1, 12, 12)
    means = torch.stack([m.mean((2, 3)) for m in probes.goodness_maps(model, x)], 1)
    torch.testing.assert_close(means, model.block_goodness(x).detach())
    with pytest.raises(ValueError, match="a block has a LinearHead"):
        probes.goodness_maps(get_rule("bp")(model, adamw).model, x)


def test_disagreement_counts_pairs_of_blocks():
    votes = torch.tensor([[0, 0, 1], [1, 0, 1], [2, 2, 2], [0, 1, 2]])
    found = probes.disagreement(nn.functional.one_hot(votes, 3).float())
    assert found.tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.75], [0.5, 0.75, 0]]


def test_calibration_error_of_known_cases():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200_000, generator=generator) * 0.5 + 0.5
    y = (torch.rand(200_000, generator=generator) > p).long()  # class 0 with probability p
    honest = torch.stack([p.logit(), torch.zeros_like(p)], 1)
    assert probes.expected_calibration_error(honest, y) < 0.005
    sure = torch.tensor([[50.0, 0.0]]).repeat(100, 1)
    labels = torch.tensor([0] * 70 + [1] * 30)
    assert probes.expected_calibration_error(sure, labels) == pytest.approx(0.3, abs=1e-6)
    (row,) = probes.calibration(sure, labels)
    assert (row["count"], row["low"], row["high"]) == (100, pytest.approx(14 / 15), 1)
