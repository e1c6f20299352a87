"""Random questions and banks for the routing benchmark, the same tensors for everybody who is measured.

B requests, T tokens, H query heads, G kv heads, D head_dim, W = G*D, C chunks, N documents.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from memsparse.errors import ConfigError
from memsparse.model.configuration_memsparse import MemSparseConfig

LONGEST = 8
"""Chunks of a document, at most; all numbers from 1 are equally likely."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One batch of questions over one memory layer of a bank."""

    queries: Tensor
    """(B, T, H, D) float32, as a model gives them."""
    flat_keys: Tensor
    """(C, W) bfloat16 as a bank stores them: normalised per kv head, then rounded."""
    doc_of_chunk: Tensor
    """(C,) int64, ascending."""
    starts: Tensor
    """(N,) int64, first chunk of each document."""
    counts: Tensor
    """(N,) int64, chunks of each document."""
    top_k: int
    tile: int

    @cached_property
    def query_mask(self) -> Tensor:
        """(B, T) bool; every token routes."""
        return torch.ones(self.queries.shape[:2], dtype=torch.bool, device=self.queries.device)

    @cached_property
    def every(self) -> Tensor:
        """(N,) int64, the documents."""
        return torch.arange(self.documents, device=self.device)

    @cached_property
    def runs(self) -> Tensor:
        """(2, N + 1) int64 in host memory, `starts` and `counts`; the last is for no document, and 0."""
        return pad(torch.stack([self.starts, self.counts]).cpu(), (0, 1))

    @property
    def documents(self) -> int:
        """N."""
        return len(self.counts)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.flat_keys.device

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.flat_keys.shape[1] // self.queries.shape[3]

    @cached_property
    def float_keys(self) -> Tensor:
        """(C, W) float32, the stored keys without another rounding, for whoever multiplies in float32."""
        return self.flat_keys.float()

    def asking(self, queries: Tensor) -> "Case":
        """The same bank asked something else; shares what is made of the bank once."""
        other = Case(
            **{name: getattr(self, name) for name in self.__dataclass_fields__} | {"queries": queries}
        )
        for name in ("float_keys", "every", "runs"):
            other.__dict__[name] = getattr(self, name)
        return other


def make_case(
    config: MemSparseConfig,
    chunks: int,
    device: torch.device,
    *,
    tokens: int = 32,
    batch: int = 1,
    top_k: int | None = None,
    tile: int,
    seed: int = 0,
) -> Case:
    """Draw a case at a model's shape.

    Args:
        tokens: T, of a question.
        top_k: None: the model's own.

    Raises: ConfigError for a number below 1.
    """
    for name, value in (("chunks", chunks), ("question tokens", tokens), ("batch", batch)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; give at least 1")
    generator = torch.Generator(device).manual_seed(seed)
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    lengths = torch.randint(1, LONGEST + 1, (chunks,), generator=torch.Generator().manual_seed(seed))
    ends = lengths.cumsum(0)
    documents = int((ends < chunks).sum()) + 1
    counts = lengths[:documents].clone()
    counts[-1] -= int(ends[documents - 1]) - chunks
    keys = torch.empty(chunks, kv_heads * config.head_dim, dtype=torch.bfloat16, device=device)
    for part in keys.split(tile):
        drawn = torch.randn(len(part), kv_heads, config.head_dim, generator=generator, device=device)
        part.copy_(normalize(drawn, dim=-1).flatten(1))
    return Case(
        queries=make_queries(config, device, tokens=tokens, batch=batch, seed=seed + 1),
        flat_keys=keys,
        doc_of_chunk=torch.repeat_interleave(torch.arange(documents), counts).to(device),
        starts=(counts.cumsum(0) - counts).to(device),
        counts=counts.to(device),
        top_k=min(top_k or config.top_k_documents, documents),
        tile=tile,
    )


def make_queries(
    config: MemSparseConfig, device: torch.device, *, tokens: int, batch: int, seed: int
) -> Tensor:
    """(B, T, H, D) float32."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (batch, tokens, config.num_attention_heads, config.head_dim)
    return torch.randn(*shape, generator=generator, device=device)
