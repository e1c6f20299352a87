"""Stage 2 and 3: prefill a prompt over a memory, then run token by token on its cache.

N documents in memory, V tokens of vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.errors import EngineError
from memsparse.model.cache import MemSparseCache
from memsparse.ops.routing import top_documents
from memsparse.text import ROUTES, Prompt
from memsparse.types import LayerRouting, MemoryKV, MemoryReader


class NumberedReader(MemoryReader, Protocol):
    """A reader that knows the numbers of its documents."""

    @property
    def numbers(self) -> Tensor:
        """(N,) int64, ascending: the number of each document index."""


@dataclass(kw_only=True, slots=True)
class Session:
    """One call in progress: its cache, and what the next token is chosen from."""

    cache: MemSparseCache
    logits: Tensor
    """(V,) float32 on the CPU, after the last token run."""
    routing: dict[int, MemoryKV]
    """What each memory layer read, by layer."""
    position: int
    """Rotary position of the next token."""
    route_seconds: float

    def scores(self) -> Tensor:
        """(N,) mean routing score of every document over the memory layers.

        Raises: EngineError if the reader does not keep the scores of all documents.
        """
        scores = [kv.all_scores[0].cpu() for kv in self.routing.values() if kv.all_scores is not None]
        if not scores or len(scores) < len(self.routing):
            raise EngineError(
                'the memory reader keeps no scores of all documents; use id_decoding="generate"'
            )
        return torch.stack(scores).mean(0)

    def routed(self, numbers: Tensor, *, limit: int | None = None) -> tuple[LayerRouting, ...]:
        """What every layer selected, by document number, best first; or its `limit` best, selected or not.

        Raises: EngineError if more are asked for than were selected of a reader that keeps no other scores.
        """
        rows = []
        for layer, kv in self.routing.items():
            chosen, scores = kv.documents[0].cpu(), kv.scores[0].cpu()
            chunks = () if kv.chunks is None else tuple(kv.chunks[0].cpu()[chosen >= 0].tolist())
            if limit is not None:
                if kv.all_scores is None:
                    raise EngineError("the memory reader keeps no scores of all documents; ask for no limit")
                best, index = top_documents(kv.all_scores, min(limit, kv.all_scores.shape[1]))
                chosen, scores, chunks = index[0].cpu(), best[0].cpu(), chunks[:limit]
            real = chosen >= 0
            rows.append(
                LayerRouting(
                    layer=layer,
                    numbers=tuple(numbers[chosen[real]].tolist()),
                    scores=tuple(scores[real].tolist()),
                    chunks=chunks,
                )
            )
        return tuple(rows)


class ModelRunner:
    """Runs one model for any number of sessions; safe to share between threads, which a session is not."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._head = self._encode_head(loaded.prompts.head())

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, reader: MemoryReader) -> Session:
        """Route and run a prompt behind the template head, whose keys and values are computed only once."""
        cache = MemSparseCache()
        for layer, (k, v) in enumerate(self._head):
            cache.update(k, v, layer)
        timed = _TimedReader(reader, self._model.dtype)
        routes = torch.tensor([[role == ROUTES for role in prompt.roles]], device=self._device)
        logits, routing = self._run(cache, prompt.ids, prompt.first_position, memory=timed, query_mask=routes)
        return Session(
            cache=cache,
            logits=logits,
            routing=routing,
            position=prompt.first_position + len(prompt.ids),
            route_seconds=timed.seconds,
        )

    @torch.inference_mode()
    def append(self, session: Session, ids: Sequence[int]) -> None:
        """Run more tokens as one causal block; they attend to the memory of the prefill and route nothing."""
        if ids:
            session.logits, _ = self._run(session.cache, ids, session.position)
            session.position += len(ids)

    def _run(
        self,
        cache: MemSparseCache,
        ids: Sequence[int],
        position: int,
        *,
        memory: MemoryReader | None = None,
        query_mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[int, MemoryKV]]:
        positions = torch.arange(position, position + len(ids), device=self._device)
        output = self._model(
            input_ids=torch.tensor([list(ids)], device=self._device),
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            memory=memory,
            query_mask=query_mask,
        )
        return output.logits[0, -1].float().cpu(), output.routing

    @torch.inference_mode()
    def _encode_head(self, ids: list[int]) -> list[tuple[Tensor, Tensor]]:
        if not ids:
            return []
        cache = MemSparseCache()
        self._model.model(
            input_ids=torch.tensor([ids], device=self._device), past_key_values=cache, use_cache=True
        )
        layers: Any = cache.layers  # the library types them as any kind of layer
        return [(layer.keys, layer.values) for layer in layers]


class _TimedReader:
    """Times a reader, shows it only the tokens that route, and hands its chunks on in the model's dtype.

    Routing queries are float32 in every model, and so is what a reader returns for them.
    """

    def __init__(self, reader: MemoryReader, dtype: torch.dtype) -> None:
        self._reader = reader
        self._dtype = dtype
        self.seconds = 0.0

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        started = perf_counter()
        if bool(query_mask.any()):
            routing_q, query_mask = routing_q[:, query_mask[0]], query_mask[:, query_mask[0]]
        kv = self._reader.read(layer_idx, routing_q, query_mask)
        kv = replace(kv, k=kv.k.to(self._dtype), v=kv.v.to(self._dtype))
        self.seconds += perf_counter() - started
        return kv


def sample(
    logits: Tensor, config: EngineConfig, allowed: Collection[int] | None, generator: torch.Generator
) -> int:
    """Choose the next token: the likeliest at temperature 0, else drawn from the `top_p` mass.

    Args:
        logits: (V,) float32.
        allowed: ids that may be chosen. None: all.

    Raises: EngineError if nothing may be chosen, or the logits are not numbers.
    """
    ids = torch.arange(len(logits)) if allowed is None else torch.tensor(sorted(allowed), dtype=torch.long)
    if not len(ids):
        raise EngineError("no token may follow; the constraint of this round is exhausted")
    logits = logits[ids]
    if bool(torch.isnan(logits).any()):
        raise EngineError("the model computed no numbers (NaN); load it in float32")
    if config.temperature == 0:
        return int(ids[logits.argmax()])
    likely, order = (logits / config.temperature).softmax(0).sort(descending=True, stable=True)
    likely = likely.masked_fill(likely.cumsum(0) - likely >= config.top_p, 0)
    return int(ids[order[torch.multinomial(likely, 1, generator=generator)]])
