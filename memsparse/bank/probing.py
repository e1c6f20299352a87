"""The index as a coarse stage: bounds of the chunks in the cells that promise most, and one of all others.

A request asks all cells what they promise and looks into the best. The chunks it finds there are bounded as a
scan bounds them; of those it does not look at it knows the highest bound of their cells. Documents that the
view does not see, or the request may not read, are not found in a cell.

B requests, T tokens, N documents, M of them looked at by some request, L cells of all groups.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memsparse.bank.cells import CellFiles, Cells
from memsparse.bank.keys import KeyBlock, KeyTier, stored_keys
from memsparse.bank.places import Places, Span, rows_of
from memsparse.bank.segments import SegmentFiles
from memsparse.ops.cells import score_cells
from memsparse.ops.quantization import ScanKeys
from memsparse.ops.scan import scan_documents

SMALLEST = 16_384
"""Chunks of a group, as the view sees it, that are worth an index: fewer are scanned as fast as their cells
are found."""
_INF = float("inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What a coarse stage knows of documents, of M of them by chunks it looked at."""

    lower: Tensor
    """(B, M) float32, of the chunks looked at; -inf for none."""
    upper: Tensor
    """(B, M) float32, of the chunks looked at; -inf for none."""
    documents: Tensor | None = None
    """(M,) int64 ascending, their indices. None: they are all documents."""
    whole: Tensor | None = None
    """(B, M) bool, whether all chunks were looked at, or need not be: the document may not be read. None:
    everywhere."""
    rest: Tensor | None = None
    """(B,) float32: no chunk that was not looked at scores above it; -inf where there is none. None: there
    is none for any request."""
    beyond: Tensor | None = None
    """(B,) float32, `rest` where there are other documents than the M that may be read, else -inf."""
    guess: Tensor | None = None
    """(B,) float32, what the cells not looked into promise at most; -inf where there is none."""
    chunks: int
    """Looked at, all requests together."""

    def of(self, columns: Tensor) -> Tensor:
        """The document indices of columns 0..M-1; -1 stays."""
        if self.documents is None:
            return columns
        return self.documents[columns.clamp_min(0)].masked_fill(columns < 0, -1)

    def bound(self, upper_BM: Tensor) -> Tensor:
        """(B, M) upper bounds of the documents' scores, given those of the chunks looked at."""
        if self.whole is None or self.rest is None:
            return upper_BM
        return torch.where(self.whole, upper_BM, upper_BM.maximum(self.rest[:, None]))

    def certified(self, certified_B: Tensor, kth_B: Tensor) -> Tensor:
        """(B,) which requests are certified, given those that are among the M and the k-th score found."""
        if self.beyond is None:
            return certified_B
        return certified_B & ((self.beyond < kth_B) | (self.beyond == -_INF))

    def all_scores(
        self, scores_BM: Tensor, errors_BM: Tensor, documents: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`MemoryKV.all_scores` and `errors`, (B, N) each, given those of the chunks looked at.

        A document with other chunks has what the cells not looked into promise, at least, and errors of inf.
        """
        if self.whole is None or self.guess is None or self.documents is None:
            return scores_BM, errors_BM
        guess_B1 = self.guess.masked_fill(self.guess == _INF, 0)[:, None]
        nothing_B1 = guess_B1 == -_INF
        scores_BN = guess_B1.expand(-1, documents).clone()
        errors_BN = torch.full_like(scores_BN, _INF).masked_fill_(nothing_B1, 0)
        if allowed is not None:
            forbidden = ~allowed.to(scores_BN.device)
            scores_BN.masked_fill_(forbidden, -_INF)
            errors_BN.masked_fill_(forbidden, 0)
        scores_BN[:, self.documents] = torch.where(self.whole, scores_BM, scores_BM.maximum(guess_B1))
        errors_BN[:, self.documents] = errors_BM.masked_fill(~self.whole, _INF)
        return scores_BN, errors_BN

    def to(self, device: torch.device) -> "Probed":
        """The same on another device."""

        def moved(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.to(device)

        return Probed(
            lower=self.lower.to(device),
            upper=self.upper.to(device),
            documents=moved(self.documents),
            whole=moved(self.whole),
            rest=moved(self.rest),
            beyond=moved(self.beyond),
            guess=moved(self.guess),
            chunks=self.chunks,
        )


class Probing:
    """The index over one view of a bank; safe to share between threads."""

    def __init__(
        self, places: Places, groups: Sequence[KeyBlock], files: SegmentFiles, cells: CellFiles, probes: int
    ) -> None:
        """Lay out the view; no cell is read yet.

        Args:
            groups: of all segments of the bank, or of those in the view at least.
            probes: cells a request looks into, where the view sees all of the bank.
        """
        self._places = places
        self._cells = cells
        of_segment = {record.id: group for group in groups for record in group.segments}
        seen = places.segments.unique().tolist()
        spans = places.spans({id_: of_segment[id_] for id_ in seen})
        self._indexed = [span for span in spans if span.visible >= SMALLEST]
        self._scanned = [span for span in spans if span.visible < SMALLEST]
        self._lines = {span.block: _Lines(span.block, files) for span in spans}
        visible = sum(span.visible for span in self._indexed)
        chunks = sum(span.block.chunks for span in self._indexed)
        # A view of a share s of the chunks finds its documents as far apart as a bank of s times as many
        # does, whose cells are larger by the root of 1 / s.
        self._probes = math.ceil(probes * math.sqrt(chunks / visible)) if visible else 0
        self._layers: dict[int, list[tuple[Cells, Tensor]]] = {}
        self._mutex = threading.Lock()

    def __bool__(self) -> bool:
        """Whether any of the view has an index."""
        return bool(self._indexed)

    def look(
        self,
        layer: int,
        routing_q: Tensor,
        query_mask: Tensor,
        tier: KeyTier,
        *,
        least: int,
        allowed: Tensor | None,
        times: int = 1,
    ) -> Probed:
        """Look into the best cells of every request, each on its own.

        Args:
            routing_q: (B, T, W) float32.
            tier: whose keys are read where it holds them; the others are read as they are stored, row by row.
            least: documents to find, where there are so many; more cells are looked into for it.
            allowed: (B, N) bool, True where a request may read a document. None: everywhere.
            times: look into so many times the cells.

        Returns: everything on the CPU.
        """
        q, mask = routing_q.float().cpu(), query_mask.cpu()
        cells = self._cells_of(layer)
        scored = [score_cells(q, mask, own.centres, own.spread, own.reach) for own, _ in cells]
        visible_L = torch.cat([visible for _, visible in cells])
        promises_BL, bounds_BL = (
            torch.cat(parts, dim=1).masked_fill_(visible_L == 0, -_INF) for parts in zip(*scored, strict=True)
        )
        rest_B, beyond_B, guess_B = torch.full((3, len(q)), -_INF).unbind()
        chunks, bounded = 0, []
        for b in mask.any(1).nonzero()[:, 0].tolist():  # the others have no score at all
            own = None if allowed is None else allowed[b].cpu()
            if own is not None and 2 * int(own.sum()) < len(own):
                taken = torch.ones_like(visible_L, dtype=torch.bool)
                found = [_rows_of_all(span, own) for span in self._indexed]
            else:
                taken, found = self._find(promises_BL[b], cells, own, least, times)
            found += [_rows_of_all(span, own) for span in self._scanned]
            documents = 0
            for keys, whose in self._read(layer, found, tier):
                these, local, counts = whose.unique_consecutive(return_inverse=True, return_counts=True)
                bounds = scan_documents(
                    q[b : b + 1].to(keys.device),
                    keys,
                    local.to(keys.device),
                    mask[b : b + 1].to(keys.device),
                    num_documents=len(these),
                )
                lower, upper = (bound[0].cpu() for bound in bounds)
                bounded.append((b, these, lower, upper, counts == self._places.chunks[these]))
                documents += len(these)
                chunks += len(keys)
            left = ~taken & (visible_L > 0)
            if bool(left.any()):
                rest_B[b], guess_B[b] = bounds_BL[b, left].max(), promises_BL[b, left].max()
            if documents < (len(self._places) if own is None else int(own.sum())):
                beyond_B[b] = rest_B[b]
        first = torch.zeros(1, dtype=torch.long)  # of which nothing is known, so that there is one
        every = torch.cat([first, *(these for _, these, *_ in bounded)]).unique()
        lower_BM, upper_BM = torch.full((2, len(q), len(every)), -_INF).unbind()
        whole_BM = ~mask.any(1)[:, None].repeat(1, len(every))
        for b, these, lower, upper, whole in bounded:
            columns = torch.searchsorted(every, these)
            lower_BM[b, columns], upper_BM[b, columns], whole_BM[b, columns] = lower, upper, whole
        if allowed is not None:
            whole_BM |= ~allowed.cpu()[:, every]
        return Probed(
            lower=lower_BM,
            upper=upper_BM,
            documents=every,
            whole=whole_BM,
            rest=rest_B,
            beyond=beyond_B,
            guess=guess_B,
            chunks=chunks,
        )

    def _read(
        self, layer: int, found: list[tuple[Tensor, Tensor]], tier: KeyTier
    ) -> Iterator[tuple[ScanKeys, Tensor]]:
        """The keys of the chunks found in every span, joined as far as they are of one format, and the
        documents they are of; chunks of a document come one after the other."""
        parts: dict[str, list[tuple[ScanKeys, Tensor]]] = {}
        for span, (rows, place) in zip([*self._indexed, *self._scanned], found, strict=True):
            for keys, chosen in self._lines[span.block].read(layer, rows, tier):
                parts.setdefault(keys.format, []).append((keys, span.documents[place[chosen]]))
        for part in parts.values():
            keys = part[0][0] if len(part) == 1 else ScanKeys.join([keys for keys, _ in part])
            yield keys, torch.cat([documents for _, documents in part])

    def _find(
        self,
        promises_L: Tensor,
        cells: list[tuple[Cells, Tensor]],
        own: Tensor | None,
        least: int,
        times: int,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Which cells (L,) bool a request looks into, and for every group with an index the chunks it finds
        there and whose they are: rows (m,) ascending within the group, places (m,) in its span."""
        wanted = self._probes * times
        there = int((promises_L > -_INF).sum())
        while True:
            taken = torch.zeros_like(promises_L, dtype=torch.bool)
            taken[promises_L.topk(min(wanted, there)).indices] = True
            found, begin = [], 0
            for span, (each, _) in zip(self._indexed, cells, strict=True):
                chosen = taken[begin : begin + len(each.centres)].nonzero()[:, 0]
                begin += len(each.centres)
                starts = each.offsets[chosen]
                counts = each.offsets[chosen + 1] - starts
                rows = each.order[rows_of(starts, counts)].sort().values.long()
                found.append(_visible_rows(span, rows, own))
            documents = sum(len(place.unique_consecutive()) for _, place in found)
            if documents >= least or wanted >= there:
                return taken, found
            wanted *= 2

    def _cells_of(self, layer: int) -> list[tuple[Cells, Tensor]]:
        """For every group with an index its cells, and how many chunks of each cell (L,) the view sees."""
        with self._mutex:
            if layer not in self._layers:
                laid = []
                for span in self._indexed:
                    cells = self._cells.load(span.block, layer)
                    counts = cells.offsets.diff()
                    if span.visible < span.block.chunks:
                        seen_C = torch.zeros(span.block.chunks, dtype=torch.bool)
                        seen_C[span.rows()] = True
                        before = seen_C[cells.order].cumsum(0)
                        counts = torch.cat([before.new_zeros(1), before])[cells.offsets].diff()
                    laid.append((cells, counts))
                self._layers[layer] = laid
            return self._layers[layer]


class _Lines:
    """Where the chunks of a group lie in its segments, and in the blocks of a tier."""

    def __init__(self, group: KeyBlock, files: SegmentFiles) -> None:
        self._group = group
        self._files = files
        self._firsts = torch.tensor([group.starts[record.id] for record in group.segments])
        self._laid: tuple[KeyTier, int, list[KeyBlock], Tensor, Tensor] | None = None

    def read(self, layer: int, rows: Tensor, tier: KeyTier) -> Iterator[tuple[ScanKeys, Tensor]]:
        """The keys of chunks `rows` (m,) of the group, ascending, in parts, each with the positions in `rows`
        that it holds."""
        blocks, block_of_segment, starts = self._lay(tier)
        segment = torch.searchsorted(self._firsts, rows, right=True) - 1
        offsets, block_of_row = rows - self._firsts[segment], block_of_segment[segment]
        for index in block_of_row.unique().tolist():
            here = (block_of_row == index).nonzero()[:, 0]
            keys = tier.hold(layer, blocks[index])
            if keys is None:
                keys = self._stored(layer, segment[here], offsets[here]).to(tier.device)
            else:
                keys = keys.select((offsets + starts[segment])[here].to(keys.device))
            yield keys, here

    def _stored(self, layer: int, segment: Tensor, offsets: Tensor) -> ScanKeys:
        """Keys as they are stored, of chunks (m,) by ascending segment and offset."""
        ids, runs = segment.unique_consecutive(return_counts=True)
        rows = [
            self._files.get(self._group.segments[index]).tensor(layer, "routing_k")[part]
            for index, part in zip(ids.tolist(), offsets.split(runs.tolist()), strict=True)
        ]
        return stored_keys(torch.cat(rows))

    def _lay(self, tier: KeyTier) -> tuple[list[KeyBlock], Tensor, Tensor]:
        """The blocks of a tier, which of them each segment is in, and where it begins there."""
        laid = self._laid
        if laid is None or laid[:2] != (tier, tier.merges):
            merges, of_segment = tier.merges, tier.place(self._group.segments)
            blocks = {block: index for index, block in enumerate(dict.fromkeys(of_segment.values()))}
            pairs = [(blocks[block], block.starts[id_]) for id_, block in of_segment.items()]
            block, start = torch.tensor(pairs).unbind(1)
            laid = self._laid = tier, merges, list(blocks), block, start
        return laid[2:]


def _visible_rows(span: Span, rows: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Those of chunks `rows` that lie in documents the view sees and the request may read, and the places of
    these documents in the span."""
    place = torch.searchsorted(span.starts, rows, right=True) - 1
    inside = place.clamp_min(0)
    seen = (place >= 0) & (rows < span.starts[inside] + span.counts[inside])
    if own is not None:
        seen &= own[span.documents[inside]]
    return rows[seen], place[seen]


def _rows_of_all(span: Span, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """All chunks of the documents that a request may read, as `_visible_rows`."""
    place = torch.arange(len(span.documents))
    if own is not None:
        place = place[own[span.documents]]
    counts = span.counts[place]
    return rows_of(span.starts[place], counts), torch.repeat_interleave(place, counts)
