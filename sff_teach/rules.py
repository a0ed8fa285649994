"""Learning rules: what one minibatch does to a network.

Every rule is an object with one method, ``step(x, y)``; the rule itself is a plain function that
fits on a screen. ``bp``, ``bp-goodness``, ``deepsup`` and ``sff`` differ in exactly one thing from
one to the next: the head, the number of blocks, the cut.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .core import SFF, GoodnessHead, LinearHead, LocalBlock
from .forward_forward import FFNetwork, ff_step
from .losses import class_loss
from .util.checks import check_known, check_samples, explained


@dataclass(frozen=True)
class StepResult:
    """What a step measured, per block: ``losses`` (blocks,) and ``correct`` (blocks,) samples.

    For ``ff``, ``correct`` counts the samples whose positive has more goodness than its negative.
    """

    losses: Tensor
    correct: Tensor


@explained(x=check_samples)
def sff_step(
    model: SFF, x: Tensor, y: Tensor, optimizers: Sequence[Optimizer], label_smoothing: float = 0.0
) -> StepResult:
    """One minibatch of Scalable Forward-Forward: every block learns before the next one starts.

    Args:
        model: in training mode. x: (B, C, H, W). y: (B,) labels.
        optimizers: one per block, over that block's parameters.

    Source: Krutsylo 2025. The optimiser is our choice; the paper's is not published.
    """
    losses, correct = [], []
    for block, optimizer in zip(model.blocks, optimizers, strict=True):
        h, g = block(x)  # (B, C, H, W), (B, K)
        loss = class_loss(g, y, label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # reaches this block only, and frees its graph
        optimizer.step()
        x = model.hand_over(block, h)  # cut, normalised: the next block's input
        losses.append(loss)
        correct.append((g.argmax(1) == y).sum())
    with torch.no_grad():
        return StepResult(torch.stack(losses), torch.stack(correct))


@explained(x=check_samples)
def deepsup_step(
    model: SFF, x: Tensor, y: Tensor, optimizer: Optimizer, label_smoothing: float = 0.0
) -> StepResult:
    """Deep supervision: the same blocks, heads and losses, but gradients flow through everything.

    Args as in ``sff_step``, with one optimiser for all parameters; the losses are summed.
    """
    losses, correct = [], []
    for block in model.blocks:
        h, g = block(x)
        losses.append(class_loss(g, y, label_smoothing))
        correct.append((g.argmax(1) == y).sum())
        x = model.hand_over(block, h, local=False)  # normalised, not cut
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    optimizer.step()
    with torch.no_grad():
        return StepResult(torch.stack(losses), torch.stack(correct))


@explained(x=check_samples)
def overlap_step(
    model: SFF, x: Tensor, y: Tensor, optimizers: Sequence[Optimizer], label_smoothing: float = 0.0
) -> StepResult:
    """One minibatch of SFF in which a block's loss also updates the block before it, no further.

    Block k learns from ``loss_k + loss_{k+1}``: it waits until the next block has sent the gradient
    of its own loss back over the boundary. Two blocks' graphs are alive at a time.

    Args as in ``sff_step``.

    Source: overlapping local updates, Laskin et al. (2020); with Forward-Forward, Dooms et al.
    (2023). The paper's SFF has none.
    """
    losses, correct = [], []

    def learn(block: LocalBlock, optimizer: Optimizer, roots: list[Tensor], grads: list) -> None:
        optimizer.zero_grad()
        pairs = [(root, grad) for root, grad in zip(roots, grads) if root.requires_grad]
        learning = [p for p in block.parameters() if p.requires_grad]  # the others are frozen
        torch.autograd.backward(*zip(*pairs), inputs=learning)
        optimizer.step()

    waiting = None
    for block, optimizer in zip(model.blocks, optimizers, strict=True):
        h, g = block(x)
        loss = class_loss(g, y, label_smoothing)
        if waiting:
            loss.backward(retain_graph=True, inputs=[x])  # x.grad: of this loss alone
            previous, its_optimizer, its_loss, its_output = waiting
            learn(previous, its_optimizer, [its_loss, its_output], [None, x.grad])
        waiting = (block, optimizer, loss, model.hand_over(block, h, local=False))
        x = model.hand_over(block, h).requires_grad_()
        losses.append(loss)
        correct.append((g.argmax(1) == y).sum())
    learn(*waiting[:2], [waiting[2]], [None])
    with torch.no_grad():
        return StepResult(torch.stack(losses), torch.stack(correct))


@explained()
def merge_blocks(model: SFF, head: nn.Module) -> SFF:
    """Turn all blocks into a single one with the given head, in place.

    The bodies stay the same objects, in order, with nothing between them: an ordinary network.
    """
    bodies = [block.body for block in model.blocks]
    body = bodies[0] if len(bodies) == 1 else nn.Sequential(*bodies)
    model.blocks = nn.ModuleList([LocalBlock(body, head)])
    model.vote_weights = model.vote_weights.new_ones(1)
    return model


class LogitsHead(nn.Module):
    """For a model that ends in its own classifier: what it returns already is (B, K)."""

    channel_dim = 1

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, h: Tensor) -> Tensor:
        """(B, K) → (B, K)."""
        return h


@explained()
def wrap_classifier(model: nn.Module, num_classes: int) -> SFF:
    """Wrap a complete classifier, unchanged, as one block, so that ``bp`` can train it."""
    return SFF([LocalBlock(model, LogitsHead(num_classes))], original=model)


class Rule(ABC):
    """How a network learns from a minibatch.

    Args:
        model: prepared by the rule, see ``prepare``.
        make_optimizer: from parameters to an optimiser; called once per group of ``groups()``.
        label_smoothing: for the class losses.
        generator: randomness of the rule's own, such as negatives.
    """

    has_class_loss = True

    def __init_subclass__(cls):
        explained(x=check_samples)(cls)  # its steps fail in one sentence

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        label_smoothing: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        if label_smoothing and not self.has_class_loss:
            raise ValueError(
                f"label_smoothing={label_smoothing:g} has no effect on Forward-Forward, whose loss "
                "has no classes; leave it out."
            )
        self.model = self.prepare(model)
        self.optimizers = [make_optimizer(group) for group in self.groups()]
        self.label_smoothing, self.generator = label_smoothing, generator

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check the model and bring it, in place, into the shape that the rule trains."""
        if not isinstance(model, SFF):
            raise TypeError(
                f"model is a {type(model).__name__}, but this rule trains local blocks; "
                "pass sff_teach.localize(model, num_classes)."
            )
        return model

    def groups(self) -> list[list[nn.Parameter]]:
        """Parameters by optimiser: all in one, unless the rule says otherwise."""
        return [list(self.model.parameters())]

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint has to keep besides the optimisers."""
        return {"model": self.model}

    def progress(self, group: int, done: float) -> float:
        """How far optimiser ``group`` is in its schedule when ``done`` of all steps are over."""
        return done

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch; ``done`` in [0, 1) says how much of training is over."""


