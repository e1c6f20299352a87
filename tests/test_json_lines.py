import gzip
import json
from collections.abc import Iterator
from random import Random

import pytest
import zstandard

from memsparse.errors import DocumentError
from memsparse.json_lines import read_rows, write_rows


def test_plain_and_packed_rows_are_read_and_empty_lines_skipped(tmp_path):
    text = '{"id": "a"}\n\n{"id": "é"}\n'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        assert [row["id"] for _, row in read_rows(tmp_path / name)] == ["a", "é"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1}\n{"id":', "line 2: not JSON"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b'{"id": "\xff"}\n', "line 1: not UTF-8 text; convert"),
        (b'{"text": "x"}\n', "line 1: lacks id"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(DocumentError, match=message):
        list(read_rows(tmp_path / "bad.jsonl", fields=("id",)))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-12], lambda data: b"no gzip", lambda data: data[:40] + b"xx" * 9]
)
def test_a_damaged_or_missing_file_is_named(tmp_path, damage):
    rows = "\n".join(json.dumps({"id": str(Random(i).random())}) for i in range(50))
    (tmp_path / "bad.jsonl.gz").write_bytes(damage(gzip.compress(rows.encode())))
    with pytest.raises(DocumentError, match=r"bad\.jsonl\.gz"):
        list(read_rows(tmp_path / "bad.jsonl.gz"))
    with pytest.raises(DocumentError, match=r"none\.jsonl: No such file"):
        list(read_rows(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("rows", [[], [{"id": "é\u2028", "n": 1}, {"id": "", "list": [None, 0.5]}]])
def test_rows_come_back_as_they_were_written_and_the_bytes_are_always_the_same(tmp_path, rows):
    path = tmp_path / "new" / "a.jsonl.gz"
    write_rows(path, iter(rows))
    assert [row for _, row in read_rows(path)] == rows
    write_rows(tmp_path / "other name.gz", rows)
    assert (tmp_path / "other name.gz").read_bytes() == path.read_bytes()
    assert [each.name for each in path.parent.iterdir()] == ["a.jsonl.gz"]


def test_rows_that_end_in_an_error_leave_the_file_as_it_was(tmp_path):
    def rows() -> Iterator[dict[str, int]]:
        yield {"n": 2}
        raise DocumentError("damaged")

    path = tmp_path / "a.jsonl.gz"
    write_rows(path, [{"n": 1}])
    with pytest.raises(DocumentError, match="damaged"):
        write_rows(path, rows())
    assert [row for _, row in read_rows(path)] == [{"n": 1}]
