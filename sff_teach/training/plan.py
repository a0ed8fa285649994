"""Which blocks go to which process: measured costs, and the best way to share them out."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import itemgetter

import torch
from torch import Tensor

from ..core import SFF
from ..losses import class_loss
from ..util.checks import SFFError, check_count
from .config import TrainConfig
from .prepare import optimizer_maker


def balance(seconds: Sequence[float], processes: int) -> list[int]:
    """Share blocks out in order so that the slowest process has the least to do.

    Args:
        seconds: per block, or any other cost.
        processes: how many; each gets at least one block.

    Returns:
        processes + 1 positions: process r has the blocks from ``[r]`` up to ``[r + 1]``.

    Raises:
        SFFError: more processes than blocks, or none.
    """
    check_count(processes, "processes")
    if processes > len(seconds):
        raise SFFError(
            f"processes={processes} is more than the {len(seconds)} blocks; cut the network into "
            "more blocks"
        )

    @cache
    def best(start: int, parts: int) -> tuple[float, list[int]]:
        """The slowest part's seconds, and the cuts, of the blocks from ``start`` on."""
        if parts == 1:
            return sum(seconds[start:]), [len(seconds)]
        plans = []
        for cut in range(start + 1, len(seconds) - parts + 2):
            slowest, cuts = best(cut, parts - 1)
            plans.append((max(sum(seconds[start:cut]), slowest), [cut, *cuts]))
        return min(plans, key=itemgetter(0))

    return [0, *best(0, processes)[1]]


def best_ratio(seconds: Sequence[float], plan: Sequence[int]) -> float:
    """How much faster than one process the plan can be at best: all seconds ÷ the slowest's.

    Args:
        seconds: per block.
        plan: from ``balance``.
    """
    return sum(seconds) / max(sum(seconds[a:b]) for a, b in pairwise(plan))


@dataclass(frozen=True)
class BlockCosts:
    """What a training step measured on a model's copy.

    Attributes:
        seconds: per block, the fastest of some rounds.
        shapes: of one sample: of the input, then of every block's output.
        strides: of the same.
    """

    seconds: list[float]
    shapes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]]


def measure_blocks(
    model: SFF,
    x: Tensor,
    y: Tensor,
    *,
    rounds: int = 8,
    limit: float = 2.0,
    threads: int = 1,
) -> BlockCosts:
    """Time a training step of every block on one batch; nothing in the model changes.

    Args:
        model: the network.
        x: (B, C, ...), laid out as in training.
        y: (B,).
        rounds: at most; after ``limit`` seconds three are enough.
        limit: in seconds.
        threads: of torch, while measuring.
    """
    model = copy.deepcopy(model).train()
    make = optimizer_maker(TrainConfig(), torch.device("cpu"))
    optimizers = [make(block.parameters()) for block in model.blocks]
    fastest = [float("inf")] * len(model.blocks)
    before, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            for count in range(rounds):
                outputs = [x]
                for k, (block, optimizer) in enumerate(zip(model.blocks, optimizers, strict=True)):
                    start = time.perf_counter()
                    h, g = block(outputs[-1])
                    outputs.append(model.hand_over(block, h))
                    optimizer.zero_grad()
                    class_loss(g, y).backward()
                    optimizer.step()
                    fastest[k] = min(fastest[k], time.perf_counter() - start)
                if count >= 2 and time.perf_counter() - began > limit:
                    break
    finally:
        torch.set_num_threads(before)
    shapes = [tuple(h.shape[1:]) for h in outputs]
    return BlockCosts(fastest, shapes, [h.stride()[1:] for h in outputs])
