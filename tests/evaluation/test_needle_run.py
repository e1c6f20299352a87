from pathlib import Path
from typing import Any

import pytest

from memsparse.engine.engine import MemoryEngine
from memsparse.errors import InputError
from memsparse.evaluation import needle_run
from memsparse.evaluation.model_system import ModelSystem
from memsparse.evaluation.needle_run import run_needles, summarise_needles
from memsparse.evaluation.needles import NeedleConfig
from memsparse.evaluation.results import RecordFile
from memsparse.types import Document
from tests.engine.builders import tiny_model
from tests.evaluation.fakes import WordSystem

pytest.importorskip("wonderwords", reason="needs the extra `eval`")

CONFIG = NeedleConfig(
    tasks=("niah_single_1", "niah_single_2", "niah_multikey_1"),
    lengths=(400, 1200),
    depths=(0.0, 1.0),
    samples=1,
    document_tokens=60,
)
HAYSTACK = [Document(id=f"h{i}", text=f"Line {i} of a tale. It goes on, {i} days.") for i in range(40)]
KEY = ("tokens", "system", "id")
ENGINE = {"max_new_tokens": 4, "max_document_tokens": 400}


def run(records: RecordFile, folder: Path, **options: Any) -> None:
    run_needles(tiny_model(), CONFIG, HAYSTACK, records, folder, engine=ENGINE, **options)


def test_every_sample_of_every_length_is_asked_among_its_own_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, notes = RecordFile(None, {}, key=KEY), []
    run(records, tmp_path, on_note=notes.append, on_progress=lambda done, total: None)
    assert len(records.records) == 2 * 3 * 2
    for row in records.records:
        own = f"sample-{row['task']}-{row['id'].rpartition('-')[2]}"
        haystack = "noise" if row["task"] == "niah_single_1" else "haystack"
        seen = [id_ for item in row["rounds"] for layer in item["routing"] for id_ in layer["documents"]]
        assert seen
        assert all(id_.startswith((own, f"{haystack}-")) for id_ in seen)
        assert row["found"] in (True, False)
        assert 0 <= row["score"] <= 1
    told = summarise_needles(records, seed=0)
    assert {"niah_single_1@400", "needles@400", "niah_multikey_1@1200"} <= told["systems"]["memsparse"].keys()
    assert told["lengths"].keys() == {"400", "1200"}
    assert told["lengths"]["1200"]["haystack"] == "given"
    assert len(notes) == 2
    assert list(tmp_path.iterdir()) == []


def test_peers_read_what_they_find_among_the_documents_of_the_sample(tmp_path: Path) -> None:
    records = RecordFile(None, {}, key=KEY)
    run(records, tmp_path, peers=lambda engine: [WordSystem()])
    rows = [row for row in records.records if row["system"] == "words"]
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        read = [id_ for item in row["rounds"] for id_ in item["documents"]]
        assert read == row["positive_ids"], "the words of the question stand in one document alone"
    assert summarise_needles(records, seed=0)["systems"].keys() == {"memsparse", "words"}


def test_an_interrupted_run_goes_on_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RecordFile(None, {}, key=KEY)
    run(whole, tmp_path / "a")
    answer, asked = ModelSystem.answer, []

    def stop(self: ModelSystem, question: Any) -> Any:
        if len(asked) == 8:
            raise KeyboardInterrupt
        asked.append(question.id)
        return answer(self, question)

    monkeypatch.setattr(ModelSystem, "answer", stop)
    with pytest.raises(KeyboardInterrupt), RecordFile(tmp_path / "o.json", {}, key=KEY) as records:
        run(records, tmp_path / "b")
    monkeypatch.setattr(ModelSystem, "answer", answer)
    with RecordFile(tmp_path / "o.json", {}, key=KEY) as again:
        assert len(again.records) == 8
        run(again, tmp_path / "b")

    def essence(records: RecordFile) -> list[Any]:
        return [(row["id"], row["answer"], row["cited"]) for row in records.records]

    assert essence(again) == essence(whole)


def test_a_sample_the_model_fails_on_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: MemoryEngine, question: str, **options: Any) -> Any:
        raise InputError("out of context")

    monkeypatch.setattr(MemoryEngine, "ask", fail)
    records = RecordFile(None, {}, key=KEY)
    run(records, tmp_path)
    assert {row["error"] for row in records.records} == {"out of context"}
    assert needle_run.summarise_needles(records, seed=0)["systems"]["memsparse"]["wrongly_refused"]["n"] == 0
