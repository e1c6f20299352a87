import errno
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import LoadedModel
from memsparse.errors import DocumentError, EngineError
from memsparse.model.memory import InBatchMemory, LayerChunks
from memsparse.training import router_states
from memsparse.training.router_heads import Routers, routers_of
from memsparse.training.router_states import (
    Cached,
    Memory,
    Rows,
    chunk_states,
    make_rows,
    question_states,
    run_questions,
)
from memsparse.types import Document, MemoryKV, Passage, empty_memory
from tests.engine.builders import tiny_model

TEXTS = ("a", "the harbour of Oland", "the river froze " * 9, "a blue tin of keys", "winter. " * 30)
QUESTIONS = ("where?", "who keeps the keys of the lighthouse in a blue tin?", "the river")


def documents() -> list[Document]:
    return [Document(id=str(i), title="Oland" if i == 1 else "", text=text) for i, text in enumerate(TEXTS)]


def made(
    loaded: LoadedModel, folder: Path, *, batch_tokens: int = 256, budget: float = 1e9
) -> tuple[Rows, Cached, Cached]:
    rows = make_rows(loaded, documents(), QUESTIONS, batch_tokens=256)
    limits = {"batch_tokens": batch_tokens, "budget_bytes": budget}
    chunks = chunk_states(loaded, rows, folder / "chunks.bin", **limits)  # type: ignore[arg-type]
    tokens = question_states(loaded, rows, folder / "questions.bin", lambda: None, **limits)  # type: ignore[arg-type]
    return rows, chunks, tokens


def as_model(loaded: LoadedModel, chunks: Cached, tokens: Cached) -> Routers:
    own = routers_of(loaded.model)
    return Routers(loaded.model, own, tokens.of("tokens"), chunks.of("states"), ridge=0.1, seed=0)


