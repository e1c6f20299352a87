"""Answers that are spans of what was read: where a span stands in a text, whatever its case and spacing."""

import unicodedata
from collections.abc import Iterator


def find_span(answer: str, text: str) -> tuple[int, int] | None:
    """Find an answer in a text, ignoring letter case and whitespace.

    It has to begin and end where a word or number does, so that "he" is not found in "the". Scripts without
    letter case, which may not put spaces between words, are free of that rule.

    Returns: (start, end) character offsets of the first occurrence; None if there is none.
    """
    wanted = "".join(letter for letter, _ in _squeezed(answer))
    letters = list(_squeezed(text))
    squeezed = "".join(letter for letter, _ in letters)
    at = squeezed.find(wanted) if wanted else -1
    while at >= 0:
        start, end = letters[at][1], letters[at + len(wanted) - 1][1] + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        if not _joined(text, start) and not _joined(text, end):
            return start, end
        at = squeezed.find(wanted, at + 1)
    return None


def same_text(left: str, right: str) -> bool:
    """Whether two texts agree apart from letter case and whitespace."""
    return [letter for letter, _ in _squeezed(left)] == [letter for letter, _ in _squeezed(right)]


def begins(text: str, start: str) -> bool:
    """Whether a text begins with another, apart from letter case and whitespace."""
    squeezed = "".join(letter for letter, _ in _squeezed(text))
    return squeezed.startswith("".join(letter for letter, _ in _squeezed(start)))


def _squeezed(text: str) -> Iterator[tuple[str, int]]:
    """Letters of a text with their offsets: case folded, decomposed, whitespace dropped."""
    for offset, character in enumerate(text):
        if not character.isspace():
            for letter in unicodedata.normalize("NFD", character.casefold()):
                yield letter, offset


def _joined(text: str, at: int) -> bool:
    """Whether an offset lies inside a word of a script with letter case, or inside a number."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    return (_cased(before) and _cased(after)) or (before.isdigit() and after.isdigit())


def _cased(character: str) -> bool:
    return character.isupper() or character.islower()
