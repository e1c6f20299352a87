"""What counts as a word, also in scripts that write no spaces."""

import re

_UNSPACED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    "\uac00-\ud7af"  # Korean: words are spaced, but particles are written to them
)
_LETTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_LONGEST = 16
"""Characters of a text for each of its spaces, from which on it counts as written without them."""


def words(text: str) -> list[str]:
    r"""The `\w+` of a lower-cased text; where no spaces are written between words, every character."""
    return _WORD.findall(text.lower())


def unspaced(text: str) -> bool:
    """Whether a text has hardly any spaces, so that its characters stand for its words."""
    return len(text) > _LONGEST * (text.count(" ") + 1)


def joined(edge: str, neighbour: str, text: str) -> bool:
    """Whether a word of a text goes on from its last or first character into what stands beside it.

    Where most of the text is in a script that marks no words, none of its letters is bound to the next.
    """
    if not neighbour.isalnum():
        return False
    return not (_LETTER.search(edge + neighbour) and 2 * len(_LETTER.findall(text)) > len(text))
