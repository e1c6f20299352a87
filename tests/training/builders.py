"""A tokenizer, a model and recipes small enough for a test of training."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder
from memsparse.training.config import Phase, TrainConfig
from memsparse.training.data import CallMix, StepBuilder
from memsparse.training.tokenizer import train_tokenizer, vocabulary_texts

MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "embedding_norm": True,
    "initializer_range": 0.05,
    "chunk_size": 4,
    "top_k_documents": 3,
    "memory_layers": [1, 2],
    "gate": True,
    "aux_loss_method": "INFONCE",
    "aux_temperature": 0.07,
}

PASSAGES = (
    (
        "p1",
        "Sarno",
        "Sarno lies by the sea. Its harbour was dug in 1204 by monks, and (Kestrel) boats moor there.",
    ),
    ("p2", "Sarno", "The mill of Sarno grinds barley in winter. Nobody has counted its seven wheels since."),
    ("p3", "Velm", "Velm is a river. It freezes every March, they say, and thaws when the herons come back."),
    ("p4", "", "A page without a title tells that salt was traded for glass in the old market hall."),
)
QUESTIONS = (
    ("q1", "Who dug the harbour?", ["monks"], ["p1"]),
    ("q2", "Which boats moor there?", ["(Kestrel) boats", "boats"], ["p1"]),
    ("q3", "What does the mill grind?", ["barley"], ["p2"]),
    ("q4", "When does Velm freeze?", ["in April", "every March"], ["p3"]),
    ("q5", "What was traded for glass?", ["salt"], ["p4"]),
    ("two-passages", "Which town?", ["Sarno"], ["p1", "p2"]),
    ("not-stated", "Who rules Velm?", ["the abbot", ""], ["p3"]),
    ("gone", "What is lost?", ["salt"], ["p9"]),
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(vocabulary_texts(None, worlds=3), vocab_size=700)


@cache
def prompts() -> PromptBuilder:
    return PromptBuilder(tokenizer())


def model(**changes: Any) -> MemSparseForCausalLM:
    torch.manual_seed(0)
    settings = MODEL | {"vocab_size": len(tokenizer()), "attn_implementation": "eager"} | changes
    return MemSparseForCausalLM(MemSparseConfig(**settings))


def step_builder(*, max_document_tokens: int = 96, **mix: Any) -> StepBuilder:
    return StepBuilder(
        prompts(), position_offset=6, max_document_tokens=max_document_tokens, mix=CallMix(**mix)
    )


def recipe(*phases: Phase, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"seed": 1, "warmup": 2, "eval_every": 1000, "model": MODEL, "phases": phases}
    return TrainConfig(**settings | changes)


def calls_phase(steps: int, **changes: Any) -> Phase:
    settings: dict[str, Any] = {"name": "main", "steps": steps, "documents": 6, "calls": 4, "max_words": 24}
    return Phase(**settings | changes)


def write_reading(folder: Path) -> dict[str, str]:
    """Corpus and queries of `PASSAGES` and `QUESTIONS`."""
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    rows = [{"id": id_, "title": title, "text": text} for id_, title, text in PASSAGES]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = [
        {"id": id_, "question": text, "answers": answers, "positive_ids": positives}
        for id_, text, answers, positives in QUESTIONS
    ]
    queries.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    return {"corpus": str(corpus), "queries": str(queries)}
