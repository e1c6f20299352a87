import pytest
import torch

from memsparse.bench.cases import LONGEST, make_case, make_queries
from memsparse.errors import ConfigError
from tests.bench.builders import CPU, case, config


@pytest.mark.parametrize("chunks", [1, 2, 63, 300])
def test_documents_cover_the_chunks(chunks):
    made = case(chunks)
    assert len(made.flat_keys) == len(made.doc_of_chunk) == int(made.counts.sum()) == chunks
    assert made.documents == int(made.doc_of_chunk[-1]) + 1
    assert torch.equal(torch.repeat_interleave(torch.arange(made.documents), made.counts), made.doc_of_chunk)
    assert torch.equal(made.doc_of_chunk[made.starts], torch.arange(made.documents))
    assert int(made.counts.min()) >= 1
    assert int(made.counts.max()) <= LONGEST
    assert made.top_k == min(4, made.documents)


def test_keys_are_what_a_bank_stores_of_a_cosine():
    made = case(50)
    assert made.flat_keys.dtype == torch.bfloat16
    norms = made.float_keys.view(50, 2, 8).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(50, 2), rtol=0, atol=1e-2)


def test_the_same_seed_draws_the_same_and_another_another():
    one, same, other = case(), case(), case(seed=1)
    assert torch.equal(one.flat_keys, same.flat_keys)
    assert torch.equal(one.queries, same.queries)
    assert not torch.equal(one.queries, other.queries)


def test_other_questions_share_the_bank():
    made = case()
    asked = made.asking(make_queries(config(), CPU, tokens=3, batch=2, seed=9))
    assert asked.float_keys is made.float_keys
    assert asked.queries.shape == (2, 3, 6, 8)
    assert asked.query_mask.shape == (2, 3)
    assert made.queries.shape == (1, 5, 6, 8)


@pytest.mark.parametrize("wrong", [{"chunks": 0}, {"tokens": 0}, {"batch": 0}])
def test_nothing_is_not_measured(wrong):
    settings = {"chunks": 10, "tokens": 4, "batch": 1, **wrong}
    with pytest.raises(ConfigError, match="is 0; give at least 1"):
        make_case(config(), settings.pop("chunks"), CPU, tile=8, **settings)
