from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memsparse.errors import InputError
from memsparse.evaluation.qa import OUTAGES, run_qa, score_reply, summarise_qa
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import RecordFile
from memsparse.evaluation.systems import Reply
from memsparse.types import Document
from tests.evaluation.fakes import WordSystem

QUESTIONS = [
    Question(id="q0", text="who?", answers=("a cat",), positive_ids=("a",)),
    Question(id="q1", text="where?", answers=("Rome",), positive_ids=("b",)),
    Question(id="q2", text="nothing known?", answers=("x",), positive_ids=("a",)),
    Question(id="q3", text="nothing there?"),
    Question(id="q4", text="what is not there?"),
    Question(id="q5", text="only to be found", positive_ids=("a",)),
]
KEY = ("system", "id")


def filled(**settings: Any) -> WordSystem:
    system = WordSystem(**settings)
    system.add([Document(id="a", text="The cat."), Document(id="b", text="Rome")])
    return system


def reply(**changes: Any) -> Reply:
    fields: dict[str, Any] = {"text": "the cat", "found": True, "cited": ("a",), "tokens": 9, "seconds": 0.5}
    return Reply(**{**fields, **changes})


def test_a_reply_is_judged_by_words_and_by_documents() -> None:
    question = Question(id="q", text="?", answers=("Cat",), positive_ids=("a", "b"))
    row = score_reply(reply(), question)
    assert (row["exact_match"], row["f1"], row["contains"]) == (1, 1, 1)
    assert (row["citation_precision"], row["citation_recall"]) == (1, 0.5)
    assert row["citation_f1"] == pytest.approx(2 / 3)
    row = score_reply(reply(text="no cat here", cited=("c", "a")), question)
    assert (row["exact_match"], row["contains"], row["citation_precision"]) == (0, 1, 0.5)
    assert row["f1"] == pytest.approx(0.5)


def test_a_declined_answer_has_no_words_whatever_it_says() -> None:
    question = Question(id="q", text="?", answers=("the cat",), positive_ids=("a",))
    row = score_reply(reply(found=False), question)
    assert (row["exact_match"], row["f1"], row["contains"]) == (0, 0, 0)
    assert row["answer"] == "the cat"
    article = score_reply(reply(found=False), replace(question, answers=("A",)))
    assert article["exact_match"] == 0


def test_answers_count_where_there_is_one_and_refusals_where_there_is_none() -> None:
    records = RecordFile(None, {}, key=KEY)
    run_qa([filled()], QUESTIONS, records)
    assert [row["id"] for row in records.records] == ["q0", "q1", "q2", "q3", "q4"]
    summary = summarise_qa(records.records, seed=0)["words"]
    assert (summary["exact_match"]["value"], summary["exact_match"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (summary["refused"]["value"], summary["refused"]["n"]) == (0.5, 2)
    assert (summary["wrongly_refused"]["value"], summary["wrongly_refused"]["n"]) == (pytest.approx(1 / 3), 3)
    assert summary["citation_recall"]["value"] == pytest.approx(1 / 3)
    assert (summary["tokens_per_question"]["value"], summary["tokens_per_question"]["n"]) == (10, 5)
    assert summary["seconds_per_question"]["value"] == 0.25
    assert "judge" not in summary


class FixedJudge:
    """Marks by a list; None is an outage."""

    model = "m"

    def __init__(self, marks: list[int | None]) -> None:
        self.marks = marks
        self.seen: list[str] = []

    def judge(self, question: str, answers: Any, answer: str) -> Any:
        self.seen.append(answer)
        score = self.marks.pop(0)

        class Mark:
            def to_json(self) -> dict[str, Any]:
                match = None if score is None else score >= 4
                return {"score": score, "match": match, "replies": [] if score is None else ["x"]}

        return Mark()


def test_an_outage_of_the_judge_is_missing_and_not_a_zero() -> None:
    records = RecordFile(None, {}, key=KEY)
    judge: Any = FixedJudge([5, None, 1])
    run_qa([filled()], QUESTIONS, records, judge=judge)
    assert judge.seen == ["The cat.", "The cat.", "No answer found."]
    summary = summarise_qa(records.records, seed=0)["words"]
    assert (summary["judge"]["value"], summary["judge"]["n"]) == (3, 2)
    assert (summary["judge_match"]["value"], summary["judge_match"]["n"]) == (0.5, 2)
    assert "judge" not in records.records[3]


def test_a_judge_that_is_gone_is_not_waited_for_at_every_question() -> None:
    many = [replace(QUESTIONS[0], id=f"q{i}") for i in range(OUTAGES + 6)]
    records, judge = RecordFile(None, {}, key=KEY), FixedJudge([None] * 3 + [5] + [None] * OUTAGES)
    run_qa([filled()], many, records, judge=judge)  # type: ignore[arg-type]
    assert len(judge.seen) == 4 + OUTAGES
    assert [row["judge"]["score"] for row in records.records] == [None] * 3 + [5] + [None] * (OUTAGES + 2)
    assert "in a row" in records.records[-1]["judge"]["error"]
    assert summarise_qa(records.records, seed=0)["words"]["judge"]["n"] == 1


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = RecordFile(None, {}, key=KEY)
    run_qa([filled(), filled(name="other")], QUESTIONS, whole)
    with pytest.raises(KeyboardInterrupt), RecordFile(tmp_path / "o.json", {}, key=KEY) as records:
        run_qa([filled(), filled(name="other", stops_after=1)], QUESTIONS, records)
    again = filled()
    with RecordFile(tmp_path / "o.json", {}, key=KEY) as records:
        run_qa([again, filled(name="other")], QUESTIONS, records)
    assert again.asked == []
    assert records.records == whole.records


def test_answers_whose_documents_nobody_names_are_judged_by_their_words_alone() -> None:
    unlocated = Question(id="u", text="who?", answers=("the cat",), located=False)
    records = RecordFile(None, {}, key=KEY)
    run_qa([filled()], [unlocated], records)
    summary = summarise_qa(records.records, seed=0)["words"]
    assert (summary["exact_match"]["value"], summary["exact_match"]["n"]) == (1, 1)
    assert summary["refused"]["n"] == summary["citation_recall"]["n"] == 0


def test_nothing_to_ask_is_an_error() -> None:
    with pytest.raises(InputError, match="no question has accepted answers"):
        run_qa([filled()], [QUESTIONS[5]], RecordFile(None, {}, key=KEY))
