"""Without memory the model equals transformers' model of its backbone; with memory, what the memory adds."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from memsparse.errors import InputError, ShapeError
from memsparse.model.cache import MemSparseCache
from memsparse.model.memory import ChunkCollector, InBatchMemory
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.positions import context_positions
from memsparse.types import MemoryKV
from tests.model.builders import LENGTHS, SIZES, fill, padded, question, spread, tiny_config, tiny_model

PLAIN = {"qk_norm": False}
BIASED = {"attention_bias": True, "mlp_bias": True}

BACKBONES: dict[str, tuple[type[PreTrainedModel], Any, dict[str, Any]]] = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES), {}),
    "qwen3-tied": (
        Qwen3ForCausalLM,
        Qwen3Config(**SIZES, tie_word_embeddings=True),
        {"tie_word_embeddings": True},
    ),
    "qwen3-wide-heads": (Qwen3ForCausalLM, Qwen3Config(**SIZES | {"head_dim": 12}), {"head_dim": 12}),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES), PLAIN),
    "llama-biased": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, **BIASED),
        PLAIN | BIASED | {"attention_output_bias": True},
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None), PLAIN),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES), PLAIN | {"attention_bias": True}),
}
"""transformers' model, its configuration, and our flags for the same backbone."""


@pytest.fixture(params=list(BACKBONES))
def twins(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, MemSparseForCausalLM]:
    """The same random weights in transformers' model and in ours."""
    kind, config, flags = BACKBONES[request.param]
    theirs = spread(kind(config)).eval()
    ours = MemSparseForCausalLM(tiny_config(rope_parameters=config.rope_parameters, **flags)).eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert unexpected == []
    assert all("router_" in name or name == "temperature" for name in missing)
    return theirs, ours


# --- without memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 6, 65])
def test_logits_equal_the_backbone(twins: tuple[PreTrainedModel, MemSparseForCausalLM], tokens: int) -> None:
    ids, _ = question(tokens=tokens)
    theirs, ours = (model(input_ids=ids, output_hidden_states=True) for model in twins)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours.hidden_states, theirs.hidden_states, atol=2e-5, rtol=1e-4)
    assert theirs.logits.std() > 0.1


@pytest.mark.parametrize("with_positions", [True, False])
def test_left_padding_equals_the_backbone(
    twins: tuple[PreTrainedModel, MemSparseForCausalLM], with_positions: bool
) -> None:
    ids, mask = question(tokens=9, left_padding=4)
    positions = (mask.cumsum(1) - 1).clamp_min(0) if with_positions else None
    theirs, ours = (
        model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[mask == 1] for model in twins
    )
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_greedy_generation_equals_the_backbone(twins: tuple[PreTrainedModel, MemSparseForCausalLM]) -> None:
    ids, mask = question(left_padding=3)
    theirs, ours = (
        model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False) for model in twins
    )
    assert torch.equal(ours, theirs)


def test_the_loss_and_its_gradients_equal_the_backbones(
    twins: tuple[PreTrainedModel, MemSparseForCausalLM],
) -> None:
    ids, mask = question(tokens=9, left_padding=2)
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 2] = -100  # padding would predict it
    losses = [model(input_ids=ids, attention_mask=mask, labels=labels).loss for model in twins]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    theirs, ours = (dict(model.named_parameters()) for model in twins)
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_prefill_and_decode_equal_the_full_forward(implementation: str) -> None:
    model = tiny_model(attn_implementation=implementation)
    ids, mask = question(tokens=9, left_padding=2)
    full = model(input_ids=ids, attention_mask=mask).logits
    cache, parts = MemSparseCache(), []
    for start, end in [(0, 5), (5, 6), (6, 9)]:  # the last as one block: it stays causal
        output = model(
            input_ids=ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True
        )
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask == 1], full[mask == 1], atol=1e-5, rtol=1e-4)


def test_logits_are_kept_for_the_last_tokens_alone() -> None:
    model = tiny_model()
    ids, _ = question()
    full = model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=2).logits, full[:, -2:])
    torch.testing.assert_close(
        model(input_ids=ids, logits_to_keep=torch.tensor([1, 3])).logits, full[:, [1, 3]]
    )


