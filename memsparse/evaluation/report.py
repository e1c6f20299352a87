"""One page of what was measured: tables, plots and single questions out of a folder of result files.

The HTML page needs no network and no other file, and its tables and plots no JavaScript. Every text comes
from data and is escaped, and the policy of the page lets no script but its own run. The Markdown page has its
plots beside it.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from memsparse.errors import ConfigError, InputError
from memsparse.evaluation.figures import plain, sequence
from memsparse.evaluation.report_entries import Excerpt, chosen, documents_of
from memsparse.evaluation.report_markdown import markdown_page
from memsparse.evaluation.report_sections import Plot, Section, plots_of, section_of
from memsparse.evaluation.results import read_result
from memsparse.json_lines import whole_file
from memsparse.sources import Skipped, read_documents

KINDS = ("retrieval", "qa", "needles", "scaling")
_PAGE_BYTES = 5_000_000
"""Size of the HTML page from which on fewer questions are shown."""
_MARKDOWN_QUESTIONS = 20
"""Questions of each file in the Markdown page, at most."""
_EXCERPT = 200
"""Characters of a document that are shown."""
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    folder: Path,
    out_html: Path,
    out_markdown: Path,
    corpus: Sequence[Path] | None = None,
    *,
    questions: int = 200,
) -> list[str]:
    """Write the HTML page and the Markdown page about the result files of a folder.

    Args:
        corpus: files the titles and excerpts of documents are taken from.
        questions: records shown one by one, for each file; fewer where the page would be too large.

    Returns: a line for everything that was left out.
    Raises: InputError if the folder holds no result file.
    """
    notes: list[str] = []
    results = _read_folder(folder, notes)
    wanted = {
        id_
        for result in results.values()
        for record in chosen(sequence(result["records"]), questions)
        for id_ in documents_of(record)
    }
    excerpts = _excerpts(corpus or (), wanted, notes)
    plots = _plots(results, notes)
    fewer = questions
    while True:
        sections = [
            section_of(place, name, result, plots[name], excerpts, fewer)
            for place, (name, result) in enumerate(results.items(), start=1)
        ]
        page = html_page(sections, notes).encode("utf-8", "replace")
        if len(page) <= _PAGE_BYTES or fewer == 0:
            break
        fewer = fewer // 2
    if fewer < questions:
        notes.append(f"{fewer} questions of each file are shown, so that the page stays below 5 MB")
        page = html_page(sections, notes).encode("utf-8", "replace")
    _write(out_html, page)
    aside = f"{out_markdown.stem}-plots"
    for section in sections:
        for plot in section.plots:
            name = f"{section.anchor}-{plot.name}.svg"
            _write(out_markdown.parent / aside / name, _standalone(plot.svg).encode("utf-8", "replace"))
    text = markdown_page(sections, notes, plots=aside, questions=_MARKDOWN_QUESTIONS)
    _write(out_markdown, text.encode("utf-8", "replace"))
    return notes


def html_page(sections: Sequence[Section], notes: Sequence[str]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        sections=sections,
        notes=[plain(note) for note in notes],
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )


def _read_folder(folder: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Results by the name of their file; a note for each file that is none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one the result files lie in")
    results: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".json.partial", ".json.gz.partial")):
            if not path.with_name(path.name.removesuffix(".partial")).exists():
                notes.append(
                    f"{path.name}: an interrupted run without figures, left out; run its command again"
                )
            continue
        if not path.name.endswith((".json", ".json.gz")) or not path.is_file():
            continue
        try:
            result = read_result(path)
        except InputError as error:
            notes.append(f"left out: {str(error).replace(str(path), path.name)}")
            continue
        if result["kind"] not in KINDS:
            notes.append(
                f"{path.name}: left out, its kind is {result['kind']!r}; known are {', '.join(KINDS)}"
            )
        else:
            results[path.name] = result
    if not results:
        raise InputError(f"no result files in {folder}; write some with memsparse eval ... --json FILE")
    return results


def _excerpts(paths: Sequence[Path], wanted: set[str], notes: list[str]) -> dict[str, Excerpt]:
    """Titles and beginnings of the documents the page names."""
    found: dict[str, Excerpt] = {}
    if not paths:
        return found

    def skip(item: Skipped) -> None:
        notes.append(f"{item.path}: {item.reason}")

    for document in read_documents(paths, on_skip=skip):
        if document.id in wanted:
            text = " ".join(document.text[: 2 * _EXCERPT].split())
            if len(text) > _EXCERPT or len(document.text) > 2 * _EXCERPT:
                text = text[:_EXCERPT].rstrip() + "…"
            found[document.id] = Excerpt(title=plain(document.title), text=plain(text))
    if missing := len(wanted - found.keys()):
        notes.append(f"{missing:,} of the {len(wanted):,} documents named are not in the corpus given")
    return found


def _plots(results: Mapping[str, Mapping[str, Any]], notes: list[str]) -> dict[str, tuple[Plot, ...]]:
    try:
        return {name: plots_of(result) for name, result in results.items()}
    except ConfigError as error:
        notes.append(f"left out: {error}")
        return dict.fromkeys(results, ())


def _standalone(svg: str) -> str:
    """As a file of its own, on light and on dark alike."""
    return svg.replace("currentColor", "#808080").replace("var(--rule, #b9b9b9)", "#b9b9b9")


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)
