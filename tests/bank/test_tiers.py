"""The same bank through every tier: the same documents, scores and chunks."""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.bank import Bank, BankReader, Source, TierConfig, keys, reader, scan_files, scanning, tiers
from memsparse.bank.keys import KeyBudget, KeyTier
from memsparse.bank.segments import EncodedChunks
from memsparse.errors import BankError, ConfigError, ShapeError
from memsparse.ops import certificate
from memsparse.ops.quantization import ScanKeys, key_bytes
from memsparse.ops.routing import top_documents
from memsparse.types import MemoryKV
from tests.bank.builders import FINGERPRINT, add, all_tokens, make_chunks, make_passages, queries

WIDE = replace(FINGERPRINT, head_dim=16, dtype="bfloat16")
LOSSY = ("fp8", "int8", "int4", "binary")
CONFIGS = {
    "memory": TierConfig(),
    "disk": TierConfig(device_bytes=0, host_bytes=0),
    "partly": TierConfig(device_bytes=6000, host_bytes=2000),
    "float32": TierConfig(routing_keys="float32"),
    **{name: TierConfig(routing_keys=name) for name in LOSSY},
    "int8 from disk": TierConfig(routing_keys="int8", device_bytes=0),
    "int8 content": TierConfig(content="int8"),
}
VIEWS = ({}, {"namespace": "b"}, {"version": 3}, {"now": 999.0}, {"now": 1001.0, "namespace": ["a", "c"]})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with a history: six segments, removals, namespaces, expiry, numbers out of order, equal keys."""
    path, rng = tmp_path_factory.mktemp("tiers") / "bank", random.Random(3)
    with Bank.create(path, WIDE) as bank:
        late, early = list(bank.reserve(120))[::-1], list(bank.reserve(60))
        for turn, numbers in enumerate((late[:50], early[:1], late[50:], early[1:30], early[30:])):
            counts = [rng.randint(1, 6) for _ in numbers]
            namespace = "abc"[turn % 3]
            passages = make_passages(rng.sample(numbers, len(numbers)), namespace=namespace)
            source = Source(expires=1e3 if turn == 3 else None)
            bank.commit(
                passages,
                with_ties(make_chunks(counts, WIDE, seed=turn)),
                sources={(namespace, passage.document_id): source for passage in passages},
            )
            gone = [passage.document_id for passage in rng.sample(passages, len(passages) // 4)]
            bank.remove(gone, namespace=namespace)
    return path


def with_ties(chunks: EncodedChunks) -> EncodedChunks:
    """Unit keys, the last two chunks as the first two."""
    routing_k = {}
    for layer, k_CW in chunks.routing_k.items():
        k_CW = torch.nn.functional.normalize(k_CW.float(), dim=1).to(k_CW.dtype)
        k_CW[-2:] = k_CW[:2] if len(k_CW) > 3 else k_CW[-2:]
        routing_k[layer] = k_CW
    return replace(chunks, routing_k=routing_k)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 7000})
    monkeypatch.setattr(tiers, "WORTH_A_FILE", 0)
    monkeypatch.setattr(reader, "FEW", 3)


@pytest.fixture
def bank(path: Path) -> Iterator[Bank]:
    with Bank.open(path, WIDE) as bank:
        yield bank


def exact(bank: Bank, layer: int, routing_q: Tensor, query_mask: Tensor, **view) -> tuple[Tensor, Tensor]:
    """Scores (B, N) in float64 rounded to float32, and the first of the best chunks of each document."""
    layout = bank.layout(**view)
    scores = torch.full((len(routing_q), len(layout.rows)), float("-inf"))
    chunks = torch.full(scores.shape, -1)
    if not layout.rows:
        return scores, chunks
    files = {id_: bank._files.get(record) for id_, record in layout.segments.items()}
    stored = [files[id_].tensor(layer, "routing_k")[at : at + count] for _, id_, at, count in layout.rows]
    k_CW = torch.cat(stored).double()
    for b, mask in enumerate(query_mask):
        if not bool(mask.any()):
            continue
        of_chunk = (k_CW @ routing_q[b, mask].double().T).amax(1).float()
        for index, part in enumerate(of_chunk.split([len(part) for part in stored])):
            scores[b, index], chunks[b, index] = part.max(), part.argmax()
    return scores, chunks


def ragged(seed: int) -> tuple[Tensor, Tensor]:
    """Four requests of 3, 0, 5 and 1 tokens that route."""
    routing_q = queries(4, 5, WIDE, seed=seed) / 8
    return routing_q, torch.arange(5) < torch.tensor([3, 0, 5, 1])[:, None]


def check(
    bank: Bank,
    found: BankReader,
    layer: int,
    routing_q: Tensor,
    query_mask: Tensor,
    *,
    expected: tuple[Tensor, Tensor] | None = None,
    **view,
) -> None:
    """Compare one read with exact scores."""
    scores, chunks = expected or exact(bank, layer, routing_q, query_mask, **view)
    best, documents = top_documents(scores, min(found.top_k, scores.shape[1]))
    memory = found.read(layer, routing_q, query_mask)
    assert memory.documents.tolist() == documents.tolist()
    assert memory.scores.tolist() == best.tolist()
    real = documents >= 0
    assert memory.chunks[real].tolist() == chunks.gather(1, documents.clamp_min(0))[real].tolist()
    assert memory.certified is None or bool(memory.certified.all())
    if memory.errors is None:
        assert torch.equal(memory.all_scores, scores)
    else:
        off = (memory.all_scores.double() - scores.double()).abs().nan_to_num(0)
        assert bool((off <= memory.errors).all())
        assert bool((memory.errors[scores.isinf()] == 0).all())
        assert torch.equal(memory.all_scores.isinf(), scores.isinf())
    asked = torch.arange(scores.shape[1])[None, ::3].repeat(len(scores), 1)
    asked[0, 0] = -1
    assert found.exact_scores(layer, routing_q, query_mask, asked)[1:].equal(scores[:, ::3][1:])
    assert found.exact_scores(layer, routing_q, query_mask, asked)[0, 0] == float("-inf")


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_tier_finds_what_exact_scores_find(bank: Bank, name: str, view: dict) -> None:
    routing_q, query_mask = ragged(seed=len(name))
    readers = [bank.reader(top_k=top_k, **view, tiers=CONFIGS[name]) for top_k in (1, 5, 10_000)]
    for layer in WIDE.memory_layers:
        expected = exact(bank, layer, routing_q, query_mask, **view)
        for found in readers:
            check(bank, found, layer, routing_q, query_mask, expected=expected)
    found = bank.reader(top_k=5, **view, tiers=CONFIGS[name]).read(1, routing_q, query_mask)
    memory = bank.reader(top_k=5, **view).read(1, routing_q, query_mask)
    assert torch.equal(found.mask, memory.mask)
    assert torch.equal(found.document_of_slot, memory.document_of_slot)
    loose = memory.k.abs().max() / 250 if name == "int8 content" else 0
    torch.testing.assert_close(found.k, memory.k, atol=float(loose), rtol=0)
    torch.testing.assert_close(found.v, memory.v, atol=float(loose), rtol=0)


def check_sifted(found: MemoryKV, scores: Tensor, _: Tensor) -> None:
    """What a scan left says nothing wrong of any document."""
    sifted = found.sifted
    assert sifted is not None
    assert bool((sifted.documents.diff() > 0).all())
    own = scores[:, sifted.documents]
    assert bool((own <= sifted.upper).all())
    others = scores.index_fill(1, sifted.documents, float("-inf"))
    assert bool((others.amax(1) <= sifted.beyond).all())
    for row, chosen in zip(found.documents.tolist(), sifted.documents.expand(len(scores), -1), strict=True):
        assert {index for index in row if index >= 0} <= set(chosen.tolist())


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_scores_of_all_documents_are_told_when_asked_for(bank: Bank, name: str, view: dict) -> None:
    routing_q, query_mask = ragged(seed=5)
    found = bank.reader(all_scores=False, **view, tiers=CONFIGS[name])
    scores, _ = exact(bank, 1, routing_q, query_mask, **view)
    before = found.report().scanned
    told, errors = found.bound_all(1, routing_q, query_mask)
    off = (told.double() - scores.double()).abs().nan_to_num(0)
    assert bool((off <= errors).all())
    assert torch.equal(told.isinf(), scores.isinf())
    assert bool((errors[scores.isinf()] == 0).all())
    assert found.report().scanned > before
    found.allowed = torch.ones(2, len(found), dtype=torch.bool)
    with pytest.raises(ShapeError, match="allowed"):
        found.bound_all(1, routing_q, query_mask)


@pytest.mark.parametrize("tile", [7, 100, 2**19])
@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_and_scores_that_are_not_kept_change_nothing(
    bank: Bank, name: str, view: dict, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    routing_q, query_mask = ragged(seed=tile)
    for top_k in (1, 5):
        wanted = bank.reader(top_k=top_k, **view).read(1, routing_q, query_mask)
        monkeypatch.setattr(scanning, "TILE", tile)
        lean = bank.reader(top_k=top_k, all_scores=False, **view, tiers=CONFIGS[name])
        for all_scores, found in (
            (False, lean.read(1, routing_q, query_mask)),
            (True, bank.reader(top_k=top_k, **view, tiers=CONFIGS[name]).read(1, routing_q, query_mask)),
        ):
            for field in ("documents", "scores", "chunks", "mask", "document_of_slot"):
                assert torch.equal(getattr(found, field), getattr(wanted, field)), field
            assert found.certified is None or bool(found.certified.all())
            assert all_scores <= (found.all_scores is not None)
            assert (found.all_scores is None) == (found.sifted is not None)
            if found.sifted is not None:
                check_sifted(found, *exact(bank, 1, routing_q, query_mask, **view))
        monkeypatch.undo()


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_an_accelerator_finds_the_same(bank: Bank, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Twice in every layer: what is copied, and what is held."""
    monkeypatch.setattr(keys, "LARGE_BLOCK_BYTES", 7000)
    device = torch.accelerator.current_accelerator()
    routing_q, query_mask = ragged(seed=4)
    expected, found = (bank.reader(top_k=5, tiers=CONFIGS[name]) for _ in range(2))
    for layer in WIDE.memory_layers * 2:
        memory = found.read(layer, routing_q.to(device), query_mask.to(device))
        on_cpu = expected.read(layer, routing_q, query_mask)
        for field in ("documents", "scores", "chunks", "k", "v", "mask", "document_of_slot"):
            assert getattr(memory, field).device.type == device.type
            assert torch.equal(getattr(memory, field).cpu(), getattr(on_cpu, field))
        assert bool(memory.certified.all())
        exact_BN = exact(bank, layer, routing_q, query_mask)[0]
        off = (memory.all_scores.cpu().double() - exact_BN.double()).abs().nan_to_num(0)
        assert bool((off <= memory.errors.cpu()).all())


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_found_where_no_request_routes_a_token(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, name: str, tokens: int
) -> None:
    monkeypatch.setattr(reader, "FEW", 2)
    routing_q = queries(2, 3, WIDE)[:, :tokens]
    for all_scores in (False, True):
        asked = bank.reader(top_k=5, tiers=CONFIGS[name], all_scores=all_scores)
        found = asked.read(1, routing_q, torch.zeros(2, tokens, dtype=torch.bool))
        assert found.documents.tolist() == found.chunks.tolist() == [[-1] * 5] * 2
        assert bool(found.scores.isneginf().all())
        assert not bool(found.mask.any())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bank_of_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(reader, "FEW", 0)
    routing_q, query_mask = ragged(seed=1)
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        bank.commit(make_passages(list(bank.reserve(1))), with_ties(make_chunks([3], WIDE)))
        check(bank, bank.reader(tiers=CONFIGS[name]), 3, routing_q, query_mask)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_certified_is_exact(path: Path, data: st.DataObject) -> None:
    """Whatever the format, the budget and the question, and when bounds are looked at again."""
    config = TierConfig(
        routing_keys=data.draw(st.sampled_from(LOSSY)),
        rescored=data.draw(st.sampled_from([None, 1, 4, 20])),
    )
    layer, top_k = data.draw(st.sampled_from(WIDE.memory_layers)), data.draw(st.integers(1, 20))
    routing_q, query_mask = ragged(data.draw(st.integers(0, 2**31)))
    routing_q = routing_q * data.draw(st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
    first, again = data.draw(st.sampled_from([(1, 1), (1, 20), (certificate.FIRST, certificate.AGAIN)]))
    with Bank.open(path, WIDE) as bank, pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "FIRST", first)
        patch.setattr(certificate, "AGAIN", again)
        found = bank.reader(top_k=top_k, tiers=config)
        memory = found.read(layer, routing_q, query_mask)
        best, documents = top_documents(exact(bank, layer, routing_q, query_mask)[0], top_k)
    assert memory.certified is not None
    assert bool(memory.certified.all()) or config.rescored is not None
    assert memory.documents[memory.certified].tolist() == documents[memory.certified].tolist()
    assert memory.scores[memory.certified].tolist() == best[memory.certified].tolist()
    assert found.report().uncertified == int((~memory.certified).sum())


