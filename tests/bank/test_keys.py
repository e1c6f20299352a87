from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.bank import Bank, keys
from memsparse.bank.keys import KeyBudget, KeyTier, stored_keys
from memsparse.bank.scan_files import ScanFiles
from memsparse.errors import BankCorruptError, InputError
from memsparse.ops.quantization import dequantize_keys, key_bytes
from tests.bank.builders import FINGERPRINT, add, flip_byte

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_keys_are_the_keys(dtype: torch.dtype) -> None:
    k_CW = torch.randn(7, 24).to(dtype)
    found = stored_keys(k_CW)
    assert torch.equal(found.codes.float(), k_CW.float())
    assert not found.errors.any()
    assert found.scales is None
    # Kernels read these as arrays, and memory is not pinned where one number stands for all.
    assert all(vector.is_contiguous() for vector in (found.errors, found.norms))


@given(
    width=st.integers(1, 300),
    exponent=st.integers(-45, 17),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=100, deadline=None)
def test_norms_of_stored_keys_are_upper_bounds(
    width: int, exponent: int, seed: int, dtype: torch.dtype
) -> None:
    k_CW = (torch.randn(5, width, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent).to(dtype)
    exact = k_CW.double().norm(dim=1)
    norms = stored_keys(k_CW).norms.double()
    assert bool((norms >= exact).all())
    assert bool((norms <= exact * (1 + 1e-4) + 2.0**-49).all())


def test_keys_too_long_for_float32_are_refused() -> None:
    assert stored_keys(torch.full((1, 2), 1e25)).norms.isfinite().all()
    with pytest.raises(InputError, match="not finite"):
        stored_keys(torch.tensor([[1.0, float("nan")]]))


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    """Segments of 4, 6, 3, 9 and 2 chunks."""
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        for turn, chunks in enumerate((4, 6, 3, 9, 2)):
            add(bank, [chunks], prefix=f"{turn}-", seed=turn)
        yield bank


def make(bank: Bank, monkeypatch: pytest.MonkeyPatch, **options) -> KeyTier:
    """Blocks of up to 10 chunks: (4, 6), (3), (9), (2)."""
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 10 * 40})
    scan_files = ScanFiles(bank._files.folder, bank._files, bank.fingerprint, writes=False)
    options["budget"] = KeyBudget(options.get("budget", 10**6))
    defaults = {"key_format": "float32", "writes_files": False}
    return KeyTier(bank._files, scan_files, bank.fingerprint, CPU, **{**defaults, **options})


def records(bank: Bank):
    return list(bank.layout().segments.values())


@pytest.mark.parametrize("budget", [0, 500, 10**6])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blocks_are_whole_segments_and_stream_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, dtype: str
) -> None:
    with Bank.create(tmp_path / "bank", replace(FINGERPRINT, dtype=dtype)) as bank:
        chunks = [add(bank, [n], prefix=f"{n}-", seed=n)[1] for n in (4, 6, 3, 9, 2)]
        tier = make(bank, monkeypatch, budget=budget)
        blocks = list(dict.fromkeys(tier.place(records(bank)).values()))
        assert [[record.chunks for record in block.segments] for block in blocks] == [[4, 6], [3], [9], [2]]
        assert blocks[0].starts == {1: 0, 2: 4}
        for layer in (3, 1, 3, 1):
            found = torch.cat([block.codes for block in tier.stream(layer, blocks)])
            assert torch.equal(found, torch.cat([part.routing_k[layer] for part in chunks]).float())
        assert tier.held <= budget
        assert tier.held == sum(keys.nbytes for block in blocks for keys in block.kept.values())
        assert tier.budget.held == tier.held
        tier.budget.total = 0
        tier.release()
        assert (tier.budget.held, tier.held) == (0, 0)
        found = torch.cat([block.codes for block in tier.stream(1, blocks)])
        assert torch.equal(found, torch.cat([part.routing_k[1] for part in chunks]).float())
        assert tier.held == 0


