"""Slow twins of the operators: they loop as the equations read, in the dtype they are given.

The functions of `positions`, `pooling`, `routing`, `attention`, `losses` and `cells` have their twins here.
Tests hold the fast ones to these, values and gradients. Nothing else calls them.

B requests, T query tokens, S local keys, M memory slots, H query heads, G kv heads, D head_dim, C chunks,
N documents, R rows of a loss, V vocabulary, L cells.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from memsparse.ops.routing import ChunkReduce, HeadReduce, QueryReduce, Score

# --- positions (paper section 3.3) ------------------------------------------------------------------------


def context_positions(attention_mask_BT: Tensor, offset: int) -> Tensor:
    """A row's first real token stands at `offset`, every later real token one further: (B, T) int64.

    Padding repeats the position before it, and `offset` where there is none.
    """
    rows = []
    for mask in attention_mask_BT.tolist():
        row, following = [], offset
        for real in mask:
            following += bool(real)
            row.append(max(following - 1, offset))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.long).view(attention_mask_BT.shape)


def chunk_positions(lengths: Sequence[int], chunk_size: int) -> Tensor:
    """First in-document position of every chunk: (C,) int64."""
    starts = [start for length in lengths for start in range(0, length, chunk_size)]
    return torch.tensor(starts, dtype=torch.long)


# --- pooling (paper Eq. 1) --------------------------------------------------------------------------------


def pool_chunks(states_BT: Tensor, lengths: Sequence[int], chunk_size: int) -> Tensor:
    """Mean of every window of a document's true tokens, document after document: (C, ...)."""
    chunks = []
    for states, length in zip(states_BT, lengths, strict=True):
        for start in range(0, length, chunk_size):
            window = states[start : min(start + chunk_size, length)]
            chunks.append(window.sum(0) / len(window))
    return torch.stack(chunks) if chunks else states_BT.new_zeros(0, *states_BT.shape[2:])


def document_of_chunk(lengths: Sequence[int], chunk_size: int) -> Tensor:
    """Index of the document each chunk belongs to: (C,) int64."""
    owners = [d for d, length in enumerate(lengths) for _ in range(0, length, chunk_size)]
    return torch.tensor(owners, dtype=torch.long)


# --- routing (paper Eq. 2 and the reductions that follow it) ----------------------------------------------


