"""What goes into a catalog and what comes out of it, as plain rows; `prepare` checks what goes in."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Any

from memsparse.bank.segments import EncodedChunks, SegmentRecord
from memsparse.errors import DocumentError
from memsparse.types import Passage


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Which documents a query sees."""

    namespace: str | Sequence[str] | None = None
    """One, several, or None: all of them."""
    version: int | None = None
    """None: the latest."""
    now: float | None = None
    """Seconds since the epoch, against which expiry is judged. None: the clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentInfo:
    """A stored document, its parts taken together."""

    id: str
    title: str
    namespace: str
    metadata: Mapping[str, Any]
    sha256: str
    """Of the source text, as the caller gave it."""
    created: float
    """Seconds since the epoch."""
    expires: float | None
    added_in: int
    """The version that brought it."""
    parts: int
    numbers: tuple[int, ...]
    """Passage numbers, ascending."""
    tokens: int
    chunks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NamespaceTotals:
    """Sums over the visible documents of a namespace."""

    namespace: str
    documents: int
    passages: int
    chunks: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BankStats:
    """The size of a bank. Counts are of what the next reader sees, unless they say otherwise."""

    documents: int
    passages: int
    removed: int
    """Documents removed or expired that still take space."""
    chunks: int
    tokens: int
    bytes: int
    """On disk, everything included."""
    segments: int
    """Files, whatever they hold."""
    versions: int
    """Writes so far, which is also the latest version."""
    namespaces: Mapping[str, int]
    """Documents of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a caller knows of a document's source beside its passages."""

    sha256: str | None = None
    """Of the source text. None: of the parts joined, as UTF-8."""
    created: float | None = None
    """Seconds since the epoch. None: when it is stored."""
    expires: float | None = None
    """Seconds since the epoch after which the document is no longer read. None: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDocument:
    """A checked document on its way into the catalog, its passages in order of part."""

    id: str
    namespace: str
    title: str
    metadata: str
    """JSON."""
    sha256: str
    created: float
    expires: float | None
    parts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NewPassage:
    """A checked passage on its way into the catalog; `document` indexes the documents beside it."""

    number: int
    document: int
    part: int
    start: int
    end: int
    tokens: int
    chunks: int
    offset: int
    sha256: str
    """Of this part's text."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the visible passages lie, ascending by number: rows of (number, segment, offset, chunks)."""

    rows: list[tuple[int, int, int, int]]
    segments: dict[int, SegmentRecord]


def prepare(
    passages: Sequence[Passage],
    chunks: EncodedChunks,
    sources: Mapping[tuple[str, str], Source],
    *,
    now: float,
) -> tuple[list[NewDocument], list[NewPassage]]:
    """Gather passages into documents and check that each is whole and can be stored.

    Raises: DocumentError naming the document and what is wrong with it.
    """
    by_document: dict[tuple[str, str], list[Passage]] = {}
    for passage in passages:
        by_document.setdefault((passage.namespace, passage.document_id), []).append(passage)
    index = {key: position for position, key in enumerate(by_document)}
    documents = [
        _prepare_document(sorted(parts, key=lambda passage: passage.part), sources.get(key, Source()), now)
        for key, parts in by_document.items()
    ]
    counts = zip(
        passages,
        chunks.tokens_per_passage,
        chunks.chunks_per_passage,
        accumulate(chunks.chunks_per_passage, initial=0),
        strict=False,
    )
    prepared = [
        NewPassage(
            number=passage.number,
            document=index[passage.namespace, passage.document_id],
            part=passage.part,
            start=passage.start,
            end=passage.end,
            tokens=tokens,
            chunks=count,
            offset=offset,
            sha256=sha256(passage.text.encode()).hexdigest(),
            text=passage.text,
        )
        for passage, tokens, count, offset in counts
    ]
    numbers = [passage.number for passage in passages]
    if len(set(numbers)) < len(numbers):
        raise DocumentError("two passages carry the same number; reserve one for each")
    return documents, prepared


def _prepare_document(parts: list[Passage], source: Source, now: float) -> NewDocument:
    first = parts[0]
    name = f"document {first.document_id!r}"
    for what, value in (("id", first.document_id), ("namespace", first.namespace)):
        if not value or "\0" in value:
            raise DocumentError(f"{name} has the {what} {value!r}; it must be a text without NUL characters")
    position = 0
    for number, part in enumerate(parts):
        if part.part != number or part.parts != len(parts):
            raise DocumentError(
                f"{name} has part {part.part} of {part.parts} where part {number} of {len(parts)} belongs; "
                "commit all parts of a document together"
            )
        if part.start != position or part.end - part.start != len(part.text):
            raise DocumentError(
                f"part {number} of {name} spans {part.start}:{part.end} with {len(part.text)} characters, "
                f"after {position}; parts must join to the original text"
            )
        position = part.end
    if not all(math.isfinite(value) for value in (source.created, source.expires) if value is not None):
        raise DocumentError(
            f"{name} was created at {source.created}, expires at {source.expires}; pass seconds"
        )
    digest = source.sha256 or sha256(_utf8(name, "".join(part.text for part in parts))).hexdigest()
    for text in (first.title, first.document_id, first.namespace, *(part.text for part in parts)):
        _utf8(name, text)
    return NewDocument(
        id=first.document_id,
        namespace=first.namespace,
        title=first.title,
        metadata=_metadata_json(name, first.metadata),
        sha256=digest,
        created=now if source.created is None else source.created,
        expires=source.expires,
        parts=len(parts),
    )


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"{name} has a lone surrogate at character {error.start}; decode its source again"
        ) from error


def _metadata_json(name: str, metadata: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DocumentError(
            f"metadata of {name} is not JSON ({error}); use texts, numbers, lists and objects"
        ) from error
    if json.loads(text) != metadata:
        raise DocumentError(f"metadata of {name} changes when written as JSON; use text keys and lists")
    return text
