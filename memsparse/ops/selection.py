"""Which of many documents may be among the best: what is taken, and what is left, by a bar for each request.

On a CPU in C (`ops.native.selection`), where a dozen small operations of torch would take longer than the
scan of a small bank; else by torch. Bounds are never NaN. A score that is reaches no bar, and is refused here
or by whoever ranks (`routing.top_documents`).

B requests, N documents, k wanted.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from memsparse.errors import InputError
from memsparse.ops.native import selection as native

_LARGE = 1e38
"""Stands for infinity where bounds are reckoned with."""
_MEAN_SLACK = 2.0**-22
"""Of a mean of bounds, so that it bounds the means of scores in float32."""


def check_wanted(k: int) -> None:
    """Raises: InputError if k, the documents wanted, is below 1."""
    if k < 1:
        raise InputError(f"k is {k}; ask for at least 1 document")


def lowest(requests: int, k: int, *, device: torch.device) -> Tensor:
    """(B, k) of -inf: the k best of nothing, for `raise_best`."""
    return torch.full((requests, k), -torch.inf, device=device)


def raise_best(best_Bk: Tensor, scores_BN: Tensor) -> Tensor:
    """Keep, in any order, the k best of these scores and of what is there already.

    Returns: (B,) the k-th best of each request; -inf where there are fewer.
    """
    k = best_Bk.shape[1]
    if native.can_select(k, best_Bk, scores_BN):
        return native.raise_best(best_Bk, scores_BN)
    best_Bk.copy_(torch.cat([best_Bk, scores_BN], dim=1).topk(k, dim=1).values)
    return best_Bk[:, -1].contiguous()


def reaching(upper_BN: Tensor, bar_B: Tensor, beyond_B: Tensor) -> Tensor:
    """(M,) ascending, the documents with an upper bound that reaches its request's bar; -inf reaches none.

    Args:
        beyond_B: raised to the highest bound of all others.
    """
    if native.can_select(1, upper_BN, bar_B, beyond_B):
        return native.reaching(upper_BN, bar_B, beyond_B)
    kept = _reach(upper_BN, bar_B).any(0).nonzero()[:, 0]
    if upper_BN.shape[1]:
        torch.maximum(beyond_B, upper_BN.index_fill(1, kept, -torch.inf).amax(1), out=beyond_B)
    return kept


def count_reaching(bounds_BN: Tensor, bar_B: Tensor) -> list[int]:
    """How many documents of each request reach its bar; -inf reaches none."""
    if native.can_select(1, bounds_BN, bar_B):
        return native.count_reaching(bounds_BN, bar_B)
    counts: list[int] = _reach(bounds_BN, bar_B).sum(1).tolist()
    return counts


def count_promising(lower_BN: Tensor, upper_BN: Tensor, k: int, share: float) -> list[int]:
    """How many documents of each request reach by their upper bound the k-th best guess, at which every score
    lies at that share of its interval.
    """
    if native.can_select(k, lower_BN, upper_BN):
        return native.count_promising(lower_BN, upper_BN, k, share)
    lower, upper = (each.clamp(-_LARGE, _LARGE) for each in (lower_BN, upper_BN))
    guess_BN = torch.lerp(lower, upper, share).minimum(upper_BN)
    return count_reaching(upper_BN, raise_best(lowest(len(guess_BN), k, device=guess_BN.device), guess_BN))


def mean_bounds(
    documents: Sequence[Tensor], upper: Sequence[Tensor], beyond: Sequence[float]
) -> tuple[Tensor, Tensor, float]:
    """Every document of some lists, and an upper bound of its mean score over all of them.

    Args:
        documents: (n,) int64 of each list, ascending, none twice.
        upper: (n,) float32 of each, no score lies above it.
        beyond: of each, what no other document scores above there; -inf where no other has a score.

    Returns: documents (m,) int64 ascending, their bounds (m,) float32, and that of all others: they hold for
        means that are rounded to float32, too; -inf where there is no score in some list.
    """
    rest = sum(beyond) / len(beyond)
    rest += _MEAN_SLACK * abs(rest) if math.isfinite(rest) else 0.0
    if native.can_select(1, *upper) and all(map(native.can_compare, documents)):
        return *native.mean_bounds(documents, upper, beyond), rest
    found = torch.cat(list(documents)).unique()
    total = torch.zeros(len(found), dtype=torch.float64, device=found.device)
    for own, bounds, others in zip(documents, upper, beyond, strict=True):
        places = torch.searchsorted(found, own)
        total += torch.full_like(total, others).index_copy_(0, places, bounds.double())
    means = (total / len(documents)).nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return found, (means + _MEAN_SLACK * means.abs().nan_to_num(posinf=0.0)).float(), rest


def ascend(numbers: Tensor) -> bool:
    """Whether none of the numbers (n,) int64 is smaller than the one before it."""
    if native.can_compare(numbers):
        return native.ascend(numbers)
    return not bool((numbers.diff() < 0).any())


def take_best(bounds_BN: Tensor, wanted: Sequence[int]) -> Tensor:
    """(B, most wanted) the documents with the best bounds of each request, as many as it wants, in any order;
    -1 for none. -inf is never taken.

    Args:
        bounds_BN: contiguous; becomes -inf where a document is taken.
        wanted: of each request; at most N.
    """
    most = max(wanted, default=0)
    if native.can_select(most, bounds_BN):
        return native.take_best(bounds_BN, wanted)
    bounds, documents = bounds_BN.topk(most, dim=1)
    places, own = torch.arange(most, device=bounds.device), torch.tensor(wanted, device=bounds.device)
    taken = (places < own[:, None]) & (bounds > -torch.inf)
    bounds_BN.scatter_(1, documents, bounds.masked_fill(taken, -torch.inf))
    return documents.masked_fill(~taken, -1)


def _reach(bounds_BN: Tensor, bar_B: Tensor) -> Tensor:
    return bounds_BN >= bar_B.clamp_min(torch.finfo(bounds_BN.dtype).min)[:, None]