def chunk_score(
    q_THD: Tensor,
    k_GD: Tensor,
    *,
    score: Score,
    scale: float,
    head_reduce: HeadReduce,
    query_reduce: QueryReduce,
) -> Tensor:
    """Score of one chunk for the routing tokens of one request: heads first, then tokens. A scalar."""
    repeats = q_THD.shape[1] // k_GD.shape[0]
    per_token = []
    for q_HD in q_THD:
        per_head = []
        for h, q in enumerate(q_HD):
            k = k_GD[h // repeats]
            if score == "cosine":
                q, k = q / q.norm().clamp_min(1e-12), k / k.norm().clamp_min(1e-12)
            per_head.append(scale * (q * k).sum())
        per_token.append(_reduce(per_head, head_reduce))
    return per_token[-1] if query_reduce == "last" else _reduce(per_token, query_reduce)


def score_documents(
    q_BTHD: Tensor,
    k_CGD: Tensor,
    doc_of_chunk: Tensor,
    query_mask_BT: Tensor,
    documents: int,
    *,
    score: Score = "cosine",
    scale: float = 1.0,
    head_reduce: HeadReduce = "mean",
    query_reduce: QueryReduce = "max",
    chunk_reduce: ChunkReduce = "max",
) -> Tensor:
    """Relevance of every document to every request, from per-head queries and pooled keys: (B, N).

    -inf for a document without chunks and for a request without routing tokens.
    """
    absent = q_BTHD.new_tensor(-math.inf)
    rows = []
    for q_THD, mask in zip(q_BTHD, query_mask_BT, strict=True):
        row = []
        for document in range(documents):
            own = k_CGD[doc_of_chunk == document]
            scores = [
                chunk_score(
                    q_THD[mask],
                    k,
                    score=score,
                    scale=scale,
                    head_reduce=head_reduce,
                    query_reduce=query_reduce,
                )
                for k in (own if mask.any() else own[:0])
            ]
            row.append(_reduce(scores, chunk_reduce) if scores else absent)
        rows.append(torch.stack(row) if row else q_BTHD.new_zeros(0))
    return torch.stack(rows) if rows else q_BTHD.new_zeros(0, documents)


def top_documents(scores_BN: Sequence[Sequence[float]], k: int) -> tuple[list[list[float]], list[list[int]]]:
    """The k best documents, best first, ties to the lower index: scores and indices; -inf and -1 fill up."""
    best, index = [], []
    for row in scores_BN:
        there = [n for n in range(len(row)) if row[n] > -math.inf]
        ranked = sorted(there, key=lambda n: (-row[n], n))[:k]
        missing = k - len(ranked)
        best.append([row[n] for n in ranked] + [-math.inf] * missing)
        index.append(ranked + [-1] * missing)
    return best, index


def folded_scores(
    q_BTW: Tensor, k_CW: Tensor, doc_of_chunk: Tensor, query_mask_BT: Tensor, documents: int
) -> Tensor:
    """Document scores of folded queries, product by product: (B, N); -inf as in `score_documents`."""
    rows = q_BTW.new_full((len(q_BTW), documents), -math.inf)
    for b, (q_TW, mask) in enumerate(zip(q_BTW, query_mask_BT, strict=True)):
        for k, document in zip(k_CW, doc_of_chunk.tolist(), strict=True):
            for q in q_TW[mask]:
                rows[b, document] = max(rows[b, document], (q * k).sum())
    return rows


def best_products(keys: Tensor, tokens: Tensor, counts: Sequence[int]) -> list[list[float]]:
    """The largest inner product of every key with the tokens of each request: (M, B)."""
    best = []
    for key in keys:
        products = [sum(a * b for a, b in zip(key.tolist(), token.tolist(), strict=True)) for token in tokens]
        own = iter(products)
        best.append([max(next(own) for _ in range(count)) for count in counts])
    return best


def proven(upper: Sequence[float], exact: Mapping[int, float], k: int) -> bool:
    """Whether the k best of the documents scored exactly are the k best of all, by the bounds of the rest."""
    best = sorted(exact.values(), reverse=True)
    bar = best[k - 1] if len(best) >= k else -math.inf
    rest = [high for document, high in enumerate(upper) if document not in exact]
    return all(high < bar or high == -math.inf for high in rest)


def _reduce(values: Sequence[Tensor], how: str) -> Tensor:
    stacked = torch.stack(list(values))
    return stacked.max() if how == "max" else stacked.sum() / len(values)


# --- attention (paper Eq. 3 and 4) ------------------------------------------------------------------------


def memory_attention(
    q_BHTD: Tensor,
    local_k_BGSD: Tensor,
    local_v_BGSD: Tensor,
    local_mask_BTS: Tensor,
    *,
    memory_k_BGMD: Tensor | None = None,
    memory_v_BGMD: Tensor | None = None,
    memory_mask_BTM: Tensor | None = None,
    memory_bias_BM: Tensor | None = None,
    scale: float,
) -> Tensor:
    """Per head and query token one softmax over the visible chunks and local tokens: (B, H, T, D)."""
    batch, heads, tokens, width = q_BHTD.shape
    repeats = heads // local_k_BGSD.shape[1]
    flat = []
    for b in range(batch):
        for h in range(heads):
            for t in range(tokens):
                g = h // repeats
                logits, values = [], []
                if memory_k_BGMD is not None and memory_v_BGMD is not None and memory_mask_BTM is not None:
                    visible = memory_mask_BTM[b, t if memory_mask_BTM.shape[1] > 1 else 0]
                    for m in visible.nonzero().flatten().tolist():
                        logit = scale * (q_BHTD[b, h, t] * memory_k_BGMD[b, g, m]).sum()
                        logits.append(logit if memory_bias_BM is None else logit + memory_bias_BM[b, m])
                        values.append(memory_v_BGMD[b, g, m])
                for s in local_mask_BTS[b, t].nonzero().flatten().tolist():
                    logits.append(scale * (q_BHTD[b, h, t] * local_k_BGSD[b, g, s]).sum())
                    values.append(local_v_BGSD[b, g, s])
                weights = torch.stack(logits).softmax(0)
                flat.append((weights[:, None] * torch.stack(values)).sum(0))
    return torch.stack(flat).view(batch, heads, tokens, width)


# --- cells of an index ------------------------------------------------------------------------------------


def assign_cells(keys_CW: Tensor, centres_LW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest cell of every key (C,) int64, and of each cell the sum of squared distances and the largest
    distance, (L,) float64 each."""
    cells, squares, reach = [], [0.0] * len(centres_LW), [0.0] * len(centres_LW)
    for key in keys_CW.double():
        away = [float((key - centre).norm()) for centre in centres_LW.double()]
        nearest = away.index(min(away))
        cells.append(nearest)
        squares[nearest] += away[nearest] ** 2
        reach[nearest] = max(reach[nearest], away[nearest])
    return (
        torch.tensor(cells, dtype=torch.long),
        torch.tensor(squares, dtype=torch.float64),
        torch.tensor(reach, dtype=torch.float64),
    )


def train_centres(sample_MW: Tensor, cells: int, *, seed: int, turns: int) -> Tensor:
    """Lloyd's k-means from different rows of the sample: (L, W) float64."""
    rows = sample_MW.double()
    centres = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:cells]]
    for _ in range(turns):
        members: list[list[int]] = [[] for _ in range(cells)]
        away = []
        for index, row in enumerate(rows):
            distances = [float((row - centre).norm()) for centre in centres]
            away.append(min(distances))
            members[distances.index(away[-1])].append(index)
        farthest = sorted(range(len(rows)), key=lambda index: -away[index])
        empty = [cell for cell in range(cells) if not members[cell]]
        for cell, index in zip(empty, farthest, strict=False):
            members[cell] = [index]
        centres = torch.stack([rows[own].mean(0) for own in members])
    return centres


