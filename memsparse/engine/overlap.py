"""A second opinion on what the router found: which of a few documents hold the question's rarer words."""

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> frozenset[str]:
    """The words of a text, lower-cased, each once; what follows an apostrophe is a word of its own."""
    return frozenset(_WORD.findall(text.lower()))


def word_overlap(question: str, texts: Sequence[str]) -> list[float]:
    """The share of the question's words that each text holds, rarer words weighing more: 0 to 1.

    A word that n of N texts hold weighs log((N + 1) / n): next to nothing where all hold it. Words that no
    text holds do not count, so that a text with all the others has 1.
    """
    held = [words(text) & words(question) for text in texts]
    count = Counter(word for each in held for word in each)
    weight = {word: math.log((len(texts) + 1) / n) for word, n in count.items()}
    whole = math.fsum(weight.values())
    return [math.fsum(weight[word] for word in sorted(each)) / whole if whole else 0.0 for each in held]
