"""The scaling curve: the same questions while the bank grows, rung by rung, with text that never repeats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from time import perf_counter
from typing import Any

from memsparse.engine.engine import MemoryEngine
from memsparse.errors import ConfigError, InputError
from memsparse.evaluation.figures import OWN
from memsparse.evaluation.metrics import degradation
from memsparse.evaluation.model_system import ModelSystem
from memsparse.evaluation.qa import run_qa, summarise_qa
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile
from memsparse.evaluation.retrieval import METRICS, run_retrieval, summarise_layers, summarise_retrieval
from memsparse.evaluation.systems import OnProgress, System
from memsparse.types import Document

_BATCH = 2048
"""Documents added at a time, at most."""
_UNITS = {"K": 1024, "M": 1024**2}
Note = Callable[[str], None]
"""Takes what is being done, in words."""


def parse_tokens(text: str, what: str = "tokens") -> list[int]:
    """Read sizes like "16K,1M" (K is 1024, M is 1024 K) as ascending numbers of tokens.

    Raises: ConfigError for what is no size.
    """
    sizes = []
    for word in text.split(","):
        plain = word.upper().replace("_", "")
        digits, unit = (plain[:-1], _UNITS[plain[-1]]) if plain[-1:] in _UNITS else (plain, 1)
        if not (digits.isascii() and digits.isdigit()) or int(digits) == 0:
            raise ConfigError(f"{what}: {word!r} is no number of tokens; write sizes like 16K,64K,1M")
        sizes.append(int(digits) * unit)
    return sorted(set(sizes))


def choose_questions(
    documents: Sequence[Document],
    questions: Sequence[Question],
    *,
    tokens: int,
    count: Callable[[Document], int],
    limit: int | None,
    seed: int,
) -> tuple[list[Document], list[Question]]:
    """Draw the documents the first rung is made of, and questions all of whose positives are among them.

    Raises: InputError if not one question fits.
    """
    by_id = {document.id: document for document in documents}
    needed = sorted({id_ for question in questions for id_ in question.positive_ids})
    Random(seed).shuffle(needed)
    of_document: dict[str, list[Question]] = {}
    for question in questions:
        for id_ in question.positive_ids:
            of_document.setdefault(id_, []).append(question)
    chosen: dict[str, None] = {}
    used = 0
    for first in needed:
        for question in of_document[first]:
            new = [id_ for id_ in question.positive_ids if id_ not in chosen]
            more = sum(count(by_id[id_]) for id_ in new)
            if used + more <= tokens:
                chosen.update(dict.fromkeys(new))
                used += more
        if used >= tokens:
            break
    asked = [q for q in questions if q.rankable and all(id_ in chosen for id_ in q.positive_ids)]
    if not asked:
        raise InputError(f"no question's documents fit into {tokens} tokens; begin with a larger rung")
    if limit is not None and limit < len(asked):
        asked = [asked[i] for i in sorted(Random(seed).sample(range(len(asked)), limit))]
    return [by_id[id_] for id_ in chosen], asked


class Growth:
    """Fills a bank, and the peers beside it, to one size after another from a stream of documents.

    The stream must be the same at every run: a bank that holds its beginning already is filled further.
    """

    def __init__(
        self,
        engine: MemoryEngine,
        peers: Sequence[System],
        questioned: Sequence[Document],
        stream: Iterable[Document],
    ) -> None:
        self.engine = engine
        self._peers = list(peers)
        self._questioned = list(questioned)
        self._stream = _without({document.id for document in questioned}, stream)
        self._begun = False
        self._pending: list[Document] = []

    def grow(self, tokens: int, *, on_progress: OnProgress | None = None) -> float:
        """Add documents until the bank has that many tokens, or the stream ends; seconds of encoding.

        Raises: InputError if the stream ended before the bank had half of them.
        """
        began = perf_counter()
        if not self._begun:
            self._begun = True
            stored = {info.id for info in self.engine.bank.documents()}
            self._add(self._questioned)
            own = {document.id for document in self._questioned}
            known = list(islice(self._stream, len(stored - own)))
            if {document.id for document in known} != stored - own:
                raise InputError(
                    f"bank {self.engine.bank.path} holds other documents than this run would put there; "
                    "remove it, or choose another --bank"
                )
            self._hand_out(known)
        size, at_once = 1.0, 4
        while (have := self.engine.bank.stats()).tokens < tokens:
            size = max(size, have.tokens / max(1, have.documents))
            missing = int(0.8 * (tokens - have.tokens) / size)  # the next ones may be longer
            batch = list(islice(self._stream, max(1, min(at_once, missing))))
            if not batch:
                if have.tokens < tokens / 2:
                    raise InputError(
                        f"all text ends at {have.tokens} of {tokens} tokens; give more --distractors, take "
                        "invented worlds in (--generated), or smaller rungs"
                    )
                break
            self._add(batch)
            now = self.engine.bank.stats().tokens
            size, at_once = (now - have.tokens) / len(batch), min(_BATCH, 4 * at_once)
            if on_progress:
                on_progress(min(tokens, now), tokens)
        return perf_counter() - began

    def fill_peers(self, on_progress: OnProgress | None = None) -> None:
        """Hand the peers what they have not got; only where there is something to ask them."""
        if self._pending:
            for peer in self._peers:
                peer.add(self._pending, on_progress)
        self._pending = []

    def _add(self, documents: Sequence[Document]) -> None:
        self.engine.add(documents)
        self._hand_out(documents)

    def _hand_out(self, documents: Sequence[Document]) -> None:
        if self._peers:
            self._pending += documents


def run_scaling(
    engine: MemoryEngine,
    peers: Sequence[System],
    documents: Sequence[Document],
    questions: Sequence[Question],
    stream: Iterable[Document],
    rungs: Sequence[int],
    records: RecordFile,
    *,
    answers: bool = True,
    peer_limit: int | None = None,
    on_progress: OnProgress | None = None,
    on_note: Note | None = None,
) -> None:
    """Measure every rung; what `records` holds is not measured again.

    Args:
        documents: those the questions need, in the bank from the first rung on.
        answers: ask for answers too, not for rankings alone.
        peer_limit: tokens above which peers are left out.
    """
    model = ModelSystem(engine)
    growth = Growth(engine, peers, documents, stream)
    for rung in rungs:
        if on_note:
            on_note(f"{rung:,} tokens")
        systems: list[System] = [model]
        if peer_limit is None or rung <= peer_limit:
            systems += peers
        began_with = engine.bank.stats().tokens
        if not _measured(records, rung, systems, questions, answers) and began_with > _most(rung, records):
            raise InputError(
                f"bank {engine.bank.path} holds {began_with:,} tokens, more than the {rung:,} still to be "
                "measured; remove it and the .partial file to begin anew, or choose another --bank"
            )
        seconds = growth.grow(rung, on_progress=on_progress)
        if f"rung {rung}" not in records.marks:
            stats = engine.bank.stats()
            records.mark(
                f"rung {rung}",
                {
                    "tokens": stats.tokens,
                    "documents": stats.documents,
                    "bank_bytes": stats.bytes,
                    "added_tokens": stats.tokens - began_with,
                    "add_seconds": round(seconds, 3),
                },
            )
        if len(systems) > 1 and not _measured(records, rung, systems, questions, answers=False):
            growth.fill_peers(on_progress)
        run_retrieval(
            systems, questions, records, on_progress=on_progress, extra={"rung": rung, "kind": "rank"}
        )
        if answers:
            run_qa(
                [model], questions, records, on_progress=on_progress, extra={"rung": rung, "kind": "answer"}
            )


def _measured(
    records: RecordFile, rung: int, systems: Sequence[System], questions: Sequence[Question], answers: bool
) -> bool:
    """Whether nothing of a rung is left to be asked."""
    kinds = [("rank", system.name) for system in systems] + [("answer", OWN)] * answers
    return all(
        {"rung": rung, "kind": kind, "system": name, "id": question.id} in records
        for kind, name in kinds
        for question in questions
        if kind == "rank" or question.judgeable
    )


def _most(rung: int, records: RecordFile) -> float:
    """Tokens a bank may hold that is to be measured at a rung: what it was filled to, or a document more."""
    mark = records.marks.get(f"rung {rung}")
    return float(mark["tokens"]) if mark else 1.1 * rung + 1024


def summarise_scaling(
    records: Sequence[Record], marks: dict[str, Any], rungs: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """Rungs with the metrics of each system, and what is lost from the first to the last."""
    told: list[dict[str, Any]] = []
    for rung in rungs:
        rows = [row for row in records if row["rung"] == rung]
        if not rows or f"rung {rung}" not in marks:
            continue
        ranked = [row for row in rows if row["kind"] == "rank"]
        answered = [row for row in rows if row["kind"] == "answer"]
        systems = summarise_retrieval(ranked, seed=seed)
        for name, metrics in systems.items():
            metrics["search_seconds"] = metrics.pop("seconds_per_question")
            systems[name] = metrics
        for name, metrics in summarise_qa(answered, seed=seed).items():
            systems.setdefault(name, {}).update(metrics)
        told.append(
            {
                "rung": rung,
                **marks[f"rung {rung}"],
                "systems": systems,
                "layers": summarise_layers(ranked, seed=seed),
            }
        )
    return {
        "rungs": told,
        "systems": told[-1]["systems"] if told else {},
        "layers": told[-1]["layers"] if told else {},
        **_degradation(records, [entry["rung"] for entry in told], seed),
    }


def _degradation(records: Sequence[Record], rungs: Sequence[int], seed: int) -> dict[str, Any]:
    """Relative loss of every system between its first and its last rung, over the same questions."""
    lost: dict[str, dict[str, Any]] = {}
    between: dict[str, list[int]] = {}
    for name in dict.fromkeys(row["system"] for row in records):
        rows = [row for row in records if row["system"] == name and "error" not in row]
        own = [rung for rung in rungs if any(row["rung"] == rung for row in rows)]
        if len(own) < 2:
            continue
        between[name] = [own[0], own[-1]]
        first, last = (
            {(row["kind"], row["id"]): row for row in rows if row["rung"] == rung}
            for rung in (own[0], own[-1])
        )
        for metric, (kind, measure) in _PAIRED.items():
            both = [key for key in first if key[0] == kind and key in last]
            if both:
                lost.setdefault(name, {})[metric] = degradation(
                    [measure(first[key]) for key in both], [measure(last[key]) for key in both], seed=seed
                ).to_json()
    return {"degradation": lost, "degradation_between": between}


def _ranked(metric: str) -> tuple[str, Callable[[Record], float]]:
    return "rank", lambda row: METRICS[metric](row["ranks"])


def _answered(metric: str) -> tuple[str, Callable[[Record], float]]:
    return "answer", lambda row: float(row[metric])


_PAIRED: dict[str, tuple[str, Callable[[Record], float]]] = {
    **{name: _ranked(name) for name in ("recall@1", "recall@16", "mrr@10")},
    **{name: _answered(name) for name in ("exact_match", "f1")},
}


def _without(ids: set[str], documents: Iterable[Document]) -> Iterator[Document]:
    """The documents with other ids than these, each id once."""
    seen = set(ids)
    for document in documents:
        if document.id not in seen:
            seen.add(document.id)
            yield document