@pytest.mark.parametrize("settings", [{}, {"routing_score": "dot"}, {"chunk_size": 1}, {"chunk_size": 64}])
def test_keys_of_pooled_states_are_the_models_own(tmp_path: Path, settings: dict[str, Any]) -> None:
    loaded = tiny_model(**settings)
    rows, chunks, tokens = made(loaded, tmp_path)
    encoder = Encoder(loaded, dtype=torch.float32)
    passages: list[Passage] = [passage for document in documents() for passage in encoder.split(document)]
    encoded = encoder.encode([replace(passage, number=number) for number, passage in enumerate(passages)])
    assert torch.bincount(rows.passage_of_chunk).tolist() == list(encoded.chunks_per_passage)
    routers = as_model(loaded, chunks, tokens)
    for layer in (2, 3):
        keys = routers.keys(layer, chunks.tensors["states", layer]).detach()
        torch.testing.assert_close(keys, encoded.routing_k[layer], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(chunks.tensors["k", layer], encoded.k[layer])
        torch.testing.assert_close(chunks.tensors["v", layer], encoded.v[layer])


class Recorder(InBatchMemory):
    """An empty memory that remembers what routed."""

    def __init__(self, loaded: LoadedModel) -> None:
        none = torch.empty(0, dtype=torch.long)
        super().__init__(none, 0, rule=loaded.config.routing_rule(), top_k=1)
        self.routed: dict[int, Tensor] = {}

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        self.routed[layer_idx] = routing_q[query_mask]
        return empty_memory(len(routing_q), 2, 8, like=routing_q)


@torch.no_grad()
def test_queries_of_states_are_those_a_model_with_an_empty_memory_routes_with(tmp_path: Path) -> None:
    loaded = tiny_model()
    rows, chunks, tokens = made(loaded, tmp_path)
    routers = as_model(loaded, chunks, tokens)
    ends = rows.token_of_question
    for index, (ids, routes) in enumerate(rows.questions):
        recorder = Recorder(loaded)
        head = len(loaded.prompts.head())
        after = torch.arange(len(ids) - head) + loaded.config.position_offset
        positions = torch.cat([torch.arange(head), after])[None]
        loaded.model.model(
            input_ids=torch.tensor([ids]),
            position_ids=positions,
            memory=recorder,
            query_mask=torch.tensor([routes]),
        )
        where = slice(int(ends[index]), int(ends[index + 1]))
        for layer, routed in recorder.routed.items():
            queries = routers.queries(layer, tokens.tensors["tokens", layer][None, where])[0]
            torch.testing.assert_close(queries, routed, atol=2e-5, rtol=1e-4)


def test_only_question_and_its_frame_route(tmp_path: Path) -> None:
    loaded = tiny_model()
    rows, _, _ = made(loaded, tmp_path)
    for (ids, routes), question in zip(rows.questions, QUESTIONS, strict=True):
        told = loaded.prompts.decode([id_ for id_, routed in zip(ids, routes, strict=True) if routed])
        assert question.lower().rstrip("?") in told
        assert "<|im_start|>" not in told


def same(one: Cached, other: Cached) -> bool:
    return all(torch.equal(each, other.tensors[key]) for key, each in one.tensors.items())


def test_what_is_there_is_not_run_again_and_half_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny_model()
    _, chunks, tokens = made(loaded, tmp_path)
    runs: list[str] = []
    for name in ("_fill_chunks", "_fill_tokens"):
        fill = getattr(router_states, name)
        monkeypatch.setattr(
            router_states, name, lambda *a, name=name, fill=fill: (runs.append(name), fill(*a))
        )
    _, again, _ = made(loaded, tmp_path)
    assert not runs
    assert same(chunks, again)
    path = tmp_path / "questions.bin"
    path.write_bytes(path.read_bytes()[:-4])
    _, _, rebuilt = made(loaded, tmp_path)
    assert runs == ["_fill_tokens"]
    assert same(tokens, rebuilt)


def test_states_beyond_the_budget_stay_in_the_file(tmp_path: Path) -> None:
    loaded = tiny_model()
    _, held, _ = made(loaded, tmp_path)
    _, mapped, _ = made(loaded, tmp_path, budget=held.bytes - 1)
    assert (held.mapped, mapped.mapped) == (False, True)
    assert held.bytes == (tmp_path / "chunks.bin").stat().st_size
    assert same(held, mapped)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, size: int) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(router_states, "_reserve", full)
    with pytest.raises(EngineError, match="No space left"):
        made(tiny_model(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_question_beyond_the_context_is_told() -> None:
    loaded = tiny_model(max_position_embeddings=64)
    with pytest.raises(DocumentError, match="the model's context 64"):
        make_rows(loaded, documents()[:1], ["harbour " * 90], batch_tokens=256)


@torch.no_grad()
def test_the_batch_changes_only_rounding(tmp_path: Path) -> None:
    loaded = tiny_model()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small = made(loaded, tmp_path / "a", batch_tokens=1)
    large = made(loaded, tmp_path / "b", batch_tokens=10_000)
    for one, other in zip(small[1:], large[1:], strict=True):
        for key, each in one.tensors.items():
            torch.testing.assert_close(each, other.tensors[key], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_question_reads_the_corpus_but_not_what_is_hidden_from_it(tmp_path: Path) -> None:
    loaded = tiny_model()
    rows, chunks, tokens = made(loaded, tmp_path)
    layers = {
        layer: LayerChunks(
            k=chunks.tensors["k", layer],
            v=chunks.tensors["v", layer],
            routing_k=as_model(loaded, chunks, tokens).keys(layer, chunks.tensors["states", layer]),
        )
        for layer in (2, 3)
    }

    def states(name: str, memory: Memory) -> dict[int, Tensor]:
        limits = {"batch_tokens": 256, "budget_bytes": 1e9}
        return question_states(loaded, rows, tmp_path / name, lambda: memory, **limits).of("tokens")  # type: ignore[arg-type]

    free = states("free", Memory(layers=layers))
    part = states("part", Memory(layers=layers, hidden={0: (0, 1, 2), 1: tuple(range(len(TEXTS)))}))
    starts = rows.token_of_question.tolist()
    first, second, third = (slice(a, b) for a, b in pairwise(starts))
    alone = tokens.of("tokens")
    torch.testing.assert_close(free[2], alone[2])  # nothing has been read below the lowest memory layer
    assert not torch.allclose(free[3][first], part[3][first], atol=1e-4)
    torch.testing.assert_close(part[3][second], alone[3][second])
    torch.testing.assert_close(part[3][third], free[3][third])
    assert not torch.allclose(free[3][third], alone[3][third], atol=1e-4)


def test_hooks_are_gone_after_a_run() -> None:
    loaded = tiny_model()
    rows = make_rows(loaded, documents(), QUESTIONS, batch_tokens=256)
    list(run_questions(loaded, rows, [0, 2], batch_tokens=256))
    assert not [m for m in loaded.model.modules() if m._forward_pre_hooks]
