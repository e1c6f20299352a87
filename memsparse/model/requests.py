"""Many requests in one forward pass: their tokens lie end to end in one row, each attends to its own keys.

Whatever works token by token (projections, norms, feed-forward) runs once for all; attention runs request by
request, over keys that lie side by side. Nothing is padded, so no request feels how long its neighbours are.

N tokens of all requests, T of one, H query heads, G kv heads, D head_dim, S keys, M chunks, P tokens before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from memsparse.errors import ShapeError
from memsparse.ops.attention import attend_each
from memsparse.types import MemoryKV, MemoryReader, sifted_rows

ROOM = 64
"""Tokens that a request's keys leave room for, whenever they are laid out anew."""

_Reader = TypeVar("_Reader")
KeyValues = tuple[Tensor, Tensor]
"""k and v, (G, S, D) each."""


@dataclass(kw_only=True, slots=True)
class LayerKeys:
    """K and V of one request in one layer, in one piece: [selected chunks ; tokens before ; own tokens]."""

    k: Tensor
    """(G, capacity, D), of which `length` are kept; what lies behind may be written over."""
    v: Tensor
    bias: Tensor | None
    """(capacity,) float32 on the logits: the gate on the chunks, 0 on tokens. None: no gate."""
    length: int

    def room(self, tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """(k, v, bias) of those kept and of so many behind them, which are to be written.

        `RequestBatch.keep` makes these part of them.
        """
        end = self.length + tokens
        if end > self.k.shape[1]:
            more = end + ROOM - self.k.shape[1]
            self.k, self.v = (torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self.k, self.v))
            self.bias = None if self.bias is None else torch.nn.functional.pad(self.bias, (0, more))
        return self.k[:, :end], self.v[:, :end], None if self.bias is None else self.bias[:end]


class RequestCache:
    """The keys and values of one request, layer by layer."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerKeys] = {}

    def begin(
        self, layer_idx: int, parts: Sequence[KeyValues], *, tokens: int, bias_M: Tensor | None = None
    ) -> None:
        """Lay out a layer: what every token sees, and room for `tokens` and some more.

        Args:
            bias_M: on the logits of the first M keys.
        """
        length = sum(k.shape[1] for k, _ in parts)
        groups, _, width = parts[0][0].shape
        k = parts[-1][0].new_empty(groups, length + tokens + ROOM, width)
        v = torch.empty_like(k)
        start = 0
        for part_k, part_v in parts:
            here = slice(start, start + part_k.shape[1])
            k[:, here], v[:, here] = part_k, part_v
            start = here.stop
        if bias_M is not None:
            bias_M = torch.nn.functional.pad(bias_M, (0, k.shape[1] - len(bias_M)))
        self.layers[layer_idx] = LayerKeys(k=k, v=v, bias=bias_M, length=length)

    def kept(self, layer_idx: int) -> KeyValues:
        """The keys and values of a layer, those of tokens not kept left out; stays as it is."""
        layer = self.layers[layer_idx]
        return layer.k[:, : layer.length], layer.v[:, : layer.length]


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """What one request read at one memory layer."""

    kv: MemoryKV
    """Of this request alone (B = 1), without its K and V, which its cache holds."""
    queries: Tensor
    """(1, T, ...) the routing queries it asked with."""
    seconds: float
    """That the read took, for all requests of the reader."""


@dataclass(kw_only=True, slots=True)
class Part:
    """One request's share of a batch."""

    cache: RequestCache
    tokens: int
    reader: MemoryReader | None = None
    """What its memory layers read in this pass. None: what they attend to is in its cache already."""
    routes: Sequence[int] = ()
    """Which of its tokens route, counted from its first."""
    routed: dict[int, Routed] = field(default_factory=dict)
    """Filled by the pass: what it read, by layer."""


