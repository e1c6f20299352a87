import math

import pytest
import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.model.memory import ChunkCollector, InBatchMemory
from memsparse.ops import reference
from memsparse.ops.routing import RoutingRule

LENGTHS = [5, 0, 1, 9, 4]
"""Chunks of each document; the second has none."""
OWNERS = torch.repeat_interleave(torch.arange(5), torch.tensor(LENGTHS))
CHUNKS = sum(LENGTHS)


def make(top_k: int = 2, **options: Tensor) -> InBatchMemory:
    memory = InBatchMemory(OWNERS, 5, rule=RoutingRule(), top_k=top_k, **options)
    memory.write(
        3, *(torch.randn(CHUNKS, 2, 4, requires_grad=True) for _ in range(2)), torch.randn(CHUNKS, 8)
    )
    return memory


def ask(batch: int = 3, tokens: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, tokens, 8), torch.ones(batch, tokens, dtype=torch.bool)


def test_the_slots_hold_the_chunks_of_the_best_documents() -> None:
    memory = make()
    q, mask = ask()
    kv = memory.read(3, q, mask)
    scores = kv.all_scores.tolist()
    assert kv.documents.tolist() == reference.top_documents(scores, 2)[1]
    assert kv.scores.tolist() == reference.top_documents(scores, 2)[0]
    assert all(row[1] == -math.inf for row in scores)
    for row, documents in enumerate(kv.documents.tolist()):
        for column, document in enumerate(documents):
            slots = kv.mask[row, 0] & (kv.document_of_slot[row] == column)
            for held, stored in ((kv.k, memory.layers[3].k), (kv.v, memory.layers[3].v)):
                assert torch.equal(held[row][:, slots].transpose(0, 1), stored[document == OWNERS])
        assert kv.mask[row].sum() == sum(LENGTHS[document] for document in documents)


def test_layers_are_kept_apart() -> None:
    memory = make()
    memory.write(7, *(torch.zeros(CHUNKS, 2, 4) for _ in range(2)), torch.zeros(CHUNKS, 8))
    assert not memory.read(7, *ask()).k.any()
    assert memory.read(3, *ask()).k.any()


def test_gradients_reach_the_chunks_that_were_read_and_no_others() -> None:
    memory = make(top_k=1)
    kv = memory.read(3, *ask(batch=1))
    (
        kv.k.masked_fill(~kv.mask[:, :, :, None], 0).sum()
        + kv.v.masked_fill(~kv.mask[:, :, :, None], 0).sum()
    ).backward()
    touched = (memory.layers[3].k.grad != 0).flatten(1).all(1)
    assert torch.equal(touched, kv.documents[0, 0] == OWNERS)
    assert torch.equal((memory.layers[3].v.grad != 0).flatten(1).all(1), touched)


def test_selection_carries_no_gradient_and_scores_do() -> None:
    memory = make()
    q, mask = ask()
    kv = memory.read(3, q.requires_grad_(), mask)
    assert not kv.documents.requires_grad
    kv.scores.sum().backward()
    assert q.grad.abs().sum() > 0


def test_documents_that_are_not_allowed_are_neither_scored_nor_read() -> None:
    allowed = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    kv = make(top_k=3, allowed=allowed).read(3, *ask())
    assert torch.equal(kv.all_scores > -math.inf, allowed & (torch.tensor(LENGTHS) > 0))
    assert kv.documents[1].tolist() == [0, -1, -1]
    assert kv.documents[2].tolist() == [-1, -1, -1]
    assert kv.scores[1, 1:].tolist() == [-math.inf] * 2
    assert kv.mask.sum((1, 2)).tolist()[1:] == [LENGTHS[0], 0]


def test_documents_that_are_not_selectable_are_scored_all_the_same() -> None:
    selectable = torch.tensor([[0, 0, 1, 0, 0]] * 3).bool()
    memory = make(top_k=3, selectable=selectable)
    kv = memory.read(3, *ask())
    assert kv.documents.tolist() == [[2, -1, -1]] * 3
    assert (kv.all_scores > -math.inf).sum(1).tolist() == [4, 4, 4]


def test_more_is_asked_than_there_is() -> None:
    kv = make(top_k=99).read(3, *ask())
    assert kv.documents.shape == (3, 5)
    assert (kv.documents[:, 4] == -1).all()
    assert kv.mask.sum((1, 2)).tolist() == [CHUNKS] * 3


def test_a_request_without_routing_tokens_reads_nothing() -> None:
    q, mask = ask()
    mask[1] = False
    kv = make().read(3, q, mask)
    assert kv.documents[1].tolist() == [-1, -1]
    assert not kv.mask[1].any()
    assert (kv.documents[[0, 2]] >= 0).all()


def test_a_token_sees_only_chunks_that_begin_before_it() -> None:
    begins = torch.arange(CHUNKS) * 2
    places = torch.tensor([[-1, 3, 100], [0, 5, 6], [7, 8, 9]])
    memory = make(top_k=4, chunk_index=begins, token_index=places)
    kv = memory.read(3, *ask(tokens=3))
    assert kv.mask.shape == (3, 3, 4 * max(LENGTHS))
    assert kv.mask.sum(2).tolist() == [
        [int((begins < place).sum()) for place in row] for row in places.tolist()
    ]


def test_places_of_chunks_and_tokens_go_together() -> None:
    with pytest.raises(ShapeError, match="go together"):
        make(chunk_index=OWNERS)


@pytest.mark.parametrize("documents", [0, 3])
def test_a_memory_without_chunks_reads_nothing(documents: int) -> None:
    memory = InBatchMemory(OWNERS[:0], documents, rule=RoutingRule(), top_k=2)
    memory.write(0, torch.zeros(0, 2, 4), torch.zeros(0, 2, 4), torch.zeros(0, 8))
    kv = memory.read(0, *ask())
    assert kv.k.shape == kv.v.shape == (3, 2, 0, 4)
    assert kv.all_scores.shape == (3, documents)
    assert (kv.documents == -1).all()


@pytest.mark.parametrize("name", ["allowed", "selectable"])
def test_masks_of_another_batch_are_refused(name: str) -> None:
    memory = make(**{name: torch.ones(2, 5, dtype=torch.bool)})
    with pytest.raises(ShapeError, match=rf"{name} is \(2, 5\), scores are \(3, 5\)"):
        memory.read(3, *ask())


def test_a_collector_keeps_what_is_written() -> None:
    collector = ChunkCollector()
    k, v, routing_k = (torch.randn(2, 1, 4) for _ in range(3))
    collector.write(5, k, v, routing_k.flatten(1))
    assert list(collector.layers) == [5]
    assert collector.layers[5].k is k
    assert collector.layers[5].v is v
