"""`memsparse bench encode`: documents to chunks, beside a plain forward pass over the same tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from memsparse.bank import EncodedChunks
from memsparse.bench.timing import in_turns, peak_bytes, percentiles, surroundings
from memsparse.engine.encoder import Encoder, batches
from memsparse.engine.loading import LoadedModel
from memsparse.errors import ConfigError, EngineError
from memsparse.machine import SECONDS, measure_machine
from memsparse.model.flops import pass_flops
from memsparse.training.world import generate_world
from memsparse.types import Document, Passage

CHECKED = 4
"""Passages that are encoded one by one as well."""
CLOSE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
"""Largest difference of a chunk, as a share of the largest value, that batching may make by rounding."""
Note = Callable[[str], None]


def measure_encode(
    loaded: LoadedModel,
    tokens: int,
    *,
    document_tokens: int | None = None,
    batch_tokens: int = 8192,
    repeats: int = 5,
    seed: int = 0,
    seconds: float = SECONDS,
    note: Note = lambda line: None,
) -> dict[str, Any]:
    """Encode about so many tokens of invented text, `repeats` times.

    Args:
        document_tokens: of a document, at most. None: what the model takes.

    Raises: EngineError where passages encoded together differ from those encoded alone; ConfigError for a
        number below 1.
    """
    if tokens < 1 or repeats < 1:
        raise ConfigError(f"{tokens} tokens, {repeats} repeats; give at least 1 of each")
    machine = measure_machine(loaded.device, (torch.float32, loaded.model.dtype), seconds=seconds)
    encoder = Encoder(loaded, batch_tokens=batch_tokens, max_document_tokens=document_tokens)
    passages = invented_passages(encoder, loaded, tokens, seed)
    chunks = encoder.encode(passages)
    verify(encoder, passages, chunks)
    lengths = chunks.tokens_per_passage
    rows = [loaded.prompts.document(passage.number, encoder.body(passage)) for passage in passages]
    note(f"{sum(lengths):,} tokens in {len(passages):,} documents")
    runs = {
        "encode": lambda: encoder.encode(passages),
        "plain forward": lambda: plain_forward(loaded, rows, batch_tokens),
    }
    times = in_turns(runs, loaded.device, repeats)
    config, total = loaded.config, sum(lengths)
    flops = {
        "encode": pass_flops(config, lengths, weights=2, writes=True, chunks_only=True),
        "plain forward": pass_flops(config, lengths, weights=2),
    }
    peak = machine.peaks[str(loaded.model.dtype).removeprefix("torch.")]
    forms: dict[str, dict[str, Any]] = {
        name: dict(percentiles(values))
        | {
            "tokens_per_second": round(total / sorted(values)[len(values) // 2], 1),
            "flops": flops[name],
            "fraction_of_peak": round(flops[name] / sorted(values)[len(values) // 2] / peak, 4),
            "peak_bytes": peak_bytes(runs[name], loaded.device),
        }
        for name, values in times.items()
    }
    return {
        "kind": "bench-encode",
        **surroundings(loaded.device, machine),
        "settings": {
            "model": loaded.name,
            "layers": config.num_hidden_layers,
            "dtype": str(loaded.model.dtype),
            "document_tokens": encoder.max_document_tokens,
            "batch_tokens": batch_tokens,
            "repeats": repeats,
            "seed": seed,
        },
        "tokens": total,
        "documents": len(passages),
        "chunks": sum(chunks.chunks_per_passage),
        "tokens_per_second": forms["encode"]["tokens_per_second"],
        "fraction_of_peak": forms["encode"]["fraction_of_peak"],
        "forms": forms,
    }


def invented_passages(encoder: Encoder, loaded: LoadedModel, tokens: int, seed: int) -> list[Passage]:
    """Passages of invented text, about so many tokens together, none longer than the encoder takes.

    Short documents of a world are joined until one is as long as that.
    """
    room = encoder.max_document_tokens
    passages: list[Passage] = []
    taken, waiting = 0, ""
    for document in _documents(tokens, seed):
        joined = f"{waiting}\n\n{document.text}" if waiting else document.text
        if waiting and loaded.prompts.count_tokens(joined) > 0.9 * room:
            split = encoder.split(Document(id=f"d{len(passages)}", text=waiting))
            passages += split
            taken += sum(loaded.prompts.count_tokens(passage.text) for passage in split)
            joined = document.text
        if taken >= tokens:
            break
        waiting = joined
    if taken < tokens and waiting:
        passages += encoder.split(Document(id=f"d{len(passages)}", text=waiting))
    return [replace(passage, number=number) for number, passage in enumerate(passages)]


def verify(encoder: Encoder, passages: Sequence[Passage], chunks: EncodedChunks) -> None:
    """Encode some passages alone and compare.

    Raises: EngineError where they differ by more than rounding.
    """
    first = 0
    for passage, count in list(zip(passages, chunks.chunks_per_passage, strict=True))[:CHECKED]:
        alone = encoder.encode([passage])
        for name in ("routing_k", "k", "v"):
            for layer, tensor in getattr(chunks, name).items():
                together, by_itself = (
                    tensor[first : first + count].float(),
                    getattr(alone, name)[layer].float(),
                )
                difference = float((together - by_itself).abs().max() / by_itself.abs().max())
                if not difference <= CLOSE[tensor.dtype]:
                    raise EngineError(
                        f"passage {passage.number}: {name} of layer {layer} differs by {difference:.2g} from "
                        "the passage encoded alone; no figures without agreement"
                    )
        first += count


@torch.inference_mode()
def plain_forward(loaded: LoadedModel, rows: Sequence[Sequence[int]], batch_tokens: int) -> None:
    """All layers over the same rows in the same batches, without memory, output head or cache."""
    lengths = [len(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: lengths[i], reverse=True)
    for batch in batches(order, lengths, batch_tokens):
        ids = torch.zeros(len(batch), lengths[batch[0]], dtype=torch.long)
        for place, i in enumerate(batch):
            ids[place, : lengths[i]] = torch.tensor(rows[i])
        # Padding lies on the right, where causal order hides it.
        loaded.model.model(input_ids=ids.to(loaded.device), use_cache=False)


def _documents(tokens: int, seed: int) -> Sequence[Document]:
    """Enough documents of an invented world: each has some 40 tokens or more."""
    world = generate_world(seed, documents=max(8, tokens // 40), questions=1, split="heldout")
    return world.documents