def test_embeddings_may_be_given_and_normalised() -> None:
    ids, _ = question()
    model, normed = tiny_model(), tiny_model(embedding_norm=True)
    torch.testing.assert_close(
        model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(input_ids=ids).logits
    )
    first = normed(input_ids=ids, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(first, normed.model.embed_norm(normed.get_input_embeddings()(ids)))


def test_bad_inputs_are_refused() -> None:
    model = tiny_model()
    ids, mask = question()
    for arguments in ({}, {"input_ids": ids, "inputs_embeds": torch.zeros(2, 6, 32)}):
        with pytest.raises(InputError, match="exactly one of input_ids and inputs_embeds"):
            model(**arguments)
    with pytest.raises(ShapeError, match=r"attention_mask is \(2, 5\); pass \(2, 6\)"):
        model(input_ids=ids, attention_mask=mask[:, 1:])
    with pytest.raises(ShapeError, match=r"attention_mask is \(2, 1, 6, 6\)"):
        model(input_ids=ids, attention_mask=torch.ones(2, 1, 6, 6))
    with pytest.raises(ShapeError, match="pad documents on the right"):
        model(input_ids=ids, attention_mask=question(left_padding=1)[1], writer=ChunkCollector())


# --- with memory ------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "gate": {"gate": True},
    "joint": {"decouple_router": False},
    "dot": {"routing_score": "dot"},
    "head-max": {"head_reduce": "max"},
    "mean-last": {"query_reduce": "last", "chunk_reduce": "mean"},
    "all-layers": {"memory_layers": [0, 1, 2, 3], "aux_all_layers": True},
}


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_sdpa_equals_eager_and_memory_matters(variant: str) -> None:
    ids, mask = question(left_padding=2)
    logits = {}
    for implementation in ("sdpa", "eager"):
        model = tiny_model(attn_implementation=implementation, **VARIANTS[variant])
        logits[implementation] = model(input_ids=ids, attention_mask=mask, memory=fill(model)).logits
    torch.testing.assert_close(logits["sdpa"][mask == 1], logits["eager"][mask == 1], atol=2e-5, rtol=1e-4)
    assert gap(logits["eager"][mask == 1], model(input_ids=ids, attention_mask=mask).logits[mask == 1]) > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_does_not_depend_on_its_neighbours_or_its_padding(variant: str) -> None:
    model = tiny_model(**VARIANTS[variant])
    memory = fill(model)
    ids, mask = question(tokens=7, left_padding=3)
    positions = context_positions(mask, model.config.position_offset)
    together = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, memory=memory, query_mask=mask == 1
    )
    for row, start in [(0, 3), (1, 0)]:
        here = slice(row, row + 1), slice(start, None)
        alone = model(input_ids=ids[here], position_ids=positions[here], memory=memory)
        torch.testing.assert_close(together.logits[row, start:], alone.logits[0], atol=2e-5, rtol=1e-4)
        for layer, kv in alone.routing.items():
            assert torch.equal(together.routing[layer].documents[row], kv.documents[0])


def test_an_empty_memory_is_no_memory() -> None:
    model = tiny_model(gate=True)
    ids, mask = question(left_padding=2)
    memory = fill(model, ())
    with_it = model(input_ids=ids, attention_mask=mask, memory=memory)
    torch.testing.assert_close(with_it.logits, model(input_ids=ids, attention_mask=mask).logits)
    assert {kv.documents.shape for kv in with_it.routing.values()} == {(2, 0)}


def test_only_memory_layers_read() -> None:
    model = tiny_model(memory_layers=[1, 3])
    assert sorted(model(input_ids=question()[0], memory=fill(model)).routing) == [1, 3]
    assert sorted(fill(model).layers) == [1, 3]


def test_query_mask_says_what_routes() -> None:
    model = tiny_model()
    memory = fill(model)
    ids, _ = question(batch=1, tokens=8)
    which = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0]]).bool()
    scores = model(input_ids=ids, memory=memory, query_mask=which).routing[2].all_scores
    # Layer 2 is the first to read: tokens up to the last that routes decide its scores.
    shorter = model(input_ids=ids[:, :3], memory=memory, query_mask=which[:, :3]).routing[2].all_scores
    torch.testing.assert_close(scores, shorter)
    assert gap(scores, model(input_ids=ids, memory=memory).routing[2].all_scores) > 0


