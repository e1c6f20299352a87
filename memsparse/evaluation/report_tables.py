"""The tables of a report: systems by metrics with intervals, layers, rungs, needles; the facts of a run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memsparse.evaluation.figures import (
    LABELS,
    NOTHING,
    figure,
    interval,
    label,
    mapping,
    number,
    ordered,
    plain,
    sequence,
    shown,
    size,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A figure as text, and what stands small below it."""

    text: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table."""

    heads: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table; the first columns of every row name it."""

    caption: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


_SHARES = "Shares in percent, below each its 95 % interval."


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """Every table a result file has something for."""
    systems = mapping(result.get("systems"))
    layers = mapping(result.get("layers"))
    found: list[Table | None]
    if result.get("kind") == "needles":
        found = [_needles(systems), _by_metric(_other_than_needles(systems), f"Systems. {_SHARES}")]
    elif result.get("kind") == "scaling":
        found = [_rungs(result), _degradation(result), _bank_sizes(result)]
    else:
        found = [_by_metric(systems, f"Systems. {_SHARES}")]
    where = " at the last rung" if result.get("kind") == "scaling" else ""
    found += [
        _by_metric(
            {f"layer {layer}": metrics for layer, metrics in mapping(each).items()},
            f"{plain(name)}: each memory layer on its own{where}. {_SHARES}",
            head="layer",
        )
        for name, each in layers.items()
    ]
    return [table for table in found if table is not None]


