"""Stage 2 in one process: bound every document's score, score the promising ones exactly, fetch the best.

A coarse stage bounds the scores of documents: one pass over the routing keys of a layer, in whatever format
their tier holds (`ops.scan`), or over those that an index finds (`probing`). Documents whose upper bounds
reach the k-th best exact score are scored from the exact keys on the disk (`exact`), so the top k is that of
exact scores: inner products in float64, rounded to float32, ties to the lower document. Behind an index it is
proven where the bound of all it did not look at lies below. Rules that take no scan (`RoutingRule` other than
mean heads, max tokens, max chunks) are scored from the stored keys by `document_scores`.

B requests, T tokens, H query heads, G kv heads, D head_dim, W = G*D, C chunks, N documents, M chunk slots or
documents scored again.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from memsparse.bank.content import Place
from memsparse.bank.exact import ExactKeys
from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.keys import KeyBlock
from memsparse.bank.places import Places
from memsparse.bank.probing import Probed, Probing
from memsparse.bank.scanning import Scanning, middle
from memsparse.bank.segments import SegmentRecord
from memsparse.bank.tiers import TierReport, Tiers, one_line
from memsparse.errors import BankError, BankMismatchError, ConfigError, ShapeError
from memsparse.ops.certificate import Scored, certify, score_promising
from memsparse.ops.routing import RoutingRule, document_scores, top_documents
from memsparse.types import MemoryKV, Sifted, empty_memory

T = TypeVar("T")
FEW = 64
"""Documents of a view that needs no scan: all are scored exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Routed:
    """What a layer routed; fields as in `MemoryKV`."""

    documents: Tensor
    scores: Tensor
    chunks: Tensor
    all_scores: Tensor | None
    errors: Tensor | None = None
    certified: Tensor | None = None
    sifted: Sifted | None = None
    rescored: int = 0
    """Documents scored again from their stored keys, all requests together."""
    scanned: int = 0
    """Chunks the coarse stage bounded, all requests together."""


