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
    """Train from epoch ``first`` on and keep what each epoch measured, unless something stops it.

    ``train_epoch`` trains an epoch and returns its row for the history.
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
    """Ctrl-C leaves the ``with`` and ends the training, which keeps what it has."""
    try:
        yield
    except KeyboardInterrupt:
        if run.team.processes > 1:
            raise  # the others would wait for this one
        run.history.stopped = "interrupted"
