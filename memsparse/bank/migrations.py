"""The catalog's tables, as numbered steps; `user_version` in the file counts the steps it has taken.

A step is never edited once released: a change of format is a new function at the end of `MIGRATIONS`.
"""

import sqlite3
from collections.abc import Callable

APPLICATION_ID = 0x4D53_504B
"""Marks an SQLite file as a bank's catalog."""

M001_TABLES = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('number', 0), ('segment', 1)",
    "CREATE TABLE versions (version INTEGER PRIMARY KEY, created REAL NOT NULL)",
    """CREATE TABLE segments (
        id INTEGER PRIMARY KEY,
        file TEXT NOT NULL UNIQUE,
        dtype TEXT NOT NULL,
        chunks INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL
    )""",
    """CREATE TABLE documents (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        namespace TEXT NOT NULL,
        title TEXT NOT NULL,
        metadata TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        parts INTEGER NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        added_in INTEGER NOT NULL REFERENCES versions (version),
        removed_in INTEGER REFERENCES versions (version)
    )""",
    "CREATE UNIQUE INDEX documents_live ON documents (namespace, id) WHERE removed_in IS NULL",
    """CREATE TABLE passages (
        number INTEGER PRIMARY KEY,
        document INTEGER NOT NULL REFERENCES documents (key),
        part INTEGER NOT NULL,
        start INTEGER NOT NULL,
        "end" INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        chunks INTEGER NOT NULL,
        segment INTEGER NOT NULL REFERENCES segments (id),
        "offset" INTEGER NOT NULL,
        UNIQUE (document, part)
    )""",
    # Apart from passages, so that laying out a reader never reads past texts.
    """CREATE TABLE texts (
        number INTEGER PRIMARY KEY REFERENCES passages (number),
        sha256 TEXT NOT NULL,
        text TEXT NOT NULL
    )""",
)


def m001_tables(connection: sqlite3.Connection) -> None:
    """Documents, their passages and texts, segments, versions, and the two counters."""
    for statement in M001_TABLES:
        connection.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (m001_tables,)


def migrate(connection: sqlite3.Connection, taken: int) -> None:
    """Take the steps after the first `taken`; call it inside a transaction."""
    for step in MIGRATIONS[taken:]:
        step(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
