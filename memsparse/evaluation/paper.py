"""The paper's own figures, each with the table it stands in, and ours beside them."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from memsparse.evaluation.figures import OWN

THEIRS = "msa"
"""Column of the paper's own model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """One table of the paper: a score of every system on every benchmark it names."""

    name: str
    title: str
    citation: str
    """Where the figures were copied from."""
    metric: str
    """"judge": an LLM's marks, 0 to 5."""
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    """Scores by name of the benchmark, in the order of the columns."""
    mean: tuple[float, ...]
    """The row of averages, as printed."""
    tokens: Mapping[str, str]
    """Size of each memory bank as printed; empty where the table does not say."""

    def score(self, benchmark: str, column: str) -> float | None:
        """Return one figure; None where the table has no such row."""
        row = self.rows.get(benchmark)
        return None if row is None else row[self.columns.index(column)]


@cache
def paper_tables() -> Mapping[str, PaperTable]:
    """Return every table by name."""
    text = files("memsparse.evaluation").joinpath("paper_tables.toml").read_text("utf-8")
    tables = {
        name: PaperTable(
            name=name,
            title=table["title"],
            citation=table["citation"],
            metric=table["metric"],
            columns=tuple(table["columns"]),
            rows=MappingProxyType({key: tuple(row) for key, row in table["rows"].items()}),
            mean=tuple(table["mean"]),
            tokens=MappingProxyType(table.get("tokens", {})),
        )
        for name, table in tomllib.loads(text).items()
    }
    return MappingProxyType(tables)


_MEASURED = (
    ("judge", "judge 0-5", 1),
    ("exact_match", "EM", 100),
    ("f1", "F1", 100),
    ("contains", "contains", 100),
    ("citation_f1", "citation F1", 100),
    ("refused", "refused", 100),
    ("seconds_per_question", "seconds", 1),
)
"""Metric, heading, and what it is multiplied by."""


def comparison(results: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> str:
    """Return Markdown: what was measured, then the marks beside the paper's tables.

    Args:
        results: result of `memsparse eval qa` by name of the benchmark.
        order: names of the benchmarks, as rows; those without a result show a dash, as does whatever was
            not measured: marks are of a judge, and no judge may have been asked.
    """
    sections = [_measured(results, order)]
    for table in paper_tables().values():
        named = [name for name in order if name in table.rows]
        if named:
            sections.append(_beside(table, results, named))
    return "\n\n".join(sections) + "\n"


def _measured(results: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> str:
    lines = []
    for name in order:
        result = results.get(name, {})
        for system, metrics in result.get("systems", {}).items() or [("-", {})]:
            cells = [_interval(metrics.get(metric), scale) for metric, _, scale in _MEASURED]
            asked = max((estimate["n"] for estimate in metrics.values()), default=0)
            size = result.get("corpus", {}).get("tokens")
            partial = " (partial)" if result.get("partial") else ""
            lines.append([name + partial, f"{size:,}" if size else "-", system, str(asked or "-"), *cells])
    head = ["benchmark", "tokens", "system", "questions", *(title for _, title, _ in _MEASURED)]
    return "## Measured\n\nIn brackets: 95 % bootstrap interval.\n\n" + _table(head, lines)


def _beside(table: PaperTable, results: Mapping[str, Mapping[str, Any]], named: Sequence[str]) -> str:
    lines, ours = [], []
    for name in named:
        metrics = results.get(name, {}).get("systems", {}).get(OWN, {})
        value = (metrics.get(table.metric) or {}).get("value")
        if value is not None:
            ours.append(value)
        theirs = table.score(name, THEIRS)
        apart = "-" if value is None or theirs is None else f"{value - theirs:+.3f}"
        printed = [f"{score:.3f}" for score in table.rows[name]]
        lines.append(
            [name, table.tokens.get(name, "-"), "-" if value is None else f"{value:.3f}", apart, *printed]
        )
    if len(ours) == len(table.rows):
        # The paper's averages are over all of its rows: beside them only an average over the same ones.
        mean = sum(ours) / len(ours)
        apart = f"{mean - table.mean[table.columns.index(THEIRS)]:+.3f}"
        lines.append(["mean", "-", f"{mean:.3f}", apart, *(f"{score:.3f}" for score in table.mean)])
    head = ["benchmark", "tokens", OWN, f"{OWN} - {THEIRS}", *table.columns]
    return (
        f"## {table.title}\n\nMarks of an LLM judge, 0 to 5; two judges' marks differ, so compare only where "
        f"the judge is the same. Columns from {table.columns[0]} on: {table.citation}.\n\n"
        + _table(head, lines)
    )


def _interval(estimate: Mapping[str, Any] | None, scale: int) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    digits = 1 if scale == 100 else 2
    value, low, high = (f"{scale * estimate[bound]:.{digits}f}" for bound in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])
