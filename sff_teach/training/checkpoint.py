"""Checkpoints: the whole state of a training after each epoch, to resume from exactly."""

import warnings
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..util.checks import SFFError
from ..util.files import atomic_write, check_writable, exclusive_lock, remove_partial_files
from ..util.modes import random_state, set_random_state
from .prepare import Run

FORMAT = "sff-teach checkpoint 3"


class Checkpoint:
    """The checkpoint file of one training, written by its first process; without a path, none.

    OSError if the file cannot be written.
    """

    def __init__(self, path: str | Path | None, run: Run):
        self.path = None if path is None else Path(path)
        self.run = run
        self.writes = path is not None and run.processes.rank == 0
        self.warned = False
        if self.path is not None:
            check_writable(self.path)

    def exclusive_lock(self) -> AbstractContextManager:
        """A lock on the file for this training; ``OSError`` if another one holds it."""
        if not self.writes:
            return nullcontext()
        return exclusive_lock(self.path, f"checkpoint={self.path}")

    def save(self) -> None:
        """Write the state after an epoch, atomically; an error such as a full disk is a warning."""
        if not self.writes:
            return
        state = self._state()
        try:
            atomic_write(self.path, lambda file: torch.save(state, file))
        except (OSError, RuntimeError) as error:
            if not self.warned:
                while error.__context__ is not None:  # the cause, not torch's follow-up errors
                    error = error.__context__
                text = f"the checkpoint {self.path} could not be written: {error}; training goes on"
                warnings.warn(text, stacklevel=3)
            self.warned = True

    def _state(self) -> dict[str, Any]:
        learner, history = self.run.learner, self.run.history
        return {
            "format": FORMAT,
            "rule": history.rule,
            "settings": history.settings,
            "data": self.run.train.fingerprint(),
            "rows": history.rows,
            "modules": {name: m.state_dict() for name, m in learner.modules().items()},
            "optimizers": optimizer_states(learner.optimizers),
            "scalers": [scaler.state_dict() for scaler in self._scalers()],
            "generator": self.run.generator.get_state(),
            "random": random_state(),
        }

    def _scalers(self) -> list[torch.amp.GradScaler]:
        return [o.scaler for o in self.run.learner.optimizers if hasattr(o, "scaler")]

    def resume(self) -> int:
        """Load the state from the file, if it exists; return how many epochs are done.

        SFFError if the file is damaged, no checkpoint, or of another training.
        """
        if self.path is None:
            return 0
        remove_partial_files(self.path)
        if not self.path.exists():
            return 0
        state, learner = read(self.path), self.run.learner
        self._check_same_training(state)
        for name, module in learner.modules().items():
            module.load_state_dict(state["modules"][name])
        load_optimizer_states(learner.optimizers, state["optimizers"])
        for scaler, saved in zip(self._scalers(), state["scalers"], strict=True):
            scaler.load_state_dict(saved)
        self.run.generator.set_state(state["generator"])
        set_random_state(state["random"])
        self.run.history.rows[:] = state["rows"]
        return len(state["rows"])

    def _check_same_training(self, state: dict) -> None:
        own = self._state()
        for name, value in {"rule": own["rule"], **own["settings"]}.items():
            found = {"rule": state["rule"], **state["settings"]}.get(name)
            if found != value:
                raise SFFError(
                    f"checkpoint={self.path} has {name}={found!r}, not {value!r}; give the same "
                    "settings, or another file"
                )
        if state["data"] != own["data"]:
            raise SFFError(f"checkpoint={self.path} was made with other training images or labels")
        if _shapes(state["modules"]) != _shapes(own["modules"]):
            raise SFFError(f"checkpoint={self.path} is of another network")


def _shapes(modules: dict[str, dict]) -> dict[tuple[str, str], Any]:
    pairs = ((name, key, value) for name, state in modules.items() for key, value in state.items())
    return {(name, key): getattr(value, "shape", None) for name, key, value in pairs}


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, loaded with ``weights_only``: tensors and plain values."""
    with path.open("rb") as file:
        try:
            if zipfile.ZipFile(file).testzip() is not None:  # torch does not check the checksums
                raise ValueError
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError
        except Exception:  # damaged files raise many kinds
            raise SFFError(
                f"checkpoint={path} is damaged or no checkpoint of this version; remove it, or "
                "give another file"
            ) from None
    return state


def optimizer_states(optimizers: Sequence) -> list[dict]:
    """The state of every parameter in order, whether they have one optimiser or several."""
    return [
        optimizer.state.get(parameter, {})
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def load_optimizer_states(optimizers: Sequence, states: Sequence[dict]) -> None:
    """Load what ``optimizer_states`` returned for the same parameters in the same order."""
    remaining = iter(states)
    for optimizer in optimizers:
        own = optimizer.state_dict()
        count = sum(len(group["params"]) for group in own["param_groups"])
        own["state"] = {i: state for i, state in enumerate(islice(remaining, count)) if state}
        optimizer.load_state_dict(own)
