"""Answers that are spans of what was read: where a span stands in a text, whatever its case and spacing."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

_DIGITS = re.compile(r"\d+")
_GROUPED: dict[str, Callable[[int, int], bool]] = {
    ".": lambda before, after: max(before, after) <= 3,
    ",": lambda before, after: before <= 3 == after,
    ":": lambda before, after: before <= 2 == after,
}
"""Whether a sign joins so many digits before it to so many after it."""


class SqueezedText:
    """A text as `squeeze` leaves it, and where words and numbers begin and end in it.

    Places count letters of the squeezed text, offsets count characters of the text.
    """

    def __init__(self, text: str) -> None:
        squeezed = list(_squeezed(text))
        offsets = [offset for _, offset in squeezed]
        ends = [_behind_marks(text, offset + 1) for offset in offsets]
        inside = _inside(text)
        self.letters = "".join(letter for letter, _ in squeezed)
        self.begins = [not inside[offset] for offset in offsets]
        """Whether what begins at each place begins no later than its word or number."""
        self.ends = [False, *(not inside[end] for end in ends)]
        """Whether what ends before each place ends no earlier than its word or number."""
        self._offsets = offsets
        self._ends = ends

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Offsets of the letters from place `start` up to place `end`, with the marks on the last one."""
        return self._offsets[start], self._ends[end - 1]


@lru_cache(maxsize=256)
def squeezed_text(text: str) -> SqueezedText:
    """A text squeezed; kept for a while, for what a question reads is searched several times."""
    return SqueezedText(text)


def find_span(answer: str, text: str) -> tuple[int, int] | None:
    """Find an answer in a text, ignoring letter case and whitespace.

    It has to begin and end where a word or number does, so that "he" is not found in "the". Scripts without
    letter case, which may not put spaces between words, are free of that rule.

    Returns: (start, end) character offsets of the first occurrence; None if there is none.
    """
    wanted, read = squeeze(answer), squeezed_text(text)
    at = read.letters.find(wanted) if wanted else -1
    while at >= 0:
        end = at + len(wanted)
        if read.begins[at] and read.ends[end]:
            return read.span(at, end)
        at = read.letters.find(wanted, at + 1)
    return None


def squeeze(text: str) -> str:
    """Return a text case folded, decomposed and without whitespace."""
    return "".join(letter for letter, _ in _squeezed(text))


def same_text(left: str, right: str) -> bool:
    """Whether two texts agree apart from letter case and whitespace."""
    return squeeze(left) == squeeze(right)


def begins(text: str, start: str) -> bool:
    """Whether a text begins with another, apart from letter case and whitespace."""
    return squeeze(text).startswith(squeeze(start))


def _squeezed(text: str) -> Iterator[tuple[str, int]]:
    """Letters of a text with their offsets: case folded, decomposed, whitespace dropped."""
    for offset, character in enumerate(text):
        if character.isspace():
            continue
        if character.isascii():
            yield character.lower(), offset
            continue
        for letter in unicodedata.normalize("NFD", character.casefold()):
            yield letter, offset


def _behind_marks(text: str, at: int) -> int:
    while at < len(text) and unicodedata.combining(text[at]):
        at += 1
    return at


def _inside(text: str) -> list[bool]:
    """For every offset, the end included: is it inside a word of a script with letter case, or a number.

    A point, comma or colon between digits is part of their number where they are grouped as in 5.0, 3,600,
    16:50 and 10.0.0.7: a footnote's mark behind a year, a date's year, a list, a score stand by themselves.
    """
    kinds = [
        "cased" if character.isupper() or character.islower() else "digit" if character.isdigit() else ""
        for character in text
    ]
    for left, right in pairwise(_DIGITS.finditer(text)):
        between = text[left.end() : right.start()]
        if between in _GROUPED and _GROUPED[between](len(left[0]), len(right[0])):
            kinds[left.end()] = "digit"
    return [False, *(left == right != "" for left, right in pairwise(kinds)), False]
