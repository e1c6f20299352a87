"""An index over routing keys: k-means cells, and what a question can find in a cell at most.

A cell is the keys nearest to its centre c. With its reach, the largest ||k - c|| of them, Cauchy-Schwarz
bounds every key of it from its centre alone:

    <q, k>  =  <q, c> + <q, k - c>  <=  <q, c> + ||q|| reach

A question looks into the cells that promise most; the bound of the others says what it may have missed.
Distances are Euclidean, so that keys of any norm may be in an index, not those of cosines alone. Then a mean
shrinks with the spread of its keys, the root of their mean ||k - c||^2, so a cell promises

    <q, c> + lean ||q|| spread

B requests, T tokens, W routing width, C chunks, L cells, M chunks of a sample or a tile.
"""

import math

import torch
from torch import Tensor

from memsparse.errors import ConfigError, ShapeError
from memsparse.ops.products import fastest_arithmetic, float_slack
from memsparse.ops.quantization import round_up
from memsparse.ops.routing import inner_products

CELLS_OF_ROOT = 8
"""Cells for the square root of the number of chunks; of half as many, twice the chunks have to be read."""
SAMPLE = 64
"""Chunks for each cell that k-means looks at."""
LARGEST_SAMPLE = 2**17
"""Chunks that k-means looks at, at most: what bounds its memory."""
TURNS = 8
"""Of k-means."""
_PRODUCTS = 2**22
"""Inner products computed at a time, about."""


def cell_count(chunks: int) -> int:
    """L, the cells of so many chunks."""
    return min(chunks, round(CELLS_OF_ROOT * math.sqrt(chunks)))


@torch.no_grad()
def train_centres(sample_MW: Tensor, cells: int, *, seed: int = 0, turns: int = TURNS) -> Tensor:
    """Centres of k-means cells: (L, W) float32.

    Starts from different rows of the sample. A cell left without a row takes one of those farthest from their
    centres.

    Args:
        sample_MW: of any floating dtype; at least `cells` rows.

    Raises: ShapeError for a smaller sample; ConfigError if there are no cells or turns to make.
    """
    if cells < 1 or turns < 1:
        raise ConfigError(f"{cells} cells in {turns} turns; ask for at least 1 of both")
    if sample_MW.ndim != 2 or len(sample_MW) < cells:
        raise ShapeError(f"a sample of {tuple(sample_MW.shape)} for {cells} cells; pass a row for each")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(sample_MW), generator=generator)[:cells].to(sample_MW.device)
    centres_LW = sample_MW[chosen].float()
    away_M = torch.empty(len(sample_MW), device=sample_MW.device)
    for _ in range(turns):
        sums_LW, counts_L = torch.zeros_like(centres_LW), centres_LW.new_zeros(cells)
        nearest, start = _Nearest(centres_LW), 0
        for tile in sample_MW.split(_tile(cells)):
            rows = tile.float()
            cell, away_M[start : start + len(rows)] = nearest(rows)
            sums_LW.index_add_(0, cell, rows)
            counts_L.index_add_(0, cell, torch.ones_like(rows[:, 0]))
            start += len(rows)
        empty = (counts_L == 0).nonzero()[:, 0]
        centres_LW = sums_LW / counts_L.clamp_min(1)[:, None]
        centres_LW[empty] = sample_MW[away_M.topk(len(empty)).indices].float()
    return centres_LW


