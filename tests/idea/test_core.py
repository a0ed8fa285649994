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
from sff_teach.util.checks import SFFError

PACKAGE = Path(sff_teach.__file__).parent


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


def test_one_place_cuts_between_blocks():
    cuts = [
        path.name
        for path in PACKAGE.glob("*.py")
        if path.name != "sff_minimal.py"  # stands alone, with its own single cut
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("detach", "detach_")
    ]
    assert cuts == ["core.py"]


class Broken(nn.Module):
    """A user's module with a mistake of her own."""

    def __init__(self, mistake):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.mistake = mistake

    def forward(self, x):
        return self.mistake(x * self.weight)


def key_error(h):
    return {"wrong": h}["h"]


def assertion_error(h):
    raise AssertionError("my own check")  # pytest would reword an assert


def shape_error(h):
    return h @ torch.ones(3, 5)


def value_error(h):
    raise ValueError("mine")


@pytest.mark.parametrize("mistake", [key_error, assertion_error, shape_error, value_error])
@pytest.mark.parametrize("door", ["block", "step", "fit", "evaluate"])
def test_an_error_in_a_users_block_reaches_her_unchanged(mistake, door):
    model = SFF([LocalBlock(Broken(mistake), GoodnessHead(2, 3))])
    x, y = torch.randn(6, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    with pytest.raises(Exception) as own:
        mistake(x)
    optimizers = sff_teach.block_optimizers(model, lambda p: torch.optim.SGD(p, lr=0.1))
    doors = {
        "block": lambda: model.blocks[0](x),
        "step": lambda: sff_teach.sff_step(model, x, y, optimizers),
        "fit": lambda: sff_teach.fit(model, (x, y), epochs=1, progress=False),
        "evaluate": lambda: sff_teach.evaluate(model, (x, y)),
    }
    with pytest.raises(Exception) as caught:
        doors[door]()
    assert type(caught.value) is type(own.value)
    assert mistake is shape_error or str(caught.value) == str(own.value)  # torch names the sizes
    assert caught.traceback[-1].name == mistake.__name__  # her line is the last frame
    assert caught.value.__cause__ is None


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
    with pytest.raises(ValueError, match="'length'"):
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
    by_depth = make_model(vote="depth").combine(goodness)
    depth = range(1, 1 + goodness.shape[1])
    expected = sum(b * goodness[:, b - 1] for b in depth) / sum(depth)
    torch.testing.assert_close(by_depth, expected)


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
        (lambda: GoodnessHead(4, 3, kernel_size=2), "kernel_size"),
        (lambda: GoodnessHead(4, 1), "num_classes"),
        (lambda: SFF([]), "blocks"),
        (lambda: make_model(normalise="batch"), "normalise"),
        (lambda: make_model(vote="first"), "vote"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(SFFError, match=message):
        make()
