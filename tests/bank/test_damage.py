"""Damaged, missing and stray files are told apart, and told to whoever asks."""

import errno
from pathlib import Path

import pytest

from memsparse.bank import Bank, lock
from memsparse.errors import BankCorruptError, BankError
from tests.bank.builders import FINGERPRINT, add, answer, flip_byte


@pytest.fixture
def bank(tmp_path):
    with Bank.create(tmp_path / "notes.bank", FINGERPRINT) as bank:
        yield bank


def _second_segment(bank: Bank) -> Path:
    return bank.path / "segments" / "000002.safetensors"


@pytest.fixture
def damaged(bank):
    add(bank, [1, 2])
    add(bank, [3], prefix="more")
    bank.close()
    return bank


def test_a_truncated_segment(damaged):
    content = _second_segment(damaged).read_bytes()
    _second_segment(damaged).write_bytes(content[:-1])
    with Bank.open(damaged.path) as bank:
        [problem] = bank.verify()
        assert "000002.safetensors is damaged: it has" in problem
        with pytest.raises(BankCorruptError, match=r"000002\.safetensors"):
            answer(bank)
        bank.remove(["more2"])
        answer(bank)


def test_a_deleted_segment(damaged):
    _second_segment(damaged).unlink()
    with Bank.open(damaged.path) as bank:
        [problem] = bank.verify()
        assert "000002.safetensors is damaged: it is missing" in problem
        with pytest.raises(BankCorruptError, match="create a new bank and add the documents again"):
            answer(bank)


def test_a_segment_that_may_not_be_read_is_not_called_damaged(damaged, monkeypatch):
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path == _second_segment(damaged):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with Bank.open(damaged.path) as bank:
        [problem] = bank.verify()
        assert problem.endswith("(Permission denied); fix its permissions")
        with pytest.raises(BankError, match=r"cannot read .*000002\.safetensors") as caught:
            answer(bank)
    assert not isinstance(caught.value, BankCorruptError)


def test_a_flipped_byte(damaged):
    flip_byte(_second_segment(damaged), _second_segment(damaged).stat().st_size - 10)
    with Bank.open(damaged.path) as bank:
        assert bank.verify() == ["segments/000002.safetensors: its checksum is not the catalog's"]


def test_stray_segments_are_reported_and_removed_by_the_next_writer(damaged, monkeypatch):
    strays = [damaged.path / "segments" / name for name in ("000003.safetensors", "000004.safetensors.tmp")]
    foreign = damaged.path / "segments" / "notes.txt"
    for path in (*strays, foreign):
        path.write_bytes(b"half")
    with Bank.open(damaged.path, read_only=True) as bank:
        assert [problem.split(":")[0] for problem in bank.verify()] == [
            "segments/000003.safetensors",
            "segments/000004.safetensors.tmp",
        ]
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0)
    for read_only in (False, True):
        with lock.writer_lock(damaged.path), Bank.open(damaged.path, read_only=read_only) as bank:
            assert bank.verify() == []
    assert all(path.exists() for path in strays)
    with Bank.open(damaged.path) as bank:
        assert bank.verify() == []
    assert not any(path.exists() for path in strays)
    assert foreign.exists()
