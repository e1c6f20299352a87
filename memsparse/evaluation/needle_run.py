"""The needle tasks put to the model, and to peers over the same documents: one bank for each length."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from memsparse.distributed.launch import engine_class
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel
from memsparse.errors import MemSparseError
from memsparse.evaluation.figures import OWN
from memsparse.evaluation.metrics import bootstrap, degradation, precision_recall
from memsparse.evaluation.model_system import ModelSystem
from memsparse.evaluation.needle_scores import needle_record, summarise
from memsparse.evaluation.needles import NeedleBank, NeedleConfig, Sample, build
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile, by_system
from memsparse.evaluation.runner import Failures
from memsparse.evaluation.systems import OnProgress, Reply, Retriever, System
from memsparse.evaluation.text_reader import TextReader
from memsparse.types import Document

_DEPTH = 100
"""Documents a peer ranks at first; those of other samples are then passed over."""
_SEGMENT = 2048

Ask = Callable[[Sample], Reply]
Peers = Callable[[MemoryEngine], Sequence[System]]


def run_needles(
    loaded: LoadedModel,
    config: NeedleConfig,
    haystack: Sequence[Document] | None,
    records: RecordFile,
    folder: Path,
    *,
    peers: Peers | None = None,
    read: int = 1,
    engine: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> None:
    """Ask every sample of every length; what `records` holds is not asked again.

    Args:
        folder: where a length's bank lies while it is asked.
        peers: makes retrievers over an engine; they read their best documents as text.
        read: documents a peer reads to answer.
        engine: single fields of `EngineConfig`.

    Raises: as `ask_each`.
    """
    for length in config.lengths:
        bank = build(config, length, haystack, loaded.prompts.count_tokens)
        path = folder / f"{length}.bank"
        shutil.rmtree(path, ignore_errors=True)
        with engine_class().open(path, loaded, segment_documents=_SEGMENT, **(engine or {})) as opened:
            made = list(peers(opened)) if peers else []
            names = [OWN, *(peer.name for peer in made)]
            left = {
                name: [
                    s for s in bank.samples if {"tokens": length, "system": name, "id": s.id} not in records
                ]
                for name in names
            }
            if not any(left.values()):
                continue
            if on_note:
                on_note(f"{length:,} tokens, {len(bank.documents):,} documents")
            records.mark(f"length {length}", _facts(bank))
            opened.add(
                bank.documents,
                on_progress=None
                if on_progress is None
                else lambda state: on_progress(state.documents, state.total),
            )
            done = 0
            for name, ask in _askers(opened, bank, made, read, left, on_progress):
                failures = Failures()
                for sample in left[name]:
                    records.add(_ask(name, sample, ask, failures))
                    done += 1
                    if on_progress:
                        on_progress(done, sum(map(len, left.values())))
        shutil.rmtree(path, ignore_errors=True)


def _facts(bank: NeedleBank) -> dict[str, Any]:
    return {
        "documents": len(bank.documents),
        "tokens": bank.tokens,
        "haystack": bank.haystack,
        "repeats": round(bank.repeats, 3),
    }


def _ask(name: str, sample: Sample, ask: Ask, failures: Failures) -> Record:
    try:
        reply = ask(sample)
    except MemSparseError as error:
        head = {"system": name, "id": sample.id, "task": sample.task, "tokens": sample.tokens}
        return {**head, "error": failures.told(error)}
    failures.none()
    return needle_record(name, sample, reply)


def _askers(
    engine: MemoryEngine,
    bank: NeedleBank,
    peers: Sequence[System],
    read: int,
    left: Mapping[str, Sequence[Sample]],
    on_progress: OnProgress | None,
) -> "Sequence[tuple[str, Ask]]":
    model = ModelSystem(engine)

    def ask_model(sample: Sample) -> Reply:
        model.namespace = sample.namespaces
        return model.answer(Question(id=sample.id, text=sample.question))

    askers: list[tuple[str, Ask]] = [(OWN, ask_model)]
    if any(left[peer.name] for peer in peers):
        documents = {document.id: document for document in bank.documents}
        reader = TextReader(engine)
        for peer in peers:
            if left[peer.name] and isinstance(peer, Retriever):
                peer.add(list(documents.values()), on_progress)
                askers.append((peer.name, _reading(peer, documents, reader, read)))
    return askers


def _reading(peer: Retriever, documents: Mapping[str, Document], reader: TextReader, read: int) -> Ask:
    """Answers by what a peer ranks first among the documents a sample may see."""

    def ask(sample: Sample) -> Reply:
        began = perf_counter()
        depth = _DEPTH
        while True:
            ranked = peer.retrieve(Question(id=sample.id, text=sample.question), depth).documents
            seen = [documents[id_] for id_ in ranked if documents[id_].namespace in sample.namespaces]
            if len(seen) >= read or len(ranked) < depth:
                break
            depth *= 4  # most of those were of other samples
        reply = reader.read(sample.question, seen[:read])
        return replace(reply, seconds=perf_counter() - began)

    return ask


def summarise_needles(records: RecordFile, *, seed: int) -> dict[str, Any]:
    """Scores of every system by task and length, citations, and what each length's bank was made of."""
    systems: dict[str, dict[str, Any]] = {}
    for name, rows in by_system(records.records).items():
        cited = [precision_recall(row["cited"], row["positive_ids"]) for row in rows]
        systems[name] = {
            **summarise(rows, seed),
            "citation_precision": bootstrap([p for p, _ in cited], seed=seed).to_json(),
            "citation_recall": bootstrap([r for _, r in cited], seed=seed).to_json(),
            "wrongly_refused": bootstrap([float(not row["found"]) for row in rows], seed=seed).to_json(),
            "seconds_per_question": bootstrap([row["seconds"] for row in rows], seed=seed).to_json(),
        }
    lengths = {
        name.removeprefix("length "): facts
        for name, facts in records.marks.items()
        if name.startswith("length ")
    }
    return {"systems": systems, "lengths": lengths, "degradation": _degradation(records.records, seed)}


def _degradation(records: Sequence[Record], seed: int) -> dict[str, dict[str, Any]]:
    """Relative loss of the mean score from the shortest to the longest length, task by sample."""
    lost: dict[str, dict[str, Any]] = {}
    for name, rows in by_system(records).items():
        scores: dict[int, dict[str, float]] = {}
        for row in rows:
            scores.setdefault(row["tokens"], {})[row["id"].replace(f"@{row['tokens']}", "")] = row["score"]
        if len(scores) > 1:
            first, last = scores[min(scores)], scores[max(scores)]
            both = [id_ for id_ in first if id_ in last]
            lost[name] = {
                "needles": degradation(
                    [first[id_] for id_ in both], [last[id_] for id_ in both], seed=seed
                ).to_json()
            }
    return lost
