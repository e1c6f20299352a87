"""A tiny random model with a small tokenizer, and documents to put into its memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memsparse.engine.loading import LoadedModel
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder, Template
from memsparse.training.tokenizer import train_tokenizer
from memsparse.types import Document

SENTENCES = (
    "The ferry to Oland leaves at nine from the old harbour.",
    "Maria Lund keeps the lighthouse keys in a blue tin.",
    "The bakery on Elm Street sells rye bread on Fridays.",
    "In 1954 the river froze and people walked across it.",
    "Dr. Stone teaches chemistry in room 12 of the annex.",
    "The museum of clocks closes early in winter.",
    "Nobody has seen the grey cat since Tuesday.",
    "The password of the archive is written in the green book.",
)
_TEMPLATE_TEXT = " ".join(Template().to_dict().values())


def tiny_model(*, seed: int = 0, **settings: Any) -> LoadedModel:
    """Random weights, large enough that different texts score differently."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer([*SENTENCES, _TEMPLATE_TEXT] * 4, vocab_size=480)
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "chunk_size": 4,
        "top_k_documents": 3,
        "memory_layers": [2, 3],
        "id_decoding": "router",
        "aux_loss_method": "INFONCE",
        "pad_token_id": 0,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = MemSparseForCausalLM(MemSparseConfig(**values | settings)).eval()
    return LoadedModel(model=model, tokenizer=tokenizer, prompts=PromptBuilder(tokenizer), name="tiny")


def save_model(folder: Path, loaded: LoadedModel, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model folder; the model given keeps its dtype."""
    loaded.model.to(dtype).save_pretrained(folder)
    loaded.model.float()
    loaded.tokenizer.save_pretrained(folder)
    return folder


def documents(count: int = len(SENTENCES), *, namespace: str = "default") -> list[Document]:
    """Short documents with ids d0, d1 and so on."""
    return [
        Document(
            id=f"d{i}",
            text=f"{SENTENCES[i % len(SENTENCES)]} Note {i}.",
            title=f"Note {i}" if i % 2 else "",
            namespace=namespace,
            metadata={"n": i},
        )
        for i in range(count)
    ]


def texts_of(ids: Sequence[str]) -> list[Document]:
    """The documents with these ids."""
    known = {document.id: document for document in documents(32)}
    return [known[id_] for id_ in ids]
