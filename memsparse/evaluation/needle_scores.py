"""Scores of the needle tasks: records of samples, and their summary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from memsparse.errors import InputError
from memsparse.evaluation.metrics import bootstrap
from memsparse.evaluation.needles import TASKS, Sample
from memsparse.evaluation.systems import Reply


def score(answer: str, answers: Sequence[str]) -> float:
    """Share of the accepted values that the answer contains, whatever the case (RULER's string_match_all).

    Raises: InputError where nothing is accepted.
    """
    if not answers:
        raise InputError("a sample has no answers; give at least one")
    return sum(value.lower() in answer.lower() for value in answers) / len(answers)


def needle_record(system: str, sample: Sample, reply: Reply) -> dict[str, Any]:
    """What is kept of a reply, as JSON values."""
    return {
        "system": system,
        "id": sample.id,
        "task": sample.task,
        "tokens": sample.tokens,
        "depth": sample.depth,
        "question": sample.question,
        "answers": list(sample.answers),
        "answer": reply.text,
        "found": reply.found,
        "cited": list(reply.cited),
        "positive_ids": list(sample.positive_ids),
        "score": score(reply.text, sample.answers),
        "seconds": reply.seconds,
        "rounds": list(reply.rounds),
    }


def summarise(records: Iterable[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Mean scores of one system: "TASK@TOKENS" for each task and length, "needles@TOKENS" over the tasks.

    Records of a failure, which have no score, are left out.
    """
    scores: dict[int, dict[str, list[float]]] = {}
    for record in records:
        if "score" in record:
            tasks = scores.setdefault(record["tokens"], {})
            tasks.setdefault(record["task"], []).append(record["score"])
    summary: dict[str, dict[str, Any]] = {}
    for tokens in sorted(scores):
        tasks = scores[tokens]
        for task in sorted(tasks, key=TASKS.index):
            summary[f"{task}@{tokens}"] = bootstrap(tasks[task], seed=seed).to_json()
        overall = bootstrap(_weighted(tasks), seed=seed)
        summary[f"needles@{tokens}"] = replace(overall, high=_at_most_one(overall.high)).to_json()
    return summary


def _weighted(tasks: Mapping[str, Sequence[float]]) -> list[float]:
    """Scores whose mean is the mean of the tasks' means, also where some tasks have fewer samples."""
    share = sum(map(len, tasks.values())) / len(tasks)
    return [value * share / len(values) for values in tasks.values() for value in values]


def _at_most_one(value: float | None) -> float | None:
    return None if value is None else min(value, 1.0)
