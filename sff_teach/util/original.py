"""A base class for networks that share their layers with another model."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class SharesOriginal(nn.Module):
    """A module that shares layers with ``original``, and its mode, device, dtype and state.

    The original is no submodule, so its parameters are not listed twice. Its other layers, such as
    its classifier, are in the state dict below ``original.``.

    Args:
        original: the other model, or None.
    """

    def __init__(self, original: nn.Module | None):
        super().__init__()
        self._original = [original]  # in a list, so that it is no submodule

    @property
    def original(self) -> nn.Module | None:
        """The user's model, trained in place; None if the blocks were built directly."""
        return self._original[0]

    def train(self, mode: bool = True) -> "SharesOriginal":
        """Set training or evaluation mode, also of the original."""
        super().train(mode)
        if self.original is not None:
            self.original.train(mode)
        return self

    def _apply(self, fn, recurse=True):  # what .to(), .cuda() and .double() do
        super()._apply(fn, recurse)
        if self.original is not None:
            self.original._apply(fn, recurse)
        return self

    def _unshared_state(self) -> Iterator[tuple[str, Tensor]]:
        """The original's parameters and buffers outside the shared layers, by name."""
        if self.original is None:
            return
        shared = {id(tensor) for tensor in (*self.parameters(), *self.buffers())}
        for name, tensor in self.original.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and id(tensor) not in shared:
                yield f"original.{name}", tensor

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self._unshared_state():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name, tensor in self._unshared_state():
            if prefix + name in state_dict:
                with torch.no_grad():
                    tensor.copy_(state_dict[prefix + name])
        known = prefix + "original."
        unexpected_keys[:] = [key for key in unexpected_keys if not key.startswith(known)]
