import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import InputError, ShapeError
from memsparse.ops import reference
from memsparse.ops.certificate import candidates, certify, rank_candidates
from memsparse.ops.routing import top_documents


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


@settings(max_examples=150, deadline=None)
@given(**CASES)
def test_candidates_scored_exactly_give_the_exact_top_k(
    seed: int, requests: int, documents: int, k: int, levels: int, spread: int
) -> None:
    lower, exact, upper = bounded(seed, requests, documents, levels=levels, spread=spread)
    chosen = candidates(lower, upper, k)
    assert chosen.tolist() == reference.candidates(lower.tolist(), upper.tolist(), k)
    ranked = rank_candidates(lower, upper, k)
    assert torch.equal((ranked >= 0).sum(1), chosen.sum(1))
    scored = exact.gather(1, ranked.clamp_min(0)) if documents else exact[:, :0]
    best, found, certified = certify(upper, ranked, scored, k)
    expected, index = top_documents(exact, k)
    assert certified.all()
    assert torch.equal(found, index)
    assert torch.equal(best, expected)


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
    assert candidates(torch.zeros(0, 3), torch.zeros(0, 3), 1).shape == (0, 3)
    assert rank_candidates(torch.zeros(0, 3), torch.zeros(0, 3), 1).shape == (0, 0)


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(InputError, match="k is 0"):
        candidates(torch.zeros(1, 3), torch.zeros(1, 3), 0)
    with pytest.raises(InputError, match="k is 0"):
        certify(torch.zeros(1, 3), torch.zeros(1, 1).long(), torch.zeros(1, 1), 0)
    with pytest.raises(ShapeError):
        candidates(torch.zeros(1, 3), torch.zeros(1, 2), 1)
