from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import ConfigError, InputError, ShapeError
from memsparse.ops import quantization
from memsparse.ops.quantization import (
    KeyFormat,
    ScanKeys,
    dequantize_keys,
    key_bytes,
    quantize_keys,
    round_up,
    unpack_codes,
)

FORMATS = get_args(KeyFormat)
SIZES = [1e-44, 1e-38, 1e-20, 1e-3, 1.0, 1e4, 1e19, 1e30]
"""Of the components of keys: from the least numbers float32 has to such as float32 cannot square."""


def exact_codes(keys: ScanKeys) -> Tensor:
    """k~ in float64, nothing rounded."""
    values = unpack_codes(keys).float().double()
    return values if keys.scales is None else values * keys.scales.double()[:, None]


@pytest.mark.parametrize("key_format", FORMATS)
@pytest.mark.parametrize("width", [8, 72, 1024])
def test_the_stored_error_is_the_true_one_rounded_up(key_format: KeyFormat, width: int) -> None:
    k = torch.randn(33, width)
    keys = quantize_keys(k, key_format)
    lost = (k.double() - exact_codes(keys)).norm(dim=1)
    assert (lost <= keys.errors).all()
    torch.testing.assert_close(keys.errors.double(), lost, rtol=2e-3, atol=1e-5 * width**0.5)
    length = exact_codes(keys).norm(dim=1)
    assert (length <= keys.norms).all()
    torch.testing.assert_close(keys.norms.double(), length, rtol=1e-3, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    key_format=st.sampled_from(FORMATS),
    sizes=st.lists(st.sampled_from(SIZES), min_size=16, max_size=16),
    whole=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_errors_bound_keys_of_any_size(
    key_format: KeyFormat, sizes: list[float], whole: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    k = torch.randn(16, 24, generator=generator)
    k = k * (torch.tensor(sizes)[:, None] if whole else torch.tensor(sizes[:8] * 3))
    k[3] = 0
    k[4, 1:] = 0
    keys = quantize_keys(k, key_format)
    codes = exact_codes(keys)
    assert ((k.double() - codes).norm(dim=1) <= keys.errors.double()).all()
    assert (codes.norm(dim=1) <= keys.norms.double()).all()
    assert (keys.errors[3], keys.norms[3]) == (0, 0)
    # Quantising must keep something: what is lost is never more than the key itself.
    assert (keys.errors <= k.double().norm(dim=1).float() * 1.01 + 1e-35).all()


@pytest.mark.parametrize(
    ("key_format", "share"), [("bf16", 0.003), ("fp8", 0.04), ("int8", 0.01), ("int4", 0.2)]
)
def test_finer_formats_lose_less(key_format: KeyFormat, share: float) -> None:
    k = torch.randn(50, 128)
    errors = quantize_keys(k, key_format).errors / k.norm(dim=1)
    assert errors.max() < share
    assert errors.min() > share / 10


def test_exact_formats_lose_nothing() -> None:
    k = torch.randn(5, 16).bfloat16()
    assert torch.equal(quantize_keys(k, "bf16").codes, k)
    for key_format in ("float32", "bf16"):
        keys = quantize_keys(k, key_format)
        assert not keys.errors.any()
        assert torch.equal(dequantize_keys(keys), k.float())
    assert not quantize_keys(torch.randn(5, 16), "float32").errors.any()


def test_what_bf16_cannot_hold_is_cut_and_counted() -> None:
    k = torch.tensor([[3.4e38]])
    keys = quantize_keys(k, "bf16")
    assert keys.codes.isfinite().all()
    assert keys.errors[0] >= k[0, 0] - keys.codes[0, 0].float() > 0


def test_layout_of_packed_codes() -> None:
    k = torch.tensor([[7.0, -7.0, 0.0, 3.0, 1.0, -1.0, 2.0, -2.0] * 2])
    int4 = quantize_keys(k, "int4")
    values = [7, -7, 0, 3, 1, -1, 2, -2]
    assert int4.codes.tolist() == [[(v + 8) | (v + 8) << 4 for v in values]]
    assert unpack_codes(int4).tolist() == [values * 2]
    binary = quantize_keys(k, "binary")
    signs = [1 if v >= 0 else -1 for v in values * 2]
    assert unpack_codes(binary).tolist() == [signs]
    bytes_ = [sum((signs[bit * 2 + j] > 0) << bit for bit in range(8)) for j in range(2)]
    assert binary.codes.tolist() == [bytes_]
    torch.testing.assert_close(binary.scales, k.abs().mean(1))


def test_fp8_codes_are_never_subnormal() -> None:
    k = torch.logspace(-6, 0, 200).repeat(2, 1)
    values = quantize_keys(k, "fp8").codes.float().abs()
    assert ((values == 0) | (values >= 2.0**-6)).all()
    assert (values == 0).any()


@pytest.mark.parametrize("key_format", FORMATS)
def test_chunks_are_independent_and_parts_fit_together(key_format: KeyFormat) -> None:
    k = torch.randn(1100, 16)
    keys = quantize_keys(k, key_format)
    rows = torch.tensor([1099, 3, 600])
    for ours, theirs in (
        (keys.narrow(500, 30), quantize_keys(k[500:530], key_format)),
        (keys.select(rows), quantize_keys(k[rows], key_format)),
        (ScanKeys.join([keys.narrow(0, 7), keys.narrow(7, 1093)]), keys),
        (keys.to("cpu"), keys),
    ):
        assert torch.equal(dequantize_keys(ours), dequantize_keys(theirs))
        assert torch.equal(ours.errors, theirs.errors)
        assert torch.equal(ours.norms, theirs.norms)
    assert (len(keys), keys.width) == (1100, 16)
    assert keys.nbytes == 1100 * key_bytes(16, key_format)


@pytest.mark.parametrize("key_format", FORMATS)
def test_codes_in_huge_pages_are_the_same(key_format: KeyFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    k = torch.randn(100, 16)
    small = quantize_keys(k, key_format)
    monkeypatch.setattr(quantization, "_HUGE", 1)
    for large in (quantize_keys(k, key_format), ScanKeys.join([small, small]).narrow(100, 100)):
        assert torch.equal(large.codes.view(torch.uint8), small.codes.view(torch.uint8))
        assert large.codes.is_contiguous()


@pytest.mark.parametrize("key_format", FORMATS)
def test_no_chunks(key_format: KeyFormat) -> None:
    keys = quantize_keys(torch.empty(0, 16), key_format)
    assert len(keys) == 0
    assert dequantize_keys(keys).shape == (0, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_keys_of_any_dtype(dtype: torch.dtype) -> None:
    k = torch.randn(4, 16).to(dtype)
    for key_format in FORMATS:
        keys = quantize_keys(k, key_format)
        assert torch.equal(keys.codes, quantize_keys(k.float(), key_format).codes)


def test_round_up_is_the_least_float_not_below() -> None:
    values = torch.tensor([0.0, 0.5, 0.1, -0.1, 1e300, float("nan")], dtype=torch.float64)
    up = round_up(values)
    assert up[:2].tolist() == [0.0, 0.5]
    assert (up[2:4].double() >= values[2:4]).all()
    assert (up[2:4].nextafter(torch.tensor(-torch.inf)).double() < values[2:4]).all()
    assert up[4] == torch.inf
    assert up[5].isnan()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key_format", FORMATS)
def test_keys_that_are_no_numbers_are_refused(key_format: KeyFormat, bad: float) -> None:
    k = torch.randn(600, 8)
    k[555, 3] = bad
    with pytest.raises(InputError, match="not finite"):
        quantize_keys(k, key_format)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="int3"):
        quantize_keys(torch.zeros(1, 8), "int3")  # type: ignore[arg-type]
    for width, key_format in ((7, "int4"), (12, "binary")):
        with pytest.raises(ShapeError, match="multiple"):
            quantize_keys(torch.zeros(1, width), key_format)  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        quantize_keys(torch.zeros(8), "int8")
    one = torch.zeros(1)
    with pytest.raises(ShapeError, match="scales"):
        ScanKeys(format="bf16", codes=torch.zeros(1, 8).bfloat16(), scales=one, errors=one, norms=one)
    with pytest.raises(ShapeError, match="lack"):
        ScanKeys(format="int8", codes=torch.zeros(1, 8, dtype=torch.int8), scales=None, errors=one, norms=one)
    with pytest.raises(ShapeError, match="codes"):
        ScanKeys(format="int8", codes=torch.zeros(1, 8), scales=one, errors=one, norms=one)
    with pytest.raises(ShapeError, match="2 chunks"):
        ScanKeys(format="float32", codes=torch.zeros(2, 8), scales=None, errors=one, norms=one)
    parts = [quantize_keys(torch.zeros(1, 8), key_format) for key_format in ("int8", "bf16")]
    with pytest.raises(ShapeError, match="join"):
        ScanKeys.join(parts)
    with pytest.raises(ShapeError, match="join"):
        ScanKeys.join([])


@pytest.mark.parametrize("key_format", ["float32", "bf16"])
def test_keys_whose_sums_may_overflow_are_refused(key_format: KeyFormat) -> None:
    """A part of such a sum may be infinite where the whole is not, and a maximum would pass it over."""
    key = torch.full((1, 64), 3.75e37)
    key[0, :31] *= -1
    with pytest.raises(InputError, match="too long for float32"):
        quantize_keys(key, key_format)
    assert quantize_keys(key / 16, key_format).norms.isfinite().all()
    assert quantize_keys(key, "int8").norms.isfinite().all()
