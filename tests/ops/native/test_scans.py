import operator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops import reference, routing, scan
from memsparse.ops.native import library, scans
from memsparse.ops.products import Arithmetic, round_queries
from memsparse.ops.quantization import KeyFormat, quantize_keys

ARITHMETIC: dict[torch.dtype, Arithmetic] = {
    torch.int8: "int8",
    torch.bfloat16: "bf16",
    torch.float32: "float32",
}
DTYPES = list(ARITHMETIC)


@pytest.fixture(
    params=[*((dtype, False) for dtype in DTYPES), (torch.int8, True), (torch.bfloat16, True)], ids=str
)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Each kind of number, by each kernel there is for it."""
    kind: torch.dtype
    kind, tiled = request.param
    if not scans.can_multiply(kind, 64):
        pytest.skip(f"no kernel for {kind} here")
    if not tiled:
        monkeypatch.setattr(library, "TILED", {})
    elif not library.has_tiles(kind):
        pytest.skip(f"no tiles for {kind} here")
    return kind


@pytest.fixture(params=[False, True], ids=["vectors", "tiles"])
def _integers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 by each kernel there is for it."""
    if not scans.can_multiply(torch.int8, 1024) or (request.param and not library.has_tiles(torch.int8)):
        pytest.skip("no such kernel here")
    if not request.param:
        monkeypatch.setattr(library, "TILED", {})


@pytest.fixture
def _library() -> None:
    if not library.is_built():
        pytest.skip("no library here")


