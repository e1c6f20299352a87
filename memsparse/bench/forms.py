"""Ways to route a question over a bank: ours, and those it is measured against.

published   a cosine per query head against its group's keys repeated over the heads, mean over heads, max
            over tokens, max over a document's chunks, as the paper has it; tiled, so that it fits memory
grouped     the same, but the query heads of a group become rows of one product and no key is repeated: the
            best per-head form
matmul      queries folded to one vector a token, one torch product with all keys, then both maxima
faiss       the folded vectors in a faiss index, so many nearest chunks a token that none of the best
            documents can be missing (flat), or those of the nearest cells (ivf)
ours        a scan of the keys in some format, what it leaves scored again from the stored keys, and a proof

B requests, T tokens, H query heads, G kv heads, D head_dim, W = G*D, C chunks, N documents, k selected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from memsparse.bank.probing import Probed
from memsparse.bench.cases import LONGEST, Case
from memsparse.errors import InputError
from memsparse.ops.certificate import Sieve, certify, score_promising
from memsparse.ops.exact_scores import StoredKeys, score_stored
from memsparse.ops.lookup import rows_of
from memsparse.ops.quantization import KeyFormat, ScanKeys, quantize_keys
from memsparse.ops.routing import RoutingRule, collapse_queries, document_scores, top_documents
from memsparse.ops.scan import scan_documents

IVF_PROBES = 32
FAISS = "faiss is not installed; pip install 'memsparse[eval]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """What a form finds."""

    scores: Tensor
    """(B, k) float32, best first."""
    documents: Tensor
    """(B, k) int64."""
    certified: Tensor | None = None
    """(B,) bool, of ours."""
    rescored: Tensor | None = None
    """(B,) int64, documents scored again from their stored keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One way, ready to run."""

    name: str
    run: Callable[[Case], Ranking]
    exact: Literal["always", "recall"] = "always"
    """Whether it must find the documents of the exact scores, or how many it finds is a figure."""
    format: KeyFormat | None = None
    """Of ours."""
    scan: Callable[[Case], object] | None = None
    """Of ours: the scan alone, without candidates and proof."""
    key_bytes: int = 0
    """Bytes of keys one run reads on the fast tier; 0 where that is not known."""


def exact_ranking(case: Case) -> Ranking:
    """The documents of the exact scores, by the general path in float32."""
    scores = document_scores(
        fold(case),
        case.float_keys,
        case.doc_of_chunk,
        case.query_mask,
        rule=RoutingRule(),
        num_documents=case.documents,
        tile=case.tile,
    )
    best, documents = top_documents(scores, case.top_k)
    return Ranking(scores=best, documents=documents)


def fold(case: Case) -> Tensor:
    """(B, T, W) routing queries."""
    return collapse_queries(case.queries, case.kv_heads)


def ours(case: Case, format: KeyFormat) -> Form:  # noqa: A002 - the word everywhere else
    """Scan, candidates, exact scores of these, proof; keys are quantised beforehand."""
    keys, stored = quantize_keys(case.flat_keys, format), case.flat_keys.cpu()
    return Form(
        name=f"ours {format}",
        run=lambda asked: certified_ranking(asked, keys, stored),
        scan=lambda asked: _bounds(asked, fold(asked), keys),
        format=format,
        key_bytes=keys.nbytes,
    )


def certified_ranking(case: Case, keys: ScanKeys, stored: Tensor) -> Ranking:
    """Route as a bank's reader does: bound all, then score exactly, most promising first, until proven.

    Args:
        stored: `flat_keys` in host memory, where a bank has them.
    """
    routing_q, k = fold(case), case.top_k
    sieve = Sieve(len(routing_q), k, device=case.device)
    sieve.add(case.every, *_bounds(case, routing_q, keys))
    kept, lower, upper = sieve.kept()
    coarse = Probed(lower=lower, upper=upper, documents=kept, beyond=sieve.beyond, chunks=len(keys))

    def bound_again(columns: Tensor) -> tuple[Tensor, Tensor]:
        return _bounds_of(case, routing_q, keys, coarse.of(columns))

    scored = score_promising(
        lower,
        upper,
        k,
        lambda columns: rescore(case, routing_q, stored, coarse.of(columns)),
        bound_again=bound_again if case.device.type == "cpu" else None,
    )
    scores, best, certified = certify(scored.upper, scored.documents, scored.scores, k, beyond=coarse.beyond)
    counts = (scored.documents >= 0).sum(1)
    return Ranking(scores=scores, documents=coarse.of(best), certified=certified, rescored=counts)


def _bounds(case: Case, routing_q: Tensor, keys: ScanKeys) -> tuple[Tensor, Tensor]:
    """(B, N) lower and upper bounds of all scores."""
    return scan_documents(routing_q, keys, case.doc_of_chunk, case.query_mask, num_documents=case.documents)


def _bounds_of(case: Case, routing_q: Tensor, keys: ScanKeys, documents: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M) tighter bounds of documents (M,)."""
    counts = case.counts[documents]
    return scan_documents(
        routing_q,
        keys.select(rows_of(case.starts[documents], counts)),
        torch.repeat_interleave(counts),
        case.query_mask,
        num_documents=len(documents),
        finer=True,
    )


