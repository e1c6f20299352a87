from dataclasses import replace

import pytest
import torch

from memsparse.model.cache import MemSparseCache
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.types import Sifted
from tests.model.builders import fill, question, tiny_model


@pytest.fixture
def model() -> MemSparseForCausalLM:
    return tiny_model(gate=True)


@torch.no_grad()
def prefill(model: MemSparseForCausalLM, batch: int = 3) -> MemSparseCache:
    cache = MemSparseCache()
    ids, _ = question(batch=batch)
    model(input_ids=ids, past_key_values=cache, use_cache=True, memory=fill(model))
    return cache


@torch.no_grad()
def decode(model: MemSparseForCausalLM, cache: MemSparseCache, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor(tokens)[:, None], past_key_values=cache, use_cache=True).logits[:, 0]


def test_the_selected_chunks_stay_for_later_tokens(model: MemSparseForCausalLM) -> None:
    cache = prefill(model)
    assert sorted(cache.memory) == [2, 3]
    with_memory = decode(model, cache, [7, 8, 9])
    forgetful = prefill(model)
    forgetful.memory.clear()
    assert (with_memory - decode(model, forgetful, [7, 8, 9])).abs().max() > 0.01


@pytest.mark.parametrize(
    ("change", "argument", "rows"),
    [
        ("reorder_cache", torch.tensor([2, 0, 0]), [2, 0, 0]),
        ("batch_select_indices", torch.tensor([1]), [1]),
        ("batch_select_indices", torch.tensor([2, 1]), [2, 1]),
        ("batch_repeat_interleave", 2, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_rows_move_with_all_they_hold(
    model: MemSparseForCausalLM, change: str, argument: torch.Tensor | int, rows: list[int]
) -> None:
    tokens = torch.tensor([7, 8, 9])
    want = decode(model, prefill(model), tokens.tolist())[rows]
    cache = prefill(model)
    for layer, kv in cache.memory.items():
        bounds = torch.arange(6.0).view(3, 2) + layer
        cache.memory[layer] = replace(  # what a bank's reader tells
            kv,
            chunks=kv.documents,
            errors=kv.all_scores,
            certified=kv.documents[:, 0] >= 0,
            sifted=Sifted(documents=torch.tensor([1, 4]), upper=bounds + 1, beyond=bounds[:, 0] - 1),
        )
    getattr(cache, change)(argument)
    torch.testing.assert_close(decode(model, cache, tokens[rows].tolist()), want, atol=1e-5, rtol=1e-4)
    for kv in cache.memory.values():
        for name in kv.__slots__:
            if name != "sifted":
                assert len(getattr(kv, name)) == len(rows), name
    for layer, kv in cache.memory.items():
        assert kv.sifted is not None
        assert kv.sifted.upper.tolist() == [[2.0 * row + 1 + layer, 2 * row + 2 + layer] for row in rows]
        assert kv.sifted.beyond.tolist() == [2.0 * row - 1 + layer for row in rows]


def test_a_cache_without_memory_changes_rows_too(model: MemSparseForCausalLM) -> None:
    cache = MemSparseCache()
    model(input_ids=question()[0], past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(3)
    cache.reorder_cache(torch.tensor([5, 4, 3, 2, 1, 0]))
    assert cache.memory == {}
    assert cache.layers[0].keys.shape[0] == 6


def test_a_reset_cache_routes_anew(model: MemSparseForCausalLM) -> None:
    cache = prefill(model)
    cache.position_shift = 5
    cache.reset()
    assert (cache.memory, cache.get_seq_length(), cache.position_shift) == ({}, 0, 0)
    ids, _ = question(batch=1)
    again = model(input_ids=ids, past_key_values=cache, use_cache=True, memory=fill(model))
    torch.testing.assert_close(again.logits, model(input_ids=ids, memory=fill(model)).logits)
