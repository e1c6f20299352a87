import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memsparse.errors import ConfigError
from memsparse.ops import reference
from memsparse.ops.positions import chunk_counts, chunk_positions, context_positions, document_positions

lengths_lists = st.lists(st.sampled_from([0, 1, 2, 5, 63, 64, 65, 111, 128]), max_size=6)


@given(lengths=lengths_lists, chunk_size=st.sampled_from([1, 2, 7, 64]))
def test_chunk_positions_equal_the_twin(lengths: list[int], chunk_size: int) -> None:
    lengths_N = torch.tensor(lengths, dtype=torch.long)
    assert torch.equal(chunk_positions(lengths_N, chunk_size), reference.chunk_positions(lengths, chunk_size))


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 30))
def test_context_positions_equal_the_twin(rows: list[list[bool]], offset: int) -> None:
    mask = torch.tensor(rows)
    expected = reference.context_positions(mask, offset)
    assert torch.equal(context_positions(mask, offset), expected)
    assert torch.equal(context_positions(mask.long(), torch.tensor(offset)), expected)


def test_a_left_padded_question_starts_at_the_offset_and_pauses_keep_the_position() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 0, 1]])
    assert context_positions(mask, 19).tolist() == [[19, 19, 19, 20, 20, 21]]


def test_every_row_may_have_its_own_offset() -> None:
    mask = torch.ones(2, 3)
    assert context_positions(mask, torch.tensor([[5], [9]])).tolist() == [[5, 6, 7], [9, 10, 11]]


def test_documents_count_from_zero() -> None:
    assert document_positions(2, 3).tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("length", "chunks"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)]
)
def test_the_last_chunk_may_be_short(length: int, chunks: int) -> None:
    assert chunk_counts(torch.tensor([length]), 64).tolist() == [chunks]


@pytest.mark.parametrize("chunk_size", [0, -3])
def test_a_chunk_size_below_one_is_refused(chunk_size: int) -> None:
    with pytest.raises(ConfigError, match=f"chunk_size is {chunk_size}"):
        chunk_counts(torch.tensor([3]), chunk_size)
