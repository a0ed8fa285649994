"""Keep a model as it was while its forward runs for cutting: attributes, buffers, modes, random."""

import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import numpy as np
import torch
from torch import Tensor, nn

from ..util.modes import preserve_training_mode


def random_state() -> tuple:
    """The states of Python's, NumPy's and torch's random numbers, those of GPUs in use included."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus


def set_random_state(state: tuple) -> None:
    """Put back what ``random_state`` returned."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])


def same_random_state(a: tuple, b: tuple) -> bool:
    """Whether no random number was drawn between the two."""
    return a[0] == b[0] and np.array_equal(a[1][1], b[1][1]) and torch.equal(a[2], b[2])


def set_torch_seed(seed: int) -> None:
    """Seed the CPU and the GPUs in use; ``torch.manual_seed`` would also seed those used later."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def quiet() -> Iterator[None]:
    """What torch says about an attempt whose error is caught is not shown."""
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
    """On leaving, every module has the attributes, buffers and mode it had, and random its state.

    Tensors that are plain attributes get their values back as well. Parameters are not copied.
    """
    rng = random_state()
    tables = [  # each module's own, and those of its parameters, buffers and children
        (table, dict(table))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # its attributes are in C++
        for table in (vars(module), module._parameters, module._buffers, module._modules)
    ]
    held = [v for _, was in tables for v in was.values() if isinstance(v, Tensor)]
    values = [(t, t.detach().clone()) for t in held if not isinstance(t, nn.Parameter)]
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
