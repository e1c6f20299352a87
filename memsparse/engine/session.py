"""One call in progress, and which documents it finds best over all memory layers.

N documents in memory, V tokens of vocabulary.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from memsparse.errors import EngineError
from memsparse.model.requests import KeyValues, RequestCache
from memsparse.ops.lookup import find_ascending
from memsparse.ops.routing import top_documents
from memsparse.ops.selection import count_reaching, lowest, mean_bounds, raise_best, take_best
from memsparse.types import LayerRouting, MemoryKV, MemoryReader, Sifted


class NumberedReader(MemoryReader, Protocol):
    """A reader that knows the numbers of its documents."""

    @property
    def numbers(self) -> Tensor:
        """(N,) int64, ascending: the number of each document index."""


@runtime_checkable
class ExactReader(Protocol):
    """A reader whose scores may be approximate, and that can score a few documents exactly."""

    def exact_scores(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """(B, k) float32 exact scores of documents (B, k); -inf where a document is -1."""


@runtime_checkable
class SiftingReader(Protocol):
    """A reader that tells `MemoryKV.sifted`, and the scores of all documents when asked again."""

    def bound_all(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) float32 scores of all documents, and how far each may lie from the exact one."""


Exact = Callable[[int, Tensor], Tensor]
"""(layer, document indices (k,)) to the exact scores (k,) of one request."""
Whole = Callable[[int], tuple[Tensor, Tensor]]
"""A layer to scores and errors, (1, N) each, of all documents for one request."""
SHORTLIST = 64
"""Documents scored exactly where the scores of some are guesses, at least; four times those wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """Some documents' exact scores in every layer, on the CPU."""

    documents: Tensor
    """(k,) int64, ascending."""
    scores: dict[int, Tensor]
    """By layer: (k,) float32."""
    means: Tensor
    """(k,) float32, over the layers: `mean_scores`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """What the local layers, those below the first memory layer, made of the start of a prompt.

    They see nothing but the tokens before, so it holds for every prompt that starts with the same ids.
    """

    ids: Sequence[int]
    first_position: int
    hidden: Tensor
    """(T, hidden) that enters the first memory layer."""
    keys: Sequence[KeyValues]
    """Of every local layer: those of the prompt head, then of the T ids."""


@dataclass(kw_only=True, slots=True)
class Session:
    """One call in progress: its cache, and what the next token is chosen from."""

    cache: RequestCache
    logits: Tensor
    """(V,) float32 on the CPU, after the last token run."""
    routing: dict[int, MemoryKV]
    """What each memory layer read, by layer."""
    position: int
    """Rotary position of the next token."""
    route_seconds: float

    exact: Exact | None = None
    """Scores documents of this request exactly; needed where what a layer read has `errors`."""
    whole: Whole | None = None
    """Tells scores and errors of all documents; needed where a layer was `sifted`."""
    known: Known | None = None
    """What was scored exactly for all requests of a pass together; `exact` need not be asked for it."""
    prefix: Prefix | None = None
    """Of its prompt, for the next prompt of the request."""

    def scores(self) -> Tensor:
        """(N,) mean routing score of every document over the memory layers, within the mean of their errors;
        a guess where that is inf.

        Raises: EngineError if the reader does not keep the scores of all documents.
        """
        scores = [kv.all_scores[0].cpu() for kv in self.routing.values() if kv.all_scores is not None]
        if not scores or len(scores) < len(self.routing):
            raise EngineError(
                'the memory reader keeps no scores of all documents; use id_decoding="generate"'
            )
        return mean_scores(scores)

    def best(self, limit: int, without: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The documents with the best exact mean score over the memory layers, as `top_documents` gives them.

        Behind an index, which does not look at all documents in every layer: the best of those whose guessed
        means are the highest.

        Args:
            without: (n,) int64, indices of documents to leave out. None: none.

        Returns: scores (limit,) and document indices (limit,); -inf and -1 where there are fewer.

        Raises: EngineError as `scores`.
        """
        sifted = [kv.sifted for kv in self.routing.values() if kv.sifted is not None]
        if sifted and len(sifted) == len(self.routing):
            found = best_of_sifted(sifted, self.means, limit, without)
            if found is not None:
                return found
            self._bound_all()
        scores = self.scores()
        if without is not None:
            scores[without] = float("-inf")
        errors = [kv.errors[0].cpu() for kv in self.routing.values() if kv.errors is not None]
        bound = torch.stack(errors).double().sum(0) / len(self.routing) if errors else None
        return _best(scores, bound, self.means, limit)

    def means(self, documents: Tensor) -> Tensor:
        """(k,) exact mean scores of documents (k,), by index.

        Raises: EngineError as `scores`.
        """
        if all(kv.is_exact for kv in self.routing.values()):
            return self.scores()[documents]
        if self.known is not None:
            places, told = find_ascending(self.known.documents, documents)
            if len(told) == len(documents):
                return self.known.means[places]
        return mean_scores(self._exact(self.routing, documents))

    def _bound_all(self) -> None:
        """Have the scores of all documents told, where what was sifted does not decide."""
        if self.whole is None:
            raise EngineError("the memory reader keeps no scores of all documents, and does not tell them")
        for layer, kv in self.routing.items():
            scores, errors = self.whole(layer)
            self.routing[layer] = replace(kv, all_scores=scores, errors=errors, sifted=None)

    def take_back(self, tokens: int, logits: Tensor) -> None:
        """Forget the last tokens that were run behind the prompt; `logits` are those before them."""
        for layer in self.cache.layers.values():
            layer.length -= tokens
        self.position -= tokens
        self.logits = logits

    def routed(self, numbers: Tensor, *, limit: int | None = None) -> tuple[LayerRouting, ...]:
        """What every layer selected, by document number, best first; or its `limit` best, selected or not.

        Raises: EngineError if more are asked for than were selected of a reader that keeps no other scores.
        """
        rows = []
        for layer, kv in self.routing.items():
            chosen, scores = kv.documents[0].cpu(), kv.scores[0].cpu()
            chunks = () if kv.chunks is None else tuple(kv.chunks[0].cpu()[chosen >= 0].tolist())
            certified = None if kv.certified is None else bool(kv.certified[0])
            guesses = limit is not None and kv.errors is not None and bool(kv.errors[0].isinf().any())
            if limit is not None and guesses and limit <= len(chosen):
                chosen, scores, chunks = chosen[:limit], scores[:limit], chunks[:limit]
            elif limit is not None:
                if kv.all_scores is None:
                    raise EngineError("the memory reader keeps no scores of all documents; ask for no limit")
                errors = None if kv.errors is None else kv.errors[0].cpu().double()
                scores, chosen = _best(kv.all_scores[0].cpu(), errors, partial(self._exact_in, layer), limit)
                chunks = () if certified is False else chunks[:limit]
                certified = None if certified is None else not guesses
            real = chosen >= 0
            rows.append(
                LayerRouting(
                    layer=layer,
                    numbers=tuple(numbers[chosen[real]].tolist()),
                    scores=tuple(scores[real].tolist()),
                    chunks=chunks,
                    certified=certified,
                )
            )
        return tuple(rows)

    def _exact(self, layers: Collection[int], documents: Tensor) -> list[Tensor]:
        """Exact scores (k,) of documents (k,) in some layers."""
        if self.known is None:
            return [self._score(layer, documents) for layer in layers]
        places, told = find_ascending(self.known.documents, documents)
        if len(told) == len(documents):
            return [self.known.scores[layer][places] for layer in layers]
        others = torch.ones_like(documents, dtype=torch.bool).index_fill_(0, told, False)
        rows = []
        for layer in layers:
            exact = self.known.scores[layer]
            scores = exact.new_empty(len(documents))
            scores[told], scores[others] = exact[places], self._score(layer, documents[others])
            rows.append(scores)
        return rows

    def _exact_in(self, layer: int, documents: Tensor) -> Tensor:
        return self._exact([layer], documents)[0]

    def _score(self, layer: int, documents: Tensor) -> Tensor:
        kv = self.routing[layer]
        if kv.all_scores is None and self.exact is not None:
            return self.exact(layer, documents).cpu()
        if kv.all_scores is None:
            raise EngineError(
                "the memory reader keeps no scores of all documents; it cannot tell those of some"
            )
        scores = kv.all_scores[0].cpu()[documents]
        unsure = torch.zeros_like(documents, dtype=torch.bool)
        if kv.errors is not None:
            unsure = kv.errors[0].cpu()[documents] > 0
        if bool(unsure.any()):
            if self.exact is None:
                raise EngineError("the memory reader's scores are approximate, and it has no exact_scores")
            scores[unsure] = self.exact(layer, documents[unsure]).cpu()
        return scores


