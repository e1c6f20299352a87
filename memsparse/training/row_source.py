"""Where the rows of a set of real text come from, and which of its questions can be used."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from memsparse.errors import ConfigError, DocumentError
from memsparse.training.chains import Asked, understand
from memsparse.training.dataset_rows import DatasetRows
from memsparse.training.passages import Passages
from memsparse.training.questions import NO_PASSAGE
from memsparse.training.rows import Placed, passage_rows, question_rows

log = logging.getLogger(__name__)

Rows = Callable[[], Iterator[Placed]]
TRAIN = "train"
"""The split that models learn from."""


class RowSource(Protocol):
    """What says where a set comes from: a table of a recipe."""

    @property
    def corpus(self) -> str | None:
        """A JSON Lines file of passages."""

    @property
    def queries(self) -> str | None:
        """A JSON Lines file of questions about them."""

    @property
    def dataset(self) -> str | None:
        """A Hugging Face dataset, in place of either file or of both."""

    @property
    def subset(self) -> str | None:
        """The dataset's configuration."""

    @property
    def split(self) -> str | None:
        """The split that is read. None: all questions but those marked "train"."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The dataset's names for our fields."""

    @property
    def negatives(self) -> int:
        """Mined negatives of a question that may join a pool."""

    @property
    def strict(self) -> bool:
        """Whether a question whose passages are not all there is an error."""

    @property
    def weight(self) -> float:
        """How often it is drawn, against the others."""


def open_rows(
    corpus: Path | None, queries: Path | None, table: DatasetRows | None
) -> tuple[Rows, Rows | None, tuple[str, str]]:
    """Where passages and questions (None: none are given) are read from, and how messages name the two.

    Raises: ConfigError for neither a corpus nor a dataset, or a dataset beside both files.
    """
    if table is None:
        if corpus is None:
            raise ConfigError("reading names no corpus; give a corpus or a dataset")
        questions = None if queries is None else lambda: question_rows(queries)
        return lambda: passage_rows(corpus), questions, (str(corpus), str(queries))
    if corpus is not None and queries is not None:
        raise ConfigError(f"{table.name} has no part beside a corpus and queries; leave one of the three out")
    if corpus is not None:
        return lambda: passage_rows(corpus), table.questions, (str(corpus), table.name)
    if queries is not None:
        return table.passages, lambda: question_rows(queries), (table.name, str(queries))
    return table.contexts, table.questions if "question" in table else None, (table.name, table.name)


class Understanding:
    """Makes questions of rows, and counts those that cannot be used."""

    def __init__(
        self, passages: Passages, names: tuple[str, str], *, split: str | None, strict: bool
    ) -> None:
        self.passages, self.names, self.split, self.strict = passages, names, split, strict
        self.kept = self.untaught = self.lost = self.elsewhere = 0
        self.unknown_negatives = 0
        self.first = ""

    def all(self, rows: Iterator[Placed]) -> Iterator[tuple[Asked, int]]:
        """The questions that can be used, each with the place of its passage where it needs but one."""
        for where, row in rows:
            if not self._is_of_split(row.get("split")):
                self.elsewhere += 1
                continue
            if unknown := [id_ for id_ in row["positive_ids"] if id_ not in self.passages]:
                self._lose(where, unknown[0])
                continue
            known = [id_ for id_ in row["negative_ids"] if id_ in self.passages]
            self.unknown_negatives += len(row["negative_ids"]) - len(known)
            wrong = [id_ for id_ in known if id_ not in row["positive_ids"]]
            asked = understand(row | {"negative_ids": wrong}, self.passages)
            if asked is None:
                self.untaught += 1
                continue
            self.kept += 1
            single = len(asked.chain) == 1
            yield asked, self.passages.place(asked.chain[0]) if single else NO_PASSAGE

    def _is_of_split(self, mark: str | None) -> bool:
        """Whether a question with this mark, or without one, is read."""
        return mark is None or (mark != TRAIN if self.split is None else mark == self.split)

    def _lose(self, where: str, id_: str) -> None:
        reason = f"{where}: the positive {id_!r} is not in {self.names[0]}"
        if self.strict:
            raise DocumentError(f"{reason}; mend the line, or leave strict out")
        self.first = self.first or reason
        self.lost += 1

    def report(self) -> None:
        """Say what was left out.

        Raises: DocumentError if nothing is left.
        """
        corpus, queries = self.names
        if not self.kept:
            if self.elsewhere and not self.untaught + self.lost:
                raise DocumentError(
                    f"{queries}: all {self.elsewhere} questions are marked with another split; name the one "
                    "to read: split = ..."
                )
            first = f" ({self.first})" if self.first else ""
            raise DocumentError(
                f"{queries}: no question has its answer in one passage of {corpus}{first}; check the pair"
            )
        if self.lost:
            log.warning(
                "%s: left out %d of %d questions, whose passages are not all there; the first: %s",
                *(queries, self.lost, self.kept + self.untaught + self.lost, self.first),
            )
        if self.unknown_negatives:
            log.warning("%s: left out %d negative_ids not in %s", queries, self.unknown_negatives, corpus)
        if self.untaught:
            log.info(
                "%s: left out %d of %d questions, without a passage or not answered by it",
                *(queries, self.untaught, self.kept + self.untaught + self.lost),
            )
