"""What a training measured, and what every training loop needs: schedule, device, data."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from ..data.sets import AUGMENTATIONS, LabelledTensors, batches, from_arrays
from ..util.checks import (
    check_count,
    check_known,
    check_number,
    check_positive,
    check_samples,
    check_seed,
    explained,
    short_repr,
)

SCHEDULES = ("one-cycle", "constant")
BAR_AFTER_SECONDS = 2.0
MOST_EPOCHS = 1_000_000


@dataclass
class History:
    """What ``fit`` measured: one row per epoch, and why it ended.

    Attributes:
        rule: name. settings: what fit was called with. parameters: how many were trained.
        rows: dicts with epoch (from 1), seconds (training only), train_loss and train_accuracy
            (lists, one number per block; for ``ff`` the share of positives above their negatives,
            where chance gives half), and with validation data valid_accuracy, valid_loss,
            valid_block_accuracy; ``complete`` is False for an epoch that was cut short.
        stopped: None when all epochs ran, else "interrupted", "stopped" or "diverged".
    """

    rule: str
    settings: dict
    parameters: int
    rows: list[dict] = field(default_factory=list)
    stopped: str | None = None

    @property
    def seconds(self) -> float:
        """Training time of all epochs, without validation."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def last(self) -> dict:
        """The last epoch's row; never a "best" one."""
        if not self.rows:
            raise ValueError("history has no rows; fit stopped before its first step.")
        return self.rows[-1]

    def column(self, name: str) -> list:
        """One figure over the epochs, e.g. ``column("valid_accuracy")``.

        Raises ValueError if an epoch lacks it: nothing was validated, or the epoch was cut short.
        """
        missing = [row["epoch"] for row in self.rows if name not in row]
        if missing:
            known = ", ".join(self.rows[missing[0] - self.rows[0]["epoch"]])
            raise ValueError(f'epoch {missing[0]} has no "{name}"; it has {known}.')
        return [row[name] for row in self.rows]

    def to_dict(self) -> dict:
        """Plain numbers, lists and strings, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.rule}: no epoch ran"
        row = self.last
        valid = row.get("valid_accuracy")
        shown = (
            f"validation {valid:.1%}" if valid is not None else f"loss {row['train_loss'][-1]:.3f}"
        )
        ended = f", {self.stopped}" if self.stopped else ""
        return f"{self.rule}: {shown} after {row['epoch']} epochs, {self.seconds:.1f} s{ended}"


@explained()
def one_cycle(done: float, warm_up: float = 0.3, start: float = 0.04) -> float:
    """The learning rate, as a share of its peak, when ``done`` of all steps are over.

    Cosine up from ``start`` to 1 over the first ``warm_up`` of the steps, cosine down to 0 over
    the rest (Smith & Topin's one-cycle in the form of ``torch.optim.lr_scheduler.OneCycleLR``; a
    plain function of the step has no state to save).
    """
    if done < warm_up:
        return start + (1 - start) * _half_cosine(done / warm_up)
    return 1 - _half_cosine((done - warm_up) / (1 - warm_up))


@explained()
def learning_rate(done: float, lr: float, schedule: str) -> float:
    """The rate after the share ``done`` of all steps, with ``lr`` as its peak."""
    return lr * one_cycle(done) if schedule == "one-cycle" else lr


def _half_cosine(t: float) -> float:
    return (1 - torch.cos(torch.tensor(t * torch.pi)).item()) / 2


def pick_device(name: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else Apple's MPS, else the CPU; any other name if it works here.

    Raises ValueError for a device that this machine does not have.
    """
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).cpu().new_empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, ValueError, ImportError):
        raise ValueError(
            f'device={short_repr(name)} is not usable here; use "auto" or "cpu", and see `sff-teach '
            "doctor`."
        ) from None


def as_labelled_tensors(
    data: LabelledTensors | tuple[Tensor, Tensor], argument: str = "data"
) -> LabelledTensors:
    """A LabelledTensors as it is; a pair of tensors (x, y) as one, its values unchanged.

    Raises ValueError or TypeError for anything else and for samples that are empty or not finite.
    """
    if not isinstance(data, LabelledTensors):
        if not (isinstance(data, tuple) and len(data) == 2):
            raise TypeError(
                f"{argument} must be a LabelledTensors or a pair of tensors (x, y), not "
                f"{type(data).__name__}; see sff_teach.load."
            )
        x, y = data
        check_samples(x, f"{argument} x")
        channels = x.shape[1]
        data = from_arrays(x, y, mean=[0.0] * channels, std=[1.0] * channels, name=argument)
    check_samples(data.x, f"{argument}.x")
    return data


@explained(x=check_samples)
def check_image_options(x: Tensor, augment: str | None, channels_last: bool = False) -> None:
    """Raise ValueError if samples that are no images are to be treated like images."""
    if x.dim() != 4 and (augment is not None or channels_last):
        option = "channels_last=True" if augment is None else f"augment={short_repr(augment)}"
        raise ValueError(
            f"{option} is for images (N, C, H, W), and train has shape {tuple(x.shape)}; "
            "leave it out."
        )


@explained()
def training_batches(
    train: LabelledTensors,
    batch_size: int,
    generator: torch.Generator,
    augment: str | None = None,
    smallest: int = 2,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: every sample once, in a new order, augmented.

    A last batch of fewer than ``smallest`` images is left out: BatchNorm cannot train on one.
    """
    rest = len(train) % batch_size
    for x, y in batches(
        train, batch_size, shuffle=True, generator=generator, drop_last=0 < rest < smallest
    ):
        yield (x if augment is None else AUGMENTATIONS[augment](x, generator)), y


@explained()
def check_batches(model: nn.Module, images: int, batch_size: int) -> None:
    """Raise ValueError if BatchNorm would have a single image to normalise."""
    if images == 1:
        raise ValueError("train holds one image, and BatchNorm needs two; give at least two.")
    if batch_size == 1 and any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()
    ):
        raise ValueError("batch_size=1 leaves BatchNorm nothing to compare; give at least 2.")


def checked_settings(
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    schedule: str,
    label_smoothing: float,
    augment: str | None,
    seed: int,
) -> dict:
    """What ``fit`` and ``fit_pipeline`` have in common, checked; checkpoints keep it.

    Raises ValueError or TypeError, see ``fit``.
    """
    check_count(epochs, "epochs", maximum=MOST_EPOCHS)
    check_count(batch_size, "batch_size")
    check_positive(lr=lr)
    check_number(weight_decay, "weight_decay", 0)
    check_number(label_smoothing, "label_smoothing", 0, 1)
    check_seed(seed)
    check_known(schedule, SCHEDULES, "schedule")
    check_known(augment, (None, *AUGMENTATIONS), "augment")
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "label_smoothing": label_smoothing,
        "augment": augment,
        "seed": seed,
    }