class Backprop(Rule):
    """``bp``: the ordinary network. One block, average pooling, a linear layer, cross-entropy.

    Blocks are joined in place and their heads dropped. A model that ends in its own classifier
    (``whole``) keeps it.
    """

    def prepare(self, model: nn.Module) -> SFF:
        model = super().prepare(model)
        head = model.blocks[-1].head
        if isinstance(head, GoodnessHead):
            like = head.weight
            head = LinearHead(head.channels, head.num_classes, head.channel_dim)
            head = head.to(device=like.device, dtype=like.dtype)
        return merge_blocks(model, head)

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch by end-to-end backprop."""
        return deepsup_step(self.model, x, y, self.optimizers[0], self.label_smoothing)


class BackpropGoodness(Backprop):
    """``bp-goodness``: one block again, trained end to end, but judged by the last goodness head.

    What it gains over ``bp`` is the head's doing, not locality's.
    """

    def prepare(self, model: nn.Module) -> SFF:
        model = _require_goodness_heads(Rule.prepare(self, model))
        return merge_blocks(model, model.blocks[-1].head)


def _require_goodness_heads(model: SFF) -> SFF:
    """Refuse a network that ``bp`` has joined: training it "locally" would be backprop by name."""
    if any(isinstance(block.head, LinearHead | LogitsHead) for block in model.blocks):
        raise ValueError(
            "model has a linear head, as rule='bp' leaves it, and no local goodness to learn from; "
            "cut it again with localize(model.original, num_classes)."
        )
    return model


class DeepSupervision(Rule):
    """``deepsup``: SFF's blocks, heads and normalisation without the cut."""

    def prepare(self, model: nn.Module) -> SFF:
        return _require_goodness_heads(super().prepare(model))

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch by end-to-end backprop of all blocks' losses."""
        return deepsup_step(self.model, x, y, self.optimizers[0], self.label_smoothing)


