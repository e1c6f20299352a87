"""Answers: right words, right documents, and a refusal where there is nothing to find."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from memsparse.errors import InputError
from memsparse.evaluation.judge import Judge
from memsparse.evaluation.metrics import (
    bootstrap,
    contains_match,
    exact_match,
    f1_score,
    precision_recall,
    token_f1,
)
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile, by_system
from memsparse.evaluation.runner import OUTAGES, ask_each
from memsparse.evaluation.systems import Answerer, OnProgress, Reply, System


def run_qa(
    systems: Sequence[System],
    questions: Sequence[Question],
    records: RecordFile,
    *,
    judge: Judge | None = None,
    on_progress: OnProgress | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Ask every question, system by system; what `records` holds is not asked again.

    Questions with documents but without accepted answers are left out.

    Args:
        judge: gives each answer to an answerable question a mark too.
        extra: further fields of every record.
    """
    answerers = [system for system in systems if isinstance(system, Answerer)]
    asked = [question for question in questions if question.judgeable]
    if not asked:
        raise InputError('no question has accepted answers or is unanswerable; give questions with "answers"')
    measure = partial(_measure, judge=None if judge is None else _Patient(judge))
    ask_each(answerers, asked, records, _describe, measure, on_progress=on_progress, extra=extra)


class _Patient:
    """A judge that is no longer asked once it failed often enough in a row: what is left is missing too."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._failed = 0

    def judge(self, question: str, answers: Sequence[str], answer: str) -> Record:
        if self._failed >= OUTAGES:
            why = f"not asked: the judge gave no reply {OUTAGES} times in a row"
            return {"score": None, "match": None, "model": self._judge.model, "replies": [], "error": why}
        told = self._judge.judge(question, answers, answer).to_json()
        self._failed = 0 if told["replies"] else self._failed + 1
        return told


def _describe(question: Question) -> Record:
    return {
        "answers": list(question.answers),
        "positive_ids": list(question.positive_ids),
        "answerable": question.answerable,
    }


def _measure(system: Answerer, question: Question, judge: _Patient | None) -> Record:
    reply = system.answer(question)
    record = score_reply(reply, question)
    if judge is not None and question.answerable:
        record["judge"] = judge.judge(question.text, question.answers, reply.text)
    return record


def score_reply(reply: Reply, question: Question) -> Record:
    """The record of one reply. A declined answer is an answer without words."""
    text = reply.text if reply.found else ""
    precision, recall = precision_recall(reply.cited, question.positive_ids)
    return {
        "answer": reply.text,
        "found": reply.found,
        "cited": list(reply.cited),
        # An accepted answer may be nothing but an article, which compares as no words at all.
        "exact_match": float(reply.found and exact_match(text, question.answers)),
        "f1": token_f1(text, question.answers),
        "contains": float(contains_match(text, question.answers)),
        "citation_precision": precision,
        "citation_recall": recall,
        "citation_f1": f1_score(precision, recall),
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 6),
        "rounds": [dict(item) for item in reply.rounds],
    }


def summarise_qa(records: Sequence[Record], *, seed: int) -> dict[str, dict[str, Any]]:
    """Metrics of every system, with intervals over questions.

    Answers and citations are judged on answerable questions, `refused` on the others.
    """
    return {name: _summary(rows, seed) for name, rows in by_system(records).items()}


def _summary(rows: Sequence[Record], seed: int) -> dict[str, Any]:
    answerable = [row for row in rows if row["answerable"]]
    absent = [row for row in rows if not row["answerable"]]
    located = [row for row in answerable if row["positive_ids"]]
    marks = [row["judge"] for row in answerable if "judge" in row]
    values: dict[str, list[float]] = {
        name: [row[name] for row in chosen]
        for names, chosen in (
            (("exact_match", "f1", "contains"), answerable),
            (("citation_precision", "citation_recall", "citation_f1"), located),
        )
        for name in names
    }
    values["wrongly_refused"] = [float(not row["found"]) for row in answerable]
    values["refused"] = [float(not row["found"]) for row in absent]
    values["tokens_per_question"] = [float(row["tokens"]) for row in rows]
    values["seconds_per_question"] = [row["seconds"] for row in rows]
    if marks:
        values["judge"] = [float(mark["score"]) for mark in marks if mark["score"] is not None]
        values["judge_match"] = [float(mark["match"]) for mark in marks if mark["match"] is not None]
    return {name: bootstrap(each, seed=seed).to_json() for name, each in values.items()}