def test_a_budget_of_exact_scores_is_kept_and_told(bank: Bank) -> None:
    routing_q, query_mask = ragged(seed=5)
    found = bank.reader(top_k=3, tiers=TierConfig(routing_keys="binary", rescored=4))
    memory = found.read(1, routing_q, query_mask)
    assert memory.certified.tolist() == [False, True, False, False]  # the second routes no token
    assert bool((memory.documents[[0, 2, 3]] >= 0).all())
    assert found.report().rescored <= 4 * 4
    assert found.report().uncertified == 3


def test_masks_of_requests_come_before_the_top_k(bank: Bank) -> None:
    routing_q, query_mask = ragged(seed=2)
    for name in ("memory", "int8", "binary"):
        found = bank.reader(top_k=4, tiers=CONFIGS[name])
        allowed = torch.rand(4, len(found), generator=torch.Generator().manual_seed(1)) < 0.02
        allowed[3] = False
        found.allowed = allowed
        scores = exact(bank, 1, routing_q, query_mask)[0].masked_fill(~allowed, float("-inf"))
        best, documents = top_documents(scores, 4)
        memory = found.read(1, routing_q, query_mask)
        assert memory.documents.tolist() == documents.tolist()
        assert memory.scores.tolist() == best.tolist()
        every = torch.arange(len(found)).expand(4, -1)
        assert torch.equal(found.exact_scores(1, routing_q, query_mask, every), scores)


