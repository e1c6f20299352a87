"""Chunk pooling (paper Eq. 1): the mean of K, V and routing keys over windows of `chunk_size` tokens.

B documents, T tokens, C chunks of all documents.
"""

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.lookup import rows_of
from memsparse.ops.native import layers
from memsparse.ops.positions import chunk_counts


def pool_chunks(states_BT: Tensor, lengths_B: Tensor, chunk_size: int) -> Tensor:
    """Average each document's states over consecutive windows; the last window over its true length.

    Args:
        states_BT: (B, T, ...) one document per row, padded on the right.
        lengths_B: (B,) int64 true lengths, tokens.
        chunk_size: tokens per window.

    Returns: (C, ...) chunks, document after document; sums run in float32 or better.

    Raises: ShapeError if the number of lengths differs from the number of rows, or a length exceeds T;
        ConfigError if `chunk_size` is below 1.
    """
    batch, length, *rest = states_BT.shape
    if lengths_B.shape != (batch,):
        raise ShapeError(
            f"lengths have shape {tuple(lengths_B.shape)}, states have {batch} rows; pass one per row"
        )
    if lengths_B.numel() and int(lengths_B.max()) > length:
        raise ShapeError(
            f"a document has {int(lengths_B.max())} tokens, its row {length}; pad to the longest"
        )
    windows = int(chunk_counts(torch.tensor(length), chunk_size))
    if batch and rest and not layers.are_torchs(states_BT):
        rows = states_BT.flatten(0, 1)
        if layers.can_change(rows.flatten(1)):
            return layers.pool(rows, *_windows(lengths_B.cpu(), length, chunk_size))
    token = torch.arange(windows * chunk_size, device=states_BT.device)
    real = (token < lengths_B[:, None]).view(batch, windows, chunk_size)
    padding = [0, 0] * len(rest) + [0, windows * chunk_size - length]
    tiled = torch.nn.functional.pad(states_BT, padding).view(batch, windows, chunk_size, *rest)
    # Padding is cut by masking, not by a factor of 0: what lies there may be inf or NaN.
    tiled = tiled.masked_fill(~real.view(batch, windows, chunk_size, *[1] * len(rest)), 0)
    counts = real.sum(2).clamp_min(1).view(batch, windows, *[1] * len(rest))
    exact = torch.promote_types(states_BT.dtype, torch.float32)
    means = (tiled.sum(2, dtype=exact) / counts).to(states_BT.dtype)
    return means[real[:, :, 0]]


def _windows(lengths_B: Tensor, length: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """First row and number of rows (C,) of every chunk, where documents take `length` rows each."""
    document = document_of_chunk(lengths_B, chunk_size)
    token = rows_of(torch.zeros_like(lengths_B), chunk_counts(lengths_B, chunk_size)) * chunk_size
    return document * length + token, (lengths_B[document] - token).clamp_max(chunk_size)


def document_of_chunk(lengths_B: Tensor, chunk_size: int) -> Tensor:
    """Index of the document each chunk belongs to: (C,) int64, ascending."""
    counts = chunk_counts(lengths_B, chunk_size)
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
