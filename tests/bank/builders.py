"""Small banks of random tensors, and what they must answer by the slowest way there is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from memsparse.bank import Bank, EncodedChunks, Fingerprint, Source
from memsparse.types import Passage

FINGERPRINT = Fingerprint(
    weights="w" * 64,
    chunk_size=4,
    memory_layers=(1, 3),
    kv_heads=2,
    head_dim=4,
    routing_score="cosine",
    template="t" * 64,
    dtype="float32",
)


def make_passages(
    numbers: Sequence[int], *, namespace: str = "default", prefix: str = "doc", text: str = "text of"
) -> list[Passage]:
    """One document for each number, called `doc7` and the like."""
    texts = [f"{text} {prefix}{number}" for number in numbers]
    return [
        Passage(
            number=number,
            document_id=f"{prefix}{number}",
            title=f"Title {number}",
            text=body,
            namespace=namespace,
            metadata={"n": number},
            start=0,
            end=len(body),
        )
        for number, body in zip(numbers, texts, strict=True)
    ]


def make_parts(first_number: int, texts: Sequence[str], *, document_id: str = "long") -> list[Passage]:
    """One document in several parts."""
    ends = [sum(len(text) for text in texts[: index + 1]) for index in range(len(texts))]
    base = make_passages([first_number], prefix="")[0]
    return [
        replace(
            base,
            number=first_number + part,
            document_id=document_id,
            text=text,
            start=end - len(text),
            end=end,
            part=part,
            parts=len(texts),
        )
        for part, (text, end) in enumerate(zip(texts, ends, strict=True))
    ]


def make_chunks(
    counts: Sequence[int], fingerprint: Fingerprint = FINGERPRINT, *, seed: int = 0, rank: int | None = None
) -> EncodedChunks:
    """Args: rank: of routing keys, but for a little noise."""
    generator = torch.Generator().manual_seed(seed)
    total, layers = sum(counts), fingerprint.memory_layers

    def draw(*shape: int) -> dict[int, Tensor]:
        return {
            layer: torch.randn(total, *shape, generator=generator).to(fingerprint.torch_dtype)
            for layer in layers
        }

    routing_k = draw(fingerprint.width)
    if rank is not None:
        space = torch.randn(rank, fingerprint.width, generator=torch.Generator().manual_seed(1))
        for layer, noise in routing_k.items():
            inside = torch.randn(total, rank, generator=generator) @ space / rank**0.5
            routing_k[layer] = (inside + noise.float() / 50).to(noise.dtype)
    return EncodedChunks(
        routing_k=routing_k,
        k=draw(fingerprint.kv_heads, fingerprint.head_dim),
        v=draw(fingerprint.kv_heads, fingerprint.head_dim),
        chunks_per_passage=tuple(counts),
        tokens_per_passage=tuple(count * fingerprint.chunk_size for count in counts),
    )


def add(
    bank: Bank,
    counts: Sequence[int],
    *,
    namespace: str = "default",
    prefix: str = "doc",
    seed: int = 0,
    source: Source | None = None,
    rank: int | None = None,
) -> tuple[list[Passage], EncodedChunks]:
    """Reserve, encode at random and commit: one document for each count of chunks."""
    passages = make_passages(list(bank.reserve(len(counts))), namespace=namespace, prefix=prefix)
    chunks = make_chunks(counts, bank.fingerprint, seed=seed, rank=rank)
    sources = {(p.namespace, p.document_id): source for p in passages} if source else None
    bank.commit(passages, chunks, sources=sources)
    return passages, chunks


def queries(
    batch: int = 2, tokens: int = 3, fingerprint: Fingerprint = FINGERPRINT, *, seed: int = 9
) -> Tensor:
    return torch.randn(batch, tokens, fingerprint.width, generator=torch.Generator().manual_seed(seed))


def all_tokens(routing_q: Tensor) -> Tensor:
    return torch.ones(routing_q.shape[:2], dtype=torch.bool)


def answer(bank: Bank, **options) -> list[torch.Tensor]:
    """Everything a reader answers to one question, layer by layer."""
    reader, routing_q = bank.reader(top_k=4, **options), queries()
    found = [reader.numbers]
    for layer in bank.fingerprint.memory_layers:
        memory = reader.read(layer, routing_q, all_tokens(routing_q))
        found += [memory.k, memory.v, memory.mask, memory.documents, memory.scores, memory.document_of_slot]
    return found


def flip_byte(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))
