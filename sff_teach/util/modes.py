"""Training and evaluation mode: borrowed for a while, then each module's own is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserve_training_mode(model: nn.Module) -> Iterator[nn.Module]:
    """On leaving, also by an error, every module is in the mode it was in on entering."""
    original = getattr(model, "original", None)  # of a cut network; its mode follows
    others = original.modules() if isinstance(original, nn.Module) else ()
    modes = [(module, module.training) for module in (*model.modules(), *others)]
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients: nothing in the model changes, not even BatchNorm."""
    with preserve_training_mode(model), torch.no_grad():
        yield model.eval()
