"""Single questions of a report: what was asked, routed, read and answered, against what is right."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memsparse.evaluation.figures import duration, mapping, number, plain, sequence, size
from memsparse.evaluation.report_tables import Cell

_ROWS = 5
"""Documents shown of a ranking, besides those that are right, read or cited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """What is shown of a document whose corpus was given."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentRow:
    """A routed document: what it is, and its score where each layer routed it."""

    id: str
    tags: tuple[str, ...]
    """Why it matters: "gold", "cited", "read"."""
    excerpt: Excerpt | None
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A ranking, or a round of an answer."""

    title: str
    said: str
    """What the model wrote in a round, markers included."""
    columns: tuple[str, ...]
    rows: tuple[DocumentRow, ...]
    more: int
    """Documents of the record that are not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One question asked of one system."""

    system: str
    question: str
    state: str
    """"right", "wrong" or "neither"."""
    verdict: str
    facts: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]


Excerpts = Mapping[str, Excerpt]


def chosen(records: Sequence[Any], limit: int) -> list[Mapping[str, Any]]:
    """At most `limit` records, the same questions of every system, spread evenly over the questions."""
    usable: list[Mapping[str, Any]] = [record for record in records if isinstance(record, dict)]
    if len(usable) <= limit:
        return usable
    questions: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in usable:
        key = tuple(str(record.get(name)) for name in ("rung", "kind", "task", "id"))
        questions.setdefault(key, []).append(record)
    groups = list(questions.values())
    widest = max(map(len, groups))
    count = min(len(groups), max(1, limit // widest)) if limit else 0
    picked = [groups[place * len(groups) // count] for place in range(count)]
    return [record for group in picked for record in group][:limit]


def documents_of(record: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the documents a record's entry may show."""
    yield from map(str, sequence(record.get("positive_ids")))
    yield from map(str, sequence(record.get("cited")))
    for ranking in (record, *_dicts(record.get("rounds"))):
        yield from map(str, sequence(ranking.get("documents")))
        for layer in (*_dicts(ranking.get("layers")), *_dicts(ranking.get("routing"))):
            yield from map(str, sequence(layer.get("documents")))


def entry_of(record: Mapping[str, Any], excerpts: Excerpts) -> Entry:
    """What is shown of a record; fields it lacks are left out."""
    state, verdict = _verdict(record)
    gold = [str(id_) for id_ in sequence(record.get("positive_ids"))]
    cited = [str(id_) for id_ in sequence(record.get("cited"))]
    steps = [
        _round_step(number_, item, gold, cited, excerpts)
        for number_, item in enumerate(_dicts(record.get("rounds")), start=1)
    ]
    if "ranks" in record:
        steps.insert(0, _ranking_step(record, gold, excerpts))
    return Entry(
        system=plain(record.get("system", "?")),
        question=plain(record.get("question") or "(no question)"),
        state=state,
        verdict=plain(verdict),
        facts=tuple((name, plain(text)) for name, text in _facts(record, gold, cited) if text),
        steps=tuple(steps),
    )


def _verdict(record: Mapping[str, Any]) -> tuple[str, str]:
    """Right or wrong, and in words."""
    if "error" in record:
        return "wrong", f"failed: {record['error']}"
    if "answer" in record:
        return _answer_verdict(record)
    if "ranks" not in record:
        return "neither", "nothing was measured"
    ranks = sequence(record["ranks"])
    if not ranks:
        return "neither", "no document is known to be right"
    words = ", ".join("beyond 100" if rank is None else str(rank) for rank in ranks)
    return ("right" if 1 in ranks else "wrong"), f"gold at rank {words}"


def _answer_verdict(record: Mapping[str, Any]) -> tuple[str, str]:
    found = record.get("found") is not False
    score = number(record.get("score"))
    if score is not None:
        words = f"{100 * score:.0f} % of the values" if found else "refused"
        return ("right" if score >= 1 else "wrong"), words
    if not record.get("answerable", bool(sequence(record.get("positive_ids")))):
        return ("wrong", "answered, though no document holds it") if found else ("right", "rightly refused")
    if not found:
        return "wrong", "refused, though a document holds it"
    if number(record.get("exact_match")) == 1:
        return "right", "exact match"
    if number(record.get("contains")) == 1:
        return "wrong", "holds the answer among other words"
    f1 = number(record.get("f1"))
    return "wrong", "another answer" if not f1 else f"F1 {100 * f1:.0f}"


def _facts(record: Mapping[str, Any], gold: Sequence[str], cited: Sequence[str]) -> Iterator[tuple[str, str]]:
    answers = [str(answer) for answer in sequence(record.get("answers"))]
    yield "Gold answer", " | ".join(answers)
    if "answer" in record:
        yield "Answer", str(record["answer"] or "(no words)")
    yield "Gold documents", ", ".join(gold) or "none"
    if "answer" in record:
        yield "Cited", ", ".join(cited) or "none"
    yield "Task", str(record.get("task") or "")
    tokens = number(record.get("tokens"))
    if tokens is not None:
        yield ("Length" if "task" in record else "Tokens"), f"{tokens:,.0f}"
    if (depth := number(record.get("depth"))) is not None:
        yield "Depth", f"{100 * depth:.0f} %"
    if (rung := number(record.get("rung"))) is not None:
        yield "Bank", f"{size(rung)} tokens"
    if (seconds := number(record.get("seconds"))) is not None:
        yield "Time", duration(seconds)
    judge = mapping(record.get("judge"))
    if judge:
        yield "Judge", _judged(judge)
        yield "Judge wrote", " / ".join(str(reply) for reply in sequence(judge.get("replies")))
    yield "Id", str(record.get("id", ""))


def _judged(judge: Mapping[str, Any]) -> str:
    score, match = number(judge.get("score")), judge.get("match")
    mark = "no mark" if score is None else f"{score:g} of 5"
    said = "match" if match is True else "mismatch" if match is False else "no verdict"
    error = f": {judge['error']}" if judge.get("error") else ""
    return f"{mark}, {said} ({judge.get('model', '?')}){error}"


def _ranking_step(record: Mapping[str, Any], gold: Sequence[str], excerpts: Excerpts) -> Step:
    whole = {**record, "layer": None}
    layers = _dicts(record.get("layers"))
    columns = ["all layers" if layers else "score", *(f"layer {layer.get('layer')}" for layer in layers)]
    order = {str(id_): place for place, id_ in enumerate(sequence(record.get("documents")))}
    return _step("Ranking", "", columns, [whole, *layers], {"gold": gold}, excerpts, order)


def _round_step(
    number_: int,
    item: Mapping[str, Any],
    gold: Sequence[str],
    cited: Sequence[str],
    excerpts: Excerpts,
) -> Step:
    read = [str(id_) for id_ in sequence(item.get("documents"))]
    layers = _dicts(item.get("routing"))
    title = f"Round {number_}: " + (
        f"read {len(read)} document{'s'[: len(read) != 1]}" if read else "read nothing"
    )
    if (seconds := number(item.get("seconds"))) is not None:
        title += f", {duration(seconds)}"
    columns = [f"layer {layer.get('layer')}" for layer in layers]
    tags = {"gold": gold, "read": read, "cited": cited}
    return _step(title, str(item.get("text") or ""), columns, layers, tags, excerpts)


def _step(
    title: str,
    said: str,
    columns: Sequence[str],
    rankings: Sequence[Mapping[str, Any]],
    tags: Mapping[str, Sequence[str]],
    excerpts: Excerpts,
    order: Mapping[str, int] | None = None,
) -> Step:
    """A row for each of the best documents: by `order`, the others by their best rank at any layer."""
    cells = [_ranked_cells(ranking) for ranking in rankings]
    best: dict[str, int] = {}
    for ranked in cells:
        for rank, id_ in enumerate(ranked):
            best[id_] = min(rank, best.get(id_, rank))
    first = order or {}
    listed = sorted(best, key=lambda id_: (first.get(id_, len(best)), best[id_]))
    marked = {id_ for ids in tags.values() for id_ in ids}
    kept = [id_ for place, id_ in enumerate(listed) if place < _ROWS or id_ in marked]
    kept += [id_ for id_ in tags.get("read", ()) if id_ not in best]
    rows = tuple(
        DocumentRow(
            id=plain(id_),
            tags=tuple(tag for tag, ids in tags.items() if id_ in ids),
            excerpt=excerpts.get(id_),
            cells=tuple(ranked.get(id_) for ranked in cells),
        )
        for id_ in dict.fromkeys(kept)
    )
    return Step(
        title=plain(title),
        said=plain(said),
        columns=tuple(map(plain, columns)),
        rows=rows,
        more=max(0, len(best) - sum(id_ in best for id_ in kept)),
    )


def _ranked_cells(ranking: Mapping[str, Any]) -> dict[str, Cell]:
    """Score, rank and best chunk of every document of a ranking."""
    scores, chunks = sequence(ranking.get("scores")), sequence(ranking.get("chunks"))
    cells: dict[str, Cell] = {}
    for place, id_ in enumerate(map(str, sequence(ranking.get("documents")))):
        score = number(scores[place]) if place < len(scores) else None
        chunk = number(chunks[place]) if place < len(chunks) else None
        note = f"rank {place + 1}" + ("" if chunk is None or chunk < 0 else f" · chunk {chunk:.0f}")
        cells.setdefault(id_, Cell(text="" if score is None else f"{score:.4g}", note=note))
    return cells


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in sequence(value) if isinstance(item, dict)]
