"""The packed forward against a slow twin: a row is one sequence, a token a loop over what it sees."""

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.model.packing import forward_packed, packed_losses
from memsparse.ops import reference
from tests.model.builders import tiny_model

HEAD = 3


@dataclass(frozen=True)
class Packed:
    """Rows in the packed layout."""

    input_ids: Tensor
    attention_mask: Tensor
    roles: Tensor
    position_ids: Tensor


def draw_rows(rng: Random, *, offset: int, rows: int = 3) -> Packed:
    """Rows of 0 to 5 documents, numbered with gaps, padded on both sides; some without a question."""
    drawn = []
    for _ in range(rows):
        row = [(-2, place) for place in range(HEAD)]
        for number in sorted(rng.sample(range(1, 12), rng.randint(0, 5))):
            row += [(number, place) for place in range(rng.randint(1, 11))]
        question = 0 if rng.random() < 0.2 else rng.randint(1, 5)
        after = [0] * question + [-2, -1, -1, -1]
        drawn.append(row + [(role, offset + place) for place, role in enumerate(after)])
    width = max(map(len, drawn)) + 2
    shape = (rows, width)
    ids = torch.randint(3, 61, shape)
    mask, roles, positions = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for index, row in enumerate(drawn):
        start = rng.randint(0, width - len(row))
        for place, (role, position) in enumerate(row, start=start):
            mask[index, place], roles[index, place], positions[index, place] = 1, role, position
    return Packed(ids, mask, roles, positions)


# --- the slow twin ----------------------------------------------------------------------------------------


@dataclass
class DenseRow:
    """What a row gives: logits of its real tokens, and per memory layer scores and selected documents."""

    logits: Tensor
    scores: dict[int, Tensor]
    selected: dict[int, list[int]]


