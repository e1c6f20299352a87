"""Documents scored from their stored keys, beside one product with all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memsparse.bank import Bank
from memsparse.bank.exact import ExactKeys
from memsparse.bank.places import Places
from memsparse.errors import BankCorruptError
from memsparse.ops.routing import RoutingRule
from tests.bank.builders import FINGERPRINT, add, queries

COUNTS = ([3, 1, 4], [1, 5])


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        for turn, counts in enumerate(COUNTS):
            add(bank, counts, prefix=f"{turn}-", seed=turn)
        yield bank


def keys_of(bank: Bank) -> ExactKeys:
    layout = bank.layout()
    return ExactKeys(Places(layout.rows), layout.segments, bank._files)


def test_keys_come_document_by_document(bank: Bank) -> None:
    stored = [bank._files.get(record).tensor(3, "routing_k") for record in bank._catalog.segments()]
    found, counts = keys_of(bank).keys(3, torch.tensor([1, 2, 4]))
    assert counts.tolist() == [1, 4, 5]
    assert torch.equal(found, torch.cat([stored[0][3:], stored[1][1:]]))


def test_scores_and_chunks_in_any_order(bank: Bank) -> None:
    routing_q, mask = queries(3, 2), torch.tensor([[True, True], [False, False], [False, True]])
    documents = torch.tensor([[4, -1, 0], [0, 1, 2], [3, 2, 1]])
    scores, chunks = keys_of(bank).score(1, routing_q, mask, documents)
    for b, row in enumerate(documents.tolist()):
        for column, document in enumerate(row):
            if document < 0 or not bool(mask[b].any()):
                assert (float(scores[b, column]), int(chunks[b, column])) == (float("-inf"), -1)
                continue
            keys, _ = keys_of(bank).keys(1, torch.tensor([document]))
            of_chunk = (keys.double() @ routing_q[b, mask[b]].double().T).amax(1).float()
            assert scores[b, column] == of_chunk.max()
            assert chunks[b, column] == of_chunk.argmax()


def test_of_many_segments_only_those_asked_for_are_opened(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    routing_q, mask = queries(2, 3), torch.ones(2, 3, dtype=torch.bool)
    documents = torch.tensor([[0, 2, 1], [4, -1, 0]])
    wanted = keys_of(bank).score(1, routing_q, mask, documents)
    monkeypatch.setattr("memsparse.bank.exact.HELD", 1)
    assert all(map(torch.equal, keys_of(bank).score(1, routing_q, mask, documents), wanted))
    assert [len(keys_of(bank)._stored(1, torch.tensor([1]))[0].blocks) for _ in range(2)] == [1, 1]


def test_a_lost_segment_is_missed_only_by_those_who_ask_for_it(bank: Bank) -> None:
    routing_q, mask = queries(1, 2), torch.ones(1, 2, dtype=torch.bool)
    wanted = keys_of(bank).score(1, routing_q, mask, torch.tensor([[0, 2]]))
    bank._files.close()
    (bank._files.folder / bank._catalog.segments()[1].file).unlink()
    exact = keys_of(bank)
    assert all(map(torch.equal, exact.score(1, routing_q, mask, torch.tensor([[0, 2]])), wanted))
    with pytest.raises(BankCorruptError, match="it is missing"):
        exact.score(1, routing_q, mask, torch.tensor([[0, 4]]))


def test_what_is_not_asked_for_is_not_read(bank: Bank) -> None:
    layout = bank.layout()
    exact = ExactKeys(Places(layout.rows), {}, bank._files)  # no record, so nothing can be read
    none, asking = torch.full((2, 3), -1), torch.tensor([[True, True], [False, False]])
    for documents, mask in ((none, asking), (torch.tensor([[-1], [2]]), asking)):
        scores, chunks = exact.score(1, queries(2, 2), mask, documents)
        assert bool((scores == float("-inf")).all())
        assert bool((chunks == -1).all())
    empty = ExactKeys(Places([]), {}, bank._files)
    assert bool((empty.score(1, queries(2, 2), asking, none)[0] == float("-inf")).all())


def test_the_best_chunks_by_the_rule(bank: Bank) -> None:
    routing_q, mask = queries(1, 2), torch.ones(1, 2, dtype=torch.bool)
    documents = torch.tensor([[2, -1, 4]])
    exact = keys_of(bank)
    _, expected = exact.score(1, routing_q, mask, documents)
    assert torch.equal(exact.best_chunks(1, routing_q, mask, documents, RoutingRule()), expected)
