"""Each function in C where there is a library, and by torch, against lists of Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.ops.selection import (
    ascend,
    count_promising,
    count_reaching,
    lowest,
    mean_bounds,
    raise_best,
    reaching,
    take_best,
)

CPU = torch.device("cpu")
SIZES = {
    "seed": st.integers(0, 2**32 - 1),
    "requests": st.integers(0, 4),
    "documents": st.sampled_from([0, 1, 5, 63, 64, 65, 200]),
    "levels": st.sampled_from([1, 4, 10_000]),
}


pytestmark = pytest.mark.usefixtures("_each_way_to_select")


def drawn(seed: int, requests: int, documents: int, levels: int) -> tuple[Tensor, torch.Generator]:
    """Scores of which many are equal, and some -inf or, as bounds may be, inf."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (requests, documents), generator=generator).float()
    rare = torch.randint(0, 20, scores.shape, generator=generator)
    return scores.masked_fill(rare == 0, -torch.inf).masked_fill(rare == 1, torch.inf), generator


def bars(requests: int, levels: int, generator: torch.Generator) -> Tensor:
    bar = torch.randint(-levels, levels + 1, (requests,), generator=generator).float()
    return bar.masked_fill(torch.rand(requests, generator=generator) < 0.3, -torch.inf)


@settings(max_examples=150, deadline=None)
@given(**SIZES, k=st.sampled_from([1, 2, 7, 100]), parts=st.integers(1, 3))
def test_the_best_of_all_parts_are_kept(
    seed: int, requests: int, documents: int, levels: int, k: int, parts: int
) -> None:
    scores, _ = drawn(seed, requests, documents, levels)
    best, bar = lowest(requests, k, device=CPU), torch.full((requests,), -torch.inf)
    for part in scores.tensor_split(parts, dim=1):
        bar = raise_best(best, part)
    wanted = [(sorted(row, reverse=True) + k * [-math.inf])[:k] for row in scores.tolist()]
    assert [sorted(row, reverse=True) for row in best.tolist()] == wanted
    assert bar.tolist() == [row[-1] for row in wanted]


@settings(max_examples=150, deadline=None)
@given(**SIZES)
def test_what_reaches_a_bar_and_the_highest_of_the_rest(
    seed: int, requests: int, documents: int, levels: int
) -> None:
    upper, generator = drawn(seed, requests, documents, levels)
    bar = bars(requests, levels, generator)
    before = bars(requests, levels, generator)
    beyond = before.clone()
    kept = reaching(upper, bar, beyond).tolist()
    rows = list(zip(upper.tolist(), bar.tolist(), strict=True))
    reach = [[value >= own and value > -math.inf for value in row] for row, own in rows]
    assert kept == [d for d in range(documents) if any(row[d] for row in reach)]
    for b, (row, _) in enumerate(rows):
        assert beyond[b] == max([float(before[b]), *(row[d] for d in range(documents) if d not in kept)])
    assert count_reaching(upper, bar) == [sum(row) for row in reach]


@settings(max_examples=150, deadline=None)
@given(**SIZES, k=st.sampled_from([1, 3, 50]), share=st.sampled_from([0.0, 0.25, 0.5]))
def test_how_many_reach_the_kth_best_guess(
    seed: int, requests: int, documents: int, levels: int, k: int, share: float
) -> None:
    upper, generator = drawn(seed, requests, documents, levels)
    lower = (upper - torch.randint(0, levels + 1, upper.shape, generator=generator)).nan_to_num(nan=-math.inf)
    within = {math.inf: 1e38, -math.inf: -1e38}
    for low, high, count in zip(
        lower.tolist(), upper.tolist(), count_promising(lower, upper, k, share), strict=True
    ):
        ends = [[within.get(value, value) for value in row] for row in (low, high)]
        guesses = [
            min(a + share * (b - a), most) for a, b, most in zip(*ends, high, strict=True) if most > -math.inf
        ]
        bar = sorted(guesses, reverse=True)[k - 1] if len(guesses) >= k else -math.inf
        assert count == sum(most >= bar and most > -math.inf for most in high)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.sampled_from([0, 1, 5, 40]), min_size=1, max_size=5))
def test_means_of_bounds_are_of_every_document_once(seed: int, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    documents = [torch.randperm(60, generator=generator)[:size].sort().values for size in sizes]
    upper = [drawn(seed + at, 1, size, 100)[0][0] for at, size in enumerate(sizes)]
    beyond = [-math.inf if seed % 3 == at else 7.5 * at for at in range(len(sizes))]
    found, means, rest = mean_bounds(documents, upper, beyond)
    assert found.tolist() == sorted({one for own in documents for one in own.tolist()})
    told = [dict(zip(*map(Tensor.tolist, each), strict=True)) for each in zip(documents, upper, strict=True)]
    for document, mean in zip(found.tolist(), means.tolist(), strict=True):
        own = [each.get(document, rest) for each, rest in zip(told, beyond, strict=True)]
        if -math.inf in own:
            assert mean == -math.inf
        elif math.inf in own:
            assert mean == math.inf
        else:
            exact = math.fsum(own) / len(own)
            assert exact <= mean <= exact + abs(exact) * 2.0**-21
    exact = math.fsum(beyond) / len(beyond)
    assert rest == exact == -math.inf or exact <= rest <= exact + abs(exact) * 2.0**-21


@pytest.mark.parametrize("numbers", [[], [3], [1, 1, 2], [-5, 0, 2**40], [2, 1], [1, 2, 3, 2]])
def test_whether_numbers_ascend(numbers: list[int]) -> None:
    given = torch.tensor(numbers, dtype=torch.int64)
    assert ascend(given) == (numbers == sorted(numbers))
    across = torch.stack([given, given], dim=1)[:, 0]
    assert ascend(across) == (numbers == sorted(numbers))


@settings(max_examples=150, deadline=None)
@given(**SIZES, shares=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_best_are_taken_once(
    seed: int, requests: int, documents: int, levels: int, shares: list[float]
) -> None:
    bounds, _ = drawn(seed, requests, documents, levels)
    wanted, before = [int(share * documents) for share in shares[:requests]], bounds.clone()
    taken = take_best(bounds, wanted)
    assert taken.shape == (requests, max(wanted, default=0))
    for row, own, left, found in zip(before.tolist(), wanted, bounds.tolist(), taken.tolist(), strict=True):
        there = [document for document in found if document >= 0]
        assert len(set(there)) == len(there)
        scored = sorted((value for value in row if value > -math.inf), reverse=True)
        assert sorted((row[document] for document in there), reverse=True) == scored[:own]
        for document, value in enumerate(row):
            assert left[document] == (-math.inf if document in there else value)


def test_bounds_may_lie_across_memory() -> None:
    upper = torch.arange(12.0).view(4, 3).T
    bar, beyond = torch.tensor([9.0, 20.0, 11.0]), torch.full((3,), -torch.inf)
    assert reaching(upper, bar, beyond).tolist() == [3]
    assert beyond.tolist() == [6.0, 7.0, 8.0]
    assert count_reaching(upper, bar) == [1, 0, 1]
    best = lowest(3, 2, device=CPU)
    assert raise_best(best, upper).tolist() == [6.0, 7.0, 8.0]