def facts_of(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a file was made with and from, as names and texts."""
    corpus = mapping(result.get("corpus"))
    versions = mapping(result.get("versions"))
    told = [
        ("Command", result.get("command")),
        ("Commit", result.get("commit")),
        ("Device", result.get("device")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Seed", result.get("seed")),
        ("Corpus", corpus_text(corpus)),
        ("Settings", _compact(result.get("settings"))),
    ]
    told += [("Judge", _compact(result.get("judge")))] if result.get("judge") else []
    return [(name, plain(value)) for name, value in told if value not in (None, "", "{}")]


def failures_of(result: Mapping[str, Any]) -> list[str]:
    """A line for each system that failed on some question."""
    lines = []
    for name, entry in mapping(result.get("missing")).items():
        count, first = mapping(entry).get("n"), mapping(entry).get("first")
        lines.append(plain(f"{name}: {count} questions failed and count in no figure; the first: {first}"))
    return lines


def corpus_text(corpus: Mapping[str, Any]) -> str:
    """How large a corpus is and where from."""
    sizes = [
        f"{int(count):,} {what}"
        for what in ("documents", "tokens")
        if (count := number(corpus.get(what))) is not None
    ]
    files = ", ".join(map(str, sequence(corpus.get("files"))))
    return ", ".join(sizes) + (f" ({files})" if files else "")


def _by_metric(systems: Mapping[str, Any], caption: str, *, head: str = "system") -> Table | None:
    """A row for each system, a column for each metric any of them has."""
    names = ordered(metric for metrics in systems.values() for metric in mapping(metrics))
    if not names:
        return None
    rows = tuple(
        Row(heads=(plain(name),), cells=_cells(mapping(metrics), names)) for name, metrics in systems.items()
    )
    return Table(caption=caption, heads=(head,), columns=_columns(names), rows=rows)


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    return (*(plain(label(name)) for name in names), "n")


def _cells(metrics: Mapping[str, Any], names: Sequence[str]) -> tuple[Cell, ...]:
    """A cell for each metric and one for n; metrics over fewer questions say so themselves."""
    found = {name: figure(metrics, name) for name in names}
    most = max((each.n for each in found.values() if each.n is not None), default=None)
    cells = []
    for name, each in found.items():
        few = each.n is not None and each.n != most and each.value is not None
        parts = [interval(name, each), f"n {each.n:,}" if few else ""]
        cells.append(Cell(text=shown(name, each.value), note=" · ".join(part for part in parts if part)))
    return (*cells, Cell(text=NOTHING if most is None else f"{most:,}"))


def _rungs(result: Mapping[str, Any]) -> Table | None:
    rungs = [mapping(rung) for rung in sequence(result.get("rungs"))]
    systems = [(rung, name, mapping(each)) for rung in rungs for name, each in _systems_of(rung)]
    names = ordered(metric for _, _, metrics in systems for metric in metrics)
    if not names:
        return None
    rows = tuple(
        Row(heads=(rung_name(rung), plain(name)), cells=_cells(metrics, names))
        for rung, name, metrics in systems
    )
    return Table(
        caption=f"Rung by rung. {_SHARES}", heads=("bank", "system"), columns=_columns(names), rows=rows
    )


def _systems_of(rung: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return mapping(rung.get("systems")).items()


def rung_name(rung: Mapping[str, Any]) -> str:
    """A rung as it was asked for: 16K."""
    tokens = number(rung.get("rung")) or number(rung.get("tokens"))
    return NOTHING if tokens is None else size(tokens)


def _bank_sizes(result: Mapping[str, Any]) -> Table | None:
    rungs = [mapping(rung) for rung in sequence(result.get("rungs"))]
    names = [
        name
        for name in ("tokens", "documents", "bank_bytes", "added_tokens", "add_seconds")
        if any(number(rung.get(name)) is not None for rung in rungs)
    ]
    if not names:
        return None
    rows = tuple(
        Row(
            heads=(rung_name(rung),),
            cells=tuple(
                Cell(text=NOTHING if (value := number(rung.get(name))) is None else f"{value:,.10g}")
                for name in names
            ),
        )
        for rung in rungs
    )
    columns = tuple(name.replace("_", " ") for name in names)
    return Table(caption="The growing bank.", heads=("bank",), columns=columns, rows=rows)


def _degradation(result: Mapping[str, Any]) -> Table | None:
    """Relative losses are shares, whatever the metric; systems may have been measured over other rungs."""
    lost, between = mapping(result.get("degradation")), mapping(result.get("degradation_between"))
    names = ordered(metric for metrics in lost.values() for metric in mapping(metrics))
    if not names:
        return None
    rows = tuple(
        Row(heads=(plain(name), _span(between.get(name))), cells=_cells(mapping(metrics), names))
        for name, metrics in lost.items()
    )
    return Table(
        caption="Lost from a system's first to its last rung, in percent; below it the 95 % interval.",
        heads=("system", "from, to"),
        columns=_columns(names),
        rows=rows,
    )


def _span(rungs: Any) -> str:
    """The first and the last rung of a system."""
    ends = [number(rung) for rung in sequence(rungs)]
    return " to ".join(size(int(end)) for end in ends if end is not None) or NOTHING


def _needles(systems: Mapping[str, Any]) -> Table | None:
    """Tasks down, lengths across."""
    found = {
        (name, *needle): metric
        for name, metrics in systems.items()
        for metric in mapping(metrics)
        if (needle := _needle(metric)) is not None
    }
    lengths = sorted({tokens for _, _, tokens in found})
    rows = []
    for name, task in dict.fromkeys((name, task) for name, task, _ in found):
        cells = []
        for tokens in lengths:
            metric = found.get((name, task, tokens), "")
            each = figure(systems[name], metric)
            parts = [interval("", each), f"n {each.n:,}" if each.n else ""]
            cells.append(Cell(text=shown("", each.value), note=" · ".join(part for part in parts if part)))
        rows.append(
            Row(heads=(plain(name), "all tasks" if task == "needles" else plain(task)), cells=tuple(cells))
        )
    if not rows:
        return None
    return Table(
        caption=f"Needles found, by the tokens a question sees. {_SHARES}",
        heads=("system", "task"),
        columns=tuple(map(size, lengths)),
        rows=tuple(rows),
    )


def _needle(metric: str) -> tuple[str, int] | None:
    """The task and the length a metric of needles is about."""
    task, at, tokens = metric.rpartition("@")
    return (task, int(tokens)) if at and tokens.isdecimal() and metric not in LABELS else None


def _other_than_needles(systems: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: rest
        for name, metrics in systems.items()
        if (rest := {m: value for m, value in mapping(metrics).items() if _needle(m) is None})
    }


def _compact(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
