import gzip
import json
from random import Random

import pytest
import zstandard

from memsparse.errors import DocumentError
from memsparse.json_lines import read_rows


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
        (b'{"id": "\xff"}\n', "line 1: not JSON"),
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
