"""The packed layout of a training row: head, documents, question, tail and response in one sequence.

A row is taken apart into its documents, one per row, and its context; both then take the ordinary path
(`InBatchMemory`), and the states are put back where their tokens stood. Roles: above 0 a document's number,
0 a token that routes, below 0 one that does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from memsparse.errors import InputError
from memsparse.model.memory import InBatchMemory
from memsparse.model.modeling_memsparse import BCE_BIAS_INIT, MemSparseForCausalLM
from memsparse.ops.losses import auxiliary_loss, shifted_cross_entropy
from memsparse.ops.pooling import document_of_chunk
from memsparse.ops.positions import chunk_positions


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedOutput:
    """What a packed forward gives. B rows, L tokens a row, N most documents of a row."""

    logits: Tensor
    """(B, L, vocab); padding holds zeros' logits."""
    hidden_states: tuple[Tensor, ...]
    """The input of every layer and the output of the final norm, each (B, L, hidden)."""
    scores: dict[int, Tensor]
    """Per memory layer (B, N) float32, ascending document number; -inf where a row has fewer documents."""
    selected: dict[int, Tensor]
    """Per memory layer (B, k) selected documents, best first: rank within the row from 0, -1 for none."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Tokens gathered from packed rows and padded on the right."""

    row: Tensor
    column: Tensor
    mask: Tensor

    @classmethod
    def of(cls, where: list[tuple[int, Tensor]], device: torch.device) -> "_Rows":
        width = max((len(columns) for _, columns in where), default=0)
        row = torch.zeros(len(where), width, dtype=torch.long, device=device)
        column, mask = torch.zeros_like(row), torch.zeros_like(row, dtype=torch.bool)
        for i, (source, columns) in enumerate(where):
            row[i], column[i, : len(columns)], mask[i, : len(columns)] = source, columns, True
        return cls(row, column, mask)

    def take(self, values_BL: Tensor) -> Tensor:
        return values_BL[self.row, self.column]

    def put(self, into_BL: Tensor, values: Tensor) -> Tensor:
        return into_BL.index_put((self.row[self.mask], self.column[self.mask]), values[self.mask])


