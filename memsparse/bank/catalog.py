"""The catalog of a bank: one SQLite file that says what the segments hold and since when.

Its transactions are the only commit points. A document is visible to version V when
`added_in <= V < removed_in` and it has not expired; everything that reads asks with a `View`.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memsparse.bank.database import Database
from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.records import DocumentInfo, Layout, NamespaceTotals, NewDocument, NewPassage, View
from memsparse.bank.segments import SegmentRecord
from memsparse.errors import BankError, DocumentError
from memsparse.types import Passage

FILE = "catalog.sqlite3"

_VISIBLE = """documents.added_in <= :version
    AND (documents.removed_in IS NULL OR documents.removed_in > :version)
    AND (documents.expires IS NULL OR documents.expires > :now)
    AND (:namespaces IS NULL OR documents.namespace IN (SELECT value FROM json_each(:namespaces)))"""


class Catalog:
    """The rows of one open bank; safe to share between threads."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Connect to a catalog that exists.

        Raises: BankCorruptError, BankMismatchError (newer format), BankLockedError.
        """
        self.read_only = read_only
        self._db = Database(path, read_only=read_only)
        try:
            self.fingerprint = Fingerprint.from_json(
                str(self._db.one("SELECT value FROM settings WHERE name = 'fingerprint'"))
            )
        except BankError:
            self._db.close()
            raise

    @staticmethod
    def create(path: Path, fingerprint: Fingerprint) -> None:
        """Make an empty catalog; the caller holds the writer lock."""
        Database.create(path, {"fingerprint": fingerprint.to_json(), "created": repr(time.time())})

    def close(self) -> None:
        """Write everything into the one file and let go of it."""
        self._db.close()

    def snapshot(self) -> AbstractContextManager[None]:
        """Everything read inside sees one state of the catalog."""
        return self._db.snapshot()

    def version(self) -> int:
        """The latest version; 0 for a bank never written to."""
        return int(self._db.one("SELECT coalesce(max(version), 0) FROM versions"))

    def layout(self, view: View) -> Layout:
        """Where the passages of a view lie; one consistent snapshot."""
        with self._seen(view) as values:
            rows = self._db.rows(
                f"""SELECT number, segment, "offset", passages.chunks FROM passages
                JOIN documents ON documents.key = passages.document WHERE {_VISIBLE} ORDER BY number""",
                values,
            )
            return Layout(rows=rows, segments={record.id: record for record in self.segments()})

    def segments(self) -> list[SegmentRecord]:
        """Every segment, in the order they were written."""
        rows = self._db.named("SELECT id, file, dtype, chunks, bytes, sha256 FROM segments ORDER BY id")
        return [SegmentRecord(**row) for row in rows]

    def documents(
        self, view: View, *, ids: Sequence[str] | None = None, limit: int = -1, offset: int = 0
    ) -> list[DocumentInfo]:
        """Documents of a view in the order they were added; `ids` None: all, `limit` -1: all."""
        with self._seen(view) as values:
            rows = self._db.named(
                f"""SELECT id, title, namespace, metadata, sha256, created, expires, added_in, parts,
                    group_concat(number) AS numbers, sum(tokens) AS tokens, sum(passages.chunks) AS chunks
                FROM documents JOIN passages ON passages.document = documents.key
                WHERE {_VISIBLE} AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids)))
                GROUP BY documents.key ORDER BY documents.key LIMIT :limit OFFSET :offset""",
                {**values, "ids": None if ids is None else json.dumps(ids), "limit": limit, "offset": offset},
            )
        for row in rows:
            row["metadata"] = self._metadata(row["id"], row["metadata"])
            row["numbers"] = tuple(sorted(map(int, row["numbers"].split(","))))
        return [DocumentInfo(**row) for row in rows]

    def passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number, removed ones included: a reader may hold an older version."""
        rows = self._db.named(
            """SELECT number, id AS document_id, title, text, namespace, metadata, start, "end", part, parts,
                tokens, chunks
            FROM passages JOIN documents ON documents.key = passages.document JOIN texts USING (number)
            WHERE number IN (SELECT value FROM json_each(?))""",
            (json.dumps(list(numbers)),),
        )
        for row in rows:
            row["metadata"] = self._metadata(row["document_id"], row["metadata"])
        return {row["number"]: Passage(**row) for row in rows}

    def known(self, view: View, *, ids: Sequence[str] | None = None) -> dict[str, str]:
        """External id -> sha256 of the source text; `ids` None: of all."""
        some = "" if ids is None else "AND id IN (SELECT value FROM json_each(:ids))"
        with self._seen(view) as values:
            return dict(
                self._db.rows(
                    f"SELECT id, sha256 FROM documents WHERE {_VISIBLE} {some}",
                    {**values, "ids": json.dumps(ids)},
                )
            )

    def totals(self, view: View) -> list[NamespaceTotals]:
        """Sums over the documents of a view, by namespace."""
        with self._seen(view) as values:
            rows = self._db.named(
                f"""SELECT namespace, count(DISTINCT documents.key) AS documents, count(*) AS passages,
                    sum(passages.chunks) AS chunks, sum(tokens) AS tokens
                FROM documents JOIN passages ON passages.document = documents.key
                WHERE {_VISIBLE} GROUP BY namespace ORDER BY namespace""",
                values,
            )
        return [NamespaceTotals(**row) for row in rows]

    def stored_documents(self) -> int:
        """Documents that take space: visible, removed and expired."""
        return int(self._db.one("SELECT count(*) FROM documents"))

    def live(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], float | None]:
        """Those of the (namespace, id) pairs that are not removed, and when each expires."""
        rows = self._db.rows(
            """SELECT namespace, documents.id, expires FROM json_each(?) AS pair CROSS JOIN documents
            WHERE namespace = json_extract(pair.value, '$[0]')
                AND documents.id = json_extract(pair.value, '$[1]') AND removed_in IS NULL""",
            (json.dumps(sorted(pairs)),),
        )
        return {(namespace, id_): expires for namespace, id_, expires in rows}

    def problems(self) -> Iterator[str]:
        """What is wrong inside the catalog itself, read whole."""
        for (line,) in self._db.rows("PRAGMA integrity_check"):
            if line != "ok":
                yield f"{FILE}: {' '.join(line.split())}"
        for table, row, parent, _ in self._db.rows("PRAGMA foreign_key_check"):
            yield f"{FILE}: row {row} of {table} names a missing row of {parent}"
        for id_, parts, stored in self._db.rows(
            """SELECT id, parts, count(passages.number) AS stored FROM documents
            LEFT JOIN passages ON passages.document = documents.key
            GROUP BY documents.key HAVING stored != parts"""
        ):
            yield f"{FILE}: document {id_!r} has {stored} of its {parts} parts"

    def stored(self) -> Iterator[tuple[Any, ...]]:
        """(segment, offset, chunks, number, sha256, text as bytes) of every passage, as chunks lie."""
        return self._db.each(
            """SELECT segment, "offset", chunks, number, sha256, CAST(text AS BLOB) FROM passages
            LEFT JOIN texts USING (number) ORDER BY segment, "offset" """
        )

    def allocate(self, counter: str, count: int = 1) -> int:
        """Take the next `count` of 'number' or 'segment', for ever, and return the first."""
        with self._db.transaction():
            first = int(self._db.one("SELECT next FROM counters WHERE name = ?", (counter,)))
            self._db.write("UPDATE counters SET next = ? WHERE name = ?", [(first + count, counter)])
            return first

    def check_new(
        self,
        documents: Sequence[NewDocument],
        numbers: Sequence[int],
        replaces: Collection[tuple[str, str]],
    ) -> None:
        """Refuse what `record` could not store, before any file is written; the caller holds the writer lock.

        Raises: DocumentError if a document is there already and is not replaced; BankError for a number that
        was not reserved or is taken.
        """
        now = time.time()
        added = {(document.namespace, document.id) for document in documents}
        for (namespace, id_), expires in self.live(added - set(replaces)).items():
            if expires is None or expires > now:
                raise DocumentError(
                    f"document {id_!r} is in namespace {namespace!r} already; update it or choose another id"
                )
        limit = int(self._db.one("SELECT next FROM counters WHERE name = 'number'"))
        for number in numbers:
            if not 0 <= number < limit:
                raise BankError(f"number {number} was not reserved (the next is {limit}); call reserve first")
        taken = self._db.one(
            "SELECT number FROM passages WHERE number IN (SELECT value FROM json_each(?)) LIMIT 1",
            (json.dumps(numbers),),
        )
        if taken is not None:
            raise BankError(f"number {taken} belongs to a stored passage; reserve new numbers")

    def record(
        self,
        documents: Sequence[NewDocument],
        passages: Sequence[NewPassage],
        segment: SegmentRecord | None,
        removes: Collection[tuple[str, str]],
    ) -> int:
        """Store a new version in one transaction: take `removes` (namespace, id) out, put the rest in.

        The caller holds the writer lock and has called `check_new`.
        """
        with self._db.transaction():
            now = time.time()
            version = self.version() + 1
            self._db.write("INSERT INTO versions VALUES (?, ?)", [(version, now)])
            self._db.write(
                "UPDATE documents SET removed_in = ? WHERE namespace = ? AND id = ? AND removed_in IS NULL",
                [(version, namespace, id_) for namespace, id_ in removes],
            )
            # An expired document gives way to a new one of its name.
            self._db.write(
                """UPDATE documents SET removed_in = ?
                WHERE namespace = ? AND id = ? AND removed_in IS NULL AND expires <= ?""",
                [(version, document.namespace, document.id, now) for document in documents],
            )
            if segment is not None:
                self._insert(documents, passages, segment, version)
            return version

    def _insert(
        self,
        documents: Sequence[NewDocument],
        passages: Sequence[NewPassage],
        segment: SegmentRecord,
        version: int,
    ) -> None:
        self._db.write(
            "INSERT INTO segments VALUES (:id, :file, :dtype, :chunks, :bytes, :sha256)", [asdict(segment)]
        )
        first = int(self._db.one("SELECT coalesce(max(key), 0) + 1 FROM documents"))
        self._db.write(
            """INSERT INTO documents VALUES (:key, :id, :namespace, :title, :metadata, :sha256, :parts,
                :created, :expires, :version, NULL)""",
            [{**asdict(d), "key": first + place, "version": version} for place, d in enumerate(documents)],
        )
        rows = [{**asdict(p), "key": first + p.document, "segment": segment.id} for p in passages]
        self._db.write(
            """INSERT INTO passages
            VALUES (:number, :key, :part, :start, :end, :tokens, :chunks, :segment, :offset)""",
            rows,
        )
        self._db.write("INSERT INTO texts VALUES (:number, :sha256, :text)", rows)

    @contextmanager
    def _seen(self, view: View) -> Iterator[dict[str, object]]:
        """One read snapshot, and the view as SQL parameters."""
        chosen = [view.namespace] if isinstance(view.namespace, str) else view.namespace
        with self._db.snapshot():
            yield {
                "namespaces": None if chosen is None else json.dumps(list(chosen), ensure_ascii=False),
                "version": self.version() if view.version is None else view.version,
                "now": time.time() if view.now is None else view.now,
            }

    def _metadata(self, document_id: str, text: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise self._db.corrupt(f"metadata of document {document_id!r} is not JSON") from error
        return values
