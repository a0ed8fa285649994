"""Keep a model as it was while its forward runs for cutting: attributes, buffers, modes, random."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

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


def set_torch_seed(seed: int) -> None:
    """Seed the CPU and the GPUs in use; ``torch.manual_seed`` would also seed those used later."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def same_random_state(a: tuple, b: tuple) -> bool:
    """Whether no random number was drawn between the two.

    Args:
        a: from ``random_state``.
        b: from ``random_state``, later.
    """
    return a[0] == b[0] and np.array_equal(a[1][1], b[1][1]) and torch.equal(a[2], b[2])


@contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
    """On leaving, every module has the attributes, buffers and mode it had, and random its state.

    Tensors that are plain attributes get their values back as well. Parameters are not copied.
    """
    rng = random_state()
    tables = ("_parameters", "_buffers", "_modules")
    before = [
        (module, dict(vars(module)), {name: dict(vars(module)[name]) for name in tables})
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # its attributes are in C++
    ]
    tables_of = [
        (*attributes.values(), *inner["_buffers"].values()) for _, attributes, inner in before
    ]
    kept = {value for values in tables_of for value in values if isinstance(value, Tensor)}
    values = [(tensor, tensor.detach().clone()) for tensor in kept]
    try:
        with preserve_training_mode(model):
            yield
    finally:
        for module, attributes, inner in before:
            vars(module).clear()
            vars(module).update(attributes)
            for name, table in inner.items():
                vars(module)[name].clear()
                vars(module)[name].update(table)
        with torch.no_grad():
            for tensor, value in values:
                if not tensor.is_meta and not torch.equal(tensor, value):
                    tensor.copy_(value)
        set_random_state(rng)
