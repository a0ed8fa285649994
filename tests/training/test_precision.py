"""Precision, layout, compilation: faster, and the same training."""

import shutil
from functools import partial

import pytest
import torch
from torch import nn

from sff_teach.core import LocalBlock
from sff_teach.cut.localize import localize
from sff_teach.data import load
from sff_teach.forward_forward import FFNetwork
from sff_teach.goodness import class_goodness
from sff_teach.models import cnn, mlp
from sff_teach.rules import ScalableForwardForward
from sff_teach.training import precision as accelerating
from sff_teach.training.fit import fit
from tests._helpers import nightly_but

QUIET = {"progress": False, "device": "cpu"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return load("digits", fraction=0.3)


def network(**heads):
    torch.manual_seed(0)
    return localize(cnn(1, (8, 16), pool_after=(1,)), 10, cut="layer", **heads)


def losses(digits, rule="sff", heads=None, **options):
    model = network(**heads or {})
    history = fit(model, digits.train, rule=rule, epochs=3, lr=1e-2, **options, **QUIET)
    assert history.stopped is None
    return model, torch.tensor(history.column("train_loss"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("rule", nightly_but(("sff",), ["sff", "bp", "deepsup"]))
def test_half_precision_trains_like_float32(digits, rule, precision):
    _, full = losses(digits, rule)
    _, half = losses(digits, rule, precision=precision)
    assert not torch.equal(half, full)  # or nothing was in half precision
    # bf16 keeps 8 bits, and three epochs of Adam let the paths part a little
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("heads", [{}, {"kernel_size": 3}, {"hidden": 8}, {"form": "moments"}])
def test_goodness_stays_in_float32(heads):
    model = network(**heads)
    seen = []
    model.blocks[0].body.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, g = model.blocks[0](torch.randn(2, 1, 8, 8))
    assert (seen, g.dtype) == ([torch.bfloat16], torch.float32)
    g.sum().backward()
    if heads.get("hidden"):
        return  # its own convolution is in half precision on purpose
    head = model.blocks[0].head
    kept = class_goodness(h.float(), head.weight, head.bias, form=head.form)
    torch.testing.assert_close(g, kept)  # the same computation: equal to float32 rounding


def test_a_step_with_infinite_gradients_is_left_out(digits):
    model = network()
    learner = ScalableForwardForward(model, lambda p: torch.optim.AdamW(p, lr=1e-2))
    before = [p.clone() for p in model.parameters()]
    x, y = digits.train.x[:32], digits.train.y[:32]
    with accelerating.accelerated(learner, "fp16"):
        scales = [o.scaler.get_scale() for o in learner.optimizers]
        learner.step(x * 1e30, y)  # infinite in fp16
        assert [o.scaler.get_scale() for o in learner.optimizers] == [s / 2 for s in scales]
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert isinstance(learner.optimizers[0], torch.optim.AdamW)


def test_scaling_leaves_the_size_of_the_step_alone(digits):
    """With a scale of 65,536 an optimiser that does not divide it out again would run away."""
    x, y = digits.train.x[:32], digits.train.y[:32]
    moved = []
    for precision in ("float32", "fp16"):
        model = network()
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        learner = ScalableForwardForward(model, lambda p: torch.optim.SGD(p, lr=1e-2))
        with accelerating.accelerated(learner, precision):
            learner.step(x, y)
        moved.append((nn.utils.parameters_to_vector(model.parameters()) - before).norm().item())
    assert moved[1] == pytest.approx(moved[0], rel=0.02)  # fp16 keeps eleven bits


def test_layout_changes_nothing_but_the_order_of_sums(digits):
    _, plain = losses(digits)
    model, last = losses(digits, channels_last=True)
    torch.testing.assert_close(last, plain, rtol=1e-2, atol=1e-3)  # rounding, after some steps
    assert all(p.is_contiguous() for p in model.parameters())


def test_every_block_gets_the_layout_asked_for():
    """Also after the hand-over: one copy per block would eat what the layout gains."""
    model, seen = localize(cnn(3, (8, 16, 8), pool_after=(1,)), 10, cut="layer"), []
    for block in model.blocks:
        block.body.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    images = torch.rand(20, 3, 8, 8), torch.arange(20) % 10
    fit(model, images, epochs=1, channels_last=True, **QUIET)
    steps = seen[-3:]  # after a look at whether the images fit
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in steps)


@pytest.mark.nightly
def test_compiled_bodies_train_the_same(digits, monkeypatch):
    """With a back end that needs no C++ compiler and no minute; torch tests its own."""
    _, plain = losses(digits, heads={"kernel_size": 3})
    original, compiled = nn.Module.compile, []

    def quickly(module):
        compiled.append(module)
        original(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", quickly)
    monkeypatch.setattr(shutil, "which", lambda name: "g++")
    model, fast = losses(digits, heads={"kernel_size": 3}, compile=True)
    assert compiled == [block.body for block in model.blocks]
    torch.testing.assert_close(fast, plain, rtol=1e-2, atol=1e-3)  # other kernels, other rounding


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "fp16"}])
def test_afterwards_the_network_is_its_own_self(digits, options):
    model, _ = losses(digits, **options)
    assert all(type(block).forward is LocalBlock.forward for block in model.blocks)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert model(digits.test.x[:2]).dtype == torch.float32


