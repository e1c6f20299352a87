from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memsparse.engine.engine import MemoryEngine
from memsparse.errors import ConfigError, InputError
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import RecordFile
from memsparse.evaluation.scaling import choose_questions, parse_tokens, run_scaling, summarise_scaling
from memsparse.types import Document
from tests.engine.builders import tiny_model
from tests.evaluation.fakes import WordSystem

DOCUMENTS = [Document(id=f"g{i}", text=f"Gold number {i} is here.") for i in range(6)]
QUESTIONS = [
    Question(id=f"q{i}", text=f"where is gold {i}?", answers=("here",), positive_ids=(f"g{i}",))
    for i in range(6)
]
KEY = ("rung", "kind", "system", "id")
RUNGS = [120, 400, 900]


def stream(count: int = 200) -> Iterator[Document]:
    yield from DOCUMENTS[:2]  # those are in the bank already
    for i in range(count):
        yield Document(id=f"x{i}", text=f"Some other text, {i}, of no use to anybody.")


def test_sizes_are_read_in_units_of_1024() -> None:
    assert parse_tokens("1M,16k, 4096".replace(" ", "")) == [4096, 16 * 1024, 1024**2]
    for bad in ("", "16X", "-1", "0", "1.5M", "1,,2", "1²"):
        with pytest.raises(ConfigError, match="is no number of tokens"):
            parse_tokens(bad)


def test_questions_are_those_whose_documents_fit() -> None:
    pairs = [*QUESTIONS, Question(id="two", text="?", positive_ids=("g0", "g5"))]
    documents, asked = choose_questions(DOCUMENTS, pairs, tokens=30, count=lambda d: 10, limit=None, seed=1)
    ids = {document.id for document in documents}
    assert len(ids) == 3
    assert {question.id for question in asked} >= {f"q{id_[1:]}" for id_ in ids}
    assert all(set(question.positive_ids) <= ids for question in asked)
    same = choose_questions(DOCUMENTS, pairs, tokens=30, count=lambda d: 10, limit=None, seed=1)
    assert (documents, asked) == same
    assert len(choose_questions(DOCUMENTS, pairs, tokens=99, count=lambda d: 10, limit=2, seed=1)[1]) == 2
    with pytest.raises(InputError, match="begin with a larger rung"):
        choose_questions(DOCUMENTS, pairs, tokens=9, count=lambda d: 10, limit=None, seed=1)


def test_a_bank_grows_and_peers_see_the_same_documents(tmp_path: Path) -> None:
    records = RecordFile(None, {}, key=KEY)
    peer = WordSystem()
    sizes: list[int] = []
    with MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=4) as engine:
        run_scaling(
            engine,
            [peer],
            DOCUMENTS,
            QUESTIONS,
            stream(),
            RUNGS,
            records,
            on_progress=lambda done, total: None,
            on_note=lambda text: sizes.append(engine.bank.stats().tokens),
        )
        stats = engine.bank.stats()
        assert [document.id for document in peer.documents] == [info.id for info in engine.bank.documents()]
    result = summarise_scaling(records.records, records.marks, RUNGS, seed=0)
    told = [entry["tokens"] for entry in result["rungs"]]
    for rung, tokens in zip(RUNGS, told, strict=True):
        assert rung <= tokens <= rung + 60
    assert result["rungs"][-1]["documents"] == stats.documents
    for entry in result["rungs"]:
        assert entry["systems"]["words"]["recall@1"]["n"] == 6
        assert entry["systems"]["memsparse"]["exact_match"]["n"] == 6
        assert "search_seconds" in entry["systems"]["memsparse"]
    assert result["systems"] == result["rungs"][-1]["systems"]
    first, last = (result["rungs"][i]["systems"]["words"]["recall@1"]["value"] for i in (0, -1))
    assert result["degradation"]["words"]["recall@1"]["value"] == pytest.approx((first - last) / first)


