from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.bank import Bank
from memsparse.bank.content import Content, ContentTier, Hot, Place, dequantize_content, quantize_content
from memsparse.errors import BankCorruptError
from tests.bank.builders import FINGERPRINT, add


@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 30), width=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_int8_content_is_within_half_a_step(seed: int, exponent: int, width: int) -> None:
    values = torch.randn(2, 3, 2, width, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    values[0, 0] = 0
    content = quantize_content(values)
    assert content.values.dtype == torch.int8
    assert content.scales.shape == (2, 3, 2, 1)
    step = values.abs().amax(-1, keepdim=True) / 127
    assert bool(((dequantize_content(content, torch.float32) - values).abs() <= 0.501 * step).all())


def test_hot_things_leave_longest_unused_first() -> None:
    def item(size: int) -> Content:
        return Content(values=torch.zeros(size, dtype=torch.int8))

    hot = Hot(10)
    hot.put((0, 0, 0), item(4))
    hot.put((0, 0, 1), item(4))
    assert hot.get((0, 0, 0)) is not None
    hot.put((0, 0, 2), item(5))
    assert hot.get((0, 0, 1)) is None
    assert hot.held == 9
    hot.put((0, 0, 3), item(11))
    assert hot.get((0, 0, 3)) is None
    hot.put((0, 0, 2), item(1))
    assert hot.held == 9
    hot.clear()
    hot.put((0, 0, 4), item(1))
    assert (hot.held, hot.get((0, 0, 4)), hot.get((0, 0, 0))) == (0, None, None)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [2, 1, 3])
        add(bank, [4], prefix="more", seed=1)
        yield bank


def places(bank: Bank) -> list[Place]:
    layout = bank.layout()
    return [
        Place(record=layout.segments[segment], offset=offset, chunks=count)
        for _, segment, offset, count in layout.rows
    ]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("host_bytes", [0, 200, 10**6])
def test_documents_are_gathered_side_by_side(bank: Bank, host_bytes: int, quantized: bool) -> None:
    tier = ContentTier(bank._files, quantized=quantized, host_bytes=host_bytes, ahead=False)
    wanted = [places(bank)[i] for i in (3, 0, 2)]
    expected = []
    for place in wanted:
        segment = bank._files.get(place.record)
        here = slice(place.offset, place.offset + place.chunks)
        values = torch.stack([segment.tensor(3, "k")[here], segment.tensor(3, "v")[here]])
        expected.append(dequantize_content(quantize_content(values), torch.float32) if quantized else values)
    for _ in range(3):
        assert torch.equal(tier.gather(3, wanted, like=torch.zeros(1)), torch.cat(expected, dim=1))
        assert tier.host.held <= host_bytes
    assert tier.gather(3, wanted, like=torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_hot_documents_are_not_read_again(bank: Bank) -> None:
    tier = ContentTier(bank._files, quantized=False, host_bytes=10**6, ahead=False)
    first = tier.gather(1, places(bank), like=torch.zeros(1))
    bank._files.close()
    (bank._files.folder / "000001.safetensors").unlink()
    assert torch.equal(tier.gather(1, places(bank), like=torch.zeros(1)), first)
    with pytest.raises(BankCorruptError, match="missing"):
        tier.gather(3, places(bank), like=torch.zeros(1))


def test_a_prefetch_fills_the_host_tier_and_hides_no_error(bank: Bank) -> None:
    tier = ContentTier(bank._files, quantized=False, host_bytes=10**6, ahead=True)
    tier.prefetch(1, places(bank), torch.device("cpu"))
    tier._fetching.result()
    assert tier.host.held == 10 * 2 * 8 * 4
    (bank._files.folder / "000001.safetensors").unlink()
    bank._files.close()
    tier.prefetch(3, places(bank), torch.device("cpu"))
    tier._fetching.result()
    with pytest.raises(BankCorruptError, match="missing"):
        tier.gather(3, places(bank), like=torch.zeros(1))


def test_what_is_held_on_a_device_is_copied_once(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the `meta` device, which holds shapes alone."""
    meta, copies = torch.device("meta"), []
    tier = ContentTier(bank._files, quantized=False, host_bytes=0, ahead=False)
    copy = tier._copy
    monkeypatch.setattr(tier, "_copy", lambda host, device: (copies.append(len(host)), copy(host, device))[1])
    like = torch.zeros(1, device=meta)
    assert tier.gather(1, places(bank), like=like).shape == (2, 10, 2, 4)
    tier.gather(1, places(bank), like=like)
    tier.devices[meta] = Hot(6 * 2 * 8 * 4)
    for wanted in (places(bank)[:2], places(bank)[:3], places(bank)[1:3], places(bank)[3:]):
        tier.gather(1, wanted, like=like)
    assert copies == [4, 4, 2, 1, 1]
    assert tier.devices[meta].held <= 6 * 2 * 8 * 4
