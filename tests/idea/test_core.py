"""The idea itself: heads, blocks, the hand-over, and that no gradient crosses a boundary."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import sff_teach
from sff_teach.core import SFF, GoodnessHead, LinearHead, LocalBlock, hand_over
from sff_teach.losses import class_loss

PACKAGE = Path(sff_teach.__file__).parent
LEARNING = (
    "goodness.py",
    "losses.py",
    "core.py",
    "heads.py",
    "_graph.py",
    "split.py",
    "forward_forward.py",
    "rules.py",
    "train.py",
)  # where gradients flow; sff_minimal.py stands alone, with its own single cut


def make_model(widths=(4, 6, 8), classes=3, **options):
    torch.manual_seed(0)
    blocks, channels = [], 2
    for width in widths:
        body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks.append(LocalBlock(body, GoodnessHead(width, classes)))
        channels = width
    return SFF(blocks, **options)


def test_the_idea_stays_small_and_cuts_in_one_place():
    assert len((PACKAGE / "core.py").read_text().splitlines()) <= 200
    cuts = [
        (path.name, node.func.attr)
        for path in map(PACKAGE.joinpath, LEARNING)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("detach", "detach_")
    ]
    assert cuts == [("core.py", "detach")]
    tree = ast.parse((PACKAGE / "rules.py").read_text())
    rule = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "sff_step")
    body = rule.body[1:]  # without the docstring
    assert body[-1].end_lineno - body[0].lineno + 1 <= 20


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_blocks_loss_reaches_no_other_block(block):
    model = make_model()
    x, y = torch.randn(5, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    goodness = []
    for each in model.blocks:
        h, g = each(x)
        goodness.append(g)
        x = model.hand_over(each, h)
    class_loss(goodness[block], y).backward()
    for k, each in enumerate(model.blocks):
        reached = [p.grad is not None for p in each.parameters()]
        assert all(reached) if k == block else not any(reached)


def test_without_the_cut_the_loss_reaches_every_block():
    model = make_model()
    x = torch.randn(5, 2, 8, 8)
    for block in model.blocks:
        h, g = block(x)
        x = model.hand_over(block, h, local=False)
    class_loss(g, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert all(p.grad is not None for b in model.blocks for p in b.body.parameters())


def test_hand_over_normalises_as_named():
    torch.manual_seed(0)
    h = torch.randn(4, 6, 5, 5) * 3 + 1
    # LayerNorm adds 1e-5 to the variance, so unit variance holds to about 1e-5
    whole = hand_over(h, "all")
    torch.testing.assert_close(whole.mean((1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.var((1, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)
    channels = hand_over(h, "channels")
    torch.testing.assert_close(channels.mean(1), torch.zeros(4, 5, 5), atol=1e-5, rtol=0)
    length = hand_over(h, "length")
    torch.testing.assert_close(length.square().mean((1, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    ratio = length / h
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))  # direction is kept
    assert torch.equal(hand_over(h, "none"), h)
    with pytest.raises(ValueError, match='did you mean "length"'):
        hand_over(h, "len")
    tokens = h.flatten(2).transpose(1, 2)  # (B, N, C)
    torch.testing.assert_close(
        hand_over(tokens, "channels", channel_dim=-1), channels.flatten(2).transpose(1, 2)
    )


def test_hand_over_cuts_only_when_local():
    h = torch.randn(2, 3, 4, 4, requires_grad=True)
    for normalise in ("all", "channels", "length", "none"):
        assert not hand_over(h, normalise).requires_grad
        assert hand_over(h, normalise, local=False).requires_grad


def test_votes():
    model = make_model()
    goodness = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    assert model.combine(goodness).argmax().item() == 0
    assert model.combine(goodness, "last").argmax().item() == 1
    assert make_model(vote="last").combine(goodness).argmax().item() == 1


def test_shapes_predict_and_an_evaluation_changes_nothing():
    model = make_model().eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 2, 8, 8)
    assert model.block_goodness(x).shape == (5, 3, 3)
    assert model(x).shape == (5, 3)
    assert torch.equal(model.predict(x), model(x).argmax(1))
    assert model.num_classes == 3
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_original_is_not_registered_twice():
    original = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1))
    model = SFF([LocalBlock(original, GoodnessHead(4, 3))], original=original)
    assert model.original is original
    assert not any(name.startswith("_original") for name in model.state_dict())
    twin = copy.deepcopy(model)
    assert twin.original is twin.blocks[0].body  # the copy's original is the copy's own


def test_linear_head_is_pool_and_linear():
    head = LinearHead(4, 3)
    h = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(head(h), head.linear(h.mean((2, 3))))
    torch.testing.assert_close(head(h[:, :, 0, 0]), head.linear(h[:, :, 0, 0]))  # a vector (B, C)


def test_head_gives_the_evidence_map_of_its_goodness():
    head = GoodnessHead(4, 3, kernel_size=3)
    h = torch.randn(2, 4, 5, 5)
    z = head.activation(h)
    assert z.shape == (2, 3, 5, 5)
    torch.testing.assert_close(head(h), z.square().mean((2, 3)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GoodnessHead(4, 3, kernel_size=2), "kernel_size is 2; use an odd number"),
        (lambda: GoodnessHead(4, 1), "at least two classes"),
        (lambda: SFF([]), "blocks is empty"),
        (lambda: make_model(normalise="batch"), 'unknown normalise "batch"'),
        (lambda: make_model(vote="first"), 'unknown vote "first"'),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
