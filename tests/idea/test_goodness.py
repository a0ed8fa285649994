"""Goodness and losses against closed forms, and the two exact forms against each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from sff_teach.goodness import (
    cheaper_form,
    class_goodness,
    head_activation,
    mean_squares,
    sum_squares,
)
from sff_teach.losses import class_loss, logistic_loss, symba_loss


def test_sum_and_mean_of_squares():
    h = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, -2.0]]])
    assert sum_squares(h).tolist() == [30.0, 4.0]
    assert mean_squares(h).tolist() == [7.5, 1.0]


def test_class_goodness_by_hand():
    h = torch.tensor([[[[1.0, -1.0]]]])  # one image, one channel, 1×2
    weight = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1)
    bias = torch.tensor([0.0, 1.0])
    # z_0 = (2, -2), z_1 = (4, -2)
    assert class_goodness(h, weight, bias, form="direct").tolist() == [[4.0, 10.0]]
    assert class_goodness(h, weight, bias, form="moments").tolist() == [[4.0, 10.0]]


@pytest.mark.parametrize("filters", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape, channel_dim", [((2, 5, 3, 4), 1), ((2, 7, 5), -1), ((2, 5), 1)])
def test_both_forms_agree_in_value_and_gradient(filters, bias, shape, channel_dim):
    torch.manual_seed(0)
    h = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4 * filters, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4 * filters, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [h, weight] + ([b] if bias else [])
    values, gradients = [], []
    for form in ("direct", "moments"):
        g = class_goodness(h, weight, b, filters=filters, form=form, channel_dim=channel_dim)
        assert g.shape == (2, 4)
        values.append(g)
        gradients.append(torch.autograd.grad(g.square().sum(), inputs))
    # float64, sums of at most 21 terms: agreement to about 1e-14, so 1e-10 leaves a margin
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)
    for direct, moments in zip(*gradients, strict=True):
        torch.testing.assert_close(direct, moments, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form, side, classes", [
    ("direct", 2, 4), ("direct", 4, 4), ("direct", 2, 33), ("moments", 2, 4),
])  # fmt: skip
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(form, side, classes, memory_format):
    torch.manual_seed(0)
    h = torch.randn(2, 3, side, side, dtype=torch.float64).to(memory_format=memory_format)
    h.requires_grad_()
    weight = torch.randn(classes, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(classes, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *a: class_goodness(*a, form=form), (h, weight, bias))


def test_forms_agree_in_float32_at_a_real_size():
    torch.manual_seed(0)
    h, weight, bias = torch.randn(4, 64, 16, 16), torch.randn(100, 64, 1, 1), torch.randn(100)
    direct = class_goodness(h, weight, bias, form="direct")
    moments = class_goodness(h, weight, bias, form="moments")
    # float32 keeps 7 digits and each value is a sum over 64·64·256 products: 1e-4 relative
    torch.testing.assert_close(direct, moments, rtol=1e-4, atol=1e-4)


def test_cheaper_form_counts_multiply_adds():
    assert cheaper_form(channels=64, num_filters=1000, positions=1024) == "moments"
    assert cheaper_form(channels=512, num_filters=10, positions=16) == "direct"
    # equal cost, C(N+F) = NF with C=2, N=4, F=4: the simpler one
    assert cheaper_form(channels=2, num_filters=4, positions=4) == "direct"


def test_wide_kernel_keeps_positions_and_rejects_tokens():
    weight = torch.randn(10, 3, 5, 5)
    assert head_activation(torch.randn(2, 3, 7, 6), weight).shape == (2, 10, 7, 6)
    assert class_goodness(torch.randn(2, 3, 7, 6), weight).shape == (2, 10)
    with pytest.raises(ValueError, match="kernel_size=1"):
        class_goodness(torch.randn(2, 3, 7), weight)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_goodness_of_a_sequence_is_that_of_an_image_of_height_one(kernel_size):
    torch.manual_seed(0)
    h, weight, bias = torch.randn(4, 3, 9), torch.randn(10, 3, kernel_size), torch.randn(10)
    image = torch.zeros(10, 3, kernel_size, kernel_size)
    image[:, :, kernel_size // 2] = weight  # other rows would only ever meet padding
    expected = class_goodness(h[:, :, None], image, bias, filters=2, form="direct")
    # Sums of the same 15 products in another order: a few roundings of float32.
    found = class_goodness(h, weight, bias, filters=2, form="direct")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert head_activation(h, weight, bias).shape == (4, 10, 9)
    with pytest.raises(ValueError, match=r"needs \(B, C, L\)"):
        class_goodness(h[:, :, None], torch.randn(10, 3, 3))


def test_goodness_of_a_tables_row_is_one_square_per_class():
    torch.manual_seed(0)
    h, weight, bias = torch.randn(4, 3), torch.randn(5, 3, 1), torch.randn(5)
    expected = (h @ weight[:, :, 0].T + bias).square()
    for form in ("direct", "moments", "auto"):
        # Three products and a square in float32, summed in another order.
        found = class_goodness(h, weight, bias, form=form)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, message", [({"form": "fast"}, "form"), ({"filters": 3}, "filters=3")]
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        class_goodness(torch.randn(2, 3, 4, 4), torch.randn(10, 3, 1, 1), **options)


def test_moments_refuse_a_wide_kernel_and_channels_must_match():
    with pytest.raises(ValueError, match="1×1 kernel"):
        class_goodness(torch.randn(2, 3, 4, 4), torch.randn(10, 3, 3, 3), form="moments")
    for form in ("direct", "moments", "auto"):
        with pytest.raises(ValueError, match="4 channels"):
            class_goodness(torch.randn(2, 4, 4, 4), torch.randn(10, 3, 1, 1), form=form)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 12), st.integers(2, 6), st.data())
@settings(max_examples=30, deadline=None)
def test_direct_and_second_moment_goodness_are_the_same_number(samples, channels, n, classes, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    sizes = ((samples, channels, n), (classes, channels, 1), (classes,))
    h, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    direct = class_goodness(h, weight, bias, form="direct")
    # float64, sums of at most 36 terms
    torch.testing.assert_close(direct, class_goodness(h, weight, bias, form="moments"))
    z = torch.einsum("fc,bcn->bfn", weight[:, :, 0], h) + bias[:, None]
    torch.testing.assert_close(direct, z.square().mean(2))


@given(
    st.lists(st.floats(0, 1e3, width=32), min_size=2, max_size=12),
    st.integers(0, 11),
    st.floats(0, 100),
)
def test_class_loss_is_cross_entropy_a_smooth_margin_and_log_k_at_equal_goodness(values, y, equal):
    g = torch.tensor([values], dtype=torch.float64)
    classes, y = len(values), y % len(values)
    label = torch.tensor([y])
    expected = g.logsumexp(1) - g[:, y]  # -(g_y - log Σ exp g)
    others = torch.cat([g[:, :y], g[:, y + 1 :]], 1).logsumexp(1)
    # float64: numbers up to 1000 keep about 13 digits behind the point
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(class_loss(g, label), expected[0], **close)
    margin = torch.nn.functional.softplus(others - g[:, y])
    torch.testing.assert_close(class_loss(g, label), margin[0], **close)
    one_hot = torch.nn.functional.one_hot(label, classes).double()
    torch.testing.assert_close(class_loss(g, one_hot), expected[0], **close)
    same = class_loss(torch.full_like(g, equal), label)
    assert same.item() == pytest.approx(math.log(classes), abs=1e-9)


def test_gradient_to_the_head_activation_is_2z_p_minus_onehot():
    torch.manual_seed(0)
    z = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    g = z.square().mean((2, 3))
    class_loss(g, torch.tensor([1])).backward()
    p = g.softmax(1) - torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(z.grad, (2 * z * p[:, :, None, None] / 4).detach())


def test_losses_are_log_2_at_the_boundary_and_do_not_overflow():
    at = torch.full((4,), 2.0)
    assert logistic_loss(at, at, theta=2.0).item() == pytest.approx(math.log(2), abs=1e-6)
    assert symba_loss(at, at).item() == pytest.approx(math.log(2), abs=1e-6)  # float32
    huge = torch.tensor([1e30])
    assert torch.isfinite(logistic_loss(huge, -huge, theta=0.0))
    assert logistic_loss(huge, -huge, theta=0.0) == 0
    with pytest.raises(ValueError, match="must be pairs"):
        symba_loss(torch.ones(3), torch.ones(2))
