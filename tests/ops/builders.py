import torch
from torch import Tensor


def scores_of(exact: Tensor, ranked: Tensor) -> Tensor:
    """A `Rescore`: of scores (B, N) those of documents (B, M), -inf for none."""
    padded = torch.cat([exact, exact.new_full((len(exact), 1), -torch.inf)], dim=1)
    return padded.gather(1, ranked.where(ranked >= 0, exact.shape[1]))
