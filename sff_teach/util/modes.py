"""Training modes and random states: change them temporarily, save and restore them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def preserve_training_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Restore the training mode of every module on leaving."""
    original = getattr(model, "original", None)  # a cut network sets its mode too
    others = original.modules() if isinstance(original, nn.Module) else ()
    modes = [(module, module.training) for module in (*model.modules(), *others)]
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients; modes are restored on leaving."""
    with preserve_training_mode(model), torch.no_grad():
        yield model.eval()


def random_state() -> dict[str, Any]:
    """The state of Python, NumPy, torch and the GPUs in use, in types for ``weights_only``."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [kind, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state that ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
