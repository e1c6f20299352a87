import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import InputError, ShapeError
from memsparse.ops.projection import BESIDE, principal_basis, project_keys, project_tokens, sampled_rows
from memsparse.ops.quantization import ScanKeys, dequantize_keys, quantize_keys
from memsparse.ops.scan import scan_documents


def near_a_space(
    chunks: int, width: int = 128, inside: int = 48, *, noise: float = 0.02, seed: int = 0
) -> Tensor:
    """Keys (C, W) near a space of so many dimensions."""
    generator = torch.Generator().manual_seed(seed)
    space = torch.randn(inside, width, generator=torch.Generator().manual_seed(1))
    keys = torch.randn(chunks, inside, generator=generator) @ space
    return keys / inside**0.5 + noise * torch.randn(chunks, width, generator=generator)


def any_basis(width: int, columns: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(width, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0].float()


def worst_queries(keys: Tensor, projected: ScanKeys) -> Tensor:
    """For each key the query whose score its projection misses most: where Cauchy-Schwarz is an equation."""
    basis = projected.basis.double()
    lost = keys.double() - dequantize_keys(projected).double() @ basis.T
    inside = lost @ basis @ basis.T
    worst = inside + (lost - inside) / BESIDE**2
    return (worst / worst.abs().amax(1, keepdim=True).clamp_min(2.0**-500)).float()


@given(
    width=st.integers(2, 300),
    part=st.floats(0, 1),
    exponent=st.integers(-25, 18),
    apart=st.integers(-6, 6),
    seed=st.integers(0, 2**31),
    quantized=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_reach_times_error_bounds_every_difference(
    width: int, part: float, exponent: int, apart: int, seed: int, quantized: bool
) -> None:
    basis = any_basis(width, max(1, round(part * width)), seed)
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(20, width, generator=generator) * 10.0**exponent
    keys[0] = basis[:, 0] * 10.0**exponent  # wholly inside
    projected = project_keys(quantize_keys(keys, "int8") if quantized else keys, basis)
    queries = torch.randn(7, width, generator=generator)
    queries[0] = basis[:, -1]
    queries = torch.cat([queries, worst_queries(keys, projected)]) * 10.0**apart
    _, reach = project_tokens(queries, basis)
    exact = queries.double() @ keys.double().T
    ours = queries.double() @ basis.double() @ dequantize_keys(projected).double().T
    assert ((ours - exact).abs() <= torch.outer(reach, projected.errors.double())).all()
    assert (projected.norms.double() >= keys.double().norm(dim=1)).all()


def test_the_bound_is_that_of_the_two_parts() -> None:
    """The slow twin: both factors from their definitions, in float64."""
    basis = any_basis(40, 12).double()
    keys, queries = near_a_space(30, 40).double(), near_a_space(5, 40, 40, seed=3).double()
    projected = project_keys(keys.float(), basis.float())
    tokens, reach = project_tokens(queries.float(), basis.float())
    within = queries @ basis
    beside = queries - within @ basis.T
    slow_reach = (within.square().sum(1) + BESIDE**2 * beside.square().sum(1)).sqrt()
    lost = keys - dequantize_keys(projected).double() @ basis.T
    inside = lost @ basis
    slow_errors = (inside.square().sum(1) + (lost - inside @ basis.T).square().sum(1) / BESIDE**2).sqrt()
    torch.testing.assert_close(tokens.double(), within, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reach, slow_reach, rtol=1e-2, atol=1e-5)
    assert (reach >= slow_reach).all()
    torch.testing.assert_close(projected.errors.double(), slow_errors, rtol=0.1, atol=1e-3)
    assert (projected.errors.double() >= slow_errors).all()


@pytest.mark.parametrize("finer", [False, True])
@pytest.mark.parametrize("size", [1e-25, 1e-12, 1.0, 1e12])
def test_bounds_of_documents_hold(size: float, finer: bool) -> None:
    keys, queries = near_a_space(1500), near_a_space(4 * 9, inside=60, seed=5).view(4, 9, 128)
    mask = torch.arange(9) < torch.tensor([9, 3, 0, 1])[:, None]
    owners = torch.arange(1500) // 3
    basis = principal_basis(keys)
    keys *= size
    assert basis is not None
    assert basis.shape == (128, 64)
    projected = project_keys(keys, basis)
    assert (projected.columns, projected.width) == (64, 128)
    lower, upper = scan_documents(queries, projected, owners, mask, num_documents=500, finer=finer)
    scores = (queries.double() @ keys.double().T).masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    exact = scores.view(4, 500, 3).amax(2)
    assert ((lower <= exact) & (exact <= upper)).all()
    worst = worst_queries(keys, projected)[:, None]
    each, alone = torch.arange(1500), torch.ones(len(worst), 1, dtype=torch.bool)
    for sign in (1, -1):
        own = scan_documents(sign * worst, projected, each, alone, num_documents=1500, finer=finer)
        low, high = (bound.diagonal() for bound in own)
        true = sign * (worst[:, 0].double() * keys.double()).sum(1)
        assert ((low <= true) & (true <= high)).all()
        half = (high.double() - low) / 2
        assert ((low.double() + half - true).abs() > half / 4).any()  # they come near the end
    told = mask.any(1)
    spread = float(exact[told].std())
    assert float((upper - lower)[told].double().mean()) < spread / 2  # worth having


def test_tokens_that_are_no_numbers_bound_nothing() -> None:
    keys = near_a_space(1500)
    basis = principal_basis(keys)
    assert basis is not None
    queries, mask = torch.ones(3, 2, 128), torch.ones(3, 2, dtype=torch.bool)
    queries[0, 1, 5], queries[1, 0, 0] = float("nan"), float("inf")
    owners = torch.zeros(1500, dtype=torch.long)
    lower, upper = scan_documents(queries, project_keys(keys, basis), owners, mask, num_documents=1)
    assert lower[:2].tolist() == [[-float("inf")]] * 2
    assert upper[:2].tolist() == [[float("inf")]] * 2
    assert torch.stack([lower[2], upper[2]]).isfinite().all()


def test_a_basis_holds_nearly_all_of_the_keys() -> None:
    keys = near_a_space(2000, 256, 100)
    basis = principal_basis(keys)
    assert basis is not None
    assert basis.shape == (256, 128)
    torch.testing.assert_close(basis.T @ basis, torch.eye(128), atol=1e-5, rtol=0)
    left = (keys - keys @ basis @ basis.T).square().sum() / keys.square().sum()
    assert float(left) < 2.0**-7
    assert torch.equal(basis, principal_basis(keys))  # the same every time


@pytest.mark.parametrize(
    "keys",
    [
        torch.randn(sampled_rows(128), 128, generator=torch.Generator().manual_seed(0)),
        near_a_space(2000, inside=110),
        torch.cat([torch.randn(2000, 156), 30 * torch.randn(2000, 4)], dim=1),
        near_a_space(2000, 64, 8),  # 64 columns are multiplied at a time
        near_a_space(100),
        torch.zeros(2000, 128),
        torch.empty(0, 128),
        torch.empty(5, 0),
        torch.full((2000, 128), float("nan")),
    ],
    ids=[
        "all columns",
        "most columns",
        "a long tail",
        "narrow",
        "few keys",
        "zeros",
        "none",
        "no columns",
        "no numbers",
    ],
)
def test_keys_without_a_basis(keys: Tensor) -> None:
    assert principal_basis(keys) is None


def test_projected_keys_are_keys() -> None:
    keys, basis = near_a_space(50, 8, 4), any_basis(8, 4)
    projected = project_keys(keys, basis)
    again = ScanKeys.join([projected.narrow(0, 20), projected.narrow(20, 30)])
    chosen = projected.select(torch.tensor([7, 3]))
    assert again.basis is chosen.basis is projected.to("cpu").basis is basis
    assert torch.equal(again.codes, projected.codes)
    assert torch.equal(chosen.errors, projected.errors[[7, 3]])
    assert len(project_keys(keys[:0], basis)) == 0
    with pytest.raises(ShapeError, match="do not join"):
        ScanKeys.join([projected, project_keys(keys, any_basis(8, 4, 1))])


def test_what_does_not_fit_is_refused() -> None:
    keys = near_a_space(50, 8, 4)
    with pytest.raises(ShapeError, match=r"pass \(8, r\)"):
        project_keys(keys, any_basis(9, 4))
    with pytest.raises(ShapeError, match="the basis is"):
        ScanKeys(
            format="int8",
            codes=torch.zeros(1, 4, dtype=torch.int8),
            scales=torch.ones(1),
            errors=torch.ones(1),
            norms=torch.ones(1),
            basis=any_basis(8, 3),
        )
    with pytest.raises(InputError, match="finite"):
        project_keys(torch.full((2, 8), float("nan")), any_basis(8, 4))
