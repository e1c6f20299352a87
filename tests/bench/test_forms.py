import sys

import pytest
import torch

from memsparse.bench.forms import (
    certified_ranking,
    exact_ranking,
    faiss_form,
    fold,
    grouped,
    matmul,
    ours,
    peers,
    published,
    recall,
    rescore,
)
from memsparse.errors import InputError
from memsparse.ops.quantization import quantize_keys
from tests.bench.builders import case, config


def slow_ranking(made):
    """As the equations read: heads, tokens, chunks, one after the other."""
    q = torch.nn.functional.normalize(made.queries.double(), dim=-1)
    k = made.flat_keys.double().view(len(made.flat_keys), made.kv_heads, -1)
    heads = made.queries.shape[2] // made.kv_heads
    rows = []
    for b in range(len(q)):
        scores = [-torch.inf] * made.documents
        for chunk, document in enumerate(made.doc_of_chunk.tolist()):
            score = max(
                sum(float(q[b, t, h] @ k[chunk, h // heads]) for h in range(q.shape[2])) / q.shape[2]
                for t in range(q.shape[1])
            )
            scores[document] = max(scores[document], score)
        rows.append(scores)
    return torch.tensor(rows).topk(made.top_k, dim=1)


@pytest.mark.parametrize("form", [exact_ranking, published, grouped, matmul])
@pytest.mark.parametrize(("chunks", "batch"), [(1, 1), (40, 2)])
def test_forms_find_what_the_equations_say(form, chunks, batch):
    made = case(chunks, batch=batch)
    slow, found = slow_ranking(made), form(made)
    assert torch.equal(found.documents, slow.indices)
    torch.testing.assert_close(found.scores, slow.values.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("key_format", ["float32", "bf16", "fp8", "int8", "int4", "binary"])
def test_ours_is_exact_and_certified_in_every_format(key_format):
    made = case(300, batch=2)
    wanted, form = exact_ranking(made), ours(made, key_format)
    found = form.run(made)
    assert torch.equal(found.documents, wanted.documents)
    assert bool(found.certified.all())
    assert bool((found.rescored >= made.top_k).all())
    assert form.key_bytes == quantize_keys(made.flat_keys, key_format).nbytes
    assert form.scan is not None


def test_documents_are_scored_exactly_where_there_are_any():
    made = case(60, batch=2)
    documents = torch.tensor([[3, -1, 0], [-1, -1, -1]])
    scores = rescore(made, fold(made), made.flat_keys, documents)
    every = (fold(made).double() @ made.flat_keys.double().T).amax(1)
    assert scores[0, 0] == every[0, made.doc_of_chunk == 3].max().float()
    assert scores[0, 2] == every[0, made.doc_of_chunk == 0].max().float()
    assert bool(torch.isinf(scores[[0, 1, 1, 1], [1, 0, 1, 2]]).all())


def test_faiss_flat_misses_nothing_and_the_cells_may():
    pytest.importorskip("faiss")
    made = case(300, batch=2)
    wanted = exact_ranking(made)
    assert torch.equal(faiss_form(made, "flat").run(made).documents, wanted.documents)
    cells = faiss_form(made, "ivf")
    assert cells.exact == "recall"
    assert 0 <= recall(cells.run(made).documents, wanted.documents) <= 1


def test_without_faiss_it_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    made = case(20)
    with pytest.raises(InputError, match=r"memsparse\[eval\]"):
        faiss_form(made, "flat")
    forms, skipped = peers(made)
    assert {"published", "grouped", "matmul"} <= {form.name for form in forms}
    assert skipped.keys() == {"faiss flat", "faiss ivf"}


def test_recall_counts_wanted_documents():
    wanted = torch.tensor([[1, 2, 3, 4]])
    assert recall(torch.tensor([[4, 9, 2, 8]]), wanted) == 0.5
    assert recall(wanted.flip(1), wanted) == 1


def test_a_rank_needs_no_more_documents_than_there_are():
    made = case(1)
    found = certified_ranking(made, quantize_keys(made.flat_keys, "int8"), made.flat_keys)
    assert found.documents.tolist() == [[0]]
    assert config().top_k_documents > 1
