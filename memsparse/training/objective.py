"""What a training step minimises: next tokens of calls, routing, language modelling, digits of numbers."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from memsparse.engine.encoder import WIDTH_MULTIPLE
from memsparse.errors import ConfigError
from memsparse.model.memory import ChunkCollector, InBatchMemory, LayerChunks
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.losses import auxiliary_loss
from memsparse.ops.pooling import document_of_chunk
from memsparse.ops.routing import document_scores, top_documents
from memsparse.training.data import IGNORED, CallBatch, Step
from memsparse.types import MemoryKV

RECALLS = (1, 5, 16)
"""Documents among which the one asked for counts as found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the summed losses."""

    lm: float = 1.0
    """Next tokens of the calls: answers, decisions, document numbers."""
    numbers: float = 0.3
    """Weight of a document number's tokens within `lm`."""
    decisions: float = 1.0
    """Weight of a call's first token within `lm`: ask for a document, or end retrieval."""
    aux: float = 1.0
    """Contrastive routing loss, mean over memory layers."""
    documents: float = 0.2
    """Language modelling on some documents."""
    spans: float = 0.5
    """Next tokens of repeated text."""
    digits: float = 0.3
    """Reading a document's number from the pooled V of its last chunk."""

    def __post_init__(self) -> None:
        for name in ("lm", "numbers", "decisions", "aux", "documents", "spans", "digits"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}; a weight must be 0 or more")


HeldKeys = Mapping[int, tuple[Tensor, Tensor, int]]
"""By layer: (C, W) keys, (C,) document indices, and the number of documents."""


