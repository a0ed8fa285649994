"""Two variants of SFF that also train a block on the loss of the next one; not in the paper.

Importing this module adds them to ``rules.RULES``. See results/closing_the_gap.md.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .core import SFF, LocalBlock
from .losses import class_loss
from .rules import RULES, Loss, ScalableForwardForward, StepResult, summarise


def overlap_step(
    model: SFF, x: Tensor, y: Tensor, optimizers: Sequence[Optimizer], *, loss: Loss = class_loss
) -> StepResult:
    """One minibatch of SFF in which a block's loss also updates the block before it.

    Block k learns from ``loss_k + loss_{k+1}``. Two blocks' graphs are alive at a time.

    Source: overlapping local updates, Laskin et al. (2020); with Forward-Forward, Dooms et al.
    (2023).

    Args:
        model: in training mode.
        x: (B, C, ...) samples.
        y: (B,) labels.
        optimizers: one per block.
        loss: of a block, from its goodness (B, K) and y.
    """
    losses, goodness = [], []
    previous = None  # of the block before: its loss, and its output with the graph
    for number, block in enumerate(model.blocks):
        h, g = block(x)
        block_loss = loss(g, y)
        if previous is not None:
            block_loss.backward(retain_graph=True, inputs=[x])  # x.grad: of this loss alone
            _update(model.blocks[number - 1], optimizers[number - 1], *previous, x.grad)
        previous = block_loss, model.hand_over(block, h, local=False)
        x = model.hand_over(block, h).requires_grad_()
        losses.append(block_loss)
        goodness.append(g)
    _update(model.blocks[-1], optimizers[-1], *previous, None)
    return summarise(losses, goodness, y)


def _update(
    block: LocalBlock, optimizer: Optimizer, loss: Tensor, output: Tensor, gradient: Tensor | None
) -> None:
    """Update a block by its loss and, if given, by the gradient at its output."""
    roots = [(loss, None)] if gradient is None else [(loss, None), (output, gradient)]
    roots = [(root, grad) for root, grad in roots if root.requires_grad]  # a body may be frozen
    optimizer.zero_grad()
    torch.autograd.backward(*zip(*roots), inputs=[p for p in block.parameters() if p.requires_grad])
    optimizer.step()


class OverlappingSFF(ScalableForwardForward):
    """``sff-overlap``: a block's loss also updates the block before it."""

    def groups(self) -> list[list[nn.Parameter]]:
        """One group per block."""
        return [list(block.parameters()) for block in self.model.blocks]

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        """Train each block on its own loss and the next one's."""
        return overlap_step(self.model, x, y, self.optimizers, loss=self.loss)


class LookaheadSFF(OverlappingSFF):
    """``sff-lookahead``: block k also learns from the loss of a moving average of block k+1.

    ``loss = loss_k + cross-entropy(goodness of average_{k+1}(h_k), y)``; the average is frozen in
    this step and follows its block by ``average ← 0.9 average + 0.1 block``.
    """

    decay = 0.9

    def prepare(self, model: nn.Module) -> SFF:
        model = super().prepare(model)
        self.averages = copy.deepcopy(model.blocks[1:]).requires_grad_(False).train()
        return model

    def modules(self) -> dict[str, nn.Module]:
        """The model, and the averages."""
        return {"model": self.model, "averages": self.averages}

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        losses, goodness = [], []
        following = [*self.averages, None]
        for block, optimizer, average in zip(self.model.blocks, self.optimizers, following):
            h, g = block(x)
            total = loss = self.loss(g, y)
            if average is not None:
                _, g_ahead = average(self.model.hand_over(block, h, local=False))
                total = loss + self.loss(g_ahead, y)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            x = self.model.hand_over(block, h)
            losses.append(loss)
            goodness.append(g)
        self._update_averages()
        return summarise(losses, goodness, y)

    @torch.no_grad()
    def _update_averages(self) -> None:
        for average, block in zip(self.averages, self.model.blocks[1:], strict=True):
            for a, p in zip(average.parameters(), block.parameters(), strict=True):
                a.lerp_(p, 1 - self.decay)


RULES["sff-overlap"] = OverlappingSFF
RULES["sff-lookahead"] = LookaheadSFF
