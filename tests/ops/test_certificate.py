import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import InputError
from memsparse.ops import certificate, reference
from memsparse.ops.certificate import Scored, Sieve, certify, score_promising
from memsparse.ops.native import selection as native
from memsparse.ops.routing import top_documents
from tests.ops.builders import scores_of

pytestmark = pytest.mark.usefixtures("_each_way_to_select")


def bounded(
    seed: int, requests: int, documents: int, *, levels: int, spread: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores on a few levels, so that many are equal, intervals around them, and some documents not there."""
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> Tensor:
        return torch.randint(0, most + 1, (requests, documents), generator=generator).float()

    exact = draw(levels)
    exact[draw(9) == 0] = -torch.inf
    return exact - draw(spread), exact, exact + draw(spread)


CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "requests": st.integers(1, 4),
    "documents": st.integers(0, 30),
    "k": st.integers(1, 20),
    "levels": st.sampled_from([1, 4, 1000]),
    "spread": st.sampled_from([0, 1, 3, 100]),
}


def promising(
    lower: Tensor, exact: Tensor, upper: Tensor, k: int, *, first: int, again: bool, limit: int | None = None
) -> Scored:
    """Score what is promising; bounds looked at again are half as wide."""
    asked: list[Tensor] = []

    def bound_again(these: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(these)
        return ((lower + exact) / 2)[:, these], ((upper + exact) / 2)[:, these]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "FIRST", first)
        patch.setattr(certificate, "AGAIN", first)
        scored = score_promising(
            lower,
            upper,
            k,
            lambda ranked: scores_of(exact, ranked),
            limit=limit,
            bound_again=bound_again if again else None,
        )
    assert len(asked) <= 1
    assert (scored.lower >= lower).all()
    assert (scored.upper <= upper).all()
    for row in scored.documents.tolist():
        real = [document for document in row if document >= 0]
        assert len(set(real)) == len(real)
    return scored


@settings(max_examples=200, deadline=None)
@given(**CASES, first=st.sampled_from([1, 4, 32]), again=st.booleans())
def test_what_is_promising_scored_exactly_gives_the_exact_top_k(
    seed: int, requests: int, documents: int, k: int, levels: int, spread: int, first: int, again: bool
) -> None:
    lower, exact, upper = bounded(seed, requests, documents, levels=levels, spread=spread)
    scored = promising(lower, exact, upper, k, first=first, again=again)
    best, found, certified = certify(scored.upper, scored.documents, scored.scores, k)
    expected, index = top_documents(exact, k)
    assert certified.all()
    assert torch.equal(found, index)
    assert torch.equal(best, expected)


@settings(max_examples=100, deadline=None)
@given(**CASES, limit=st.integers(1, 30))
def test_within_a_limit_a_certificate_is_honest(
    seed: int, requests: int, documents: int, k: int, levels: int, spread: int, limit: int
) -> None:
    lower, exact, upper = bounded(seed, requests, documents, levels=levels, spread=spread)
    scored = promising(lower, exact, upper, k, first=1, again=False, limit=max(limit, k))
    assert bool(((scored.documents >= 0).sum(1) <= max(limit, k)).all())
    best, found, certified = certify(scored.upper, scored.documents, scored.scores, k)
    expected, index = top_documents(exact, k)
    assert torch.equal(found[certified], index[certified])
    assert torch.equal(best[certified], expected[certified])
    for b in range(requests):
        known = {
            document: score
            for document, score in zip(scored.documents[b].tolist(), scored.scores[b].tolist(), strict=True)
            if document >= 0
        }
        assert bool(certified[b]) == reference.proven(upper[b].tolist(), known, k)


@pytest.mark.parametrize("left", [certificate.AGAIN - 1, certificate.AGAIN])
def test_few_that_are_left_are_scored_many_bounded_again(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_first", lambda *_, **__: [certificate.FIRST])
    exact = torch.arange(float(left + certificate.FIRST))[None]
    asked: list[Tensor] = []

    def bound_again(these: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(these)
        return exact[:, these], exact[:, these]

    scored = score_promising(
        exact - 1e6, exact + 1e6, 16, lambda ranked: exact.gather(1, ranked), bound_again=bound_again
    )
    assert [len(these) for these in asked] == ([left] if left >= certificate.AGAIN else [])
    assert (scored.documents[0] >= 0).sum() == (certificate.FIRST if asked else exact.shape[1])


@pytest.mark.parametrize(("half", "wanted"), [(0.3, 16), (2.0, 18), (300.0, 64)])
def test_as_many_are_scored_at_once_as_their_bounds_make_likely(half: float, wanted: int) -> None:
    exact = torch.arange(1000.0)[None]
    turns: list[int] = []

    def rescore(ranked: Tensor) -> Tensor:
        turns.append(ranked.shape[1])
        return exact.gather(1, ranked)

    scored = score_promising(exact - half, exact + half, 16, rescore)
    assert turns[0] == wanted
    assert len(turns) == (1 if half < 300 else 3)
    assert certify(scored.upper, scored.documents, scored.scores, 16)[2].all()


def test_bounds_that_say_nothing_are_no_guess() -> None:
    inf = float("inf")
    lower = torch.tensor([[-inf, 1.0, -inf, 3.0], [-inf, -inf, -inf, -inf]])
    upper = torch.tensor([[inf, 2.0, -inf, 4.0], [-inf, -inf, -inf, -inf]])
    exact = torch.tensor([[5.0, 1.5, -inf, 3.5], [-inf, -inf, -inf, -inf]])
    scored = score_promising(lower, upper, 2, lambda ranked: scores_of(exact, ranked))
    scores, documents, certified = certify(scored.upper, scored.documents, scored.scores, 2)
    assert scores.tolist() == [[5.0, 3.5], [-inf, -inf]]
    assert documents.tolist() == [[0, 3], [-1, -1]]
    assert certified.all()


@settings(max_examples=150, deadline=None)
@given(**CASES, limit=st.sampled_from([None, 20, 25]), first=st.sampled_from([1, 4, 32]))
def test_a_request_is_scored_alone_as_beside_others(
    seed: int, requests: int, documents: int, k: int, levels: int, spread: int, limit: int | None, first: int
) -> None:
    lower, exact, upper = bounded(seed, requests, documents, levels=levels, spread=spread)
    together = promising(lower, exact, upper, k, first=first, again=False, limit=limit)
    for b in range(requests):
        own = slice(b, b + 1)
        alone = promising(lower[own], exact[own], upper[own], k, first=first, again=False, limit=limit)
        found, wanted = (row[row >= 0].tolist() for row in (together.documents[b], alone.documents[0]))
        assert sorted(found) == sorted(wanted)
        assert limit is None or len(found) <= limit


def test_bounds_that_scores_may_exceed_are_not_relied_upon() -> None:
    """Behind an index a document may have chunks that nobody looked at."""
    exact = torch.arange(100.0)[None]
    bounds = exact.flip(1)
    scored = score_promising(bounds, bounds, 4, lambda ranked: exact.gather(1, ranked), bounded=False)
    assert scored.documents.shape == (1, certificate.FIRST)
    assert sorted(scored.documents[0].tolist()) == list(range(certificate.FIRST))


@pytest.mark.parametrize("limit", [65, 100, 164])
def test_what_may_not_all_be_scored_is_bounded_again(limit: int) -> None:
    exact = torch.arange(164.0)[None]  # 100 are left after the first
    scored = score_promising(
        exact - 1e6,
        exact + 1e6,
        16,
        lambda ranked: exact.gather(1, ranked),
        limit=limit,
        bound_again=lambda these: (exact[:, these] - 0.1, exact[:, these] + 0.1),
    )
    assert certify(scored.upper, scored.documents, scored.scores, 16)[2].all()
    assert (scored.documents[0] >= 0).sum() == (64 if limit < 164 else 164)


@settings(max_examples=150, deadline=None)
@given(**CASES, share=st.floats(0, 1))
def test_certified_means_exact_whatever_was_scored(
    seed: int, requests: int, documents: int, k: int, levels: int, spread: int, share: float
) -> None:
    _, exact, upper = bounded(seed, requests, documents, levels=levels, spread=spread)
    generator = torch.Generator().manual_seed(seed + 1)
    order = torch.rand(requests, documents, generator=generator).argsort(1)[:, : int(share * documents)]
    order[torch.rand(order.shape, generator=generator) < 0.2] = -1
    best, found, certified = certify(upper, order, exact.gather(1, order.clamp_min(0)), k)
    expected, index = top_documents(exact, k)
    assert torch.equal(found[certified], index[certified])
    assert torch.equal(best[certified], expected[certified])


def test_a_document_that_may_be_better_or_equal_refutes() -> None:
    upper = torch.tensor([[5.0, 3.0, 4.0]])
    scored = torch.tensor([[0, 1]]), torch.tensor([[4.5, 3.0]])
    assert certify(upper, *scored, 1)[2].tolist() == [True]
    assert certify(upper, *scored, 2)[2].tolist() == [False]
    equal = torch.tensor([[5.0, 3.0, 3.0]])
    assert certify(equal, *scored, 2)[2].tolist() == [False]


def test_documents_beyond_may_be_better_or_equal_too() -> None:
    upper, scored = (
        torch.tensor([[5.0, 3.0]] * 5),
        (torch.tensor([[0, 1]] * 5), torch.tensor([[4.5, 3.0]] * 5)),
    )
    beyond = torch.tensor([2.9, 3.0, torch.inf, -torch.inf, torch.nan])
    assert certify(upper, *scored, 2, beyond=beyond)[2].tolist() == [True, False, False, True, False]
    fewer = certify(upper, *scored, 3, beyond=beyond)[2]
    assert fewer.tolist() == [False, False, False, True, False]


def test_fewer_documents_than_wanted() -> None:
    upper = torch.tensor([[1.0, -torch.inf, 2.0]])
    best, found, certified = certify(upper, torch.tensor([[2, 0, -1]]), torch.tensor([[2.0, 1.0, 9.0]]), 4)
    assert found.tolist() == [[2, 0, -1, -1]]
    assert best.tolist() == [[2.0, 1.0, -torch.inf, -torch.inf]]
    assert certified.tolist() == [True]
    assert certify(upper, torch.tensor([[2]]), torch.tensor([[2.0]]), 4)[2].tolist() == [False]


def test_nothing_scored_and_nothing_there() -> None:
    none = torch.empty(1, 0, dtype=torch.long)
    assert certify(torch.zeros(1, 1), none, none.float(), 1)[2].tolist() == [False]
    assert certify(torch.zeros(1, 0), none, none.float(), 1)[2].tolist() == [True]
    for shape in ((0, 3), (2, 0)):
        nothing = score_promising(torch.zeros(shape), torch.zeros(shape), 1, lambda ranked: ranked.float())
        assert nothing.scores.shape == nothing.documents.shape
        assert nothing.documents.shape[0] == shape[0]


@pytest.mark.parametrize("k", [native.MOST, native.MOST + 1])
def test_requests_keep_their_own_bars_where_ways_change(k: int) -> None:
    exact = torch.randn(3, 4 * k, generator=torch.Generator().manual_seed(k))
    lower, upper = exact - 0.1, exact + 0.1
    sieve = Sieve(3, k, device=exact.device)
    for some in torch.arange(4 * k).split(k):
        sieve.add(some, lower[:, some], upper[:, some])
    kept, low, high = sieve.kept()
    scored = score_promising(low, high, k, lambda columns: scores_of(exact[:, kept], columns))
    best, found, certified = certify(scored.upper, scored.documents, scored.scores, k)
    expected, index = top_documents(exact, k)
    assert certified.all()
    assert torch.equal(best, expected)
    assert torch.equal(kept[found], index)


def test_scores_that_are_no_numbers_end_the_search_at_once() -> None:
    asked = []

    def rescore(documents: Tensor) -> Tensor:
        asked.append(documents.shape[1])
        return torch.full(documents.shape, torch.nan)

    def prove() -> None:
        bounds = torch.full((1, 5_000), torch.inf)
        scored = score_promising(-bounds, bounds, 4, rescore)
        certify(scored.upper, scored.documents, scored.scores, 4)

    with pytest.raises(InputError, match="NaN"):
        prove()
    assert asked == [certificate.FIRST]


def test_a_bound_that_is_no_number_refutes() -> None:
    scored = torch.tensor([[0]]), torch.tensor([[1.0]])
    for rest in ([torch.nan, 0.0], [0.0, torch.nan]):
        assert certify(torch.tensor([[1.0, *rest]]), *scored, 1)[2].tolist() == [False]
    assert certify(torch.tensor([[torch.nan, 0.0]]), *scored, 1)[2].tolist() == [True]


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(InputError, match="k is 0"):
        score_promising(torch.zeros(1, 3), torch.zeros(1, 3), 0, lambda ranked: ranked.float())
    with pytest.raises(InputError, match="k is 0"):
        certify(torch.zeros(1, 3), torch.zeros(1, 1).long(), torch.zeros(1, 1), 0)


@settings(deadline=None, max_examples=200)
@given(**CASES, parts=st.integers(1, 6), held=st.sampled_from([0, 3, 4096]))
def test_a_sieve_keeps_what_may_be_among_the_best(
    seed: int, requests: int, documents: int, k: int, levels: int, spread: int, parts: int, held: int
) -> None:
    lower, exact, upper = bounded(seed, requests, documents, levels=levels, spread=spread)
    order = torch.randperm(documents, generator=torch.Generator().manual_seed(seed))
    sieve = Sieve(requests, k, device=torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "_SIFTED", held)
        for some in order.tensor_split(parts):
            sieve.add(some, lower[:, some], upper[:, some])
    kept, low, high = sieve.kept()
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert torch.equal(low, lower[:, kept])
    assert torch.equal(high, upper[:, kept])
    bars = reference.kth_best(lower, k)
    for b, bar in enumerate(bars):
        out = [d for d in range(documents) if d not in kept.tolist()]
        assert sieve.beyond[b] == max((float(upper[b, d]) for d in out), default=-torch.inf)
        assert sieve.beyond[b] < bar or sieve.beyond[b] == -torch.inf
        # Nothing that another request does not want is kept without need.
        if requests == 1:
            assert all(upper[b, d] >= bar and upper[b, d] > -torch.inf for d in kept.tolist())
    wanted = top_documents(exact, min(k, documents))[1] if documents else exact.long()
    found = top_documents(exact[:, kept], min(k, len(kept)))[1] if len(kept) else kept.expand(requests, 0)
    for b in range(requests):
        there = [d for d in wanted[b].tolist() if d >= 0]
        assert kept[found[b][found[b] >= 0]].tolist()[: len(there)] == there


def test_a_sieve_wants_at_least_one() -> None:
    with pytest.raises(InputError, match="k is 0"):
        Sieve(1, 0, device=torch.device("cpu"))