def test_checkpoints_remember_the_precision(digits, tmp_path):
    file = tmp_path / "a.pt"
    fit(network(), digits.train, epochs=1, precision="bf16", checkpoint=file, **QUIET)
    with pytest.raises(ValueError, match="precision='bf16', not 'float32'"):
        fit(network(), digits.train, epochs=1, checkpoint=file, **QUIET)


def test_going_on_with_fp16_keeps_its_scale(digits, tmp_path, monkeypatch):
    """Uninterrupted and resumed agree to the bit: the scale of the gradients is kept as well."""
    scaler = partial(torch.amp.GradScaler, init_scale=2.0, growth_interval=2)  # changes at once
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    whole, parts = network(), network()
    fit(whole, digits.train, epochs=2, precision="fp16", **QUIET)

    def dies(history):
        raise RuntimeError("killed")

    file = tmp_path / "a.pt"
    options = {"epochs": 2, "precision": "fp16", "checkpoint": file, **QUIET}
    with pytest.raises(RuntimeError, match="killed"):
        fit(parts, digits.train, on_epoch=dies, **options)
    parts = network()
    fit(parts, digits.train, **options)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values()):
        assert torch.equal(a, b)


def test_auto_is_float32_on_a_cpu_and_by_ability_on_a_gpu(monkeypatch):
    assert accelerating.pick_precision("auto", CPU) == "float32"
    for able, name in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, able=able, **__: able)
        assert accelerating.pick_precision("auto", torch.device("cuda")) == name


@pytest.mark.parametrize(
    "options, words",
    [
        ({"precision": "fp8"}, "fp8"),
        ({"precision": "fp16", "rule": "sff-overlap"}, 'use "bf16"'),
        ({"precision": "fp16", "rule": "sff-lookahead"}, 'use "bf16"'),
    ],
)
def test_what_does_not_go_together_is_refused(digits, options, words):
    with pytest.raises(ValueError, match=words):
        fit(network(), digits.train, epochs=1, **options, **QUIET)


def test_forward_forward_has_no_blocks_to_speed_up(digits):
    with pytest.raises(ValueError, match="not for Forward-Forward"):
        layers = FFNetwork(mlp(64, (20, 20)).children(), 10)
        fit(layers, digits.train, rule="ff", epochs=1, precision="bf16", **QUIET)


def test_without_a_compiler_compile_is_one_sentence(digits, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        fit(network(), digits.train, epochs=1, compile=True, **QUIET)
