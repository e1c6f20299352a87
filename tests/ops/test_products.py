import pytest
import torch
from torch import Tensor

from memsparse.errors import ConfigError
from memsparse.ops import products
from memsparse.ops.native import scans
from memsparse.ops.products import (
    EXACT,
    FINER,
    Arithmetic,
    BestProducts,
    Room,
    RoundedQueries,
    fastest_arithmetic,
    round_queries,
    tile_products,
)
from memsparse.ops.quantization import KeyFormat, quantize_keys, unpack_codes

CPU = torch.device("cpu")
PAIRS = [(f, a) for f, own in EXACT.items() for a in dict.fromkeys((*own, *(FINER.get(a, a) for a in own)))]
"""Every format with every arithmetic that takes it."""


def rounded(q: Tensor, arithmetic: Arithmetic) -> RoundedQueries:
    return round_queries(q, [len(q)], arithmetic)


def values(queries: RoundedQueries) -> Tensor:
    """(R, W) what the queries were rounded to, in units."""
    assert isinstance(queries.values, Tensor)
    return queries.values.double()


@pytest.fixture(autouse=True)
def _fresh_trials():
    products._fastest.cache_clear()
    yield
    products._fastest.cache_clear()


@pytest.fixture
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "can_multiply", lambda *_: False)


