"""A tiny model, and a corpus whose questions can be learnt."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from memsparse.engine.loading import LoadedModel
from memsparse.training.router_config import RouterConfig
from tests.engine.builders import save_model, tiny_model

WORDS = (
    *("ferry", "harbour", "lighthouse", "bakery", "river", "chemistry", "museum", "cat", "archive", "bread"),
    *("clocks", "winter", "keys", "tin", "street", "password", "book", "water", "room", "people"),
)


def write_corpus(folder: Path, documents: int = 20) -> dict[str, str]:
    """Documents about one word each, and questions with the same word."""
    folder.mkdir(exist_ok=True)
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    frames = ("where is the {}?", "{}", "find {}, please", "who has seen the {}?")
    corpus.write_text(
        "".join(
            json.dumps({"id": f"d{i}", "text": f"the {word}, {word} and {word}. " * (1 + i % 3)}) + "\n"
            for i, word in enumerate(WORDS[:documents])
        ),
        encoding="utf-8",
    )
    queries.write_text(
        "".join(
            json.dumps({"question": frame.format(word), "positive_ids": [f"d{i}"]}) + "\n"
            for i, word in enumerate(WORDS[:documents])
            for frame in frames
        ),
        encoding="utf-8",
    )
    return {"corpus": str(corpus), "queries": str(queries)}


def start(folder: Path, *, dtype: torch.dtype = torch.float32, **settings: Any) -> str:
    """The folder of a tiny model whose upper layers still know the tokens; made once."""
    if not folder.exists():
        values = {"initializer_range": 0.05, "embedding_norm": True, **settings}
        save_model(folder, tiny_model(**values), dtype=dtype)
    return str(folder)


def config(folder: Path, **changes: Any) -> RouterConfig:
    """A short fit to `write_corpus` of the model in `folder/start`."""
    values: dict[str, Any] = {
        "start": start(folder / "base"),
        "holdout": "questions",
        "steps": 12,
        "batch": 8,
        "eval_every": 4,
        "warmup": 2,
        "init": "match",
        "learning_rate": 0.01,
        "batch_tokens": 512,
    }
    return RouterConfig(**{**values, **write_corpus(folder / "data"), **changes})


def save_backbone(folder: Path, loaded: LoadedModel, **settings: Any) -> Path:
    """A Qwen3 model without memory, of random weights."""
    values: dict[str, Any] = {
        "vocab_size": len(loaded.tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "eos_token_id": loaded.tokenizer.eos_token_id,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**{**values, **settings})).save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder
