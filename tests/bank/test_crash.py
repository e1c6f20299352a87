"""A writer killed at any moment loses nothing it acknowledged and leaves nothing broken."""

import multiprocessing
import os
import random
import time

import pytest

from memsparse.bank import Bank, segments
from memsparse.bank.catalog import Catalog
from tests.bank.builders import FINGERPRINT, add

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "memsparse.bank", "tests.bank.builders"])
KILLED = 9


def _die(*_args, **_kwargs):
    os._exit(KILLED)


def _before_writing():
    segments.save_file = _die


def _after_half_a_file():
    def half(tensors, path):
        path.write_bytes(b"\x40\0\0\0\0\0\0\0{")
        _die()

    segments.save_file = half


def _after_writing_aside():
    segments.flush = _die


def _before_renaming():
    segments.os.rename = _die


def _after_renaming():
    Catalog.record = _die


def _inside_the_transaction():
    insert = Catalog._insert

    def insert_and_die(self, *args):
        insert(self, *args)
        _die()

    Catalog._insert = insert_and_die


def _after_the_transaction():
    record = Catalog.record

    def record_and_die(self, *args):
        record(self, *args)
        _die()

    Catalog.record = record_and_die


BEFORE = (
    _before_writing,
    _after_half_a_file,
    _after_writing_aside,
    _before_renaming,
    _after_renaming,
    _inside_the_transaction,
)


def _commit_and_die(path, prepare):
    bank = Bank.open(path)
    prepare()
    add(bank, [2, 2], prefix="lost")


@pytest.mark.parametrize(
    "moment", [*BEFORE, _after_the_transaction], ids=lambda moment: moment.__name__.strip("_")
)
def test_killed_while_committing(tmp_path, moment):
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [1, 3])
    child = CONTEXT.Process(target=_commit_and_die, args=(bank.path, moment))
    child.start()
    child.join()
    assert child.exitcode == KILLED
    child.close()
    stored = ["doc0", "doc1"] if moment in BEFORE else ["doc0", "doc1", "lost2", "lost3"]
    with Bank.open(bank.path, FINGERPRINT) as bank:
        assert bank.verify() == []
        assert [info.id for info in bank.documents()] == stored
        assert bank.reserve(1) == range(4, 5)
        add(bank, [1], prefix="after")
        assert [info.id for info in bank.documents()] == [*stored, "after5"]
        assert bank.verify() == []
        assert len(list((bank.path / "segments").iterdir())) == bank.stats().segments


def _write_for_ever(path, acknowledged):
    bank = Bank.open(path)
    for turn in range(10_000):
        passages, _ = add(bank, [1, 2], prefix=f"turn{turn}-")
        if turn % 3 == 2:
            bank.remove([passages[0].document_id])
        os.write(acknowledged, f"{passages[1].document_id}\n".encode())


def _write_to_a_file(path, log):
    _write_for_ever(path, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_time(tmp_path, seed):
    log = tmp_path / "acknowledged"
    Bank.create(tmp_path / "bank", FINGERPRINT).close()
    child = CONTEXT.Process(target=_write_to_a_file, args=(tmp_path / "bank", log))
    child.start()
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.2))
    child.kill()
    child.join()
    child.close()
    acknowledged = log.read_text().split()
    assert acknowledged
    with Bank.open(tmp_path / "bank", FINGERPRINT) as bank:
        assert bank.verify() == []
        stored = {number for info in bank.documents() for number in info.numbers}
        assert {info.id for info in bank.documents()} >= set(acknowledged)
        assert bank.reserve(1)[0] > max(stored)
