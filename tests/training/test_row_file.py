import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from memsparse.config import cache_dir
from memsparse.errors import ConfigError
from memsparse.training.row_file import RowFile

ROWS = [["a", 1, None], {"text": "Straße 北京 \n"}, "", [], [[1, 2], [3, 4]]]


def filled(rows=ROWS) -> RowFile:
    file = RowFile()
    for row in rows:
        file.append(row)
    file.seal()
    return file


def _read(file: RowFile, results) -> None:
    results.put([file[index] for index in range(len(file))])


def test_rows_come_back_in_any_order():
    file = filled()
    assert len(file) == len(ROWS)
    assert [file[index] for index in (4, 0, 1, 3, 2)] == [ROWS[index] for index in (4, 0, 1, 3, 2)]
    assert len(filled([])) == 0


def test_rows_beyond_one_block_are_written_on():
    rows = [[index, "x" * 5000] for index in range(600)]
    file = filled(rows)
    assert [file[index] for index in (0, 300, 599)] == [rows[index] for index in (0, 300, 599)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_read_the_same_rows(method):
    file = filled()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=_read, args=(file, results))
    worker.start()
    assert results.get(timeout=60) == ROWS
    worker.join()
    assert file[1] == ROWS[1]


def test_nothing_is_left_on_disk():
    file = filled()
    assert list((cache_dir() / "rows").iterdir()) == []
    assert file[0] == ROWS[0]


def test_a_full_disk_is_one_line(monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = RowFile()
    file.append(["a"])
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        ConfigError, match=r"rows: No space left on device; make room there, or set MEMSPARSE"
    ):
        file.seal()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"file/rows: Not a directory; make room there"):
        RowFile()