def test_a_block_that_is_not_full_takes_new_segments_in(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = make(bank, monkeypatch)
    first = tier.place(records(bank)[:1])[1]
    [before] = tier.stream(1, [first])
    both = tier.place(records(bank)[:2])
    assert both[1] is both[2] is not first
    assert tier.held == 0
    [after] = tier.stream(1, [both[1]])
    assert torch.equal(after.codes[:4], before.codes)
    held = tier.held
    [again] = tier.stream(1, [first])  # a reader of the version before
    assert torch.equal(again.codes, before.codes)
    assert tier.held == held
    assert tier.place(records(bank)[:2]) == both


def test_an_error_while_loading_ahead_reaches_the_reader(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = make(bank, monkeypatch, budget=0)
    blocks = list(dict.fromkeys(tier.place(records(bank)).values()))
    flip_byte(bank._files.folder / "000003.safetensors", 9)
    stream = tier.stream(1, blocks)
    assert len(next(stream)) == 10
    with pytest.raises(BankCorruptError, match="000003"):
        next(stream)


def test_blocks_are_held_one_by_one_while_the_budget_lasts(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = make(bank, monkeypatch, budget=500)
    blocks = list(dict.fromkeys(tier.place(records(bank)).values()))
    first = tier.hold(1, blocks[0])
    assert first is not None
    assert tier.hold(1, blocks[0]) is first
    assert tier.held == first.nbytes
    assert tier.hold(1, blocks[2]) is None
    tier.budget.total = 0
    tier.release()
    assert tier.hold(1, blocks[0]) is None


def test_a_block_that_was_taken_into_another_is_not_held(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = make(bank, monkeypatch)
    first = tier.place(records(bank)[:1])[1]
    tier.place(records(bank)[:2])
    assert tier.hold(1, first) is None
    assert tier.held == 0


WIDE = replace(FINGERPRINT, head_dim=64)
"""128 columns, of which 64 hold nearly all of keys of rank 40."""


@pytest.fixture
def low_rank(tmp_path: Path) -> Iterator[Bank]:
    """Segments of 1,200 and 90 chunks of rank 40."""
    with Bank.create(tmp_path / "bank", WIDE) as bank:
        add(bank, [3] * 400, rank=40)
        add(bank, [3] * 30, prefix="more", seed=1, rank=40)
        yield bank


@pytest.mark.parametrize("writes_files", [False, True])
def test_int8_keys_that_are_held_take_fewer_columns(low_rank: Bank, writes_files: bool) -> None:
    scan_files = ScanFiles(low_rank._files.folder, low_rank._files, WIDE, writes=writes_files)
    tier = KeyTier(
        *(low_rank._files, scan_files, WIDE, CPU),
        key_format="int8",
        budget=KeyBudget(10**6),
        writes_files=writes_files,
    )
    [block] = dict.fromkeys(tier.place(records(low_rank)).values())
    for layer in WIDE.memory_layers:
        [projected] = tier.stream(layer, [block])
        assert (projected.columns, projected.width, len(projected)) == (64, 128, 1290)
        stored = torch.cat(
            [low_rank._files.get(record).tensor(layer, "routing_k") for record in records(low_rank)]
        )
        near = dequantize_keys(projected) @ projected.basis.T
        assert float((near - stored).norm() / stored.norm()) < 0.05
        assert tier.hold(layer, block) is projected
    assert tier.held == tier.budget.held == 2 * 1290 * key_bytes(64, "int8")
    assert len(list(low_rank._files.folder.glob("*.int8.*"))) == (2 if writes_files else 0)
    tier.release()
    assert tier.held == tier.budget.held == 0
    [again] = tier.stream(3, [block])
    assert again.codes.equal(projected.codes)


def test_room_is_reckoned_for_the_columns_that_are_held(low_rank: Bank) -> None:
    scan_files = ScanFiles(low_rank._files.folder, low_rank._files, WIDE, writes=False)
    files = low_rank._files, scan_files, WIDE, CPU
    size = 1290 * key_bytes(64, "int8")
    for budget, held in (size, size), (size - 1, 0):
        tier = KeyTier(*files, key_format="int8", budget=KeyBudget(budget), writes_files=False)
        [block] = dict.fromkeys(tier.place(records(low_rank)).values())
        [keys] = tier.stream(1, [block])
        assert (tier.held, keys.columns) == (held, 64 if held else 128)


@pytest.mark.parametrize("budget", [10**7, 100_000])
def test_a_block_that_lies_elsewhere_keeps_its_columns(
    low_rank: Bank, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 1})
    add(low_rank, [3] * 40, prefix="other", seed=2)
    scan_files = ScanFiles(low_rank._files.folder, low_rank._files, WIDE, writes=False)
    tier = KeyTier(
        *(low_rank._files, scan_files, WIDE, CPU),
        key_format="int8",
        budget=KeyBudget(budget),
        writes_files=False,
    )
    blocks = list(dict.fromkeys(tier.place(records(low_rank)).values()))
    for _ in range(2):
        assert [found.columns for found in tier.stream(1, blocks)] == [64, 64, 128]
        taken = sum(found.nbytes for block in blocks for found in block.kept.values())
        assert taken == tier.held == tier.budget.held <= budget
    assert (1 in blocks[2].kept) == (budget > 10**6)


@pytest.mark.parametrize("options", [{"projects": False}, {"key_format": "int4"}, {"key_format": "float32"}])
def test_other_keys_keep_their_columns(low_rank: Bank, options: dict) -> None:
    scan_files = ScanFiles(low_rank._files.folder, low_rank._files, WIDE, writes=False)
    settings = {"key_format": "int8", "budget": KeyBudget(10**7), "writes_files": False} | options
    tier = KeyTier(low_rank._files, scan_files, WIDE, CPU, **settings)
    [block] = dict.fromkeys(tier.place(records(low_rank)).values())
    [keys] = tier.stream(1, [block])
    assert (keys.basis, keys.columns) == (None, 128)


def test_the_first_block_that_is_large_enough_decides(
    low_rank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 1})  # a segment each
    scan_files = ScanFiles(low_rank._files.folder, low_rank._files, WIDE, writes=False)
    tier = KeyTier(
        *(low_rank._files, scan_files, WIDE, CPU),
        key_format="int8",
        budget=KeyBudget(10**7),
        writes_files=False,
    )
    large, small = dict.fromkeys(tier.place(records(low_rank)).values())
    assert tier.hold(1, small).basis is None
    assert tier.hold(1, large).columns == 64
    assert tier.hold(3, large).columns == tier.hold(3, small).columns == 64
    assert tier.hold(3, large).basis is tier.hold(3, small).basis