def test_readers_share_what_is_held_and_a_new_version_loads_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 1000})
    loaded = []
    read = KeyTier._read
    monkeypatch.setattr(
        KeyTier, "_read", lambda tier, *what: (loaded.append(what[1].segments[0].id), read(tier, *what))[1]
    )
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        for turn in range(4):
            add(bank, [4] * 8, prefix=f"{turn}-", seed=turn)
        first, routing_q = bank.reader(), queries(1, 3, WIDE)
        first.read(1, routing_q, all_tokens(routing_q))
        before = len(loaded)
        held = first.report().key_bytes
        assert before == 4
        assert held > 0
        bank.remove(["0-3"])
        second = bank.reader()
        second.read(1, routing_q, all_tokens(routing_q))
        assert len(loaded) == before
        add(bank, [4] * 8, prefix="new-", seed=9)
        third = bank.reader()
        check(bank, third, 1, routing_q, all_tokens(routing_q))
        assert len(loaded) == before + 1
        assert second.report().key_bytes == third.report().key_bytes > held
        add(bank, [1], prefix="small-", seed=10)
        add(bank, [1], prefix="smaller-", seed=11)
        fourth = bank.reader()
        check(bank, fourth, 1, routing_q, all_tokens(routing_q))
        check(bank, bank.reader(version=6), 1, routing_q, all_tokens(routing_q), version=6)
        assert first.read(1, routing_q, all_tokens(routing_q)).documents.shape == (1, 16)


