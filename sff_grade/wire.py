"""What judge and judged say to each other: plain values and arrays, never objects.

A message is laid out like a safetensors file: four bytes with the length of a JSON text, the text,
then the arrays' bytes. Nothing that is read here can become code, and sizes are limited before
anything is made of them. This file lies in the jail as well, so it imports nothing of the course.
"""

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

MOST_BYTES = 64 << 20  # of a message
MOST_CHARACTERS = 20_000  # of a text that a person may read
NUMBERS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
KINDS = {torch.Tensor: "tensor", np.ndarray: "array", torch.Generator: "generator"}


def clean(text: object, most: int = MOST_CHARACTERS) -> str:
    """A text as pages, tables and terminals can hold it: valid, printable and not too long."""
    text = str(text)[:most].encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def pack(value: Any, sent: list) -> bytes:
    """Return the bytes of a message.

    Args:
        value: Numbers, texts, tensors, arrays, generators, and containers of them.
        sent: Gets the tensors, arrays and generators in the order of their numbers.

    Raises:
        TypeError: Something else is among them.
        ValueError: The message would be too large.
    """
    tree = _tree(value, sent)
    arrays = [as_array(each) for each in sent]
    text = json.dumps({"value": tree, "arrays": [[a.dtype.name, a.shape] for a in arrays]}).encode()
    size = len(text) + sum(a.nbytes for a in arrays)
    if size > MOST_BYTES:
        raise ValueError(f"{size / 2**20:.0f} MB are too much to send")
    body = struct.pack("<I", len(text)) + text + b"".join(a.tobytes() for a in arrays)
    return struct.pack("<I", len(body)) + body


def _tree(value: Any, sent: list) -> Any:
    """The JSON of a value, with its arrays put aside."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return {"is": type(value).__name__, "items": [_tree(item, sent) for item in value]}
    if isinstance(value, dict):
        return {"is": "dict", "items": [_tree(pair, sent) for pair in value.items()]}
    for kind, name in KINDS.items():
        if isinstance(value, kind):
            sent.append(value)
            grad = isinstance(value, torch.Tensor) and value.requires_grad
            return {"is": name, "number": len(sent) - 1, "grad": grad}
    raise TypeError(f"a {type(value).__name__} is no number, text or array")


def as_array(value: torch.Tensor | np.ndarray | torch.Generator) -> np.ndarray:
    """The numbers of a tensor or an array; the state of a generator."""
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if value.dtype.name not in NUMBERS:
        raise TypeError(f"arrays of {value.dtype.name} cannot be sent")
    return value


def unpack(body: bytes, made: list, text: Callable[[str], str] = str, single: bool = False) -> Any:
    """Return the value of a message.

    Args:
        body: The message, behind the four bytes of its length.
        made: Gets tensors, arrays and generators in the order of their numbers.
        text: What is done to each text.
        single: Floating-point tensors become float32, whatever they were.

    Raises:
        Exception: It is not a message. Of which kind the error is depends on the bytes.
    """

    def make(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return text(tree) if isinstance(tree, str) else tree
        kind = tree["is"]
        if "items" in tree:
            items = [make(item) for item in tree["items"]]
            return {"tuple": tuple, "dict": dict}.get(kind, list)(items)
        value = arrays[tree["number"]].copy()
        if kind == "generator":
            value = torch.Generator().set_state(torch.from_numpy(value))
        elif kind == "tensor":
            value = torch.from_numpy(value)
            value = value.float() if single and value.is_floating_point() else value
            value.requires_grad = tree["grad"]
        made.append(value)
        return value

    (length,) = struct.unpack_from("<I", body)
    head = json.loads(body[4 : 4 + length])
    arrays, at = [], 4 + length
    for name, shape in head["arrays"]:
        kind = NUMBERS[NUMBERS.index(name)]  # no other
        arrays.append(np.frombuffer(body, kind, math.prod(shape), at).reshape(shape))
        at += arrays[-1].nbytes
    return make(head["value"])
