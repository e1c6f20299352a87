"""Documents scored from their keys where they lie, beside one product at a time."""

import pytest
import torch
from torch import Tensor

from memsparse.errors import InputError, ShapeError
from memsparse.ops.exact_scores import StoredKeys, score_stored
from memsparse.ops.native import scans

INF = float("inf")


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(scans, "can_score", lambda _: False)
    elif not scans.can_score([torch.zeros(1, 1)]):
        pytest.skip("no kernel here")
    return str(request.param)


@pytest.fixture
def _two_threads(_two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As elsewhere, for the least of work."""
    monkeypatch.setattr(scans, "_EXACT_SHARE", 1)


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
@pytest.mark.parametrize("asking", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("width", "tokens"), [(1, 1), (8, 3), (64, 9), (64, 24), (130, 40)])
@pytest.mark.usefixtures("way", "_two_threads")
def test_scores_are_those_of_float64(
    dtype: torch.dtype, asking: torch.dtype, width: int, tokens: int
) -> None:
    blocks = [torch.randn(rows, width).to(dtype) for rows in (30, 1, 200)]
    q, mask = torch.randn(4, tokens, width).to(asking), torch.rand(4, tokens) < 0.7
    mask[0], mask[2], mask[3, 0] = True, False, True  # all tokens of one request route, none of another
    block = torch.randint(0, 3, (4, 25))
    lengths = torch.tensor([30, 1, 200])[block]
    start = (torch.rand(4, 25) * lengths).long()
    count = (torch.rand(4, 25) * 20).long().minimum(lengths - start)
    scores, chunks = score_stored(q, mask, StoredKeys(blocks), block, start, count)
    wanted, where = slow(q, mask, blocks, [block, start, count])
    torch.testing.assert_close(scores, wanted, rtol=2.0**-23, atol=1e-14)
    assert torch.equal(chunks, where)


def side_by_side(documents: int, chunks: int) -> list[Tensor]:
    """Runs of so many documents of one request, of so many chunks each."""
    start = torch.arange(documents)[None] * chunks
    return [torch.zeros_like(start), start, torch.full_like(start, chunks)]


def one_by_one(q: Tensor, mask: Tensor, blocks: list[Tensor], runs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores of documents from their chunks, each a document of its own: so no rough product is asked for."""
    block, start, count = (each[:, :, None] for each in runs)
    places = torch.arange(max(int(count.max()), 1))
    there = (places < count).long()
    each = [run.expand(there.shape).flatten(1) for run in (block, start + places, there)]
    of_chunk = score_stored(q, mask, StoredKeys(blocks), *each)[0].view(there.shape)
    scores = of_chunk.amax(2)
    first = (of_chunk == scores[:, :, None]).int().argmax(2)
    return scores, first.masked_fill(scores == -INF, -1)


def check_the_best(q: Tensor, mask: Tensor, blocks: list[Tensor], runs: list[Tensor], k: int | None) -> None:
    """The k best are exact, others no less than they are, and less than the k-th best."""
    every, of_every = one_by_one(q, mask, blocks, runs)
    scores, chunks = score_stored(q, mask, StoredKeys(blocks), *runs, k=k)
    for b, row in enumerate(every.tolist()):
        bar = -INF if k is None else sorted(row, reverse=True)[min(k, len(row)) - 1]
        for m, wanted in enumerate(row):
            found, chunk = float(scores[b, m]), int(chunks[b, m])
            if wanted >= bar or chunk >= 0:
                assert (found, chunk) == (wanted, int(of_every[b, m]))
            else:
                assert wanted <= found < bar or wanted == found == -INF


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("width", "tokens"), [(2, 1), (62, 9), (64, 40), (1024, 3)])
@pytest.mark.parametrize("k", [1, 5, 24, 400, 2**62, None])
@pytest.mark.usefixtures("way", "_two_threads")
def test_those_that_are_wanted_are_exact(dtype: torch.dtype, width: int, tokens: int, k: int | None) -> None:
    blocks = [torch.randn(rows, width).to(dtype) for rows in (300, 1, 200)]
    blocks[0][100:110] = blocks[0][90:100]  # equal scores
    q, mask = torch.randn(4, tokens, width), torch.rand(4, tokens) < 0.7
    mask[0], mask[2], mask[3, 0] = True, False, True
    block = torch.randint(0, 3, (4, 70))
    lengths = torch.tensor([300, 1, 200])[block]
    start = (torch.rand(4, 70) * lengths).long()
    count = (torch.rand(4, 70) * 20).long().minimum(lengths - start)
    check_the_best(q, mask, blocks, [block, start, count], k)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-15, 1e15, 3e25, 3e38])
