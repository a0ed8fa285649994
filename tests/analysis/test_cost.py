"""Counts against numbers worked out by hand, and the bars that the course promises."""

import copy
import json
import math
from dataclasses import asdict
from functools import cache

import pytest
import torch
import torchvision
from torch import nn

from sff_teach import GoodnessHead, LocalBlock, cnn, localize
from sff_teach.analysis.cost import (
    PairedTiming,
    TrainingStep,
    flops,
    live_bytes,
    median_interval,
    saved_bytes,
    time_paired,
    training_cost,
)
from sff_teach.analysis.memory import VARIANTS, CheckpointedModule, StorageTracker, watch_saved
from sff_teach.core import SFF
from sff_teach.forward_forward import FFNetwork
from sff_teach.models import mlp

B, C, K, N = 2, 4, 3, 64  # images, channels, classes, positions
FLOAT = 4  # bytes


def tiny(blocks=2):
    torch.manual_seed(0)
    return SFF(
        LocalBlock(
            nn.Sequential(nn.Conv2d(3 if i == 0 else C, C, 3, padding=1), nn.ReLU()),
            GoodnessHead(C, K, form="direct"),
        )
        for i in range(blocks)
    )


def small_batch(channels=3, size=8, images=B, classes=K):
    torch.manual_seed(1)
    return torch.randn(images, channels, size, size), torch.randint(classes, (images,))


# What a tiny block keeps: ReLU's result, the head activation z (its square needs it), and of the
# loss the log-probabilities and one weight. The convolution's input is h again, or the batch.
MAP, Z, LOSS = B * C * N * FLOAT, B * K * N * FLOAT, (B * K + 1) * FLOAT


def test_saved_bytes_by_hand():
    result = training_cost(tiny(), "sff", small_batch())
    first, second = MAP + Z + LOSS, MAP + MAP + Z + LOSS  # the second block keeps its input as well
    assert result.saved_by_block == [first, second]
    assert result.saved == second


def test_summed_losses_keep_every_block():
    sff, summed = (training_cost(tiny(3), rule, small_batch()) for rule in ("sff", "sff-summed"))
    # Each block's loss weight and log-probabilities, maps and z: all of them wait.
    assert summed.saved == sum(sff.saved_by_block)
    assert summed.flops == sff.flops


def test_a_storage_counts_once_however_often_it_is_saved():
    x = torch.ones(100, requires_grad=True)

    def step():
        y = x * 2  # saves nothing but the factor
        (y.exp() * y.view(10, 10).flatten().sin()).sum().backward()

    # y (by sin), exp's result (by exp and by the product), sin's result (by the product)
    assert saved_bytes(step) == 3 * 100 * FLOAT


def test_only_what_waits_at_the_same_time_counts():
    w = torch.ones(1000, requires_grad=True)

    def one():
        w.exp().sum().backward()

    def three_in_turn():
        for _ in range(3):
            one()

    def three_together():
        sum(w.exp().sum() for _ in range(3)).backward()

    size = 1000 * FLOAT
    assert saved_bytes(one, [w]) == saved_bytes(three_in_turn, [w]) == size
    assert saved_bytes(three_together, [w]) == 3 * size


class Chain(nn.Module):
    """Three functions in a row."""

    def forward(self, x):
        return x.exp().sin().cos().sum()


def test_what_checkpointing_recomputes_is_seen():
    w = torch.ones(1000, requires_grad=True)
    plain = saved_bytes(lambda: Chain()(w).backward(), [w])
    recomputed = saved_bytes(lambda: CheckpointedModule(Chain())(w).backward(), [w])
    assert plain == 2 * 1000 * FLOAT  # exp's result, for exp and for sin; sin's result, for cos
    assert recomputed == plain  # nothing waits, but the second run needs it all


def test_a_checkpointed_module_keeps_its_inputs_until_backward():
    w = torch.ones(1000, requires_grad=True)

    def forward_only(layer):
        tracker = StorageTracker([w])
        with watch_saved(tracker):
            x = w * 1
            loss = layer(x)
            del x
            assert loss.requires_grad
            return tracker.now

    assert forward_only(CheckpointedModule(Chain())) == 1000 * FLOAT
    assert forward_only(Chain()) == 2 * 1000 * FLOAT


def test_live_bytes_by_hand():
    w = torch.ones(1000, requires_grad=True)

    def step():
        w.grad = None
        w.exp().sum().backward()  # at the end: exp's result, sum's 2 scalars, exp's gradient = w's

    # The old gradient goes first. Then exp (4,000) and its sum (4) wait while backward makes the
    # seed (4; expanded, not copied) and the product (4,000).
    assert live_bytes(step, [w]) == 2 * 1000 * FLOAT + 2 * FLOAT
    assert live_bytes(step, [w]) >= saved_bytes(step, [w])