@pytest.mark.parametrize(("key_format", "arithmetic"), PAIRS)
@pytest.mark.parametrize(
    ("chunks", "width", "tokens"), [(1, 8, 1), (65, 24, 3), (40, 1000, 33), (300, 128, 70)]
)
def test_products_are_of_the_codes_and_the_rounded_queries(
    key_format: KeyFormat, arithmetic: Arithmetic, chunks: int, width: int, tokens: int
) -> None:
    keys = quantize_keys(torch.randn(chunks, width), key_format)
    queries = rounded(torch.randn(tokens, width), arithmetic)
    exact = unpack_codes(keys).float().double() @ values(queries).T
    got = tile_products(keys, queries)
    assert got.shape == (chunks, tokens)
    if arithmetic == "int8":
        assert torch.equal(got.double(), exact)
    else:
        rtol = {"bf16": 2.0**-8, "float32": 1e-5}[arithmetic]
        torch.testing.assert_close(got.double(), exact, rtol=rtol, atol=1e-5 * float(exact.abs().max()))
    room = Room()
    for part in (keys, keys.narrow(chunks // 2, chunks - chunks // 2), keys):  # larger, smaller, larger
        again = tile_products(part, queries, room)
        assert torch.equal(again, got[-len(part) :])


@pytest.mark.parametrize(("arithmetic", "share"), [("int8", 0.03), ("bf16", 0.004), ("float32", 1e-9)])
def test_what_rounding_takes_is_measured(arithmetic: Arithmetic, share: float) -> None:
    q = torch.randn(6, 64) * torch.tensor([1e-3, 1, 5, 1e10, 2e10, 3])[:, None]
    request = torch.tensor([0, 0, 0, 1, 1, 2])
    queries = round_queries(q, [3, 2, 1], arithmetic)
    lost = q.double() - values(queries) * queries.units[request, None]
    for b in range(3):
        own = request == b
        taken = float(lost[own].norm(dim=1).max())
        assert taken <= queries.lost[b] * queries.units[b] <= 1.001 * taken + 2.0**-100 * queries.units[b]
        longest = float(q[own].double().norm(dim=1).max())
        assert longest == pytest.approx(float(queries.longest[b] * queries.units[b]), rel=2.0**-23)
        assert queries.lost[b] * queries.units[b] <= share * longest


def test_largest_sums_are_exact() -> None:
    width = products.WIDEST
    keys = quantize_keys(torch.ones(16, width), "int8")
    assert torch.equal(
        tile_products(keys, rounded(torch.ones(1, width), "int8")),
        torch.full((16, 1), 127 * 127 * width).int(),
    )


@pytest.mark.parametrize("key_format", list(EXACT))
def test_the_choice_is_one_that_holds_the_codes(key_format: KeyFormat) -> None:
    assert fastest_arithmetic(key_format, 1024, CPU) in EXACT[key_format]


def test_very_wide_keys_are_not_summed_in_int32() -> None:
    assert fastest_arithmetic("int8", products.WIDEST + 1, CPU) != "int8"


@pytest.mark.usefixtures("_no_kernel")
def test_a_product_that_saturates_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(k: Tensor, q: Tensor) -> Tensor:
        pairs = k.int()[:, :, None] * q.int()[None]
        return pairs.view(len(k), -1, 2, q.shape[1]).sum(2).clamp(-(2**15), 2**15 - 1).sum(1)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    monkeypatch.setattr(products, "_TRIAL", (4, 1024, 3))
    assert fastest_arithmetic("int8", 1024, CPU) in ("bf16", "float32")


@pytest.mark.usefixtures("_no_kernel")
def test_a_machine_without_products_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise RuntimeError("not implemented here")

    monkeypatch.setattr(products, "tile_products", missing)
    with pytest.raises(ConfigError, match="check the torch build"):
        fastest_arithmetic("int8", 1024, CPU)


@pytest.mark.usefixtures("_no_kernel")
def test_the_faster_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    slow = {"int8": 5, "bf16": 1, "float32": 9}
    product = products.tile_products

    def timed(keys: object, queries: RoundedQueries, room: Room) -> Tensor:
        for _ in range(slow[queries.arithmetic]):
            next(clock)
        return product(keys, queries, room)  # type: ignore[arg-type]

    monkeypatch.setattr(products, "tile_products", timed)
    monkeypatch.setattr(products.time, "perf_counter", lambda: next(clock))
    assert fastest_arithmetic("int8", 1024, CPU) == "bf16"


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize(("key_format", "arithmetic"), PAIRS)
@pytest.mark.parametrize("tokens", [[5, 5], [1, 17, 16, 3]])
def test_best_products_are_the_best_of_all_products(
    key_format: KeyFormat, arithmetic: Arithmetic, tokens: list[int], by_kernel: bool
) -> None:
    if by_kernel and not products._kernel_takes(arithmetic, 64):
        pytest.skip("no kernel for this arithmetic here")
    keys = quantize_keys(torch.randn(5000, 64), key_format)  # more than torch multiplies at a time
    q = torch.randn(sum(tokens), 64)
    queries = round_queries(q, tokens, arithmetic)
    best = BestProducts(round_queries(q, tokens, arithmetic, by_kernel=by_kernel), tokens)
    found = best.of(keys)
    exact = unpack_codes(keys).float().double() @ values(queries).T
    wanted = torch.stack([part.amax(1) for part in exact.split(tokens, dim=1)], dim=1)
    allowed = best.rounded_sum * wanted.abs() + products.float_slack(64) * float(exact.abs().max()) * 8
    assert found.dtype == torch.float32
    assert ((found - wanted).abs() <= allowed).all()


def test_the_kernel_multiplies_what_it_takes() -> None:
    for arithmetic in ("int8", "bf16", "float32"):
        for width in (66, 1024):
            taken = scans.can_multiply(products._DTYPES[arithmetic], width)
            assert products.kernel_multiplies(arithmetic, width) == taken


def test_a_kernel_that_is_wrong_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    if not scans.can_multiply(torch.bfloat16, 1024):
        pytest.skip("no kernel here")
    multiply = scans.best_products
    monkeypatch.setattr(scans, "best_products", lambda *arguments: multiply(*arguments) * 1.01)
    assert not products.kernel_multiplies("bf16", 1024)


def test_widths_of_another_kernel_have_a_trial_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    if not scans.can_multiply(torch.int8, 1024):
        pytest.skip("no kernel here")
    multiply = scans.best_products

    def wrong_between_tiles(keys: Tensor, vectors: scans.Vectors) -> Tensor:
        return multiply(keys, vectors) * (1.0 if keys.shape[1] % 64 == 0 else 1.01)

    monkeypatch.setattr(scans, "best_products", wrong_between_tiles)
    assert products.kernel_multiplies("int8", 128)
    assert not products.kernel_multiplies("int8", 100)


def test_a_width_the_kernel_does_not_take_has_a_trial_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch's integers saturate, keys that only torch can multiply are not multiplied as integers."""
    if not scans.can_multiply(torch.int8, 1024):
        pytest.skip("no kernel here")
    right = torch._int_mm

    def saturating(k: Tensor, q: Tensor, **out: Tensor) -> Tensor:
        return right(k, q, **out).clamp_(-(2**15), 2**15)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not scans.can_multiply(torch.int8, 66)
    assert fastest_arithmetic("int8", 66, CPU) != "int8"
    assert fastest_arithmetic("int8", 1024, CPU) in EXACT["int8"]
    assert products.kernel_multiplies("int8", 1024)


def test_without_a_kernel_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "can_multiply", lambda *_: False)
    assert not any(products.kernel_multiplies(a, 1024) for a in ("int8", "bf16", "float32"))
