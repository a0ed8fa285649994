"""Run a model's forward without changing its attributes, buffers, modes or random state."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, nn

from ..util.modes import preserve_training_mode, random_state, set_random_state


def draws_since(state: dict) -> bool:
    """Whether a random number was drawn on the CPU since ``random_state`` returned ``state``."""
    now = random_state()
    same = torch.equal(now["torch"], state["torch"])
    return not same or any(now[name] != state[name] for name in ("numpy", "python"))


def set_torch_seed(seed: int) -> None:
    """Seed the CPU and the GPUs in use; ``torch.manual_seed`` also seeds GPUs used later."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide torch's warnings and logs in an attempt that may fail."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
    """Restore, on leaving, the modules' attributes, buffers and modes, and the random state.

    Also the values of tensors that are plain attributes. Parameters are not copied.
    """
    rng = random_state()
    tables = [  # attributes, parameters, buffers and children
        (table, dict(table))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # its attributes are in C++
        for table in (vars(module), module._parameters, module._buffers, module._modules)
    ]
    tensors = [v for _, was in tables for v in was.values() if isinstance(v, Tensor)]
    values = [(t, t.detach().clone()) for t in tensors if not isinstance(t, nn.Parameter)]
    try:
        with preserve_training_mode(model):
            yield
    finally:
        for table, was in tables:
            table.clear()
            table.update(was)
        with torch.no_grad():
            for tensor, value in values:
                if not tensor.is_meta and not torch.equal(tensor, value):
                    tensor.copy_(value)
        set_random_state(rng)
