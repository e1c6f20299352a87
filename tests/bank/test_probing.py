"""An index beside the scan: the same documents where all of it is looked into, honest where it is not."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.bank import Bank, Source, TierConfig, keys, probing, reader
from memsparse.bank.probing import Probing
from memsparse.errors import ConfigError
from memsparse.ops.routing import RoutingRule, top_documents
from memsparse.types import MemoryKV
from tests.bank.builders import FINGERPRINT, add, all_tokens, make_chunks, make_passages, queries

WIDE = replace(FINGERPRINT, head_dim=16, dtype="bfloat16")
ALL = TierConfig(index="cells", probes=10_000)
FEW = TierConfig(index="cells", probes=4, lean=0)
KEPT = {
    "memory": {},
    "disk": {"device_bytes": 0},
    "partly": {"device_bytes": 9000},
    "int8": {"routing_keys": "int8"},
    "int8 partly": {"routing_keys": "int8", "device_bytes": 9000},
    "binary": {"routing_keys": "binary"},
}
VIEWS = ({}, {"namespace": "b"}, {"version": 3}, {"now": 999.0}, {"now": 1001.0, "namespace": ["a", "c"]})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is worth it for a few chunks, and blocks hold a few."""
    monkeypatch.setattr(probing, "SMALLEST", 40)
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 7000})
    monkeypatch.setattr(reader, "FEW", 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with a history: removals, namespaces (one too small for an index), expiry, numbers out of order,
    equal keys, and last of all a segment that is too small for an index."""
    path, rng = tmp_path_factory.mktemp("cells") / "bank", random.Random(5)
    with Bank.create(path, WIDE) as bank:
        late, early = list(bank.reserve(150))[::-1], list(bank.reserve(80))
        for turn, numbers in enumerate((late[:70], early[:1], late[70:], early[1:75], early[75:])):
            counts = [rng.randint(1, 6) for _ in numbers]
            namespace = "abc"[turn % 3]
            passages = make_passages(rng.sample(numbers, len(numbers)), namespace=namespace)
            source = Source(expires=1e3 if turn == 3 else None)
            chunks = make_chunks(counts, WIDE, seed=turn)
            for layer, k_CW in chunks.routing_k.items():
                chunks.routing_k[layer] = torch.nn.functional.normalize(k_CW.float(), dim=1).to(k_CW.dtype)
                chunks.routing_k[layer][-2:] = chunks.routing_k[layer][:2]
            bank.commit(
                passages,
                chunks,
                sources={(namespace, passage.document_id): source for passage in passages},
            )
            gone = [passage.document_id for passage in rng.sample(passages, len(passages) // 4)]
            bank.remove(gone, namespace=namespace)
    return path


@pytest.fixture
def bank(path: Path) -> Iterator[Bank]:
    with Bank.open(path, WIDE) as bank:
        yield bank


def ragged(seed: int) -> tuple[Tensor, Tensor]:
    """Four requests of 3, 0, 5 and 1 tokens that route."""
    return queries(4, 5, WIDE, seed=seed) / 8, torch.arange(5) < torch.tensor([3, 0, 5, 1])[:, None]


def exact(bank: Bank, layer: int, asked: tuple[Tensor, Tensor], **view) -> Tensor:
    """(B, N) exact scores of all documents of a view."""
    every = bank.reader(**view)
    documents = torch.arange(len(every)).expand(len(asked[0]), -1)
    return every.exact_scores(layer, *asked, documents)


def same(found: MemoryKV, expected: MemoryKV) -> None:
    for field in ("documents", "scores", "chunks", "k", "v", "mask", "document_of_slot"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field


def truthful(found: MemoryKV, scores: Tensor, top_k: int) -> None:
    """Compare what is said with the exact scores (B, N)."""
    best, documents = top_documents(scores, min(top_k, scores.shape[1]))
    proven = found.certified
    assert proven is not None
    assert found.documents[proven].tolist() == documents[proven].tolist()
    assert found.scores[proven].tolist() == best[proven].tolist()
    real = found.documents >= 0
    told = scores.gather(1, found.documents.clamp_min(0))
    assert found.scores[real].tolist() == told[real].tolist()
    assert found.all_scores is not None
    assert found.errors is not None
    off = (found.all_scores.double() - scores.double()).abs().nan_to_num(0)
    assert bool((off <= found.errors).all())
    assert bool((found.all_scores[scores.isinf()] == float("-inf")).all())


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("name", KEPT)
def test_with_all_cells_looked_into_it_is_the_exact_search(bank: Bank, name: str, view: dict) -> None:
    asked = ragged(seed=len(name))
    for top_k in (1, 5, 10_000):
        found = bank.reader(top_k=top_k, **view, tiers=replace(ALL, **KEPT[name]))
        expected = bank.reader(top_k=top_k, **view)
        for layer in WIDE.memory_layers:
            memory = found.read(layer, *asked)
            same(memory, expected.read(layer, *asked))
            truthful(memory, exact(bank, layer, asked, **view), top_k)
            assert memory.certified.all()
            assert bool(memory.errors.isfinite().all())


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("view", [view for view in VIEWS if view != {"namespace": "b"}], ids=str)
def test_a_few_cells_are_told_honestly(bank: Bank, name: str, view: dict) -> None:
    asked = ragged(seed=len(name) + 1)
    found = bank.reader(top_k=5, **view, tiers=replace(FEW, **KEPT[name]))
    for layer in WIDE.memory_layers:
        memory = found.read(layer, *asked)
        truthful(memory, exact(bank, layer, asked, **view), 5)
        assert bool((memory.documents[[0, 2, 3]] >= 0).all())
        assert memory.documents[1].tolist() == [-1] * 5  # it routes no token
    report = found.report()
    whole = report.reads * int(found._places.chunks.sum())
    assert report.scanned < whole
    assert 0 < report.uncertified < report.reads


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_certified_is_exact(path: Path, data: st.DataObject) -> None:
    """Whatever is looked into, read and asked."""
    config = TierConfig(
        index="cells",
        probes=data.draw(st.sampled_from([1, 8, 40, 80, 120])),
        lean=data.draw(st.sampled_from([0, 0.5, 2])),
        widen=data.draw(st.booleans()),
        rescored=data.draw(st.sampled_from([None, None, 4])),
        **KEPT[data.draw(st.sampled_from(sorted(KEPT)))],
    )
    layer, top_k = data.draw(st.sampled_from(WIDE.memory_layers)), data.draw(st.integers(1, 20))
    routing_q, query_mask = ragged(data.draw(st.integers(0, 2**31)))
    with Bank.open(path, WIDE) as bank:
        # Close to a key, a bound may close before all cells are looked into.
        stored = next(iter(bank.layout().segments.values()))
        near = bank._files.get(stored).tensor(layer, "routing_k")[data.draw(st.integers(0, 60))].float()
        routing_q[0] = near * data.draw(st.sampled_from([1.0, 100.0]))
        routing_q *= data.draw(st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
        memory = bank.reader(top_k=top_k, tiers=config).read(layer, routing_q, query_mask)
        truthful(memory, exact(bank, layer, (routing_q, query_mask)), top_k)
    assert bool(memory.certified.all()) or not config.widen or config.rescored is not None


def test_widening_ends_where_it_is_proven(bank: Bank) -> None:
    asked = ragged(seed=8)
    found = bank.reader(top_k=5, tiers=replace(FEW, widen=True))
    same(found.read(1, *asked), bank.reader(top_k=5).read(1, *asked))
    assert found.report().uncertified == 0


def test_a_request_finds_the_same_alone_and_beside_others(bank: Bank) -> None:
    routing_q, query_mask = ragged(seed=9)
    found = bank.reader(top_k=5, tiers=FEW)
    together = found.read(3, routing_q, query_mask)
    for b in range(4):
        alone = found.read(3, routing_q[b : b + 1], query_mask[b : b + 1])
        assert torch.equal(alone.documents[0], together.documents[b])
        assert torch.equal(alone.all_scores[0], together.all_scores[b])
        assert torch.equal(alone.certified[0], together.certified[b])


@pytest.mark.parametrize("share", [0.02, 0.4, 0.8])
@pytest.mark.parametrize("config", [ALL, FEW], ids=["all", "few"])
def test_masks_of_requests_come_before_the_top_k(bank: Bank, config: TierConfig, share: float) -> None:
    asked = ragged(seed=2)
    found = bank.reader(top_k=4, tiers=config)
    allowed = torch.rand(4, len(found), generator=torch.Generator().manual_seed(1)) < share
    allowed[3] = False
    found.allowed = allowed
    scores = exact(bank, 1, asked).masked_fill(~allowed, float("-inf"))
    memory = found.read(1, *asked)
    truthful(memory, scores, 4)
    assert memory.documents[3].tolist() == [-1] * 4
    if share < 0.5 or config is ALL:  # what is left is scanned whole
        assert bool(memory.certified.all())


def test_cells_that_promise_as_much_as_what_was_found_are_looked_into_too(bank: Bank) -> None:
    asked, expected = ragged(seed=6), bank.reader(top_k=5)
    right = [documents for documents in expected.read(1, *asked).documents.tolist() if documents[0] >= 0]
    shares, hits = [], []
    for lean in (0, 0.5, 1, 20):
        found = bank.reader(top_k=5, tiers=replace(FEW, lean=lean))
        memory = found.read(1, *asked)
        truthful(memory, exact(bank, 1, asked), 5)
        own = [documents for documents in memory.documents.tolist() if documents[0] >= 0]
        hits.append(sum(len({*a} & {*b}) for a, b in zip(own, right, strict=True)))
        shares.append(found.report().scanned)
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert hits == sorted(hits)
    assert hits[-1] == 15
    assert bool(memory.certified.all())  # all cells were looked into


def test_more_is_looked_into_until_there_are_enough_documents(bank: Bank) -> None:
    asked = ragged(seed=4)
    found = bank.reader(top_k=60, tiers=replace(FEW, probes=1))
    memory = found.read(1, *asked)
    assert bool((memory.documents[[0, 2, 3]] >= 0).all())


def test_clustered_keys_are_found_in_a_small_share_of_the_cells(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    topics = torch.nn.functional.normalize(torch.randn(300, WIDE.width, generator=generator), dim=1)
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        for turn in range(3):
            numbers, chunks = list(bank.reserve(1500)), make_chunks([1, 2] * 750, WIDE, seed=turn)
            for layer, k_CW in chunks.routing_k.items():
                around = topics[torch.randint(300, (len(k_CW),), generator=generator)]
                k_CW.copy_(torch.nn.functional.normalize(around + 0.05 * k_CW.float(), dim=1))
                assert layer in WIDE.memory_layers
            bank.commit(make_passages(numbers), chunks)
        near = topics[torch.randint(300, (40, 2), generator=generator)]
        routing_q = near + 0.05 * torch.randn(near.shape, generator=generator)
        found, expected = bank.reader(tiers=replace(FEW, probes=24)), bank.reader()
        for layer in WIDE.memory_layers:
            memory = found.read(layer, routing_q, all_tokens(routing_q))
            exactly = expected.read(layer, routing_q, all_tokens(routing_q))
            pairs = zip(memory.documents.tolist(), exactly.documents.tolist(), strict=True)
            hits = sum(len(set(own) & set(other)) for own, other in pairs)
            assert hits >= 0.99 * 16 * len(routing_q)
        assert found.report().scanned < 0.1 * expected.report().scanned


def test_new_documents_are_found_and_a_small_group_has_no_index(tmp_path: Path) -> None:
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        add(bank, [4] * 50)
        first, routing_q = bank.reader(top_k=3, tiers=FEW), queries(1, 2, WIDE)
        first.read(1, routing_q, all_tokens(routing_q))
        passages, chunks = add(bank, [3], prefix="new", seed=1)
        second = bank.reader(top_k=3, tiers=FEW)
        near = chunks.routing_k[1][None, :1].float()
        assert second.numbers[second.read(1, near, all_tokens(near)).documents[0, 0]] == passages[0].number
        assert int(second._probing._scanned[0].visible) == 3
        bank.remove([passages[0].document_id])
        third = bank.reader(top_k=3, tiers=FEW)
        assert passages[0].number not in third.numbers[third.read(1, near, all_tokens(near)).documents[0]]
        assert first.read(1, routing_q, all_tokens(routing_q)).documents.shape == (1, 3)


def test_a_small_bank_and_an_empty_one_are_read_without(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Probing, "look", None)
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        routing_q = queries(2, 2, WIDE)
        assert bank.reader(tiers=FEW).read(1, routing_q, all_tokens(routing_q)).documents.shape == (2, 0)
        add(bank, [3] * 10)
        memory = bank.reader(top_k=4, tiers=FEW).read(1, routing_q, all_tokens(routing_q))
        same(memory, bank.reader(top_k=4).read(1, routing_q, all_tokens(routing_q)))


def test_rules_that_take_no_scan_take_no_index(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probing, "look", None)
    asked = ragged(seed=1)
    rule = RoutingRule(query_reduce="mean")
    memory = bank.reader(rule=rule, tiers=FEW).read(1, *asked)
    same(memory, bank.reader(rule=rule).read(1, *asked))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"index": "tree"}, "index is 'tree'; use one of none, cells"),
        ({"probes": 0}, "probes is 0; it must be at least 1"),
        ({"lean": -1.0}, "lean is -1.0; it must be 0 or more, and finite"),
        ({"lean": float("nan")}, "lean is nan; it must be 0 or more, and finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TierConfig(**setting)


@pytest.mark.gpu
@pytest.mark.parametrize("name", KEPT)
def test_an_accelerator_finds_the_same(bank: Bank, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(keys, "LARGE_BLOCK_BYTES", 7000)
    device = torch.accelerator.current_accelerator()
    routing_q, query_mask = ragged(seed=4)
    for config in (ALL, FEW):
        expected, found = (bank.reader(top_k=5, tiers=replace(config, **KEPT[name])) for _ in range(2))
        for layer in WIDE.memory_layers * 2:
            memory = found.read(layer, routing_q.to(device), query_mask.to(device))
            on_cpu = expected.read(layer, routing_q, query_mask)
            for field in ("documents", "scores", "chunks", "certified"):
                assert getattr(memory, field).device.type == device.type
                assert torch.equal(getattr(memory, field).cpu(), getattr(on_cpu, field))
