"""What real questions ask of which passages: the answer's place, and the order in which to read."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from memsparse.training.words import joined

MOST_PASSAGES = 8
"""Passages that a question may need."""
_MOST_NAMED = 4
"""Passages whose order is told by the titles they name; the order of more must be given."""
_NEAR = 120
"""Characters around a place that tell whether it is meant."""
_COMMON = frozenset(("the", "what", "who", "which", "was", "did", "when", "how", "and", "for", "are", "were"))
_COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A real question whose passages are known."""

    text: str
    chain: tuple[str, ...]
    """Ids of passages in the order of reading."""
    spans: tuple[tuple[int, int], ...]
    """Start and length, in each passage, of what leads on or answers; (0, 0) where that is unknown."""
    answer: str
    """As it stands in the last passage, or where the order is unknown in one of them; empty for none."""
    unordered: bool
    id: str = ""
    """The row's own, or where it has none the question."""
    negatives: tuple[str, ...] = ()
    """Ids of passages that look right and are not."""

    @property
    def kind(self) -> str:
        """The kind of question: hops where there is an answer, else a mere lookup."""
        return f"{_COUNTS[len(self.chain) - 1]}_hop" if self.answer else "lookup"


def understand(row: Mapping[str, Any], passages: Mapping[str, Mapping[str, Any]]) -> Asked | None:
    """Return what a row of queries asks; None where it cannot be learnt from.

    That is a row without known passages, with more than eight of them, or whose one passage does not state
    an answer that is given. A question without answers, or whose answers stand nowhere, as those answered by
    yes or no, asks for its passages alone.

    Several passages are read in the order in which each states what leads to the next: the answers of
    "sub_questions" where there is one for each, the titles of up to four. Otherwise any order will do for
    two, and for more if the row says so ("unordered": true), if the question names them all, if each of them
    states an answer, or if no answer is asked for and nothing must be combined ("hops" is 1 or missing).
    """
    ids = list(dict.fromkeys(row.get("positive_ids") or ()))
    if not 1 <= len(ids) <= MOST_PASSAGES or any(id_ not in passages for id_ in ids):
        return None
    held = [passages[id_] for id_ in ids]
    texts = [str(passage["text"]) for passage in held]
    answers = [answer for each in row.get("answers") or () if (answer := str(each).strip())]
    if len(ids) == 1:
        answer = next((each for each in answers if stated(each, texts[0])), "")
        if answers and not answer:
            return None
        return _asked(row, ids, [answer], texts, answer)
    answers = [each for each in answers if each.lower() not in ("yes", "no")]
    titles = [_bare(str(passage.get("title", ""))) for passage in held]
    ordered = None if row.get("unordered") is True else _in_order(row, texts, titles, answers)
    if ordered is not None:
        order, marks = ordered
        return _asked(row, [ids[i] for i in order], marks, [texts[i] for i in order], marks[-1])
    if len(ids) > 2 and not _in_any_order(row, texts, titles, answers):
        return None
    answer = next((each for each in answers if any(stated(each, text) for text in texts)), "")
    return _asked(row, ids, [answer] * len(ids), texts, answer, unordered=True)


def _in_any_order(row: Mapping[str, Any], texts: list[str], titles: list[str], answers: list[str]) -> bool:
    """Whether each of several passages can be asked for by the question alone."""
    question = str(row["question"]).lower()
    if row.get("unordered") is True or all(title and title.lower() in question for title in titles):
        return True
    if not row.get("answers"):
        return row.get("hops") in (None, 1)
    return all(any(stated(each, text) for each in answers) for text in texts)


def _in_order(
    row: Mapping[str, Any], texts: list[str], titles: list[str], answers: list[str]
) -> tuple[list[int], list[str]] | None:
    """Find the order in which each passage states what leads to the next: indices, and what each states."""
    steps = [str(step.get("answer", "")).strip() for step in row.get("sub_questions") or ()]
    told = len(steps) == len(texts)
    if not told and len(texts) > _MOST_NAMED:
        return None

    @cache
    def mark(position: int, index: int, following: int | None) -> str:
        """What the passage in a position states of the one that follows, or of the answer."""
        wanted = answers
        if following is not None:
            wanted = [*([steps[position]] if told else []), titles[following]]
        return next((each for each in wanted if stated(each, texts[index])), "")

    for first in range(len(texts)):
        order = _complete([first], len(texts), mark, set())
        if order is not None:
            following = [*order[1:], None]
            return order, [mark(i, *pair) for i, pair in enumerate(zip(order, following, strict=True))]
    return None


def _complete(
    order: list[int],
    count: int,
    mark: Callable[[int, int, int | None], str],
    dead: set[tuple[int, frozenset[int]]],
) -> list[int] | None:
    """The first order that begins like this and leads on from each to the next; None where there is none."""
    last, rest = order[-1], [index for index in range(count) if index not in order]
    if not rest:
        return order if mark(count - 1, last, None) else None
    state = last, frozenset(rest)
    if state in dead:
        return None
    for following in rest:
        if mark(len(order) - 1, last, following):
            found = _complete([*order, following], count, mark, dead)
            if found is not None:
                return found
    dead.add(state)
    return None


def _asked(
    row: Mapping[str, Any],
    ids: list[str],
    marks: list[str],
    texts: list[str],
    answer: str,
    *,
    unordered: bool = False,
) -> Asked:
    question = str(row["question"])
    spans = [
        (_place(mark, text, question), len(mark)) if stated(mark, text) else (0, 0)
        for mark, text in zip(marks, texts, strict=True)
    ]
    return Asked(
        id=str(question if row.get("id") is None else row["id"]),
        text=question,
        chain=tuple(ids),
        spans=tuple(spans),
        answer=answer,
        unordered=unordered,
        negatives=tuple(row.get("negative_ids") or ()),
    )


def _bare(title: str) -> str:
    """A title without the words in brackets that tell it from others."""
    return re.sub(r"\s*\([^)]*\)\s*$", "", title).strip()


def stated(mark: str, text: str) -> bool:
    """Whether the text holds the mark as whole words."""
    return bool(mark) and next(_places(mark, text), None) is not None


def _place(mark: str, text: str, question: str) -> int:
    """Where the mark stands: of several places, the one with the most words of the question around it."""
    places = list(_places(mark, text))
    if len(places) == 1:
        return places[0]
    words = {word for word in re.findall(r"\w{3,}", question.lower()) if word not in _COMMON}
    return max(places, key=lambda place: sum(word in _around(text, place) for word in words))


def _around(text: str, place: int) -> str:
    return text[max(0, place - _NEAR) : place + _NEAR].lower()


def _places(mark: str, text: str) -> Iterator[int]:
    """Where the mark begins, as whole words."""
    start = text.find(mark)
    while start >= 0:
        end = start + len(mark)
        before, after = text[start - 1 : start], text[end : end + 1]
        if not (joined(mark[0], before, text) or joined(mark[-1], after, text)):
            yield start
        start = text.find(mark, start + 1)