class KeyQueue:
    """Routing keys of the documents of recent steps: negatives for the routers that cost no encoding."""

    def __init__(self, documents: int) -> None:
        self.limit = documents
        self._steps: deque[tuple[dict[int, Tensor], Tensor, Tensor]] = deque()
        self._held = 0

    def push(self, keys: dict[int, Tensor], document_of_chunk: Tensor, hashes_N: Tensor) -> None:
        """Keep one step's keys and drop the oldest beyond the limit; a step larger than that is not kept.

        Args:
            hashes_N: (N,) what tells the step's documents from others, as `Step.hashes`.
        """
        if len(hashes_N) > self.limit:
            return
        kept = {layer: key.detach() for layer, key in keys.items()}
        self._steps.append((kept, document_of_chunk, hashes_N))
        self._held += len(hashes_N)
        while self._held > self.limit:
            self._held -= len(self._steps.popleft()[2])

    def holding(self, hashes_N: Tensor) -> Tensor:
        """(N, Q) bool: which of the Q documents held are the N that are named."""
        held = torch.cat([hashes_N[:0], *(hashes for _, _, hashes in self._steps)])
        return hashes_N[:, None] == held

    def layer(self, layer_idx: int) -> tuple[Tensor, Tensor, int] | None:
        """(C, W) keys, (C,) document indices and the number of documents; None while empty."""
        if not self._steps:
            return None
        shifts = [0]
        for _, _, hashes in self._steps:
            shifts.append(shifts[-1] + len(hashes))
        keys = torch.cat([held[layer_idx] for held, _, _ in self._steps])
        shifted = [index + shift for (_, index, _), shift in zip(self._steps, shifts, strict=False)]
        return keys, torch.cat(shifted), shifts[-1]

    def layers(self) -> dict[int, tuple[Tensor, Tensor, int]]:
        """What `layer` gives for every layer, as it is now; later steps change nothing of it."""
        known = self._steps[-1][0] if self._steps else ()
        return {layer_idx: held for layer_idx in known if (held := self.layer(layer_idx)) is not None}

    def state_dict(self) -> dict[str, Any]:
        """Everything held, oldest step first."""
        return {"limit": self.limit, "steps": [list(step) for step in self._steps]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what a `state_dict` says, and nothing else.

        Steps that older states tell without hashes are left out: whose keys they hold is not known.
        """
        self.limit = int(state["limit"])
        self._steps = deque(tuple(step) for step in state["steps"] if isinstance(step[2], Tensor))
        self._held = sum(len(hashes) for _, _, hashes in self._steps)


class TrainingMemory(InBatchMemory):
    """The step's memory; calls that ask for a document are also scored against what a queue held before."""

    def __init__(self, *args: Any, asking: Tensor, held: HeldKeys, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asking = asking
        self.held = held
        self.queue_scores: dict[int, Tensor] = {}

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Read as in-batch memory does; remember the scores of the queue's documents."""
        if layer_idx in self.held:
            keys, of_chunk, count = self.held[layer_idx]
            self.queue_scores[layer_idx] = routing_q.new_zeros(0, count)
            if bool(self.asking.any()):
                q, mask = compact(routing_q[self.asking], query_mask[self.asking])
                self.queue_scores[layer_idx] = document_scores(
                    q, keys, of_chunk, mask, rule=self.rule, num_documents=count
                )
        return super().read(layer_idx, routing_q, query_mask)


def compact(values_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens that count to the front and cut the rest: (B, most, ...) and their mask."""
    most = int(mask_BT.sum(1).max()) if len(mask_BT) else 0
    order = mask_BT.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    index = order.view(*order.shape, *[1] * (values_BT.ndim - 2)).expand(-1, -1, *values_BT.shape[2:])
    return values_BT.gather(1, index), mask_BT.gather(1, order)


class DigitReader(nn.Module):
    """Linear readout of a document's number from the pooled V of its last chunk, at all memory layers."""

    def __init__(self, width: int, digits: int) -> None:
        super().__init__()
        self.digits = digits
        self.linear = nn.Linear(width, digits * 10)

    def loss(self, memory: InBatchMemory, digits_N: Tensor) -> Tensor:
        """Cross entropy over the digits that exist."""
        last = memory.first_chunk + memory.chunks_per_document - 1
        states = torch.cat([chunks.v[last].flatten(1) for _, chunks in sorted(memory.layers.items())], dim=1)
        logits = self.linear(states).float().view(-1, 10)
        return cross_entropy(logits, digits_N.flatten(), ignore_index=IGNORED)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """The loss to minimise and what is worth logging."""

    loss: Tensor
    metrics: dict[str, float]
    """Losses, and routing recall of the mean over memory layers."""
    kinds: tuple[str, ...]
    """Of every call."""
    right: Tensor
    """(calls,) bool: every target of the call is the likeliest token."""
    begins: Tensor
    """(calls,) bool: the first target alone is the likeliest token."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """What a batch of calls gave."""

    losses: Tensor
    """(targets,)"""
    ends: Tensor
    """(targets,) bool: the target belongs to a call that ends retrieval."""
    decides: Tensor
    """(targets,) bool: the target is a call's first, which asks for documents or ends retrieval."""
    scores: Tensor
    """(layers, asking calls, N + queue) with read documents at -inf."""
    positives: Tensor
    """(asking calls, N + queue)"""
    right: Tensor
    begins: Tensor


def run_step(
    model: MemSparseForCausalLM,
    step: Step,
    weights: LossWeights,
    *,
    reader: DigitReader | None = None,
    queue: KeyQueue | None = None,
    gold_only: float = 0.0,
    generator: torch.Generator | None = None,
    lm_documents: int = 0,
) -> StepResult:
    """Encode the documents, run the calls over them, and sum the losses.

    Args:
        gold_only: chance that a call may select only the documents it asks for.
        lm_documents: how many documents, the first ones, take part in language modelling.

    Raises: InputError if routing scores are NaN.
    """
    of_chunk = document_of_chunk(step.document_lengths, model.config.chunk_size)
    documents = len(step.document_lengths)
    written = InBatchMemory(of_chunk, documents, rule=model.config.routing_rule(), top_k=1)
    told = lm_documents if weights.documents else 0
    document_loss = _encode(model, step, written, told)
    held = {} if queue is None else queue.layers()
    same = step.hashes.new_zeros(documents, 0, dtype=torch.bool)
    if queue is not None:
        same = queue.holding(step.hashes)
    results = []
    for batch in step.batches:
        alone = (torch.rand(len(batch.ids), generator=generator) < gold_only).to(batch.ids.device)
        results.append(_run_calls(model, step.head, batch, written, alone, held, same))
    scores = torch.cat([result.scores for result in results], dim=1)
    positives = torch.cat([result.positives for result in results])
    parts = {
        "lm": (weights.lm, _call_loss(results, weights)),
        "aux": (weights.aux, _routing_loss(model, scores, positives)),
    }
    if told:
        parts["documents"] = (weights.documents, document_loss)
    if len(step.spans[0]) and weights.spans:
        parts["spans"] = (weights.spans, span_loss(model, *step.spans))
    if reader is not None and weights.digits:
        parts["digits"] = (weights.digits, reader.loss(written, step.digits))
    if queue is not None:
        keys = {layer: chunks.routing_k for layer, chunks in written.layers.items()}
        queue.push(keys, of_chunk, step.hashes)
    metrics = {name: float(part.detach()) for name, (_, part) in parts.items()}
    return StepResult(
        loss=torch.stack([weight * part for weight, part in parts.values()]).sum(),
        metrics=metrics
        | recalls(model.config.supervised_layers, scores.detach()[..., :documents], positives),
        kinds=tuple(kind for batch in step.batches for kind in batch.kinds),
        right=torch.cat([result.right for result in results]),
        begins=torch.cat([result.begins for result in results]),
    )


def _call_loss(results: Sequence[_Calls], weights: LossWeights) -> Tensor:
    """Next tokens of the calls; a first token weighs `decisions`, the rest of a number `numbers`."""
    losses = torch.cat([result.losses for result in results])
    ends = torch.cat([result.ends for result in results])
    decides = torch.cat([result.decides for result in results])
    token_weights = torch.where(decides, weights.decisions, torch.where(ends, 1.0, weights.numbers))
    return (losses * token_weights).sum() / token_weights.sum().clamp_min(1)


def _routing_loss(model: MemSparseForCausalLM, scores: Tensor, positives: Tensor) -> Tensor:
    method = model.config.aux_loss_method
    return auxiliary_loss(
        method,
        scores.flatten(0, 1),
        positives.repeat(len(scores), 1),
        temperature=model.config.aux_temperature if method == "BCE" else model.temperature,
        bias=model.b if method == "BCE" else None,
    )


def recalls(layers: Sequence[int], scores_LRN: Tensor, positives_RN: Tensor) -> dict[str, float]:
    """Share of asking calls with a document asked for among the 1, 5 and 16 best.

    `recall@k` is of the mean over layers; `recall@k/layer7` of one layer, where several are supervised.

    Args:
        scores_LRN: -inf for documents that may not be selected; rows where that is all do not count.

    Returns: nothing where no row counts.
    """
    found = _recall("", scores_LRN.mean(0), positives_RN)
    if len(layers) > 1:
        for layer, scores in zip(layers, scores_LRN, strict=True):
            found |= _recall(f"/layer{layer}", scores, positives_RN)
    return found


def _recall(suffix: str, scores_RN: Tensor, positives_RN: Tensor) -> dict[str, float]:
    routed = scores_RN.isfinite().any(1)  # not those shown their own document alone
    scores, positives = scores_RN[routed], positives_RN[routed]
    if not len(scores):
        return {}
    _, best = top_documents(scores, RECALLS[-1])
    hits = positives.gather(1, best.clamp_min(0)) & (best >= 0)
    return {f"recall@{k}{suffix}": float(hits[:, :k].any(1).float().mean()) for k in RECALLS}


def _run_calls(
    model: MemSparseForCausalLM,
    head: int,
    batch: CallBatch,
    written: InBatchMemory,
    alone: Tensor,
    held: HeldKeys,
    same_NQ: Tensor,
) -> _Calls:
    asking = batch.positives.any(1)
    memory = TrainingMemory(
        written.document_of_chunk,
        written.num_documents,
        rule=written.rule,
        top_k=model.config.top_k_documents,
        selectable=batch.positives | ~(alone & asking)[:, None],
        chunk_index=torch.full_like(written.document_of_chunk, head - 1),
        token_index=torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids),
        asking=asking,
        held=held,
    )
    memory.layers = written.layers
    output = model.model(
        input_ids=batch.ids, position_ids=batch.positions, memory=memory, query_mask=batch.routes
    )
    # What is asked for, or was read, is no negative for having been in an earlier step too.
    own = (batch.positives | batch.read)[asking]
    again = (own[:, :, None] & same_NQ).any(1)
    scores = []
    lowest = min(written.layers)
    for layer in model.config.supervised_layers:
        all_scores = output.routing[layer].all_scores[asking].masked_fill(batch.read[asking], float("-inf"))
        if layer > lowest:
            # A call shown its own document alone knows it by what it read of it below: no lesson in routing.
            all_scores = all_scores.masked_fill(alone[asking][:, None], float("-inf"))
        extra = memory.queue_scores.get(layer, all_scores[:, :0])
        scores.append(torch.cat([all_scores, extra.masked_fill(again, float("-inf"))], dim=1))
    positives = batch.positives[asking]
    targets = batch.labels[:, 1:]
    where = targets != IGNORED
    rows = where.nonzero()[:, 0]
    logits = model.lm_head(output.last_hidden_state[:, :-1][where]).float()
    hit = logits.detach().argmax(1) == targets[where]
    begins = torch.zeros_like(asking)
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    begins[rows[first]] = hit[first]
    hits = torch.zeros_like(asking, dtype=torch.long).index_add(0, rows, hit.long())
    return _Calls(
        losses=cross_entropy(logits, targets[where], reduction="none"),
        ends=(~asking)[rows],
        decides=first,
        scores=torch.stack(scores),
        positives=pad(positives, (0, scores[0].shape[1] - positives.shape[1])),
        right=hits == where.sum(1),
        begins=begins,
    )


def _encode(model: MemSparseForCausalLM, step: Step, written: InBatchMemory, told: int) -> Tensor:
    """Write the step's documents, those of similar length together, so that little is padding.

    Returns: the loss of the next tokens of the first `told` documents.
    """
    lengths = step.document_lengths
    losses = [model.lm_head.weight.new_zeros(0, dtype=torch.float32)]
    chunks: list[dict[int, LayerChunks]] = []
    rows: list[Tensor] = []
    widths = lengths.add(WIDTH_MULTIPLE - 1) // WIDTH_MULTIPLE * WIDTH_MULTIPLE
    for width in widths.unique().tolist():
        row = (widths == width).nonzero()[:, 0]
        wanted = row < told
        ids = step.document_ids[row, :width]
        mask = torch.arange(width, device=ids.device) < lengths[row, None]
        collector = ChunkCollector()
        encoded = model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=step.starts[row, None] + torch.arange(width, device=ids.device),
            writer=collector,
            chunks_only=not bool(wanted.any()),
        )
        chunks.append(collector.layers)
        rows.append(row)
        if bool(wanted.any()):
            labels = ids.masked_fill(~mask, IGNORED)[wanted, 1:]
            logits = model.lm_head(encoded.last_hidden_state[wanted, :-1][labels != IGNORED]).float()
            losses.append(cross_entropy(logits, labels[labels != IGNORED], reduction="none"))
    # Back to the order of the pool.
    counts = written.chunks_per_document
    order = torch.cat([torch.repeat_interleave(row, counts[row]) for row in rows]).argsort(stable=True)
    for layer in chunks[0]:
        parts = [each[layer] for each in chunks]
        k, v, routing_k = (
            torch.cat([getattr(part, name) for part in parts])[order] for name in ("k", "v", "routing_k")
        )
        written.write(layer, k, v, routing_k)
    return torch.cat(losses).sum() / max(1, sum(len(each) for each in losses))


def span_loss(model: MemSparseForCausalLM, ids: Tensor, repeats: Tensor) -> Tensor:
    """Next tokens of repeated text; what repeats counts most."""
    logits = model.lm_head(model.model(input_ids=ids).last_hidden_state[:, :-1]).float()
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    token_weights = torch.where(repeats[:, 1:], 1.0, 0.3).flatten()
    return (losses * token_weights).sum() / token_weights.sum()
