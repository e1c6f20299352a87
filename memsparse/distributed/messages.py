"""What ranks tell one another: JSON values and tensors, each message fused into one run of bytes.

    8 bytes    n, the bytes of all of this
    4 bytes    j, the bytes of JSON
    j bytes    {"values": {...}, "tensors": [[name, dtype, shape, offset], ...], "bytes": of the payload}
    ...        the payload: the tensors, each at a multiple of 16 bytes

The payload may travel apart from the rest, from accelerator to accelerator.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from memsparse.errors import EngineError

FIRST = 4096
"""Bytes of the first part of every message; a second one follows only where more is left."""
_SIZES = struct.Struct("<QI")
_ALIGNED = 16
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16, torch.bfloat16)
}


@dataclass(frozen=True, slots=True)
class Message:
    """A command, or the reply to one."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def payload(message: Message, device: str) -> Tensor:
    """The message's tensors, one behind the other: (n,) uint8 on a device."""
    ends = _ends(message.tensors)
    flat = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8, device=device)
    for tensor, end in zip(message.tensors.values(), ends, strict=True):
        start = end - _aligned(tensor.nbytes)
        flat[start : start + tensor.nbytes] = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return flat


def pack(message: Message, *, with_payload: bool = True) -> Tensor:
    """The message as bytes on the CPU: (n,) uint8, n at least `FIRST`."""
    ends = _ends(message.tensors)
    rows = [
        [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), end - _aligned(tensor.nbytes)]
        for (name, tensor), end in zip(message.tensors.items(), ends, strict=True)
    ]
    told = json.dumps({"values": message.values, "tensors": rows, "bytes": ends[-1] if ends else 0}).encode()
    start = _aligned(_SIZES.size + len(told))
    flat = payload(message, "cpu") if with_payload else torch.empty(0, dtype=torch.uint8)
    buffer = torch.zeros(max(start + len(flat), FIRST), dtype=torch.uint8)
    head = _SIZES.pack(start + len(flat), len(told)) + told
    buffer[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    buffer[start : start + len(flat)] = flat
    return buffer


def length(first: Tensor) -> int:
    """Bytes of a whole message, by its first part (FIRST,) uint8."""
    return max(int(_SIZES.unpack(_text(first[: _SIZES.size]))[0]), FIRST)


def payload_bytes(buffer: Tensor) -> int:
    """Bytes of the payload of a message (n,) uint8, wherever that travels."""
    return int(_read(buffer)[0]["bytes"])


def unpack(buffer: Tensor, flat: Tensor | None = None) -> Message:
    """The message of bytes (n,) uint8, with a payload that came apart or within; tensors are views of it.

    Raises: EngineError if they are no message.
    """
    told, start = _read(buffer)
    if flat is None:
        flat = buffer[start:]
    try:
        tensors = {
            name: flat[offset : offset + prod(shape) * _DTYPES[dtype].itemsize]
            .view(_DTYPES[dtype])
            .view(shape)
            for name, dtype, shape, offset in told["tensors"]
        }
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unreadable(error) from error
    return Message(told["values"], tensors)


def _read(buffer: Tensor) -> tuple[dict[str, Any], int]:
    """The JSON of a message, and where its payload would start."""
    try:
        _, size = _SIZES.unpack(_text(buffer[: _SIZES.size]))
        told: dict[str, Any] = json.loads(_text(buffer[_SIZES.size : _SIZES.size + size]))
    except (ValueError, struct.error) as error:
        raise _unreadable(error) from error
    return told, _aligned(_SIZES.size + size)


def _unreadable(error: Exception) -> EngineError:
    return EngineError(
        f"a message between ranks cannot be read ({error}); run the same version of memsparse on all of them"
    )


def _text(buffer: Tensor) -> bytes:
    return bytes(buffer.numpy())


def _ends(tensors: Mapping[str, Tensor]) -> list[int]:
    ends: list[int] = []
    for tensor in tensors.values():
        ends.append((ends[-1] if ends else 0) + _aligned(tensor.nbytes))
    return ends


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
