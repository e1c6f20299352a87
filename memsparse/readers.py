"""One reader per file format: a source goes in, documents come out.

A reader raises DocumentError, with the bare reason, when all or the rest of its source cannot be used, and
yields a `Skipped` for a line or row that cannot.
"""

import codecs
import csv
import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from memsparse.errors import DocumentError
from memsparse.json_lines import unpacked_lines
from memsparse.types import Document

_TITLE_LENGTH = 100
"""Characters; a longer first line is a paragraph, not a title."""
_PROSE = {"", ".txt", ".text", ".md", ".markdown", ".rst"}
"""Suffixes of files whose first line may be a title; that of source code is not."""
_RULE = re.compile(r"([=\-~*#^\"])\1{2,}")
"""A line that underlines a heading."""
_CSV_FIELD_LIMIT = 1 << 27
"""Characters of one CSV cell, which may hold a whole text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """Something that was not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file, or standard input, on its way to becoming documents."""

    path: Path | None
    """None: standard input."""
    id: str
    """Id of the document, and the stem of ids where a file holds many."""
    namespace: str

    @property
    def shown(self) -> str:
        """How messages name it; always printable, whatever bytes the file's name is made of."""
        name = "standard input" if self.path is None else str(self.path)
        return name.encode("utf-8", "backslashreplace").decode()

    @property
    def stem(self) -> str:
        """Title of a document that names none."""
        return Path(self.id).stem

    def open(self) -> BinaryIO:
        """Open it for reading bytes."""
        if self.path is not None:
            return self.path.open("rb")
        if sys.stdin is None:
            raise DocumentError("it is closed; give it something to read")
        return sys.stdin.buffer

    def skipped(self, reason: str) -> Skipped:
        """Return the line that says why it, or a part of it, was not read."""
        return Skipped(path=self.shown, reason=reason)

    def document(
        self, text: str, *, title: str, id: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Document:
        """Return the document, or raise DocumentError with the reason why it cannot be one."""
        if not text.strip():
            raise DocumentError("no text in it")
        id = id or self.id
        if self.path is not None and id == self.id and self.shown != str(self.path):
            raise DocumentError("its name is not UTF-8; rename it")
        try:
            f"{id}{title}{text}".encode()
        except UnicodeEncodeError:
            raise DocumentError("holds an unpaired surrogate, which is no character") from None
        return Document(id=id, title=title, text=text, namespace=self.namespace, metadata=metadata or {})


Reader = Callable[[Source], Iterator[Document | Skipped]]


def reader_for(source: Source) -> Reader:
    """Return the reader for standard input, or for a file by its name; text where the name says nothing."""
    if source.path is None:
        return _read_stdin
    name = source.path.name.lower()
    return next((reader for suffixes, reader in _READERS.items() if name.endswith(suffixes)), _read_text)


# Text


def _decode(data: bytes) -> str:
    """Return text with its line ends as "\\n", or raise DocumentError with the reason why it is none."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not utf16 and b"\0" in data:
        raise DocumentError("binary file")
    encoding = "utf-16" if utf16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-16" if utf16 else "UTF-8"
        raise DocumentError(f"not {name} text (byte {error.start}); convert it to UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_text(source: Source) -> Iterator[Document]:
    with source.open() as stream:
        text = _decode(stream.read())
    yield source.document(text, title=_title(text, Path(source.id).suffix.lower()) or source.stem)


def _title(text: str, suffix: str) -> str:
    """Return the title a text gives itself: its first heading, or a short line that stands alone; else ""."""
    if suffix not in _PROSE:
        return ""
    if suffix in {".md", ".markdown"}:
        front, text = _front_matter(text)
        before_code = re.split(r"^(?:```|~~~)", text, maxsplit=1, flags=re.MULTILINE)[0]
        heading = re.search(r"^#{1,6}[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*$", before_code, re.MULTILINE)
        if front or heading:
            return front or (heading[1] if heading else "")
    lines = [line.strip() for line in text.strip().split("\n", 3)[:3]]
    if _RULE.fullmatch(lines[0]):  # above a reStructuredText title
        lines = lines[1:]
    if len(lines) < 2 or len(lines[0]) > _TITLE_LENGTH:
        return ""
    first, second = lines[:2]
    if first.startswith("# "):
        return first.strip("# ")
    alone = second == "" and re.match(r"[\w\"'“«(]", first) and not first.endswith((".", ",", ";", ":"))
    return first if alone or _RULE.fullmatch(second) else ""


def _front_matter(text: str) -> tuple[str, str]:
    """Return the title a YAML header names ("" where there is none) and the text below the header."""
    header = re.match(r"---\n(.*?\n)(?:---|\.\.\.)(?:\n|$)", text, re.DOTALL)
    if not header:
        return "", text
    title = re.search(r"^title:[ \t]*(.*)$", header[1], re.MULTILINE)
    return (title[1].strip().strip("\"'") if title else ""), text[header.end() :]


# JSON Lines

_OPTIONAL_KEYS = (
    ("id", (str, int), "a string or a whole number"),
    ("title", (str,), "a string"),
    ("metadata", (dict,), "an object"),
)


def _read_stdin(source: Source) -> Iterator[Document | Skipped]:
    """JSON Lines if the first line that is not empty is an object with "text", else one plain text."""
    stream = source.open()
    head: list[bytes] = []
    for line in stream:
        head.append(line)
        if line.strip():
            break
    try:
        _json_record(b"".join(head))
    except DocumentError:
        text = _decode(b"".join(head) + stream.read())
        yield source.document(text, title=_title(text, "") or source.stem)
    else:
        yield from _json_documents(source, chain(head, stream))


def _read_json_lines(source: Source) -> Iterator[Document | Skipped]:
    with source.open() as stream:
        yield from _json_documents(source, unpacked_lines(stream, source.shown))


def _json_documents(source: Source, lines: Iterable[bytes]) -> Iterator[Document | Skipped]:
    for number, line in enumerate(lines, start=1):
        if number == 1:
            _refuse_other_than_utf8(line)
        if line.strip():
            yield _json_document(source, line, number)


def _refuse_other_than_utf8(line: bytes) -> None:
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DocumentError("UTF-16; JSON Lines must be UTF-8, so convert it")
    if b"\0" in line:
        raise DocumentError("binary file")


def _json_document(source: Source, line: bytes, number: int) -> Document | Skipped:
    try:
        record = _json_record(line)
        id = record.get("id")
        return source.document(
            record["text"],
            title=record.get("title") or "",
            id=f"{source.id}#{number}" if id is None or id == "" else str(id),
            metadata=record.get("metadata"),
        )
    except DocumentError as error:
        return source.skipped(f"line {number}: {error}")


def _json_record(line: bytes) -> dict[str, Any]:
    """Return the object on a line of JSON Lines, or raise DocumentError with the reason why there is none."""
    try:
        record = json.loads(line.decode("utf-8-sig").strip(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise DocumentError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DocumentError("not a JSON object")
    if not isinstance(record.get("text"), str):
        raise DocumentError('no "text" in it, or not a string')
    for key, kind, name in _OPTIONAL_KEYS:
        value = record.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise DocumentError(f'"{key}" is not {name}')
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


# Tables


def _read_table(source: Source) -> Iterator[Document | Skipped]:
    """Each row is a document: its `text` column, or "header: value; ..." of every cell that is not empty."""
    with source.open() as stream:
        text = _decode(stream.read())
    first_line = text.lstrip("\n").split("\n", 1)[0]
    delimiter = ";" if ";" in first_line and "," not in first_line else ","
    if source.id.lower().endswith(".tsv"):
        delimiter = "\t"
    csv.field_size_limit(max(csv.field_size_limit(), _CSV_FIELD_LIMIT))
    header: list[str] = []
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=delimiter), start=1):
            if not any(cell.strip() for cell in row):
                continue
            if header:
                yield _row_document(source, header, row, number)
            else:
                header = [name.strip() for name in row]
    except csv.Error as error:
        raise DocumentError(f"not a table: {error}") from None


def _row_document(source: Source, header: list[str], row: list[str], number: int) -> Document | Skipped:
    if len(row) > len(header):
        return source.skipped(f"row {number}: {len(row)} cells, but the header has {len(header)}")
    cells = [(name, cell.strip()) for name, cell in zip(header, row, strict=False)]
    own = {name.lower(): cell for name, cell in cells if name.lower() in {"id", "title", "text"}}
    others = [(name, cell) for name, cell in cells if name.lower() not in own and cell]
    described = "; ".join(f"{name}: {cell}" if name else cell for name, cell in others)
    has_text = "text" in own
    try:
        return source.document(
            own["text"] if has_text else described or own.get("title", ""),
            title=own.get("title") or source.stem,
            id=own.get("id") or f"{source.id}#{number}",
            metadata={name: cell for name, cell in others if name} if has_text else None,
        )
    except DocumentError as error:
        return source.skipped(f"row {number}: {error}")


# HTML

_BREAKS = {
    tag: mark
    for mark, tags in (
        (" ", "td th"),
        ("\n", "br dd dt li option tr"),
        ("\n\n", "address article aside blockquote details div dl fieldset figcaption figure footer form"),
        ("\n\n", "h1 h2 h3 h4 h5 h6 header hr main nav ol p pre section table ul"),
    )
    for tag in tags.split()
}
"""What parts an element from the text before it, and a block of paragraphs from the text after it too."""
_UNSEEN = ("head", "script", "style", "template", "noscript", "svg")


def _read_html(source: Source) -> Iterator[Document]:
    """The text a reader sees, one paragraph per block element; the title from <title>, else from <h1>."""
    try:
        import bs4
        from bs4.element import NavigableString
    except ImportError:
        raise DocumentError("needs the package beautifulsoup4; pip install 'memsparse[files]'") from None
    with source.open() as stream:
        data = stream.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bs4.XMLParsedAsHTMLWarning)  # XHTML reads well as HTML
        page = bs4.BeautifulSoup(data, "html.parser")
    if "\0" in page.get_text():
        raise DocumentError("binary file")
    heading = page.title or page.find("h1")
    title = " ".join(heading.get_text().split()) if heading else ""
    for element in page.find_all(_UNSEEN):
        element.decompose()
    for string in page.find_all(string=True):
        if type(string) is NavigableString and not string.find_parent("pre"):  # comments are subclasses
            string.replace_with(re.sub(r"\s+", " ", string))
    for element in page.find_all(list(_BREAKS)):
        element.insert_before(_BREAKS[element.name])
        if _BREAKS[element.name] == "\n\n":
            element.insert_after("\n\n")
    lines = (line.strip() for line in page.get_text().split("\n"))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    yield source.document(text, title=title or source.stem)


# PDF


def _read_pdf(source: Source) -> Iterator[Document]:
    """The text of every page, pages a paragraph apart; the title from the file's own metadata."""
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise DocumentError("needs the package pypdf; pip install 'memsparse[files]'") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it cannot read is reported here, once
    with source.open() as stream:
        data = io.BytesIO(stream.read())
    # pypdf lets damage surface as whatever it happened to trip over.
    damage = (PyPdfError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
    try:
        file = pypdf.PdfReader(data)
        locked = file.is_encrypted and not file.decrypt("")
        pages = [] if locked else [page.extract_text().strip() for page in file.pages]
        title = "" if locked or not file.metadata else file.metadata.title or ""
    except DependencyError:
        locked = True
    except damage:
        raise DocumentError("damaged PDF") from None
    if locked:
        raise DocumentError("encrypted PDF; remove its password")
    if not any(pages):
        raise DocumentError("no text in it; a scan must go through text recognition first")
    yield source.document("\n\n".join(filter(None, pages)), title=title.strip() or source.stem)


_READERS: Mapping[tuple[str, ...], Reader] = {
    (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst"): _read_json_lines,
    (".csv", ".tsv"): _read_table,
    (".html", ".htm", ".xhtml"): _read_html,
    (".pdf",): _read_pdf,
}
