"""Model FLOPs of a training step, and how many the machine's matrix products reach at best.

Their ratio is the model FLOPs utilisation (MFU). Counted is what the step is for: real tokens, not padding;
nothing twice that gradient checkpointing computes twice; no optimizer.
"""

import time
from collections.abc import Sequence

import torch

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.training.data import Step

SIZES = {"cpu": (256, 512, 1024, 2048)}
"""Sides of the square matrices that are tried; `LARGE_SIZES` on anything but a CPU."""
LARGE_SIZES = (2048, 4096, 8192)
SECONDS = 0.5


def step_flops(config: MemSparseConfig, step: Step, *, lm_documents: int = 0, frozen: bool = False) -> float:
    """Model FLOPs of a step: encode its documents, run its calls over them, read its spans.

    Args:
        lm_documents: how many documents, the first ones, go through the output head.
        frozen: the weights have no gradients of their own, as beneath adapters.
    """
    weights = 4 if frozen else 6
    documents = [int(length) for length in step.document_lengths]
    chunks = [-(-length // config.chunk_size) for length in documents]
    read = min(config.top_k_documents, len(documents)) * sum(chunks) / max(1, len(documents))
    told, others = documents[:lm_documents], documents[lm_documents:]
    total = pass_flops(config, told, weights=weights, targets=sum(told) - len(told), writes=True)
    total += pass_flops(config, others, weights=weights, writes=True, chunks_only=True)
    for batch in step.batches:
        total += pass_flops(
            config,
            [int(length) for length in batch.mask.sum(1)],
            weights=weights,
            targets=int((batch.labels[:, 1:] >= 0).sum()),
            memory_chunks=read,
            routing=float(batch.routes.sum()) * sum(chunks),
        )
    return total + text_flops(config, *step.spans[0].shape, weights=weights)


def text_flops(config: MemSparseConfig, rows: int, tokens: int, *, weights: int = 6) -> float:
    """Model FLOPs of rows of plain text, every token of which is predicted."""
    return pass_flops(config, [tokens] * rows, weights=weights, targets=rows * (tokens - 1))


def pass_flops(
    config: MemSparseConfig,
    lengths: Sequence[int],
    *,
    weights: int = 6,
    targets: int = 0,
    writes: bool = False,
    chunks_only: bool = False,
    memory_chunks: float = 0,
    routing: float = 0,
) -> float:
    """Model FLOPs of one pass over rows of tokens, forward and backward.

    Args:
        lengths: tokens of each row.
        weights: FLOPs of a weight for each token: 2 forward, 2 for the gradient of what goes in, 2 for the
            weight's own.
        targets: tokens that go through the output head.
        writes: the rows are documents, and leave routing keys.
        chunks_only: nothing above the last memory layer's keys and values is computed.
        memory_chunks: chunks that each token of a memory layer attends to.
        routing: pairs of a routing token and a chunk that each memory layer scores.
    """
    heads = config.num_attention_heads * config.head_dim
    kv_heads = (config.num_key_value_heads or config.num_attention_heads) * config.head_dim
    hidden, memory_layers = config.hidden_size, config.memory_layers or []
    layers = max(memory_layers, default=0) if chunks_only else config.num_hidden_layers
    projected = hidden * (heads + 2 * kv_heads)
    matrices = layers * (projected + hidden * (heads + 3 * config.intermediate_size))
    matrices += projected if chunks_only and memory_layers else 0
    if config.decouple_router:
        matrices += len(memory_layers) * hidden * (kv_heads if writes else heads if routing else 0)
    tokens = sum(lengths)
    total = float(weights) * (tokens * matrices + targets * hidden * config.vocab_size)
    # Scores and their sum over values, 2 FLOPs each, a third of it forward; half of a causal square.
    total += 12 * heads * layers * sum(length * (length + 1) / 2 for length in lengths)
    total += 12 * heads * len(memory_layers) * tokens * memory_chunks
    return total + 6 * heads * len(memory_layers) * routing


def matrix_peak(dtype: torch.dtype, device: torch.device, *, seconds: float = SECONDS) -> float:
    """FLOPs a second of the fastest square matrix product, over about so many seconds of trying."""
    sizes = SIZES.get(device.type, LARGE_SIZES)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
        _ = a @ b
        _finished(device)
        until = time.perf_counter() + seconds / len(sizes)
        while True:
            began = time.perf_counter()
            _ = a @ b
            _finished(device)
            now = time.perf_counter()
            best = max(best, 2 * size**3 / (now - began))
            if now >= until:
                break
        if now - until > seconds:  # a larger one would take many times as long
            break
    return best


def _finished(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
