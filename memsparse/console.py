"""What the command line shows: results on standard output; progress, notes and errors on standard error."""

import dataclasses
import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:  # what these modules import takes seconds, which `--help` does not have
    from memsparse.engine.engine import AddReport
    from memsparse.sources import Skipped
    from memsparse.types import Answer, Citation

_EXCERPT = 200
"""Characters of a passage that are shown."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def say(text: str = "", *, end: str = "\n", bold: bool | None = None, dim: bool | None = None) -> None:
    """Write text to standard output; `bold` and `dim` show on a terminal only."""
    text = printable(text, _encoding(sys.stdout))
    typer.echo((typer.style(text, bold=bold, dim=dim) if bold or dim else text) + end, nl=False)


def note(text: str, *, dim: bool | None = None) -> None:
    """Write one line to standard error."""
    text = printable(" ".join(text.splitlines()), _encoding(sys.stderr))
    # The stream by its name: while a bar runs it is a stand-in that writes above the bar.
    typer.echo(typer.style(text, dim=dim) if dim else text, file=sys.stderr, err=True)


def fail(error: Exception) -> None:
    """Write the line of an error."""
    note(f"error: {error}")


def _encoding(stream: TextIO | None) -> str | None:
    """What a stream can hold; None for one that was closed before the program started."""
    return stream.encoding if stream else None


def printable(text: str, encoding: str | None = None) -> str:
    """Replace control characters, with which a document could steer the terminal, and what a stream lacks.

    Line ends and tabs stay.
    """
    clean = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
    encoding = encoding or "utf-8"
    return clean.encode(encoding, "replace").decode(encoding)


def show_json(value: Any) -> None:
    """Write one JSON object to standard output, in UTF-8 whatever the locale."""
    text = json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False)
    # A lone surrogate, from a file name that is no UTF-8, becomes its JSON escape.
    typer.echo(text.encode("utf-8", "backslashreplace"))


def _jsonable(value: Any) -> Any:
    """Dataclasses as objects; numbers that JSON cannot write as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_rows(rows: Sequence[Sequence[object]], head: Sequence[str], *, always_head: bool = False) -> None:
    """Write a table: with headings and aligned on a terminal, separated by tabs elsewhere.

    `always_head` writes the headings elsewhere too, for tables whose columns differ from run to run.
    """
    lines = [[printable(one_line(str(cell))) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(head)] * always_head + lines:
            say("\t".join(line))
        return
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for number, line in enumerate([list(head), *lines]):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        say("  ".join(cells).rstrip(), dim=True if number == 0 else None)


def one_line(text: str) -> str:
    """A text with every run of whitespace as one space; titles and names of files may hold line ends."""
    return " ".join(text.split())


def excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    return textwrap.shorten(text, _EXCERPT, placeholder=" ...")


def full_id(citation: "Citation") -> str:
    """The id of a document, and its namespace unless that is the default one."""
    return citation.document_id + f" [{citation.namespace}]" * (citation.namespace != "default")


def show_answer(answer: "Answer", *, rounds: bool = False) -> None:
    """Write what an answer rests on and what it took; its text is on the screen already."""
    from memsparse.text import without_title  # imports a tokenizer

    for index, citation in enumerate(answer.citations, start=1):
        say()
        id_ = full_id(citation)
        title = f"{citation.title} ({id_})" if citation.title else id_
        say(f"[{index}] {one_line(title)}", bold=True)
        say(f"    {excerpt(without_title(citation.title, citation.text))}")
    say()
    for index, item in enumerate(answer.rounds if rounds else (), start=1):
        read = ", ".join(map(str, item.numbers)) or "nothing, retrieval ends"
        say(f"round {index}: read {read} ({item.seconds:.2f} s)", dim=True)
        for layer in item.routing:
            scored = zip(layer.numbers, layer.scores, strict=True)
            best = ", ".join(f"{number} ({score:.3f})" for number, score in scored)
            say(f"    layer {layer.layer} routed {best}", dim=True)
    usage = answer.usage
    if rounds:
        say(f"answer ({usage.answer_seconds:.2f} s)", dim=True)
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    say(f"{tokens}, {usage.seconds:.2f} s ({usage.route_seconds:.2f} s routing)", dim=True)


class SkipNotes:
    """Notes what is not read, a line each, and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, item: "Skipped") -> None:
        """Take one `Skipped`, as `read_documents` hands it out."""
        self.count += 1
        note(f"skipped {item.path}: {item.reason}")


def nothing_there(bank: Path, namespace: str | None = None) -> str:
    """What to do where a bank has no document that the namespace and the version asked for let be read."""
    where = "here" if namespace is None else f"in the namespace {namespace!r}"
    return f"{bank} holds nothing to read {where}; 'memsparse bank stats {bank}' tells what it holds"


def report_line(report: "AddReport", skipped: int) -> str:
    """What an encoding did, on one line."""
    counts = {
        "added": report.added,
        "updated": report.updated,
        "removed": report.removed,
        "unchanged": report.unchanged,
        "skipped": skipped,
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"
    return f"documents: {told}; {report.tokens} tokens encoded in {report.seconds:.2f} s"


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on standard error while the block runs, if that is a terminal.

    Yields: a function that takes how much is done, and how much there is to do, if that is known.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