def test_flops_of_a_convolution_by_formula():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    x = torch.randn(2, 3, 8, 8)
    forward = 2 * 2 * (5 * 8 * 8) * (3 * 3 * 3)  # 2 per multiply-add · images · outputs · inputs
    assert flops(lambda: conv(x)) == forward
    assert flops(lambda: conv(x).sum().backward()) == 2 * forward  # no gradient to the image
    x.requires_grad_()
    assert flops(lambda: conv(x).sum().backward()) == 3 * forward


def test_sff_leaves_out_the_gradient_to_every_blocks_input():
    batch = small_batch()
    first, other = (2 * B * N * C * 9 * channels for channels in (3, C))  # of the 3×3 convolutions
    head = 2 * B * N * K * C
    sff, deepsup = (training_cost(tiny(3), rule, batch).flops for rule in ("sff", "deepsup"))
    assert sff == 2 * first + 2 * 2 * other + 3 * 3 * head
    assert deepsup == 2 * first + 2 * 3 * other + 3 * 3 * head


@pytest.mark.parametrize("rule", [r for r in VARIANTS if not r.startswith("ff")])
def test_every_rule_is_counted_the_same_twice(rule):
    model = localize(cnn(widths=(4, 8), pool_after=(1,)), K, cut="layer", input_shape=(1, 8, 8))
    before = copy.deepcopy(model.state_dict())
    batch = small_batch(channels=1, images=8)
    one, two = (training_cost(model, rule, batch) for _ in range(2))
    assert one == two
    assert one.saved == max(one.saved_by_block) <= one.live
    assert one.flops > 0 and one.cuda is None
    assert json.loads(json.dumps(asdict(one)))["rule"] == rule
    for name, value in model.state_dict().items():  # a copy was trained
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("rule", ["ff", "ff-greedy"])
def test_forward_forward_is_counted_too(rule):
    network = FFNetwork(mlp(64, (16, 8)).children(), K)
    result = training_cost(network, rule, small_batch(channels=1))
    assert len(result.saved_by_block) == 2 and result.saved > 0


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="bp-checkpoint"):
        training_cost(tiny(), "bp-checkpont", small_batch())


def test_pairs_are_timed_in_turn_the_steps_and_swaps_their_order(monkeypatch):
    now, order = 0.0, []

    def step(name, duration):
        def run():
            nonlocal now
            order.append(name)
            now += duration

        return run

    monkeypatch.setattr("time.perf_counter", lambda: now)
    result = time_paired(step("a", 2.0), step("b", 3.0), rounds=6)
    assert result == PairedTiming(a=2.0, b=3.0, ratio=1.5, low=1.5, high=1.5, rounds=6)
    assert order == ["b", "a", "a", "b"] * 3 + ["b", "a"]


def test_median_interval_holds_with_the_probability_it_claims():
    assert all(math.isnan(v) for v in median_interval(range(5)))  # 2 · 0.5⁵ = 6 % outside
    assert median_interval([3, 1, 2, 6, 5, 4]) == (1, 6)  # 2 · 0.5⁶ = 3 % outside
    low, high = median_interval(range(1, 21))
    outside = 2 * sum(math.comb(20, i) for i in range(low)) / 2**20  # fewer than `low` below it
    assert (low, high) == (6, 15) and outside <= 0.05
    assert 2 * sum(math.comb(20, i) for i in range(low + 1)) / 2**20 > 0.05  # the narrowest


# --- the bars ------------------------------------------------------------------------------------


@cache
def resnet_counts(rule, classes):
    """FLOPs of one step per image and peak bytes at batch 32, ResNet18 on 32×32: exact counts."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=classes)
    model = localize(network, classes, cut="block", stem="small", input_shape=(3, 32, 32))
    assert len(model.blocks) == 9
    model = model.to("meta")  # shapes are all that is counted
    x, y = (t.to("meta") for t in small_batch(size=32, images=32, classes=classes))
    step, small_step = (TrainingStep(model, rule, (x[:n], y[:n])) for n in (32, 2))
    if rule == "sff-recompute":
        small_step(), step()  # the first one looks for the cuts
    return flops(small_step) / 2, saved_bytes(step, step.preexisting_tensors)


@pytest.mark.parametrize(
    "classes, rule, most_flops, most_saved",
    [
        (10, "sff", 0.86, 0.29),
        (10, "sff-recompute", 1.00, 0.20),
        pytest.param(100, "sff", 0.90, 0.36, marks=pytest.mark.nightly),
        pytest.param(1000, "sff", 1.06, 0.40, marks=pytest.mark.nightly),
    ],
)
def test_resnet18_stays_under_the_bars(classes, rule, most_flops, most_saved):
    operations, saved = resnet_counts(rule, classes)
    bp_operations, bp_saved = resnet_counts("bp", classes)
    assert operations / bp_operations <= most_flops
    assert saved / bp_saved <= most_saved
