"""Rotary positions (paper section 3.3): each document counts from 0, the question from after the memory.

B rows, T tokens.
"""

import torch
from torch import Tensor

from memsparse.errors import ConfigError


def document_positions(batch: int, length: int, *, device: torch.device | None = None) -> Tensor:
    """Positions of documents, one per row: every document starts at 0, wherever it lies in memory.

    Returns: (B, T) int64.
    """
    return torch.arange(length, device=device).expand(batch, length)


def context_positions(attention_mask_BT: Tensor, offset: int | Tensor) -> Tensor:
    """Positions of the question and all that follows: the first real token of every row stands at `offset`.

    The published models use head length + top_k as offset, however many documents are retrieved. Padding
    before the first real token repeats the offset; padding after it repeats the position before.

    Returns: (B, T) int64.
    """
    counts = attention_mask_BT.long().cumsum(-1)
    return (counts - 1).clamp_min(0) + offset


def chunk_positions(lengths_N: Tensor, chunk_size: int) -> Tensor:
    """First in-document position of every chunk, document after document.

    Returns: (C,) int64 with C = sum of ceil(length / chunk_size).
    """
    counts = chunk_counts(lengths_N, chunk_size)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return (torch.arange(first.numel(), device=lengths_N.device) - first) * chunk_size


def chunk_counts(lengths_N: Tensor, chunk_size: int) -> Tensor:
    """Chunks of documents of the given lengths (tokens), the last one possibly short: (N,) int64.

    Raises: ConfigError if `chunk_size` is below 1.
    """
    if chunk_size < 1:
        raise ConfigError(f"chunk_size is {chunk_size}; it must be at least 1")
    return (lengths_N + chunk_size - 1) // chunk_size
