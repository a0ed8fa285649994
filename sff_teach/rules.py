"""Learning rules: what one minibatch does to a network.

``sff_step`` is Scalable Forward-Forward, the learning rule that the package is about. The classes
give every rule the same form for ``fit``: an object with one method, ``step(x, y)``. ``bp``,
``bp-goodness``, ``deepsup`` and ``sff`` differ in exactly one thing from one to the next: the head,
the number of blocks, the cut.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .core import SFF, GoodnessHead, LinearHead, LocalBlock
from .forward_forward import FFNetwork, ff_step
from .losses import class_loss
from .util.checks import SFFError, check_known

Loss = Callable[[Tensor, Tensor], Tensor]
"""From goodness (B, K) and labels y to a scalar."""


@dataclass(frozen=True)
class StepResult:
    """What a step measured of each block."""

    losses: Tensor  # (blocks,)
    correct: Tensor  # (blocks,) samples judged right; for ff, positive above negative


def summarise(losses: Sequence[Tensor], goodness: Sequence[Tensor], y: Tensor) -> StepResult:
    """Collect what the blocks measured, without their graphs.

    Args:
        losses: a scalar per block.
        goodness: (B, K) per block.
        y: (B,) labels, or (B, K) soft labels, of which the largest counts.
    """
    with torch.no_grad():
        labels = y if y.dim() == 1 else y.argmax(1)
        correct = [(g.argmax(1) == labels).sum() for g in goodness]
        return StepResult(torch.stack(list(losses)), torch.stack(correct))


def sff_step(
    model: SFF,
    x: Tensor,
    y: Tensor,
    optimizers: Sequence[Optimizer] | Optimizer,
    *,
    loss: Loss = class_loss,
) -> StepResult:
    """One minibatch of Scalable Forward-Forward: every block learns before the next one starts.

    Source: Krutsylo 2025. The optimiser is our choice; the paper's is not published.

    Args:
        model: in training mode.
        x: (B, C, ...) samples.
        y: (B,) labels, or (B, K) soft labels.
        optimizers: one per block, as ``block_optimizers`` makes them; or a single one for all
            blocks, which steps after the last block. The update is the same, because a block's
            input is made before its weights change.
        loss: of a block, from its goodness (B, K) and y.

    Raises:
        SFFError: an optimiser has parameters of another block or model.
    """
    if hasattr(optimizers, "step"):
        _check_optimizer(model, optimizers)
        optimizers.zero_grad()
        result = sff_backward(model, x, y, loss=loss)
        optimizers.step()
        return result
    _check_optimizers(model, optimizers)
    losses, goodness = [], []
    for block, optimizer in zip(model.blocks, optimizers, strict=True):
        h, g = block(x)  # (B, C, H, W), (B, K)
        block_loss = loss(g, y)
        optimizer.zero_grad()
        block_loss.backward()  # reaches this block only, and frees its graph
        optimizer.step()
        if block is not model.blocks[-1]:
            x = model.hand_over(block, h)  # cut, normalised: the next block's input
        losses.append(block_loss)
        goodness.append(g)
    return summarise(losses, goodness, y)


def sff_backward(
    model: SFF,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = class_loss,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> StepResult:
    """The gradients of ``sff_step`` without its update: what ``loss.backward()`` is to backprop.

    Gradients are added to ``.grad``. Clipping, accumulation and any optimisers follow as usual.

    Args:
        model: in training mode.
        x: (B, C, ...) samples.
        y: (B,) labels, or (B, K) soft labels.
        loss: of a block, from its goodness (B, K) and y.
        backward: called with each block's loss: a GradScaler's, ``fabric.backward``, Lightning's
            ``self.manual_backward``.
    """
    losses, goodness = [], []
    for block in model.blocks:
        h, g = block(x)
        block_loss = loss(g, y)
        backward(block_loss)  # reaches this block only, and frees its graph
        if block is not model.blocks[-1]:
            x = model.hand_over(block, h)
        losses.append(block_loss)
        goodness.append(g)
    return summarise(losses, goodness, y)


def block_optimizers(
    model: SFF,
    make: Callable[[list[nn.Parameter]], Optimizer],
    *,
    together: bool = False,
) -> list[Optimizer] | Optimizer:
    """Make the optimisers that ``sff_step`` takes.

    Args:
        model: a network of local blocks.
        make: from parameters to an optimiser, e.g. ``lambda p: torch.optim.SGD(p, lr=0.1)``.
        together: one optimiser over all blocks, whose single step is faster than many small ones.
    """
    if together:
        return make(list(model.blocks.parameters()))
    return [make(list(block.parameters())) for block in model.blocks]


def _held(optimizer: Optimizer) -> set[nn.Parameter]:
    return {p for group in optimizer.param_groups for p in group["params"]}


def _check_optimizers(model: SFF, optimizers: Sequence[Optimizer]) -> None:
    """Raise unless there is one optimiser per block, with parameters of that block only."""
    if len(optimizers) != len(model.blocks):
        raise SFFError(f"{len(optimizers)} optimizers for {len(model.blocks)} blocks")
    for number, (block, optimizer) in enumerate(zip(model.blocks, optimizers)):
        if not _held(optimizer) <= set(block.parameters()):
            raise SFFError(
                f"optimizers[{number}] has parameters that are not in block {number}; give one for "
                "each block, in order, as block_optimizers makes them"
            )


def _check_optimizer(model: SFF, optimizer: Optimizer) -> None:
    """Raise if a block that can learn has no parameter in the optimiser."""
    held = _held(optimizer)
    for number, block in enumerate(model.blocks):
        learning = {p for p in block.parameters() if p.requires_grad}
        if learning and not learning & held:
            raise SFFError(f"the optimizer has no parameter of block {number}; give all to it")


def deepsup_step(
    model: SFF, x: Tensor, y: Tensor, optimizer: Optimizer, *, loss: Loss = class_loss
) -> StepResult:
    """Deep supervision: the same blocks, heads and losses, but gradients flow through everything.

    Args:
        model: in training mode.
        x: (B, C, ...) samples.
        y: (B,) labels, or (B, K) soft labels.
        optimizer: for all parameters.
        loss: of a block; the step minimises the sum over the blocks.
    """
    losses, goodness = [], []
    for block in model.blocks:
        h, g = block(x)
        losses.append(loss(g, y))
        goodness.append(g)
        if block is not model.blocks[-1]:
            x = model.hand_over(block, h, local=False)  # normalised, not cut
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    optimizer.step()
    return summarise(losses, goodness, y)


def merge_blocks(model: SFF, head: nn.Module) -> SFF:
    """Turn all blocks into a single one, in place: the same bodies with nothing between them.

    Args:
        model: changed.
        head: for the output of the last body.
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