def normed(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * states * (states.square().mean(-1, keepdim=True) + eps).rsqrt()


def rotated(states: Tensor, positions: Tensor, theta: float) -> Tensor:
    half = states.shape[-1] // 2
    angles = positions[:, None] / theta ** (torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = states[..., :half], states[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def windows(roles: list[int], size: int) -> list[tuple[int, list[int]]]:
    """Document number and tokens of every chunk."""
    cut = []
    for number in sorted({role for role in roles if role > 0}):
        tokens = [i for i, role in enumerate(roles) if role == number]
        cut += [(number, tokens[start : start + size]) for start in range(0, len(tokens), size)]
    return cut


def route(
    model: MemSparseForCausalLM, q_THD: Tensor, k_TGD: Tensor, roles: list[int]
) -> tuple[Tensor, list[int]]:
    """Scores of a row's documents in ascending order, and the numbers selected, best first."""
    config = model.config
    numbers = sorted({role for role in roles if role > 0})
    chunks = windows(roles, config.chunk_size)
    asking = [i for i, role in enumerate(roles) if role == 0]
    if not numbers:
        return q_THD.new_zeros(0), []
    decoupled_cosine = config.routing_score == "cosine" and config.decouple_router
    scores = reference.score_documents(
        q_THD[None, asking],
        torch.stack([k_TGD[tokens].mean(0) for _, tokens in chunks]),
        torch.tensor([numbers.index(number) for number, _ in chunks]),
        torch.ones(1, len(asking), dtype=torch.bool),
        len(numbers),
        score=config.routing_score,
        scale=1.0 if decoupled_cosine else config.head_dim**-0.5,
        head_reduce=config.head_reduce,
        query_reduce=config.query_reduce,
        chunk_reduce=config.chunk_reduce,
    )
    _, best = reference.top_documents(scores.tolist(), config.top_k_documents)
    return scores[0], [numbers[i] for i in best[0] if i >= 0]


def visible(t: int, roles: list[int], chunks: list[tuple[int, list[int]]]) -> tuple[list[int], list[int]]:
    """What a token attends to: tokens of the row, and chunks by their place in `chunks`."""
    if roles[t] > 0:
        return [s for s in range(t + 1) if roles[s] == roles[t]], []
    return [s for s in range(t + 1) if roles[s] <= 0], [c for c, (_, own) in enumerate(chunks) if own[0] < t]


def dense_row(model: MemSparseForCausalLM, ids: Tensor, roles: list[int], positions: Tensor) -> DenseRow:
    """One row without its padding, straight from the description of the layout."""
    config, core = model.config, model.model
    eps, theta = config.rms_norm_eps, config.rope_parameters["rope_theta"]
    repeats = config.num_attention_heads // config.num_key_value_heads
    heads = (-1, config.head_dim)
    hidden = core.embed_tokens.weight[ids]
    result = DenseRow(hidden, {}, {})
    for index, layer in enumerate(core.layers):
        attention = layer.self_attn
        inputs = normed(hidden, layer.input_layernorm.weight, eps)
        q = normed((inputs @ attention.q_proj.weight.T).unflatten(1, heads), attention.q_norm.weight, eps)
        k = normed((inputs @ attention.k_proj.weight.T).unflatten(1, heads), attention.k_norm.weight, eps)
        q, k = rotated(q, positions, theta), rotated(k, positions, theta)
        v = (inputs @ attention.v_proj.weight.T).unflatten(1, heads)
        chunks: list[tuple[int, list[int]]] = []
        if index in config.memory_layers:
            routing_q, routing_k = q, k
            if config.decouple_router:
                routing_q = (inputs @ attention.router_q_proj[0].weight.T).unflatten(1, heads)
                routing_k = (inputs @ attention.router_k_proj[0].weight.T).unflatten(1, heads)
            scores, chosen = route(model, routing_q, routing_k, roles)
            result.scores[index], result.selected[index] = scores, chosen
            chunks = [chunk for chunk in windows(roles, config.chunk_size) if chunk[0] in chosen]
        attended = []
        for t in range(len(ids)):
            local, seen = visible(t, roles, chunks)
            keys = torch.stack([k[s] for s in local] + [k[chunks[c][1]].mean(0) for c in seen])
            values = torch.stack([v[s] for s in local] + [v[chunks[c][1]].mean(0) for c in seen])
            keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
            weights = (torch.einsum("hd,shd->hs", q[t], keys) * config.head_dim**-0.5).softmax(1)
            attended.append(torch.einsum("hs,shd->hd", weights, values).flatten())
        hidden = hidden + torch.stack(attended) @ attention.o_proj.weight.T
        inputs = normed(hidden, layer.post_attention_layernorm.weight, eps)
        gate, up = inputs @ layer.mlp.gate_proj.weight.T, inputs @ layer.mlp.up_proj.weight.T
        hidden = hidden + (gate * gate.sigmoid() * up) @ layer.mlp.down_proj.weight.T
    result.logits = normed(hidden, core.norm.weight, eps) @ model.lm_head.weight.T
    return result


# --- settings ---------------------------------------------------------------------------------------------


def draw_settings(rng: Random) -> dict[str, Any]:
    method = rng.choice(["INFONCE", "INFONCE_DECOUPLE", "INFONCE_FOCAL", "INFONCE_DECOUPLE_FOCAL", "BCE"])
    return {
        "num_hidden_layers": 3,
        "memory_layers": rng.choice([[0, 1, 2], [2], [0, 2], [1]]),
        "num_key_value_heads": rng.choice([1, 2, 4]),
        "tie_word_embeddings": rng.random() < 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": rng.choice([100.0, 10_000.0])},
        "chunk_size": rng.choice([1, 2, 4, 16]),
        "top_k_documents": rng.choice([1, 2, 4, 9]),
        "decouple_router": rng.random() < 0.5,
        "head_reduce": rng.choice(["mean", "max"]),
        "query_reduce": rng.choice(["max", "mean", "last"]),
        "chunk_reduce": rng.choice(["max", "mean"]),
        "rewrite_position": rng.random() < 0.7,
        "aux_loss_method": method,
        "routing_score": "dot" if method == "BCE" else "cosine",
        "aux_temperature": 0.3,
        "aux_loss_weight": 0.5,
    }


def dense_rows(model: MemSparseForCausalLM, packed: Packed) -> list[DenseRow]:
    rows = []
    for b, mask in enumerate(packed.attention_mask == 1):
        positions = packed.position_ids[b] if model.config.rewrite_position else torch.arange(len(mask))
        rows.append(
            dense_row(model, packed.input_ids[b, mask], packed.roles[b, mask].tolist(), positions[mask])
        )
    return rows


def dense_loss(
    model: MemSparseForCausalLM, rows: list[DenseRow], labels: Tensor, relevant: Tensor, real: Tensor
) -> Tensor:
    config = model.config
    logits = torch.zeros(*labels.shape, config.vocab_size)
    logits[real] = torch.cat([row.logits for row in rows])
    width = relevant.shape[1]
    scores = [
        torch.nn.functional.pad(row.scores[layer], (0, width - len(row.scores[layer])), value=-torch.inf)
        for layer in config.supervised_layers
        for row in rows
    ]
    auxiliary = reference.auxiliary_loss(
        config.aux_loss_method,
        torch.stack(scores) if scores else torch.zeros(0, width),
        relevant.repeat(len(config.supervised_layers), 1),
        temperature=config.aux_temperature,
        bias=getattr(model, "b", None),
    )
    return reference.shifted_cross_entropy(logits, labels) + config.aux_loss_weight * auxiliary


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_values_and_gradients_are_those_of_the_slow_twin(seed: int, attention: str) -> None:
    rng = Random(seed)
    model = tiny_model(**draw_settings(rng), attn_implementation=attention)
    packed = draw_rows(rng, offset=model.config.position_offset)
    real = packed.attention_mask == 1
    output = forward_packed(model, packed.input_ids, packed.attention_mask, packed.roles, packed.position_ids)
    rows = dense_rows(model, packed)
    torch.testing.assert_close(
        output.logits[real], torch.cat([row.logits for row in rows]), atol=1e-4, rtol=1e-4
    )
    assert sorted(output.scores) == model.config.memory_layers
    for layer, scores in output.scores.items():
        for b, row in enumerate(rows):
            count = len(row.scores[layer])
            torch.testing.assert_close(scores[b, :count], row.scores[layer], atol=1e-5, rtol=1e-4)
            assert (scores[b, count:] == -torch.inf).all()
            numbers = packed.roles[b][real[b] & (packed.roles[b] > 0)].unique().tolist()
            chosen = [numbers[i] for i in output.selected[layer][b].tolist() if i >= 0]
            assert chosen == row.selected[layer]

    labels = packed.input_ids.masked_fill(packed.roles != -1, -100)
    width = next(iter(output.scores.values())).shape[1]
    relevant = torch.tensor([[rng.random() < 0.4 for _ in range(width)] for _ in rows]).view(len(rows), width)
    packed_losses(model, output, labels=labels, relevant=relevant).total.backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    dense_loss(model, rows, labels, relevant, real).backward()
    for name, parameter in model.named_parameters():
        want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        mine = got[name] if got[name] is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(mine, want, atol=1e-4 * max(1.0, float(want.abs().max())), rtol=1e-3)
