"""Routing keys as a scan reads them: quantised, with a bound on what that lost.

C chunks, W = G*D routing width. A key k becomes k~ = codes * scale, one scale per chunk, and the Euclidean
norm of what was lost is kept beside it: by Cauchy-Schwarz |<q, k> - <q, k~>| <= ||q|| ||k - k~|| for every
query.
"""

import contextlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from memsparse.errors import ConfigError, InputError, ShapeError

KeyFormat = Literal["float32", "bf16", "fp8", "int8", "int4", "binary"]

_CODES: dict[str, tuple[torch.dtype, int]] = {
    "float32": (torch.float32, 1),
    "bf16": (torch.bfloat16, 1),
    "fp8": (torch.float8_e4m3fn, 1),
    "int8": (torch.int8, 1),
    "int4": (torch.uint8, 2),
    "binary": (torch.uint8, 8),
}
"""Dtype of the codes, and columns in one of them."""
_LARGEST: dict[str, float] = {
    "float32": torch.finfo(torch.float32).max,
    "bf16": torch.finfo(torch.bfloat16).max,  # rounding would take what lies above it to infinity
    "fp8": 448.0,
    "int8": 127.0,
    "int4": 7.0,
}
_HUGE = 2**24
"""Bytes of codes from which on they lie in huge pages, where a CPU reads them faster."""
_ROWS = 512
"""Chunks quantised at a time: what a core's cache holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanKeys:
    """Keys of C chunks in one format; k~ = codes * scale stands for the key k."""

    format: KeyFormat
    codes: Tensor
    """(C, W) float32, bf16, float8_e4m3fn or int8; (C, W/2) uint8 for int4, (C, W/8) uint8 for binary.

    int4: column j and column W/2 + j share byte j, low and high nibble, each as code + 8.
    binary: bit i of byte j is column i*W/8 + j, 1 for +1 and 0 for -1. fp8: no subnormal numbers.
    """
    scales: Tensor | None
    """(C,) float32, not negative; None for float32 and bf16."""
    errors: Tensor
    """(C,) float32, rounded up: ||k - k~|| <= errors; 0 where nothing was lost."""
    norms: Tensor
    """(C,) float32, rounded up: ||k~|| <= norms. What rounding the query costs is at most in proportion."""
    basis: Tensor | None = None
    """(W, r) float32: the codes stand for r numbers in these columns in place of W, and errors and norms are
    those of `ops.projection`. None: the codes are of the key itself."""

    def __post_init__(self) -> None:
        if self.format not in _CODES:
            raise ConfigError(f"key format is {self.format!r}; use one of {', '.join(get_args(KeyFormat))}")
        dtype, _ = _CODES[self.format]
        if self.codes.ndim != 2 or self.codes.dtype != dtype:
            raise ShapeError(
                f"{self.format} codes are {tuple(self.codes.shape)} {self.codes.dtype}; pass (C, W) {dtype}"
            )
        if (self.scales is None) != (self.format in ("float32", "bf16")):
            raise ShapeError(f"{self.format} keys {'lack' if self.scales is None else 'take no'} scales")
        for tensor in (self.scales, self.errors, self.norms):
            if tensor is not None and tensor.shape != self.codes.shape[:1]:
                raise ShapeError(
                    f"{tuple(tensor.shape)} scales, errors or norms for {len(self.codes)} chunks"
                )
        if self.basis is not None and self.basis.shape[1:] != (self.columns,):
            raise ShapeError(f"the basis is {tuple(self.basis.shape)} for keys of {self.columns} columns")

    def __len__(self) -> int:
        """C, the chunks."""
        return len(self.codes)

    @property
    def width(self) -> int:
        """W, the columns of a query."""
        return self.columns if self.basis is None else len(self.basis)

    @property
    def columns(self) -> int:
        """Those of a key as it is multiplied: W, or r where there is a basis."""
        return self.codes.shape[1] * _CODES[self.format][1]

    @property
    def device(self) -> torch.device:
        """Where the codes lie."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in (self.codes, self.scales, self.errors, self.norms) if t is not None)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ScanKeys":
        """The same keys on another device."""
        return self._with([t.to(device, non_blocking=non_blocking) for t in self._tensors()])

    def pin_memory(self) -> "ScanKeys":
        """The same keys in page-locked memory, from which an accelerator copies on its own."""
        return self._with([t.pin_memory() for t in self._tensors()])

    def narrow(self, start: int, length: int) -> "ScanKeys":
        """Chunks `start` to `start + length`, as a view."""
        if start == 0 and length == len(self):
            return self
        return self._with([t.narrow(0, start, length) for t in self._tensors()])

    def select(self, rows: Tensor) -> "ScanKeys":
        """Chunks `rows` (R,) int64, in that order."""
        # float8 cannot be indexed everywhere; bytes can.
        codes = self.codes.view(torch.uint8).index_select(0, rows).view(self.codes.dtype)
        return self._with([codes, *(t.index_select(0, rows) for t in self._tensors()[1:])])

    @staticmethod
    def join(parts: Sequence["ScanKeys"]) -> "ScanKeys":
        """Keys of one format, one after the other.

        Raises: ShapeError for no parts, or parts that differ in format, width or basis.
        """
        kinds = {(part.format, part.columns, id(part.basis)) for part in parts}
        if len(kinds) != 1:
            told = sorted({kind[:2] for kind in kinds})
            raise ShapeError(f"keys of {told} do not join; pass parts of one format, width and basis")
        codes, *others = zip(*(part._tensors() for part in parts), strict=True)
        together = _empty_codes(sum(map(len, codes)), codes[0].shape[1], codes[0].dtype, codes[0].device)
        torch.cat([c.view(torch.uint8) for c in codes], out=together.view(torch.uint8))
        return parts[0]._with([together, *(torch.cat(tensors) for tensors in others)])

    def _tensors(self) -> list[Tensor]:
        scales = [] if self.scales is None else [self.scales]
        return [self.codes, self.errors, self.norms, *scales]

    def _with(self, tensors: list[Tensor]) -> "ScanKeys":
        codes, errors, norms, *scales = tensors
        return ScanKeys(
            format=self.format,
            codes=codes,
            scales=scales[0] if scales else None,
            errors=errors,
            norms=norms,
            basis=None if self.basis is None else self.basis.to(codes.device),
        )