def score_cells(
    routing_q: Tensor,
    query_mask: Tensor,
    centres_LW: Tensor,
    spread_L: Tensor,
    reach_L: Tensor,
    *,
    lean: float,
) -> tuple[Tensor, Tensor]:
    """What every cell promises, and the most a key within its reach can score: (B, L) float64 each."""
    promises: list[list[float]] = []
    bounds: list[list[float]] = []
    for q_TW, mask in zip(routing_q.double(), query_mask.tolist(), strict=True):
        tokens = [q for q, routes in zip(q_TW, mask, strict=True) if routes]
        for found, away, factor in ((promises, spread_L, lean), (bounds, reach_L, 1.0)):
            each = [
                [float(q @ centre) + float(q.norm()) * factor * distance for q in tokens]
                for centre, distance in zip(centres_LW.double(), away.tolist(), strict=True)
            ]
            found.append([max(row, default=-math.inf) for row in each])
    shape = len(routing_q), len(centres_LW)
    return (
        torch.tensor(promises, dtype=torch.float64).view(shape),
        torch.tensor(bounds, dtype=torch.float64).view(shape),
    )


# --- losses (paper Eq. 5 and its variants) ----------------------------------------------------------------


def info_nce(scores: Sequence[Tensor], positives: Sequence[int]) -> Tensor:
    """One row: mean over positives of -log softmax over all documents.

    Args:
        scores: of the row's documents, divided by the temperature.
        positives: their indices; at least one.
    """
    return _mean(-_log_share(scores[i], scores) for i in positives)