class BankReader:
    """A `MemoryReader` over one consistent view of a bank: documents removed, expired or outside the
    namespace are not in it at all, so they never take a place in the top k.

    Document INDEX 0..N-1 runs over the visible passages by ascending number; `numbers` maps it back.
    """

    def __init__(
        self,
        places: Places,
        segments: dict[int, SegmentRecord],
        tiers: Tiers,
        fingerprint: Fingerprint,
        *,
        top_k: int,
        rule: RoutingRule,
        all_scores: bool = True,
        allowed: Tensor | None = None,
        groups: Sequence[KeyBlock] = (),
    ) -> None:
        """Lay out the view; nothing is read from the segments yet.

        Args:
            all_scores: whether `MemoryKV.all_scores` is wanted. If not, a scan tells `MemoryKV.sifted`, and
                takes no memory for documents that cannot be among the best.
            groups: of segments, as the index of the tiers has them; none where they have no index.

        Raises: ConfigError if top_k is below 1, or a budget smaller than a document; BankMismatchError if
        `rule` scores otherwise than the bank.
        """
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; it must be at least 1")
        if rule.score != fingerprint.routing_score:
            raise BankMismatchError(
                f"the bank's routing keys are for the {fingerprint.routing_score} score, the rule asks for "
                f"{rule.score}; use the bank's score, or encode its documents again"
            )
        if len(places):
            tiers.config.check(fingerprint, int(places.chunks.max()))
        self.top_k = top_k
        self.rule = rule
        self.all_scores = all_scores
        self.allowed = allowed
        """(B, N) bool, True where a request may read a document. None: everywhere."""
        self._places = places
        self._records = segments
        self._tiers = tiers
        self._fingerprint = fingerprint
        self._exact = ExactKeys(places, segments, tiers.files)
        self._scans = (rule.head_reduce, rule.query_reduce, rule.chunk_reduce) == ("mean", "max", "max")
        self._scanning = Scanning(places, segments, tiers)
        self._reads = self._rescored = self._uncertified = self._scanned = 0
        self._probing: Probing | None = None
        if groups and tiers.cells is not None and len(places):
            self._probing = Probing(
                places, groups, tiers.files, tiers.cells, probes=tiers.config.probes, lean=tiers.config.lean
            )
        self._mutex = threading.Lock()

    @property
    def numbers(self) -> Tensor:
        """(N,) int64, ascending: the number of each document index."""
        return self._places.numbers

    def __len__(self) -> int:
        """N, the documents it can route to."""
        return len(self._places)

    def report(self) -> TierReport:
        """What its tiers hold, and what its reads took so far."""
        used = self._scanning.used
        return TierReport(
            routing_keys=used.format if used else "",
            device=str(used.device) if used else "",
            key_bytes=self._tiers.key_bytes,
            content_bytes=self._tiers.content_bytes,
            reads=self._reads,
            scanned=self._scanned,
            rescored=self._rescored,
            uncertified=self._uncertified,
            fallbacks=tuple(self._tiers.fallbacks),
        )

    @torch.no_grad()
    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Route each request to its top_k documents and return their chunks, ascending by number.

        Device and dtype of K and V are those of `routing_q`; ties go to the lower number. A device that runs
        out of memory is relieved of a tier, with a warning, and the read is repeated.

        Raises: ConfigError for a layer the bank lacks; ShapeError; BankCorruptError for a damaged file;
        BankError where no tier is left to give up, or the accelerator failed.
        """
        self._check_layer(layer_idx)
        if not len(self):
            return empty_memory(
                len(routing_q), self._fingerprint.kv_heads, self._fingerprint.head_dim, like=routing_q
            )
        return self._relieved(
            routing_q.device,
            lambda: self._gather(layer_idx, routing_q, self._route(layer_idx, routing_q, query_mask)),
        )

    def _relieved(self, device: torch.device, run: Callable[[], T]) -> T:
        """Run, and again with a tier less for as long as there is one to give up, where memory runs out."""
        while True:
            fallbacks = len(self._tiers.fallbacks)
            try:
                return run()
            except torch.OutOfMemoryError as error:
                self._tiers.fall_back(device, error, known=fallbacks)
            except torch.AcceleratorError as error:
                raise BankError(
                    f"the accelerator failed while reading the bank ({one_line(error)}); the bank is intact; "
                    "start again"
                ) from error

    @torch.no_grad()
    def scores(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> Tensor:
        """(B, N) float32 by `document_scores` on the stored keys of all documents, -inf where `allowed` says
        no; `read` finds the best of them without scoring all exactly."""
        self._check_layer(layer_idx)
        scores_BN = torch.full(
            (len(routing_q), len(self)), float("-inf"), dtype=torch.float32, device=routing_q.device
        )
        device = self._tiers.scan_device(routing_q.device)
        for span, keys in self._scanning.stream(layer_idx, device, scanned=False):
            codes = keys.codes
            if span.visible < span.block.chunks:
                codes = codes[span.rows().to(codes.device)]
            document = torch.repeat_interleave(torch.arange(len(span.documents)), span.counts)
            part = document_scores(
                routing_q,
                codes.to(routing_q.device),
                document.to(routing_q.device),
                query_mask,
                rule=self.rule,
                num_documents=len(span.documents),
            )
            scores_BN[:, span.documents.to(routing_q.device)] = part
        return self._masked(scores_BN)

    @torch.no_grad()
    def exact_scores(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """(B, M) float32 exact scores of documents (B, M), by index; -inf where a document is -1 or may not
        be read."""
        self._check_layer(layer_idx)
        if not self._scans:
            scores_BN = self.scores(layer_idx, routing_q, query_mask)
            return scores_BN.gather(1, documents.clamp_min(0)).masked_fill(documents < 0, float("-inf"))
        scores, _ = self._exact.score(layer_idx, routing_q, query_mask, documents)
        if self.allowed is None:
            return scores
        allowed = self.allowed.to(documents.device).gather(1, documents.clamp_min(0))
        return scores.masked_fill(~allowed, float("-inf"))

    @torch.no_grad()
    def bound_all(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) scores of all documents by a scan, and how far each may lie from the exact one.

        Raises: as `read`.
        """
        self._check_layer(layer_idx)
        self._check_allowed(len(routing_q))
        scanned = self._relieved(
            routing_q.device,
            lambda: self._scanning.look(
                layer_idx, routing_q, query_mask, 1, every=True, allowed=self.allowed
            ),
        )
        assert scanned.every is not None
        with self._mutex:
            self._scanned += scanned.chunks
        scores_BN, errors_BN = scanned.every
        return scores_BN, errors_BN

    def _check_layer(self, layer_idx: int) -> None:
        if layer_idx not in self._fingerprint.memory_layers:
            raise ConfigError(
                f"layer {layer_idx} has no memory in this bank; {self._fingerprint.memory_layers} have"
            )

    def _check_allowed(self, requests: int) -> None:
        shape = requests, len(self)
        if self.allowed is not None and self.allowed.shape != shape:
            raise ShapeError(
                f"allowed is {tuple(self.allowed.shape)}, scores are {shape}; pass one row per request"
            )

    def _masked(self, scores_BN: Tensor) -> Tensor:
        self._check_allowed(len(scores_BN))
        if self.allowed is None:
            return scores_BN
        return scores_BN.masked_fill(~self.allowed.to(scores_BN.device), float("-inf"))

    def _route(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> _Routed:
        k = min(self.top_k, len(self))
        if not self._scans:
            scores_BN = self.scores(layer_idx, routing_q, query_mask)
            best, documents = top_documents(scores_BN, k)
            chunks = self._exact.best_chunks(layer_idx, routing_q, query_mask, documents, self.rule)
            routed = _Routed(documents=documents, scores=best, chunks=chunks, all_scores=scores_BN)
        elif len(self) <= FEW:
            every = torch.arange(len(self), device=routing_q.device).expand(len(routing_q), -1)
            scores_BN, chunk = self._exact.score(layer_idx, routing_q, query_mask, every)
            scores_BN = self._masked(scores_BN)
            best, documents = top_documents(scores_BN, k)
            chunks = chunk.gather(1, documents.clamp_min(0)).masked_fill(documents < 0, -1)
            routed = _Routed(documents=documents, scores=best, chunks=chunks, all_scores=scores_BN)
        else:
            routed = self._route_by_bounds(layer_idx, routing_q, query_mask, k)
        with self._mutex:
            self._reads += len(routing_q)
            self._rescored += routed.rescored
            self._scanned += routed.scanned
            if routed.certified is not None:
                self._uncertified += int((~routed.certified).sum())
        return routed

    def _route_by_bounds(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, k: int) -> _Routed:
        """Bound, then score exactly; look into more of an index where that is asked for and not proven."""
        times, scanned = 1, 0
        self._check_allowed(len(routing_q))
        while True:
            coarse = self._look(layer_idx, routing_q, query_mask, k, times)
            scanned += coarse.chunks
            routed = replace(self._prove(layer_idx, routing_q, query_mask, k, coarse), scanned=scanned)
            unproven = routed.certified is not None and not bool(routed.certified.all())
            left = coarse.rest is not None and bool(coarse.rest.isfinite().any())
            if not (self._tiers.config.widen and unproven and left):
                return routed
            times *= 2

    def _look(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, k: int, times: int) -> Probed:
        """What the coarse stage knows of all documents, on the queries' device."""
        if self._probing:
            tier = self._scanning.tier(self._tiers.scan_device(routing_q.device))
            return self._probing.look(
                layer_idx, routing_q, query_mask, tier, least=k, allowed=self.allowed, times=times
            ).to(routing_q.device)
        return self._scanning.look(
            layer_idx, routing_q, query_mask, k, every=self.all_scores, allowed=self.allowed
        )

    def _prove(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, k: int, coarse: Probed
    ) -> _Routed:
        """Score again, most promising first, until no other that was looked at can be among the k best."""
        best_chunks: list[Tensor] = []
        wanted = None if self.all_scores else k

        def rescore(columns: Tensor) -> Tensor:
            documents = coarse.of(columns)
            scores, chunk = self._exact.score(layer_idx, routing_q, query_mask, documents, k=wanted)
            best_chunks.append(chunk)
            return scores

        def bound_again(columns: Tensor) -> tuple[Tensor, Tensor]:
            return self._scanning.bound_again(layer_idx, routing_q, query_mask, coarse.of(columns))

        rescored = self._tiers.config.rescored
        scored = score_promising(
            coarse.lower,
            coarse.upper,
            k,
            rescore,
            limit=None if rescored is None else max(rescored, k),
            bound_again=bound_again if coarse.rest is None else None,
            bounded=coarse.rest is None,
        )
        columns = scored.documents
        best, chosen, certified = certify(
            coarse.bound(scored.upper), columns, scored.scores, k, beyond=coarse.beyond
        )
        chunks = chosen  # all -1 where no request has a score
        if best_chunks:
            place = (columns[:, None] == chosen[:, :, None]).int().argmax(2)
            chunks = torch.cat(best_chunks, dim=1).gather(1, place).masked_fill(chosen < 0, -1)
        scores = errors = sifted = None
        if self.all_scores:
            scores, errors = self._all(coarse, scored)
        elif coarse.rest is None:
            sifted = _sifted(coarse, scored)
        return _Routed(
            documents=coarse.of(chosen),
            scores=best,
            chunks=chunks,
            all_scores=scores,
            errors=errors,
            certified=certified,
            sifted=sifted,
            rescored=int((columns >= 0).sum()),
            scanned=coarse.chunks,
        )

    def _all(self, coarse: Probed, scored: Scored) -> tuple[Tensor, Tensor]:
        """Of all documents (B, N) scores and errors, exact where they were scored so."""
        scores, errors = coarse.all_scores(
            *middle(scored.lower, scored.upper), documents=len(self), allowed=self.allowed
        )
        rows, columns, exact = _scores(scored)
        documents = coarse.of(columns)
        scores[rows, documents] = exact
        errors[rows, documents] = 0
        return scores, errors

    def _gather(self, layer_idx: int, routing_q: Tensor, routed: _Routed) -> MemoryKV:
        """Lay the chunks of the documents (B, k) side by side, each row ascending by document."""
        places, fingerprint, device = self._places, self._fingerprint, routing_q.device
        routed_BK = routed.documents.cpu()
        documents, order = routed_BK.masked_fill(routed_BK < 0, len(self)).sort(dim=1)
        found = documents < len(self)
        chunks = places.chunks[documents.where(found, 0)].where(found, 0)
        lengths = chunks.sum(1)
        slots = int(lengths.max())
        mask = torch.arange(slots) < lengths[:, None]
        owners = torch.repeat_interleave(order.flatten(), chunks.flatten())
        document_of_slot = owners.new_zeros(mask.shape).masked_scatter_(mask, owners)
        wanted = self._located(documents[found])
        shape = fingerprint.kv_heads, fingerprint.head_dim
        content = routing_q.new_zeros(2, 0, *shape)
        if wanted:
            content = self._tiers.content.gather(layer_idx, wanted, like=routing_q)
        if len(owners) < mask.numel():  # of requests that read less than another
            row, slot = mask.nonzero(as_tuple=True)  # on the host: a device would have to be waited for
            padded = content.new_zeros(2, *mask.shape, *shape)
            padded[:, row.to(device), slot.to(device)] = content
            content = padded
        kv = content.view(2, *mask.shape, *shape).transpose(2, 3).contiguous()
        self._prefetch(layer_idx, wanted, device)
        return MemoryKV(
            k=kv[0],
            v=kv[1],
            mask=mask[:, None].to(device),
            documents=routed.documents,
            scores=routed.scores,
            document_of_slot=document_of_slot.to(device),
            all_scores=routed.all_scores,
            chunks=routed.chunks,
            errors=routed.errors,
            certified=routed.certified,
            sifted=routed.sifted,
        )

    def _located(self, documents: Tensor) -> list[Place]:
        """Where documents (n,) lie, in their order."""
        places = self._places
        found = (column[documents].tolist() for column in (places.segments, places.offsets, places.chunks))
        return [
            Place(record=self._records[segment], offset=offset, chunks=chunks)
            for segment, offset, chunks in zip(*found, strict=True)
        ]

    def _prefetch(self, layer_idx: int, places: list[Place], device: torch.device) -> None:
        """Begin to fetch this layer's documents for the next memory layer, which selects most of them too."""
        layers = self._fingerprint.memory_layers
        following = layers.index(layer_idx) + 1
        if following < len(layers):
            self._tiers.content.prefetch(layers[following], places, device)


def _scores(scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
    """The requests, columns and scores of what was scored, side by side."""
    real = scored.documents >= 0
    return real.nonzero()[:, 0], scored.documents[real], scored.scores[real]


def _sifted(coarse: Probed, scored: Scored) -> Sifted:
    """What a scan left, and how high it may score: as it was scored, where it was."""
    assert coarse.beyond is not None
    rows, columns, scores = _scores(scored)
    upper = scored.upper.clone()
    upper[rows, columns] = upper[rows, columns].minimum(scores)
    return Sifted(documents=coarse.documents, upper=upper, beyond=coarse.beyond)
