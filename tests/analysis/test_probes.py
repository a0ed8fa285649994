"""probes: against brute force, closed forms and the network's own numbers."""

from itertools import permutations

import numpy as np
import pytest
import torch

from sff_teach import cnn, cnn1d, fit, localize
from sff_teach.analysis import probes
from sff_teach.core import SFF
from sff_teach.util.modes import evaluating


def network(cut="layer", filters=1, kernel_size=1):
    torch.manual_seed(0)
    model = localize(
        cnn(widths=(4, 6, 8), pool_after=(1, 2)),
        5,
        cut=cut,
        filters=filters,
        kernel_size=kernel_size,
        input_shape=(1, 12, 12),
    )
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def test_features_are_the_blocks_outputs_whatever_the_batch(images):
    model = network()
    with torch.no_grad():
        first, _ = model.blocks[0](images)
        second, _ = model.blocks[1](model.hand_over(model.blocks[0], first))
    features = probes.block_features(model, images)
    assert [f.shape[1] for f in features] == [4, 6, 8]
    torch.testing.assert_close(features[0], first)
    torch.testing.assert_close(features[1], second)


@pytest.mark.parametrize("rule", ["bp", "bp-goodness"])
def test_a_joined_network_gives_the_same_layers_by_depth(images, rule):
    model = network()
    layers = list(model.original)
    fit(model, (images, torch.arange(16) % 5), rule=rule, epochs=1, device="cpu", progress=False)
    assert len(model.blocks) == 1
    x, features = images, probes.block_features(model, images)
    assert len(features) == len(layers)
    for layer, feature in zip(layers, features):
        with torch.no_grad():
            x = layer(x)
        torch.testing.assert_close(feature, x)


def test_features_leave_the_network_as_it_was(images):
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probes.block_features(model, images)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pooled_averages_and_keeps_small_maps():
    maps = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert probes.pooled(maps, 2).tolist() == [[7.0, 10.0, 25.0, 28.0]]
    assert probes.pooled(torch.ones(2, 3, 1, 1), 3).shape == (2, 3)


def test_probe_reads_what_is_linear_and_not_what_is_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(900, 6, generator=generator)
    y = (x[:, 0] + 2 * x[:, 1] > 0).long()
    noise = torch.randint(0, 2, (900,), generator=generator)
    parts = [slice(0, 400), slice(400, 600), slice(600, 900)]
    probe = probes.linear_probe(*[(x[p], y[p]) for p in parts])
    assert probe.accuracy > 0.97
    assert 0.4 < probe.chance < 0.6
    # 300 coin flips stay within 0.5 ± 0.1 (3.5 standard deviations).
    assert abs(probes.linear_probe(*[(x[p], noise[p]) for p in parts]).accuracy - 0.5) < 0.1


def test_probe_chooses_by_validation_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 40, generator=generator)
    y = (x[:, 0] + torch.randn(300, generator=generator) > 0).long()
    train, valid, test = [(x[p], y[p]) for p in (slice(0, 60), slice(60, 180), slice(180, 300))]
    both = probes.linear_probe(train, valid, test)
    alone = {
        c: probes.linear_probe(train, valid, test, penalties=[c]).valid_accuracy
        for c in probes.PENALTIES
    }
    assert both.valid_accuracy == max(alone.values()) == alone[both.penalty]
    flipped = probes.linear_probe(train, valid, (test[0], 1 - test[1]))
    assert flipped.penalty == both.penalty
    assert flipped.accuracy == pytest.approx(1 - both.accuracy)


def test_plain_cka_is_the_feature_formula():
    a, b = torch.randn(20, 7).double(), torch.randn(20, 4).double()
    a0, b0 = a - a.mean(0), b - b.mean(0)
    norm = torch.linalg.matrix_norm
    reference = norm(b0.T @ a0) ** 2 / (norm(a0.T @ a0) * norm(b0.T @ b0))
    # Both in float64; 1e-10 is far above its rounding.
    assert probes.cka(a, b, unbiased=False) == pytest.approx(reference.item(), rel=1e-10)


def test_unbiased_hsic_is_the_u_statistic_over_all_quadruples():
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(6, 3, generator=generator).double()
    b = torch.randn(6, 2, generator=generator).double()
    k, l = a @ a.T, b @ b.T  # noqa: E741
    terms = [
        k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(6), 4)
    ]
    # Float64 sums of 360 terms; 1e-9 is far above their rounding.
    assert probes._hsic_unbiased(k, l) == pytest.approx(float(sum(terms)) / len(terms), rel=1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_does_not_see_rotation_shift_and_scale(unbiased):
    a = torch.randn(30, 8).double()
    rotation = torch.linalg.qr(torch.randn(8, 8).double()).Q
    # Float64; 1e-9 is far above its rounding.
    assert probes.cka(a, 3 * a @ rotation + 5, unbiased) == pytest.approx(1, abs=1e-9)
    assert probes.cka(a, torch.randn(30, 8).double(), unbiased) < 0.9


def test_few_images_bias_the_plain_cka_and_not_the_unbiased_one():
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(2, 20, 50, generator=generator) for _ in range(50)]
    plain = np.mean([probes.cka(a, b, unbiased=False) for a, b in pairs])
    unbiased = np.mean([probes.cka(a, b) for a, b in pairs])
    assert plain > 0.5  # independent features
    assert abs(unbiased) < 0.03  # spread of one value about 0.05, of the mean of 50 about 0.007


