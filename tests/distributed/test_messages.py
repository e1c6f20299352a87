import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memsparse.distributed.messages import FIRST, Message, length, pack, payload, payload_bytes, unpack
from memsparse.errors import EngineError

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16, torch.bfloat16]


def draw(shape: list[int], dtype: torch.dtype) -> Tensor:
    return (torch.randn(shape) * 9).abs().to(dtype)


tensors = st.lists(
    st.builds(draw, st.lists(st.integers(0, 7), max_size=3), st.sampled_from(DTYPES)), max_size=5
).map(lambda drawn: {f"t{i}": tensor for i, tensor in enumerate(drawn)})


def assert_same(mine: Message, theirs: Message) -> None:
    assert mine.values == theirs.values
    assert mine.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert (mine.tensors[name].dtype, mine.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(mine.tensors[name], tensor)


@given(tensors, st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.text()), max_size=3))
def test_a_message_arrives_as_it_was(sent, values):
    message = Message(values, sent)
    buffer = pack(message)
    assert len(buffer) == length(buffer[:FIRST])
    assert_same(unpack(buffer), message)


@given(tensors)
def test_a_payload_that_comes_apart_changes_nothing(sent):
    message = Message({"do": "read"}, sent)
    buffer, flat = pack(message, with_payload=False), payload(message, "cpu")
    assert len(flat) == payload_bytes(buffer)
    assert len(buffer) == FIRST
    assert_same(unpack(buffer, flat), message)


@pytest.mark.parametrize("size", [0, 900, 4000, 4096, 5000])
def test_the_first_part_tells_the_length_of_the_whole(size):
    buffer = pack(Message({}, {"x": torch.zeros(size, dtype=torch.uint8)}))
    assert length(buffer[:FIRST]) == len(buffer) == max(len(buffer), FIRST)


def test_views_that_are_not_contiguous_are_sent_as_they_look():
    turned = torch.arange(12.0).view(3, 4).T
    assert torch.equal(unpack(pack(Message({}, {"x": turned}))).tensors["x"], turned)


def test_noise_is_no_message():
    noise = torch.full((FIRST,), 255, dtype=torch.uint8)
    with pytest.raises(EngineError, match="cannot be read"):
        unpack(noise)
