from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.engine.session import Session, best_of_sifted
from memsparse.errors import EngineError
from memsparse.model.requests import RequestCache
from memsparse.ops.routing import top_documents
from memsparse.types import MemoryKV, Sifted


def test_without_all_scores_the_router_cannot_decide() -> None:
    kv = MemoryKV(
        **{
            name: torch.zeros(1, 0)
            for name in MemoryKV.__dataclass_fields__
            if name not in ("all_scores", "sifted")
        }
    )
    session = Session(
        cache=RequestCache(), logits=torch.zeros(1), routing={2: kv}, position=0, route_seconds=0.0
    )
    with pytest.raises(EngineError, match="keeps no scores"):
        session.scores()


def session_of(scores: Tensor, told: list[dict[str, Any]], **settings: Any) -> Session:
    """A session whose layers selected document 0 by its scores (layers, documents), and told what else."""
    empty = torch.zeros(1, 0)
    routing = {
        layer: MemoryKV(
            k=empty,
            v=empty,
            mask=empty,
            documents=torch.tensor([[0]]),
            scores=scores[layer, None, :1],
            document_of_slot=empty,
            **fields,
        )
        for layer, fields in enumerate(told)
    }
    cache, logits = RequestCache(), torch.zeros(1)
    return Session(cache=cache, logits=logits, routing=routing, position=0, route_seconds=0.0, **settings)