def forward_packed(
    model: MemSparseForCausalLM,
    input_ids: Tensor,
    attention_mask: Tensor,
    roles: Tensor,
    position_ids: Tensor | None = None,
) -> PackedOutput:
    """Run rows in the packed layout.

    Args:
        input_ids, attention_mask, roles: (B, L).
        position_ids: (B, L), used when the model's `rewrite_position` is set; else 0..L-1.

    Raises: InputError if a document's tokens are not contiguous.
    """
    config, device = model.config, input_ids.device
    length = input_ids.shape[1]
    if position_ids is None or not config.rewrite_position:
        position_ids = torch.arange(length, device=device).expand_as(input_ids)
    documents, owners = _documents(attention_mask, roles)
    contexts = _Rows.of(
        [(b, ((attention_mask[b] == 1) & (roles[b] <= 0)).nonzero()[:, 0]) for b in range(len(roles))], device
    )
    chunk_lengths = documents.mask.sum(1)
    chunk_document = document_of_chunk(chunk_lengths, config.chunk_size)
    first_token = chunk_positions(chunk_lengths, config.chunk_size)
    memory = InBatchMemory(
        chunk_document,
        len(owners),
        rule=config.routing_rule(),
        top_k=config.top_k_documents,
        allowed=owners == torch.arange(len(roles), device=device)[:, None],
        chunk_index=documents.column[chunk_document, first_token],
        token_index=contexts.column,
    )
    encoded = model.model(
        input_ids=documents.take(input_ids),
        attention_mask=documents.mask,
        position_ids=documents.take(position_ids),
        writer=memory,
        output_hidden_states=True,
    )
    answered = model.model(
        input_ids=contexts.take(input_ids),
        attention_mask=contexts.mask,
        position_ids=contexts.take(position_ids),
        memory=memory,
        query_mask=contexts.mask & (contexts.take(roles) == 0),
        output_hidden_states=True,
    )
    blank = encoded.last_hidden_state.new_zeros(*input_ids.shape, config.hidden_size)
    hidden_states = tuple(
        contexts.put(documents.put(blank, of_documents), of_contexts)
        for of_documents, of_contexts in zip(encoded.hidden_states, answered.hidden_states, strict=True)
    )
    first = torch.searchsorted(owners, torch.arange(len(roles), device=device))
    scores, selected = {}, {}
    for layer, kv in answered.routing.items():
        scores[layer] = _per_row(kv.all_scores, owners, first)
        selected[layer] = torch.where(kv.documents >= 0, kv.documents - first[:, None], -1)
    return PackedOutput(
        logits=model.lm_head(hidden_states[-1]), hidden_states=hidden_states, scores=scores, selected=selected
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedLosses:
    """The losses of a packed batch and their weighted sum (parity README section 5)."""

    total: Tensor
    lm: Tensor
    aux: Tensor
    answer: Tensor
    reconstruction: Tensor


def packed_losses(
    model: MemSparseForCausalLM,
    output: PackedOutput,
    *,
    labels: Tensor | None,
    relevant: Tensor | None,
    answer_labels: Tensor | None = None,
    reconstruction_labels: Tensor | None = None,
    method: str | None = None,
    focal_exponent: float | None = 2.0,
) -> PackedLosses:
    """Combine the cross entropies of a packed batch with its routers' auxiliary loss.

    Args:
        labels, answer_labels, reconstruction_labels: (B, L) targets, -100 ignored; None: that loss is 0.
        relevant: (B, N) bool, which of a row's documents answer its question; None: no auxiliary loss.
        method: auxiliary loss; None: the model's own.
        focal_exponent: see `auxiliary_loss`.
    """
    config = model.config
    zero = output.logits.new_zeros(())
    lm, answer, reconstruction = (
        zero if targets is None else shifted_cross_entropy(output.logits, targets)
        for targets in (labels, answer_labels, reconstruction_labels)
    )
    supervised = [output.scores[layer] for layer in config.supervised_layers]
    aux = zero
    if supervised and relevant is not None:
        aux = auxiliary_loss(
            method or config.aux_loss_method,
            torch.cat(supervised),
            relevant.repeat(len(supervised), 1),
            temperature=getattr(model, "temperature", config.aux_temperature),
            bias=getattr(model, "b", zero + BCE_BIAS_INIT),
            focal_exponent=focal_exponent,
        )
    total = (
        config.lm_loss_weight * lm
        + config.aux_loss_weight * aux
        + config.answer_loss_weight * answer
        + config.reconstruction_loss_weight * reconstruction
    )
    return PackedLosses(total=total, lm=lm, aux=aux, answer=answer, reconstruction=reconstruction)


def _documents(attention_mask: Tensor, roles: Tensor) -> tuple[_Rows, Tensor]:
    """The documents of all rows, one per row, and (N,) the packed row each came from."""
    where = []
    for b in range(len(roles)):
        real = attention_mask[b] == 1
        for number in roles[b][real & (roles[b] > 0)].unique().tolist():
            columns = (real & (roles[b] == number)).nonzero()[:, 0]
            span = slice(int(columns[0]), int(columns[-1]) + 1)
            if bool((roles[b, span][real[span]] != number).any()):
                raise InputError(f"document {number} of row {b} is not contiguous; keep its tokens together")
            where.append((b, columns))
    owners = torch.tensor([row for row, _ in where], dtype=torch.long, device=roles.device)
    return _Rows.of(where, roles.device), owners


def _per_row(scores_BN: Tensor, owners: Tensor, first: Tensor) -> Tensor:
    """Move each row's own documents to the front: (B, most documents of a row)."""
    counts = torch.bincount(owners, minlength=len(first))
    rank = torch.arange(int(counts.max()) if len(owners) else 0, device=owners.device)
    columns = (first[:, None] + rank).clamp_max(max(len(owners) - 1, 0))
    return scores_BN.gather(1, columns).masked_fill(rank >= counts[:, None], float("-inf"))