@pytest.mark.parametrize(
    ("dtype", "device_bytes", "expected"),
    [
        ("bfloat16", 10**6, "bf16"),
        ("float32", 10**6, "float32"),
        ("float16", 10**6, "float32"),
        ("bfloat16", 2 * 100 * 72 - 1, "int8"),
        ("bfloat16", 2 * 100 * 44 - 1, "int4"),
        ("bfloat16", 2 * 100 * 28 - 1, "binary"),
        ("bfloat16", 2 * 100 * 16 - 1, "bf16"),
        ("bfloat16", 0, "bf16"),
    ],
)
def test_auto_takes_the_best_format_that_fits(dtype: str, device_bytes: int, expected: str) -> None:
    fingerprint = replace(WIDE, dtype=dtype)
    chosen = tiers.choose_format(TierConfig(), fingerprint, chunks=100, device_bytes=device_bytes)
    assert chosen == expected
    asked = TierConfig(routing_keys="int4")
    assert tiers.choose_format(asked, fingerprint, chunks=100, device_bytes=device_bytes) == "int4"


def filled(bank: Bank, namespace: str, passages: int, seed: int) -> None:
    numbers = list(bank.reserve(passages))
    chunks = make_chunks([3] * passages, bank.fingerprint, seed=seed)
    bank.commit(make_passages(numbers, namespace=namespace), chunks)