def routed_anywhere(layers: Iterable[MemoryKV]) -> Tensor:
    """(k,) indices, ascending, on the CPU, of the documents that any layer routed for one request."""
    documents: Tensor = torch.cat([kv.documents[0].cpu() for kv in layers]).unique()
    return documents[documents >= 0]


def refuse_nan(logits: Tensor) -> None:
    """Raises: EngineError if the logits are not numbers."""
    if bool(torch.isnan(logits).any()):
        raise EngineError("the model computed no numbers (NaN); load it in float32")


def chances(logits: Tensor) -> Tensor:
    """(V,) log probabilities of the next token.

    Raises: EngineError if the logits are not numbers.
    """
    refuse_nan(logits)
    return logits.log_softmax(0)


def mean_scores(scores: Sequence[Tensor]) -> Tensor:
    """Mean over layers, float32; added up in float64, so that no document feels the others."""
    total = torch.zeros_like(scores[0], dtype=torch.float64)
    for layer in scores:
        total += layer
    return (total / len(scores)).float()


def best_of_sifted(
    layers: Sequence[Sifted],
    means: Callable[[Tensor], Tensor],
    limit: int,
    without: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """The top `limit` of exact mean scores from what every layer told of one request, if that proves them.

    A document that a layer did not tell of scores no higher there than `Sifted.beyond`, and one that no layer
    told of no higher than the mean of these: as long as fewer than `limit` means lie above that, another
    document may be among the best (the threshold algorithm; Fagin, Lotem and Naor 2001).

    Args:
        means: exact mean scores (k,) of documents (k,).
        without: (n,) int64, indices of documents to leave out.

    Returns: scores and indices (limit,), as `top_documents`; None where they are not proven.
    """
    documents, means_U, rest = mean_bounds(
        [layer.documents.cpu() for layer in layers],
        [layer.upper[0].cpu() for layer in layers],
        [float(layer.beyond[0]) for layer in layers],
    )
    if without is not None:
        means_U[find_ascending(documents, without)[0]] = float("-inf")
    unscored, scores = means_U[None], torch.full((1, len(documents)), float("-inf"), device="cpu")
    best, bar = lowest(1, limit, device=scores.device), torch.full((1,), float("-inf"), device="cpu")
    wanted = [min(*count_reaching(unscored, bar), max(SHORTLIST // 4, 2 * limit))]
    while any(wanted):
        [these] = take_best(unscored, wanted)
        scores[0, these] = exact = means(documents[these])
        bar = raise_best(best, exact[None])
        wanted = count_reaching(unscored, bar)
    if rest > float("-inf") and not float(bar) > rest:
        return None
    found, index = top_documents(scores, limit)
    index[index >= 0] = documents[index[index >= 0]]
    return found[0], index[0]


def _best(
    scores: Tensor, errors: Tensor | None, exact: Callable[[Tensor], Tensor], limit: int
) -> tuple[Tensor, Tensor]:
    """The top `limit` of exact scores, where `scores` (N,) are within `errors` (N,) float64 of them.

    Every document whose upper bound reaches the `limit`-th best lower bound is scored exactly; no other can
    be among the best. Where some errors are inf, scores are guesses, and a shortlist of the best is scored.
    Returns scores and indices (limit,), as `top_documents`.
    """
    if errors is not None:
        if bool(errors.isinf().any()):
            best, candidates = scores.topk(min(max(SHORTLIST, 4 * limit), len(scores)))
            candidates = candidates[best > float("-inf")]
        else:
            candidates = _within_reach(scores, errors, limit)
        scores = torch.full_like(scores, float("-inf"))
        scores[candidates] = exact(candidates)
    best, index = top_documents(scores[None], limit)
    return best[0], index[0]


def _within_reach(scores: Tensor, errors: Tensor, limit: int) -> Tensor:
    """The indices of documents that can be among the `limit` best."""
    slack = errors + 2.0**-22 * scores.double().abs().nan_to_num(posinf=0.0)  # float32 ties and rounding
    lower, upper = scores - slack, scores + slack
    cut = lower.topk(min(limit, len(lower))).values[-1:]
    return ((upper >= cut) & (scores > float("-inf"))).nonzero()[:, 0]
