"""Metrics of answers and citations, normalised as SQuAD does."""

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and English articles, and join words by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer equals an accepted one after normalisation."""
    return normalize_answer(answer) in {normalize_answer(each) for each in accepted}


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """Best F1 of shared words between the answer and an accepted one."""
    words = normalize_answer(answer).split()
    return max((_f1(words, normalize_answer(each).split()) for each in accepted), default=0.0)


def _f1(answer: list[str], gold: list[str]) -> float:
    shared = sum((Counter(answer) & Counter(gold)).values())
    if not answer or not gold:
        return float(answer == gold)
    return 2 * shared / (len(answer) + len(gold))


def precision_recall(found: Collection[str], wanted: Collection[str]) -> tuple[float, float]:
    """Precision and recall of a set of documents: 0 and 1 where there is nothing to divide by."""
    hits = len(set(found) & set(wanted))
    return (hits / len(set(found)) if found else 0.0), (hits / len(set(wanted)) if wanted else 1.0)