class RequestBatch:
    """What a forward pass takes as `past_key_values` for requests laid end to end in one row.

    A pass that fails leaves every cache as it was: tokens are kept only by `keep`.
    """

    def __init__(self, parts: Sequence[Part], head: Sequence[KeyValues], device: torch.device) -> None:
        """Describe the row.

        Args:
            head: for each layer, K and V of the prompt head, which stands behind the chunks that are read.
        """
        self.parts = parts
        self._head = head
        ends = list(accumulate(part.tokens for part in parts))
        self.length = filled(ends[-1])
        """N: tokens of the row, the idle ones at its end included."""
        self._lengths = [part.tokens for part in parts]
        self._reading = [(part, part.reader) for part in parts if part.reader is not None]
        self._sharing = by_reader([reader for _, reader in self._reading])
        rows = [end - part.tokens + at for end, part in zip(ends, parts, strict=True) for at in part.routes]
        rows += [0] * (filled(len(rows)) - len(rows))
        self.routing_rows = torch.tensor(rows, dtype=torch.long, device=device) if self._reading else None
        """Places of the tokens that route, in the row, filled up with idle ones. None: no request reads."""
        self.last_rows = torch.tensor(ends, dtype=torch.long, device=device) - 1
        """Place of every request's last token."""

    def get_seq_length(self) -> int:
        """What lies before the row itself: nothing."""
        return 0

    def read(self, layer_idx: int, routing_q: Tensor, gate_bias: Callable[[MemoryKV], Tensor | None]) -> None:
        """Route a memory layer: one read of each reader for all the requests that share it.

        Args:
            routing_q: queries of the `routing_rows`, (R, W), or (R, H, D) when heads are not averaged.
            gate_bias: (B, M) bias on the logits of the chunks that were read.
        """
        routes = [len(part.routes) for part, _ in self._reading]
        own = routing_q[: sum(routes)].split(routes)
        for reader, places in self._sharing:
            kv, seconds = _read(layer_idx, reader, [own[at] for at in places])
            bias_BM = gate_bias(kv)
            for b, (at, seen) in enumerate(zip(places, _seen(kv.mask[:, 0]), strict=True)):
                part, queries = self._reading[at][0], own[at]
                part.cache.begin(
                    layer_idx,
                    [(kv.k[b][:, seen], kv.v[b][:, seen]), self._head[layer_idx]],
                    tokens=part.tokens,
                    bias_M=None if bias_BM is None else bias_BM[b][seen],
                )
                part.routed[layer_idx] = Routed(kv=_row(kv, b), queries=queries[None], seconds=seconds)

    def attend(
        self,
        layer_idx: int,
        q_NHD: Tensor,
        k_NGD: Tensor,
        v_NGD: Tensor,
        scale: float,
        *,
        last_only: bool = False,
    ) -> Tensor:
        """Every request attends to its chunks, what came before, and itself.

        Returns: (N, H, D), or with `last_only` (R, H, D), of each request's last token.
        """
        keys = [part.cache.layers[layer_idx].room(part.tokens) for part in self.parts]
        own = k_NGD, v_NGD, self._lengths
        if last_only:
            return attend_each(q_NHD[self.last_rows], [1] * len(keys), keys, scale=scale, own=own)
        return attend_each(q_NHD, self._lengths, keys, scale=scale, own=own)

    def keep(self, layers: range) -> None:
        """Make the tokens of a finished pass through some layers part of what the requests keep."""
        for part in self.parts:
            for layer_idx in layers:
                part.cache.layers[layer_idx].length += part.tokens


def filled(tokens: int) -> int:
    """Tokens of a row once it is filled up: one of eight lengths between a power of two and the next.

    On a CPU the first bfloat16 product of every new shape costs a quarter of a millisecond; so shapes recur.
    """
    step = max(1, 1 << tokens.bit_length() - 1 >> 3) if tokens else 1
    return -(-tokens // step) * step


def by_reader(readers: Sequence[_Reader]) -> list[tuple[_Reader, list[int]]]:
    """Every reader once, and at which places it stands."""
    places: dict[int, list[int]] = {}
    for at, reader in enumerate(readers):
        places.setdefault(id(reader), []).append(at)
    return [(readers[own[0]], own) for own in places.values()]


def side_by_side(queries: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Routing queries of several requests, (T, ...) each, padded to (B, T, ...), and their mask (B, T)."""
    routing_q = pad_sequence(list(queries), batch_first=True)
    lengths = torch.tensor([len(own) for own in queries], device=routing_q.device)
    return routing_q, torch.arange(routing_q.shape[1], device=routing_q.device) < lengths[:, None]


def _read(layer_idx: int, reader: MemoryReader, queries: Sequence[Tensor]) -> tuple[MemoryKV, float]:
    """Ask once for several requests, (T, ...) each; returns what was read and the seconds it took."""
    started = perf_counter()
    kv = reader.read(layer_idx, *side_by_side(queries))
    if kv.mask.shape[:2] != (len(queries), 1):
        raise ShapeError(
            f"the reader's mask is {tuple(kv.mask.shape)}; for {len(queries)} requests it must be "
            f"({len(queries)}, 1, chunks)"
        )
    return kv, perf_counter() - started


def _seen(mask_BM: Tensor) -> Sequence[slice | Tensor]:
    """What each request sees: the first of its slots, as a rule, of which no copy has to be made."""
    counts = mask_BM.sum(1)
    if torch.equal(torch.arange(mask_BM.shape[1], device=mask_BM.device) < counts[:, None], mask_BM):
        return [slice(count) for count in counts.tolist()]
    return list(mask_BM)


def _row(kv: MemoryKV, b: int) -> MemoryKV:
    """What one request read, without its chunks; a copy, so that it keeps nothing of its neighbours alive."""

    def row(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[b : b + 1].clone()

    return replace(
        kv,
        k=kv.k.new_empty(1, kv.k.shape[1], 0, kv.k.shape[3]),
        v=kv.v.new_empty(1, kv.v.shape[1], 0, kv.v.shape[3]),
        mask=kv.mask.new_empty(1, 1, 0),
        document_of_slot=kv.document_of_slot.new_empty(1, 0),
        documents=kv.documents[b : b + 1].clone(),
        scores=kv.scores[b : b + 1].clone(),
        all_scores=row(kv.all_scores),
        chunks=row(kv.chunks),
        errors=row(kv.errors),
        certified=row(kv.certified),
        sifted=None if kv.sifted is None else sifted_rows(kv.sifted, slice(b, b + 1)),
    )
