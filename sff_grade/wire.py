"""What judge and judged say to each other: plain values and arrays, never objects.

A message is laid out like a safetensors file: four bytes with the length of a JSON text, the text,
then the arrays' bytes. The text holds the value and each array's type and shape. Nothing that is
read here can become code, and sizes are limited before anything is made of them.

This file lies in the jail as well, so it imports nothing of the course.
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any, BinaryIO

import numpy as np

MOST_BYTES = 32 << 20  # of a message
MOST_TEXT = 1 << 20  # of its JSON text
MOST_CHARACTERS = 2_000  # of a string in an answer
DTYPES = {
    name: np.dtype(name)
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32",
                 "float64", "complex64", "complex128")
}  # fmt: skip


class WireError(ValueError):
    """A message that is none, or is too large."""


def clean(text: object, most: int = MOST_CHARACTERS) -> str:
    """A text as pages, tables and terminals can hold it: valid, printable and not too long."""
    text = str(text)[:most].encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


# ---------------------------------------------------------------- values


def encode(value: Any, arrays: list[np.ndarray], sent: list | None = None, depth: int = 0) -> Any:
    """Turn a value into JSON, with its arrays put aside.

    What is neither a number, a text, a tensor, an array, a generator nor a container of them is
    sent as the name of its type.

    Args:
        value: What to send.
        arrays: Gets the arrays, in the order in which the JSON names them.
        sent: Gets the tensors, generators and arrays themselves, in the same order.
        depth: Of nesting so far.
    """
    import torch

    sent = [] if sent is None else sent
    if isinstance(value, (torch.Tensor, torch.Generator)):
        sent.append(value)
    if depth > 20:
        raise WireError("nested too deeply")
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu()
        if data.dtype == torch.bfloat16:
            data = data.float()
        arrays.append(data.resolve_conj().resolve_neg().contiguous().numpy().copy())
        return {"tensor": len(arrays) - 1, "grad": bool(value.requires_grad)}
    if isinstance(value, torch.Generator):
        arrays.append(value.get_state().numpy())
        return {"generator": len(arrays) - 1}
    if isinstance(value, np.ndarray) and value.dtype.name in DTYPES:
        sent.append(value)
        arrays.append(np.ascontiguousarray(value).reshape(value.shape))
        return {"array": len(arrays) - 1}
    if isinstance(value, (list, tuple)):
        items = [encode(item, arrays, sent, depth + 1) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        pairs = [[encode(part, arrays, sent, depth + 1) for part in pair] for pair in value.items()]
        return {"dict": pairs}
    return {"other": type(value).__name__}


def decode(tree: Any, arrays: list[np.ndarray], made: dict[int, Any] | None = None) -> Any:
    """Make the value again that `encode` was given.

    Args:
        tree: The JSON.
        arrays: Of the message.
        made: Gets each tensor and generator by its number, to see later whether it was changed.
    """
    import torch

    made = {} if made is None else made
    if isinstance(tree, str):
        return clean(tree)
    if isinstance(tree, list):
        return [decode(item, arrays, made) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tuple" in tree:
        return tuple(decode(item, arrays, made) for item in tree["tuple"])
    if "dict" in tree:
        pairs = [[decode(part, arrays, made) for part in pair] for pair in tree["dict"]]
        return dict(pairs)
    if "other" in tree:
        return Foreign(clean(tree["other"], 60))
    kind = next(kind for kind in ("tensor", "generator", "array") if kind in tree)
    number = tree[kind]
    data = arrays[number].copy()
    if kind == "array":
        return data
    value = torch.from_numpy(data)
    if kind == "generator":
        value = torch.Generator().set_state(value)
    elif tree.get("grad") and value.is_floating_point():
        value.requires_grad_()
    made[number] = value
    return value


class Foreign:
    """Stands for something that cannot be sent; it equals nothing and can do nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None


# ---------------------------------------------------------------- messages


def pack(value: Any) -> bytes:
    """Return the bytes of a message.

    Raises:
        WireError: It would be too large.
    """
    arrays: list[np.ndarray] = []
    return pack_tree(encode(value, arrays), arrays)


def pack_tree(tree: Any, arrays: list[np.ndarray]) -> bytes:
    """Return the bytes of a message from its JSON and its arrays.

    Raises:
        WireError: It would be too large.
    """
    text = json.dumps({"value": tree, "arrays": [[a.dtype.name, a.shape] for a in arrays]}).encode()
    size = len(text) + sum(a.nbytes for a in arrays)
    if len(text) > MOST_TEXT or size > MOST_BYTES:
        raise WireError(f"the answer takes {size / 2**20:.0f} MB")
    body = struct.pack("<I", len(text)) + text + b"".join(a.tobytes() for a in arrays)
    return struct.pack("<I", len(body)) + body


def unpack(body: bytes) -> tuple[Any, list[np.ndarray]]:
    """Return the JSON value of a message and its arrays.

    Raises:
        WireError: It is not a message.
    """
    try:
        (length,) = struct.unpack_from("<I", body)
        head = json.loads(body[4 : 4 + length])
        arrays, at = [], 4 + length
        for name, shape in head["arrays"]:
            if len(shape) > 12 or any(type(n) is not int or n < 0 for n in shape):
                raise ValueError("shape")
            count = math.prod(shape)
            arrays.append(np.frombuffer(body, DTYPES[name], count, at).reshape(shape))
            at += arrays[-1].nbytes
        return head["value"], arrays
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError) as error:
        raise WireError("not a message") from error


def read(stream: BinaryIO) -> bytes | None:
    """Read the body of the next message; None at the end.

    Raises:
        WireError: It is too large.
    """
    head = stream.read(4)
    if len(head) < 4:
        return None
    (size,) = struct.unpack("<I", head)
    if size > MOST_BYTES + 8:
        raise WireError("too large")
    body = stream.read(size)
    return body if len(body) == size else None


def send(fd: int, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
