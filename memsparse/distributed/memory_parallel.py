"""Rank 0's side: one memory over the shards of all ranks, and an engine that knows no difference.

At each memory layer, for all requests at once:

    rank 0 -> all      routing queries and mask
    all                score their shards, take their own top k
    all -> rank 0      candidates, and the scores of all documents
    rank 0 -> owners   which candidates are among the best of all
    owners -> rank 0   K and V of those

B requests, T tokens, W width of routing vectors, N documents, k selected, G kv heads, D head_dim.
"""

import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from memsparse.bank import Bank
from memsparse.distributed.encoding import ShardedEncoder
from memsparse.distributed.merging import Candidates, candidates, contents, join, merge
from memsparse.distributed.messages import Message
from memsparse.distributed.ranks import PATIENCE, LayerSeconds, Ranks, leading
from memsparse.distributed.shard import Shard, open_shard, to_json
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel
from memsparse.engine.session import NumberedReader
from memsparse.errors import BankMismatchError, ConfigError
from memsparse.types import MemoryKV

_keys = count()


class ShardedReader:
    """A `MemoryReader` over the shards of all ranks; document INDEX and `numbers` are as one `BankReader`'s.

    Same documents, scores, chunks, K and V as one reader of the whole bank.
    """

    def __init__(self, ranks: Ranks, own: Shard, key: str, *, top_k: int, all_scores: bool = True) -> None:
        """Take the shards as they are; `open` makes them.

        Args:
            key: under which the other ranks keep theirs.
            all_scores: whether `MemoryKV.all_scores` is kept; it is most of what travels in a large bank, and
                only generated document ids do without.
        """
        self.numbers = own.numbers
        self.top_k = top_k
        self._ranks = ranks
        self._own = own
        self._key = key
        self._all_scores = all_scores
        self._holders = [rank for rank, documents in enumerate(own.documents) if rank and documents]

    @classmethod
    def open(cls, ranks: Ranks, bank: Bank, view: Mapping[str, Any], *, holder: str = "") -> "ShardedReader":
        """Let every rank open its shard of a view, and see that all of them have the same bank.

        Args:
            view: the arguments of `Bank.reader`, version and now included.
            holder: name under which the other ranks keep the bank open, until told to close it.

        Raises: BankMismatchError naming a rank whose bank is not rank 0's; what opening it there raised.
        """
        key = f"view {next(_keys)}"
        command = Message(
            {
                "do": "view",
                "key": key,
                "holder": holder,
                "bank": str(Path(bank.path).resolve()),
                "fingerprint": bank.fingerprint.to_json(),
                "view": to_json(view),
                "ranks": ranks.count,
                "forget": ranks.forgotten(),
            }
        )
        own, replies = ranks.ask(
            dict.fromkeys(ranks.places, command),
            lambda: open_shard(bank, view, 0, ranks.count),
            patience=PATIENCE,
        )
        reader = cls(ranks, own, key, top_k=view["top_k"], all_scores=view.get("all_scores", True))
        weakref.finalize(reader, ranks.forget, key)
        for rank, reply in replies.items():
            if reply.values["digest"] != own.digest:
                raise BankMismatchError(
                    f"{ranks.places[rank]}: its bank {bank.path} is not the one of rank 0; copy that one to "
                    "its host, or put it on a disk they share"
                )
        return reader

    def __len__(self) -> int:
        """N, the documents it can route to."""
        return len(self.numbers)

    @torch.no_grad()
    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Route each request to its top_k documents of all shards; as `BankReader.read`.

        Raises: as `BankReader.read`, the rank named where it was another's; EngineError naming a rank that is
        gone or does not answer.
        """
        started = perf_counter()
        command = Message(
            {**self._asking("read", layer_idx, routing_q), "all_scores": self._all_scores},
            {"routing_q": routing_q, "query_mask": query_mask},
        )
        with self._ranks.turn:
            (kv, scoring), replies = self._ranks.ask(
                dict.fromkeys(self._holders, command),
                lambda: self._read_own(layer_idx, routing_q, query_mask),
            )
            found = {rank: _on(routing_q.device, reply) for rank, reply in replies.items()}
            own = candidates(kv, 0, all_scores=self._all_scores)
            best, kept = merge([own, *found.values()], min(self.top_k, len(self)))
            memory = self._fetch(kv, best, [own, *found.values()], kept)
            spent = self._ranks.seconds.setdefault(layer_idx, LayerSeconds())
            spent.reads += 1
            spent.total += perf_counter() - started
            spent.scoring += max([scoring, *(reply.values["seconds"] for reply in replies.values())])
        return memory

    @torch.no_grad()
    def exact_scores(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """(B, k) float32 exact scores of documents (B, k), by their owners; -inf where a document is -1.

        Raises: as `read`.
        """
        asked = {"routing_q": routing_q, "query_mask": query_mask, "documents": documents}
        command = Message(self._asking("exact", layer_idx, routing_q), asked)
        own, replies = self._ranks.ask(
            dict.fromkeys(self._holders, command), lambda: self._own.exact_scores(layer_idx, **asked)
        )
        others = [reply.tensors["scores"].to(own.device) for reply in replies.values()]
        return torch.stack([own, *others]).amax(0)

    def _asking(self, what: str, layer_idx: int, routing_q: Tensor) -> dict[str, Any]:
        return {"do": what, "key": self._key, "layer": layer_idx, "device": routing_q.device.type}

    def _read_own(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> tuple[MemoryKV, float]:
        started = perf_counter()
        kv = self._own.reader.read(layer_idx, routing_q, query_mask)
        return kv, perf_counter() - started

    def _fetch(
        self, kv: MemoryKV, best: Candidates, parts: Sequence[Candidates], kept: Sequence[Tensor]
    ) -> MemoryKV:
        """Have the owners of the best candidates send their chunks."""
        lengths = [(part.slots * those).sum(1).tolist() for part, those in zip(parts, kept, strict=True)]
        commands = {
            rank: Message({"do": "contents"}, {"kept": those})
            for rank, those in zip(self._holders, kept[1:], strict=True)
            if bool(those.any())
        }
        own, replies = self._ranks.ask(commands, lambda: contents(kv, kept[0]))
        pieces = [own]
        for rank in self._holders:
            there = replies[rank].tensors if rank in replies else {"k": own[0][:0], "v": own[1][:0]}
            pieces.append((there["k"].to(own[0]), there["v"].to(own[1])))
        return join(best, lengths, pieces)


def _on(device: torch.device, reply: Message) -> Candidates:
    return Candidates(**{name: tensor.to(device) for name, tensor in reply.tensors.items()})


class ParallelEngine(MemoryEngine):
    """A `MemoryEngine` whose memory is read, and filled, by all ranks; it runs on rank 0."""

    def __init__(self, bank: Bank, loaded: LoadedModel, config: EngineConfig) -> None:
        """Nothing is asked of the other ranks yet.

        Raises: EngineError on any rank but the leading one; ConfigError for `workers`.
        """
        if config.workers > 1:
            raise ConfigError(f"workers is {config.workers}; ranks share each question already: use 1")
        super().__init__(bank, loaded, config)
        self._ranks = leading()
        self._encoder = ShardedEncoder(self._ranks, loaded, bank, config)
        self._holder = f"engine {next(_keys)}"

    def close(self) -> None:
        """Close the bank on every rank."""
        try:
            self._ranks.release(self._holder)
        finally:
            super().close()

    def _sifts(self) -> bool:
        return False

    def _open_reader(self, **view: Any) -> NumberedReader:
        return ShardedReader.open(self._ranks, self.bank, view, holder=self._holder)