def test_the_formats_of_a_growing_bank_share_one_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "multiplies_integers", lambda width: False)
    monkeypatch.setattr(reader, "FEW", 3)
    layers = len(WIDE.memory_layers)
    config = TierConfig(device_bytes=330 * layers * key_bytes(WIDE.width, "bf16"))
    routing_q = torch.nn.functional.normalize(torch.randn(1, 4, WIDE.width), dim=-1)
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        for passages, expected in ((100, "bf16"), (70, "int8")):
            filled(bank, "a", passages, seed=passages)
            found = bank.reader(top_k=4, tiers=config)
            for layer in WIDE.memory_layers:
                found.read(layer, routing_q, all_tokens(routing_q))
            report = found.report()
            assert report.routing_keys == expected
            assert 0 < report.key_bytes <= (config.device_bytes or 0)
        chunks = sum(record.chunks for record in bank.layout().segments.values())
        assert report.key_bytes == chunks * layers * key_bytes(WIDE.width, "int8")


def test_what_another_reader_merged_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    quantize = scan_files.quantize_keys

    def counted(*arguments: Any) -> ScanKeys:
        calls.append(1)
        return quantize(*arguments)

    monkeypatch.setattr(scan_files, "quantize_keys", counted)
    monkeypatch.setattr(reader, "FEW", 3)
    routing_q = torch.nn.functional.normalize(torch.randn(1, 4, WIDE.width), dim=-1)
    query_mask, config = all_tokens(routing_q), TierConfig(routing_keys="int8")
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        filled(bank, "a", 40, seed=1)
        filled(bank, "b", 30, seed=2)
        one, other = (bank.reader(top_k=4, tiers=config, namespace=name) for name in "ab")
        before = one.read(1, routing_q, query_mask)
        other.read(1, routing_q, query_mask)
        calls.clear()
        for _ in range(3):
            assert torch.equal(one.read(1, routing_q, query_mask).documents, before.documents)
        assert not calls


@pytest.mark.parametrize(
    ("chunks", "device_bytes", "expected"),
    [
        (100, 10**9, "bf16"),
        (2**16, 10**9, "int8"),
        (2**16, 2 * 2**16 * 44 - 1, "int4"),
        (2**16, 0, "bf16"),
    ],
)
def test_auto_takes_integers_where_they_are_fast(chunks: int, device_bytes: int, expected: str) -> None:
    given = {"chunks": chunks, "device_bytes": device_bytes, "integers": True}
    assert tiers.choose_format(TierConfig(), WIDE, **given) == expected
    assert tiers.choose_format(TierConfig(routing_keys="bf16"), WIDE, **given) == "bf16"


