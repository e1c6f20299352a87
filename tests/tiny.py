"""A model folder small enough for a test: random weights, a real tokenizer, four layers."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.training.tokenizer import train_tokenizer

TEXTS = (
    "the kestrel is moored in the harbour of sarno.",
    "please answer the question based on the above historical document information",
    "please return all documents related to the question. the answer to the question is: the user's",
)


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=320)


def tiny_config(**settings: Any) -> MemSparseConfig:
    defaults: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "chunk_size": 4,
        "top_k_documents": 3,
        "id_decoding": "router",
        "eos_token_id": tiny_tokenizer().eos_token_id,
        "pad_token_id": tiny_tokenizer().pad_token_id,
    }
    return MemSparseConfig(**{**defaults, **settings})


def save_tiny_model(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Write a model and its tokenizer to `folder`; another seed makes another model."""
    torch.manual_seed(seed)
    model = MemSparseForCausalLM(tiny_config(**settings))
    model.save_pretrained(str(folder))
    tiny_tokenizer().save_pretrained(str(folder))
    return folder
