import json

import pytest

from memsparse.errors import BankCorruptError, EngineError, MemSparseError, retold, told


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (BankCorruptError("a file is damaged"), BankCorruptError("a file is damaged")),
        (KeyError("k"), EngineError("KeyError: 'k'")),
        (RuntimeError("first line\nsecond line"), EngineError("RuntimeError: first line")),
        (MemoryError(), EngineError("MemoryError: ")),
    ],
)
def test_errors_are_told_to_another_process(error: Exception, again: MemSparseError) -> None:
    there = retold(json.loads(json.dumps(told(error))))
    assert (type(there), str(there)) == (type(again), str(again))
    assert str(retold(told(error), "rank 2")) == f"rank 2: {again}"


def test_only_errors_of_ours_are_made_by_name() -> None:
    for name in ("told", "Mapping", "SystemExit", "__name__", "no such"):
        assert type(retold({"error": name, "text": "x"})) is EngineError