def rescore(case: Case, routing_q: Tensor, stored: Tensor, documents: Tensor) -> Tensor:
    """(B, M) float32 scores of documents (B, M), -1 for none, from the stored keys: a `Rescore`."""
    starts, counts = case.runs[:, documents.cpu()].unbind()
    runs = torch.zeros_like(starts), starts, counts
    scores, _ = score_stored(routing_q, case.query_mask, StoredKeys([stored]), *runs, k=case.top_k)
    return scores.to(documents.device)


def published(case: Case) -> Ranking:
    """Every query head against its own copy of the keys."""
    q_BHTD = normalize(case.queries, dim=-1).transpose(1, 2)
    repeats = q_BHTD.shape[1] // case.kv_heads

    def score(k_CGD: Tensor) -> Tensor:
        k_HDC = k_CGD.repeat_interleave(repeats, dim=1).permute(1, 2, 0)
        return (q_BHTD @ k_HDC).mean(1).amax(1)

    return _rank_tiles(case, score)


def grouped(case: Case) -> Ranking:
    """The query heads of a group as rows of one product."""
    batch, tokens, _, width = case.queries.shape
    q = normalize(case.queries, dim=-1).view(batch * tokens, case.kv_heads, -1, width)
    q_GND = q.permute(1, 0, 2, 3).reshape(case.kv_heads, -1, width)

    def score(k_CGD: Tensor) -> Tensor:
        per_head = (q_GND @ k_CGD.permute(1, 2, 0)).view(case.kv_heads, batch, tokens, -1, len(k_CGD))
        return per_head.mean((0, 3)).amax(1)

    return _rank_tiles(case, score)


def matmul(case: Case, dtype: torch.dtype = torch.float32) -> Ranking:
    """One product with all keys, as anybody would write it."""
    keys = case.float_keys if dtype == torch.float32 else case.flat_keys
    q_BTW = fold(case).to(dtype)
    return _rank(case, (q_BTW @ keys.T).amax(1).float())


def _rank_tiles(case: Case, score: Callable[[Tensor], Tensor]) -> Ranking:
    """Score (B, C) tile by tile, then as `_rank`."""
    keys = case.float_keys.view(-1, case.kv_heads, case.queries.shape[3])
    return _rank(case, torch.cat([score(tile) for tile in keys.split(case.tile)], dim=1))


def _rank(case: Case, chunk_scores: Tensor) -> Ranking:
    """The max over a document's chunks, and the best documents, of chunk scores (B, C)."""
    scores = chunk_scores.new_full((len(chunk_scores), case.documents), -torch.inf)
    owner = case.doc_of_chunk.expand(len(chunk_scores), -1)
    best = scores.scatter_reduce(1, owner, chunk_scores, "amax").topk(case.top_k, dim=1)
    return Ranking(scores=best.values, documents=best.indices)


def faiss_form(case: Case, kind: Literal["flat", "ivf"]) -> Form:
    """An inner product index over the chunks; building it is not timed.

    Raises: InputError without faiss, or on a device it does not search.
    """
    try:
        faiss: Any = import_module("faiss")
    except ImportError as error:
        raise InputError(FAISS) from error
    if case.device.type != "cpu":
        raise InputError("faiss-cpu searches on the processor only")
    faiss.omp_set_num_threads(torch.get_num_threads())
    keys = case.float_keys.numpy()
    width = keys.shape[1]
    index = faiss.IndexFlatIP(width)
    if kind == "ivf":
        cells = max(1, min(round(4 * len(keys) ** 0.5), len(keys) // 39))  # faiss asks for 39 points a cell
        index = faiss.IndexIVFFlat(index, width, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        index.train(keys)
        index.nprobe = IVF_PROBES
    index.add(keys)
    # Above a document's best chunk lie at most the chunks of better documents.
    nearest = min(len(keys), LONGEST * case.top_k)

    def run(asked: Case) -> Ranking:
        q_BTW = fold(asked)
        found, chunks = index.search(q_BTW.flatten(0, 1).numpy(), nearest)
        rows = torch.from_numpy(chunks).view(len(q_BTW), -1)
        scores = torch.from_numpy(found).view(len(q_BTW), -1).masked_fill(rows < 0, -torch.inf)
        documents = asked.doc_of_chunk[rows.clamp_min(0)]
        best = scores.new_full((len(q_BTW), asked.documents), -torch.inf)
        best.scatter_reduce_(1, documents, scores, "amax")
        values, order = best.topk(asked.top_k, dim=1)
        return Ranking(scores=values, documents=order.masked_fill(values == -torch.inf, -1))

    return Form(name=f"faiss {kind}", run=run, exact="always" if kind == "flat" else "recall")


def peers(case: Case) -> tuple[list[Form], dict[str, str]]:
    """Everybody but us, and who is left out and why."""
    forms = [
        Form(name="published", run=published),
        Form(name="grouped", run=grouped),
        Form(name="matmul", run=matmul),
        Form(name="matmul bf16", run=lambda c: matmul(c, torch.bfloat16), exact="recall"),
    ]
    skipped: dict[str, str] = {}
    for kind in ("flat", "ivf"):
        try:
            forms.append(faiss_form(case, kind))
        except InputError as error:
            skipped[f"faiss {kind}"] = str(error)
    return forms, skipped


def recall(found: Tensor, wanted: Tensor) -> float:
    """Share of the wanted documents (B, k) among those found (B, k)."""
    return float((wanted[:, :, None] == found[:, None, :]).any(2).float().mean())