def info_nce_decoupled(scores: Sequence[Tensor], positives: Sequence[int]) -> Tensor:
    """One row, paper Eq. 5: every positive against the negatives alone."""
    return _mean(-_log_share(scores[i], _against(scores, positives, i)) for i in positives)


def info_nce_focal(scores: Sequence[Tensor], positives: Sequence[int]) -> Tensor:
    """One row: `info_nce` terms weighted by (1 - p)^2."""
    return _mean(_focal(_log_share(scores[i], scores), 2) for i in positives)


def info_nce_decoupled_focal(
    scores: Sequence[Tensor], positives: Sequence[int], exponent: float | None = 2.0
) -> Tensor:
    """One row: `info_nce_decoupled` terms weighted by (1 - p)^exponent; None: the number of positives."""
    power = len(positives) if exponent is None else exponent
    return _mean(_focal(_log_share(scores[i], _against(scores, positives, i)), power) for i in positives)


def binary_relevance(scores: Sequence[Tensor], positives: Sequence[int], bias: Tensor) -> Tensor:
    """One row, BCE: mean over all documents of -log sigmoid(y (s + b)), s without temperature."""
    return _mean(
        -torch.nn.functional.logsigmoid((1 if i in positives else -1) * (s + bias))
        for i, s in enumerate(scores)
    )


def auxiliary_loss(
    method: str,
    scores_RN: Tensor,
    positives_RN: Tensor,
    *,
    temperature: Tensor | float,
    bias: Tensor | None = None,
    focal_exponent: float | None = 2.0,
) -> Tensor:
    """Mean over the rows that have a positive; documents at -inf are not there; 0 without such a row."""
    tau = min(max(float(temperature), 0.001), 0.5)
    losses: list[Tensor] = []
    for row, marked in zip(scores_RN, positives_RN.tolist(), strict=True):
        there = [n for n in range(len(row)) if row[n] > -math.inf]
        positives = [place for place, n in enumerate(there) if marked[n]]
        if not positives:
            continue
        raw = [row[n] for n in there]
        if method == "BCE" and bias is not None:
            losses.append(binary_relevance(raw, positives, bias))
        elif method == "INFONCE_DECOUPLE_FOCAL":
            losses.append(info_nce_decoupled_focal([s / tau for s in raw], positives, focal_exponent))
        else:
            losses.append(_BY_METHOD[method]([s / tau for s in raw], positives))
    return _mean(losses) if losses else scores_RN.new_zeros(())


def shifted_cross_entropy(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean over targets that are not -100 of -log softmax of the token before; 0 when there is none."""
    losses = [
        -_log_share(logits_BTV[b, t - 1, label], list(logits_BTV[b, t - 1]))
        for b, row in enumerate(labels_BT.tolist())
        for t, label in enumerate(row)
        if t > 0 and label != -100
    ]
    return _mean(losses) if losses else logits_BTV.new_zeros(())


_BY_METHOD: dict[str, Callable[[Sequence[Tensor], Sequence[int]], Tensor]] = {
    "INFONCE": info_nce,
    "INFONCE_DECOUPLE": info_nce_decoupled,
    "INFONCE_FOCAL": info_nce_focal,
}


def _against(scores: Sequence[Tensor], positives: Sequence[int], own: int) -> list[Tensor]:
    return [s for i, s in enumerate(scores) if i == own or i not in positives]


def _log_share(own: Tensor, among: Sequence[Tensor]) -> Tensor:
    return own - torch.stack(list(among)).logsumexp(0)


def _focal(log_p: Tensor, power: float) -> Tensor:
    return -((1 - log_p.exp()) ** power) * log_p


def _mean(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def kth_best(scores_BN: Tensor, k: int) -> list[float]:
    """The k-th best score of every request; -inf where there are fewer."""
    rows = (sorted(row, reverse=True) for row in scores_BN.tolist())
    return [row[k - 1] if k <= len(row) else -math.inf for row in rows]
