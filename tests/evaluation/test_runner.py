from pathlib import Path
from typing import Any

import pytest

from memsparse.errors import EngineError, InputError
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile
from memsparse.evaluation.runner import OUTAGES, ask_each
from tests.evaluation.fakes import WordSystem

QUESTIONS = [Question(id="q0", text="a?", extra={"hops": 2}), Question(id="q1", text="b?")]


def describe(question: Question) -> Record:
    return {"length": len(question.text)}


def test_records_hold_the_question_what_was_measured_and_what_else_is_said() -> None:
    def measure(system: WordSystem, question: Question) -> Record:
        if system.name == "bad":
            raise InputError("does not fit")
        return {"reply": f"{system.name} {question.id}"}

    records, seen = RecordFile(None, {}, key=("rung", "system", "id")), []
    records.add({"rung": 7, "system": "good", "id": "q1", "reply": "before"})
    records.add({"rung": 6, "system": "bad", "id": "q1", "reply": "of another rung"})
    ask_each(
        [WordSystem("good"), WordSystem("bad")],
        QUESTIONS,
        records,
        describe,
        measure,
        on_progress=lambda done, total: seen.append((done, total)),
        extra={"rung": 7},
    )
    q0 = {"id": "q0", "rung": 7, "question": "a?", "length": 2, "extra": {"hops": 2}}
    q1 = {"id": "q1", "rung": 7, "question": "b?", "length": 2}
    assert records.records[2:] == [
        {"system": "good", **q0, "reply": "good q0"},
        {"system": "bad", **q0, "error": "does not fit"},
        {"system": "bad", **q1, "error": "does not fit"},
    ]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_system_that_is_gone_ends_the_run_and_is_asked_again(tmp_path: Path) -> None:
    questions = [Question(id=f"q{i}", text=f"{i}?") for i in range(2 * OUTAGES)]
    gone, asked = True, []

    def measure(system: WordSystem, question: Question) -> Record:
        asked.append(question.id)
        if gone and question.id != "q0":
            raise EngineError("rank 1 is gone")
        return {"reply": "here"}

    def run() -> list[Record]:
        with RecordFile(tmp_path / "out.json", {}, key=("system", "id")) as records:
            ask_each([WordSystem()], questions, records, describe, measure)
        return records.records

    with pytest.raises(EngineError, match="rank 1 is gone"):
        run()
    assert len(asked) == 1 + OUTAGES
    gone = False
    found = run()
    assert asked[1 + OUTAGES :] == [question.id for question in questions[1:]]
    assert all(record["reply"] == "here" for record in found)
    assert len(found) == len(questions)


def test_failures_between_answers_are_no_outage() -> None:
    questions = [Question(id=f"q{i}", text=f"{i}?") for i in range(4 * OUTAGES)]

    def measure(system: WordSystem, question: Question) -> Record:
        if int(question.id[1:]) % OUTAGES:
            raise EngineError("once more")
        return {"reply": "here"}

    records = RecordFile(None, {}, key=("system", "id"))
    ask_each([WordSystem()], questions, records, describe, measure)
    assert sum("error" in record for record in records.records) == 4 * (OUTAGES - 1)


def test_other_errors_are_not_kept_as_records() -> None:
    def measure(system: WordSystem, question: Question) -> Any:
        raise ZeroDivisionError

    records = RecordFile(None, {}, key=("system", "id"))
    with pytest.raises(ZeroDivisionError):
        ask_each([WordSystem()], QUESTIONS, records, describe, measure)
    assert records.records == []
