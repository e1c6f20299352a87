"""`generate` over a memory: the generation half of modeling_memsparse."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from memsparse.errors import InputError, ShapeError
from memsparse.model.cache import MemSparseCache
from memsparse.model.memory import InBatchMemory
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.positions import context_positions
from memsparse.types import MemoryKV
from tests.model.builders import LENGTHS, fill, question, tiny_model

NEW = 5


class Counting:
    """Passes reads on and remembers which layers asked, and with what."""

    def __init__(self, memory: InBatchMemory) -> None:
        self.memory = memory
        self.asked: list[tuple[int, tuple[int, ...], Tensor]] = []

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        self.asked.append((layer_idx, tuple(routing_q.shape), query_mask))
        return self.memory.read(layer_idx, routing_q, query_mask)


@torch.no_grad()
def greedy(
    model: MemSparseForCausalLM, ids: Tensor, mask: Tensor, memory: Any, query_mask: Tensor | None
) -> Tensor:
    """The longhand of greedy decoding: prefill with memory, then a token at a time from the cache."""
    cache = MemSparseCache()
    positions = context_positions(mask, model.config.position_offset)
    step, arguments = ids, {"memory": memory, "query_mask": query_mask}
    for _ in range(NEW):
        logits = model(
            input_ids=step,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **arguments,
        ).logits
        step, arguments = logits[:, -1:].argmax(-1), {}
        ids, mask, positions = (
            torch.cat([ids, step], 1),
            torch.cat([mask, torch.ones_like(step)], 1),
            positions[:, -1:] + 1,
        )
    return ids


def run(model: MemSparseForCausalLM, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
    return model.generate(
        ids,
        attention_mask=mask,
        **{"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False} | options,
    )


@pytest.fixture
def model() -> MemSparseForCausalLM:
    model = tiny_model(gate=True)
    model.generation_config.eos_token_id = None
    return model


def test_it_is_greedy_decoding_over_the_memory(model: MemSparseForCausalLM) -> None:
    ids, mask = question(left_padding=2)
    memory = fill(model)
    out = run(model, ids, mask, memory=memory)
    assert torch.equal(out, greedy(model, ids, mask, memory, None))


def test_query_mask_reaches_the_router(model: MemSparseForCausalLM) -> None:
    ids, mask = question(left_padding=2)
    which = torch.zeros_like(mask).bool()
    which[:, 3:5] = True
    counting = Counting(fill(model))
    out = run(model, ids, mask, memory=counting, query_mask=which)
    assert torch.equal(out, greedy(model, ids, mask, fill(model), which))
    assert all(torch.equal(seen, which) for _, _, seen in counting.asked)


def test_every_memory_layer_routes_once(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    counting = Counting(fill(model))
    run(model, ids, mask, memory=counting)
    assert [(layer, shape) for layer, shape, _ in counting.asked] == [(2, (2, 6, 16)), (3, (2, 6, 16))]


def test_another_memory_gives_other_logits(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    steps = [
        run(model, ids, mask, output_logits=True, return_dict_in_generate=True, **options).logits
        for options in ({"memory": fill(model)}, {"memory": fill(model, seed=1)}, {})
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert all((x - y).abs().max() > 0.01 for x, y in zip(steps[a], steps[b], strict=True))


def test_an_empty_memory_gives_what_no_memory_gives(model: MemSparseForCausalLM) -> None:
    ids, mask = question(left_padding=1)
    assert torch.equal(run(model, ids, mask, memory=fill(model, ())), run(model, ids, mask))


def test_a_cached_prompt_head_counts_as_in_training(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    head, memory = torch.tensor([[5, 6, 7]] * 2), fill(model)
    cache = MemSparseCache()
    model(input_ids=head, past_key_values=cache, use_cache=True)
    whole, whole_mask = torch.cat([head, ids], 1), torch.cat([torch.ones_like(head), mask], 1)
    options = {"output_logits": True, "return_dict_in_generate": True}
    got = run(model, whole, whole_mask, memory=memory, past_key_values=cache, **options).logits[0]

    cache = MemSparseCache()
    model(input_ids=head, past_key_values=cache, use_cache=True)
    want = model(
        input_ids=ids,
        attention_mask=whole_mask,
        position_ids=context_positions(mask, model.config.position_offset),
        past_key_values=cache,
        memory=memory,
    ).logits[:, -1]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_positions_that_are_given_stand(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    memory = fill(model)
    own = context_positions(mask, 40)
    options = {"output_logits": True, "return_dict_in_generate": True, "memory": memory}
    got = run(model, ids, mask, position_ids=own, **options).logits[0]
    want = model(input_ids=ids, attention_mask=mask, position_ids=own, memory=memory).logits[:, -1]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_sampling_follows_its_seed(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    memory = fill(model)
    outs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outs.append(run(model, ids, mask, memory=memory, do_sample=True, temperature=2.0, top_k=0))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_several_samples_of_a_row_read_that_rows_memory(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    memory = fill(model)
    out = run(model, ids, mask, memory=memory, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(out, run(model, ids, mask, memory=memory).repeat_interleave(2, 0))


def log_likelihood(
    model: MemSparseForCausalLM, out: Tensor, mask: Tensor, memory: Any, prompt: int
) -> Tensor:
    """Log probability of each row's new tokens, from one pass over the whole row."""
    whole = torch.cat([mask, torch.ones_like(out[:, prompt:])], 1)
    which = torch.arange(out.shape[1]) < prompt
    logits = model(
        input_ids=out,
        attention_mask=whole,
        position_ids=context_positions(whole, model.config.position_offset),
        memory=memory,
        query_mask=which.expand_as(out),
    ).logits
    log_p = logits[:, prompt - 1 : -1].log_softmax(-1)
    return log_p.gather(2, out[:, prompt:, None]).sum((1, 2))


@torch.no_grad()
def test_beams_carry_their_memory_along(model: MemSparseForCausalLM) -> None:
    ids, mask = question(left_padding=2)
    memory = fill(model)
    options = {"num_beams": 3, "length_penalty": 0.0, "output_scores": True, "return_dict_in_generate": True}
    result = run(model, ids, mask, memory=memory, **options)
    expected = log_likelihood(model, result.sequences, mask, memory, 6)
    torch.testing.assert_close(result.sequences_scores, expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_keep_the_memory_is_refused(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    memory = fill(model)
    with pytest.raises(InputError, match="DynamicCache; with memory, give a MemSparseCache"):
        run(model, ids, mask, memory=memory, past_key_values=DynamicCache())
    with pytest.raises(InputError, match="use_cache is False"):
        run(model, ids, mask, memory=memory, use_cache=False)


def test_a_static_cache_is_refused(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    with pytest.raises(ShapeError, match="attention_mask is dict"):
        run(model, ids, mask, cache_implementation="static")


def test_rows_of_the_allowed_mask_must_match_the_beams(model: MemSparseForCausalLM) -> None:
    ids, mask = question()
    memory = fill(model, allowed=torch.ones(2, len(LENGTHS), dtype=torch.bool))
    assert run(model, ids, mask, memory=memory).shape == (2, 6 + NEW)
    with pytest.raises(ShapeError, match=r"allowed is \(2, 5\), scores are \(4, 5\)"):
        run(model, ids, mask, memory=memory, num_beams=2)
