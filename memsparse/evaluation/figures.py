"""How figures read: names and order of metrics, numbers as text, values of a result that may lack them."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OWN = "memsparse"
"""The measured model, among the systems of a result."""

LABELS: Mapping[str, str] = {
    "hit@1": "hit@1",
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "recall@16": "R@16",
    "recall@100": "R@100",
    "all@5": "all@5",
    "all@10": "all@10",
    "all@16": "all@16",
    "mrr@10": "MRR@10",
    "ndcg@10": "nDCG@10",
    "exact_match": "exact match",
    "f1": "F1",
    "contains": "contains",
    "judge": "judge (0-5)",
    "judge_match": "judge match",
    "citation_precision": "cited precision",
    "citation_recall": "cited recall",
    "citation_f1": "cited F1",
    "refused": "refused",
    "wrongly_refused": "wrongly refused",
    "tokens_per_question": "tokens",
    "search_seconds": "search time",
    "seconds_per_question": "time",
}
"""Metrics in the order of the tables; others follow by name."""

NOTHING = "–"
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured value with its interval, each None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int | None


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def figure(metrics: Any, name: str) -> Figure:
    """One metric of a {METRIC: {"value", "low", "high", "n"}}; all None where it is not there."""
    found = mapping(mapping(metrics).get(name))
    n = number(found.get("n"))
    return Figure(
        value=number(found.get("value")),
        low=number(found.get("low")),
        high=number(found.get("high")),
        n=None if n is None else int(n),
    )


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """A list, or an empty one for anything else."""
    return value if isinstance(value, list | tuple) else ()


def ordered(names: Iterable[str]) -> list[str]:
    """Metrics, each once, in the order of the tables."""
    known = {name: place for place, name in enumerate(LABELS)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def label(metric: str) -> str:
    """What a metric is called in a table."""
    return LABELS.get(metric, metric)


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1, and is shown in percent."""
    return metric != "judge" and not metric.startswith("tokens") and "seconds" not in metric


def shown(metric: str, value: float | None) -> str:
    """A value as text: shares in percent, durations with their unit, token counts with separators."""
    if value is None:
        return NOTHING
    if "seconds" in metric:
        return duration(value)
    if metric.startswith("tokens"):
        return f"{value:,.0f}"
    if metric == "judge":
        return f"{value:.2f}"
    return f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Seconds as text of three digits, in ms below one second."""
    scaled, unit = (seconds * 1000, "ms") if abs(seconds) < 1 else (seconds, "s")
    digits = 2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0
    return f"{scaled:,.{digits}f} {unit}"


def interval(metric: str, found: Figure) -> str:
    """The interval as text, or nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{shown(metric, found.low)} to {shown(metric, found.high)}"


def size(tokens: float) -> str:
    """A number of tokens as a short text: 16K and 1M are powers of 1024, others have three digits."""
    whole = int(tokens)
    for unit, base in (("M", 1024**2), ("K", 1024)):
        if whole >= base and whole % base == 0:
            return f"{whole // base}{unit}"
    for unit, scale in (("bn", 1e9), ("m", 1e6), ("k", 1e3)):
        if whole >= scale:
            return f"{tokens / scale:.3g}{unit}" if tokens / scale < 999.5 else f"{tokens / scale:.0f}{unit}"
    return str(whole)


def plain(text: Any) -> str:
    """Text that every page and plot can hold: what cannot be shown becomes U+FFFD."""
    return _UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", str(text))