def wrap_classifier(model: nn.Module, num_classes: int) -> SFF:
    """Wrap a complete classifier, unchanged, as one block, so that ``bp`` can train it.

    Args:
        model: (B, C, ...) → (B, K).
        num_classes: K.
    """
    return SFF([LocalBlock(model, LogitsHead(num_classes))], original=model)


class Rule(ABC):
    """How a network learns from a minibatch.

    Args:
        model: prepared by the rule, see ``prepare``.
        make_optimizer: from parameters to an optimiser; called once per group of ``groups()``.
        label_smoothing: for the class losses.
        generator: randomness of the rule's own, such as negatives.
        together: let ``sff`` use one optimiser for all its blocks, which is faster.
    """

    has_class_loss = True
    needs_goodness = True  # ``bp`` leaves a linear head, which has none

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        label_smoothing: float = 0.0,
        generator: torch.Generator | None = None,
        together: bool = False,
    ):
        if label_smoothing and not self.has_class_loss:
            raise SFFError("label_smoothing has no effect on Forward-Forward, it has no class loss")
        self.model = self.prepare(model)
        self.together = together
        self.optimizers = [make_optimizer(group) for group in self.groups()]
        self.label_smoothing = label_smoothing
        self.generator = generator

    def loss(self, g: Tensor, y: Tensor) -> Tensor:
        """The loss of a block, from its goodness (B, K) and labels y, with label smoothing."""
        return class_loss(g, y, self.label_smoothing)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check the model and bring it, in place, into the shape that the rule trains."""
        if not isinstance(model, SFF):
            raise TypeError(f"model is a {type(model).__name__}; use sff_teach.localize(model, …)")
        linear = any(isinstance(block.head, LinearHead | LogitsHead) for block in model.blocks)
        if linear and self.needs_goodness:
            raise SFFError(
                "model has a linear head, as rule='bp' leaves it; use localize(model.original, …)"
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
        """Learn from samples x (B, C, ...) and labels y (B,), with ``done`` of training over."""


class Backprop(Rule):
    """``bp``: the ordinary network. One block, average pooling, a linear layer, cross-entropy.

    Blocks are joined in place and their heads dropped. A model that ends in its own classifier
    (``wrap_classifier``) keeps it. If the original of a cut model classifies the mean of its last
    features, the linear layer takes the place of its classifier.
    """

    needs_goodness = False

    def prepare(self, model: nn.Module) -> SFF:
        model = super().prepare(model)
        head = model.blocks[-1].head
        if isinstance(head, GoodnessHead):
            like = head.weight
            head = LinearHead(head.channels, head.num_classes, head.channel_dim)
            head = head.to(device=like.device, dtype=like.dtype)
            if model.classifier is not None:  # the original predicts with the same linear layer
                model.original.set_submodule(model.classifier, head.linear)
        return merge_blocks(model, head)

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        return deepsup_step(self.model, x, y, self.optimizers[0], loss=self.loss)


class BackpropGoodness(Backprop):
    """``bp-goodness``: one block again, trained end to end, but judged by the last goodness head.

    What it gains over ``bp`` is the head's doing, not locality's.
    """

    needs_goodness = True

    def prepare(self, model: nn.Module) -> SFF:
        model = Rule.prepare(self, model)
        return merge_blocks(model, model.blocks[-1].head)


class DeepSupervision(Rule):
    """``deepsup``: SFF's blocks, heads and normalisation without the cut."""

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        return deepsup_step(self.model, x, y, self.optimizers[0], loss=self.loss)


