import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.model.requests import ROOM, Part, RequestBatch, RequestCache, filled
from memsparse.types import MemoryKV

G, D, W = 2, 4, 8


class FakeReader:
    """Request b of a read gets b + 1 chunks out of two padded slots each, every value its layer."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        self.asked.append((routing_q, query_mask))
        batch = len(routing_q)
        mask = torch.zeros(batch, 1, 2 * batch, dtype=torch.bool)
        for b in range(batch):
            mask[b, 0, : 2 * b + 1 : 2] = True
        chunks = torch.full((batch, G, 2 * batch, D), torch.nan)
        chunks = torch.where(mask[:, :, :, None], float(layer_idx), chunks)
        number = torch.arange(batch)[:, None]
        return MemoryKV(
            k=chunks,
            v=chunks,
            mask=mask,
            documents=number,
            scores=number.float(),
            document_of_slot=torch.zeros(batch, 2 * batch, dtype=torch.long),
            all_scores=number.float(),
        )


def keys(length: int, value: float = 0.0) -> tuple[Tensor, Tensor]:
    return torch.full((G, length, D), value), torch.full((G, length, D), value)


def batch_of(parts: list[Part]) -> RequestBatch:
    return RequestBatch(parts, [keys(1, -1.0)] * 4, torch.device("cpu"))


def test_each_request_gets_the_chunks_and_queries_that_are_its_own() -> None:
    one, other = FakeReader(), FakeReader()
    parts = [
        Part(cache=RequestCache(), tokens=4, reader=one, routes=[0, 2]),
        Part(cache=RequestCache(), tokens=3),
        Part(cache=RequestCache(), tokens=2, reader=other, routes=[1]),
        Part(cache=RequestCache(), tokens=5, reader=one, routes=[1, 2, 4]),
    ]
    batch = batch_of(parts)
    assert batch.routing_rows is not None
    rows = batch.routing_rows.tolist()
    assert rows[:6] == [0, 2, 8, 10, 11, 13]
    assert len(rows) == filled(6)
    assert batch.last_rows.tolist() == [3, 6, 8, 13]
    queries = torch.arange(len(rows)).float()[:, None].expand(-1, W)
    batch.read(2, queries, lambda kv: kv.mask[:, 0] * 5.0)
    assert [(q[:, :, 0].tolist(), mask.tolist()) for q, mask in one.asked] == [
        ([[0, 1, 0], [3, 4, 5]], [[True, True, False], [True, True, True]])
    ]
    assert [q.shape for q, _ in other.asked] == [(1, 1, W)]
    for part, chunks, own in ((parts[0], 1, [0, 1]), (parts[3], 2, [3, 4, 5]), (parts[2], 1, [2])):
        k, v = part.cache.kept(2)
        assert torch.equal(k, torch.cat([keys(chunks, 2.0)[0], keys(1, -1.0)[0]], dim=1))
        assert torch.equal(v, k)
        bias = part.cache.layers[2].bias
        assert bias is not None
        assert bias.tolist()[: chunks + 2] == [5.0] * chunks + [0.0, 0.0]
        assert part.routed[2].queries[0, :, 0].tolist() == own
    assert parts[3].routed[2].kv.documents.tolist() == [[1]]
    assert not parts[1].routed
    assert not parts[1].cache.layers


def test_tokens_count_only_when_they_are_kept() -> None:
    cache = RequestCache()
    cache.begin(0, [keys(3, 1.0)], tokens=2)
    x = torch.ones(2, G, D)
    seen = []
    for value in (7.0, 8.0):
        batch = batch_of([Part(cache=cache, tokens=2)])
        q = torch.randn(batch.length, 2 * G, D)
        attended = batch.attend(0, q, torch.zeros_like(q[:, :G]), value * q.new_ones(batch.length, G, D), 1.0)
        assert attended.shape == q.shape
        seen.append(cache.kept(0)[0].shape[1])
    assert seen == [3, 3]
    batch.keep(range(1))
    k, v = cache.kept(0)
    assert v[0, :, 0].tolist() == [1.0, 1.0, 1.0, 8.0, 8.0]
    long = batch_of([Part(cache=cache, tokens=3 * ROOM)])
    q = torch.randn(long.length, 2 * G, D)
    long.attend(0, q, q[:, :G], q[:, :G], 1.0)
    long.keep(range(1))
    assert torch.equal(cache.kept(0)[1][:, :5], v)
    assert torch.equal(cache.kept(0)[1][:, 5:], q[: 3 * ROOM, :G].transpose(0, 1))
    assert torch.equal(k[:, :3], x.new_ones(G, 3, D))


def test_a_reader_with_masks_of_its_own_for_every_token_is_refused() -> None:
    class PerToken(FakeReader):
        def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
            kv = super().read(layer_idx, routing_q, query_mask)
            return MemoryKV(
                k=kv.k,
                v=kv.v,
                mask=kv.mask.expand(-1, 3, -1),
                documents=kv.documents,
                scores=kv.scores,
                document_of_slot=kv.document_of_slot,
            )

    batch = batch_of([Part(cache=RequestCache(), tokens=3, reader=PerToken(), routes=[0, 1])])
    with pytest.raises(ShapeError, match="it must be"):
        batch.read(2, torch.zeros(2, W), lambda kv: None)


@given(st.integers(0, 10_000))
def test_rows_are_filled_up_by_little_to_one_of_few_lengths(tokens: int) -> None:
    length = filled(tokens)
    assert tokens <= length <= tokens * 1.125
    assert filled(length) == length


def test_there_are_few_lengths() -> None:
    assert len({filled(tokens) for tokens in range(1, 4097)}) <= 8 * 12
