"""What a training step costs: floating-point operations, memory, time.

Operations and bytes are counts, the same on every run. Time is only ever measured in pairs.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..core import SFF
from ..util.checks import check_known
from .memory import VARIANTS, StorageTracker, watch_saved
from .memory import saved_bytes as saved_bytes  # is imported from here

Step = Callable[[], object]


def flops(step: Step) -> int:
    """Floating-point operations of ``step()``, forward and backward, by torch's counter.

    Two per multiply-add, of convolutions, matrix products and attention; all else counts nothing.
    The counter holds on to tensors, so count bytes in another step.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class _TensorLifetimeMode(TorchDispatchMode):
    """Enters every tensor that an operation returns into a tracker, until its storage goes."""

    def __init__(self, tracker: StorageTracker):
        super().__init__()
        self.tracker = tracker

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.tracker.retain_storage(tensor)
        return result


def live_bytes(step: Step, ignore: Iterable[Tensor] = ()) -> int:
    """The most bytes of tensors that existed at one moment while ``step()`` ran.

    Everything that was made in it counts, but for what an operation needs inside. The second of two
    runs is reported, which finds the gradients that the first has left.

    Args:
        step: a function without arguments.
        ignore: as for ``saved_bytes``.
    """
    tracker = StorageTracker(ignore)
    with _TensorLifetimeMode(tracker):
        step()
        tracker.peak = tracker.now
        step()
    return tracker.peak


def cuda_peak(step: Step) -> int | None:
    """Bytes that ``step()`` allocated on the GPU at most, as ``live_bytes``; None without one."""
    if not torch.cuda.is_available():
        return None
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@dataclass(frozen=True)
class PairedTiming:
    """Two steps timed in turn."""

    a: float  # median seconds of the first
    b: float  # of the second
    ratio: float  # median of the ratios b / a, one per round
    low: float  # of its median_interval; NaN below six rounds
    high: float
    rounds: int


def time_paired(step_a: Step, step_b: Step, *, rounds: int = 9) -> PairedTiming:
    """Time two steps in pairs, swapping the order every round, after one round to warm up.

    Args:
        step_a: a function without arguments.
        step_b: another one.
        rounds: how many pairs.
    """
    steps, taken = (step_a, step_b), ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            steps[which]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[which].append(time.perf_counter() - start)
    a, b = taken[0][1:], taken[1][1:]
    ratios = [after / before for before, after in zip(a, b)]
    return PairedTiming(median(a), median(b), median(ratios), *median_interval(ratios), rounds)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """At least 95 % confidence for the median: the k-th smallest and k-th largest value.

    k is the largest for which each side misses the median with probability at most 2.5 %, by the
    binomial distribution; NaN if there is none.
    """
    n = len(values)
    k = int(stats.binom.ppf(0.025, n, 0.5))
    if k < 1:
        return math.nan, math.nan
    ordered = sorted(values)
    return ordered[k - 1], ordered[n - k]


@dataclass(frozen=True)
class StepCost:
    """What one training step costs; each number as the function of its name says."""

    rule: str  # of memory.VARIANTS
    classes: int
    batch: int  # samples
    flops: int
    saved: int  # saved_bytes
    saved_by_block: list[int]
    live: int  # live_bytes
    cuda: int | None = None  # cuda_peak; None on a CPU


class TrainingStep:
    """A function without arguments that trains a copy of a model on one batch at every call.

    The optimiser is SGD without momentum, which needs no memory of its own.

    Args:
        model: as for ``fit``; it stays as it is.
        rule: a key of ``memory.VARIANTS``.
        batch: x (B, C, ...) and labels (B,).
    """

    def __init__(self, model: nn.Module, rule: str, batch: tuple[Tensor, Tensor]):
        check_known(rule, VARIANTS, "rule")
        self.x, self.y = batch
        self.learner = VARIANTS[rule](
            copy.deepcopy(model).train(), lambda p: torch.optim.SGD(p, lr=0.01)
        )
        self.model = self.learner.model

    def __call__(self) -> None:
        self.learner.step(self.x, self.y)

    @property
    def preexisting_tensors(self) -> list[Tensor]:
        """What exists anyway and is not counted: the batch, parameters and buffers."""
        return [self.x, self.y, *self.model.parameters(), *self.model.buffers()]


def training_cost(model: nn.Module, rule: str, batch: tuple[Tensor, Tensor]) -> StepCost:
    """Count one training step; the batch, parameters and buffers exist anyway and do not count.

    Args:
        model: as for ``fit``; it stays as it is.
        rule: see ``TrainingStep``.
        batch: x (B, C, ...) and labels (B,).
    """
    step = TrainingStep(model, rule, batch)
    step()  # some things are made only once
    by_block = saved_by_block(step)
    return StepCost(
        rule=rule,
        classes=step.model.num_classes,
        batch=len(step.x),
        flops=flops(step),
        saved=max(by_block),
        saved_by_block=by_block,
        live=live_bytes(step, step.preexisting_tensors),
        cuda=cuda_peak(step) if step.x.is_cuda else None,
    )


def saved_by_block(step: TrainingStep) -> list[int]:
    """``saved_bytes`` from each block's forward to the next one's; "meta" tensors will do.

    Args:
        step: has been called before if it is an ``"sff-recompute"`` step.
    """
    parts = step.model.blocks if isinstance(step.model, SFF) else step.model.layers
    tracker = StorageTracker(step.preexisting_tensors)
    peaks, at_work = [0] * len(parts), 0

    def turn(number: int) -> None:
        nonlocal at_work
        peaks[at_work] = max(peaks[at_work], tracker.peak)
        at_work, tracker.peak = number, tracker.now

    handles = [
        part.register_forward_pre_hook(lambda *_, number=number: turn(number))
        for number, part in enumerate(parts)
    ]
    with watch_saved(tracker):
        step()
    turn(0)
    for handle in handles:
        handle.remove()
    return peaks