class ScalableForwardForward(Rule):
    """``sff``: no gradient crosses a block boundary."""

    def groups(self) -> list[list[nn.Parameter]]:
        """One group per block, or all in one if the blocks go together."""
        if self.together:
            return [list(self.model.blocks.parameters())]
        return [list(block.parameters()) for block in self.model.blocks]

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
        optimizers = self.optimizers[0] if self.together else self.optimizers
        return sff_step(self.model, x, y, optimizers, loss=self.loss)


class ForwardForward(Rule):
    """``ff``: Hinton's Forward-Forward, all layers and the read-out learning on every minibatch."""

    has_class_loss = False

    def prepare(self, model: nn.Module) -> FFNetwork:
        if not isinstance(model, FFNetwork):
            raise TypeError(
                f"model is a {type(model).__name__}; use sff_teach.FFNetwork(layers, …)"
            )
        return model

    def groups(self) -> list[list[nn.Parameter]]:
        """One group per layer, and the read-out for prediction in one pass."""
        return [list(part.parameters()) for part in (*self.model.layers, self.model.readout)]

    def step(self, x: Tensor, y: Tensor, done: float = 0.0) -> StepResult:
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


RULES: dict[str, type[Rule]] = {  # rules_extra adds two more
    "bp": Backprop,
    "bp-goodness": BackpropGoodness,
    "deepsup": DeepSupervision,
    "sff": ScalableForwardForward,
    "ff": ForwardForward,
    "ff-greedy": GreedyForwardForward,
}


def get_rule(name: str) -> type[Rule]:
    """Look a rule up by its name in ``RULES``; an SFFError names the nearest one."""
    check_known(name, RULES, "rule")
    return RULES[name]


from . import rules_extra  # noqa: E402, F401 - adds its two rules to RULES
