"""FLOPs of a model's passes: 2 for each weight and token forward, and what attention adds.

Counted is what a pass is for: real tokens, not padding.
"""

from collections.abc import Sequence

from memsparse.model.configuration_memsparse import MemSparseConfig


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
    """Model FLOPs of one pass over rows of tokens, forward and backward unless `weights` says otherwise.

    Args:
        lengths: tokens of each row.
        weights: FLOPs of a weight for each token: 2 forward, 2 for the gradient of what goes in, 2 for the
            weight's own. With 2 nothing is counted but the forward pass.
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
    passes = 1 if weights == 2 else 3
    total += 4 * passes * heads * layers * sum(length * (length + 1) / 2 for length in lengths)
    total += 4 * passes * heads * len(memory_layers) * tokens * memory_chunks
    return total + 2 * passes * heads * len(memory_layers) * routing
