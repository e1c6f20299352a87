from pathlib import Path

import pytest

from memsparse.errors import InputError
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import RecordFile
from memsparse.evaluation.retrieval import ranks_of, run_retrieval, summarise_layers, summarise_retrieval
from memsparse.types import Document
from tests.evaluation.fakes import WordSystem

DOCUMENTS = [
    Document(id="a", text="the cat sleeps"),
    Document(id="b", text="the dog barks"),
    Document(id="c", text="a cat and a dog play"),
]
QUESTIONS = [
    Question(id="q0", text="cat sleeps?", positive_ids=("a",)),
    Question(id="q1", text="cat dog?", positive_ids=("c", "b"), extra={"hops": 2}),
    Question(id="q2", text="dog?", positive_ids=("a",)),
    Question(id="q3", text="nothing?"),
]
KEY = ("system", "id")


def filled(**settings: object) -> WordSystem:
    system = WordSystem(**settings)  # type: ignore[arg-type]
    system.add(DOCUMENTS)
    return system


def test_ranks_are_counted_from_one_and_end_at_a_hundred() -> None:
    many = [f"d{i}" for i in range(200)]
    assert ranks_of(["d0", "d99", "d100", "x"], many) == [1, 100, None, None]


def test_every_question_with_positives_is_measured() -> None:
    records = RecordFile(None, {}, key=KEY)
    seen: list[tuple[int, int | None]] = []
    run_retrieval(
        [filled(), filled(name="other")],
        QUESTIONS,
        records,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [(r["system"], r["id"], r["ranks"]) for r in records.records[:3]] == [
        ("words", "q0", [1]),
        ("words", "q1", [1, 3]),
        ("words", "q2", [3]),
    ]
    assert seen[-1] == (6, 6)
    assert records.records[1]["extra"] == {"hops": 2}
    assert records.records[1]["layers"][0] == {
        "layer": 3,
        "documents": ["b", "a", "c"],
        "scores": [1.0, 1.0, 2.0],
        "chunks": [0],
        "ranks": [3, 1],
    }
    summary = summarise_retrieval(records.records, seed=0)
    words = summary["words"]
    assert summary.keys() == {"words", "other"}
    assert words["recall@1"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert words["hit@1"]["value"] == pytest.approx(2 / 3)
    assert words["recall@16"]["value"] == 1
    assert words["mrr@10"]["value"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert words["recall@1"]["n"] == 3
    assert words["seconds_per_question"]["value"] == 0.5
    layers = summarise_layers(records.records, seed=0)["words"]
    assert layers["3"]["hit@1"]["value"] == pytest.approx(2 / 3)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    whole = RecordFile(None, {}, key=KEY)
    run_retrieval([filled()], QUESTIONS, whole)
    first = filled(stops_after=2)
    with pytest.raises(KeyboardInterrupt), RecordFile(out, {}, key=KEY) as records:
        run_retrieval([first], QUESTIONS, records)
    again = filled()
    with RecordFile(out, {}, key=KEY) as records:
        run_retrieval([again], QUESTIONS, records)
    assert (first.asked, again.asked) == (["q0", "q1"], ["q2"])
    assert records.records == whole.records


def test_a_question_a_system_fails_on_is_missing_and_the_others_count() -> None:
    records = RecordFile(None, {}, key=KEY)
    run_retrieval([filled(fails=["q0"])], QUESTIONS, records)
    assert records.records[0]["error"] == "q0 does not fit"
    assert summarise_retrieval(records.records, seed=0)["words"]["recall@1"]["n"] == 2


def test_equal_seeds_give_equal_figures() -> None:
    records = RecordFile(None, {}, key=KEY)
    run_retrieval([filled()], QUESTIONS, records)
    assert summarise_retrieval(records.records, seed=5) == summarise_retrieval(records.records, seed=5)


def test_questions_without_positives_alone_are_an_error() -> None:
    with pytest.raises(InputError, match="no question has positive_ids"):
        run_retrieval([filled()], QUESTIONS[3:], RecordFile(None, {}, key=KEY))
