"""The cost of a training step: floating-point operations, memory, time.

Operations and bytes are counts, the same in every run. Times are compared in pairs.
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

    Two per multiply-add, of convolutions, matrix products and attention; others are not counted.
    The counter keeps references to tensors, so count bytes in another step.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class _TensorLifetimeMode(TorchDispatchMode):
    """Tracks the storage of every tensor that an operation returns, until it is freed."""

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
    """Peak bytes of tensors allocated by ``step()``, without operations' internal buffers.

    Of two runs the second is reported, in which gradients exist from the start.

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


def cuda_peak(step: "TrainingStep") -> int:
    """Peak bytes that ``step()`` allocated on the GPU, gradients among them, as ``live_bytes``."""
    step.model.zero_grad()  # those of a step before do not count as already there
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@dataclass(frozen=True)
class PairedTiming:
    """The times of two steps, measured in pairs."""

    a: float  # median seconds of the first
    b: float  # median seconds of the second
    ratio: float  # median of the ratios b / a, one per round
    low: float  # lower end of its median_interval; NaN below six rounds
    high: float  # upper end
    rounds: int


def time_paired(step_a: Step, step_b: Step, *, rounds: int = 9) -> PairedTiming:
    """Time two steps in pairs, swapping the order every round, after one round to warm up.

    Args:
        step_a: a function without arguments.
        step_b: another one.
        rounds: how many pairs.
    """
    steps, seconds = (step_a, step_b), ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            steps[which]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[which].append(time.perf_counter() - start)
    a, b = seconds[0][1:], seconds[1][1:]
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
    """The cost of one training step; see the functions of the same names."""

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

    The optimiser is SGD without momentum, which has no state.

    Args:
        model: as for ``fit``; not changed.
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
        """The batch, parameters and buffers, which are not counted."""
        return [self.x, self.y, *self.model.parameters(), *self.model.buffers()]


def training_cost(model: nn.Module, rule: str, batch: tuple[Tensor, Tensor]) -> StepCost:
    """Count the cost of one training step, without batch, parameters and buffers.

    Args:
        model: as for ``fit``; not changed.
        rule: see ``TrainingStep``.
        batch: x (B, C, ...) and labels (B,).
    """
    step = TrainingStep(model, rule, batch)
    step()  # without what is allocated only once
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
    """``saved_bytes`` from each block's forward to the next one's; also for "meta" tensors.

    Args:
        step: if it recomputes, it must have been called before.
    """
    parts = step.model.blocks if isinstance(step.model, SFF) else step.model.layers
    tracker = StorageTracker(step.preexisting_tensors)
    peaks, current = [0] * len(parts), 0

    def enter(number: int) -> None:
        nonlocal current
        peaks[current] = max(peaks[current], tracker.peak)
        current, tracker.peak = number, tracker.now

    handles = [
        part.register_forward_pre_hook(lambda *_, number=number: enter(number))
        for number, part in enumerate(parts)
    ]
    with watch_saved(tracker):
        step()
    enter(0)
    for handle in handles:
        handle.remove()
    return peaks
