"""The cells of an index: the fast functions beside their slow twins, and bounds that hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.errors import ConfigError, ShapeError
from memsparse.ops import cells, reference
from memsparse.ops.cells import assign_cells, cell_count, padded_reach, score_cells, train_centres


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[2**22, 1], ids=["one tile", "small tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_PRODUCTS", request.param)


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest centre, not one about as near."""
    monkeypatch.setattr(cells, "fastest_arithmetic", lambda *_: "float32")


@pytest.mark.usefixtures("tiles", "exact_products")
@pytest.mark.parametrize(
    ("rows", "count", "width"), [(1, 1, 3), (5, 5, 4), (63, 4, 8), (257, 9, 5), (600, 20, 16)]
)
def test_centres_are_those_of_the_twin(rows: int, count: int, width: int) -> None:
    sample = drawn(rows, width, seed=rows)
    found = train_centres(sample, count, seed=3, turns=4)
    expected = reference.train_centres(sample, count, seed=3, turns=4)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arithmetic", ["float32", "bf16"])
def test_products_that_round_find_a_centre_about_as_near(
    monkeypatch: pytest.MonkeyPatch, arithmetic: str
) -> None:
    monkeypatch.setattr(cells, "fastest_arithmetic", lambda *_: arithmetic)
    keys, centres = drawn(500, 32), drawn(40, 32, seed=1)
    cell, squares, reach = assign_cells(keys, centres)
    away = torch.cdist(keys.double(), centres.double())
    own = away.gather(1, cell[:, None])[:, 0]
    room = 2.0**-6 * keys.norm(dim=1) * centres.norm(dim=1).max()
    assert bool((own.square() <= away.amin(1).square() + room).all())
    assert bool((own <= reach[cell] + 1e-9).all())
    torch.testing.assert_close(squares.sum(), own.square().sum())


def test_cells_left_empty_take_the_rows_farthest_away() -> None:
    sample = torch.cat([torch.zeros(20, 4), drawn(3, 4) * 9])
    found = train_centres(sample, 12, turns=3)
    distances = torch.cdist(sample, found).amin(1)
    assert bool(found.isfinite().all())
    assert float(distances.max()) < 1e-5


@pytest.mark.usefixtures("tiles", "exact_products")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "count", "width"), [(0, 3, 4), (1, 1, 1), (65, 7, 12), (700, 5, 3)])
def test_every_key_lies_in_the_nearest_cell_and_within_its_reach(
    rows: int, count: int, width: int, dtype: torch.dtype
) -> None:
    keys, centres = drawn(rows, width).to(dtype), drawn(count, width, seed=1)
    cell, squares, reach = assign_cells(keys, centres)
    expected, expected_squares, expected_reach = reference.assign_cells(keys, centres)
    away = torch.cdist(keys.double(), centres.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(
        away.gather(1, cell[:, None]), away.gather(1, expected[:, None]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(squares, expected_squares, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(reach, expected_reach, atol=1e-5, rtol=0)
    assert bool((away.gather(1, cell[:, None])[:, 0] <= reach[cell]).all())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6]),
    long=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_no_key_exceeds_the_bound_of_its_cell(seed: int, scale: float, long: float) -> None:
    keys, centres = drawn(50, 6, seed=seed) * scale, drawn(4, 6, seed=seed + 1) * scale
    routing_q, mask = drawn(3, 4, 6, seed=seed + 2) * long, torch.arange(4) < torch.tensor([4, 0, 1])[:, None]
    cell, squares, reach = assign_cells(keys, centres)
    spread = (squares / torch.bincount(cell, minlength=4).clamp_min(1)).sqrt().float()
    promises, bounds = score_cells(routing_q, mask, centres, spread, padded_reach(centres, reach), lean=0.4)
    expected, expected_bounds = reference.score_cells(routing_q, mask, centres, spread, reach, lean=0.4)
    there = mask.any(1)
    room = 1e-4 * scale * long
    torch.testing.assert_close(promises[there].double(), expected[there], atol=room, rtol=1e-5)
    torch.testing.assert_close(bounds[there].double(), expected_bounds[there], atol=room + 1e-25, rtol=1e-5)
    assert bool((promises[~there] == -torch.inf).all())
    assert bool((bounds[~there] == -torch.inf).all())
    for request in (0, 2):
        exact = (keys.double() @ routing_q[request, mask[request]].double().T).amax(1).float()
        assert bool((exact <= bounds[request, cell]).all())


def test_a_query_that_is_not_finite_bounds_nothing() -> None:
    routing_q = torch.full((2, 2, 4), float("nan"))
    routing_q[1] = float("inf")
    _, bounds = score_cells(
        routing_q, torch.ones(2, 2, dtype=torch.bool), drawn(3, 4), *torch.ones(2, 3), lean=0.6
    )
    assert bool((bounds == torch.inf).all())


@pytest.mark.parametrize(("chunks", "expected"), [(0, 0), (1, 1), (9, 9), (64, 64), (10_000, 800)])
def test_cells_grow_with_the_root_of_the_chunks(chunks: int, expected: int) -> None:
    assert cell_count(chunks) == expected


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"a sample of \(3, 4\) for 5 cells; pass a row for each"):
        train_centres(drawn(3, 4), 5)
    with pytest.raises(ConfigError, match="0 cells in 8 turns; ask for at least 1 of both"):
        train_centres(drawn(3, 4), 0)
    with pytest.raises(ShapeError, match=r"keys are \(3, 4\); pass \(chunks, 5\)"):
        assign_cells(drawn(3, 4), drawn(2, 5))