def lay_out(values: Tensor, counts: list[int]) -> scans.Vectors:
    """The slow twin of what `round_tokens` does besides rounding."""
    lanes, request, begin = [], [], 0
    for number, count in enumerate(counts):
        vectors = -(-count // scans.LANES)
        lanes.append(torch.arange(vectors * scans.LANES).clamp_max(count - 1) + begin)
        request += [number] * vectors
        begin += count
    laid = values[torch.cat(lanes)].view(len(request), scans.LANES, -1, 4 // values.element_size())
    return scans.Vectors(
        lanes=laid.transpose(1, 2).contiguous(),
        request=torch.tensor(request, dtype=torch.int32),
        requests=len(counts),
        dtype=values.dtype,
    )


def numbers(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    if dtype == torch.int8:
        return torch.randint(-128, 128, (rows, width), dtype=dtype)
    return torch.randn(rows, width).to(dtype)


def best(keys: Tensor, tokens: Tensor, counts: list[int]) -> Tensor:
    products = keys.double() @ tokens.double().T
    return torch.stack([part.amax(1) for part in products.split(counts, dim=1)], dim=1)


def test_the_slow_twin(dtype: torch.dtype) -> None:
    keys, tokens, counts = numbers(14, 12, dtype), numbers(22, 12, dtype), [3, 18, 1]
    slow = torch.tensor(reference.best_products(keys, tokens, counts), dtype=torch.float32)
    torch.testing.assert_close(best(keys, tokens, counts).float(), slow)
    torch.testing.assert_close(scans.best_products(keys, lay_out(tokens, counts)), slow)


@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("width", [2, 16, 100])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.usefixtures("_library")
def test_query_heads_are_folded_as_without_it(
    normalize: bool, width: int, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    q = torch.randn(3, 5, heads[0], width).to(torch.bfloat16)
    q[0, 0], q[0, 1], q[1, 0] = 0, 1e-20, 1e30  # nothing, almost nothing, and squares beyond float32
    q[2, 4, 0, 0] = torch.nan
    given = q.transpose(0, 1)  # lies anywhere
    folded = routing.collapse_queries(given, heads[1], normalize=normalize, scale=0.3)
    monkeypatch.setattr(scans, "can_collapse", lambda q: False)
    plain = routing.collapse_queries(given, heads[1], normalize=normalize, scale=0.3)
    assert folded.shape == plain.shape == (5, 3, heads[1] * width)
    torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-7, equal_nan=True)
    torch.testing.assert_close(folded[1, 0], plain[1, 0], rtol=1e-5, atol=0)
    assert folded[4, 2, :width].isnan().any()
    assert folded.isnan().any(2).sum() == 1


def test_query_heads_with_a_gradient_keep_it() -> None:
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    assert not scans.can_collapse(q)
    assert routing.collapse_queries(q, 2).requires_grad


@pytest.mark.parametrize("counts", [[1], [16], [17], [5, 33, 1]])
@pytest.mark.parametrize("size", [1.0, 0.0, 1e-30, 3e37, 0.25])
@pytest.mark.parametrize("kind", DTYPES, ids=str)
@pytest.mark.usefixtures("_library")
def test_tokens_are_rounded_and_laid_out_as_without_it(
    kind: torch.dtype, counts: list[int], size: float
) -> None:
    tokens = torch.randn(sum(counts), 64) * size
    tokens[0, :2] = torch.tensor([4.0, 0.5]) * size  # powers of two, and halves between two integers
    arithmetic = ARITHMETIC[kind]
    plain = round_queries(tokens, counts, arithmetic)
    assert isinstance(plain.values, Tensor)
    laid = round_queries(tokens, counts, arithmetic, by_kernel=True)
    assert isinstance(laid.values, scans.Vectors)
    wanted = lay_out(plain.values, counts)
    for field in ("lanes", "request", "requests", "dtype"):
        found = getattr(laid.values, field)
        same = torch.equal if isinstance(found, Tensor) else operator.eq
        assert same(found, getattr(wanted, field)), field
    assert torch.equal(laid.units, plain.units)
    torch.testing.assert_close(laid.longest, plain.longest, rtol=1e-12, atol=0)
    torch.testing.assert_close(laid.lost, plain.lost, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-40, 1.0, 1e30, float("nan")])
@pytest.mark.usefixtures("_library")
def test_half_widths_are_those_of_torch(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = quantize_keys(torch.randn(10, 64), "int8")
    queries = round_queries(torch.randn(9, 64) * size, [4, 1, 4], "int8")
    in_c = scan._half_width(queries, keys)
    monkeypatch.setattr(library, "is_built", lambda: False)
    for found, wanted in zip(in_c, scan._half_width(queries, keys), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=2.0**-22, atol=0, equal_nan=True)


@pytest.mark.usefixtures("_library")
def test_half_widths_of_other_figures_are_refused() -> None:
    one, two = torch.ones(1, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for figures in ((one, one, one), (one.float(), two, one), (one.float(), one, one.float())):
        with pytest.raises(ShapeError, match="a figure of tokens is"):
            scans.half_widths(*figures, 1e-3, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", DTYPES, ids=str)
@pytest.mark.usefixtures("_library")
def test_tokens_that_are_no_numbers_spoil_their_own_request_only(kind: torch.dtype, bad: float) -> None:
    tokens = torch.randn(5, 8)
    tokens[3, 7] = bad
    vectors, *figures = scans.round_tokens(tokens, [2, 3], kind)
    good, *wanted = scans.round_tokens(tokens[:2], [2], kind)
    assert torch.equal(vectors.lanes[:1], good.lanes)
    assert not vectors.lanes[1].any()
    for figure, of_good in zip(figures, wanted, strict=True):
        assert torch.equal(figure[:1], of_good)
        assert figure[1].isnan()


@pytest.mark.usefixtures("_library")
def test_tokens_that_do_not_fit_are_refused() -> None:
    for tokens, counts, kind in (
        (torch.randn(3, 6), [3], torch.int8),
        (torch.randn(3, 8), [2], torch.int8),
        (torch.randn(3, 8), [3, 0], torch.int8),
        (torch.randn(3, 8).double(), [3], torch.float32),
        (torch.randn(3, 8), [3], torch.float64),
    ):
        with pytest.raises(ShapeError, match="tokens are"):
            scans.round_tokens(tokens, counts, kind)


@pytest.mark.parametrize("rows", [1, 11, 12, 13, 25, 32, 33, 700])
@pytest.mark.parametrize("width", [4, 60, 64, 132, 1024])
@pytest.mark.parametrize("counts", [[1], [16], [17], [5, 33, 1], [16] * 5, [90, 7]])
def test_it_is_the_best_product(dtype: torch.dtype, rows: int, width: int, counts: list[int]) -> None:
    keys, tokens = numbers(rows, width, dtype), numbers(sum(counts), width, dtype)
    found = scans.best_products(keys, lay_out(tokens, counts))
    assert found.dtype == torch.float32
    assert found.shape == (rows, len(counts))
    exact = best(keys, tokens, counts)
    if dtype == torch.int8:
        assert torch.equal(found, exact.float())
    else:
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5 * width**0.5)


@pytest.mark.usefixtures("_integers")
def test_the_largest_sums_do_not_overflow() -> None:
    for key, token in ((127, 127), (-127, 127), (-128, -128), (127, -128)):
        keys = torch.full((1, scans.WIDEST), key, dtype=torch.int8)
        tokens = torch.full((1, scans.WIDEST), token, dtype=torch.int8)
        found = scans.best_products(keys, lay_out(tokens, [1]))
        assert float(found) == float(torch.tensor(key * token * scans.WIDEST, dtype=torch.float32))


@pytest.mark.usefixtures("_integers")
def test_integers_that_float32_holds_are_exact() -> None:
    keys = torch.randint(126, 128, (50, 1024), dtype=torch.int8)
    tokens = torch.randint(126, 128, (16, 1024), dtype=torch.int8)  # sums just below 2**24
    found = scans.best_products(keys, lay_out(tokens, [1] * 16))
    assert torch.equal(found.double(), keys.double() @ tokens.double().T)


def test_keys_may_lie_anywhere(dtype: torch.dtype) -> None:
    """A slice that begins between cache lines, rows of a wider matrix, and nothing at all."""
    wide, tokens = numbers(41, 72, dtype), numbers(4, 64, dtype)
    vectors = lay_out(tokens, [4])
    for keys in (wide.flatten()[3 : 3 + 40 * 64].view(40, 64), wide[:, 8:], wide[:0, 8:]):
        torch.testing.assert_close(
            scans.best_products(keys, vectors).double(), best(keys, tokens, [4]), rtol=1e-5, atol=1e-4
        )


@pytest.mark.usefixtures("_two_threads")
def test_threads_share_the_work(dtype: torch.dtype) -> None:
    keys, tokens = numbers(30_000, 64, dtype), numbers(40, 64, dtype)
    vectors = lay_out(tokens, [20, 20])
    torch.set_num_threads(1)
    alone = scans.best_products(keys, vectors)
    torch.set_num_threads(2)
    assert torch.equal(scans.best_products(keys, vectors), alone)
    with ThreadPoolExecutor(4) as callers:
        for found in callers.map(lambda _: scans.best_products(keys, vectors), range(8)):
            assert torch.equal(found, alone)


@pytest.mark.parametrize("width", [1, 7, 64, 200])
@pytest.mark.parametrize("rows", [1, 12, 13, 400])
def test_integers_meet_tokens_that_are_not_rounded(rows: int, width: int) -> None:
    if not scans.can_multiply(torch.float32, 8):
        pytest.skip("no kernel here")
    keys, tokens = numbers(rows, width, torch.int8), torch.randn(20, width)
    vectors = lay_out(tokens, [3, 17])
    found = scans.best_products(keys, vectors)
    torch.testing.assert_close(found, best(keys, tokens, [3, 17]).float(), rtol=1e-5, atol=1e-3)
    assert torch.equal(found, scans.best_products(keys.float(), vectors))


@pytest.mark.parametrize("counts", [[1], [40], [2, 17, 1]])
@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("longest", [1, 5, 3000])
@pytest.mark.parametrize("kinds", [(d, d) for d in DTYPES] + [(torch.int8, torch.float32)], ids=str)
@pytest.mark.usefixtures("_two_threads")
def test_one_pass_is_the_two_in_one(
    kinds: tuple[torch.dtype, torch.dtype],
    longest: int,
    width: int,
    counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents are shared among threads, some of them longer than what a thread takes or holds."""
    if not all(scans.can_multiply(kind, width) for kind in kinds):
        pytest.skip("no kernel here")
    monkeypatch.setattr(scans, "_SHARE", 1)
    keys, tokens = numbers(30_000, width, kinds[0]), numbers(sum(counts), width, kinds[1])
    lengths = torch.randint(1, longest + 1, (30_000,))
    owners = torch.repeat_interleave(torch.arange(30_000), lengths)[:30_000].contiguous()
    stored = quantize_keys(torch.randn(30_000, 8), "int8")
    vectors, factors = lay_out(tokens, counts), torch.rand(3, len(counts))
    assert scans._Product(keys, vectors).threads[1] == 2
    size = 2, int(owners.max()) + 2, len(counts)
    bounds, apart = torch.full(size, -torch.inf), torch.full(size, -torch.inf)
    assert scans.scan(keys, vectors, stored, owners, *factors, bounds)
    scans.raise_bounds(scans.best_products(keys, vectors), stored, owners, *factors, 0.0, apart)
    assert torch.equal(bounds, apart)
    mixed = owners.flip(0).contiguous()
    if longest < 3000:
        # What was raised before threads met documents that do not ascend is not above what they have.
        assert not scans.scan(keys, vectors, stored, mixed, *factors, bounds.fill_(-torch.inf))
        scans.raise_bounds(scans.best_products(keys, vectors), stored, mixed, *factors, 0.0, bounds)
        scans.raise_bounds(
            scans.best_products(keys, vectors), stored, mixed, *factors, 0.0, apart.fill_(-torch.inf)
        )
        assert torch.equal(bounds, apart)
        swapped = owners.clone()
        swapped[20_000], swapped[-1] = owners[-1], owners[20_000]
        assert not scans.scan(keys, vectors, stored, swapped, *factors, bounds)
        # What one thread takes ascends, but not where the next one begins.
        part = scans._Product(keys, vectors).threads[2]
        begun_again = torch.cat([owners[:part] - owners[0] + 1, owners[: 30_000 - part]])
        assert not scans.scan(keys, vectors, stored, begun_again, *factors, bounds)
    for wrong in (-1, size[1]):
        with pytest.raises(ShapeError, match="out of range"):
            scans.scan(keys, vectors, stored, owners.where(owners > 0, wrong), *factors, bounds)


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("key_format", ["int8", "bf16"])
@pytest.mark.parametrize("chunks", [1, 255, 256, 700])
def test_bounds_are_those_of_torch(chunks: int, requests: int, key_format: KeyFormat) -> None:
    if not library.is_built():
        pytest.skip("no library here")
    keys = quantize_keys(torch.randn(chunks, 8), key_format)
    best = torch.randn(chunks, requests)
    best[0] = float("nan")
    owners = torch.randint(0, 40, (chunks,))
    factors = torch.rand(3, requests)
    bounds = torch.full((2, 42, requests), float("-inf"))
    slow = bounds.clone()
    scans.raise_bounds(best.clone(), keys, owners, *factors, 0.01, bounds)
    scan._raise_bounds(best.clone(), keys, owners, *factors, 0.01, slow)
    torch.testing.assert_close(bounds, slow, rtol=1e-6, atol=1e-6)
    assert bounds[1, owners[0]].isposinf().all()
    assert (bounds[:, 40:] == -torch.inf).all()


def test_what_does_not_fit_is_refused() -> None:
    """C writes where it is told to: nothing may be of another type, size or place."""
    if not scans.can_multiply(torch.float32, 8):
        pytest.skip("no library here")
    keys = quantize_keys(torch.randn(3, 8), "int8")
    good = [torch.zeros(3, 1), keys, torch.tensor([0, 1, 1]), *torch.ones(3, 1), 0.0, torch.zeros(2, 2, 1)]
    scans.raise_bounds(*good)
    for place, bad in [
        (0, torch.zeros(3, 1).double()),
        (0, torch.zeros(3, 1, device="meta")),
        (1, quantize_keys(torch.randn(4, 8), "int8")),
        (2, torch.tensor([0, 1, 1]).int()),
        (2, torch.tensor([0, 1])),
        (2, torch.tensor([0, -1, 1])),
        (2, torch.tensor([0, 1, 2])),
        (2, torch.tensor([0, 1, 10**9])),
        (4, torch.ones(2)),
        (7, torch.zeros(2, 2, 2)),
        (7, torch.zeros(2, 2, 1, device="meta")),
    ]:
        wrong = [*good[:place], bad, *good[place + 1 :]]
        with pytest.raises(ShapeError):
            scans.raise_bounds(*wrong)
    vectors = lay_out(torch.randn(2, 8), [2])
    for bad in (torch.randn(3, 4), torch.randn(3, 8).bfloat16(), torch.randn(3, 8, device="meta")):
        with pytest.raises(ShapeError):
            scans.best_products(bad, vectors)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_torchs_defaults_do_not_matter(default: torch.dtype) -> None:
    """Loading a model changes them for all threads while it lasts."""
    if not scans.can_multiply(torch.float32, 8):
        pytest.skip("no library here")
    keys, vectors = -torch.rand(30, 8), lay_out(torch.rand(2, 8), [2])
    wanted = scans.best_products(keys, vectors)
    torch.set_default_dtype(default)
    try:
        found = scans.best_products(keys, vectors)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("dtype", "width"),
    [(torch.int8, 6), (torch.bfloat16, 3), (torch.float32, 0), (torch.float64, 64), (torch.int8, 2**16 + 4)],
)
def test_what_it_does_not_take(dtype: torch.dtype, width: int) -> None:
    assert not scans.can_multiply(dtype, width)