@pytest.mark.parametrize(("kernel_size", "filters"), [(1, 1), (3, 2)])
def test_mean_of_a_goodness_map_is_the_class_goodness(images, kernel_size, filters):
    model = network(kernel_size=kernel_size, filters=filters)
    maps = probes.goodness_maps(model, images)
    with torch.no_grad():
        goodness = model.block_goodness(images)
    assert maps[0].shape == (16, 5, 6, 6)
    means = torch.stack([m.mean((2, 3)) for m in maps], 1)
    # Two orders of float32 sums; 1e-5 is some hundred roundings.
    torch.testing.assert_close(means, goodness, rtol=1e-5, atol=1e-6)


def test_a_sequences_goodness_map_says_where_along_it():
    torch.manual_seed(0)
    model = localize(cnn1d(5, (6, 8), (1,)), 3, cut="layer", kernel_size=3)
    x = torch.randn(4, 5, 12)
    maps = probes.goodness_maps(model, x)
    assert [m.shape for m in maps] == [(4, 3, 6), (4, 3, 6)]
    with evaluating(model):
        goodness = model.block_goodness(x)
    # Two orders of float32 sums; 1e-5 is some hundred roundings.
    means = torch.stack([m.mean(2) for m in maps], 1)
    torch.testing.assert_close(means, goodness, rtol=1e-5, atol=1e-6)
    assert probes.block_votes(model, x).shape == (4, 2)
    assert [h.shape for h in probes.block_features(model, x)] == [(4, 6, 6), (4, 8, 6)]


def test_votes_and_disagreement(images):
    model = network()
    votes = probes.block_votes(model, images)
    with torch.no_grad():
        assert torch.equal(
            votes[:, -1], model.combine(model.block_goodness(images), "last").argmax(1)
        )
    shares = probes.disagreement(torch.tensor([[0, 0, 1], [2, 2, 2], [1, 0, 1], [3, 1, 0]]))
    expected = torch.tensor([[0, 0.5, 0.5], [0.5, 0, 0.75], [0.5, 0.75, 0]]).double()
    assert torch.equal(shares, expected)


def test_calibration_error_by_a_second_way():
    generator = torch.Generator().manual_seed(0)
    goodness = 2 * torch.randn(500, 4, generator=generator)
    y = torch.randint(0, 4, (500,), generator=generator)
    p = goodness.double().softmax(1).numpy()
    confidence, right = p.max(1), p.argmax(1) == y.numpy()
    edges = np.linspace(0, 1, 16)
    reference = sum(
        abs(right[held].sum() - confidence[held].sum()) / 500
        for low, high in zip(edges, edges[1:])
        if (held := (confidence > low) & (confidence <= high)).any()
    )
    # Float64; 1e-9 is far above its rounding.
    assert probes.expected_calibration_error(goodness, y) == pytest.approx(reference, abs=1e-9)
    assert sum(row.n for row in probes.reliability(goodness, y)) == 500


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[100.0, 0.0]]).repeat(10, 1)
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert probes.expected_calibration_error(sure, labels) == pytest.approx(0.3)
    fair = torch.log(torch.tensor([[0.7, 0.3]])).repeat(10, 1)
    # The logarithms are float32.
    assert probes.expected_calibration_error(fair, labels) == pytest.approx(0, abs=1e-6)


def test_bad_input_is_refused(images):
    model = network()
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(TypeError, match="Sequential"):
        probes.block_features(model.original, images)
    with pytest.raises(ValueError, match="same images"):
        probes.cka(torch.randn(5, 2), torch.randn(6, 2))
    with pytest.raises(ValueError, match="at least four"):
        probes.cka(torch.randn(3, 2), torch.randn(3, 2))
    with pytest.raises(ValueError, match="hardly changes"):
        probes.cka(torch.ones(8, 2), torch.randn(8, 2))
    with pytest.raises(ValueError, match="features is NaN"):
        probes.linear_probe((x / 0, y), (x, y), (x, y))
    fit(model, (images, torch.arange(16) % 5), rule="bp", epochs=1, device="cpu", progress=False)
    assert isinstance(model, SFF)
    with pytest.raises(ValueError, match="head without goodness"):
        probes.goodness_maps(model, images)
