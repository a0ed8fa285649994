"""Learning rules: how a network is updated on one minibatch.

``sff_step`` is Scalable Forward-Forward, the learning rule that the package is about. The classes
give ``fit`` the same interface to every rule: an object with one method, ``step(x, y)``. ``bp``,
``bp-goodness``, ``deepsup`` and ``sff`` each differ from the one before in exactly one thing: the
head, the number of blocks, the cut.
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
    """Loss and correct samples of each block in one step."""

    losses: Tensor  # (blocks,)
    correct: Tensor  # (blocks,) correct samples; for ff, those with positive above negative


def summarise(losses: Sequence[Tensor], goodness: Sequence[Tensor], y: Tensor) -> StepResult:
    """Collect the losses and correct samples of all blocks, without their graphs.

    Args:
        losses: a scalar per block.
        goodness: (B, K) per block.
        y: (B,) labels, or (B, K) soft labels, of which the largest counts.
    """
    with torch.no_grad():
        labels = y if y.dim() == 1 else y.argmax(1)
        correct = (torch.stack(list(goodness)).argmax(2) == labels).sum(1)
        return StepResult(torch.stack(list(losses)), correct)


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
            x = model.hand_over(block, h)  # detached, normalised: the next block's input
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
    """The gradients of ``sff_step`` without its update, as ``loss.backward()`` gives backprop's.

    Gradients are added to ``.grad``; clip, accumulate and step as usual.

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
    model: SFF, make: Callable[[list[nn.Parameter]], Optimizer], *, together: bool = False
) -> list[Optimizer] | Optimizer:
    """Make the optimisers that ``sff_step`` takes.

    Args:
        model: a network of local blocks.
        make: from parameters to an optimiser, e.g. ``lambda p: torch.optim.SGD(p, lr=0.1)``.
        together: one optimiser over all blocks, which is faster than many small ones.
    """
    if together:
        return make(list(model.blocks.parameters()))
    return [make(list(block.parameters())) for block in model.blocks]


def _parameters(optimizer: Optimizer) -> set[nn.Parameter]:
    return {p for group in optimizer.param_groups for p in group["params"]}


def _check_optimizers(model: SFF, optimizers: Sequence[Optimizer]) -> None:
    """Raise unless there is one optimiser per block, with parameters of that block only."""
    if len(optimizers) != len(model.blocks):
        raise SFFError(f"{len(optimizers)} optimizers for {len(model.blocks)} blocks")
    for number, (block, optimizer) in enumerate(zip(model.blocks, optimizers)):
        if not _parameters(optimizer) <= set(block.parameters()):
            raise SFFError(
                f"optimizers[{number}] has parameters that are not in block {number}; give one for "
                "each block, in order, as block_optimizers makes them"
            )


def _check_optimizer(model: SFF, optimizer: Optimizer) -> None:
    """Raise if a block that can learn has no parameter in the optimiser."""
    parameters = _parameters(optimizer)
    for number, block in enumerate(model.blocks):
        learning = {p for p in block.parameters() if p.requires_grad}
        if learning and not learning & parameters:
            raise SFFError(f"the optimizer has no parameter of block {number}; give it all")


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
            x = model.hand_over(block, h, local=False)  # normalised, not detached
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    optimizer.step()
    return summarise(losses, goodness, y)


def merge_blocks(model: SFF, head: nn.Module) -> SFF:
    """Merge all blocks into a single one, in place: the same bodies without anything between them.

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
    """The identity, for a model that ends in its own classifier and returns (B, K)."""

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
        generator: of the rule's random numbers, such as negatives.
        together: let ``sff`` use one optimiser for all its blocks, which is faster.
    """

    has_class_loss = True
    needs_goodness = True  # after ``bp`` a model has a linear head instead

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
        """Check the model and change it, in place, into the form that the rule trains."""
        if not isinstance(model, SFF):
            raise TypeError(f"model is a {type(model).__name__}; use sff_teach.localize(model, …)")
        linear = any(isinstance(block.head, LinearHead | LogitsHead) for block in model.blocks)
        if linear and self.needs_goodness:
            raise SFFError(
                "model has a linear head, as rule='bp' leaves it; use localize(model.original, …)"
            )
        return model

    def groups(self) -> list[list[nn.Parameter]]:
        """The parameters of each optimiser; by default one for all."""
        return [list(self.model.parameters())]

    def modules(self) -> dict[str, nn.Module]:
        """The modules whose state a checkpoint keeps."""
        return {"model": self.model}

    def schedule_progress(self, group: int, progress: float) -> float:
        """Where optimiser ``group`` is in its schedule, in [0, 1], at ``progress`` of training."""
        return progress

    @abstractmethod
    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        """Learn from x (B, C, ...) and labels y (B,); ``progress`` is the share of steps done."""


