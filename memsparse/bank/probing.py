"""The index as a coarse stage: bounds of the chunks in the cells that promise most, and one of all others.

A request asks all cells what they promise and looks into the best, then into all others that promise as much
as the k-th best document found there. The chunks it finds are bounded as a scan bounds them; of those it
does not look at it knows the highest bound of their cells. Documents that the view does not see, or the
request may not read, are not found in a cell.

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
from memsparse.bank.places import Places, Span
from memsparse.bank.segments import SegmentFiles
from memsparse.ops.cells import score_cells
from memsparse.ops.lookup import rows_of
from memsparse.ops.quantization import ScanKeys
from memsparse.ops.scan import scan_documents

SMALLEST = 16_384
"""Chunks of a group, as the view sees it, that are worth an index: fewer are scanned as fast as their cells
are found."""
TOGETHER = 2**16
"""Chunks from which on those found are bounded before more keys are read: what bounds memory."""
_INF = float("inf")


def is_worth_an_index(chunks: int) -> bool:
    """Whether a group of so many chunks has an index."""
    return chunks >= SMALLEST


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What a coarse stage knows of documents, of M of them by chunks it looked at."""

    lower: Tensor
    """(B, M) float32, of the chunks looked at; -inf for none."""
    upper: Tensor
    """(B, M) float32, of the chunks looked at; -inf for none."""
    documents: Tensor
    """(M,) int64 ascending, their indices."""
    every: Tensor | None = None
    """(2, B, N) float32: scores and errors of all documents, from a scan. None: only the M are known."""
    whole: Tensor | None = None
    """(B, M) bool, whether all chunks were looked at, or need not be: the document may not be read. None:
    everywhere."""
    rest: Tensor | None = None
    """(B,) float32: no chunk that was not looked at scores above it; -inf where there is none. None: there
    is none for any request."""
    beyond: Tensor | None = None
    """(B,) float32, `rest` where there are other documents than the M that may be read, else -inf."""
    guess: Tensor | None = None
    """(B,) float32, the median score of the documents looked at, which others are taken for: so they rank
    below half of those found. -inf where no cell is left, or no document was found."""
    chunks: int
    """Looked at, all requests together."""

    def of(self, columns: Tensor) -> Tensor:
        """The document indices of columns 0..M-1; -1 stays."""
        if not len(self.documents):
            return columns
        return self.documents[columns].masked_fill(columns < 0, -1)

    def bound(self, upper_BM: Tensor) -> Tensor:
        """(B, M) upper bounds of the documents' scores, given those of the chunks looked at."""
        if self.whole is None or self.rest is None:
            return upper_BM
        return torch.where(self.whole, upper_BM, upper_BM.maximum(self.rest[:, None]))

    def all_scores(
        self, scores_BM: Tensor, errors_BM: Tensor, documents: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`MemoryKV.all_scores` and `errors`, (B, N) each, given those of the chunks looked at.

        A document with other chunks has the median of those looked at, at least, and errors of inf.
        """
        if self.every is not None:
            scores_BN, errors_BN = self.every
            scores_BN[:, self.documents], errors_BN[:, self.documents] = scores_BM, errors_BM
            return scores_BN, errors_BN
        assert self.whole is not None
        assert self.guess is not None
        guess_B1 = self.guess[:, None]
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
            documents=self.documents.to(device),
            every=moved(self.every),
            whole=moved(self.whole),
            rest=moved(self.rest),
            beyond=moved(self.beyond),
            guess=moved(self.guess),
            chunks=self.chunks,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """n documents that one request looked at."""

    documents: Tensor
    """(n,) int64 indices."""
    counts: Tensor
    """(n,) int64, how many of their chunks."""
    lower: Tensor
    """(n,) float32, of these chunks."""
    upper: Tensor
    """(n,) float32."""


class Probing:
    """The index over one view of a bank; safe to share between threads."""

    def __init__(
        self,
        places: Places,
        groups: Sequence[KeyBlock],
        files: SegmentFiles,
        cells: CellFiles,
        *,
        probes: int,
        lean: float,
    ) -> None:
        """Lay out the view; no cell is read yet.

        Args:
            groups: of all segments of the bank, or of those in the view at least.
            probes: cells a request looks into first, where the view sees all of the bank.
            lean: how much of its spread a cell promises beyond its centre.
        """
        self._lean = lean
        self._places = places
        self._cells = cells
        of_segment = {record.id: group for group in groups for record in group.segments}
        seen = places.segments.unique().tolist()
        spans = places.spans({id_: of_segment[id_] for id_ in seen})
        self._indexed = [span for span in spans if is_worth_an_index(span.visible)]
        self._scanned = [span for span in spans if not is_worth_an_index(span.visible)]
        self._spans = [*self._indexed, *self._scanned]
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
        scored = [
            score_cells(q, mask, own.centres, own.spread, own.reach, lean=self._lean) for own, _ in cells
        ]
        visible_L = torch.cat([visible for _, visible in cells])
        promises_BL, bounds_BL = (
            torch.cat(parts, dim=1).masked_fill_(visible_L == 0, -_INF) for parts in zip(*scored, strict=True)
        )
        rest_B, guess_B = torch.full((2, len(q)), -_INF).unbind()
        bounded: list[tuple[int, _Part]] = []
        for b in mask.any(1).nonzero()[:, 0].tolist():  # the others have no score at all
            own = None if allowed is None else allowed[b].cpu()
            if own is not None and 2 * int(own.sum()) < len(own):
                taken = torch.ones_like(visible_L, dtype=torch.bool)
                found = [_rows_of_all(span, own) for span in self._indexed]
            else:
                taken, found = self._first(promises_BL[b], cells, own, least, times)
            found += [_rows_of_all(span, own) for span in self._scanned]
            tokens_TW = q[b, mask[b]]
            parts = list(self._bound(layer, found, tier, tokens_TW))
            reaching = ~taken & (promises_BL[b] >= _kth(parts, least)) & (visible_L > 0)
            if bool(reaching.any()):
                taken |= reaching
                parts += self._bound(layer, self._inside(reaching, cells, own), tier, tokens_TW)
            bounded += [(b, part) for part in parts]
            left = ~taken & (visible_L > 0)
            if bool(left.any()):
                rest_B[b], guess_B[b] = bounds_BL[b, left].max(), _middle(parts).median()
        first = torch.zeros(1, dtype=torch.long)  # of which nothing is known, so that there is one
        every = torch.cat([first, *(part.documents for _, part in bounded)]).unique()
        lower_BM, upper_BM = torch.full((2, len(q), len(every)), -_INF).unbind()
        counts_BM = torch.zeros(len(q), len(every), dtype=torch.long)
        for b, part in bounded:
            columns = torch.searchsorted(every, part.documents)
            lower_BM[b, columns] = lower_BM[b, columns].maximum(part.lower)
            upper_BM[b, columns] = upper_BM[b, columns].maximum(part.upper)
            counts_BM[b, columns] += part.counts
        whole_BM = (counts_BM == self._places.chunks[every]) | ~mask.any(1)[:, None]
        readable_B = torch.tensor([len(self._places)])
        if allowed is not None:
            whole_BM |= ~allowed.cpu()[:, every]
            readable_B = allowed.cpu().sum(1)
        beyond_B = rest_B.masked_fill((counts_BM > 0).sum(1) >= readable_B, -_INF)
        return Probed(
            lower=lower_BM,
            upper=upper_BM,
            documents=every,
            whole=whole_BM,
            rest=rest_B,
            beyond=beyond_B,
            guess=guess_B,
            chunks=int(counts_BM.sum()),
        )

    def _bound(
        self, layer: int, found: list[tuple[Tensor, Tensor]], tier: KeyTier, tokens_TW: Tensor
    ) -> Iterator[_Part]:
        """Bound documents by the chunks found in the first spans (rows and whose they are, side by side); of
        keys in one format together, and every document in one part."""
        pending: dict[tuple[str, Tensor | None], list[tuple[ScanKeys, Tensor]]] = {}
        chunks = 0
        for span, (rows, documents) in zip(self._spans, found, strict=False):
            for keys, chosen in self._lines[span.block].read(layer, rows, tier):
                pending.setdefault((keys.format, keys.basis), []).append((keys, documents[chosen]))
                chunks += len(keys)
                if chunks >= TOGETHER:
                    yield from _bounded(pending, tokens_TW)
                    pending, chunks = {}, 0
        yield from _bounded(pending, tokens_TW)

    def _first(
        self,
        promises_L: Tensor,
        cells: list[tuple[Cells, Tensor]],
        own: Tensor | None,
        least: int,
        times: int,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The cells (L,) bool that promise a request most, with as many documents as are wanted if there are,
        and what lies in them, as `_inside`."""
        wanted = self._probes * times
        there = int((promises_L > -_INF).sum())
        while True:
            taken = torch.zeros_like(promises_L, dtype=torch.bool)
            taken[promises_L.topk(min(wanted, there)).indices] = True
            found = self._inside(taken, cells, own)
            documents = sum(len(whose.unique_consecutive()) for _, whose in found)
            if documents >= least or wanted >= there:
                return taken, found
            wanted *= 2

    def _inside(
        self, taken: Tensor, cells: list[tuple[Cells, Tensor]], own: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """For every group with an index the chunks in cells (L,) bool, of documents the request may read:
        rows (m,), ascending within the group, and documents (m,)."""
        found, begin = [], 0
        for span, (each, _) in zip(self._indexed, cells, strict=True):
            chosen = taken[begin : begin + len(each.centres)].nonzero()[:, 0]
            begin += len(each.centres)
            starts = each.offsets[chosen]
            rows = each.order[rows_of(starts, each.offsets[chosen + 1] - starts)]
            found.append(_visible_rows(span, rows.sort().values.long(), own))
        return found

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


def _bounded(
    pieces: dict[tuple[str, Tensor | None], list[tuple[ScanKeys, Tensor]]], tokens_TW: Tensor
) -> Iterator[_Part]:
    """Bound documents by keys that lie side by side with whose they are, those of one kind together."""
    for own in pieces.values():
        keys = own[0][0] if len(own) == 1 else ScanKeys.join([keys for keys, _ in own])
        these, local, counts = torch.cat([documents for _, documents in own]).unique_consecutive(
            return_inverse=True, return_counts=True
        )
        q = tokens_TW[None].to(keys.device)
        mask = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device)
        bounds = scan_documents(q, keys, local.to(q.device), mask, num_documents=len(these))
        lower, upper = (bound[0].cpu() for bound in bounds)
        yield _Part(documents=these, counts=counts, lower=lower, upper=upper)


def _kth(parts: Sequence[_Part], k: int) -> float:
    """The k-th best score of documents by the middle of their bounds; -inf where there are fewer."""
    middle = _middle(parts)
    return float(middle.topk(k).values[-1]) if k <= len(middle) else -_INF


def _middle(parts: Sequence[_Part]) -> Tensor:
    """(n,) middles of the bounds of documents, -inf where they are none; one of these without documents."""
    middles = [(part.lower + part.upper) / 2 for part in parts] or [torch.full((1,), -_INF)]
    return torch.cat(middles).nan_to_num(nan=-_INF, posinf=_INF, neginf=-_INF)


def _visible_rows(span: Span, rows: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Those of chunks `rows` that lie in documents the view sees and the request may read, and these
    documents."""
    place = (torch.searchsorted(span.starts, rows, right=True) - 1).clamp_min_(0)
    seen = (rows >= span.starts[place]) & (rows < span.starts[place] + span.counts[place])
    documents = span.documents[place]
    if own is not None:
        seen &= own[documents]
    return rows[seen], documents[seen]


def _rows_of_all(span: Span, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """All chunks of the documents that a request may read, as `_visible_rows`."""
    if own is None:
        return span.rows(), torch.repeat_interleave(span.documents, span.counts)
    place = own[span.documents].nonzero()[:, 0]
    counts = span.counts[place]
    return rows_of(span.starts[place], counts), torch.repeat_interleave(span.documents[place], counts)
