"""Documents into a bank: only what is new or changed, a segment at a time."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, replace
from time import perf_counter

from memsparse.bank import Bank, Source
from memsparse.engine.encoder import Encoder
from memsparse.errors import DocumentError
from memsparse.ops.openmp import release_threads
from memsparse.types import Document, Passage

Key = tuple[str, str]
"""(namespace, document id)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an `add` has come."""

    documents: int
    """Stored or found unchanged."""
    total: int | None
    """Documents handed in. None: not known before they end."""
    tokens: int
    """Encoded."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AddReport:
    """What an `add` or `sync` did, in documents unless said otherwise."""

    added: int
    updated: int
    unchanged: int
    passages: int
    """Passages encoded."""
    tokens: int
    """Tokens encoded."""
    seconds: float
    removed: int = 0


def content_digest(document: Document) -> str:
    """SHA-256 of everything a stored document is made of, hexadecimal.

    Raises: DocumentError if the metadata is not JSON.
    """
    parts = [document.title, document.text, dict(document.metadata), document.expires]
    try:
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()
    except (TypeError, ValueError, RecursionError) as error:
        raise DocumentError(
            f"document {document.id!r} has metadata that is not JSON ({error}); use texts, numbers, lists "
            "and objects"
        ) from error


class Ingest:
    """One `add`: compares documents with what the bank knows, encodes the rest, commits segment by segment.

    What was committed stays when it is interrupted, and the next one finds it unchanged.
    """

    def __init__(
        self,
        bank: Bank,
        encoder: Encoder,
        *,
        segment_documents: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.seen: set[Key] = set()
        """Every document handed in so far."""
        self._bank = bank
        self._encoder = encoder
        self._segment_documents = segment_documents
        self._on_progress = on_progress
        self._known: dict[str, dict[str, str]] = {}
        self._pending: list[Passage] = []
        self._sources: dict[Key, Source] = {}
        self._added = self._updated = self._unchanged = self._passages = self._tokens = 0
        self._started = perf_counter()
        self._total: int | None = None

    def run(self, documents: Iterable[Document], *, total: int | None = None) -> AddReport:
        """Store what is new or changed.

        Args:
            total: how many there are, for progress. None: their length, if they have one.

        Raises: DocumentError for a document without text, or a second one with the same id and namespace;
        what was stored before it stays.
        """
        self._total = len(documents) if total is None and isinstance(documents, Sized) else total
        try:
            for document in documents:
                self._take(document)
                if len(self._pending) >= self._segment_documents:
                    self._commit()
            self._commit()
        finally:
            release_threads()
        self._report()
        return AddReport(
            added=self._added,
            updated=self._updated,
            unchanged=self._unchanged,
            passages=self._passages,
            tokens=self._tokens,
            seconds=perf_counter() - self._started,
        )

    def _take(self, document: Document) -> None:
        key = (document.namespace, document.id)
        if key in self.seen:
            raise DocumentError(
                f"two documents have the id {document.id!r} in namespace {document.namespace!r}; rename one"
            )
        self.seen.add(key)
        digest = content_digest(document)
        if self._known_in(document.namespace).get(document.id) == digest:
            self._unchanged += 1
            return
        self._pending += self._encoder.split(document)
        self._sources[key] = Source(sha256=digest, expires=document.expires)

    def _known_in(self, namespace: str) -> dict[str, str]:
        if namespace not in self._known:
            self._known[namespace] = self._bank.known(namespace)
        return self._known[namespace]

    def _commit(self) -> None:
        """Encode and store what is pending, unless another writer of the same documents has done so."""
        self._drop(self._stored())
        if not self._pending:
            return
        numbers = self._bank.reserve(len(self._pending))
        passages = [replace(p, number=number) for p, number in zip(self._pending, numbers, strict=True)]
        chunks = self._encoder.encode(passages, on_batch=self._count)
        self._passages += len(passages)
        stored = self._stored()
        if stored == self._sources.keys():
            self._drop(stored)
            return
        self._bank.commit(passages, chunks, replaces=self._sources, sources=self._sources)
        changed = [key for key in self._sources if key[1] in self._known_in(key[0])]
        self._updated += len(changed)
        self._added += len(self._sources) - len(changed)
        self._pending, self._sources = [], {}
        self._report()

    def _stored(self) -> set[Key]:
        """Pending documents that are in the bank by now as they are here."""
        stored: set[Key] = set()
        for namespace in {namespace for namespace, _ in self._sources}:
            ids = [id_ for own, id_ in self._sources if own == namespace]
            known = self._bank.known(namespace, ids=ids)
            stored |= {
                (namespace, id_) for id_ in ids if known.get(id_) == self._sources[namespace, id_].sha256
            }
        return stored

    def _drop(self, stored: set[Key]) -> None:
        """Take documents that need not be stored out of what is pending."""
        if not stored:
            return
        self._unchanged += len(stored)
        self._sources = {key: source for key, source in self._sources.items() if key not in stored}
        self._pending = [p for p in self._pending if (p.namespace, p.document_id) not in stored]
        self._report()

    def _count(self, tokens: int) -> None:
        self._tokens += tokens
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    documents=self._added + self._updated + self._unchanged,
                    total=self._total,
                    tokens=self._tokens,
                    seconds=perf_counter() - self._started,
                )
            )