class Backprop(Rule):
    """``bp``: the ordinary network. One block, average pooling, a linear layer, cross-entropy.

    Blocks are merged in place and their heads dropped. A model that ends in its own classifier
    (``wrap_classifier``) keeps it. If the original of a cut model classifies the mean of its last
    features, the linear layer replaces its classifier.
    """

    needs_goodness = False

    def prepare(self, model: nn.Module) -> SFF:
        model = super().prepare(model)
        head = model.blocks[-1].head
        if isinstance(head, GoodnessHead):
            linear = LinearHead(head.channels, head.num_classes, head.channel_dim)
            head = linear.to(device=head.weight.device, dtype=head.weight.dtype)
            if model.classifier is not None:  # the original predicts with the same linear layer
                model.original.set_submodule(model.classifier, head.linear)
        return merge_blocks(model, head)

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        return deepsup_step(self.model, x, y, self.optimizers[0], loss=self.loss)


class BackpropGoodness(Backprop):
    """``bp-goodness``: one block, trained end to end, with the goodness head of the last block.

    Its difference from ``bp`` is the effect of the head alone.
    """

    needs_goodness = True

    def prepare(self, model: nn.Module) -> SFF:
        model = Rule.prepare(self, model)
        return merge_blocks(model, model.blocks[-1].head)


class DeepSupervision(Rule):
    """``deepsup``: SFF's blocks, heads and normalisation without the cut."""

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        return deepsup_step(self.model, x, y, self.optimizers[0], loss=self.loss)


class ScalableForwardForward(Rule):
    """``sff``: no gradient crosses a block boundary."""

    def groups(self) -> list[list[nn.Parameter]]:
        """One group per block, or a single one if ``together``."""
        if self.together:
            return [list(self.model.blocks.parameters())]
        return [list(block.parameters()) for block in self.model.blocks]

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        optimizers = self.optimizers[0] if self.together else self.optimizers
        return sff_step(self.model, x, y, optimizers, loss=self.loss)


class ForwardForward(Rule):
    """``ff``: Hinton's Forward-Forward; all layers and the read-out learn on every minibatch."""

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

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        return self._step(x, y)

    def _step(self, x: Tensor, y: Tensor, only: int | None = None) -> StepResult:
        *layers, readout = self.optimizers
        return StepResult(*ff_step(self.model, x, y, layers, self.generator, readout, only))


class GreedyForwardForward(ForwardForward):
    """``ff-greedy``: the same, layer after layer, each fully trained before the next starts.

    Of all steps, layer k of L gets the k-th share of 1/L, with a whole schedule; the read-out
    learns throughout.
    """

    def schedule_progress(self, group: int, progress: float) -> float:
        """A layer's schedule covers the steps in which it learns."""
        count = len(self.model.layers)
        return min(max(progress * count - group, 0.0), 1.0) if group < count else progress

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        """Update one layer; the layers before it are only run forward."""
        count = len(self.model.layers)
        return self._step(x, y, only=min(int(progress * count), count - 1))


RULES: dict[str, type[Rule]] = {  # rules_extra adds two more
    "bp": Backprop,
    "bp-goodness": BackpropGoodness,
    "deepsup": DeepSupervision,
    "sff": ScalableForwardForward,
    "ff": ForwardForward,
    "ff-greedy": GreedyForwardForward,
}


def get_rule(name: str) -> type[Rule]:
    """The rule of this name in ``RULES``; for another name an SFFError with the nearest one."""
    check_known(name, RULES, "rule")
    return RULES[name]


from . import rules_extra  # noqa: E402, F401 - adds its two rules to RULES
