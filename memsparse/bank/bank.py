"""The memory bank: a folder of passages, their texts in a catalog and their chunks in segment files.

    notes.bank/
      catalog.sqlite3               what is stored, where it lies, and since which version
      segments/000001.safetensors   immutable chunks
      segments/000001.int8.safetensors   quantised routing keys of a large bank; may be removed at any time
      bank.lock                     held by the one writer while it writes

A write flushes its segment file first and names it in the catalog second, so a process killed at any moment
leaves a bank that opens and holds everything it acknowledged.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from memsparse.bank.catalog import FILE, Catalog
from memsparse.bank.cells import CellFiles
from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.lock import may_write, writer_lock
from memsparse.bank.paths import absent, refuse_occupied
from memsparse.bank.places import Places
from memsparse.bank.probing import is_worth_an_index
from memsparse.bank.reader import BankReader
from memsparse.bank.records import BankStats, DocumentInfo, Layout, Source, View, prepare
from memsparse.bank.scan_files import ScanFiles
from memsparse.bank.segments import FOLDER, EncodedChunks, SegmentFiles, flush, stray_files, write_segment
from memsparse.bank.tiers import TierConfig, Tiers
from memsparse.errors import (
    BankCorruptError,
    BankError,
    BankLockedError,
    BankMismatchError,
    BankNotFoundError,
    DocumentError,
)
from memsparse.ops.routing import RoutingRule
from memsparse.types import Passage


class Bank:
    """An open memory bank; `Bank.create` or `Bank.open` makes one. Safe to share between threads.

    Every write makes one new version. One process writes at a time, any number read meanwhile.
    """

    def __init__(self, path: Path, catalog: Catalog) -> None:
        self.path = path
        self._catalog = catalog
        self._files = SegmentFiles(path / FOLDER, catalog.fingerprint)
        self._scan_files = ScanFiles(self._files.folder, self._files, catalog.fingerprint, writes=False)
        self._cell_files = CellFiles(self._files.folder, self._files, catalog.fingerprint, writes=False)
        self._tiers: WeakValueDictionary[TierConfig, Tiers] = WeakValueDictionary()
        """Shared by the readers that use them, and gone with the last."""
        self._mutex = RLock()

    @classmethod
    def create(cls, path: str | Path, fingerprint: Fingerprint) -> Self:
        """Make an empty bank and open it.

        Raises: BankExistsError if the path holds anything.
        """
        path = Path(path)
        try:
            refuse_occupied(path)
            (path / FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BankError(
                f"cannot create {path} ({error.strerror}); check space and permissions"
            ) from error
        with writer_lock(path):
            refuse_occupied(path)  # again: another process may have been faster
            Catalog.create(path / FILE, fingerprint)
            flush(path.resolve().parent)
        return cls.open(path)

    @classmethod
    def open(
        cls, path: str | Path, fingerprint: Fingerprint | None = None, *, read_only: bool | None = None
    ) -> Self:
        """Open a bank; no key is read yet. Removes files a killed writer left, unless someone is writing.

        Args:
            fingerprint: of the model that is to read it. None: do not compare.
            read_only: write nothing. None: only where permissions leave no choice.

        Raises: BankNotFoundError; BankMismatchError if the bank is another model's or a newer format's;
        BankCorruptError if the catalog is damaged.
        """
        path = Path(path)
        if not (path / FILE).is_file():
            if stray_files(path / FOLDER, set()):
                raise BankCorruptError(
                    f"bank {path} has segments but no {FILE}; restore it from a copy, or create a new bank"
                )
            raise absent(path)
        if read_only is None:
            read_only = not may_write(path)
        catalog = Catalog(path / FILE, read_only=read_only)
        differences = catalog.fingerprint.differences(fingerprint) if fingerprint else []
        if differences:
            catalog.close()
            raise BankMismatchError(
                f"bank {path} was built with {'; '.join(differences)}; open it with that model, or create "
                "a new bank with this one and add the documents again"
            )
        bank = cls(path, catalog)
        if not read_only:
            bank._sweep()
        return bank

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the model that filled it."""
        return self._catalog.fingerprint

    @property
    def version(self) -> int:
        """The latest version; 0 for a bank never written to."""
        return self._catalog.version()

    def reserve(self, count: int) -> range:
        """Allocate passage numbers. They are never handed out again, used or not.

        Raises: BankError if count is negative; BankLockedError.
        """
        if count < 0:
            raise BankError(f"cannot reserve {count} numbers; ask for 0 or more")
        with self._writing():
            first = self._catalog.allocate("number", count)
        return range(first, first + count)

    def commit(
        self,
        passages: Sequence[Passage],
        chunks: EncodedChunks,
        *,
        replaces: Collection[tuple[str, str]] = (),
        sources: Mapping[tuple[str, str], Source] | None = None,
    ) -> int:
        """Store passages under their reserved numbers, as one new version; once it returns they are safe.

        Args:
            passages: all parts of one or more documents. Title and metadata of a document are its part 0's.
            chunks: theirs, in the same order; the counts stored are these.
            replaces: (namespace, document id) pairs that leave in the same version; unknown ones are ignored.
            sources: (namespace, document id) -> what is known of the source; a default where missing.

        Returns: the new version, or the latest one if there was nothing to do.

        Raises: DocumentError for a document that cannot be stored or is there already; ShapeError if the
        chunks do not fit; BankError for numbers not reserved or a disk that refuses; BankLockedError.
        """
        chunks.check(self.fingerprint, len(passages))
        documents, prepared = prepare(passages, chunks, sources or {}, now=time.time())
        replaced = set(replaces)
        with self._writing():
            if not passages and not self._catalog.live(replaced):
                return self.version
            self._catalog.check_new(documents, [passage.number for passage in passages], replaced)
            segment = None
            if passages:
                segment = write_segment(
                    self.path / FOLDER,
                    self._catalog.allocate("segment"),
                    chunks,
                    dtype=self.fingerprint.dtype,
                )
            return self._catalog.record(documents, prepared, segment, replaced)

    def remove(
        self, document_ids: Sequence[str], *, namespace: str = "default", missing_ok: bool = False
    ) -> int:
        """Remove documents, as one new version that the next reader sees. Returns how many.

        Args:
            missing_ok: pass over ids that are not there.

        Raises: DocumentError naming the ids that are not there, and then removes nothing; BankLockedError.
        """
        wanted = {(namespace, id_) for id_ in document_ids}
        with self._writing():
            there = set(self._catalog.live(wanted))
            unknown = [id_ for _, id_ in sorted(wanted - there)]
            if missing_ok:
                wanted = there
            elif unknown:
                more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
                raise DocumentError(
                    f"no document {', '.join(map(repr, unknown[:5]))}{more} in namespace {namespace!r}; "
                    f"nothing was removed; see 'memsparse bank list {self.path}'"
                )
            if wanted:
                self._catalog.record([], [], None, wanted)
        return len(wanted)

    def documents(
        self, *, namespace: str | Sequence[str] | None = None, limit: int | None = None, offset: int = 0
    ) -> list[DocumentInfo]:
        """Documents in the order they were added, `limit` of them after the first `offset`."""
        if offset < 0 or (limit is not None and limit < 0):
            raise BankError(f"limit {limit} and offset {offset} must not be negative")
        return self._catalog.documents(
            View(namespace=namespace), ids=None, limit=-1 if limit is None else limit, offset=offset
        )

    def document_text(self, document_id: str, namespace: str = "default") -> str:
        """The original text, its parts joined.

        Raises: DocumentError if there is no such document.
        """
        found = self._catalog.documents(View(namespace=namespace), ids=[document_id], limit=1, offset=0)
        if not found:
            raise DocumentError(
                f"no document {document_id!r} in namespace {namespace!r}; "
                f"see 'memsparse bank list {self.path}'"
            )
        return "".join(part.text for part in sorted(self.passages(found[0].numbers), key=lambda p: p.part))

    def passages(self, numbers: Sequence[int]) -> list[Passage]:
        """Passages by number, in the order asked; removed ones too, since an answer may still cite them.

        Raises: BankError if a number was never stored.
        """
        found = self._catalog.passages(numbers)
        missing = [number for number in numbers if number not in found]
        if missing:
            raise BankError(
                f"bank {self.path} has no passage {missing[0]} ({len(missing)} missing); list its documents"
            )
        return [found[number] for number in numbers]

    def known(self, namespace: str = "default", *, ids: Sequence[str] | None = None) -> dict[str, str]:
        """External id -> sha256 of the source text, for encoding only what changed; of all, or of `ids`."""
        return self._catalog.known(View(namespace=namespace), ids=ids)

    def layout(
        self,
        *,
        namespace: str | Sequence[str] | None = None,
        version: int | None = None,
        now: float | None = None,
    ) -> Layout:
        """Where the passages of a view lie. Args, Raises: as `reader`."""
        if version is not None and not 0 <= version <= self.version:
            raise BankNotFoundError(
                f"bank {self.path} has no version {version}; the latest is {self.version}"
            )
        return self._catalog.layout(View(namespace=namespace, version=version, now=now))

    def reader(
        self,
        *,
        top_k: int = 16,
        rule: RoutingRule | None = None,
        all_scores: bool = True,
        namespace: str | Sequence[str] | None = None,
        version: int | None = None,
        now: float | None = None,
        tiers: TierConfig | None = None,
        layout: Layout | None = None,
    ) -> BankReader:
        """A reader of the bank as it is now; later writes do not reach it, and it outlives `close`.

        Args:
            top_k: documents per layer and request.
            rule: reductions of the model's router. None: the paper's, with the bank's score.
            all_scores: whether `MemoryKV.all_scores` is wanted. If not, a scan tells `MemoryKV.sifted`, and
                takes no memory for documents that cannot be among the best.
            namespace: one, or several. None reads all.
            version: an earlier version. None: the latest.
            now: seconds since the epoch, against which expiry is judged. None: the clock.
            tiers: what is held where. None: the defaults. Readers with the same tiers share what they hold.
            layout: passages of this bank to read instead, in place of `namespace`, `version` and `now`.

        Raises: BankError for a version that does not exist; BankMismatchError if `rule` scores otherwise;
        ConfigError for a budget smaller than one document.
        """
        if layout is None:
            layout = self.layout(namespace=namespace, version=version, now=now)
        shared = self._shared_tiers(tiers or TierConfig())
        return BankReader(
            Places(layout.rows),
            layout.segments,
            shared,
            self.fingerprint,
            top_k=top_k,
            rule=rule or RoutingRule(score="dot" if self.fingerprint.routing_score == "dot" else "cosine"),
            all_scores=all_scores,
            groups=shared.cells.groups(self._catalog.segments()) if shared.cells else (),
        )

    def make_index(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Make what is missing of the index (`TierConfig.index`), which the first question makes otherwise.

        Args:
            on_progress: chunks that have their cell, and chunks in all, counted in every layer.

        Returns: chunks of the groups that are worth an index, in one layer.

        Raises: BankError if it cannot be written; BankCorruptError for a damaged segment.
        """
        if self._catalog.read_only:
            raise BankError(f"{self.path} can only be read here; make the index where it may be written")
        cells = CellFiles(self._files.folder, self._files, self.fingerprint, writes=True)
        groups = [each for each in cells.groups(self._catalog.segments()) if is_worth_an_index(each.chunks)]
        layers = self.fingerprint.memory_layers
        chunks = sum(group.chunks for group in groups)
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            on_progress(done, chunks * len(layers))

        for place, group in enumerate(groups, 1):
            for layer in layers:
                cells.load(group, layer, tell)
            done = sum(each.chunks for each in groups[:place]) * len(layers)  # what was there is not told
            on_progress(done, chunks * len(layers))
        if not cells.writes:
            raise BankError(f"{self.path}: the index cannot be written; make room, or see its permissions")
        return chunks

    def stats(self) -> BankStats:
        """Count what the bank holds."""
        totals = self._catalog.totals(View())
        segments = self._catalog.segments()
        documents = sum(total.documents for total in totals)
        return BankStats(
            documents=documents,
            passages=sum(total.passages for total in totals),
            removed=self._catalog.stored_documents() - documents,
            chunks=sum(total.chunks for total in totals),
            tokens=sum(total.tokens for total in totals),
            bytes=(self.path / FILE).stat().st_size
            + sum(segment.bytes for segment in segments)
            + self._scan_files.bytes()
            + self._cell_files.bytes(),
            segments=len(segments),
            versions=self.version,
            namespaces={total.namespace: total.documents for total in totals},
        )

    def verify(self) -> list[str]:
        """Read the whole bank and say what is wrong with it; empty when it is sound."""
        with self._mutex:
            return list(self._problems())

    def close(self) -> None:
        """Close the files; the folder may then be copied."""
        self._files.close()
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shared_tiers(self, config: TierConfig) -> Tiers:
        with self._mutex:
            tiers = self._tiers.get(config)
            if tiers is None:
                writes = not self._catalog.read_only
                tiers = self._tiers[config] = Tiers(config, self._files, self.fingerprint, writes=writes)
            return tiers

    def _problems(self) -> Iterator[str]:
        try:
            with self._catalog.snapshot():
                yield from self._catalog.problems()
                yield from self._contradictions()
        except BankCorruptError as error:
            yield str(error)
        else:
            for stray in self._strays():
                yield f"{FOLDER}/{stray.name}: no document uses it; opening the bank for writing removes it"

    def _contradictions(self) -> Iterator[str]:
        """Where segments, passages and texts disagree."""
        segments = {segment.id: segment for segment in self._catalog.segments()}
        for segment in segments.values():
            yield from self._files.problems(segment)
            yield from self._scan_files.problems(segment)
        yield from self._cell_files.problems([*segments.values()])
        end: dict[int, int] = dict.fromkeys(segments, 0)
        for segment_id, offset, chunks, number, digest, text in self._catalog.stored():
            if text is None or sha256(text).hexdigest() != digest:
                yield f"{FILE}: the text of passage {number} is missing or is not what was stored"
            if segment_id not in segments or chunks < 1 or offset != end[segment_id]:
                yield f"{FILE}: passage {number} has {chunks} chunks at {offset} of segment {segment_id}"
            end[segment_id] = offset + chunks
        for segment in segments.values():
            if end[segment.id] != segment.chunks:
                used = f"{end[segment.id]} of the {segment.chunks} chunks"
                yield f"{FILE}: passages use {used} of {segment.file}"

    def _strays(self) -> list[Path]:
        """Segment files no row names; none while somebody else writes, for theirs is about to be named."""
        try:
            with writer_lock(self.path) if may_write(self.path) else nullcontext():
                return stray_files(self.path / FOLDER, {segment.file for segment in self._catalog.segments()})
        except BankLockedError:
            return []

    def _sweep(self) -> None:
        """Remove segment files that no committed write names, if this process may write at all."""
        if not may_write(self.path) or not stray_files(self.path / FOLDER, set()):
            return
        try:
            with writer_lock(self.path, wait=0):
                known = {segment.file for segment in self._catalog.segments()}
                for stray in stray_files(self.path / FOLDER, known):
                    stray.unlink(missing_ok=True)
        except (BankLockedError, PermissionError):
            return

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._catalog.read_only:
            cure = "open it for writing" if may_write(self.path) else "fix its permissions"
            raise BankError(f"bank {self.path} is open read-only; {cure}")
        with self._mutex, writer_lock(self.path):
            yield
