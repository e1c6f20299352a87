"""One SQLite connection: shared between threads, its failures told apart and put into words."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memsparse.bank.migrations import APPLICATION_ID, MIGRATIONS, migrate
from memsparse.bank.segments import flush
from memsparse.errors import BankCorruptError, BankError, BankLockedError, BankMismatchError, InputError

CHECKED_BYTES = 64 * 2**20
"""Catalogs up to this size are checked whole when opened, in under a second; larger ones by `verify`."""
SIDE_FILES = ("", "-wal", "-shm", "-journal")

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

Values = Sequence[object] | Mapping[str, object]


class Database:
    """A catalog file that exists, checked and brought to the current format."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Raises: BankCorruptError, BankMismatchError (newer format), BankLockedError."""
        self.path = path
        self.read_only = read_only
        self._mutex = threading.RLock()
        with self.errors():
            self._connection = _connect(path, "ro" if read_only else "rw")
        try:
            with self.errors():
                self._check()
        except BankError:
            self._connection.close()
            raise

    @staticmethod
    def create(path: Path, settings: Mapping[str, str]) -> None:
        """Write an empty catalog aside and give it its name; the caller sees to it that nobody else does."""
        aside = path.with_name(path.name + ".tmp")
        try:
            for suffix in SIDE_FILES:
                Path(f"{aside}{suffix}").unlink(missing_ok=True)
            connection = _connect(aside, "rwc")
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                migrate(connection, 0)
                connection.executemany("INSERT INTO settings VALUES (?, ?)", list(settings.items()))
                connection.execute("COMMIT")
            finally:
                connection.close()
            flush(aside)
            os.rename(aside, path)
            flush(path.parent)
        except (OSError, sqlite3.Error) as error:
            raise BankError(f"cannot create {path} ({error}); check space and permissions") from error

    def close(self) -> None:
        """Close the connection; the last one to close leaves a single file."""
        with self._mutex:
            self._connection.close()

    def rows(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Every row."""
        with self.errors():
            return self._connection.execute(sql, values).fetchall()

    def named(self, sql: str, values: Values = ()) -> list[dict[str, Any]]:
        """Rows as dictionaries by column name."""
        with self.errors():
            cursor = self._connection.execute(sql, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def each(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Rows one by one, for results too large to hold."""
        with self.errors():
            yield from self._connection.execute(sql)

    def one(self, sql: str, values: Values = ()) -> Any:
        """First column of the first row; None without one."""
        with self.errors():
            row = self._connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def write(self, sql: str, values: Sequence[Values]) -> None:
        """Execute once for each of the values."""
        with self.errors():
            self._connection.executemany(sql, values)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside sees one state of the file."""
        with self.errors():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside is stored together at the end, or not at all."""
        with self.errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what SQLite raises into a `BankError` of the right kind."""
        with self._mutex:
            try:
                yield
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{error.object!r} holds a lone surrogate, which no bank stores; decode it again"
                ) from error
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in _CORRUPT or "UTF-8" in str(error):
                    raise self.corrupt(str(error)) from error
                if code == sqlite3.SQLITE_READONLY:
                    raise BankError(
                        f"cannot write to {self.path}; fix the permissions of its folder, or open the bank "
                        "read-only"
                    ) from error
                if code in _BUSY:
                    raise BankLockedError(
                        f"another process keeps {self.path} busy; try again when it has finished"
                    ) from error
                raise BankError(
                    f"catalog {self.path} failed ({error}); open the bank again, check space and permissions"
                ) from error

    def corrupt(self, why: str) -> BankCorruptError:
        """The error that says what is damaged and what to do."""
        return BankCorruptError(
            f"catalog {self.path} is damaged: {why}; restore it from a copy, or create a new bank and add "
            "the documents again"
        )

    def _check(self) -> None:
        taken = int(self.one("PRAGMA user_version"))
        if int(self.one("PRAGMA application_id")) != APPLICATION_ID or taken < 1:
            raise self.corrupt("it is not a bank's catalog")
        if taken > len(MIGRATIONS):
            raise BankMismatchError(
                f"bank {self.path.parent} has format {taken}, this memsparse reads up to {len(MIGRATIONS)}; "
                "upgrade memsparse"
            )
        if self.path.stat().st_size <= CHECKED_BYTES:
            found = self.one("PRAGMA quick_check(1)")
            if found != "ok":
                raise self.corrupt(" ".join(str(found).split()))
        if taken < len(MIGRATIONS):
            self._upgrade(taken)

    def _upgrade(self, taken: int) -> None:
        if self.read_only:
            raise BankMismatchError(
                f"bank {self.path.parent} has the older format {taken}; open it for writing once to upgrade"
            )
        with self.transaction():
            # Read again: another process may have upgraded it while this one waited.
            migrate(self._connection, int(self.one("PRAGMA user_version")))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Connect by URI: 'ro', 'rw' (must exist) or 'rwc'."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    wal = Path(f"{path}-wal")
    if mode == "ro" and not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size):
        # A bank on a read-only disk: SQLite cannot make its shared-memory file, and nobody can write.
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
