import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from memsparse.bank import Bank, Source, TierConfig
from memsparse.bank import keys as keys_module
from memsparse.bank import reader as reader_module
from memsparse.bank.probing import Probed
from memsparse.errors import BankMismatchError, ConfigError, ShapeError
from memsparse.ops.certificate import Scored
from memsparse.ops.routing import RoutingRule
from tests.bank.builders import FINGERPRINT, add, all_tokens, make_chunks, make_passages, queries


@dataclass
class Stored:
    number: int
    namespace: str
    expires: float | None
    routing_k: dict[int, Tensor]
    k: dict[int, Tensor]
    v: dict[int, Tensor]


def expect(documents: list[Stored], layer: int, routing_q: Tensor, query_mask: Tensor, top_k: int):
    """What a reader must answer, one request, document, chunk and token at a time."""
    rows = []
    for q, tokens in zip(routing_q, query_mask, strict=True):
        scores = [
            max(
                float(token.double() @ chunk.double())
                for token in q[tokens]
                for chunk in document.routing_k[layer]
            )
            for document in documents
        ]
        best = sorted(range(len(documents)), key=lambda index: (-scores[index], index))[:top_k]
        chosen = [documents[index] for index in sorted(best)]
        k = torch.cat([document.k[layer] for document in chosen])
        v = torch.cat([document.v[layer] for document in chosen])
        owner = [best.index(index) for index in sorted(best) for _ in documents[index].k[layer]]
        rows.append((best, [scores[index] for index in best], k, v, owner, scores))
    return rows


def check(
    reader, documents: list[Stored], layer: int, routing_q: Tensor, query_mask: Tensor, top_k: int
) -> None:
    assert reader.numbers.tolist() == [document.number for document in documents]
    memory = reader.read(layer, routing_q, query_mask)
    for b, (best, scores, k, v, owner, all_scores) in enumerate(
        expect(documents, layer, routing_q, query_mask, top_k)
    ):
        slots = len(k)
        assert memory.documents[b].tolist() == best
        torch.testing.assert_close(memory.scores[b].tolist(), scores, atol=1e-5, rtol=1e-5)
        off = (memory.all_scores[b] - torch.tensor(all_scores)).abs()
        assert (off <= 1e-5 + (0 if memory.errors is None else memory.errors[b])).all()
        assert memory.mask[b, 0].tolist() == [True] * slots + [False] * (memory.mask.shape[2] - slots)
        assert torch.equal(memory.k[b, :, :slots].transpose(0, 1), k.to(routing_q.dtype))
        assert torch.equal(memory.v[b, :, :slots].transpose(0, 1), v.to(routing_q.dtype))
        assert not memory.k[b, :, slots:].any()
        assert memory.document_of_slot[b, :slots].tolist() == owner
        for index, chunk in zip(best, memory.chunks[b].tolist(), strict=False):
            keys = documents[index].routing_k[layer].double()
            of_chunk = (routing_q[b, query_mask[b]].double() @ keys.T).amax(0)
            torch.testing.assert_close(of_chunk[chunk], of_chunk.max(), atol=1e-5, rtol=1e-5)
        assert memory.chunks[b, len(best) :].tolist() == [-1] * (memory.chunks.shape[1] - len(best))
    assert memory.mask.shape[2] == memory.k.shape[2] == int(memory.mask.sum(2).max())
    assert not memory.scores.requires_grad


@pytest.fixture
def bank(tmp_path):
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        yield bank