def test_documents_are_encoded_alone_whatever_pads_them() -> None:
    model = tiny_model()
    ids, mask = padded()
    together, other_padding = ChunkCollector(), ChunkCollector()
    model.model(input_ids=ids, attention_mask=mask, writer=together)
    model.model(input_ids=ids.masked_fill(~mask, 17), attention_mask=mask, writer=other_padding)
    for layer, chunks in together.layers.items():
        assert torch.equal(chunks.k, other_padding.layers[layer].k)
        assert len(chunks.k) == sum(math.ceil(length / 4) for length in LENGTHS)
    alone = [ChunkCollector() for _ in LENGTHS]
    for row, length in enumerate(LENGTHS):
        model.model(input_ids=ids[row : row + 1, :length], writer=alone[row])
    for layer, chunks in together.layers.items():
        for name in ("k", "v", "routing_k"):
            pieces = torch.cat([getattr(collector.layers[layer], name) for collector in alone])
            torch.testing.assert_close(getattr(chunks, name), pieces, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("memory_layers", [[2, 3], [1, 2]])
def test_chunks_alone_are_those_of_a_whole_pass(memory_layers: list[int]) -> None:
    model = tiny_model(memory_layers=memory_layers)
    ids, mask = padded()
    whole, alone = ChunkCollector(), ChunkCollector()
    model.model(input_ids=ids, attention_mask=mask, writer=whole)
    output = model.model(input_ids=ids, attention_mask=mask, writer=alone, chunks_only=True)
    assert output.last_hidden_state is None
    assert list(alone.layers) == memory_layers
    for layer, chunks in whole.layers.items():
        for name in ("k", "v", "routing_k"):
            assert torch.equal(getattr(chunks, name), getattr(alone.layers[layer], name))
    with pytest.raises(InputError, match="chunks_only"):
        model.model(input_ids=ids, chunks_only=True)


def test_pooled_keys_are_means_of_what_the_cache_holds() -> None:
    model = tiny_model()
    ids, _ = padded((6,))
    collector, cache = ChunkCollector(), MemSparseCache()
    model.model(input_ids=ids, writer=collector)
    model.model(input_ids=ids, past_key_values=cache, use_cache=True)
    for layer, chunks in collector.layers.items():
        for pooled, held in ((chunks.k, cache.layers[layer].keys), (chunks.v, cache.layers[layer].values)):
            want = torch.stack([held[0, :, :4].mean(1), held[0, :, 4:].mean(1)])
            torch.testing.assert_close(pooled, want, atol=1e-6, rtol=1e-5)


class Float32Reader:
    """Hands on what another reader reads, as float32: as a bank on disk may keep it."""

    def __init__(self, memory: InBatchMemory) -> None:
        self.memory = memory

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        kv = self.memory.read(layer_idx, routing_q, query_mask)
        return MemoryKV(
            **{name: getattr(kv, name) for name in kv.__slots__} | {"k": kv.k.float(), "v": kv.v.float()}
        )


@pytest.mark.parametrize("gate", [True, False])
def test_a_bfloat16_model_reads_float32_memory(gate: bool) -> None:
    model = tiny_model(gate=gate).bfloat16()
    memory = fill(model)
    ids, _ = question()
    logits = model(input_ids=ids, memory=memory).logits
    assert logits.dtype == torch.bfloat16
    assert torch.equal(model(input_ids=ids, memory=Float32Reader(memory)).logits, logits)


@torch.no_grad()
def test_the_gate_adds_scale_times_the_gap_in_score() -> None:
    ids, _ = question(batch=1)
    gated, plain = tiny_model(gate=True, gate_init=3.0), tiny_model()
    plain.load_state_dict(gated.state_dict(), strict=False)
    memory = fill(gated)
    for layer in gated.model.layers[2:]:
        layer.self_attn.routing_gate.fill_(0.0)
    torch.testing.assert_close(
        gated(input_ids=ids, memory=memory).logits, plain(input_ids=ids, memory=memory).logits
    )
    for layer in gated.model.layers[2:]:
        layer.self_attn.routing_gate.fill_(1e6)
    # So steep a gate leaves the best document alone.
    one = fill(plain, top_k=1)
    torch.testing.assert_close(
        gated(input_ids=ids, memory=memory).logits, plain(input_ids=ids, memory=one).logits
    )


def test_the_gate_lets_the_answer_train_the_router() -> None:
    ids, _ = question()
    for gate in (True, False):
        model = tiny_model(gate=gate)
        model(input_ids=ids, memory=fill(model), labels=ids).loss.backward()
        for layer in model.model.layers[2:]:
            trained = [
                module[0].weight.grad
                for module in (layer.self_attn.router_q_proj, layer.self_attn.router_k_proj)
            ]
            if gate:
                assert layer.self_attn.routing_gate.grad.abs() > 0
                assert all(gradient.abs().max() > 0 for gradient in trained)
            else:
                assert trained == [None, None]


def test_the_gates_gradient_is_that_of_finite_differences() -> None:
    ids, _ = question()
    model = tiny_model(gate=True, gate_init=2.0).double()
    memory = fill(model)
    gate = model.model.layers[2].self_attn.routing_gate
    weights = torch.randn(2, 6, 61, dtype=torch.float64)
    (model(input_ids=ids, memory=memory).logits * weights).sum().backward()
    sums = []
    with torch.no_grad():
        for step in (0.01, -0.02):
            gate += step
            sums.append(float((model(input_ids=ids, memory=memory).logits * weights).sum()))
    assert abs(float(gate.grad)) > 0.01
    assert float(gate.grad) == pytest.approx((sums[0] - sums[1]) / 0.02, rel=1e-3)


@pytest.mark.parametrize("variant", ["published", "gate", "joint"])
def test_gradient_checkpointing_gives_equal_gradients(variant: str) -> None:
    ids, mask = question(left_padding=2)
    gradients = []
    for checkpointed in (False, True):
        model = tiny_model(**VARIANTS[variant]).train()
        if checkpointed:
            # transformers renamed it; the old name warns.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            assert all(layer.gradient_checkpointing for layer in model.model.layers)
        output = model(input_ids=ids, attention_mask=mask, memory=fill(model), labels=ids)
        scores = sum(kv.all_scores.sum() for kv in output.routing.values())
        (output.loss + scores).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("router_k_proj" in name or "k_proj" in name for name in gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft asks the old name
def test_lora_wraps_the_model_and_trains_a_step() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny_model(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    ids, _ = question()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    losses = []
    for _ in range(2):
        loss = model(input_ids=ids, memory=fill(model.get_base_model()), labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert all("lora" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
