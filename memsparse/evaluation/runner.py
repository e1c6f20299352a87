"""The loop of retrieval and answers alike: every question to every system, each record kept as it comes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from memsparse.errors import InputError, MemSparseError
from memsparse.evaluation.questions import Question
from memsparse.evaluation.results import Record, RecordFile
from memsparse.evaluation.systems import OnProgress, System

S = TypeVar("S", bound=System)
OUTAGES = 5
"""Failures in a row after which whoever fails is not asked any more."""


class Failures:
    """Tells questions that cannot be answered from a system that cannot answer."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def none(self) -> None:
        """Take note of a question without a failure."""
        self._in_a_row = 0

    def told(self, error: MemSparseError) -> str:
        """What the record of a question says of its failure.

        Raises: the error itself, the last of `OUTAGES` in a row that are not the questions' fault.
        """
        self._in_a_row += not isinstance(error, InputError)
        if self._in_a_row >= OUTAGES:
            raise error
        return str(error)


def ask_each(
    systems: Sequence[S],
    questions: Sequence[Question],
    records: RecordFile,
    describe: Callable[[Question], Record],
    measure: Callable[[S, Question], Record],
    *,
    on_progress: OnProgress | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Ask every question, system by system; what `records` holds is not asked again.

    Args:
        describe: what a record says of a question besides its text and `Question.extra`.
        measure: asks, and gives what a record says of the reply; where it fails, the record has an "error".
        extra: further fields of every record.

    Raises: what a system raised for `OUTAGES` questions in a row, if that is no InputError.
    """
    done = 0
    for system in systems:
        failures = Failures()
        for question in questions:
            head = {"system": system.name, "id": question.id, **(extra or {})}
            if head not in records:
                told = {"question": question.text, **describe(question)}
                if question.extra:
                    told["extra"] = dict(question.extra)
                try:
                    told |= measure(system, question)
                    failures.none()
                except MemSparseError as error:
                    told["error"] = failures.told(error)
                records.add({**head, **told})
            done += 1
            if on_progress:
                on_progress(done, len(systems) * len(questions))
