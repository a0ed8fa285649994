"""A figure that grows while a network trains."""

import time
from typing import Any

from ..training.fit import History
from .charts import describe_history, draw_history
from .style import display_data, figure_data

EVERY = 1.0  # seconds between two drawings, at least


class Pace:
    """Decides when to draw again, so that drawing takes at most a tenth of the time."""

    def __init__(self):
        self._started = 0.0
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to draw."""
        return time.monotonic() >= self._next

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        now = time.monotonic()
        self._next = now + max(EVERY, 9 * (now - self._started))


class LiveHistory:
    """Training made visible: ``fit(..., on_epoch=LiveHistory())`` keeps one figure up to date.

    In a notebook the figure of ``draw_history`` appears after the first epoch and is redrawn in
    place, and always after the last epoch. Elsewhere nothing is shown, and fit's progress bar is
    enough. Use a new one for each training.
    """

    def __init__(self):
        self._pace = Pace()
        self._handle: Any = None

    def __call__(self, history: History) -> None:
        """Show the history so far."""
        epochs = history.settings["epochs"]
        over = len(history.rows) == epochs or history.stopped
        if self._handle is False or not history.rows or not (self._pace.due or over):
            return
        with self._pace:
            figure = draw_history(history, epochs=epochs)
            data = figure_data(figure, caption=describe_history(history))
            if self._handle is None:
                self._handle = display_data(data, display_id=True)
            else:
                self._handle.update(data, raw=True)
