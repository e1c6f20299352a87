"""One rank's part of a bank: a contiguous run of the visible passages, and the reader over it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memsparse.bank import Bank, BankReader
from memsparse.bank.records import Layout
from memsparse.bank.tiers import TierConfig
from memsparse.distributed.merging import cut_evenly
from memsparse.ops.routing import RoutingRule

_SETTINGS = {kind.__name__: kind for kind in (RoutingRule, TierConfig)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Rank r's passages of a view, out of all N."""

    reader: BankReader
    dtype: torch.dtype
    """Of the bank's K and V."""
    first: int
    """Index of its first passage among the N."""
    documents: tuple[int, ...]
    """Passages of every rank."""
    numbers: Tensor
    """(N,) int64, the numbers of all."""
    digest: str
    """Of where all N lie and what the segments hold; equal where two ranks see the same."""

    def exact_scores(
        self, layer_idx: int, *, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """(B, k) float32 exact scores of documents (B, k), by index among the N; -inf for those of others."""
        within = documents - self.first
        here = (within >= 0) & (within < len(self.reader))
        if not bool(here.any()):
            return routing_q.new_full(documents.shape, float("-inf"), dtype=torch.float32)
        return self.reader.exact_scores(layer_idx, routing_q, query_mask, torch.where(here, within, -1))


def open_shard(bank: Bank, view: Mapping[str, Any], rank: int, ranks: int) -> Shard:
    """Read where the passages of a view lie and take the share of one rank; shares are even by chunks.

    Args:
        view: the arguments of `Bank.reader`.

    Raises: as `Bank.reader`.
    """
    seen = {name: view[name] for name in ("namespace", "version", "now")}
    layout = bank.layout(**seen)
    rows = np.asarray(layout.rows, dtype=np.int64).reshape(-1, 4)
    shares = cut_evenly(rows[:, 3].tolist(), ranks)
    first, end = shares[rank]
    rest = {name: value for name, value in view.items() if name not in seen}
    return Shard(
        reader=bank.reader(layout=replace(layout, rows=layout.rows[first:end]), **rest),
        dtype=bank.fingerprint.torch_dtype,
        first=first,
        documents=tuple(end - first for first, end in shares),
        numbers=torch.from_numpy(rows[:, 0].copy()),
        digest=_digest(layout, rows),
    )


def _digest(layout: Layout, rows: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    told = hashlib.sha256(rows.tobytes())
    for segment in np.unique(rows[:, 1]).tolist():
        told.update(layout.segments[segment].sha256.encode())
    return told.hexdigest()


def to_json(view: Mapping[str, Any]) -> dict[str, Any]:
    """A view as JSON values: settings become objects that name their kind."""
    return {name: _told(value) for name, value in view.items()}


def from_json(view: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_json` was given; a namespace that was a tuple is a list."""
    return {
        name: _SETTINGS[value["kind"]](**value["fields"]) if isinstance(value, dict) else value
        for name, value in view.items()
    }


def _told(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, "fields": asdict(value)}
    return value
