"""What is asked: a corpus of documents and questions whose answers and passages are known."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from memsparse.errors import DocumentError, InputError
from memsparse.json_lines import read_rows
from memsparse.sources import STDIN, Skipped, read_documents
from memsparse.types import Document

FIELDS = frozenset({"id", "question", "answers", "positive_ids"})
"""What a row of a file of questions says by itself; anything else is `Question.extra`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question and what counts as right."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    """Accepted strings; empty where only retrieval can be judged."""
    positive_ids: tuple[str, ...] = ()
    """Ids of every document the answer needs; empty where no document holds it, or nobody says which do."""
    located: bool = True
    """Whether the file says which documents hold the answer."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says: "hops", "type", "split", ..."""

    @property
    def answerable(self) -> bool:
        """Whether some document holds the answer."""
        return bool(self.positive_ids) or not self.located

    @property
    def rankable(self) -> bool:
        """Whether a ranking can be judged: the documents it needs are known."""
        return bool(self.positive_ids)

    @property
    def judgeable(self) -> bool:
        """Whether an answer can be judged: accepted strings are known, or it has to be refused."""
        return bool(self.answers) or not self.answerable


def load_corpus(paths: Sequence[Path]) -> list[Document]:
    """Read the documents of corpus files, or of any files and folders `read_documents` takes.

    Raises: DocumentError for a damaged row or two documents with one id; InputError where there are none, and
    for standard input, which can be read only once.
    """
    if STDIN in map(str, paths):
        raise InputError("a corpus cannot come from standard input, as a run may go on later; name a file")
    documents = list(read_documents(paths, strict=True, on_skip=_nothing_is_skipped))
    if not documents:
        raise InputError(f"no documents in {', '.join(map(str, paths))}; name a corpus with text")
    return documents


def load_questions(
    path: Path,
    *,
    known: Collection[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    where: Mapping[str, str] | None = None,
) -> list[Question]:
    """Read a file of questions: {"id", "question", "answers": [...], "positive_ids": [...]} a line.

    Args:
        known: ids of the corpus; a positive that is not among them is an error.
        limit: at most so many, drawn by `seed`, in the order of the file.
        where: keep only rows whose fields have these values, compared as text: {"split": "val"}.

    Raises: DocumentError for a row that cannot be used, naming file and line; InputError where none is left.
    """
    rows: list[Question] = []
    seen: set[str] = set()
    for place, row in read_rows(path, fields=("id", "question")):
        question = _question(row, place)
        if question.id in seen:
            raise DocumentError(f"{place}: id {question.id!r} is taken by an earlier line; give each its own")
        seen.add(question.id)
        if any(name not in row or str(row[name]) != value for name, value in (where or {}).items()):
            continue
        missing = [] if known is None else [each for each in question.positive_ids if each not in known]
        if missing:
            raise DocumentError(
                f"{place}: positive_ids holds {missing[0]!r}, which is not in the corpus; give the corpus of "
                "these questions"
            )
        rows.append(question)
    if not rows:
        told = "".join(f" with {name}={value}" for name, value in (where or {}).items())
        raise InputError(f"{path}: no questions{told}; give a file with some")
    if limit is not None and limit < len(rows):
        rows = [rows[i] for i in sorted(Random(seed).sample(range(len(rows)), limit))]
    return rows


def _question(row: Mapping[str, Any], place: str) -> Question:
    id_, text = row["id"], row["question"]
    if isinstance(id_, bool) or not isinstance(id_, str | int) or id_ == "":
        raise DocumentError(f"{place}: id is {id_!r}; give a string")
    if not isinstance(text, str) or not text.strip():
        raise DocumentError(f"{place}: question is {text!r}; give a text")
    return Question(
        id=str(id_),
        text=text.strip(),
        answers=_strings(row, "answers", place),
        positive_ids=tuple(dict.fromkeys(_strings(row, "positive_ids", place, or_numbers=True))),
        located=row.get("positive_ids") is not None or not row.get("answers"),
        extra={name: value for name, value in row.items() if name not in FIELDS},
    )


def _nothing_is_skipped(item: Skipped) -> None:
    raise DocumentError(f"{item.path}: {item.reason}; repair it or leave it out")


def _strings(row: Mapping[str, Any], name: str, place: str, *, or_numbers: bool = False) -> tuple[str, ...]:
    values = row.get(name)
    if values is None:
        return ()
    kinds = (str, int) if or_numbers else (str,)
    if not isinstance(values, list) or any(type(value) not in kinds for value in values):
        what = "strings or whole numbers" if or_numbers else "strings"
        raise DocumentError(f"{place}: {name} is {values!r}; give a list of {what}")
    return tuple(map(str, values))
