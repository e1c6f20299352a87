import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memsparse.errors import ConfigError, ShapeError
from memsparse.ops import reference
from memsparse.ops.pooling import document_of_chunk, pool_chunks

RAGGED = [1, 63, 64, 65, 0, 128, 111]


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 200])
@pytest.mark.parametrize("rest", [(), (3,), (2, 4)])
def test_ragged_documents_equal_the_twin_with_gradients(chunk_size: int, rest: tuple[int, ...]) -> None:
    states = torch.randn(len(RAGGED), max(RAGGED), *rest, dtype=torch.float64, requires_grad=True)
    fast = pool_chunks(states, torch.tensor(RAGGED), chunk_size)
    slow = reference.pool_chunks(states, RAGGED, chunk_size)
    torch.testing.assert_close(fast, slow)
    weights = torch.randn_like(slow)
    torch.testing.assert_close(
        torch.autograd.grad((fast * weights).sum(), states),
        torch.autograd.grad((slow * weights).sum(), states),
    )


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    spare=st.integers(0, 3),
    chunk_size=st.integers(1, 12),
)
def test_any_lengths_equal_the_twin(lengths: list[int], spare: int, chunk_size: int) -> None:
    states = torch.randn(len(lengths), max(lengths) + spare, 2, dtype=torch.float64)
    fast = pool_chunks(states, torch.tensor(lengths), chunk_size)
    torch.testing.assert_close(fast, reference.pool_chunks(states, lengths, chunk_size))
    owners = document_of_chunk(torch.tensor(lengths), chunk_size)
    assert torch.equal(owners, reference.document_of_chunk(lengths, chunk_size))
    assert len(owners) == len(fast)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_leaks_from_padding(poison: float) -> None:
    lengths = torch.tensor([3, 0, 5])
    clean = torch.randn(3, 6, 2)
    padding = torch.arange(6) >= lengths[:, None]
    dirty = clean.masked_fill(padding[..., None], poison).requires_grad_()
    pooled = pool_chunks(dirty, lengths, 4)
    torch.testing.assert_close(pooled, pool_chunks(clean, lengths, 4))
    pooled.sum().backward()
    assert torch.equal(dirty.grad == 0, padding[..., None].expand_as(dirty))


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 200])
@pytest.mark.parametrize("rest", [(64,), (2, 16), (3,), ()])
def test_without_gradients_bfloat16_is_pooled_as_with(chunk_size: int, rest: tuple[int, ...]) -> None:
    torch.manual_seed(chunk_size)
    states = torch.randn(len(RAGGED), max(RAGGED), *rest).bfloat16()
    padding = (torch.arange(max(RAGGED)) >= torch.tensor(RAGGED)[:, None]).view(
        *states.shape[:2], *[1] * len(rest)
    )
    states = states.masked_fill(padding, float("nan"))
    wanted = reference.pool_chunks(states.double(), RAGGED, chunk_size)
    with torch.no_grad():
        pooled = pool_chunks(states, torch.tensor(RAGGED), chunk_size)
        assert pooled.dtype == torch.bfloat16
        torch.testing.assert_close(pooled.double(), wanted, rtol=2.0**-8, atol=2.0**-16)
        nothing = pool_chunks(states[:0], torch.tensor([], dtype=torch.long), chunk_size)
        none = pool_chunks(states, torch.zeros(len(RAGGED), dtype=torch.long), chunk_size)
        flat = pool_chunks(states.new_zeros(2, 5, 3, 0), torch.tensor([5, 3]), 5)
    assert nothing.shape == none.shape == (0, *rest)
    assert flat.shape == (2, 3, 0)


def test_a_short_last_window_is_averaged_over_its_true_length() -> None:
    pooled = pool_chunks(torch.tensor([[2.0, 4.0, 9.0, 100.0]]), torch.tensor([3]), 2)
    assert pooled.tolist() == [3.0, 9.0]


def test_bfloat16_sums_run_in_float32() -> None:
    ones = torch.ones(1, 1000, dtype=torch.bfloat16)  # a bfloat16 sum of ones stops at 256
    pooled = pool_chunks(ones, torch.tensor([1000]), 1000)
    assert pooled.dtype == torch.bfloat16
    assert pooled.tolist() == [1.0]


@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 2), (0, 0, 2)])
def test_without_tokens_there_are_no_chunks(shape: tuple[int, ...]) -> None:
    lengths = torch.zeros(shape[0], dtype=torch.long)
    assert pool_chunks(torch.empty(shape), lengths, 4).shape == (0, 2)
    assert document_of_chunk(lengths, 4).tolist() == []


def test_a_document_without_tokens_has_no_chunk() -> None:
    assert document_of_chunk(torch.tensor([0, 65, 0, 1]), 64).tolist() == [1, 1, 3]


def test_one_length_is_needed_per_row() -> None:
    with pytest.raises(ShapeError, match=r"\(3,\).*2 rows"):
        pool_chunks(torch.zeros(2, 4), torch.tensor([1, 2, 3]), 2)


def test_a_document_longer_than_its_row_is_refused() -> None:
    with pytest.raises(ShapeError, match="5 tokens, its row 4"):
        pool_chunks(torch.zeros(2, 4), torch.tensor([1, 5]), 2)


def test_a_chunk_size_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="chunk_size is 0"):
        pool_chunks(torch.zeros(2, 4), torch.tensor([1, 2]), 0)