@pytest.mark.parametrize("stops", [1, 5, 8, 13])
def test_an_interrupted_curve_goes_on_to_the_same_figures(tmp_path: Path, stops: int) -> None:
    def run(name: str, stops_after: int | None) -> RecordFile:
        with (
            RecordFile(tmp_path / f"{name}.json", {}, key=KEY) as records,
            MemoryEngine.open(tmp_path / f"{name}.bank", tiny_model(), max_new_tokens=4) as engine,
        ):
            run_scaling(
                engine,
                [WordSystem(stops_after=stops_after)],
                DOCUMENTS,
                QUESTIONS,
                stream(),
                RUNGS,
                records,
                answers=False,
            )
        return records

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("cut", stops)
    again = run("cut", None)

    def essence(records: RecordFile) -> list[tuple[object, ...]]:
        return [tuple(row[name] for name in (*KEY, "documents", "ranks")) for row in records.records]

    assert essence(again) == essence(whole)
    for rung in RUNGS:
        told, expected = again.marks[f"rung {rung}"], whole.marks[f"rung {rung}"]
        assert (told["tokens"], told["documents"]) == (expected["tokens"], expected["documents"])


def test_peers_may_be_left_out_of_the_largest_banks(tmp_path: Path) -> None:
    records, peer = RecordFile(None, {}, key=KEY), WordSystem()
    with MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=4) as engine:
        run_scaling(
            engine, [peer], DOCUMENTS, QUESTIONS, stream(), RUNGS, records, answers=False, peer_limit=400
        )
    result = summarise_scaling(records.records, records.marks, RUNGS, seed=0)
    assert ["words" in entry["systems"] for entry in result["rungs"]] == [True, True, False]
    assert result["degradation"].keys() == {"memsparse", "words"}


def test_distractors_that_end_early_are_an_error_before_figures_mislead(tmp_path: Path) -> None:
    records = RecordFile(None, {}, key=KEY)
    with (
        MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=4) as engine,
        pytest.raises(InputError, match="give more --distractors"),
    ):
        run_scaling(engine, [], DOCUMENTS, QUESTIONS, stream(3), [100, 100_000], records, answers=False)
    assert {row["rung"] for row in records.records} == {100}


def test_a_bank_that_is_too_large_or_another_is_refused_and_not_measured(tmp_path: Path) -> None:
    def run(rungs: list[int], documents: Iterator[Document], **more: Any) -> None:
        with MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=4) as engine:
            records = more.pop("records", None) or RecordFile(None, {}, key=KEY)
            run_scaling(engine, [], DOCUMENTS, QUESTIONS, documents, rungs, records, answers=False, **more)

    run([2000], stream())
    with pytest.raises(InputError, match="more than the 120 still to be measured"):
        run([120, 2000], stream())
    others = (Document(id=f"y{i}", text="Another text.") for i in range(200))
    with pytest.raises(InputError, match="holds other documents"):
        run([4000], others)


def test_a_peer_that_comes_late_is_not_measured_on_the_larger_bank(tmp_path: Path) -> None:
    records = RecordFile(None, {}, key=KEY)
    with MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=4) as engine:
        run_scaling(engine, [], DOCUMENTS, QUESTIONS, stream(), RUNGS, records, answers=False)
        with pytest.raises(InputError, match="still to be measured"):
            run_scaling(engine, [WordSystem()], DOCUMENTS, QUESTIONS, stream(), RUNGS, records, answers=False)
    assert {row["system"] for row in records.records} == {"memsparse"}


def test_questions_without_accepted_answers_do_not_keep_a_rung_from_being_finished(tmp_path: Path) -> None:
    asked = [*QUESTIONS[:2], Question(id="ranked", text="where is gold 2?", positive_ids=("g2",))]
    records = RecordFile(None, {}, key=KEY)
    with MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=4) as engine:
        run_scaling(engine, [], DOCUMENTS, asked, stream(), RUNGS[:2], records)
        run_scaling(engine, [], DOCUMENTS, asked, stream(), RUNGS, records)
    assert len(records.records) == len(RUNGS) * (3 + 2)