@torch.no_grad()
def assign_cells(keys_CW: Tensor, centres_LW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cell of every key and how far the keys of a cell lie, in tiles: peak extra memory is one tile's.

    Args:
        keys_CW: of any floating dtype; on the centres' device or in host memory.

    Returns: cells (C,) int64, the nearest, or about as near where products are rounded; squares (L,)
        float64, the sum of ||k - c||^2 of each cell; reach (L,) float64, ||k - c|| <= reach whatever was
        rounded, 0 where a cell is empty. All on the centres' device.

    Raises: ShapeError if the widths differ.
    """
    if keys_CW.ndim != 2 or keys_CW.shape[1] != centres_LW.shape[1]:
        raise ShapeError(f"keys are {tuple(keys_CW.shape)}; pass (chunks, {centres_LW.shape[1]})")
    cells = torch.empty(len(keys_CW), dtype=torch.long, device=centres_LW.device)
    squares_L, reach_L = torch.zeros(
        2, len(centres_LW), dtype=torch.float64, device=centres_LW.device
    ).unbind()
    nearest, step = _Nearest(centres_LW), _tile(len(centres_LW))
    for start in range(0, len(keys_CW), step):
        rows = keys_CW[start : start + step].to(centres_LW.device).float()
        cell, _ = nearest(rows)
        cells[start : start + len(rows)] = cell
        away = (rows.double() - centres_LW[cell].double()).norm(dim=1)
        squares_L.index_add_(0, cell, away.square())
        reach_L.scatter_reduce_(0, cell, away * (1 + 2.0**-30), "amax")
    return cells, squares_L, reach_L


def padded_reach(centres_LW: Tensor, reach_L: Tensor) -> Tensor:
    """(L,) float32: the reach of cells (float64) and what a float32 product with their centres loses, so that
    <q, c> + ||q|| reach stays a bound when float32 adds it up."""
    slack_L = float_slack(centres_LW.shape[1]) * centres_LW.double().norm(dim=1)
    return round_up((reach_L + slack_L) * (1 + 2.0**-20))


@torch.no_grad()
def score_cells(
    routing_q: Tensor,
    query_mask: Tensor,
    centres_LW: Tensor,
    spread_L: Tensor,
    reach_L: Tensor,
    *,
    lean: float,
) -> tuple[Tensor, Tensor]:
    """What each cell promises, and what no chunk of it exceeds.

    Args:
        routing_q: (B, T, W) float32.
        query_mask: (B, T) bool, True on the tokens that route.
        spread_L: float32.
        reach_L: float32, of `padded_reach`.
        lean: how much of its spread a cell promises beyond its centre.

    Returns: promises, bounds, both (B, L) float32; -inf in both where a request has no routing token, and
        bounds of inf where a query is not finite.
    """
    shape = len(routing_q), len(centres_LW)
    promises_BL = centres_LW.new_full(shape, -torch.inf)
    bounds_BL = promises_BL.clone()
    lean_L = lean * spread_L
    for request, (q, mask) in enumerate(zip(routing_q, query_mask, strict=True)):
        tokens_TW = q[mask].float()
        if not len(tokens_TW):
            continue
        products_TL = inner_products(tokens_TW[None], centres_LW)[0]
        lengths_T1 = round_up(tokens_TW.double().norm(dim=1) * (1 + 2.0**-30))[:, None]
        promises_BL[request] = torch.addcmul(products_TL, lengths_T1, lean_L).amax(0)
        highest_L = products_TL.addcmul_(lengths_T1, reach_L).amax(0).double()
        # A score rounded to float32 lies at most one step above; products below float32 count as 2^-100.
        bounds_BL[request] = round_up(highest_L + highest_L.abs() * 2.0**-22 + 2.0**-100)
    inf = float("inf")
    return promises_BL.nan_to_num_(nan=inf, posinf=inf, neginf=-inf), bounds_BL.nan_to_num_(
        nan=inf, posinf=inf, neginf=-inf
    )


class _Nearest:
    """Finds the nearest centre of keys by products that are rounded to bfloat16 where that is faster: of
    centres about as near any will do, for how far a cell reaches is measured."""

    def __init__(self, centres_LW: Tensor) -> None:
        # ||k - c||^2 = ||k||^2 - 2 <k, c> + ||c||^2
        self._half_L = centres_LW.square().sum(1) / 2
        self._rounds = fastest_arithmetic("bf16", centres_LW.shape[1], centres_LW.device) == "bf16"
        self._centres_LW = centres_LW.bfloat16() if self._rounds else centres_LW

    def __call__(self, rows_MW: Tensor) -> tuple[Tensor, Tensor]:
        """The cell of each float32 row, and its squared distance: (M,) each."""
        if self._rounds:
            products_ML = (rows_MW.bfloat16() @ self._centres_LW.T).float()
        else:
            products_ML = inner_products(rows_MW[None], self._centres_LW)[0]
        best, cell = products_ML.sub_(self._half_L).max(dim=1)
        return cell, rows_MW.square().sum(1) - 2 * best


def _tile(cells: int) -> int:
    return max(_PRODUCTS // max(cells, 1), 256)
