"""The nouns that cross layers, as plain frozen dataclasses, and the two memory contracts.

A `Document` goes in, chunks of it lie in a memory bank, a `Citation` points back to it, an
`Answer` carries everything that happened on the way. Attention reaches memory only through
`MemoryWriter` (while documents are encoded) and `MemoryReader` (while a question is answered).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text to remember, as the caller names it."""

    id: str
    """External id, unique within a bank's namespace; chosen by the caller."""
    text: str
    title: str = ""
    namespace: str = "default"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values only."""
    expires: float | None = None
    """Seconds since the epoch after which the document is no longer read. None: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """What a bank stores under one number: a whole document, or one part of a long one."""

    number: int
    """Allocated once by the bank, never reused; part of the encoded text."""
    document_id: str
    title: str
    text: str
    """Text of this part only."""
    namespace: str
    metadata: Mapping[str, Any]
    start: int
    """Offset of the part in the original document's text, characters."""
    end: int
    part: int = 0
    parts: int = 1
    tokens: int = 0
    chunks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A passage an answer rests on."""

    number: int
    document_id: str
    namespace: str = "default"
    title: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRouting:
    """What one memory layer routed in one round, best first."""

    layer: int
    numbers: tuple[int, ...]
    scores: tuple[float, ...]
    chunks: tuple[int, ...] = ()
    """Which chunk of each document matched best, counted from 0; of the documents the layer attended to,
    which are fewer than `numbers` where more were asked for."""
    certified: bool | None = None
    """Whether an approximate scan proved these to be the documents of an exact one, in its order. None: it
    was exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round of memory interleave: route, read, decide."""

    routing: tuple[LayerRouting, ...]
    numbers: tuple[int, ...]
    """Numbers the round retrieved, ascending; empty when it ended retrieval."""
    text: str
    """What the model emitted in this round, markers included."""
    seconds: float
    """Until the next round, or the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens and seconds a request took."""

    prompt_tokens: int
    completion_tokens: int
    route_seconds: float
    seconds: float
    """All of it: the rounds' and `answer_seconds`."""
    answer_seconds: float = 0.0
    """From the end of retrieval on: the question once more, and the answer. An answer that was taken back,
    when more was read after all, counts too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The model's answer and its whole trace."""

    text: str
    citations: tuple[Citation, ...]
    rounds: tuple[Round, ...]
    usage: Usage
    found: bool = True
    """False when the model did not find an answer; `citations` then shows what it read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sifted:
    """What is known of the scores of all documents of a layer, told of those that may be among the best.

    B requests, M documents.
    """

    documents: Tensor
    """(M,) int64 ascending, the indices of those that may be among the best of any request."""
    upper: Tensor
    """(B, M) float32: no score lies above it."""
    beyond: Tensor
    """(B,) float32: no other document scores above it; -inf where no other has a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryKV:
    """Chunks a layer attends to, one row per request, padded on the right.

    B rows, M chunk slots, G kv heads, D head_dim, k documents, N documents in memory.
    """

    k: Tensor
    """(B, G, M, D), rotary phase included."""
    v: Tensor
    """(B, G, M, D)"""
    mask: Tensor
    """(B, T or 1, M) bool; True where a token may attend to a chunk."""
    documents: Tensor
    """(B, k) int64 document indices, best first; -1 where there are fewer than k."""
    scores: Tensor
    """(B, k) float32 document scores, best first; -inf where there are fewer than k."""
    document_of_slot: Tensor
    """(B, M) int64 index into the k columns of `documents`: whose chunk a slot holds; padding 0."""
    all_scores: Tensor | None = None
    """(B, N) float32, every document's score, where the reader keeps them."""
    chunks: Tensor | None = None
    """(B, k) int64, which chunk of each document matched best, where the reader tells; -1 for none."""
    errors: Tensor | None = None
    """(B, N) float32, how far `all_scores` may lie from the exact scores, 0 where they are exact; inf where
    they are a guess, of documents that an index did not look at with all their chunks: the best of the chunks
    it looked at, or the median of the documents it looked at. None: they all are exact."""
    certified: Tensor | None = None
    """(B,) bool, whether `documents` and `scores` are proven to be those of exact scores. None: nothing to
    prove."""
    sifted: Sifted | None = None
    """In place of `all_scores`, where the reader does not keep them but can tell them."""

    @property
    def is_exact(self) -> bool:
        """Whether the exact score of every document is here."""
        return self.all_scores is not None and self.errors is None


class MemoryWriter(Protocol):
    """Stage 1: takes what the encoding of documents leaves at each memory layer."""

    def write(self, layer_idx: int, pooled_k: Tensor, pooled_v: Tensor, routing_k: Tensor) -> None:
        """Take the chunks of the documents being encoded, in document order.

        Shapes: pooled_k and pooled_v (C, G, D), routing_k (C, G*D), normalised where the score rule asks.
        """


class MemoryReader(Protocol):
    """Stage 2: routes a question and returns the chunks its layer attends to."""

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Score every document, take the best, return their chunks.

        Shapes: routing_q (B, T, G*D) collapsed, or (B, T, H, D) when heads are not averaged;
        query_mask (B, T) bool, True on the tokens that route.
        """


def sifted_rows(sifted: Sifted, rows: Tensor | slice) -> Sifted:
    """Of some of the requests; a copy, so that it keeps nothing of the others alive."""
    return Sifted(
        documents=sifted.documents,
        upper=sifted.upper[rows].clone(),
        beyond=sifted.beyond[rows].clone(),
    )


def empty_memory(batch: int, kv_heads: int, head_dim: int, *, like: Tensor) -> MemoryKV:
    """Return the `MemoryKV` of a memory without documents: no slots, no scores."""
    slots = like.new_empty(batch, kv_heads, 0, head_dim)
    none = torch.empty(batch, 0, dtype=torch.long, device=like.device)
    return MemoryKV(
        k=slots,
        v=slots,
        mask=torch.empty(batch, 1, 0, dtype=torch.bool, device=like.device),
        documents=none,
        scores=none.float(),
        document_of_slot=none,
        all_scores=none.float(),
    )
