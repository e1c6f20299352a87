import pytest
import torch
from torch import Tensor

from memsparse.training.router_pairs import Pair, PairSet
from memsparse.training.router_pool import Pool, PoolMaker
from memsparse.training.router_states import Rows
from memsparse.types import Document

CHUNKS = (1, 3, 2, 1, 4, 1, 2, 2, 1, 3)
"""Of ten passages; documents have one each, but the third and the last, which have two."""
OWNERS = (0, 1, 2, 2, 3, 4, 5, 6, 7, 7)


def maker(*, limit: int, heldout: tuple[int, ...] = ()) -> PoolMaker:
    rows = Rows(
        passages=[[0]] * 10,
        document_of_passage=torch.tensor(OWNERS),
        passage_of_chunk=torch.repeat_interleave(torch.arange(10), torch.tensor(CHUNKS)),
        questions=[],
    )
    documents = tuple(Document(id=str(i), text="t") for i in range(8))
    pairs = PairSet(documents=documents, train=(), validation=(), heldout=frozenset(heldout))
    return PoolMaker(pairs, rows, limit=limit, seed=3)


def asking(*positives: tuple[int, ...]) -> list[Pair]:
    return [Pair(question="q", positives=each) for each in positives]


def level(pool: Pool) -> Tensor:
    return torch.zeros(pool.size)


def test_a_corpus_that_fits_is_the_pool() -> None:
    pool = maker(limit=20).pool(0, asking((1,)), level)
    assert pool.documents.tolist() == list(range(8))
    assert pool.chunks is None


def test_documents_held_out_are_in_no_pool() -> None:
    pool = maker(limit=20, heldout=(1, 2)).pool(0, asking((0,)), level)
    assert pool.documents.tolist() == [0, 3, 4, 5, 6, 7]
    assert pool.document_of_passage.tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert pool.chunks is not None
    assert pool.chunks.tolist() == [0, *range(7, 20)]
    assert pool.passage_of_chunk.tolist() == [0, 1, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 6]
    for step in range(10):
        assert not {1, 2} & set(
            maker(limit=8, heldout=(1, 2)).pool(step, asking((0,)), level).documents.tolist()
        )


@pytest.mark.parametrize("limit", [1, 6, 10, 19])
def test_a_sample_holds_what_is_asked_for_and_keeps_the_limit(limit: int) -> None:
    for step in range(10):
        pool = maker(limit=limit).pool(step, asking((3,), (0, 7)), level)
        chosen = pool.documents.tolist()
        assert {0, 3, 7} <= set(chosen)
        assert chosen == sorted(set(chosen))
        assert len(pool.passage_of_chunk) <= max(limit, 1 + 4 + 4)
        assert pool.chunks is not None
        assert len(pool.chunks) == len(pool.passage_of_chunk)


def test_a_step_has_one_pool_and_steps_differ() -> None:
    pools = [maker(limit=9).pool(step, asking((0,)), level).documents.tolist() for step in range(12)]
    assert pools == [maker(limit=9).pool(step, asking((0,)), level).documents.tolist() for step in range(12)]
    assert len({tuple(pool) for pool in pools}) > 1


def test_the_hardest_are_chosen() -> None:
    def hard(pool: Pool) -> Tensor:
        return (pool.documents == 5).float()

    assert all(5 in maker(limit=10).pool(step, asking((0,)), hard).documents.tolist() for step in range(12))


def test_positives_are_told_by_place_in_the_pool() -> None:
    pool = maker(limit=20).of([2, 5, 7])
    assert pool.positives(asking((5,), (2, 7))).tolist() == [[False, True, False], [True, False, True]]