def test_auto_takes_no_format_the_width_does_not_divide_into() -> None:
    odd = replace(WIDE, kv_heads=1, head_dim=12)
    bits = 2 * 100 * 20
    assert tiers.choose_format(TierConfig(), odd, chunks=100, device_bytes=bits) == "int4"
    assert tiers.choose_format(TierConfig(), odd, chunks=100, device_bytes=bits - 1000) == "bf16"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"routing_keys": "int3"}, "routing_keys is 'int3'; use one of auto, float32, bf16"),
        ({"content": "int4"}, "content is 'int4'; use one of stored, int8"),
        ({"device_bytes": -1}, "device_bytes is -1; it must be at least 0, or None"),
        ({"host_bytes": -5}, "host_bytes is -5; it must be at least 0"),
        ({"rescored": 0}, "rescored is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TierConfig(**setting)


@pytest.mark.parametrize("name", ["device_bytes", "host_bytes"])
def test_a_budget_smaller_than_a_document_is_refused(bank: Bank, name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{name} is 60, one document takes up to \d+ in a layer; allow more"
    ):
        bank.reader(tiers=TierConfig(**{name: 60}))
    assert len(bank.reader(tiers=TierConfig(**{name: 6 * 128}))) > 0


class TestOutOfMemory:
    """With a device that is not there: only what is held for it is looked at."""

    error = torch.OutOfMemoryError("tried to allocate 20.00 GiB\nmore")
    device = torch.device("cuda", 0)

    def test_a_device_loses_a_tier_at_a_time(self, bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
        used = bank._shared_tiers(TierConfig(device_bytes=10**6))
        used._budgets[self.device] = KeyBudget(10**6)
        tier = used.keys(self.device, chunks=9)
        assert used.scan_device(self.device) == self.device
        with caplog.at_level(logging.WARNING):
            used.fall_back(self.device, self.error)
        assert (tier.budget.total, used.scan_device(self.device)) == (0, self.device)
        assert used.keys(self.device, chunks=9) is tier
        used.fall_back(self.device, self.error, known=0)  # another read failed of the same want
        assert used.scan_device(self.device) == self.device
        used.fall_back(self.device, self.error)
        assert used.scan_device(self.device) == torch.device("cpu")
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert used.fallbacks == [
            "cuda:0 is out of memory: routing keys (0 bytes) are read block by block",
            "cuda:0 is out of memory: routing keys are scanned on the processor",
        ]
        with pytest.raises(
            BankError, match=r"out of memory while reading the bank \(tried .* GiB\); nothing was"
        ):
            used.fall_back(self.device, self.error)

    def test_the_read_is_repeated(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        found, failures = bank.reader(top_k=4, tiers=CONFIGS["int8"]), [self.error, self.error]
        routing_q, query_mask = ragged(seed=3)
        expected = found.read(1, routing_q, query_mask)
        scan = scanning.Scan.bounds

        def scan_or_fail(*args, **options):
            if failures:
                raise failures.pop()
            return scan(*args, **options)

        told = []
        monkeypatch.setattr(scanning.Scan, "bounds", scan_or_fail)
        monkeypatch.setattr(
            found._tiers, "fall_back", lambda device, error, *, known: told.append((device, known))
        )
        assert torch.equal(found.read(1, routing_q, query_mask).documents, expected.documents)
        assert told == [(torch.device("cpu"), 0)] * 2

    def test_without_a_tier_left_it_is_an_error_and_the_bank_is_well(
        self, bank: Bank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = bank.reader()
        routing_q, query_mask = ragged(seed=3)
        with monkeypatch.context() as patch:
            patch.setattr(scanning.Scan, "bounds", self._fail)
            with pytest.raises(BankError, match="out of memory"):
                found.read(1, routing_q, query_mask)
        check(bank, found, 1, routing_q, query_mask)

    def test_a_lost_accelerator_is_an_error(self, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
        def lost(*args, **options):
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nand more")

        monkeypatch.setattr(scanning.Scan, "bounds", lost)
        routing_q, query_mask = ragged(seed=3)
        with pytest.raises(
            BankError, match=r"\(CUDA error: unspecified launch failure\); the bank is intact"
        ):
            bank.reader().read(1, routing_q, query_mask)

    def _fail(self, *args, **options):
        raise self.error
