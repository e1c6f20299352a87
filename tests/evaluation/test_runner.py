from typing import Any

import pytest

from memsparse.errors import InputError
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile
from memsparse.evaluation.runner import ask_each
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


def test_other_errors_are_not_kept_as_records() -> None:
    def measure(system: WordSystem, question: Question) -> Any:
        raise ZeroDivisionError

    records = RecordFile(None, {}, key=("system", "id"))
    with pytest.raises(ZeroDivisionError):
        ask_each([WordSystem()], QUESTIONS, records, describe, measure)
    assert records.records == []
