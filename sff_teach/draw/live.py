"""Figures that are updated while a network trains."""

import time
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..training.history import History
from .charts import describe_history, draw_history
from .style import (
    INK,
    NEGATIVE,
    POSITIVE,
    caption_data,
    display_data,
    end_labels,
    figure_data,
    ink,
    new_figure,
    with_alt,
)

SHARE = 0.1  # of a training's time, at most, for drawing
EVERY = 1.5  # seconds between two drawings, at least
LOOKS = ((POSITIVE, ""), (NEGATIVE, "6 3"))  # as in draw_goodness; dashes


class Pace:
    """Limits drawing to the share ``SHARE`` of the processor time since the start.

    Args:
        every: seconds between two drawings, at least; None is ``EVERY``.
    """

    def __init__(self, every: float | None = None):
        self._every = EVERY if every is None else every
        self._start = self._end = time.process_time()
        self._spent = 0.0  # seconds of drawing
        self._last = 0.2 * self._every  # seconds of the last drawing; initially an estimate

    @property
    def due(self) -> bool:
        """Whether another drawing is within both limits."""
        now = time.process_time()
        share = SHARE * (now - self._start)
        return now >= self._end + self._every and self._spent + self._last <= share

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *error: object) -> None:
        self._end = time.process_time()
        self._last = self._end - self._started
        self._spent += self._last


class _Output:
    """One output of a cell that is updated; outside a notebook none."""

    def __init__(self):
        self.handle: Any = None

    def show(self, data: dict[str, Any]) -> None:
        if self.handle is None:
            self.handle = display_data(data, display_id=True)
        elif self.handle:
            self.handle.update(data, raw=True)


class LiveHistory:
    """``fit(..., on_epoch=LiveHistory())`` updates one figure during training, in a notebook only.

    Use a new object for each training.
    """

    def __init__(self):
        self._pace, self._output = Pace(), _Output()

    def __call__(self, history: History) -> None:
        """Show the history so far."""
        epochs = history.settings["epochs"]
        over = len(history.rows) == epochs or history.stopped
        if self._output.handle is False or not history.rows or not (self._pace.due or over):
            return
        with self._pace:
            figure = draw_history(history, epochs=epochs)
            words = describe_history(history)
            self._output.show(figure_data(figure, caption=words, quick=not over))
        if over:
            display_data(caption_data(words))


class LiveGoodness:
    """Goodness of positives and negatives against the threshold, while one layer trains.

    Call it once a step. A notebook shows both distributions, and after the last step a figure of
    the whole training.

    Args:
        theta: the threshold.
        steps: their total number.
    """

    def __init__(self, theta: float, steps: int):
        self.theta, self.steps = theta, steps
        self.quartiles: dict[str, list[list[float]]] = {"positive": [], "negative": []}  # by step
        self._pace, self._output = Pace(0.05), _Output()

    def __call__(self, positive: Tensor, negative: Tensor) -> None:
        """Show one step: goodness (B,) of the positives and of the negatives."""
        values = [g.detach().cpu() for g in (positive, negative)]
        for found, g in zip(self.quartiles.values(), values):
            found.append(g.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist())
        step = len(self.quartiles["positive"])
        medians = [f"{name} {q[-1][1]:.2f}" for name, q in self.quartiles.items()]
        words = f"step {step}: median goodness {', '.join(medians)}; threshold {self.theta:g}."
        if self._output.handle is not False and step == self.steps:
            self._output.show(figure_data(self._draw(), caption=f"After {words}"))
            display_data(caption_data(f"After {words}"))
        elif self._output.handle is not False and self._pace.due:
            with self._pace:
                picture = self._svg(values, medians, words, step)
                self._output.show({"text/html": picture, "text/plain": words})

    def _svg(self, values: list[Tensor], medians: list[str], words: str, step: int) -> str:
        """Both distributions as SVG: a millisecond, a Matplotlib figure takes a hundred."""
        parts = []
        for row, (g, text, (colour, dash)) in enumerate(zip(values, medians, LOOKS)):
            share = torch.histc(g.clamp(max=2 * self.theta), 40, 0, 2 * self.theta) / len(g)
            heights = (230 - 440 * share.clamp(max=0.5)).repeat_interleave(2)  # of 40 bins
            points = " ".join(f"{17.5 * ((i + 1) // 2)},{y:.0f}" for i, y in enumerate(heights))
            parts += [
                f'<polygon points="0,230 {points} 700,230" fill="{colour}" fill-opacity="0.3" '
                f'stroke="{ink(colour)}" stroke-width="2" stroke-dasharray="{dash}"/>',
                f'<text x="690" y="{22 + 20 * row}" text-anchor="end" fill="{ink(colour)}">{text} '
                "(median)</text>",
            ]
        return f"""<svg width="700" height="270" role="img" aria-label="{words}"
            style="background: white; font: 13px sans-serif">{"".join(parts)}<g fill="{INK}">
            <path d="M0 230H700" stroke="{INK}"/>
            <path d="M350 8V236" stroke="{INK}" stroke-width="2" stroke-dasharray="9 5"/>
            <text x="356" y="22">threshold θ = {self.theta:g}</text>
            <text x="342" y="22" text-anchor="end">step {step}</text>
            <text x="270" y="256">goodness g, from 0 to {2 * self.theta:g}</text></g></svg>"""

    def _draw(self) -> Figure:
        """The whole training: medians as lines, the middle half of each group as a band."""
        fig, ax = new_figure(9, 3.4, xlabel="step", ylabel="goodness g")
        labels, words = [(self.steps, self.theta, "threshold θ", INK)], []
        for (name, quartiles), (colour, dash) in zip(self.quartiles.items(), LOOKS):
            low, middle, high = zip(*quartiles)
            ax.fill_between(range(self.steps), low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(middle, color=ink(colour), linestyle="--" if dash else "-")
            labels.append((self.steps, middle[-1], f"{name}: {middle[-1]:.2f}", colour))
            words.append(f"{name} from {middle[0]:.2f} up to {max(middle):.2f}, at the end "
                         f"{middle[-1]:.2f}")  # fmt: skip
        ax.axhline(self.theta, color=INK, linestyle=(0, (1, 1.5)), linewidth=1.2)
        ax.set(xlim=(0, self.steps), ylim=(0, None))
        end_labels(ax, labels)
        return with_alt(fig, f"Median goodness by step, with the threshold. {'; '.join(words)}.")
