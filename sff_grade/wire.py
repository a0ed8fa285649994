"""What judge and judged say to each other: plain values and arrays, never objects.

A message is laid out like a safetensors file: four bytes with the length of a JSON text, the text,
then the arrays' bytes. Nothing that is read here can become code, and sizes are limited before
anything is made of them. This file lies in the jail as well, so it imports nothing of the course.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import torch

MOST_BYTES = 64 << 20  # of a message
MOST_CHARACTERS = 2_000  # of a string in an answer
NUMBERS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


class WireError(ValueError):
    """A message that is none, or is too large."""


def clean(text: object, most: int = MOST_CHARACTERS) -> str:
    """A text as pages, tables and terminals can hold it: valid, printable and not too long."""
    text = str(text)[:most].encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def encode(value: Any, arrays: list[np.ndarray], sent: list) -> Any:
    """Turn a value into JSON, with its arrays put aside.

    Args:
        value: Numbers, texts, tensors, arrays, generators, and containers of them.
        arrays: Gets the arrays, in the order in which the JSON names them.
        sent: Gets the tensors, arrays and generators themselves, in the same order.

    Raises:
        TypeError: Something else is among them.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        items = [encode(item, arrays, sent) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        return {"dict": [encode(list(pair), arrays, sent) for pair in value.items()]}
    tree = {"is": "tensor", "number": len(arrays)}
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().resolve_conj().resolve_neg()
        array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        tree["grad"] = value.requires_grad
    elif isinstance(value, torch.Generator):
        array, tree["is"] = value.get_state().numpy(), "generator"
    elif isinstance(value, np.ndarray):
        array, tree["is"] = value, "array"
    else:
        raise TypeError(f"a {type(value).__name__} is no number, text or array")
    if array.dtype.name not in NUMBERS:
        raise TypeError(f"arrays of {array.dtype.name} cannot be sent")
    arrays.append(array)
    sent.append(value)
    return tree


def decode(tree: Any, arrays: list[np.ndarray], made: list, single: bool = False) -> Any:
    """Make the value again that `encode` was given.

    Args:
        tree: The JSON.
        arrays: Of the message.
        made: Gets tensors, arrays and generators in the order of their numbers.
        single: Floating-point tensors become float32, whatever they were.
    """
    if isinstance(tree, str):
        return clean(tree)
    if isinstance(tree, list):
        return [decode(item, arrays, made, single) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tuple" in tree:
        return tuple(decode(tree["tuple"], arrays, made, single))
    if "dict" in tree:
        return dict(decode(tree["dict"], arrays, made, single))
    value = arrays[tree["number"]].copy()
    if tree["is"] == "generator":
        value = torch.Generator().set_state(torch.from_numpy(value))
    elif tree["is"] == "tensor":
        value = torch.from_numpy(value)
        if single and value.is_floating_point():
            value = value.float()
        value.requires_grad = tree["grad"]
    made.append(value)
    return value


def pack(tree: Any, arrays: list[np.ndarray] = ()) -> bytes:
    """Return the bytes of a message.

    Raises:
        WireError: It would be too large.
    """
    text = json.dumps({"value": tree, "arrays": [[a.dtype.name, a.shape] for a in arrays]}).encode()
    size = len(text) + sum(a.nbytes for a in arrays)
    if size > MOST_BYTES:
        raise WireError(f"the message takes {size / 2**20:.0f} MB")
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
            if name not in NUMBERS or any(type(n) is not int or n < 0 for n in shape):
                raise ValueError("no array of numbers")
            flat = np.frombuffer(body, name, math.prod(shape), at)
            arrays.append(flat.reshape(shape))
            at += flat.nbytes
        return head["value"], arrays
    except Exception as error:  # bytes of a student's choice
        raise WireError("not a message") from error
