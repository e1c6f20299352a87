"""Where numbers stand among ascending ones, and the numbers of runs."""

import torch
from torch import Tensor


def find_ascending(among: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Look up numbers (m,) among ascending ones (n,), both int64.

    Returns: the places of those that are there, and which of the m they are.
    """
    places = torch.searchsorted(among, wanted).clamp_max(max(len(among) - 1, 0))
    there = among[places] == wanted if len(among) else torch.zeros_like(wanted, dtype=torch.bool)
    return places[there], there.nonzero()[:, 0]


def rows_of(starts: Tensor, counts: Tensor) -> Tensor:
    """Positions start, start + 1, ... of runs (n,) of `counts` each, one after the other."""
    first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    return first + torch.arange(len(first), device=first.device)