@pytest.mark.parametrize("device_bytes", [2**30, 0], ids=["held", "mapped"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force_over_a_bank_with_a_history(tmp_path, monkeypatch, seed, dtype, device_bytes):
    monkeypatch.setattr(keys_module, "BLOCK_BYTES", {"cpu": 500})
    monkeypatch.setattr(reader_module, "FEW", 2)
    rng, tiers = random.Random(seed), TierConfig(device_bytes=device_bytes)
    fingerprint = replace(FINGERPRINT, dtype=dtype)
    live: dict[str, Stored] = {}
    with Bank.create(tmp_path / "bank", fingerprint) as bank:
        early, late = bank.reserve(6), bank.reserve(50)
        blocks = [late[:9], early, late[9:20], late[20:21], late[21:40]]
        for turn, numbers in enumerate(blocks):
            namespace, expires = rng.choice(["a", "b"]), rng.choice([None, None, 1e3, 4e9])
            shuffled = rng.sample(list(numbers), len(numbers))
            passages = make_passages(shuffled, namespace=namespace)
            counts = [rng.randint(1, 5) for _ in numbers]
            chunks = make_chunks(counts, fingerprint, seed=100 * seed + turn)
            source = Source(expires=expires)
            bank.commit(passages, chunks, sources={(namespace, p.document_id): source for p in passages})
            start = 0
            for passage, count in zip(passages, counts, strict=True):
                here = slice(start, start + count)
                live[passage.document_id] = Stored(
                    passage.number,
                    namespace,
                    expires,
                    *(
                        {layer: tensor[here] for layer, tensor in layers.items()}
                        for layers in (chunks.routing_k, chunks.k, chunks.v)
                    ),
                )
                start += count
            for document_id in rng.sample(sorted(live), len(live) // 4):
                bank.remove([document_id], namespace=live.pop(document_id).namespace)
        routing_q = queries(batch=3, tokens=4, seed=seed)
        query_mask = torch.tensor([[True] * 4, [False, True, True, False], [False, False, False, True]])
        for namespace in (None, "a", "b"):
            for now in (999.0, 1001.0):
                documents = [
                    document
                    for document in sorted(live.values(), key=lambda stored: stored.number)
                    if namespace in (None, document.namespace)
                    and (document.expires is None or document.expires > now)
                ]
                for top_k in (1, 3, 1000):
                    reader = bank.reader(top_k=top_k, namespace=namespace, now=now, tiers=tiers)
                    if documents:
                        for layer in fingerprint.memory_layers:
                            check(reader, documents, layer, routing_q, query_mask, top_k)
                    else:
                        assert len(reader) == 0


def test_an_empty_bank_reads_as_no_memory(bank):
    routing_q = queries(batch=2)
    memory = bank.reader().read(1, routing_q, all_tokens(routing_q))
    assert memory.k.shape == memory.v.shape == (2, 2, 0, 4)
    assert memory.mask.shape == (2, 1, 0)
    assert memory.documents.shape == memory.all_scores.shape == (2, 0)
    assert bank.reader().scores(1, routing_q, all_tokens(routing_q)).shape == (2, 0)


def test_fewer_documents_than_top_k_are_all_read(bank):
    add(bank, [2, 1, 3])
    memory = bank.reader(top_k=16).read(1, queries(), all_tokens(queries()))
    assert sorted(memory.documents[0].tolist()) == [0, 1, 2]
    assert bool(memory.mask.all())
    assert memory.k.shape == (2, 2, 6, 4)


def test_ties_go_to_the_lower_number(bank):
    numbers = bank.reserve(6)
    same = make_chunks([1] * 6)
    same = replace(same, routing_k={layer: torch.ones(6, 8) for layer in FINGERPRINT.memory_layers})
    bank.commit(make_passages([numbers[i] for i in (3, 1, 5, 0, 4, 2)]), same)
    reader = bank.reader(top_k=3)
    memory = reader.read(1, queries(), all_tokens(queries()))
    assert reader.numbers[memory.documents].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert torch.equal(memory.k[0, :, 0], same.k[1][3])


def test_a_reader_keeps_the_view_it_was_made_with(bank):
    add(bank, [1, 2])
    reader = bank.reader()
    before = reader.read(1, queries(), all_tokens(queries()))
    bank.remove(["doc0"])
    add(bank, [3], prefix="new")
    bank.close()
    after = reader.read(1, queries(), all_tokens(queries()))
    assert torch.equal(before.k, after.k)
    assert torch.equal(before.scores, after.scores)


def test_repeated_questions_do_not_read_the_keys_again(bank, monkeypatch):
    monkeypatch.setattr(reader_module, "FEW", 1)
    add(bank, [1, 2])
    reader = bank.reader()
    first = reader.read(1, queries(), all_tokens(queries()))
    monkeypatch.setattr(keys_module.KeyTier, "_read", None)
    assert torch.equal(reader.read(1, queries(), all_tokens(queries())).scores, first.scores)


def test_keys_are_copied_only_where_what_is_not_seen_lies_between(bank, monkeypatch):
    monkeypatch.setattr(reader_module, "FEW", 1)
    selected = []
    select = keys_module.ScanKeys.select
    monkeypatch.setattr(
        keys_module.ScanKeys, "select", lambda keys, rows: selected.append(len(rows)) or select(keys, rows)
    )
    add(bank, [1, 2], namespace="a")
    before = bank.reader(top_k=1).read(1, queries(), all_tokens(queries()))
    add(bank, [3] * 9, namespace="b", prefix="more")
    add(bank, [2], namespace="a", prefix="late")
    whole = bank.reader(top_k=1)  # as long as it lives, others share its block
    whole.read(1, queries(), all_tokens(queries()))
    reader = bank.reader(top_k=1, version=1)
    assert torch.equal(reader.read(1, queries(), all_tokens(queries())).scores, before.scores)
    bank.reader(namespace="b").read(1, queries(), all_tokens(queries()))
    assert selected == []
    bank.reader(namespace="a").read(1, queries(), all_tokens(queries()))
    assert selected == [5]


def test_allowed_is_a_mask_of_each_request(bank):
    add(bank, [1, 2, 1, 2])
    reader = bank.reader(top_k=3)
    reader.allowed = torch.tensor([[False, True, False, True], [False] * 4])
    memory = reader.read(1, queries(), all_tokens(queries()))
    assert set(memory.documents[0].tolist()) == {1, 3, -1}
    assert memory.documents[0, 2] == -1
    assert memory.documents[1].tolist() == [-1, -1, -1]
    assert memory.mask.sum(2).tolist() == [[4], [0]]
    assert memory.scores[1].tolist() == [float("-inf")] * 3
    reader.allowed = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"allowed is \(1, 4\), scores are \(2, 4\)"):
        reader.read(1, queries(), all_tokens(queries()))


def test_a_request_that_routes_no_token_reads_nothing(bank):
    add(bank, [1, 2])
    query_mask = torch.tensor([[True] * 3, [False] * 3])
    memory = bank.reader().read(1, queries(), query_mask)
    assert memory.documents[1].tolist() == [-1, -1]
    assert not memory.mask[1].any()


@pytest.mark.parametrize("chunk_reduce", ["max", "mean"])
@pytest.mark.parametrize("query_reduce", ["max", "mean", "last"])
@pytest.mark.parametrize("head_reduce", ["mean", "max"])
def test_other_reductions(bank, monkeypatch, head_reduce, query_reduce, chunk_reduce):
    monkeypatch.setattr(keys_module, "BLOCK_BYTES", {"cpu": 120})
    _, chunks = add(bank, [2, 1, 3, 1])
    rule = RoutingRule(head_reduce=head_reduce, query_reduce=query_reduce, chunk_reduce=chunk_reduce)
    q_BTHD = torch.randn(1, 3, 4, 4)
    query_mask = torch.tensor([[True, True, False]])
    scores = bank.reader(rule=rule).scores(3, rule.queries(q_BTHD, 2), query_mask)
    unit = torch.nn.functional.normalize(q_BTHD[0, :2], dim=-1)
    keys = chunks.routing_k[3].view(-1, 2, 1, 4).expand(-1, -1, 2, -1).reshape(-1, 4, 4)
    per_head = torch.einsum("thd,chd->hct", unit, keys)
    by_token = per_head.mean(0) if head_reduce == "mean" else per_head.amax(0)
    by_chunk = {"max": by_token.amax(1), "mean": by_token.mean(1), "last": by_token[:, 1]}[query_reduce]
    parts = by_chunk.split([2, 1, 3, 1])
    expected = torch.stack([part.amax() if chunk_reduce == "max" else part.mean() for part in parts])
    torch.testing.assert_close(scores[0], expected, atol=1e-5, rtol=1e-5)


def test_settings_that_cannot_be_are_refused(bank, tmp_path):
    with pytest.raises(ConfigError, match="top_k is 0"):
        bank.reader(top_k=0)
    with pytest.raises(BankMismatchError, match="for the cosine score, the rule asks for dot"):
        bank.reader(rule=RoutingRule(score="dot"))
    with pytest.raises(ConfigError, match=r"layer 2 has no memory in this bank; \(1, 3\) have"):
        bank.reader().read(2, queries(), all_tokens(queries()))
    with Bank.create(tmp_path / "dot", replace(FINGERPRINT, routing_score="dot")) as dot:
        assert dot.reader().rule.score == "dot"


def test_values_follow_the_query_in_dtype(bank):
    add(bank, [1, 2])
    routing_q = queries().bfloat16().requires_grad_()
    memory = bank.reader().read(1, routing_q, all_tokens(routing_q))
    assert memory.k.dtype == memory.v.dtype == torch.bfloat16
    assert memory.scores.dtype == torch.float32
    assert not memory.scores.requires_grad


@pytest.mark.gpu
def test_an_accelerator_answers_as_the_processor_does(bank):
    add(bank, [1, 2, 3])
    device = torch.accelerator.current_accelerator()
    expected = bank.reader(top_k=2).read(1, queries(), all_tokens(queries()))
    memory = bank.reader(top_k=2).read(1, queries().to(device), all_tokens(queries()).to(device))
    assert memory.k.device.type == device.type
    assert torch.equal(memory.documents.cpu(), expected.documents)
    assert torch.equal(memory.k.cpu(), expected.k)


def test_what_was_scored_tells_no_less_than_a_scan() -> None:
    """A document that is not wanted may have a bound for its score, above the one that was known."""
    inf = float("inf")
    upper = torch.tensor([[4.0, 3.0, 2.0], [-inf, 9.0, 8.0]])
    coarse = Probed(
        lower=upper - 1,
        upper=upper,
        documents=torch.tensor([2, 5, 7]),
        beyond=torch.tensor([1.0, -inf]),
        chunks=3,
    )
    scored = Scored(
        documents=torch.tensor([[0, 2], [1, -1]]),
        scores=torch.tensor([[3.5, 2.5], [8.5, -inf]]),
        lower=upper - 1,
        upper=upper,
    )
    sifted = reader_module._sifted(coarse, scored)
    assert sifted.upper.tolist() == [[3.5, 3.0, 2.0], [-inf, 8.5, 8.0]]
    assert upper[0, 0] == 4


@pytest.mark.parametrize("index", ["none", "cells"])
def test_keys_in_fewer_columns_find_the_same(tmp_path, monkeypatch, index) -> None:
    wide = replace(FINGERPRINT, head_dim=64)
    with Bank.create(tmp_path / "bank", wide) as bank:
        add(bank, [3] * 500, rank=40)
        add(bank, [2] * 40, prefix="more", seed=1, rank=40)
        routing_q = queries(3, 5, wide)
        mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
        found = []
        for projects in (False, True):
            config = TierConfig(routing_keys="int8", projects=projects, index=index, probes=4, widen=True)
            with Bank.open(bank.path, read_only=True) as other:
                reader = other.reader(top_k=6, tiers=config)
                found.append([reader.read(layer, routing_q, mask) for layer in wide.memory_layers])
                held = reader.report().key_bytes
            assert held > 0
            assert (held < 2 * 1580 * 128) == projects
        for plain, projected in zip(*found, strict=True):
            assert torch.equal(plain.documents, projected.documents)
            assert torch.equal(plain.scores, projected.scores)
            assert torch.equal(plain.k, projected.k)
            assert projected.certified.all()
