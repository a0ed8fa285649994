"""Checkpoints of a training: after each epoch all that it needs to go on as if never stopped."""

import os
import warnings
import zipfile
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..data.sets import LabelledTensors
from ..rules import Rule
from ..util.checks import check_path, explained
from ..util.files import atomic_write, check_writable, exclusive_lock, remove_partial_files

FORMAT = "sff-teach checkpoint 1"
CONTENT = {
    "rule": str,
    "settings": dict,
    "data": list,
    "rows": list,
    "modules": dict,
    "optimizers": list,
    "generator": torch.Tensor,
    "random": torch.Tensor,
    "cuda": list,
}


@explained()
class Checkpoint:
    """A file that follows one training.

    Args:
        path: of the file; its folder must exist.
        learner: the rule at work; its modules and optimisers are kept.
        history: its rows are kept.
        generator: of ``fit``: order, augmentation, negatives. torch's own state is kept as well.
        train: the images, known again by number, shape and labels.

    Raises:
        FileNotFoundError: no such folder. IsADirectoryError: the path is a folder. OSError: the
            folder is read-only.
    """

    def __init__(
        self,
        path: str | Path,
        learner: Rule,
        history: "History",  # noqa: F821
        generator: torch.Generator,
        train: LabelledTensors,
    ):
        check_path(path, "checkpoint")
        self.path = Path(path)
        self.learner, self.history, self.generator = learner, history, generator
        self.data = [*train.x.shape, zlib.crc32(train.y.cpu().numpy().tobytes())]
        self.warned = False
        if os.path.isdir(self.path):
            raise IsADirectoryError(f"checkpoint={self.path} is a folder; give a file in it.")
        if not os.path.isdir(self.path.absolute().parent):
            raise FileNotFoundError(
                f"checkpoint={self.path} lies in a folder that does not exist; make it first."
            )
        check_writable(self.path, f"checkpoint={self.path}")

    def save(self) -> None:
        """Write the state after an epoch, whole or not at all; a full disk is a warning."""
        state = {
            "format": FORMAT,
            "rule": self.history.rule,
            "settings": self.history.settings,
            "data": self.data,
            "rows": self.history.rows,
            "modules": {name: m.state_dict() for name, m in self.learner.modules().items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.learner.optimizers],
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        try:
            atomic_write(self.path, lambda file: torch.save(state, file))
        except (OSError, RuntimeError) as error:
            if isinstance(error.__context__, OSError):  # torch's writer had made its own of it
                error = error.__context__
            reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
            if not self.warned:
                warnings.warn(
                    f"the checkpoint {self.path} could not be written ({reason}); training goes "
                    "on, and what was saved before stays.",
                    stacklevel=3,
                )
            self.warned = True

    def exclusive_lock(self, writes: bool = True) -> AbstractContextManager:
        """Keep other trainings away from the file, from before ``resume`` to the last ``save``.

        ``OSError`` if another process trains with it already. Of the processes of one training
        only the one that writes asks.
        """
        return exclusive_lock(self.path, f"checkpoint={self.path}") if writes else nullcontext()

    def resume(self) -> int:
        """Take over the state of the file, if there is one: the number of epochs it has behind it.

        What a killed process has left unfinished beside it is removed.

        Raises:
            ValueError: the file is damaged, no checkpoint, or of another training.
        """
        remove_partial_files(self.path)
        if not self.path.exists():
            return 0
        state = read(self.path)
        expected = {"rule": self.history.rule, **self.history.settings}
        found = {"rule": state["rule"], **state["settings"]}
        for name, value in expected.items():
            if found.get(name) != value:
                raise ValueError(
                    f"checkpoint={self.path} was made with {name}={found.get(name)!r}, not "
                    f"{value!r}; give the same settings, or another file."
                )
        if state["data"] != self.data:
            raise ValueError(
                f"checkpoint={self.path} was made with other training images; give the same ones, "
                "or another file."
            )
        modules, optimizers = self.learner.modules(), self.learner.optimizers
        if _shapes({n: m.state_dict() for n, m in modules.items()}) != _shapes(state["modules"]):
            raise ValueError(
                f"checkpoint={self.path} is of another network; build the network as it was, or "
                "give another file."
            )
        try:
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.generator.set_state(state["generator"])
            torch.set_rng_state(state["random"])
            if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])
        except Exception:  # whatever a file that no Checkpoint wrote makes of them
            raise _damaged(self.path) from None
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        self.history.rows[:] = state["rows"]
        return len(state["rows"])


def _shapes(modules: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict[str, tuple]]:
    return {
        name: {key: tuple(getattr(value, "shape", ())) for key, value in dict(state).items()}
        for name, state in modules.items()
    }


def read(path: Path) -> dict:
    """The content of a checkpoint; only tensors and plain values are ever read from it.

    Raises:
        ValueError: the file is damaged or no checkpoint.
    """
    check_path(path, "checkpoint")
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the checksums
            if file.testzip() is not None:
                raise ValueError
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError
        for name, kind in CONTENT.items():
            if not isinstance(state[name], kind):
                raise TypeError
    except PermissionError:
        raise ValueError(
            f"checkpoint={path} is not yours to read; change its permissions, or give another file."
        ) from None
    except Exception:  # whatever a damaged file makes of the reader
        raise _damaged(path) from None
    return state


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"checkpoint={path} is damaged or no checkpoint of this version; remove it to start "
        "anew, or give another file."
    )
