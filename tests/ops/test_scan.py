import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import ConfigError, ShapeError
from memsparse.ops import certificate, products, reference, scan
from memsparse.ops.certificate import certify, score_promising
from memsparse.ops.native import library, scans
from memsparse.ops.products import EXACT, FINER, Arithmetic
from memsparse.ops.quantization import KeyFormat, quantize_keys
from memsparse.ops.routing import RoutingRule, document_scores, top_documents
from memsparse.ops.scan import scan_documents
from tests.ops.builders import scores_of

PAIRS = [(f, a) for f, own in EXACT.items() for a in dict.fromkeys((*own, *(FINER.get(a, a) for a in own)))]
"""Every format with every arithmetic that takes it."""


def exact_scores(q: Tensor, k: Tensor, owners: Tensor, mask: Tensor, documents: int) -> Tensor:
    """(B, N) float64, no rounding to speak of."""
    scores = (q.double() @ k.double().T).masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    empty = scores.new_full((len(q), documents), -torch.inf)
    return empty.scatter_reduce(1, owners.expand_as(scores), scores, "amax")


def case(
    chunks: int = 50, width: int = 24, documents: int = 12, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries (4, 5, W), keys (C, W), documents of the chunks, and masks: padded, with holes, empty, full."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0], [0] * 5, [1] * 5]).bool()
    return (
        torch.randn(4, 5, width, generator=generator),
        torch.randn(chunks, width, generator=generator),
        torch.randint(0, documents, (chunks,), generator=generator).sort().values,
        mask,
    )


def test_the_slow_twin() -> None:
    q, k, owners, mask = case(9, 8, 5)
    slow = reference.folded_scores(q.double(), k.double(), owners, mask, 6)
    torch.testing.assert_close(exact_scores(q, k, owners, mask, 6), slow)
    lower, upper = scan_documents(q, quantize_keys(k, "float32"), owners, mask, num_documents=6)
    assert ((lower <= slow) & (slow <= upper)).all()
    torch.testing.assert_close(lower.double(), slow, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("key_format", "arithmetic"), PAIRS)
@pytest.mark.parametrize("width", [8, 1000])
def test_bounds_hold_in_every_arithmetic(
    key_format: KeyFormat, arithmetic: Arithmetic, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "fastest_arithmetic", lambda *_: arithmetic)
    q, k, owners, mask = case(200, width, 40)
    exact = exact_scores(q, k, owners, mask, 42)
    lower, upper = scan_documents(q, quantize_keys(k, key_format), owners, mask, num_documents=42)
    assert lower.dtype == upper.dtype == torch.float32
    assert ((lower <= exact) & (exact <= upper)).all()
    assert (lower[exact == -torch.inf] == -torch.inf).all()
    assert (upper[exact == -torch.inf] == -torch.inf).all()
    there = exact > -torch.inf
    assert there.any()
    share = ((upper - lower)[there] / 2 / (q.norm(dim=2).max() * k.norm(dim=1).max())).max()
    assert (
        share
        < {"float32": 0.001, "bf16": 0.02, "fp8": 0.07, "int8": 0.05, "int4": 0.25, "binary": 1}[key_format]
    )


@pytest.mark.parametrize("key_format", ["float32", "bf16", "int8", "int4"])
def test_a_float32_score_lies_within_too(key_format: KeyFormat) -> None:
    q, k, owners, mask = case(300, 2048, 50)
    scores = document_scores(q, k, owners, mask, rule=RoutingRule(), num_documents=50)
    lower, upper = scan_documents(q, quantize_keys(k, key_format), owners, mask, num_documents=50)
    assert ((lower <= scores) & (scores <= upper)).all()


SIZES = [0.0, 1e-44, 1e-38, 1e-20, 1e-3, 1.0, 1e4, 1e19, 1e30]


@settings(max_examples=120, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    seed=st.integers(0, 2**32 - 1),
    key_size=st.sampled_from(SIZES),
    query_size=st.sampled_from(SIZES),
    mixed=st.booleans(),
    width=st.sampled_from([16, 64]),
    chunks=st.integers(1, 40),
    documents=st.integers(1, 12),
    finer=st.booleans(),
    tile=st.sampled_from([1, 7, 1000]),
)
def test_bounds_hold_for_vectors_of_any_size(
    pair: tuple[KeyFormat, Arithmetic],
    seed: int,
    key_size: float,
    query_size: float,
    mixed: bool,
    width: int,
    chunks: int,
    documents: int,
    finer: bool,
    tile: int,
) -> None:
    q, k, owners, mask = case(chunks, width, documents, seed=seed)
    if mixed:
        sizes = torch.tensor(SIZES)
        k = k * sizes[torch.arange(chunks) % len(sizes)][:, None]
        q = q * sizes[torch.arange(20) % len(sizes)].view(4, 5, 1)
    k, q = (x.mul(size).clamp(-1e36, 1e36) for x, size in ((k, key_size), (q, query_size)))
    k[:, 3], q[:, :, 5] = 0, 0
    exact = exact_scores(q, k, owners, mask, documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "fastest_arithmetic", lambda *_: pair[1])
        lower, upper = scan_documents(
            q, quantize_keys(k, pair[0]), owners, mask, num_documents=documents, finer=finer, tile=tile
        )
    assert ((lower <= exact) & (exact <= upper)).all()
    assert ((upper == -torch.inf) == (exact == -torch.inf)).all()


@pytest.mark.parametrize("key_format", ["bf16", "int8", "binary"])
@pytest.mark.parametrize("chunks", [1, 63, 64, 65])
def test_tiles_and_order_do_not_matter(key_format: KeyFormat, chunks: int) -> None:
    q, k, owners, mask = case(chunks)
    keys = quantize_keys(k, key_format)
    whole = scan_documents(q, keys, owners, mask, num_documents=12)
    order = torch.randperm(chunks)
    for tile in (1, 7, 64):
        tiled = scan_documents(q, keys, owners, mask, num_documents=12, tile=tile)
        mixed = scan_documents(q, keys.select(order), owners[order], mask, num_documents=12, tile=tile)
        for name, bounds in enumerate(zip(whole, tiled, mixed, strict=True)):
            torch.testing.assert_close(bounds[0], bounds[1], rtol=2.0**-7, atol=1e-4, msg=str(name))
            torch.testing.assert_close(bounds[0], bounds[2], rtol=2.0**-7, atol=1e-4, msg=str(name))


def test_requests_do_not_see_their_neighbours() -> None:
    q, k, owners, mask = case(200, 32)
    keys = quantize_keys(k, "int8")
    q[3] *= 1e6
    together = scan_documents(q, keys, owners, mask, num_documents=12)
    for b in range(4):
        alone = scan_documents(q[b : b + 1], keys, owners, mask[b : b + 1], num_documents=12)
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours[0], theirs[b], rtol=1e-6, atol=1e-7)


