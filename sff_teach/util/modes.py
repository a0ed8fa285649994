"""What is borrowed for a while and then put back: training modes and random states."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
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


def random_state() -> dict[str, Any]:
    """Of Python, NumPy, torch and the GPUs in use, in types that ``weights_only`` reads."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [kind, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
