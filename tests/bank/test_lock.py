import errno
import multiprocessing
import threading
import time

import pytest

from memsparse.bank import lock
from memsparse.bank.lock import writer_lock
from memsparse.errors import BankError, BankLockedError


def test_second_holder_is_refused_and_admitted_later(tmp_path):
    with (
        writer_lock(tmp_path),
        pytest.raises(BankLockedError, match=r"waited 0 s"),
        writer_lock(tmp_path, wait=0),
    ):
        pass
    with writer_lock(tmp_path, wait=0):
        assert (tmp_path / "bank.lock").exists()


def test_a_disk_without_locks_is_one_line(tmp_path, monkeypatch):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    told = r"cannot lock .*No locks available.*open it read-only$"
    with pytest.raises(BankLockedError, match=told), writer_lock(tmp_path):
        pass


def test_a_writer_waits_for_the_one_before(tmp_path):
    order = []

    def hold() -> None:
        with writer_lock(tmp_path):
            entered.set()
            time.sleep(0.1)
            order.append("first")

    entered = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with writer_lock(tmp_path, wait=5):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def _hold_for_ever(folder, ready):
    with writer_lock(folder):
        ready.set()
        time.sleep(600)


def test_the_lock_goes_with_a_killed_process(tmp_path):
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    child = context.Process(target=_hold_for_ever, args=(tmp_path, ready))
    child.start()
    assert ready.wait(60)
    with pytest.raises(BankLockedError), writer_lock(tmp_path, wait=0):
        pass
    child.kill()
    child.join()
    with writer_lock(tmp_path, wait=0):
        pass
    child.close()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    with pytest.raises(BankError, match="cannot write to"), writer_lock(tmp_path / "absent"):
        pass
