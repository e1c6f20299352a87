"""What real questions ask of which passages: the answer's place, and the order in which to read."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

MOST_HOPS = 4
_NEAR = 120
"""Characters around a place that tell whether it is meant."""
_COMMON = frozenset(("the", "what", "who", "which", "was", "did", "when", "how", "and", "for", "are", "were"))
_HOP_KINDS = {1: "one_hop", 2: "two_hop", 3: "three_hop", 4: "four_hop"}


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

    @property
    def kind(self) -> str:
        """The kind of question: hops where there is an answer, else a mere lookup."""
        return _HOP_KINDS[len(self.chain)] if self.answer else "lookup"


def understand(row: Mapping[str, Any], passages: Mapping[str, Mapping[str, Any]]) -> Asked | None:
    """Return what a row of queries asks; None where it cannot be learnt from.

    That is a row not meant for training, one without known passages, with more than four of them, or whose
    one passage does not state an answer that is given. A question without answers, or whose answers stand
    nowhere, as those answered by yes or no, asks for its passages alone.
    """
    ids = list(dict.fromkeys(row.get("positive_ids") or ()))
    if row.get("split", "train") != "train" or not 1 <= len(ids) <= MOST_HOPS:
        return None
    if any(id_ not in passages for id_ in ids):
        return None
    texts = [str(passages[id_]["text"]) for id_ in ids]
    answers = [answer for each in row.get("answers") or () if (answer := str(each).strip())]
    if len(ids) == 1:
        answer = next((each for each in answers if _stated(each, texts[0])), "")
        if answers and not answer:
            return None
        return _asked(row, ids, [answer], texts, answer)
    answers = [each for each in answers if each.lower() not in ("yes", "no")]
    titles = [_bare(str(passages[id_].get("title", ""))) for id_ in ids]
    ordered = _in_order(row, texts, titles, answers)
    if ordered is not None:
        order, marks = ordered
        return _asked(row, [ids[i] for i in order], marks, [texts[i] for i in order], marks[-1])
    named = all(title and title.lower() in str(row["question"]).lower() for title in titles)
    if len(ids) > 2 and not named:
        return None
    answer = next((each for each in answers if any(_stated(each, text) for text in texts)), "")
    return _asked(row, ids, [answer] * len(ids), texts, answer, unordered=True)


def _in_order(
    row: Mapping[str, Any], texts: list[str], titles: list[str], answers: list[str]
) -> tuple[tuple[int, ...], list[str]] | None:
    """Find the order in which each passage states what leads to the next: indices, and what each states."""
    steps = [str(step.get("answer", "")).strip() for step in row.get("sub_questions") or ()]
    for order in permutations(range(len(texts))):
        marks: list[str] = []
        for position, index in enumerate(order):
            wanted = answers
            if position + 1 < len(order):
                following = titles[order[position + 1]]
                wanted = [following] if following else []
                if len(steps) == len(order):
                    wanted = [steps[position], *wanted]
            mark = next((each for each in wanted if each and _stated(each, texts[index])), "")
            if not mark:
                break
            marks.append(mark)
        else:
            return order, marks
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
        (_place(mark, text, question), len(mark)) if _stated(mark, text) else (0, 0)
        for mark, text in zip(marks, texts, strict=True)
    ]
    return Asked(text=question, chain=tuple(ids), spans=tuple(spans), answer=answer, unordered=unordered)


def _bare(title: str) -> str:
    """A title without the words in brackets that tell it from others."""
    return re.sub(r"\s*\([^)]*\)\s*$", "", title).strip()


def _stated(mark: str, text: str) -> bool:
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
        if not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            yield start
        start = text.find(mark, start + 1)