@pytest.mark.parametrize("asking", [1e-40, 1e-15, 1.0, 1e18, 2e38])
@pytest.mark.parametrize("k", [3, None])
@pytest.mark.usefixtures("way")
def test_those_that_are_wanted_are_exact_whatever_their_size(
    size: float, asking: float, k: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = (torch.rand(200, 64, generator=generator) * 2 - 1) * size
    q = (torch.rand(1, 20, 64, generator=generator) * 2 - 1) * asking
    runs = side_by_side(50, 4)
    for dtype in (torch.bfloat16, torch.float32):
        check_the_best(q, torch.ones(1, 20, dtype=torch.bool), [keys.to(dtype)], runs, k)


@pytest.mark.parametrize("k", [1, 7, None])
@pytest.mark.usefixtures("way")
def test_scores_beyond_float32_are_equal(k: int | None) -> None:
    keys, q = torch.full((240, 8), 2.0**62), torch.full((1, 20, 8), 2.0**120)
    keys[::2] *= -1
    runs = side_by_side(60, 4)
    for dtype in (torch.bfloat16, torch.float32):
        check_the_best(q, torch.ones(1, 20, dtype=torch.bool), [keys.to(dtype)], runs, k)


@pytest.mark.usefixtures("way")
def test_the_first_of_chunks_that_are_equal_when_rounded() -> None:
    """The second is larger in float64 by less than float32 holds."""
    keys = torch.tensor([[1.0, 0.0], [1.0, 2.0**-30], [0.0, 0.0], [-1.0, 0.0]]).repeat(20, 1)
    runs = side_by_side(20, 4)
    for tokens in (1, 20):
        mask = torch.ones(1, tokens, dtype=torch.bool)
        scores, chunks = score_stored(torch.ones(1, tokens, 2), mask, StoredKeys([keys]), *runs)
        assert scores.tolist() == [[1.0] * 20]
        assert chunks.tolist() == [[0] * 20]


@pytest.mark.usefixtures("way")
def test_keys_without_columns() -> None:
    runs = side_by_side(50, 4)
    for keys in (torch.ones(200, 0), torch.ones(200, 0).bfloat16()):
        scores, _ = score_stored(torch.ones(1, 2, 0), torch.ones(1, 2).bool(), StoredKeys([keys]), *runs, k=3)
        assert scores.tolist() == [[0.0] * 50]


@pytest.mark.usefixtures("way")
def test_scores_that_float32_cannot_tell_apart() -> None:
    """They are of the same chunk but for the last places, below what a sum of float32 holds."""
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(1, 256, generator=generator).repeat(240, 1)
    keys[:, 7] *= 1 + torch.randint(-3, 4, (240,), generator=generator) * 2.0**-23
    q = torch.randn(1, 20, 256, generator=generator)
    runs = side_by_side(60, 4)
    for k in (1, 7, 60):
        check_the_best(q, torch.ones(1, 20, dtype=torch.bool), [keys], runs, k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_few_are_multiplied_exactly_where_few_are_wanted(
    dtype: torch.dtype,
) -> None:
    """By what the others say: it is no score of theirs, and close to it."""
    if not scans.can_score([torch.zeros(1, 1)]) or not scans.can_multiply(dtype, 64):
        pytest.skip("no kernel here")
    keys, q = torch.randn(1000, 64).to(dtype), torch.randn(1, 20, 64)
    runs = side_by_side(200, 5)
    mask = torch.ones(1, 20, dtype=torch.bool)
    every, _ = score_stored(q, mask, StoredKeys([keys]), *runs)
    scores, chunks = score_stored(q, mask, StoredKeys([keys]), *runs, k=4)
    left = chunks < 0
    assert 4 <= int((~left).sum()) < 40
    assert bool((scores[left] > every[left]).all())
    assert bool((scores - every <= 0.1 * every.abs().max()).all())


@pytest.mark.usefixtures("way", "_two_threads")
def test_sums_that_cancel_are_exact() -> None:
    """In float32 the small one is lost."""
    keys, q = torch.tensor([[1e8, 1.0, -1e8] * 5]), torch.ones(1, 1, 15)
    one = torch.ones(1, 1).long()
    scores, _ = score_stored(q, torch.ones(1, 1, dtype=torch.bool), StoredKeys([keys]), one - 1, one - 1, one)
    assert float(scores) == 5


@pytest.mark.usefixtures("way", "_two_threads")
def test_nothing_depends_on_what_else_is_scored() -> None:
    q, mask, keys = torch.randn(2, 20, 130), torch.ones(2, 20, dtype=torch.bool), torch.randn(50, 130)
    mask[1, 7:] = False
    start, count = torch.arange(12).view(2, 6) * 3, torch.tensor([[1, 9, 8, 14, 0, 7], [3, 3, 3, 1, 1, 1]])
    together = score_stored(q, mask, StoredKeys([keys]), torch.zeros_like(start), start, count)
    for b in range(2):
        for m in range(6):
            one = slice(b, b + 1), slice(m, m + 1)
            runs = torch.zeros_like(start)[one], start[one], count[one]
            alone = score_stored(q[b : b + 1], mask[b : b + 1], StoredKeys([keys]), *runs)
            assert torch.equal(alone[0], together[0][one])
            assert torch.equal(alone[1], together[1][one])


@pytest.mark.usefixtures("way")
def test_runs_may_be_laid_out_in_any_way() -> None:
    q, mask, keys = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool), torch.randn(20, 8)
    start, count = torch.tensor([[3, 8, 1], [2, 0, 6]]), torch.tensor([[1, 2, 9], [3, 4, 2]])
    runs = torch.zeros_like(start), start, count
    across = [each.T.contiguous().T for each in runs]
    for found, wanted in zip(
        score_stored(q, mask, StoredKeys([keys]), *across),
        score_stored(q, mask, StoredKeys([keys]), *runs),
        strict=True,
    ):
        assert torch.equal(found, wanted)


@pytest.mark.usefixtures("way")
def test_the_first_of_equal_chunks() -> None:
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    one = torch.tensor([[0]])
    scores, chunks = score_stored(
        torch.tensor([[[1.0, 0.0]]]),
        torch.tensor([[True]]),
        StoredKeys([keys]),
        one,
        one,
        torch.tensor([[4]]),
    )
    assert (float(scores), int(chunks)) == (1.0, 1)


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.usefixtures("way")
def test_a_token_that_is_no_number_is_not_passed_over(bad: float) -> None:
    q, mask, zero = torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 1).long()
    q[1, 2, 3] = bad
    scores, _ = score_stored(q, mask, StoredKeys([torch.ones(5, 4)]), zero, zero, torch.full((2, 1), 5))
    assert float(scores[0]) == 4
    assert scores[1].isnan().all()


