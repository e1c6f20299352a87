import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import ConfigError, InputError, ShapeError
from memsparse.ops import reference, routing
from memsparse.ops.routing import (
    RoutingRule,
    chunk_scores,
    collapse_keys,
    collapse_queries,
    document_scores,
    reduce_tokens,
    score_documents,
    top_documents,
)

RULES = [
    RoutingRule(score=score, scale=scale, head_reduce=head, query_reduce=query, chunk_reduce=chunk)
    for (score, scale), head, query, chunk in product(
        [("cosine", 1.0), ("dot", 0.25)], ["mean", "max"], ["max", "mean", "last"], ["max", "mean"]
    )
]
"""Every reduction under both scores."""

MASKS = torch.tensor(
    [
        [0, 0, 1, 1, 1],  # padded on the left
        [1, 0, 1, 0, 0],  # holes, and not the last token
        [0, 0, 0, 0, 0],  # nothing routes
        [1, 1, 1, 1, 1],
    ]
).bool()


def make(
    chunks: int = 11, heads: int = 4, kv_heads: int = 2, width: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (4, 5, H, D), keys (C, G, D), and the documents of the chunks; document 1 has none."""
    owners = torch.randint(0, 5, (chunks,)).sort().values
    return (
        torch.randn(4, 5, heads, width, dtype=dtype, requires_grad=True),
        torch.randn(chunks, kv_heads, width, dtype=dtype, requires_grad=True),
        torch.where(owners == 1, 2, owners),
    )


def twin(q: Tensor, k: Tensor, owners: Tensor, mask: Tensor, documents: int, rule: RoutingRule) -> Tensor:
    return reference.score_documents(
        q,
        k,
        owners,
        mask,
        documents,
        score=rule.score,
        scale=rule.scale,
        head_reduce=rule.head_reduce,
        query_reduce=rule.query_reduce,
        chunk_reduce=rule.chunk_reduce,
    )


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda r: f"{r.score}-{r.head_reduce}-{r.query_reduce}-{r.chunk_reduce}"
)
def test_every_rule_equals_the_twin_with_gradients(rule: RoutingRule) -> None:
    q, k, owners = make()
    fast = document_scores(rule.queries(q, 2), rule.keys(k), owners, MASKS, rule=rule, num_documents=6)
    slow = twin(q, k, owners, MASKS, 6, rule)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, slow.float(), atol=1e-6, rtol=1e-5)
    there = slow > -math.inf
    assert not there[:, 1].any()
    assert not there[2].any()
    assert there[[0, 1, 3]][:, owners.unique()].all()
    weights = torch.randn(int(there.sum()))
    torch.testing.assert_close(
        torch.autograd.grad((fast[there] * weights).sum(), [q, k]),
        torch.autograd.grad((slow[there] * weights).sum(), [q, k]),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("chunks", [1, 63, 64, 65])
@pytest.mark.parametrize("tile", [1, 7, 64, 1000])
def test_tiles_do_not_change_the_scores(chunks: int, tile: int) -> None:
    q, k, owners = make(chunks)
    scored = score_documents(collapse_queries(q, 2), collapse_keys(k), owners, MASKS, tile=tile)
    expected = twin(q, k, owners, MASKS, int(owners[-1]) + 1, RoutingRule())
    torch.testing.assert_close(scored, expected.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 1), (4, 4), (6, 3)])
def test_any_grouping_of_heads(heads: int, kv_heads: int) -> None:
    q, k, owners = make(heads=heads, kv_heads=kv_heads)
    for rule in (RoutingRule(), RoutingRule(head_reduce="max")):
        fast = document_scores(rule.queries(q, kv_heads), rule.keys(k), owners, MASKS, rule=rule)
        expected = twin(q, k, owners, MASKS, fast.shape[1], rule)
        torch.testing.assert_close(fast, expected.float(), atol=1e-6, rtol=1e-5)


def test_the_collapsed_inner_product_is_the_mean_over_heads() -> None:
    q, k, _ = make()
    collapsed = collapse_queries(q, 2) @ collapse_keys(k).float().T
    per_head = torch.einsum(
        "bthd,chd->bthc",
        q / q.norm(dim=-1, keepdim=True),
        (k / k.norm(dim=-1, keepdim=True)).repeat_interleave(2, dim=1),
    )
    torch.testing.assert_close(collapsed, per_head.mean(2).float(), atol=1e-6, rtol=1e-5)


def test_queries_and_keys_need_not_be_contiguous() -> None:
    q, k, owners = make()
    for rule in (RoutingRule(), RoutingRule(head_reduce="max")):
        want = document_scores(rule.queries(q, 2), rule.keys(k), owners, MASKS, rule=rule)
        strided = q.detach().transpose(0, 1).contiguous().transpose(0, 1)
        got = document_scores(
            rule.queries(strided, 2), rule.keys(k).T.contiguous().T, owners, MASKS, rule=rule
        )
        torch.testing.assert_close(got, want)


def test_bfloat16_keys_are_scored_in_float32() -> None:
    q, k, owners = make(chunks=65, dtype=torch.float32)
    keys = collapse_keys(k).detach().bfloat16()
    scored = score_documents(collapse_queries(q, 2), keys, owners, MASKS, tile=7)
    assert scored.dtype == torch.float32
    exact = score_documents(collapse_queries(q, 2), keys.float(), owners, MASKS)
    torch.testing.assert_close(scored, exact)
    assert collapse_keys(k.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda r: f"{r.score}-{r.head_reduce}-{r.query_reduce}-{r.chunk_reduce}"
)
def test_nothing_leaks_from_padded_queries(rule: RoutingRule) -> None:
    q, k, owners = make()
    queries = rule.queries(q, 2).detach()
    padding = ~MASKS.view(*MASKS.shape, *[1] * (queries.ndim - 2))
    clean_keys = rule.keys(k).detach().requires_grad_()
    keys = rule.keys(k).detach().requires_grad_()
    clean = document_scores(queries, clean_keys, owners, MASKS, rule=rule)
    dirty = document_scores(queries.masked_fill(padding, math.nan), keys, owners, MASKS, rule=rule)
    torch.testing.assert_close(dirty, clean)
    for scores in (clean, dirty):
        scores[scores > -math.inf].sum().backward()
    torch.testing.assert_close(keys.grad, clean_keys.grad)


@pytest.mark.parametrize("how", ["max", "mean", "last"])
def test_nothing_leaks_from_padded_token_scores(how: str) -> None:
    scores = torch.randn(4, 5, 3)
    dirty = scores.masked_fill(~MASKS[..., None], math.nan)
    torch.testing.assert_close(reduce_tokens(dirty, MASKS, how), reduce_tokens(scores, MASKS, how))


def test_an_empty_bank_scores_no_document() -> None:
    q, k, owners = make()
    nothing = collapse_keys(k)[:0], owners[:0]
    assert score_documents(collapse_queries(q, 2), *nothing, MASKS).shape == (4, 0)
    for rule in (RoutingRule(), RoutingRule(head_reduce="max", query_reduce="mean")):
        scores = document_scores(rule.queries(q, 2), *nothing, MASKS, rule=rule, num_documents=3)
        assert scores.tolist() == [[-math.inf] * 3] * 4
        assert scores.dtype == torch.float32


@pytest.mark.parametrize("rule", [RoutingRule(query_reduce=how) for how in ("max", "mean", "last")])
def test_without_tokens_or_requests_nothing_is_scored(rule: RoutingRule) -> None:
    q, k, owners = make()
    for queries in (q[:, :0], q[:0]):
        mask = torch.ones(queries.shape[:2], dtype=torch.bool)
        scores = document_scores(rule.queries(queries, 2), rule.keys(k), owners, mask, rule=rule)
        assert scores.shape == (len(queries), int(owners[-1]) + 1)
        assert (scores == -math.inf).all()


def test_the_fast_product_and_the_one_with_gradients_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, owners = make(chunks=300, heads=8, width=64)
    vectors = collapse_queries(q, 2), collapse_keys(k)
    with_gradients = score_documents(*vectors, owners, MASKS, tile=128)
    assert with_gradients.requires_grad
    without = score_documents(*(vector.detach() for vector in vectors), owners, MASKS, tile=128)
    torch.testing.assert_close(without, with_gradients.detach(), atol=1e-6, rtol=1e-5)
    monkeypatch.setattr(routing, "_has_onednn", lambda: False)
    default = score_documents(*(vector.detach() for vector in vectors), owners, MASKS, tile=128)
    torch.testing.assert_close(default, without, atol=1e-6, rtol=1e-5)


def test_requests_do_not_touch_each_other() -> None:
    q, k, owners = make()
    together = score_documents(collapse_queries(q, 2), collapse_keys(k), owners, MASKS)
    alone = [
        score_documents(collapse_queries(q[b : b + 1], 2), collapse_keys(k), owners, MASKS[b : b + 1])
        for b in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)


def test_with_the_number_of_documents_known_chunks_may_lie_in_any_order() -> None:
    q, k, owners = make()
    want = document_scores(
        collapse_queries(q, 2), collapse_keys(k), owners, MASKS, rule=RoutingRule(), num_documents=5
    )
    order = torch.randperm(len(owners))
    got = document_scores(
        collapse_queries(q, 2),
        collapse_keys(k)[order],
        owners[order],
        MASKS,
        rule=RoutingRule(),
        num_documents=5,
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("q", "k", "owners", "mask", "message"),
    [
        ((2, 3, 8), (4, 6), [0, 0, 1, 1], (2, 3), "8 wide, keys 6"),
        ((2, 3, 4, 4), (4, 6), [0, 0, 1, 1], (2, 3), "4 query heads of 4 do not divide into keys of width 6"),
        ((2, 3, 3, 4), (4, 8), [0, 0, 1, 1], (2, 3), "3 query heads of 4 do not divide into keys of width 8"),
        ((2, 3, 8), (4, 8), [0, 0, 1, 1], (2, 4), r"query_mask is \(2, 4\)"),
        ((2, 3, 8), (4, 8), [0, 0, 1], (2, 3), "3 document indices for 4 chunks"),
        ((2, 3, 8), (4, 8), [0, 1, 0, 1], (2, 3), "not ascending"),
        ((2, 3, 8), (4, 8), [-1, 0, 0, 1], (2, 3), "not ascending from 0"),
        ((3, 8), (4, 8), [0, 0, 1, 1], (3,), r"queries are \(3, 8\)"),
        ((2, 3, 8), (4, 2, 4), [0, 0, 1, 1], (2, 3), r"keys \(4, 2, 4\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    q: tuple[int, ...], k: tuple[int, ...], owners: list[int], mask: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        score_documents(
            torch.zeros(q), torch.zeros(k), torch.tensor(owners), torch.ones(mask, dtype=torch.bool)
        )


def test_heads_must_divide_into_kv_heads() -> None:
    with pytest.raises(ShapeError, match="5 query heads do not divide into 2"):
        collapse_queries(torch.zeros(1, 1, 5, 4), 2)


def test_a_tile_below_one_is_refused() -> None:
    q, k, owners = make()
    with pytest.raises(ConfigError, match="tile is 0"):
        score_documents(collapse_queries(q, 2), collapse_keys(k), owners, MASKS, tile=0)


@pytest.mark.parametrize("field", ["score", "head_reduce", "query_reduce", "chunk_reduce"])
def test_an_unknown_rule_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is 'median'; use one of"):
        RoutingRule(**{field: "median"})


# --- top_documents ----------------------------------------------------------------------------------------

score_rows = st.integers(0, 8).flatmap(
    lambda n: st.lists(
        st.lists(st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 1.0]), min_size=n, max_size=n),
        min_size=1,
        max_size=4,
    )
)


@given(rows=score_rows, k=st.integers(0, 10))
@settings(max_examples=300)
def test_selection_equals_the_twin_with_ties_and_absent_documents(rows: list[list[float]], k: int) -> None:
    scores = torch.tensor(rows).view(len(rows), -1)
    best, index = top_documents(scores, k)
    want_best, want_index = reference.top_documents(rows, k)
    assert best.tolist() == want_best
    assert index.tolist() == want_index
    assert index.dtype == torch.long


def test_ties_go_to_the_lower_index_among_many() -> None:
    scores = torch.zeros(2, 5000)
    scores[1, 4321] = 1
    _, index = top_documents(scores, 16)
    assert index.tolist() == [list(range(16)), [4321, *range(15)]]


def test_k_of_zero_selects_nothing() -> None:
    best, index = top_documents(torch.randn(3, 4), 0)
    assert best.shape == index.shape == (3, 0)


def test_scores_of_the_selected_carry_gradients() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    best, _ = top_documents(scores, 2)
    (best * torch.tensor([10.0, 100.0])).sum().backward()
    assert scores.grad.tolist() == [[10.0, 0.0, 100.0]]


def test_the_scores_given_are_left_alone() -> None:
    scores = torch.randn(2, 9)
    before = scores.clone()
    top_documents(scores, 3)
    assert torch.equal(scores, before)


@pytest.mark.parametrize(
    ("row", "k"),
    [([0.0, math.nan, 1.0], 1), ([math.nan, 3.0, 3.0], 2), ([-math.inf, -math.inf, math.nan], 3)],
)
def test_nan_is_refused_not_ranked(row: list[float], k: int) -> None:
    with pytest.raises(InputError, match="NaN"):
        top_documents(torch.tensor([[2.0, 1.0, 0.0], row]), k)


def test_bad_arguments_of_selection_are_refused() -> None:
    with pytest.raises(InputError, match="k is -1"):
        top_documents(torch.zeros(1, 3), -1)
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        top_documents(torch.zeros(3), 1)


def test_document_scores_are_the_best_of_the_chunk_scores():
    q, k = torch.randn(2, 3, 8), torch.randn(6, 8)
    documents, mask = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([[True, True, False], [True] * 3])
    each = chunk_scores(q, k, mask, rule=RoutingRule())
    whole = document_scores(q, k, documents, mask, rule=RoutingRule())
    torch.testing.assert_close(torch.stack([c.amax(1) for c in each.split([2, 1, 3], dim=1)], 1), whole)
    with pytest.raises(ShapeError):
        chunk_scores(q, k[:, :6], mask, rule=RoutingRule())
