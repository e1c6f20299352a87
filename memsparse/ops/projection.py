"""Routing keys in fewer columns: trained ones lie close to a space of fewer dimensions than they have.

With the columns of V (W, r) orthonormal, P = V V', and r numbers k~ that stand for the key k, near V k~:

    <q, k> - <V' q, k~>  =  <q, d>,  d = k - V k~,
    |<q, d>|  <=  ||V' q|| ||V' d|| + ||q - P q|| ||d - P d||
              <=  sqrt(||V' q||^2 + s^2 ||q - P q||^2)  sqrt(||V' d||^2 + ||d - P d||^2 / s^2),  any s > 0,

by Cauchy-Schwarz in the space of V, beside it, and of the two: the *reach* of a query times the error of a
key, so that a scan of r columns bounds scores as one of W does. The r columns that hold the most of the keys
are their principal components (Pearson 1901); the bound holds for any orthonormal ones.

C chunks, W = G*D routing width, r columns of a projected key, R routing tokens.
"""

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.quantization import ScanKeys, dequantize_keys, quantize_keys, row_norms

BESIDE = 4.0
"""s: what a query or key has beside V against what it has in it. Keys lie closer to V than queries do."""
_LEFT = 2.0**-7
"""Of the squared length of keys, what may lie beside V at most."""
_STEP = 64
"""Columns are a multiple of it: whole rows of the tiles that multiply them."""
_LARGEST_PART = 0.75
"""Of the columns of a key, r at most: a scan of more would hardly be faster."""
_SAMPLE = 8
"""Keys that a basis is found from, for each of their columns."""
_STRAIGHT = 2.0**-22
"""How far V' V may lie from the identity, as a Frobenius norm, by the root of r."""
_ROWS = 8192
"""Chunks projected at a time."""


def sampled_rows(width: int) -> int:
    """Keys of that many columns that `principal_basis` needs; more make it no better."""
    return _SAMPLE * width


def principal_basis(keys_CW: Tensor) -> Tensor | None:
    """V (W, r) float32 of the fewest columns that hold nearly all of such keys.

    Args:
        keys_CW: a sample of them, `sampled_rows` or so; finite.

    Returns: None where too many columns would be needed, or too few keys were given to tell.
    """
    chunks, width = keys_CW.shape
    most = int(width * _LARGEST_PART) // _STEP * _STEP
    if chunks < width or not most:
        return None
    rows = keys_CW.float()
    gram = (rows.T @ rows).double()
    energy = float(gram.diagonal().sum())
    # Of a spectrum whose `most` largest are to hold all but `_LEFT`; far cheaper than the spectrum itself.
    spread = energy**2 / max(float(gram.square().sum()), torch.finfo(torch.float64).tiny)
    if not 0 < energy < float("inf") or spread > most / (1 - _LEFT) ** 2:
        return None
    values, vectors = torch.linalg.eigh(gram)
    left = energy - values.flip(0).cumsum(0)
    enough = int((left > _LEFT * energy).sum()) + 1
    columns = -(-enough // _STEP) * _STEP
    if columns > most:
        return None
    basis = vectors[:, -columns:].flip(1).float().contiguous()
    off = basis.double().T @ basis.double() - torch.eye(columns, dtype=torch.float64, device=basis.device)
    return basis if float(off.norm()) <= _STRAIGHT * columns**0.5 else None


def project_keys(keys: Tensor | ScanKeys, basis: Tensor) -> ScanKeys:
    """Keys (C, W), as stored or quantised, as int8 keys of r columns: errors are those of the module's bound.

    Args:
        basis: (W, r) float32, orthonormal as those of `principal_basis` are.

    Raises: ShapeError where the basis is of another width; InputError as `quantize_keys`.
    """
    width = keys.width if isinstance(keys, ScanKeys) else keys.shape[1]
    if basis.ndim != 2 or len(basis) != width:
        raise ShapeError(f"the basis is {tuple(basis.shape)}; pass ({width}, r) for these keys")
    parts = []
    for start in range(0, max(len(keys), 1), _ROWS):
        if isinstance(keys, ScanKeys):
            tile = keys.narrow(start, min(_ROWS, len(keys) - start))
            parts.append(_project(dequantize_keys(tile), tile.errors, basis))
        else:
            rows = keys[start : start + _ROWS].float()
            parts.append(_project(rows, rows.new_zeros(len(rows)), basis))
    return ScanKeys.join(parts)


def lie_near(keys: ScanKeys) -> bool:
    """Whether about as little of projected keys lies beside their columns as of those the basis is from."""
    errors, norms = (each.double().square().sum() for each in (keys.errors, keys.norms))
    return bool(BESIDE**2 * errors <= 4 * _LEFT * norms)


def project_tokens(tokens_RW: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """V' q (R, r) float32 and the reach (R,) float64, rounded up, of queries (R, W) float32."""
    inside = tokens_RW @ basis
    own, whole = (
        torch.linalg.vector_norm(each, dim=1, dtype=torch.float64).square() for each in (inside, tokens_RW)
    )
    beside = (whole - own).clamp_min(0)  # ||q - P q||^2 = ||q||^2 - ||V' q||^2
    reach = own + BESIDE**2 * beside + (1 + BESIDE**2) * 3 * rounding(basis) * whole
    return inside, reach.sqrt()


def rounding(basis: Tensor) -> float:
    """How far V' x as float32 may lie from it, by the length of x: twice the textbook's bound, as in
    `products.float_slack`, for each of r sums. What a basis lacks in straightness is in it, too."""
    width, columns = basis.shape
    return float(columns**0.5) * ((width + columns + 16) * 2.0**-23 + 2 * _STRAIGHT)


def _project(rows_CW: Tensor, lost_C: Tensor, basis: Tensor) -> ScanKeys:
    """Float32 rows, which may lie `lost_C` from the keys they stand for."""
    inside = rows_CW @ basis
    keys = quantize_keys(inside, "int8")
    beside, lengths = row_norms(rows_CW - inside @ basis.T), row_norms(rows_CW)
    # The weighted norm of what was lost before is at most its length.
    errors = torch.hypot(keys.errors, beside / BESIDE) * (1 + 2.0**-18) + lost_C
    errors += (lengths + keys.norms) * rounding(basis)
    norms = torch.maximum(keys.norms, (lengths + lost_C) * (1 + 2.0**-20))
    return ScanKeys(
        format="int8", codes=keys.codes, scales=keys.scales, errors=errors, norms=norms, basis=basis
    )
