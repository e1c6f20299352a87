"""Documents scored from their keys where they lie, beside one product at a time."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops import native
from memsparse.ops.exact_scores import score_stored

INF = float("inf")


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(native, "can_score", lambda _: False)
    elif not native.can_score([torch.zeros(1, 1)]):
        pytest.skip("no kernel here")
    return str(request.param)


@pytest.fixture
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(native, "_EXACT_SHARE", 1)
    yield
    torch.set_num_threads(threads)


def slow(q: Tensor, mask: Tensor, blocks: list[Tensor], runs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One document after the other."""
    scores, chunks = torch.full(runs[0].shape, -INF), torch.full(runs[0].shape, -1)
    for b in range(len(q)):
        for m, (block, start, count) in enumerate(zip(*(each[b].tolist() for each in runs), strict=True)):
            if count and bool(mask[b].any()):
                keys = blocks[block][start : start + count]
                of_chunk = (keys.double() @ q[b, mask[b]].double().T).amax(1).float()
                scores[b, m] = of_chunk.max()
                chunks[b, m] = (of_chunk == of_chunk.max()).nonzero()[0, 0]
    return scores, chunks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("width", "tokens"), [(1, 1), (8, 3), (130, 40)])
@pytest.mark.usefixtures("way", "_two_threads")
def test_scores_are_those_of_float64(dtype: torch.dtype, width: int, tokens: int) -> None:
    blocks = [torch.randn(rows, width).to(dtype) for rows in (30, 1, 200)]
    q, mask = torch.randn(4, tokens, width), torch.rand(4, tokens) < 0.7
    mask[0], mask[2] = True, False  # all tokens of one request route, none of another
    block = torch.randint(0, 3, (4, 25))
    lengths = torch.tensor([30, 1, 200])[block]
    start = (torch.rand(4, 25) * lengths).long()
    count = (torch.rand(4, 25) * 20).long().minimum(lengths - start)
    scores, chunks = score_stored(q, mask, blocks, block, start, count)
    wanted, where = slow(q, mask, blocks, [block, start, count])
    torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(chunks, where)
    # Nothing depends on what else is scored.
    alone, _ = score_stored(q[3:], mask[3:], blocks, block[3:, 7:8], start[3:, 7:8], count[3:, 7:8])
    assert torch.equal(alone, scores[3:, 7:8]) or count[3, 7] == 0


@pytest.mark.usefixtures("way")
def test_the_first_of_equal_chunks() -> None:
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    one = torch.tensor([[0]])
    scores, chunks = score_stored(
        torch.tensor([[[1.0, 0.0]]]), torch.tensor([[True]]), [keys], one, one, torch.tensor([[4]])
    )
    assert (float(scores), int(chunks)) == (1.0, 1)


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.usefixtures("way")
def test_a_token_that_is_no_number_is_not_passed_over(bad: float) -> None:
    q, mask, zero = torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 1).long()
    q[1, 2, 3] = bad
    scores, _ = score_stored(q, mask, [torch.ones(5, 4)], zero, zero, torch.full((2, 1), 5))
    assert float(scores[0]) == 4
    assert not bool(scores[1].isfinite())


@pytest.mark.usefixtures("way")
def test_nothing_to_score() -> None:
    q, mask = torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    none = torch.zeros(2, 0).long()
    assert score_stored(q, mask, [], none, none, none)[0].shape == (2, 0)
    absent = torch.zeros(2, 5).long()
    scores, chunks = score_stored(q, mask, [], absent, absent, absent)
    assert scores.tolist() == [[-INF] * 5] * 2
    assert chunks.tolist() == [[-1] * 5] * 2
    assert score_stored(q, mask, [torch.ones(3, 4)], absent, absent, absent)[1].tolist() == [[-1] * 5] * 2


def test_keys_that_do_not_lie_together_are_scored_by_torch() -> None:
    wide = torch.randn(6, 10)
    assert not native.can_score([wide[:, :4]])
    assert not native.can_score([torch.zeros(2, 4).half()])
    q, zero = torch.randn(1, 2, 4), torch.zeros(1, 1).long()
    mask, six = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[6]])
    found, _ = score_stored(q, mask, [wide[:, :4]], zero, zero, six)
    wanted, _ = score_stored(q, mask, [wide[:, :4].contiguous()], zero, zero, six)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("block", "start", "count"),
    [(0, 4, 2), (0, -1, 2), (1, 0, 1), (-1, 0, 1), (0, 0, -1), (0, 2**40, 1)],
)
def test_runs_outside_their_block_are_refused(block: int, start: int, count: int) -> None:
    q, mask = torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool)
    runs = [torch.tensor([[number]]) for number in (block, start, count)]
    with pytest.raises(ShapeError, match="does not lie in its block"):
        score_stored(q, mask, [torch.ones(5, 4)], *runs)


def test_sizes_that_do_not_fit_are_refused() -> None:
    q, mask, zero = torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1).long()
    with pytest.raises(ShapeError, match="queries are 4 wide"):
        score_stored(q, mask, [torch.ones(5, 3)], zero, zero, zero)
    with pytest.raises(ShapeError, match="query_mask"):
        score_stored(q, mask[:, :0], [torch.ones(5, 4)], zero, zero, zero)
    with pytest.raises(ShapeError, match="start is"):
        score_stored(q, mask, [torch.ones(5, 4)], zero, zero.int(), zero)
    with pytest.raises(ShapeError, match="a row for each request"):
        score_stored(q, mask, [torch.ones(5, 4)], *(zero.expand(2, 1),) * 3)
