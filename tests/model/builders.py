"""Tiny random models, and a memory filled with random documents."""

from typing import Any

import torch
from torch import Tensor

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.memory import InBatchMemory
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.pooling import document_of_chunk

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What every tiny backbone has in common."""

LENGTHS = (9, 1, 4, 5, 13)
"""Tokens of the documents of `fill`; chunks hold 4."""


def tiny_config(**changes: Any) -> MemSparseConfig:
    """Four layers, memory in the upper two, chunks of 4 tokens, 2 documents a layer."""
    return MemSparseConfig(**SIZES | {"chunk_size": 4, "top_k_documents": 2} | changes)


def tiny_model(**changes: Any) -> MemSparseForCausalLM:
    """A random model with weights large enough for its attention to matter."""
    torch.manual_seed(0)
    return spread(MemSparseForCausalLM(tiny_config(**changes))).eval()


def spread(model: torch.nn.Module) -> Any:
    """Redraw all weights: wide matrices, norms off 1, biases off 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
            elif parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.2)
    return model


def padded(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Random documents, one per row, padded on the right: token ids and mask."""
    lengths_N = torch.tensor(lengths, dtype=torch.long)
    mask = torch.arange(max(lengths, default=0)) < lengths_N[:, None]
    return torch.randint(3, SIZES["vocab_size"], mask.shape) * mask, mask


def fill(
    model: MemSparseForCausalLM, lengths: tuple[int, ...] = LENGTHS, *, seed: int = 0, **options: Any
) -> InBatchMemory:
    """Random documents, encoded by the model into a memory; gradients flow unless they are off."""
    torch.manual_seed(seed)
    ids, mask = padded(lengths)
    memory = InBatchMemory(
        document_of_chunk(mask.sum(1), model.config.chunk_size),
        len(lengths),
        rule=model.config.routing_rule(),
        top_k=options.pop("top_k", model.config.top_k_documents),
        **options,
    )
    model.model(input_ids=ids, attention_mask=mask, writer=memory)
    return memory


def question(
    batch: int = 2, tokens: int = 6, *, left_padding: int = 0, seed: int = 7
) -> tuple[Tensor, Tensor]:
    """Random token ids and their attention mask; the first row is padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, SIZES["vocab_size"], (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, :left_padding] = 0
    mask[0, :left_padding] = 0
    return ids, mask
