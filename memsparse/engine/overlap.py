"""A second opinion on what the router found: which of a few documents hold the question's rarer words."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> frozenset[str]:
    """The words of a text, whatever their case, each once; an apostrophe ends a word.

    Text that is written without spaces has few of them, and little comes of comparing it.
    """
    return frozenset(_WORD.findall(unicodedata.normalize("NFC", text.casefold())))


def word_overlap(question: str, texts: Sequence[str]) -> list[float]:
    """The share of the question's words that each text holds, rarer words weighing more: 0 to 1.

    A word that n of N texts hold weighs log((N + 1) / n): next to nothing where all hold it. Words that no
    text holds do not count, so that a text with all the others has 1.
    """
    asked = words(question)
    held = [words(text) & asked for text in texts]
    count = Counter(word for each in held for word in each)
    weight = {word: math.log((len(texts) + 1) / n) for word, n in count.items()}
    whole = math.fsum(weight.values())
    return [math.fsum(weight[word] for word in sorted(each)) / whole if whole else 0.0 for each in held]