@pytest.mark.usefixtures("way")
def test_nothing_to_score() -> None:
    q, mask = torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    none = torch.zeros(2, 0).long()
    assert score_stored(q, mask, StoredKeys([]), none, none, none)[0].shape == (2, 0)
    absent = torch.zeros(2, 5).long()
    scores, chunks = score_stored(q, mask, StoredKeys([]), absent, absent, absent)
    assert scores.tolist() == [[-INF] * 5] * 2
    assert chunks.tolist() == [[-1] * 5] * 2
    assert (
        score_stored(q, mask, StoredKeys([torch.ones(3, 4)]), absent, absent, absent)[1].tolist()
        == [[-1] * 5] * 2
    )


def test_keys_that_do_not_lie_together_are_scored_by_torch() -> None:
    wide = torch.randn(6, 10)
    assert not scans.can_score([wide[:, :4]])
    assert not scans.can_score([torch.zeros(2, 4).half()])
    q, zero = torch.randn(1, 2, 4), torch.zeros(1, 1).long()
    mask, six = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[6]])
    found, _ = score_stored(q, mask, StoredKeys([wide[:, :4]]), zero, zero, six)
    wanted, _ = score_stored(q, mask, StoredKeys([wide[:, :4].contiguous()]), zero, zero, six)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("block", "start", "count"),
    [
        *((0, 4, 2), (0, -1, 2), (1, 0, 1), (-1, 0, 1), (0, 0, -1), (0, 2**40, 1)),
        *((0, 2**63 - 1, 1), (0, 1, 2**63 - 1)),
    ],
)
@pytest.mark.usefixtures("way")
def test_runs_outside_their_block_are_refused(block: int, start: int, count: int) -> None:
    q, mask = torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool)
    runs = [torch.tensor([[number]]) for number in (block, start, count)]
    with pytest.raises(ShapeError, match="does not lie in its block"):
        score_stored(q, mask, StoredKeys([torch.ones(5, 4)]), *runs)


def test_sizes_that_do_not_fit_are_refused() -> None:
    q, mask, zero = torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1).long()
    for k in (0, -2):
        with pytest.raises(InputError, match=f"k is {k}"):
            score_stored(q, mask, StoredKeys([torch.ones(5, 4)]), zero, zero, zero, k=k)
    with pytest.raises(ShapeError, match="keys are 3 wide, queries 4"):
        score_stored(q, mask, StoredKeys([torch.ones(5, 3)]), zero, zero, zero)
    with pytest.raises(ShapeError, match="query_mask"):
        score_stored(q, mask[:, :0], StoredKeys([torch.ones(5, 4)]), zero, zero, zero)
    with pytest.raises(ShapeError, match="start is"):
        score_stored(q, mask, StoredKeys([torch.ones(5, 4)]), zero, zero.int(), zero)
    with pytest.raises(ShapeError, match="a row for each request"):
        score_stored(q, mask, StoredKeys([torch.ones(5, 4)]), *(zero.expand(2, 1),) * 3)
    with pytest.raises(ShapeError, match="block is"):
        score_stored(q, mask, StoredKeys([torch.ones(5, 4)]), *(zero[None],) * 3)
    with pytest.raises(ShapeError, match="bool for every token"):
        score_stored(q, mask.byte(), StoredKeys([torch.ones(5, 4)]), zero, zero, zero)