def approximate_session(seed: int, documents: int, layers: int = 3) -> tuple[Session, Tensor]:
    """A session whose readers gave scores within an error, and the exact ones (layers, documents)."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.randint(-3, 4, (layers, documents), generator=generator) / 8  # coarse, so that means tie
    exact[:, documents // 2 :: 7] = float("-inf")
    errors = torch.rand(layers, documents, generator=generator) / 4
    errors[:, ::3] = 0
    noise = (2 * torch.rand(layers, documents, generator=generator) - 1) * errors
    told = [
        {
            "all_scores": (exact + noise)[layer, None],
            "errors": errors[layer, None].masked_fill(exact[layer].isinf(), 0),
            "certified": torch.tensor([layer != 1]),
        }
        for layer in range(layers)
    ]
    return session_of(exact, told, exact=lambda layer, index: exact[layer, index]), exact


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_approximate_scores_are_the_best_of_exact_ones(seed: int) -> None:
    session, exact = approximate_session(seed, documents=40)
    means = exact.double().mean(0).float()
    assert torch.equal(session.means(torch.tensor([5, 0, 9])), means[[5, 0, 9]])
    for limit in (1, 3, 40):
        best, index = session.best(limit)
        expected, order = means.sort(descending=True, stable=True)
        assert torch.equal(best, expected[:limit])
        assert index.tolist() == order[:limit].masked_fill(expected[:limit].isinf(), -1).tolist()
        assert set(session.best(limit, order[:2])[1].tolist()).isdisjoint(order[:2].tolist())
        for layer, item in enumerate(session.routed(torch.arange(40), limit=limit)):
            scores, order = exact[layer].sort(descending=True, stable=True)
            real = scores[:limit] > float("-inf")
            assert item.numbers == tuple(order[:limit][real].tolist())
            assert item.scores == tuple(scores[:limit][real].tolist())
            assert item.certified is True
    assert [item.certified for item in session.routed(torch.arange(40))] == [True, False, True]


def test_approximate_scores_without_exact_ones_are_an_error() -> None:
    session, _ = approximate_session(0, documents=9)
    session.exact = None
    with pytest.raises(EngineError, match="has no exact_scores"):
        session.best(9)


def sift(exact: Tensor, keep: Tensor, spread: Tensor) -> Sifted:
    """What a layer tells of scores (N,): bounds of the documents it keeps, the best score of the others."""
    documents = keep.nonzero()[:, 0]
    others = exact.masked_fill(keep, float("-inf"))
    return Sifted(
        documents=documents,
        upper=(exact + spread)[None, documents],
        beyond=others.amax(0, keepdim=True) if len(others) else torch.tensor([float("-inf")]),
    )


def sifted_session(exact: Tensor, layers: list[Sifted], asked: list[Tensor]) -> Session:
    def score(layer: int, index: Tensor) -> Tensor:
        assert len(index)
        asked.append(index)
        return exact[layer, index]

    return session_of(
        exact,
        [{"sifted": sifted} for sifted in layers],
        exact=score,
        whole=lambda layer: (exact[layer, None] + 0.01, torch.full((1, exact.shape[1]), 0.02)),
    )


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    documents=st.integers(1, 40),
    kept=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    limit=st.integers(1, 6),
    left_out=st.integers(0, 4),
)
def test_what_is_sifted_decides_as_all_scores_do(
    seed: int, documents: int, kept: float, limit: int, left_out: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    exact = torch.randint(-3, 4, (3, documents), generator=generator) / 8  # coarse, so that means tie
    exact[:, torch.rand(documents, generator=generator) < 0.2] = float("-inf")
    layers = []
    for scores in exact:
        best = top_documents(scores[None], min(3, documents))[1][0]
        keep = torch.rand(documents, generator=generator) < kept
        keep[best[best >= 0]] = True
        layers.append(sift(scores, keep & (scores > float("-inf")), torch.rand((), generator=generator) / 4))
    without = torch.randperm(documents, generator=generator)[:left_out]
    means = exact.double().mean(0).float()
    means[without] = float("-inf")
    wanted = top_documents(means[None], limit)
    session = sifted_session(exact, layers, [])
    found = session.best(limit, without)
    assert torch.equal(found[0], wanted[0][0])
    assert torch.equal(found[1], wanted[1][0])
    here = torch.arange(documents)
    assert torch.equal(session.means(here), exact.double().mean(0).float())


def test_documents_that_stand_out_are_found_without_looking_at_others() -> None:
    exact = torch.linspace(0, 0.4, 10_000).repeat(3, 1)
    exact[0, 7], exact[1, 7], exact[2, 9] = 0.9, 0.8, 0.9
    asked: list[Tensor] = []
    layers = [sift(scores, scores >= scores.topk(5).values[-1], torch.tensor(0.0)) for scores in exact]
    session = sifted_session(exact, layers, asked)
    assert session.best(1)[1].tolist() == [7]
    assert sum(map(len, asked)) <= 3 * 15
    assert all(kv.sifted is not None for kv in session.routing.values())
    assert session.best(4)[1].tolist() == exact.mean(0).topk(4).indices.tolist()
    # Seven of the best: the seventh may be one that no layer told of.
    assert session.best(7)[1].tolist() == exact.mean(0).topk(7).indices.tolist()
    assert all(kv.sifted is None for kv in session.routing.values())


def test_a_document_without_a_score_in_one_layer_has_no_mean() -> None:
    sure, none = torch.tensor([0, 1, 2]), torch.tensor([float("-inf")])
    layers = [
        Sifted(documents=sure, upper=torch.tensor([[float("inf"), 1.0, 1.0]]), beyond=none),
        Sifted(documents=sure[1:], upper=torch.tensor([[1.0, 0.5]]), beyond=none),
    ]
    found = best_of_sifted(layers, lambda index: torch.tensor([0.0, 1.0, 0.75])[index], 3)
    assert found is not None
    assert found[1].tolist() == [1, 2, -1]


def test_what_is_not_proven_wants_all_scores() -> None:
    exact = torch.rand(2, 50)
    layers = [sift(scores, scores >= scores.topk(2).values[-1], torch.tensor(0.0)) for scores in exact]
    assert best_of_sifted(layers, lambda index: exact.mean(0)[index], 20) is None
    session = sifted_session(exact, layers, [])
    session.whole = None
    with pytest.raises(EngineError, match="does not tell them"):
        session.best(20)