def key_bytes(width: int, format: KeyFormat) -> int:  # noqa: A002 - the word everywhere else
    """Bytes one chunk's routing key takes in a scan, scale and bounds included."""
    dtype, columns = _CODES[format]
    return width // columns * dtype.itemsize + (8 if format in ("float32", "bf16") else 12)


def quantize_keys(keys_CW: Tensor, format: KeyFormat) -> ScanKeys:  # noqa: A002
    """Quantise routing keys chunk by chunk, each on its own: no key depends on its neighbours.

    Args:
        keys_CW: (C, W) of any floating dtype, finite.

    Raises: ShapeError if the keys are no matrix or W does not divide into bytes; ConfigError for an unknown
        format; InputError if a key is not finite, or longer than float32 can say.
    """
    if format not in _CODES:
        raise ConfigError(f"key format is {format!r}; use one of {', '.join(get_args(KeyFormat))}")
    dtype, columns = _CODES[format]
    if keys_CW.ndim != 2 or keys_CW.shape[1] % columns:
        raise ShapeError(f"keys are {tuple(keys_CW.shape)}; {format} takes (chunks, a multiple of {columns})")
    chunks, width = keys_CW.shape
    scaled = format not in ("float32", "bf16")
    keys = ScanKeys(
        format=format,
        codes=_empty_codes(chunks, width // columns, dtype, keys_CW.device),
        scales=torch.empty(chunks, device=keys_CW.device) if scaled else None,
        errors=torch.empty(chunks, device=keys_CW.device),
        norms=torch.empty(chunks, device=keys_CW.device),
    )
    for start in range(0, chunks, _ROWS):
        rows = keys_CW[start : start + _ROWS].detach().float()
        part = keys.narrow(start, len(rows))
        if part.scales is None:
            part.codes.copy_(rows.clamp(-_LARGEST[format], _LARGEST[format]))
            part.norms.copy_(row_norms(part.codes.float()))
            part.errors.copy_(row_norms(rows - part.codes.float()))
        else:
            _quantize_rows(rows, part, part.scales)
    # Without scales the numbers themselves are added up, at most the root of their number times the norm.
    reach = (keys.norms + keys.errors) * (1.0 if scaled else width**0.5)
    if not bool(reach.isfinite().all()):
        raise InputError("a routing key is not finite, or too long for float32; look for NaN in the keys")
    return keys


def _quantize_rows(rows: Tensor, keys: ScanKeys, scales_C: Tensor) -> None:
    """Fill in keys that have scales."""
    width = rows.shape[1]
    peaks = rows.abs().amax(1) if width else rows.new_zeros(len(rows))
    scales = rows.abs().mean(1) if keys.format == "binary" else peaks / _LARGEST[keys.format]
    # A scale below the least normal number loses its digits: such keys are zero for the scan.
    there = ~(scales < torch.finfo(torch.float32).tiny)
    scales_C.copy_(torch.where(there, scales, 0))
    scaled = rows / torch.where(there, scales, torch.inf)[:, None]
    values = _round(scaled, keys.format)
    keys.codes.copy_(_pack(values, keys.format))
    slack = 1 + (width + 8) * 2.0**-23
    keys.norms.copy_(scales_C * values.norm(dim=1) * slack)
    # Differences of neighbouring floats are exact; what the division rounded is in proportion to its result.
    lost = (scaled - values).norm(dim=1) * slack + scaled.norm(dim=1) * 2.0**-22
    keys.errors.copy_(torch.where(there, scales_C * lost, peaks * width))


def dequantize_keys(keys: ScanKeys) -> Tensor:
    """k~ = codes * scale, rounded to float32: (C, W)."""
    values = unpack_codes(keys).float()
    return values if keys.scales is None else values * keys.scales[:, None]


def unpack_codes(keys: ScanKeys) -> Tensor:
    """The codes one column each: (C, W), int8 for int4 and binary, else as they are."""
    if keys.format == "int4":
        low, high = keys.codes & 15, keys.codes >> 4
        return torch.cat([low, high], dim=1).view(torch.int8) - 8
    if keys.format == "binary":
        planes = [((keys.codes >> bit) & 1) for bit in range(8)]
        return torch.cat(planes, dim=1).view(torch.int8) * 2 - 1
    return keys.codes


def round_up(values: Tensor) -> Tensor:
    """The least float32 not below float64 values."""
    nearest = values.float()
    above = nearest.nextafter(torch.full_like(nearest, torch.inf))
    return torch.where(nearest.double() < values, above, nearest)


def _empty_codes(chunks: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(C, columns), in huge pages where there are such: a scan then waits less for memory."""
    size = chunks * columns * dtype.itemsize
    if device.type != "cpu" or size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(chunks, columns, dtype=dtype, device=device)
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without them
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=dtype).view(chunks, columns)


def row_norms(rows: Tensor) -> Tensor:
    """Upper bounds of the norms of float32 rows, of whatever size: (C,)."""
    width = rows.shape[1]
    peaks = rows.abs().amax(1) if width else rows.new_zeros(len(rows))
    units = peaks.clamp_min(2.0**-100)
    norms = (rows / units[:, None]).norm(dim=1) * units * (1 + (width + 8) * 2.0**-22)
    # Below the least normal number floats lose their digits.
    return torch.where(norms > 0, norms + torch.finfo(torch.float32).tiny, norms)


def _round(scaled: Tensor, format: KeyFormat) -> Tensor:  # noqa: A002
    """The nearest numbers the format has, as float32."""
    if format == "binary":
        return torch.where(scaled < 0, -1.0, 1.0)
    values = scaled.clamp(-_LARGEST[format], _LARGEST[format])
    if format == "fp8":
        # No subnormal codes: a bf16 product takes them for 0, and as errors they are next to nothing.
        return torch.where(values.abs() < 2.0**-6, 0, values).to(torch.float8_e4m3fn).float()
    return values.round()


def _pack(values: Tensor, format: KeyFormat) -> Tensor:  # noqa: A002
    if format == "int4":
        low, high = (values + 8).to(torch.uint8).chunk(2, dim=1)
        return low | (high << 4)
    if format == "binary":
        planes = (values > 0).to(torch.uint8).chunk(8, dim=1)
        packed = planes[0].clone()
        for bit, plane in enumerate(planes[1:], start=1):
            packed |= plane << bit
        return packed
    return values
