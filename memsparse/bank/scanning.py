"""The scan as a coarse stage: bounds of all documents of a view; those that may be among the best are kept.

B requests, N documents, n of them in a tile, M kept, C chunks.
"""

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from memsparse.bank.keys import KeyTier
from memsparse.bank.places import Places, Span
from memsparse.bank.probing import Probed
from memsparse.bank.segments import SegmentRecord
from memsparse.bank.tiers import Tiers
from memsparse.ops.certificate import Sieve
from memsparse.ops.lookup import rows_of
from memsparse.ops.quantization import ScanKeys
from memsparse.ops.scan import Scan, scan_documents

TILE = 2**19
"""Chunks bounded at a time, at most."""
TOGETHER = 2**20
"""Chunks times requests bounded at a time, at most."""


class Scanning:
    """The routing keys of one view of a bank, scanned; safe to share between threads."""

    def __init__(self, places: Places, records: dict[int, SegmentRecord], tiers: Tiers) -> None:
        """Lay out the view; nothing is read yet."""
        self._places = places
        self._tiers = tiers
        self._seen = [records[id_] for id_ in places.segment_ids.tolist()]
        self._spans: dict[KeyTier, tuple[int, list[Span]]] = {}
        """By tier: how many merges it had seen before they were laid, and the spans."""
        self._mutex = threading.Lock()
        self.used: KeyTier | None = None
        """What keys were last taken from."""

    def look(
        self,
        layer_idx: int,
        routing_q: Tensor,
        query_mask: Tensor,
        k: int,
        *,
        every: bool = False,
        allowed: Tensor | None = None,
    ) -> Probed:
        """Bound all documents, tile by tile; results on the queries' device.

        Args:
            k: documents that are wanted of each request.
            every: whether scores and errors of all documents are kept, not only of those that may be wanted.
            allowed: (B, N) bool, True where a request may read a document. None: everywhere.
        """
        device, home = self._tiers.scan_device(routing_q.device), routing_q.device
        q, mask = routing_q.float().to(device), query_mask.to(device)
        scan, sieve, all_2BN = Scan(q, mask), Sieve(len(q), k, device=home), None
        if every:
            all_2BN = torch.full((2, len(q), len(self._places)), float("-inf"), device=home)
            all_2BN[1] = 0
        chunks = max(min(TILE, TOGETHER // max(len(q), 1)), 1)
        for span, keys in self.stream(layer_idx, device):
            columns = span.columns(device)
            if span.sparse:
                keys = keys.select(span.rows().to(device))
            else:
                keys = keys.narrow(span.reach.start, len(span.reach))
            for tile in columns.tiles(chunks):
                owners = columns.of_chunk[tile.chunks.start : tile.chunks.stop]
                if tile.columns.start:  # 8 bytes a chunk that a block in one tile does without
                    owners = owners - tile.columns.start
                lower, upper = scan.bounds(
                    keys.narrow(tile.chunks.start, len(tile.chunks)),
                    owners,
                    num_documents=len(tile.columns),
                )
                if columns.chosen is not None:
                    seen = columns.chosen[tile.seen.start : tile.seen.stop] - tile.columns.start
                    lower, upper = lower[:, seen], upper[:, seen]
                here = span.where(tile.seen)
                lower, upper = _masked(lower.to(home), allowed, here), _masked(upper.to(home), allowed, here)
                documents = span.documents[tile.seen.start : tile.seen.stop].to(home)
                sieve.add(documents, lower, upper)
                if all_2BN is not None:
                    all_2BN[0, :, here], all_2BN[1, :, here] = middle(lower, upper)
        documents, lower, upper = sieve.kept()
        return Probed(
            lower=lower,
            upper=upper,
            documents=documents,
            every=all_2BN,
            beyond=sieve.beyond,
            chunks=len(q) * int(self._places.chunks.sum()),
        )

    def bound_again(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, M) tighter bounds of documents (M,), ascending; of those whose keys are held in host memory."""
        device = self._tiers.scan_device(routing_q.device)
        lower_BM = torch.full((len(routing_q), len(documents)), float("-inf"), device=device)
        upper_BM = torch.full_like(lower_BM, float("inf"))
        if device.type == "cpu" and self.used is not None:
            q, mask, documents = routing_q.float().cpu(), query_mask.cpu(), documents.cpu()
            for span in self._spans[self.used][1]:
                keys = span.block.kept.get(layer_idx)
                at, columns = span.find(documents)
                if keys is None or not len(at):
                    continue
                counts = span.counts[at]
                lower_BM[:, columns], upper_BM[:, columns] = scan_documents(
                    q,
                    keys.select(rows_of(span.starts[at], counts)),
                    torch.repeat_interleave(counts),
                    mask,
                    num_documents=len(at),
                    finer=True,
                )
        return lower_BM.to(routing_q.device), upper_BM.to(routing_q.device)

    def stream(
        self, layer_idx: int, device: torch.device, *, scanned: bool = True
    ) -> Iterator[tuple[Span, ScanKeys]]:
        """The view and its routing keys on a device that scans, block by block."""
        tier = self.tier(device, scanned=scanned)
        with self._mutex:
            laid = self._spans.get(tier)
            if laid is None or laid[0] != tier.merges:
                merges = tier.merges
                laid = merges, self._places.spans(tier.place(self._seen)) if self._seen else []
                self._spans[tier] = laid
            spans = laid[1]
        yield from zip(spans, tier.stream(layer_idx, [span.block for span in spans]), strict=True)

    def tier(self, device: torch.device, *, scanned: bool = True) -> KeyTier:
        """The tier that a read of the view takes its routing keys from."""
        with self._mutex:
            chunks = sum(record.chunks for record in self._seen)
            self.used = self._tiers.keys(device, chunks=chunks, scanned=scanned)
            return self.used


def _masked(scores_Bn: Tensor, allowed_BN: Tensor | None, documents: slice | Tensor) -> Tensor:
    """Of these documents, -inf where they may not be read."""
    if allowed_BN is None:
        return scores_Bn
    return scores_Bn.masked_fill(~allowed_BN[:, documents].to(scores_Bn.device), float("-inf"))


def middle(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of intervals and how far their ends may lie from it, rounded up; -inf and 0 for none."""
    none = upper == float("-inf")
    middle = (lower.double() + upper.double()).div_(2).float().nan_to_num_(nan=0.0, posinf=0.0)
    reach = torch.maximum(upper.double() - middle, middle - lower.double()).float()
    reach = reach.nextafter(torch.full_like(reach, float("inf")))
    return middle.masked_fill_(none, float("-inf")), reach.masked_fill_(none, 0)
