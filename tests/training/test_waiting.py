"""No step of a training waits for the device; seen on tensors without values: none can be read."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sff_teach.cut.localize import localize
from sff_teach.data import ImageSet
from sff_teach.models import cnn
from sff_teach.training import loader, prepare
from sff_teach.training.fit import fit
from sff_teach.training.history import EpochMetrics
from tests._helpers import nightly_but

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to the device that wait until they are done."""

    waiting = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            self.waiting += kwargs.get("device") == META and not kwargs.get("non_blocking")
        return func(*args, **kwargs)


@pytest.mark.parametrize("rule", nightly_but(("sff",), ["sff", "bp", "bp-goodness", "deepsup"]))
def test_no_step_waits_for_the_device(rule, monkeypatch):
    """A loss, a count or a place that is read on the CPU would raise here."""
    monkeypatch.setattr(prepare, "pick_device", lambda name: META)
    monkeypatch.setattr(loader, "check_samples", lambda *_: None)  # reads the images, once
    monkeypatch.setattr(loader, "check_labels", lambda *_: None)
    monkeypatch.setattr(EpochMetrics, "divergence", lambda *_: None)  # waits, every 50 steps
    monkeypatch.setattr(EpochMetrics, "row", lambda metrics: {"steps": metrics.steps})
    monkeypatch.setattr("sff_teach.training.fit.summary_of", str)
    model = localize(cnn(3, (8, 16), pool_after=(1,)), 10, cut="layer", head="accurate").to(META)
    x, y = torch.empty(40, 3, 8, 8, device=META), torch.empty(40, dtype=torch.int64, device=META)
    data = ImageSet(x, y, tuple("0123456789"), "no values", (0.0,) * 3, (1.0,) * 3)
    with Copies() as copies:
        history = fit(
            model, data, rule=rule, epochs=3, batch_size=16, label_smoothing=0.1,
            augment="flip-crop-cutout", progress=False,
        )  # fmt: skip
    assert [row["steps"] for row in history.rows] == [3, 3, 3]
    head = 2 * (rule == "bp")  # weight and bias of the linear layer, which is made first
    assert copies.waiting == 3 + head  # the order of the images, once per epoch
