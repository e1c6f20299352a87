"""Rows of passages and of questions, each with the words that name its place, checked before any step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memsparse.errors import DocumentError
from memsparse.json_lines import read_rows

Row = dict[str, Any]
Placed = tuple[str, Row]
"""The place of a row ("FILE, line 3") and the row."""


def passage_rows(corpus: Path) -> Iterator[Placed]:
    """Yield the passages of a JSON Lines file: "id", "title" and "text", all texts.

    Raises: DocumentError naming file and line; see `checked_passage`.
    """
    for where, row in read_rows(corpus, fields=("id", "text")):
        yield where, checked_passage(row, where)


def question_rows(queries: Path) -> Iterator[Placed]:
    """Yield the questions of a JSON Lines file with all their fields; see `checked_question`."""
    for where, row in read_rows(queries, fields=("question",)):
        yield where, checked_question(row, where)


def checked_passage(row: Row, where: str) -> Row:
    """Return the fields of a passage.

    Raises: DocumentError for an id that is no text or whole number, a title or text that is none, a text
    that is empty, and one that cannot be written as UTF-8.
    """
    id_ = _checked_id(row["id"], "id", where)
    title = _checked_text("" if row.get("title") is None else row["title"], "title", where)
    text = _checked_text(row["text"], "text", where)
    if not text.strip():
        raise DocumentError(f"{where}: document {id_!r} has no text; write one, or remove the line")
    return {"id": id_, "title": title, "text": text}


def checked_question(row: Row, where: str) -> Row:
    """Return a question's row with "answers", "positive_ids" and "negative_ids" as lists of texts.

    Raises: DocumentError for a question that is empty, and any of these fields of another type.
    """
    question = _checked_text(row["question"], "question", where)
    if not question.strip():
        raise DocumentError(f"{where}: the question is empty; write one, or remove the line")
    checked = dict(row)
    checked["answers"] = [
        _checked_text(each, "an answer", where) for each in _checked_list(row, "answers", where)
    ]
    for name in ("positive_ids", "negative_ids"):
        ids = (_checked_id(each, f"an id of {name}", where) for each in _checked_list(row, name, where))
        checked[name] = list(dict.fromkeys(ids))
    if row.get("id") is not None:
        checked["id"] = _checked_id(row["id"], "id", where)
    for step in _checked_list(row, "sub_questions", where):
        if not isinstance(step, dict):
            raise DocumentError(
                f"{where}: sub_questions has {_shown(step)}; each is an object with an answer"
            )
    return checked


def _checked_list(row: Row, name: str, where: str) -> list[Any]:
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise DocumentError(f"{where}: {name} is {_shown(value)}; it must be a list")
    return value


def _checked_id(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DocumentError(f"{where}: {name} is {_shown(value)}; it must be a text or a whole number")
    return _checked_text(str(value), name, where)


def _checked_text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DocumentError(f"{where}: {name} is {_shown(value)}; it must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DocumentError(f"{where}: {name} holds an unpaired surrogate, which is no character") from None
    return value


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
