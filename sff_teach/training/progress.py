"""The progress bar of a training."""

from tqdm.auto import tqdm

from .prepare import Run

BAR_AFTER_SECONDS = 2.0


def progress_bar(run: Run, show: bool) -> tqdm:
    """A bar over all steps, with an estimate; it appears when training takes a while.

    Args:
        run: knows how many steps there will be.
        show: False for none.
    """
    steps = run.steps()
    total = None if steps is None else run.config.epochs * steps
    return tqdm(total=total, unit="step", delay=BAR_AFTER_SECONDS, leave=False, disable=not show)


def summary_of(row: dict) -> str:
    """An epoch's figures, block by block, for the bar."""
    text = f"loss {_by_block(row['train_loss'], '{:.3g}')}"
    if "valid_accuracy" in row:
        text += f", validation {_by_block(row['valid_block_accuracy'], '{:.0%}')}"
        if len(row["valid_block_accuracy"]) > 1:
            text += f", vote {row['valid_accuracy']:.1%}"
    return text


def _by_block(values: list[float], form: str) -> str:
    texts = [form.format(value) for value in values]
    return " ".join(texts if len(texts) <= 6 else [*texts[:2], "…", *texts[-2:]])
