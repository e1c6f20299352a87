"""Retrieval: where a system ranks the documents a question needs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from memsparse.errors import InputError
from memsparse.evaluation.metrics import (
    Ranks,
    all_at,
    bootstrap,
    hit_at,
    ndcg_at,
    recall_at,
    reciprocal_rank,
)
from memsparse.evaluation.model_system import SHOWN, layer_record
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile, by_system
from memsparse.evaluation.runner import ask_each
from memsparse.evaluation.systems import OnProgress, Retriever, System

DEPTH = 100
"""Documents ranked for each question."""

METRICS: Mapping[str, Callable[[Ranks], float]] = {
    "hit@1": partial(hit_at, k=1),
    **{f"recall@{k}": partial(recall_at, k=k) for k in (1, 5, 10, 16, 100)},
    **{f"all@{k}": partial(all_at, k=k) for k in (5, 10, 16)},
    "mrr@10": partial(reciprocal_rank, k=10),
    "ndcg@10": partial(ndcg_at, k=10),
}


def run_retrieval(
    systems: Sequence[System],
    questions: Sequence[Question],
    records: RecordFile,
    *,
    on_progress: OnProgress | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Rank for every question that has positives, system by system; what `records` holds is not asked again.

    Args:
        extra: further fields of every record.
    """
    asked = [question for question in questions if question.rankable]
    if not asked:
        raise InputError("no question has positive_ids; give questions that say which documents they need")
    rankers = [system for system in systems if isinstance(system, Retriever)]
    ask_each(rankers, asked, records, _describe, _measure, on_progress=on_progress, extra=extra)


def _describe(question: Question) -> Record:
    return {"positive_ids": list(question.positive_ids)}


def _measure(system: Retriever, question: Question) -> Record:
    ranking = system.retrieve(question, DEPTH)
    record: Record = {
        "documents": list(ranking.documents[:SHOWN]),
        "scores": [round(float(score), 5) for score in ranking.scores[:SHOWN]],
        "ranks": ranks_of(question.positive_ids, ranking.documents),
        "seconds": round(ranking.seconds, 6),
    }
    if ranking.layers:
        record["layers"] = [
            {**layer_record(layer), "ranks": ranks_of(question.positive_ids, layer.documents)}
            for layer in ranking.layers
        ]
    return record


def ranks_of(positive_ids: Sequence[str], documents: Sequence[str]) -> list[int | None]:
    """The rank of each positive, counted from 1; None where it is not among the first 100."""
    places = {id_: rank for rank, id_ in enumerate(documents[:DEPTH], start=1)}
    return [places.get(id_) for id_ in positive_ids]


def summarise_retrieval(records: Sequence[Record], *, seed: int) -> dict[str, dict[str, Any]]:
    """Metrics of every system, with intervals over questions."""
    return {
        name: {
            **_metrics([row["ranks"] for row in rows], seed),
            "seconds_per_question": bootstrap([row["seconds"] for row in rows], seed=seed).to_json(),
        }
        for name, rows in by_system(records).items()
    }


def summarise_layers(records: Sequence[Record], *, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Metrics of each memory layer on its own, of the systems that tell."""
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    for name, rows in by_system(records).items():
        ranks: dict[str, list[Ranks]] = {}
        for row in rows:
            for layer in row.get("layers", []):
                ranks.setdefault(str(layer["layer"]), []).append(layer["ranks"])
        if ranks:
            layers[name] = {layer: _metrics(each, seed) for layer, each in ranks.items()}
    return layers


def _metrics(ranks: Sequence[Ranks], seed: int) -> dict[str, Any]:
    return {
        metric: bootstrap([measure(each) for each in ranks], seed=seed).to_json()
        for metric, measure in METRICS.items()
    }
