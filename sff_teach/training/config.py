"""The one list of training settings, used by ``fit``, pipeline, checkpoints and recipes."""

from dataclasses import dataclass, fields, replace
from typing import Any

from ..data import AUGMENTATIONS
from ..rules import RULES
from ..util.checks import check_count, check_known, check_number, check_positive, check_seed

SCHEDULES = ("one-cycle", "constant")
PRECISIONS = ("float32", "auto", "bf16", "fp16")
_NOT_IN_HISTORY = ("rule", "device", "channels_last", "compile")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train: all settings of ``fit``, checked when the object is made.

    Attributes:
        rule: the learning rule, see ``rules.RULES``.
        epochs: passes over the training data.
        batch_size: samples per step. A last batch of a single sample is left out, because BatchNorm
            cannot normalise it.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        schedule: of the learning rate, ``"one-cycle"`` or ``"constant"``.
        label_smoothing: of the class losses, in [0, 1].
        augment: None or, for images, ``"flip-crop"`` or ``"flip-crop-cutout"``.
        seed: of the order of samples, augmentation, negatives and dropout. Initial weights are the
            caller's: call ``torch.manual_seed`` before building the model.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        precision: ``"float32"``; ``"bf16"`` or ``"fp16"`` for the blocks, by ``torch.autocast``,
            while goodness and losses stay in float32; ``"auto"``: the better one for the device.
        channels_last: whether images are stored as (H, W, C) in memory; None: where it is faster.
        compile: whether to ``torch.compile`` each block's body; the first steps are slow.
    """

    rule: str = "sff"
    epochs: int = 5
    batch_size: int = 64
    lr: float = 5e-3
    weight_decay: float = 0.01
    schedule: str = "one-cycle"
    label_smoothing: float = 0.0
    augment: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        check_known(self.rule, RULES, "rule")
        check_count(self.epochs, "epochs")
        check_count(self.batch_size, "batch_size")
        check_positive(lr=self.lr)
        check_number(self.weight_decay, "weight_decay", 0)
        check_known(self.schedule, SCHEDULES, "schedule")
        check_number(self.label_smoothing, "label_smoothing", 0, 1)
        check_known(self.augment, (None, *AUGMENTATIONS), "augment")
        check_seed(self.seed)
        check_known(self.precision, PRECISIONS, "precision")
        check_known(self.channels_last, (None, True, False), "channels_last")
        check_known(self.compile, (True, False), "compile")

    def settings(self) -> dict[str, Any]:
        """What a History and a checkpoint keep: the settings that change results, but the rule."""
        names = [field.name for field in fields(TrainConfig)]
        return {name: getattr(self, name) for name in names if name not in _NOT_IN_HISTORY}

    def replace(self, **changes: Any) -> "TrainConfig":
        """A copy with some settings changed; an unknown name is a SFFError."""
        for name in changes:
            check_known(name, [field.name for field in fields(self)], "setting")
        return replace(self, **changes)
