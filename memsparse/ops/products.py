"""Inner products of a tile of keys with the routing queries, in this machine's fastest arithmetic.

The keys are the rows that stream by, the queries the small matrix that stays: (M, W) x (R, W) -> (M, R).
Our own kernel multiplies what it takes, torch the rest. Which arithmetic is fastest is found by trying each
once on small tensors; one that is not as exact as a bound claims (some processors without integer dot
products saturate sums) is not used.

M chunks of a tile, B requests, R routing tokens of all requests, W routing width.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from memsparse.errors import ConfigError
from memsparse.ops.native import scans
from memsparse.ops.quantization import KeyFormat, ScanKeys, unpack_codes
from memsparse.ops.routing import inner_products

Arithmetic = Literal["int8", "bf16", "float32"]
"""What queries are rounded to, and keys multiplied in."""

EXACT: dict[KeyFormat, tuple[Arithmetic, ...]] = {
    "float32": ("float32",),
    "bf16": ("bf16", "float32"),
    "fp8": ("bf16", "float32"),
    "int8": ("int8", "bf16", "float32"),
    "int4": ("int8", "bf16", "float32"),
    "binary": ("int8", "bf16", "float32"),
}
"""Arithmetics that hold a format's codes exactly."""
FINER: dict[Arithmetic, Arithmetic] = {"int8": "float32", "bf16": "float32"}
"""The arithmetic that rounds next to nothing, for the same keys."""
ROUNDED_SUM: dict[Arithmetic, float] = {"int8": 0.0, "bf16": 1.01 * 2.0**-8, "float32": 0.0}
"""What torch's rounding of a finished sum to the result's dtype costs at most, relative to the sum."""
WIDEST = 2**17
"""Columns up to which int32 holds a sum of int8 products."""
_DTYPES: dict[Arithmetic, torch.dtype] = {
    "int8": torch.int8,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
}
_LARGEST = 127
"""Of int8."""
_WHOLE = scans.TILE_BYTES
"""Columns that are whole rows of tiles, of numbers of one byte or more."""
_TRIAL = (192, 1024, 32)
"""Chunks, least width and tokens of a trial."""
_ROUNDS = 12
_PRODUCTS = 2**20
"""Inner products torch computes at a time, about."""
_ROWS = (256, 4096)
"""Chunks torch multiplies at a time, fewest and most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedQueries:
    """Routing tokens in one arithmetic: q is about values * unit, one unit per request."""

    arithmetic: Arithmetic
    values: Tensor | scans.Vectors
    """(R, W) bf16 or float32, not above 1 in size, or int8; or as our own kernel takes these."""
    units: Tensor
    """(B,) float32, positive."""
    longest: Tensor
    """(B,) float64, the longest token of each request, in its units; within 2^-23 of it."""
    lost: Tensor
    """(B,) float64, the most that rounding took from a token, as a norm, in units; no less than it took."""


class Room:
    """Memory that is used again: on a CPU fresh memory for every tile costs as much as the product."""

    def __init__(self) -> None:
        self._taken: dict[torch.dtype, Tensor] = {}

    def take(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """A CPU tensor whose values are left over from its last use."""
        size = shape[0] * shape[1]
        held = self._taken.get(dtype)
        if held is None or len(held) < size:
            held = self._taken[dtype] = torch.empty(size, dtype=dtype)
        return held[:size].view(shape)


def round_queries(
    tokens_RW: Tensor, tokens: Sequence[int], arithmetic: Arithmetic, *, by_kernel: bool = False
) -> RoundedQueries:
    """Round routing tokens to an arithmetic; what that takes is measured, not estimated.

    Args:
        tokens_RW: float32.
        tokens: how many of them each request has, in order; at least 1.
        by_kernel: as our own kernel takes them, which must do so.
    """
    if by_kernel:
        vectors, units, norms, losses = scans.round_tokens(tokens_RW, tokens, _DTYPES[arithmetic])
        return RoundedQueries(arithmetic=arithmetic, values=vectors, units=units, longest=norms, lost=losses)
    requests, counts = len(tokens), torch.tensor(tokens, device=tokens_RW.device)
    request_R = torch.repeat_interleave(torch.arange(requests, device=tokens_RW.device), counts)

    def largest(values_R: Tensor) -> Tensor:
        return values_R.new_zeros(requests).scatter_reduce(0, request_R, values_R, "amax")

    def longest(rows_RW: Tensor) -> Tensor:
        return largest(torch.linalg.vector_norm(rows_RW, dim=1, dtype=torch.float64))

    # A floor keeps a float32 of the unit a normal number.
    peak = largest(tokens_RW.abs().amax(1)).clamp_min(2.0**-90).double()
    units = peak / _LARGEST if arithmetic == "int8" else torch.exp2(torch.ceil(torch.log2(peak)))
    units = units.float()
    scaled = tokens_RW / units[request_R, None]
    values = (scaled.round() if arithmetic == "int8" else scaled).to(_DTYPES[arithmetic])
    lost = peak.new_zeros(requests) if values is scaled else longest(scaled - values)
    # Dividing rounds to float32, by a power of two only what is too small for it.
    inexact = _LARGEST * 2.0**-23 if arithmetic == "int8" else 2.0**-125
    return RoundedQueries(
        arithmetic=arithmetic,
        values=values,
        units=units,
        longest=longest(scaled),
        lost=lost + inexact * tokens_RW.shape[1] ** 0.5,
    )


class BestProducts:
    """The best product of each request's tokens with keys that stream by, tile after tile."""

    def __init__(self, queries: RoundedQueries, tokens: Sequence[int]) -> None:
        """Take the queries; by our own kernel if they were rounded for it.

        Args:
            tokens: how many each request has, in order; at least 1.
        """
        self.queries = queries
        self.tokens = list(tokens)
        self._even = len(set(self.tokens)) == 1
        self._room = Room()
        self._vectors = queries.values if isinstance(queries.values, scans.Vectors) else None

    @property
    def rounded_sum(self) -> float:
        """What rounding a finished sum costs at most, relative to the sum."""
        return 0.0 if self._vectors is not None else ROUNDED_SUM[self.queries.arithmetic]

    def of(self, keys: ScanKeys) -> Tensor:
        """(M, B) float32, in units."""
        if self._vectors is not None:
            return scans.best_products(_codes_for(keys, self._vectors), self._vectors)
        rows = min(max(_PRODUCTS // sum(self.tokens), _ROWS[0]), _ROWS[1])
        best_MB = torch.empty(len(keys), len(self.tokens), dtype=torch.float32, device=keys.device)
        for start in range(0, len(keys), rows):
            part = keys.narrow(start, min(rows, len(keys) - start))
            products = tile_products(part, self.queries, self._room)
            here = best_MB[start : start + rows]
            if self._even:
                here.copy_(products.view(len(part), len(self.tokens), -1).amax(2))
            else:
                for request, own in enumerate(products.split(self.tokens, dim=1)):
                    here[:, request] = own.amax(1)
        return best_MB

    def raise_bounds(
        self,
        keys: ScanKeys,
        doc_of_chunk: Tensor,
        units_B: Tensor,
        of_errors_B: Tensor,
        of_norms_B: Tensor,
        bounds_2NB: Tensor,
    ) -> bool:
        """Raise bounds of documents, as `scan_documents` explains them, in one pass with the products.

        Returns: whether that was done: not without our kernel, nor for documents that do not ascend.
        """
        if self._vectors is None:
            return False
        codes, factors = _codes_for(keys, self._vectors), (units_B, of_errors_B, of_norms_B)
        return scans.scan(codes, self._vectors, keys, doc_of_chunk, *factors, bounds_2NB)


def kernel_multiplies(arithmetic: Arithmetic, width: int) -> bool:
    """Whether our own kernel takes such queries on this processor, and is sound."""
    return _kernel_takes(arithmetic, width) and _fastest_way((arithmetic,), width)[1]


def tile_products(keys: ScanKeys, queries: RoundedQueries, room: Room | None = None) -> Tensor:
    """Inner products of the codes with the rounded queries: (M, R) int32 or float32.

    Args:
        queries: not those rounded for our own kernel.
        room: memory to use, again for every tile; the next tile writes over what this one returned.
    """
    room, values = room or Room(), queries.values
    assert isinstance(values, Tensor)
    shape = len(keys), len(values)
    if queries.arithmetic == "int8":
        return torch._int_mm(unpack_codes(keys), values.T, out=room.take(shape, torch.int32))
    if queries.arithmetic == "bf16" and keys.device.type == "cpu":
        rounded = room.take(shape, torch.bfloat16)
        torch.mm(_codes_as(keys, torch.bfloat16), values.T, out=rounded)
        return room.take(shape, torch.float32).copy_(rounded)  # the max of bf16 is many times slower
    return inner_products(_codes_as(keys, _DTYPES[queries.arithmetic])[None], values)[0]


def fastest_arithmetic(key_format: KeyFormat, width: int, device: torch.device) -> Arithmetic:
    """The fastest way to multiply such keys here; accelerators without a kernel of their own take float32."""
    if device.type != "cpu":
        return "float32"
    choices = tuple(a for a in EXACT[key_format] if a != "int8" or width <= WIDEST)
    return choices[0] if len(choices) == 1 else _fastest_way(choices, width)[0]


def multiplies_integers(width: int) -> bool:
    """Whether integers are what this processor multiplies fastest."""
    return fastest_arithmetic("int8", width, torch.device("cpu")) == "int8"


def _codes_for(keys: ScanKeys, vectors: scans.Vectors) -> Tensor:
    """The codes as the kernel multiplies them with such tokens: it widens integers itself."""
    widens = vectors.dtype == torch.float32 and keys.format in ("int8", "int4", "binary")
    return unpack_codes(keys) if widens else _codes_as(keys, vectors.dtype)


def _codes_as(keys: ScanKeys, dtype: torch.dtype) -> Tensor:
    if keys.format != "fp8" or keys.device.type != "cpu":
        return unpack_codes(keys).to(dtype)
    # By their bits, many times faster than torch converts on a CPU: sign, 4 bits of exponent, 3 of fraction
    # go where bf16 has them; no code is subnormal, and the exponent's bias is off by 120.
    bits = keys.codes.view(torch.int8).to(torch.int16)
    moved = bits.bitwise_left_shift_(4).bitwise_and_(-30736).view(torch.bfloat16)
    return moved.to(dtype).mul_(2.0**120)


def _kernel_takes(arithmetic: Arithmetic, width: int) -> bool:
    return scans.can_multiply(_DTYPES[arithmetic], width)


def _fastest_way(choices: tuple[Arithmetic, ...], width: int) -> tuple[Arithmetic, bool]:
    """The arithmetic, and whether the kernel is to multiply: only what was found sound is ever used."""
    taken = tuple(name for name in choices if _kernel_takes(name, width))
    return _fastest(choices, taken, width % _WHOLE, torch.get_num_threads())


@cache
def _fastest(
    choices: tuple[Arithmetic, ...], taken: tuple[Arithmetic, ...], left: int, threads: int
) -> tuple[Arithmetic, bool]:
    """Try each, by our kernel if it takes it and is sound, else by torch.

    Args:
        left: columns over whole rows of tiles, which decide which kernel multiplies.
        threads: part of what is remembered, because they decide too.

    The kernel and torch's product are not timed against each other: what is small enough to try fits the
    caches and one thread, and there torch wins what it loses on keys that stream.
    """
    chunks, width, tokens = _TRIAL
    width += left
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (chunks, width), generator=generator, dtype=torch.int8)
    codes[0] = 127
    is_integer = "int8" in choices
    keys = ScanKeys(
        format="int8" if is_integer else "bf16",
        codes=codes if is_integer else codes.to(torch.bfloat16),
        scales=torch.ones(chunks) if is_integer else None,
        errors=torch.zeros(chunks),
        norms=codes.float().norm(dim=1),
    )
    q = torch.rand(tokens, width, generator=generator) - 0.5
    q[0] = 0.5
    trials: dict[tuple[Arithmetic, bool], BestProducts] = {}
    for name in choices:
        for by_kernel in (True, False)[name not in taken :]:
            if _is_sound(keys, q, name, by_kernel=by_kernel):
                queries = round_queries(q, [tokens], name, by_kernel=by_kernel)
                trials[name, by_kernel] = BestProducts(queries, [tokens])
                break
    if not trials:
        raise ConfigError(f"no matrix product of {' or '.join(choices)} works here; check the torch build")
    if len(trials) == 1:
        return next(iter(trials))
    took = dict.fromkeys(trials, float("inf"))
    for _ in range(_ROUNDS):  # in turns, so that whatever else the machine does slows all of them
        for way, products in trials.items():
            began = time.perf_counter()
            products.of(keys)
            took[way] = min(took[way], time.perf_counter() - began)
    return min(took, key=lambda way: took[way])


def _is_sound(keys: ScanKeys, tokens_RW: Tensor, arithmetic: Arithmetic, *, by_kernel: bool) -> bool:
    """Whether there is such a product, and it is as exact as the bounds take it to be."""
    alone = [1] * len(tokens_RW)
    plain = round_queries(tokens_RW, alone, arithmetic)
    assert isinstance(plain.values, Tensor)
    try:
        each = BestProducts(round_queries(tokens_RW, alone, arithmetic, by_kernel=by_kernel), alone)
        product = each.of(keys).double()
    except (AttributeError, RuntimeError, TypeError):
        return False
    exact = keys.codes.double() @ plain.values.double().T
    sums = 2.0**-24 if arithmetic == "int8" else float_slack(keys.width)
    room = each.rounded_sum * exact.abs()
    room += sums * torch.outer(keys.norms, plain.values.float().norm(dim=1))
    return bool(((product - exact).abs() <= room).all())


def float_slack(width: int) -> float:
    """How far a float32 sum of W products lies from the true one, relative to ||q|| ||k||, in any order.

    Twice the textbook (W + 1) 2^-24: some processors cut where others round.
    """
    return (width + 8) * 2.0**-23
