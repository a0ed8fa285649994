"""The loop over epochs that one process and a pipeline share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .checkpoint import Checkpoint
from .history import History
from .prepare import Run


def train_epochs(
    run: Run,
    saved: Checkpoint,
    first: int,
    train_epoch: Callable[[int], dict],
    on_epoch: Callable[[History], None] | None,
) -> None:
    """Train from epoch ``first`` on, with a row in the history and a checkpoint for each epoch.

    ``train_epoch`` trains one epoch and returns its row.
    """
    history = run.history
    for epoch in range(first, run.config.epochs):
        row = {"steps": 0}
        with ended_by_ctrl_c(run):
            row = train_epoch(epoch)
        if row["steps"]:
            history.rows.append(row)
        with ended_by_ctrl_c(run):
            if history.stopped is None:
                saved.save()
            if on_epoch is not None:
                on_epoch(history)
        if history.stopped:
            return


@contextmanager
def ended_by_ctrl_c(run: Run) -> Iterator[None]:
    """Ctrl-C inside the ``with`` ends the training, which keeps the completed steps."""
    try:
        yield
    except KeyboardInterrupt:
        if run.processes.count > 1:
            raise  # the others would wait for this one
        run.history.stopped = "interrupted"
