"""One writer at a time: an operating-system lock on `bank.lock`, gone with the process that holds it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memsparse.errors import BankError, BankLockedError

FILE = "bank.lock"
WAIT_SECONDS = 5.0
"""How long a writer waits for the one before it."""
RETRY_SECONDS = 0.01


def may_write(folder: Path) -> bool:
    """Whether permissions let this process hold the bank in `folder` for writing."""
    path = folder / FILE
    return os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


@contextmanager
def writer_lock(folder: Path, *, wait: float | None = None) -> Iterator[None]:
    """Hold the bank in `folder` for writing.

    Args:
        wait: seconds to wait for another writer. None: `WAIT_SECONDS`.

    Raises: BankLockedError if another process or another open bank holds it for longer than that, or the disk
        has no locks; BankError where it cannot be written to.
    """
    seconds = WAIT_SECONDS if wait is None else wait
    try:
        handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BankError(
            f"cannot write to {folder} ({error.strerror}); open the bank read-only or fix its permissions"
        ) from error
    try:
        _acquire(handle, folder, seconds)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise BankLockedError(
                    f"another process is writing to {folder} (waited {seconds:g} s); try again later"
                ) from error
            time.sleep(RETRY_SECONDS)
        except OSError as error:
            raise BankLockedError(
                f"cannot lock {folder} ({error.strerror}); keep the bank on a disk with file locks, or open "
                "it read-only"
            ) from error
        else:
            return
