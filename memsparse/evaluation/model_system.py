"""The measured model as a system: a memory engine, its routing and its answers by document id."""

import math
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

from memsparse.engine.engine import MemoryEngine
from memsparse.evaluation.figures import OWN
from memsparse.evaluation.questions import Question
from memsparse.evaluation.systems import LayerRanking, OnProgress, Ranking, Reply
from memsparse.types import Answer, Document, LayerRouting

SHOWN = 16
"""Documents of a ranking that a record names."""


class ModelSystem:
    """`MemoryEngine` as a `System`. Parts of a long document count as the document, at its best place."""

    name = OWN

    def __init__(self, engine: MemoryEngine, *, namespace: str | Sequence[str] | None = None) -> None:
        self.engine = engine
        self.namespace = namespace
        self._ids: dict[int, str] = {}
        self._documents = 0
        self._version = -1

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Encode documents into the bank; those that are in it already are skipped."""
        self.engine.add(
            documents,
            on_progress=None
            if on_progress is None
            else lambda state: on_progress(state.documents, state.total),
        )

    def retrieve(self, question: Question, limit: int) -> Ranking:
        """Route the question once; documents by the mean score over the memory layers."""
        self._refresh()
        began = perf_counter()
        wanted = min(limit, self._documents)
        # Parts of one document take several places.
        asked = math.ceil(1.5 * limit * len(self._ids) / max(1, self._documents))
        while True:
            routed = self.engine.route(question.text, limit=asked, namespace=self.namespace)
            hits = _distinct((hit.citation.document_id, hit.score) for hit in routed.hits)
            if len(hits) >= wanted or len(routed.hits) < asked:
                break
            asked *= 2
        documents, scores = [id_ for id_, _ in hits[:limit]], [score for _, score in hits[:limit]]
        seconds = perf_counter() - began
        return Ranking(
            documents=tuple(documents),
            scores=tuple(scores),
            seconds=seconds,
            layers=tuple(layer_ranking(layer, self._ids, limit) for layer in routed.layers),
        )

    def answer(self, question: Question) -> Reply:
        """Ask the engine."""
        answer = self.engine.ask(question.text, namespace=self.namespace)
        self._refresh()
        return reply_of(answer, self._ids)

    def _refresh(self) -> None:
        """Learn which document each number belongs to, when the bank has changed."""
        version = self.engine.bank.version
        if version == self._version:
            return
        for info in self.engine.bank.documents():
            for number in info.numbers:
                self._ids[number] = info.id
        self._documents = len(set(self._ids.values()))
        self._version = version


def reply_of(answer: Answer, ids: Mapping[int, str]) -> Reply:
    """An engine's answer as a system's; a layer that had nothing to route is left out of its round.

    Args:
        ids: which document each number it may name belongs to.
    """
    return Reply(
        text=answer.text,
        found=answer.found,
        cited=tuple(dict.fromkeys(citation.document_id for citation in answer.citations)),
        tokens=answer.usage.prompt_tokens + answer.usage.completion_tokens,
        seconds=answer.usage.seconds,
        rounds=tuple(
            {
                "numbers": list(item.numbers),
                "documents": [ids.get(number, "") for number in item.numbers],
                "text": item.text,
                "seconds": item.seconds,
                "routing": [
                    layer_record(layer_ranking(layer, ids)) for layer in item.routing if layer.numbers
                ],
            }
            for item in answer.rounds
        ),
    )


def layer_ranking(layer: LayerRouting, ids: Mapping[int, str], limit: int | None = None) -> LayerRanking:
    """A layer's routing by document id; the best part of a document stands for it."""
    kept: dict[str, tuple[float, int | None]] = {}
    chunks = [*layer.chunks, *[None] * (len(layer.numbers) - len(layer.chunks))]
    for number, score, chunk in zip(layer.numbers, layer.scores, chunks, strict=True):
        kept.setdefault(ids.get(number, ""), (score, chunk))
    rows = list(kept.items())[:limit]
    return LayerRanking(
        layer=layer.layer,
        documents=tuple(id_ for id_, _ in rows),
        scores=tuple(score for _, (score, _) in rows),
        chunks=tuple(chunk for _, (_, chunk) in rows if chunk is not None),
    )


def layer_record(layer: LayerRanking) -> dict[str, Any]:
    """A layer's ranking as a record keeps it."""
    return {
        "layer": layer.layer,
        "documents": list(layer.documents[:SHOWN]),
        "scores": [round(score, 5) for score in layer.scores[:SHOWN]],
        "chunks": list(layer.chunks[:SHOWN]),
    }


def _distinct(pairs: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The first of each document, in order."""
    kept: dict[str, float] = {}
    for id_, score in pairs:
        kept.setdefault(id_, score)
    return list(kept.items())