class ScalableForwardForward(Rule):
    """``sff``: one optimiser per block, and no gradient crosses a block boundary."""

    def prepare(self, model: nn.Module) -> SFF:
        return _require_goodness_heads(super().prepare(model))

    def groups(self) -> list[list[nn.Parameter]]:
        """One group per block."""
        return [list(block.parameters()) for block in self.model.blocks]

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch, block by block."""
        return sff_step(self.model, x, y, self.optimizers, self.label_smoothing)


class OverlappingSFF(ScalableForwardForward):
    """``sff-overlap``: a block's loss also updates the block before it."""

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch, each block from its own loss and the next one's."""
        return overlap_step(self.model, x, y, self.optimizers, self.label_smoothing)


class LookaheadSFF(ScalableForwardForward):
    """``sff-lookahead``: block k also learns what helps a moving average of block k+1.

    ``loss = loss_k + cross-entropy(goodness of average_{k+1}(h_k), y)``; the average is frozen in
    this step and follows its block by ``average ← 0.9 average + 0.1 block``. In contrast to
    ``sff-overlap`` no gradient comes from the next block itself, so blocks need not wait.
    """

    decay = 0.9

    def prepare(self, model: nn.Module) -> SFF:
        model = super().prepare(model)
        self.averages = copy.deepcopy(model.blocks[1:]).requires_grad_(False).train()
        return model

    def modules(self) -> dict[str, nn.Module]:
        """The averages as well."""
        return {"model": self.model, "averages": self.averages}

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch, block by block."""
        losses, correct = [], []
        blocks = list(zip(self.model.blocks, self.optimizers, [*self.averages, None], strict=True))
        for block, optimizer, ahead in blocks:
            h, g = block(x)
            loss = total = class_loss(g, y, self.label_smoothing)
            if ahead is not None:
                _, g_ahead = ahead(self.model.hand_over(block, h, local=False))
                total = loss + class_loss(g_ahead, y, self.label_smoothing)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            x = self.model.hand_over(block, h)
            losses.append(loss)
            correct.append((g.argmax(1) == y).sum())
        with torch.no_grad():
            for average, block in zip(self.averages, self.model.blocks[1:], strict=True):
                for a, p in zip(average.parameters(), block.parameters(), strict=True):
                    a.lerp_(p, 1 - self.decay)
            return StepResult(torch.stack(losses), torch.stack(correct))


class ForwardForward(Rule):
    """``ff``: Hinton's Forward-Forward, all layers and the read-out learning on every minibatch."""

    has_class_loss = False

    def prepare(self, model: nn.Module) -> FFNetwork:
        if not isinstance(model, FFNetwork):
            raise TypeError(
                f"model is a {type(model).__name__}, but Forward-Forward trains layers on labelled "
                "images; pass sff_teach.FFNetwork(layers, num_classes)."
            )
        return model

    def groups(self) -> list[list[nn.Parameter]]:
        """One group per layer, and the read-out for prediction in one pass."""
        return [list(part.parameters()) for part in (*self.model.layers, self.model.readout)]

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Learn from one minibatch: a positive and a negative pass through every layer."""
        return self._step(x, y)

    def _step(self, x: Tensor, y: Tensor, only: int | None = None) -> StepResult:
        *layers, readout = self.optimizers
        return StepResult(*ff_step(self.model, x, y, layers, self.generator, readout, only))


class GreedyForwardForward(ForwardForward):
    """``ff-greedy``: the same, layer after layer, each trained to the end before the next starts.

    Of all steps, layer k of L gets the k-th share of 1/L, with a whole schedule to itself; the
    read-out learns throughout.
    """

    def progress(self, group: int, done: float) -> float:
        """A layer's schedule starts when its turn does and ends with it."""
        count = len(self.model.layers)
        return min(max(done * count - group, 0.0), 1.0) if group < count else done

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        """Update the one layer whose turn it is; the layers before it only pass forward."""
        count = len(self.model.layers)
        return self._step(x, y, only=min(int(done * count), count - 1))


RULES: dict[str, type[Rule]] = {
    "bp": Backprop,
    "bp-goodness": BackpropGoodness,
    "deepsup": DeepSupervision,
    "sff": ScalableForwardForward,
    "sff-overlap": OverlappingSFF,
    "sff-lookahead": LookaheadSFF,
    "ff": ForwardForward,
    "ff-greedy": GreedyForwardForward,
}


def get_rule(name: str) -> type[Rule]:
    """Look a rule up by name; ``ValueError`` names the nearest one if it is unknown."""
    check_known(name, RULES, "rule")
    return RULES[name]
