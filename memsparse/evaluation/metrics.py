"""Metrics of answers, of rankings and of citations, and what they are worth.

Answers are compared as the SQuAD v1.1 script does (arXiv 1606.05250, section 6.1); where they hold Chinese,
Japanese or Korean characters, each of those counts as a word, as in the evaluation of CMRC 2018
(arXiv 1810.07366). Rankings are given as `ranks`: for every document a question needs, its place counted
from 1, or None where it was not found.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memsparse.errors import InputError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CJK = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003134f]"
)
_CJK_MARKS = re.compile("[\u3000-\u303f\uff00-\uffef]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FULL_WIDTH = {chr(ord(mark) + 0xFEE0) for mark in string.punctuation}

Ranks = Sequence[int | None]


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and English articles, and join words by single spaces.

    Punctuation is ASCII's, as in SQuAD's script; in text with CJK characters or marks it is Unicode's too.
    """
    bare = text.lower().translate(_PUNCTUATION)
    if _CJK.search(bare) or _CJK_MARKS.search(bare):
        bare = "".join(mark for mark in bare if not _is_punctuation(mark))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def answer_tokens(text: str) -> list[str]:
    """The words of a normalised answer; each CJK character is one."""
    return _CJK.sub(lambda found: f" {found[0]} ", normalize_answer(text)).split()


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer equals an accepted one after normalisation."""
    tokens = answer_tokens(answer)
    return any(tokens == answer_tokens(each) for each in accepted)


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """Best F1 of shared words between the answer and an accepted one; 0 where no word is shared."""
    words = answer_tokens(answer)
    return max((_f1(words, answer_tokens(each)) for each in accepted), default=0.0)


def contains_match(answer: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted answer stands in the answer, word by word, after normalisation."""
    words = answer_tokens(answer)
    return any(_inside(answer_tokens(each), words) for each in accepted)


def precision_recall(found: Collection[str], wanted: Collection[str]) -> tuple[float, float]:
    """Precision and recall of a set of documents: 0 and 1 where there is nothing to divide by."""
    hits = len(set(found) & set(wanted))
    return (hits / len(set(found)) if found else 0.0), (hits / len(set(wanted)) if wanted else 1.0)


def f1_score(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def hit_at(ranks: Ranks, k: int) -> float:
    """1 if any positive is among the first k, else 0."""
    return float(any(_within(ranks, k)))


def recall_at(ranks: Ranks, k: int) -> float:
    """Share of the positives among the first k; 0 without positives."""
    return sum(_within(ranks, k)) / len(ranks) if ranks else 0.0


def all_at(ranks: Ranks, k: int) -> float:
    """1 if every positive is among the first k, else 0; 0 without positives."""
    return float(bool(ranks) and all(_within(ranks, k)))


def reciprocal_rank(ranks: Ranks, k: int) -> float:
    """One over the place of the best positive; 0 if none is among the first k."""
    best = min((rank for rank in ranks if rank is not None), default=k + 1)
    return 1 / best if best <= k else 0.0


def ndcg_at(ranks: Ranks, k: int) -> float:
    """Discounted cumulative gain of the first k over the best there could be; gains are 0 or 1."""
    if not ranks:
        return 0.0
    gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank is not None and rank <= k)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(ranks)) + 1))
    return gain / ideal if ideal else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and the interval it may lie in; None where nothing was measured."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def bootstrap(
    values: Sequence[float], *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Estimate:
    """Mean of the values with its percentile interval over resampled questions (Efron 1979)."""
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        return Estimate(value=None, low=None, high=None, n=0)
    draws = _draws(len(data), seed, resamples)
    low, high = _interval(np.array([data[draw].mean() for draw in draws]), level)
    return Estimate(value=float(data.mean()), low=low, high=high, n=len(data))


def degradation(
    first: Sequence[float],
    last: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Relative loss from `first` to `last`, (mean first - mean last) / mean first, over the same questions.

    Questions are resampled in pairs. None where the first mean is 0.

    Raises: InputError where the two are not as many.
    """
    if len(first) != len(last):
        raise InputError(f"{len(first)} values first but {len(last)} last; give the same questions in both")
    before, after = np.asarray(first, dtype=np.float64), np.asarray(last, dtype=np.float64)
    if not len(before) or before.mean() == 0:
        return Estimate(value=None, low=None, high=None, n=len(before))
    losses = [
        1 - after[draw].mean() / before[draw].mean()
        for draw in _draws(len(before), seed, resamples)
        if before[draw].mean() != 0
    ]
    low, high = _interval(np.array(losses), level)
    return Estimate(value=float(1 - after.mean() / before.mean()), low=low, high=high, n=len(before))


def _f1(answer: list[str], gold: list[str]) -> float:
    shared = sum((Counter(answer) & Counter(gold)).values())
    return f1_score(shared / len(answer), shared / len(gold)) if shared else 0.0


def _is_punctuation(mark: str) -> bool:
    return mark in _FULL_WIDTH or unicodedata.category(mark).startswith("P")


def _inside(part: list[str], whole: list[str]) -> bool:
    width = len(part)
    return width > 0 and any(whole[at : at + width] == part for at in range(len(whole) - width + 1))


def _within(ranks: Ranks, k: int) -> list[bool]:
    return [rank is not None and rank <= k for rank in ranks]


def _draws(count: int, seed: int, resamples: int) -> Any:
    generator = np.random.default_rng(seed)
    return (generator.integers(0, count, count) for _ in range(resamples))


def _interval(means: Any, level: float) -> tuple[float | None, float | None]:
    if not len(means):
        return None, None
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
