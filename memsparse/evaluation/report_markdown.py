"""The report as Markdown: the same tables, plots as files beside it, and the first few questions."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from memsparse.evaluation.report_entries import Entry, Step
from memsparse.evaluation.report_sections import Section
from memsparse.evaluation.report_tables import Table

_SPECIAL = re.compile(r"([\\`*_\[\]{}#|~$!])")


def markdown_page(sections: Sequence[Section], notes: Sequence[str], *, plots: str, questions: int) -> str:
    """The page as text.

    Args:
        plots: folder of the plots, relative to the page.
        questions: single questions shown of each file, at most.
    """
    lines = [
        "# What was measured",
        "",
        "Written by `memsparse eval report`. The system *memsparse* is the model.",
    ]
    if any(section.partial for section in sections):
        lines += ["", "> **PARTIAL.** Some of the runs below were cut short. Their figures are not final."]
    lines += ["", *_overview(sections), ""]
    lines += [f"- {escaped(note)}" for note in notes]
    for section in sections:
        lines += ["", *_section(section, plots, questions)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that means itself in Markdown, on one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def _overview(sections: Sequence[Section]) -> Iterator[str]:
    yield "| file | kind | memsparse | systems | corpus | records |"
    yield "|---|---|---|---|---|---:|"
    for section in sections:
        texts = (section.file, section.kind, section.headline, ", ".join(section.systems), section.corpus)
        mark = " **PARTIAL**" if section.partial else ""
        file, *rest = map(escaped, texts)
        yield f"| {file}{mark} | {' | '.join(rest)} | {section.records:,} |"


def _section(section: Section, plots: str, questions: int) -> Iterator[str]:
    yield f"## {escaped(section.file)} ({section.kind})"
    yield ""
    if section.partial:
        yield "> **PARTIAL.** This run was cut short: the figures are over the questions it reached."
        yield ""
    for line in section.failures:
        yield f"> {escaped(line)}"
        yield ""
    for name, text in section.facts:
        yield f"- {name}: {_code(text) if name in ('Command', 'Settings') else escaped(text)}"
    for plot in section.plots:
        if not plot.aside:
            yield ""
            file = f"{quote(plots)}/{section.anchor}-{plot.name}.svg"
            yield f"![{plot.name} of {escaped(section.file)}]({file})"
    for table in section.tables:
        yield ""
        yield from _table(table)
    yield ""
    yield "### Question by question"
    yield ""
    told = section.entries[:questions]
    more = f"; the HTML page shows {len(section.entries):,}" if len(section.entries) > len(told) else ""
    yield f"{len(told):,} of {section.records:,} records are shown{more}."
    for entry in told:
        yield ""
        yield from _entry(entry)


def _table(table: Table) -> Iterator[str]:
    yield escaped(table.caption)
    yield ""
    yield f"| {' | '.join(map(escaped, (*table.heads, *table.columns)))} |"
    yield "|" + "---|" * len(table.heads) + "---:|" * len(table.columns)
    for row in table.rows:
        cells = [
            escaped(cell.text) + (f"<br><sub>{escaped(cell.note)}</sub>" if cell.note else "")
            for cell in row.cells
        ]
        yield f"| {' | '.join([*map(escaped, row.heads), *cells])} |"


def _entry(entry: Entry) -> Iterator[str]:
    yield f"- **{escaped(entry.question)}** {escaped(entry.system)}, {entry.state}: {escaped(entry.verdict)}"
    for name, text in entry.facts:
        yield f"  - {name}: {escaped(text)}"
    for step in entry.steps:
        yield f"  - {escaped(step.title)}" + (f": {_code(step.said)}" if step.said else "")
        yield from (f"    - {line}" for line in _rows(step))


def _rows(step: Step) -> Iterator[str]:
    for row in step.rows:
        title = row.excerpt.title if row.excerpt and row.excerpt.title else ""
        tags = "".join(f", {tag}" for tag in row.tags)
        scores = "; ".join(
            f"{column} {cell.text} ({cell.note})"
            for column, cell in zip(step.columns, row.cells, strict=True)
            if cell is not None
        )
        yield escaped(f"{title} [{row.id}]{tags}: {scores}".strip())
    if step.more:
        yield f"{step.more} more in the result file"


def _code(text: str) -> str:
    """A code span, fenced with more backticks than stand in a row inside."""
    text = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
