"""The packed layout says the same as the same documents in a shared memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from memsparse.errors import InputError
from memsparse.model.cache import MemSparseCache
from memsparse.model.memory import InBatchMemory
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.model.packing import PackedOutput, forward_packed, packed_losses
from memsparse.ops.losses import auxiliary_loss, shifted_cross_entropy
from memsparse.ops.pooling import document_of_chunk
from memsparse.ops.positions import context_positions
from tests.model.builders import tiny_model

HEAD, QUESTION, TAIL = [5, 6, 7], [11, 12, 13, 14], [8, 9]
ROWS = [[[21, 22, 23, 24, 25, 26], [31], [41, 42, 43, 44]], [[51, 52, 53, 54, 55]], []]
"""The documents of three rows; the last row has none."""


def pack(rows: list[list[list[int]]], *, offset: int = 5, left: int = 2) -> dict[str, Tensor]:
    """Rows in the packed layout; the first is padded on the left, the others to its length on the right."""
    packed = []
    for index, documents in enumerate(rows):
        tokens = [(t, -2, p) for p, t in enumerate(HEAD)]
        for number, document in enumerate(documents, start=1):
            tokens += [(t, number, p) for p, t in enumerate(document)]
        after = [(t, 0) for t in QUESTION] + [(t, -1) for t in TAIL]
        tokens += [(t, role, offset + p) for p, (t, role) in enumerate(after)]
        packed.append([None] * (left if index == 0 else 0) + tokens)
    width = max(map(len, packed), default=0)
    fields: dict[str, list[list[int]]] = {
        "input_ids": [],
        "roles": [],
        "position_ids": [],
        "attention_mask": [],
    }
    for row in packed:
        full = row + [None] * (width - len(row))
        for place, name in enumerate(("input_ids", "roles", "position_ids")):
            fields[name].append([0 if token is None else token[place] for token in full])
        fields["attention_mask"].append([int(token is not None) for token in full])
    return {
        name: torch.tensor(values, dtype=torch.long).view(len(rows), width) for name, values in fields.items()
    }


def forward(model: MemSparseForCausalLM, rows: list[list[list[int]]], **changes: Any) -> PackedOutput:
    return forward_packed(model, **pack(rows, offset=model.config.position_offset) | changes)


@pytest.fixture(
    params=[{}, {"gate": True}, {"decouple_router": False}, {"memory_layers": [0, 1, 2, 3]}], ids=str
)
def model(request: pytest.FixtureRequest) -> MemSparseForCausalLM:
    return tiny_model(**request.param)


def shared_memory(model: MemSparseForCausalLM, **options: Any) -> InBatchMemory:
    """All documents of `ROWS`, encoded in one batch."""
    documents = [torch.tensor(document) for row in ROWS for document in row]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(d) for d in documents], batch_first=True)
    memory = InBatchMemory(
        document_of_chunk(mask.sum(1), model.config.chunk_size),
        len(documents),
        rule=model.config.routing_rule(),
        top_k=model.config.top_k_documents,
        **options,
    )
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    model.model(input_ids=ids, attention_mask=mask, writer=memory)
    return memory


def test_it_equals_a_memory_shared_by_the_batch(model: MemSparseForCausalLM) -> None:
    packed = forward(model, ROWS)
    owner = torch.tensor([row for row, documents in enumerate(ROWS) for _ in documents])
    memory = shared_memory(model, allowed=owner == torch.arange(3)[:, None])
    cache = MemSparseCache()
    head, ids = torch.tensor([HEAD] * 3), torch.tensor([QUESTION + TAIL] * 3)
    model(input_ids=head, past_key_values=cache, use_cache=True)
    routes = torch.tensor([[True] * len(QUESTION) + [False] * len(TAIL)] * 3)
    shared = model(
        input_ids=ids,
        position_ids=context_positions(torch.ones_like(ids), model.config.position_offset),
        past_key_values=cache,
        memory=memory,
        query_mask=routes,
    )
    after = pack(ROWS)["roles"]
    after = (after <= 0) & (after > -2) & (pack(ROWS)["attention_mask"] == 1)
    torch.testing.assert_close(packed.logits[after], shared.logits.flatten(0, 1), atol=2e-5, rtol=1e-4)
    for layer, kv in shared.routing.items():
        for row, documents in enumerate(ROWS):
            mine = owner == row
            torch.testing.assert_close(packed.scores[layer][row, : len(documents)], kv.all_scores[row, mine])
            assert (packed.scores[layer][row, len(documents) :] == -torch.inf).all()
            first = int((owner < row).sum())
            ranks = torch.where(kv.documents[row] >= 0, kv.documents[row] - first, -1)
            assert torch.equal(packed.selected[layer][row], ranks)


def test_documents_and_head_are_plain_causal_rows(model: MemSparseForCausalLM) -> None:
    packed = forward(model, ROWS)
    for tokens, place in ((HEAD, slice(2, 5)), (ROWS[0][0], slice(5, 11)), (ROWS[0][2], slice(12, 16))):
        alone = model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
        torch.testing.assert_close(packed.logits[0, place], alone.logits[0], atol=2e-5, rtol=1e-4)
        for layer, states in enumerate(alone.hidden_states):
            torch.testing.assert_close(packed.hidden_states[layer][0, place], states[0], atol=2e-5, rtol=1e-4)


def test_rows_do_not_touch_each_other_and_padding_does_not_matter(model: MemSparseForCausalLM) -> None:
    together = forward(model, ROWS)
    real = pack(ROWS)["attention_mask"] == 1
    for row in range(3):
        alone = forward(model, ROWS[row : row + 1])
        mask = pack(ROWS[row : row + 1])["attention_mask"][0] == 1
        torch.testing.assert_close(
            together.logits[row][real[row]], alone.logits[0][mask], atol=2e-5, rtol=1e-4
        )
    dirty = forward(model, ROWS, input_ids=pack(ROWS)["input_ids"].masked_fill(~real, 60))
    torch.testing.assert_close(dirty.logits[real], together.logits[real])


def test_without_any_document_it_is_the_plain_model(model: MemSparseForCausalLM) -> None:
    fields = pack([[], []], offset=3, left=0)
    packed = forward_packed(model, **fields)
    plain = model(input_ids=fields["input_ids"])
    torch.testing.assert_close(packed.logits, plain.logits, atol=1e-5, rtol=1e-4)
    assert {scores.shape for scores in packed.scores.values()} == {(2, 0)}
    losses = packed_losses(
        model, packed, labels=fields["input_ids"], relevant=torch.zeros(2, 0, dtype=torch.bool)
    )
    assert losses.aux == 0
    losses.total.backward()


def test_own_positions_may_be_switched_off() -> None:
    model = tiny_model(rewrite_position=False)
    fields = pack(ROWS)
    straight = torch.arange(fields["input_ids"].shape[1]).expand_as(fields["input_ids"])
    own, given = forward_packed(model, **fields), forward_packed(model, **fields | {"position_ids": straight})
    assert torch.equal(own.logits, given.logits)
    model.config.rewrite_position = True
    assert (forward_packed(model, **fields).logits - own.logits).abs().max() > 0.01


def test_a_torn_document_is_refused() -> None:
    fields = pack(ROWS)
    fields["roles"][0, 15] = 1  # a later token of the third document claims the first
    with pytest.raises(InputError, match="document 1 of row 0 is not contiguous"):
        forward_packed(tiny_model(), **fields)


# --- losses -----------------------------------------------------------------------------------------------


def loss_inputs() -> dict[str, Tensor]:
    fields = pack(ROWS)
    labels = fields["input_ids"].masked_fill(fields["roles"] != -1, -100)
    answers = labels.clone()
    answers[1:] = -100
    relevant = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 0]]).bool()
    return {"labels": labels, "answer_labels": answers, "relevant": relevant}


def test_losses_are_weighted_and_summed() -> None:
    model = tiny_model(
        lm_loss_weight=2.0, aux_loss_weight=3.0, answer_loss_weight=5.0, reconstruction_loss_weight=7.0
    )
    output, given = forward(model, ROWS), loss_inputs()
    losses = packed_losses(model, output, **given, reconstruction_labels=pack(ROWS)["input_ids"])
    assert torch.equal(losses.lm, shifted_cross_entropy(output.logits, given["labels"]))
    assert torch.equal(losses.answer, shifted_cross_entropy(output.logits, given["answer_labels"]))
    assert losses.reconstruction > 0
    torch.testing.assert_close(
        losses.total, 2 * losses.lm + 3 * losses.aux + 5 * losses.answer + 7 * losses.reconstruction
    )


def test_labels_that_are_not_given_cost_nothing() -> None:
    model = tiny_model()
    losses = packed_losses(model, forward(model, ROWS), **loss_inputs() | {"answer_labels": None})
    assert losses.answer == 0
    assert losses.reconstruction == 0


@pytest.mark.parametrize("all_layers", [True, False])
def test_the_routers_of_supervised_layers_are_trained(all_layers: bool) -> None:
    model = tiny_model(memory_layers=[0, 2, 3], aux_all_layers=all_layers)
    output, given = forward(model, ROWS), loss_inputs()
    losses = packed_losses(model, output, **given)
    layers = [0, 2, 3] if all_layers else [2, 3]
    per_layer = [
        auxiliary_loss("INFONCE_DECOUPLE", output.scores[i], given["relevant"], temperature=model.temperature)
        for i in layers
    ]
    torch.testing.assert_close(losses.aux, torch.stack(per_layer).mean())
    losses.total.backward()
    trained = [
        i for i in (0, 2, 3) if model.model.layers[i].self_attn.router_q_proj[0].weight.grad is not None
    ]
    assert trained == layers
    assert model.model.layers[1].self_attn.k_proj.weight.grad.abs().sum() > 0


def test_bce_trains_its_bias() -> None:
    model = tiny_model(aux_loss_method="BCE", routing_score="dot")
    packed_losses(model, forward(model, ROWS), **loss_inputs()).total.backward()
    assert model.b.grad.abs() > 0
