"""Stage 1 on all ranks: each encodes a run of the passages, rank 0 stores them in one bank."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from memsparse.bank import Bank, EncodedChunks
from memsparse.distributed.merging import cut_evenly
from memsparse.distributed.messages import Message
from memsparse.distributed.ranks import PATIENCE, Ranks
from memsparse.engine.config import EngineConfig
from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import LoadedModel
from memsparse.types import Passage


class ShardedEncoder(Encoder):
    """Encodes its passages on all ranks; the chunks are one rank's, but for the rounding of other batches."""

    def __init__(self, ranks: Ranks, loaded: LoadedModel, bank: Bank, config: EngineConfig) -> None:
        """The others load the model when they first encode, by the name it has here."""
        settings: dict[str, Any] = {
            "batch_tokens": config.batch_tokens,
            "max_document_tokens": config.max_document_tokens,
        }
        super().__init__(loaded, dtype=bank.fingerprint.torch_dtype, **settings)
        self._ranks = ranks
        self._work = {
            "do": "encode",
            **loaded.source(),
            "fingerprint": bank.fingerprint.to_json(),
            "settings": settings,
        }

    def encode(
        self, passages: Sequence[Passage], *, on_batch: Callable[[int], None] | None = None
    ) -> EncodedChunks:
        """As `Encoder.encode`; the tokens of other ranks are told when those are done.

        Raises: ModelError naming a rank that has another model, or none, under that name; EngineError naming
        one that is gone or does not answer.
        """
        shares = cut_evenly([len(passage.text) for passage in passages], self._ranks.count)
        commands = {
            rank: Message(
                {**self._work, "passages": [[p.number, p.title, p.text] for p in passages[slice(*share)]]}
            )
            for rank, share in enumerate(shares)
            if rank and share[0] < share[1]
        }
        own, replies = self._ranks.ask(
            commands,
            lambda: super(ShardedEncoder, self).encode(passages[slice(*shares[0])], on_batch=on_batch),
            patience=PATIENCE,
        )
        parts = [own, *(encoded(reply) for reply in replies.values())]
        for part in parts[1:]:
            if on_batch is not None:
                on_batch(sum(part.tokens_per_passage))
        return _joined([part for part in parts if part.tokens_per_passage] or [own])


def encoding(chunks: EncodedChunks) -> Message:
    """Encoded chunks on their way to rank 0."""
    groups = {"routing_k": chunks.routing_k, "k": chunks.k, "v": chunks.v}
    return Message(
        {"chunks": chunks.chunks_per_passage, "tokens": chunks.tokens_per_passage},
        {f"{layer}.{name}": each for name, layers in groups.items() for layer, each in layers.items()},
    )


def encoded(reply: Message) -> EncodedChunks:
    """What `encoding` was given, on the CPU."""
    groups: dict[str, dict[int, Tensor]] = {"routing_k": {}, "k": {}, "v": {}}
    for key, tensor in reply.tensors.items():
        layer, _, name = key.partition(".")
        groups[name][int(layer)] = tensor.cpu()
    return EncodedChunks(
        **groups,
        chunks_per_passage=tuple(reply.values["chunks"]),
        tokens_per_passage=tuple(reply.values["tokens"]),
    )


def _joined(parts: Sequence[EncodedChunks]) -> EncodedChunks:
    return EncodedChunks(
        routing_k={
            layer: torch.cat([part.routing_k[layer] for part in parts]) for layer in parts[0].routing_k
        },
        k={layer: torch.cat([part.k[layer] for part in parts]) for layer in parts[0].k},
        v={layer: torch.cat([part.v[layer] for part in parts]) for layer in parts[0].v},
        chunks_per_passage=tuple(n for part in parts for n in part.chunks_per_passage),
        tokens_per_passage=tuple(n for part in parts for n in part.tokens_per_passage),
    )