def test_what_lies_under_the_mask_is_not_read() -> None:
    q, k, owners, mask = case()
    keys = quantize_keys(k, "int8")
    expected = scan_documents(q, keys, owners, mask, num_documents=12)
    q[~mask] = math.nan
    for ours, theirs in zip(scan_documents(q, keys, owners, mask, num_documents=12), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("key_format", list(EXACT))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_query_that_is_no_number_bounds_nothing(key_format: KeyFormat, bad: float) -> None:
    q, k, owners, mask = case(documents=1)
    q[3, 2, 1] = bad
    lower, upper = scan_documents(q, quantize_keys(k, key_format), owners, mask, num_documents=1)
    assert lower[3].tolist() == [-math.inf]
    assert upper[3].tolist() == [math.inf]
    assert lower[:2].isfinite().all()
    assert upper[:2].isfinite().all()


@pytest.mark.parametrize("arithmetic", ["int8", "bf16"])
def test_finer_bounds_are_tighter(arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "fastest_arithmetic", lambda *_: arithmetic)
    q, k, owners, mask = case(4000, 256, 1000)
    k[:40] *= 4
    keys = quantize_keys(k, "int8")
    once = scan_documents(q[3:], keys, owners, mask[3:], num_documents=1000)
    again = scan_documents(q[3:], keys, owners, mask[3:], num_documents=1000, finer=True)
    exact = exact_scores(q[3:], k, owners, mask[3:], 1000)
    assert ((again[0] <= exact) & (exact <= again[1])).all()
    there = exact > -torch.inf
    assert ((again[1] - again[0])[there] < 0.9 * (once[1] - once[0])[there]).all()


def test_nothing_to_scan() -> None:
    q, k, owners, mask = case()
    keys = quantize_keys(k, "int8")
    for lower, upper in (
        scan_documents(q, keys.narrow(0, 0), owners[:0], mask, num_documents=3),
        scan_documents(q, keys, owners, mask & False, num_documents=12, finer=True),
        scan_documents(q[:, :0], keys, owners, mask[:, :0], num_documents=12),
    ):
        assert lower.shape == upper.shape
        assert (lower == -torch.inf).all()
        assert (upper == -torch.inf).all()
    lower, _ = scan_documents(q[:0], keys, owners, mask[:0], num_documents=12)
    assert lower.shape == (0, 12)
    lower, _ = scan_documents(q, keys.narrow(0, 0), owners[:0], mask, num_documents=0)
    assert lower.shape == (4, 0)


def test_what_does_not_fit_is_refused() -> None:
    q, k, owners, mask = case()
    keys = quantize_keys(k, "int8")
    for arguments in (
        (q[:, :, :8], keys, owners, mask),
        (q[0], keys, owners, mask),
        (q, keys, owners[:3], mask),
        (q, keys, owners, mask[:, :2]),
    ):
        with pytest.raises(ShapeError):
            scan_documents(*arguments, num_documents=12)
    with pytest.raises(ConfigError, match="tile is 0"):
        scan_documents(q, keys, owners, mask, num_documents=12, tile=0)


def certified_top(
    q: Tensor, k: Tensor, owners: Tensor, mask: Tensor, documents: int, top_k: int, *, again: bool = True
):
    """Route by a scan of int8 keys; exact scores are float64, told as float32."""
    exact = exact_scores(q, k, owners, mask, documents).float()
    keys = quantize_keys(k, "int8")

    def bound_again(these: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.isin(owners, these).nonzero()[:, 0]
        lower, upper = scan_documents(
            q, keys.select(rows), owners[rows], mask, num_documents=documents, finer=True
        )
        return lower[:, these], upper[:, these]

    scored = score_promising(
        *scan_documents(q, keys, owners, mask, num_documents=documents),
        top_k,
        lambda ranked: scores_of(exact, ranked),
        bound_again=bound_again if again else None,
    )
    best, found, certified = certify(scored.upper, scored.documents, scored.scores, top_k)
    expected, index = top_documents(exact, top_k)
    assert certified.all()
    assert torch.equal(found, index)
    assert torch.equal(best, expected)
    return (scored.documents >= 0).sum(1)


@pytest.mark.parametrize("bank", range(10))
def test_ten_thousand_certified_questions(bank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "FIRST", 16)
    monkeypatch.setattr(certificate, "AGAIN", 16)
    generator = torch.Generator().manual_seed(bank)
    k = torch.randn(300, 32, generator=generator)
    if bank % 2:  # many keys twice, and all close to a few
        k = k[torch.randint(0, 20, (300,), generator=generator)] + (bank // 2) * 1e-3 * k
    owners = torch.randint(0, 90, (300,), generator=generator).sort().values
    q = torch.randn(1000, 4, 32, generator=generator)
    mask = torch.rand(1000, 4, generator=generator) < 0.7
    rescored = certified_top(q, k, owners, mask, 95, 16, again=bank > 4)
    if not bank % 2:
        assert rescored.float().mean() < 40


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    chunks=st.integers(1, 60),
    documents=st.integers(1, 20),
    top_k=st.integers(1, 25),
    levels=st.sampled_from([1, 2, 100]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e12]),
)
def test_certified_in_the_face_of_ties_and_zeros(
    seed: int, chunks: int, documents: int, top_k: int, levels: int, scale: float
) -> None:
    q, k, owners, mask = case(chunks, 8, documents, seed=seed)
    # Few values, so that many scores are equal and many vectors zero.
    k, q = (k * levels / 2).round() / levels * scale, (q * levels / 2).round() / levels
    certified_top(q, k, owners, mask, documents, top_k)


def test_int8_keys_take_about_half_the_bytes_of_bf16() -> None:
    k = torch.randn(10, 1024)
    assert quantize_keys(k, "int8").nbytes <= 0.55 * quantize_keys(k, "bf16").codes.nbytes
    assert quantize_keys(k, "binary").nbytes <= 0.15 * quantize_keys(k, "bf16").codes.nbytes


def test_the_trials_choose_for_the_scan() -> None:
    products._fastest.cache_clear()
    q, k, owners, mask = case()
    scan_documents(q, quantize_keys(k, "int8"), owners, mask, num_documents=12)
    assert 1 <= products._fastest.cache_info().currsize <= 2  # of arithmetics, and of who multiplies


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def _multiplier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of a scan holds with our kernel, where there is one, and without it."""
    if request.param == "torch":
        monkeypatch.setattr(scans, "can_multiply", lambda *_: False)
        monkeypatch.setattr(library, "is_built", lambda: False)
    elif scans.can_multiply(torch.float32, 8):
        monkeypatch.setattr(products, "kernel_multiplies", products._kernel_takes)
    else:
        pytest.skip("no kernel here")
