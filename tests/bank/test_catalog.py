import sqlite3
import threading

import pytest

from memsparse.bank import Bank, database, migrations
from memsparse.bank.catalog import FILE, Catalog
from memsparse.errors import BankCorruptError, BankError, BankLockedError, BankMismatchError
from tests.bank.builders import FINGERPRINT, add


@pytest.fixture
def folder(tmp_path):
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [2, 1, 3] * 20)
    return tmp_path / "bank"


def _edit(folder, *statements):
    connection = sqlite3.connect(folder / FILE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_closed_bank_is_one_catalog_file(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["bank.lock", FILE, "segments"]


def test_a_commit_survives_losing_power(folder):
    connection = sqlite3.connect(folder / FILE)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    catalog = Catalog(folder / FILE, read_only=False)
    assert catalog._db.one("PRAGMA synchronous") == 2
    assert catalog._db.one("PRAGMA foreign_keys") == 1
    catalog.close()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("damage", ["garbage", "empty", "header", "middle", "short", "other"])
def test_a_damaged_catalog_is_corrupt(folder, damage, read_only):
    path = folder / FILE
    content = path.read_bytes()
    half = len(content) // 2
    if damage == "other":
        path.unlink()
        _edit(folder, "CREATE TABLE t (x)")
    else:
        path.write_bytes(
            {
                "garbage": b"\xa5" * len(content),
                "empty": b"",
                "header": b"\x00" * 64 + content[64:],
                "middle": content[:8192] + b"\xa5" * (len(content) - 8192),
                "short": content[:half],
            }[damage]
        )
    with pytest.raises(
        BankCorruptError, match=r"catalog .*catalog.sqlite3 is damaged: .*; restore it from a copy"
    ):
        Bank.open(folder, read_only=read_only)


def test_damage_in_a_catalog_too_large_to_check_is_still_told_apart(folder, monkeypatch):
    monkeypatch.setattr(database, "CHECKED_BYTES", 0)
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
    with pytest.raises(BankCorruptError), Bank.open(folder) as bank:
        bank.passages(range(60))


def test_a_newer_format_asks_for_an_upgrade(folder):
    _edit(folder, f"PRAGMA user_version = {len(migrations.MIGRATIONS) + 1}")
    with pytest.raises(BankMismatchError, match="upgrade memsparse"):
        Bank.open(folder)


def test_an_older_format_is_upgraded_once(folder, monkeypatch):
    def m002_colour(connection):
        connection.execute("ALTER TABLE documents ADD COLUMN colour TEXT")

    steps = (*migrations.MIGRATIONS, m002_colour)
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(database, "MIGRATIONS", steps)
    with pytest.raises(BankMismatchError, match="older format"):
        Bank.open(folder, read_only=True)
    for _ in range(2):
        with Bank.open(folder) as bank:
            assert bank._catalog._db.one("SELECT count(colour) FROM documents") == 0
            assert len(bank.documents()) == 60


def test_a_failed_upgrade_changes_nothing(folder, monkeypatch):
    def m002_broken(connection):
        connection.execute("CREATE TABLE half (x)")
        connection.execute("ALTER TABLE nowhere ADD COLUMN y")

    with monkeypatch.context() as patch:
        steps = (*migrations.MIGRATIONS, m002_broken)
        patch.setattr(migrations, "MIGRATIONS", steps)
        patch.setattr(database, "MIGRATIONS", steps)
        with pytest.raises(BankError, match="nowhere"):
            Bank.open(folder)
    with Bank.open(folder) as bank:
        assert bank.verify() == []
        assert bank._catalog._db.one("SELECT count(*) FROM sqlite_master WHERE name = 'half'") == 0


def test_a_foreign_writer_makes_the_bank_busy_not_broken(folder, monkeypatch):
    with Bank.open(folder) as bank:
        bank._catalog._db._connection.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(folder / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BankLockedError, match="try again"):
            bank.reserve(1)
        assert len(bank.documents()) == 60
        other.close()
        assert bank.reserve(1) == range(60, 61)


def test_threads_share_one_catalog(folder):
    failures = []

    def work(bank, thread):
        try:
            for turn in range(5):
                add(bank, [1], prefix=f"t{thread}-{turn}-")
                bank.documents(limit=3)
        except BankError as error:
            failures.append(error)

    with Bank.open(folder) as bank:
        threads = [threading.Thread(target=work, args=(bank, thread)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert bank.stats().documents == 80
        assert bank.verify() == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM texts WHERE number = 3", "text of passage 3 is missing"),
        (
            "UPDATE texts SET text = 'other' WHERE number = 3",
            "text of passage 3 is missing or is not what was",
        ),
        ("UPDATE texts SET text = CAST(x'ff' AS TEXT) WHERE number = 3", "text of passage 3"),
        ('UPDATE passages SET "offset" = 0 WHERE number = 3', "passage 3 has 2 chunks at 0 of segment 1"),
        ("UPDATE passages SET chunks = 9 WHERE number = 59", "use 126 of the 120 chunks"),
        ("DELETE FROM passages WHERE number = 3", "document 'doc3' has 0 of its 1 parts"),
        ("DELETE FROM segments", "names a missing row of segments"),
        ("UPDATE segments SET sha256 = 'x'", "checksum"),
    ],
)
def test_verify_finds_rows_that_contradict_one_another(folder, statement, says):
    _edit(folder, statement)
    with Bank.open(folder, read_only=True) as bank:
        assert any(says in problem for problem in bank.verify()), bank.verify()


def test_texts_that_are_no_utf8_are_corrupt(folder):
    _edit(folder, "UPDATE texts SET text = CAST(x'ff' AS TEXT) WHERE number = 3")
    with Bank.open(folder) as bank, pytest.raises(BankCorruptError):
        bank.passages([3])


def test_metadata_that_is_no_json_is_corrupt(folder):
    _edit(folder, "UPDATE documents SET metadata = '{' WHERE id = 'doc3'")
    with Bank.open(folder) as bank, pytest.raises(BankCorruptError, match="metadata of document 'doc3'"):
        bank.documents()


def test_a_closed_bank_says_so(folder):
    bank = Bank.open(folder)
    bank.close()
    with pytest.raises(BankError, match="closed"):
        bank.documents()
