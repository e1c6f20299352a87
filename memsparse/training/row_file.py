"""Rows on disk: what training reads again and again, without holding it."""

import json
import os
import tempfile
import weakref
from array import array
from multiprocessing.reduction import DupFd
from typing import Any

from memsparse.config import cache_dir
from memsparse.errors import ConfigError

_BLOCK = 1 << 20


class RowFile:
    """JSON values in a file without a name, in the cache folder; 8 bytes of memory each.

    Rows are appended, then the file is closed to further ones by `seal`, then they are read by index. The
    operating system removes the file with the last process that uses it. Forked and spawned worker processes
    read the same file.

    Raises: ConfigError if the cache folder cannot be written, or is full.
    """

    def __init__(self) -> None:
        folder = cache_dir() / "rows"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                self._hold(os.dup(file.fileno()))
        except OSError as error:
            raise _unwritable(error) from error
        self._ends = array("q", [0])
        self._waiting = bytearray()

    def append(self, row: Any) -> None:
        """Add a row of JSON values."""
        packed = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
        self._waiting += packed
        self._ends.append(self._ends[-1] + len(packed))
        if len(self._waiting) >= _BLOCK:
            self.seal()

    def seal(self) -> None:
        """Write out what is still held; rows can be read from now on."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._file, self._waiting)]
        except OSError as error:
            raise _unwritable(error) from error

    def __len__(self) -> int:
        """Rows."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        """The row at a place, counted from 0."""
        start, end = self._ends[index], self._ends[index + 1]
        return json.loads(os.pread(self._file, end - start, start))

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process that is spawned: it inherits the open file."""
        return {"ends": self._ends, "file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read on in a spawned process."""
        self._ends = state["ends"]
        self._waiting = bytearray()
        self._hold(state["file"].detach())

    def _hold(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)


def _unwritable(error: OSError) -> ConfigError:
    folder = cache_dir() / "rows"
    return ConfigError(
        f"{folder}: {error.strerror or error}; make room there, or set MEMSPARSE_CACHE to another folder"
    )
