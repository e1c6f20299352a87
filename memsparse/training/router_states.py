"""Hidden states that a frozen backbone leaves, computed once: all that fitting its routers needs.

A memory layer's routing keys are the mean over a chunk of a linear map, without bias, of the states that
enter the layer's attention. Mean and map commute, so chunks are kept as the mean of their states, (C,
hidden), and any router's keys follow from them, exact up to rounding. Routing scores take a maximum over the
tokens of a question, so these are kept one by one.

What enters a layer above the lowest memory layer depends on what the question read below, hence on the very
routers being fitted. Questions are therefore run without memory at first, and again, later in the fit, over
a memory that the routers of that time select from. A question's own documents are then left out of what it
reads: in the fit it would find them far more often than in use, and upper layers would learn to recognise
what was read instead of what is asked.

C chunks, P passages, N documents, Q questions, R routing tokens of all questions, G kv heads, D head_dim.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from memsparse.engine.encoder import WIDTH_MULTIPLE, Encoder, batches
from memsparse.engine.loading import LoadedModel
from memsparse.errors import DocumentError, EngineError
from memsparse.model.memory import ChunkCollector, InBatchMemory, LayerChunks
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.pooling import document_of_chunk, pool_chunks
from memsparse.ops.positions import chunk_counts, context_positions
from memsparse.text import ROUTES, TEMPLATE
from memsparse.training.data import pad
from memsparse.types import Document

log = logging.getLogger(__name__)

_BLOCK = 1 << 24
"""Bytes written at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Token ids of what is run through the backbone."""

    passages: list[list[int]]
    document_of_passage: Tensor
    """(P,) int64, ascending."""
    passage_of_chunk: Tensor
    """(C,) int64, ascending."""
    questions: list[tuple[list[int], list[bool]]]
    """Ids, prompt head included, and whether each token routes."""

    @property
    def token_of_question(self) -> Tensor:
        """(Q + 1,) int64: where the routing tokens of each question begin, and where the last ones end."""
        counts = [0, *(sum(routes) for _, routes in self.questions)]
        return torch.tensor(counts).cumsum(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cached:
    """Tensors that a file holds, by name and layer."""

    tensors: Mapping[tuple[str, int], Tensor]
    bytes: int
    mapped: bool
    """They stay in the file, and only what is looked at is in memory."""

    def of(self, name: str) -> dict[int, Tensor]:
        """The tensors of one name, by layer."""
        return {layer: each for (own, layer), each in self.tensors.items() if own == name}


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The corpus as a question reads it."""

    layers: Mapping[int, LayerChunks]
    hidden: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Documents that a question may not read, by the question's index."""


def make_rows(
    loaded: LoadedModel, documents: Sequence[Document], questions: Sequence[str], *, batch_tokens: int
) -> Rows:
    """Cut documents into passages as the engine does, number them as a new bank would, and build prompts.

    Raises: DocumentError if a question is longer than the model's context.
    """
    encoder = Encoder(loaded, batch_tokens=batch_tokens)
    prompts, config = loaded.prompts, loaded.config
    passages: list[list[int]] = []
    owner: list[int] = []
    for index, document in enumerate(documents):
        for passage in encoder.split(document):
            passages.append(prompts.document(len(passages), encoder.body(passage)))
            owner.append(index)
    head = prompts.head()
    rows = []
    for question in questions:
        ids, roles = prompts.question(question)
        if len(ids) + config.position_offset > config.max_position_embeddings:
            raise DocumentError(
                f"question {question[:40]!r}... has {len(ids)} tokens, the model's context "
                f"{config.max_position_embeddings}; shorten or remove it"
            )
        rows.append(([*head, *ids], [role == ROUTES for role in [TEMPLATE] * len(head) + roles]))
    lengths = torch.tensor([len(row) for row in passages])
    return Rows(
        passages=passages,
        document_of_passage=torch.tensor(owner),
        passage_of_chunk=document_of_chunk(lengths, config.chunk_size),
        questions=rows,
    )


def chunk_states(
    loaded: LoadedModel, rows: Rows, path: Path, *, batch_tokens: int, budget_bytes: float
) -> Cached:
    """What documents leave at every memory layer: "states" (C, hidden), the mean over each chunk of what
    enters the attention, and "k" and "v" (C, G, D) for those who read.

    Raises: EngineError as `cached`.
    """
    config = loaded.config
    chunks = len(rows.passage_of_chunk)
    heads = (chunks, config.num_key_value_heads or config.num_attention_heads, config.head_dim)
    shapes = {
        (name, layer): shape
        for layer in config.memory_layers or ()
        for name, shape in (("states", (chunks, config.hidden_size)), ("k", heads), ("v", heads))
    }
    return cached(
        path,
        shapes,
        loaded.model.dtype,
        lambda tensors: _fill_chunks(loaded, rows, tensors, batch_tokens),
        budget_bytes=budget_bytes,
    )


def question_states(
    loaded: LoadedModel,
    rows: Rows,
    path: Path,
    memory: Callable[[], Memory | None],
    *,
    batch_tokens: int,
    budget_bytes: float,
) -> Cached:
    """What questions leave at every memory layer: "tokens" (R, hidden), routing token after routing token.

    Args:
        memory: makes what they read, if anything; not called where the file is there.

    Raises: EngineError as `cached`.
    """
    tokens = int(rows.token_of_question[-1])
    shapes = {
        ("tokens", layer): (tokens, loaded.config.hidden_size) for layer in loaded.config.memory_layers or ()
    }
    return cached(
        path,
        shapes,
        loaded.model.dtype,
        lambda tensors: _fill_tokens(loaded, rows, tensors, batch_tokens, memory()),
        budget_bytes=budget_bytes,
    )


def cached(
    path: Path,
    shapes: Mapping[tuple[str, int], tuple[int, ...]],
    dtype: torch.dtype,
    fill: Callable[[dict[tuple[str, int], Tensor]], None],
    *,
    budget_bytes: float,
) -> Cached:
    """Tensors that an earlier call left in a file, or that `fill` computes.

    A file that an interruption left unfinished is begun anew.

    Args:
        budget_bytes: how much to hold in memory; more stays mapped.

    Raises: EngineError if the file cannot be written.
    """
    size = sum(prod(shape) for shape in shapes.values())
    total = size * dtype.itemsize
    if not path.is_file() or path.stat().st_size != total:
        aside = path.with_name(f"{path.name}.tmp")
        log.info("running the backbone: %.3f GB of states go to %s", total / 1e9, path)
        try:
            _reserve(aside, total)
            fill(_views(torch.from_file(str(aside), shared=True, size=size, dtype=dtype), shapes))
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise EngineError(
                f"{path}: {total} bytes of states could not be written ({error.strerror or error}); make "
                "room on the disk, or fit to fewer documents"
            ) from error
    flat = torch.from_file(str(path), shared=False, size=size, dtype=dtype)
    mapped = total > budget_bytes
    return Cached(tensors=_views(flat if mapped else flat.clone(), shapes), bytes=total, mapped=mapped)


def run_questions(
    loaded: LoadedModel,
    rows: Rows,
    chosen: Sequence[int],
    *,
    batch_tokens: int,
    memory: Memory | None = None,
) -> Iterator[tuple[list[int], Tensor, dict[int, Tensor], dict[int, Tensor]]]:
    """Run questions as the engine prefills them, short ones first.

    Args:
        chosen: indices of questions.
        memory: None: nothing can be read.

    Yields: indices of some questions, (B, T) bool where their tokens route, and by layer what enters its
    attention, (B, T, hidden), and the scores of all passages, (B, P), where there is a memory.
    """
    config = loaded.config
    head = len(loaded.prompts.head())
    lengths = [len(rows.questions[index][0]) for index in chosen]
    for places in _short_first(lengths, batch_tokens):
        batch = [chosen[place] for place in places]
        ids, mask = pad([rows.questions[index][0] for index in batch], WIDTH_MULTIPLE)
        routes, _ = pad([[int(each) for each in rows.questions[index][1]] for index in batch], WIDTH_MULTIPLE)
        before = torch.arange(head).expand(len(batch), -1)
        positions = torch.cat([before, context_positions(mask[:, head:], config.position_offset)], dim=1)
        reader = None if memory is None else _reader(loaded, rows, memory, batch, head, ids)
        device = loaded.device
        with inputs_of(loaded.model, config.memory_layers or []) as seen:
            output = loaded.model.model(
                input_ids=ids.to(device),
                position_ids=positions.to(device),
                memory=reader,
                query_mask=routes.bool().to(device),
                use_cache=False,
            )
        scores = {layer: read.all_scores for layer, read in (output.routing or {}).items()}
        yield batch, routes.bool(), seen, {layer: each for layer, each in scores.items() if each is not None}


@contextmanager
def inputs_of(model: MemSparseForCausalLM, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """While it is open, remember what enters the attention of each layer: what its router projects."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen[layer] = arguments[0]

        return hook

    handles = [
        model.model.get_submodule(f"layers.{layer}.self_attn").register_forward_pre_hook(keep(layer))
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _short_first(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    return batches(sorted(range(len(lengths)), key=lambda index: lengths[index]), lengths, batch_tokens)


def _reader(
    loaded: LoadedModel, rows: Rows, memory: Memory, batch: Sequence[int], head: int, ids: Tensor
) -> InBatchMemory:
    """All passages that a question may read, behind the prompt head, which sees none of them."""
    device = loaded.device
    of_chunk = rows.passage_of_chunk.to(device)
    hidden = [torch.tensor(memory.hidden.get(index, ()), dtype=torch.long) for index in batch]
    selectable = torch.stack([~torch.isin(rows.document_of_passage, each) for each in hidden])
    reader = InBatchMemory(
        of_chunk,
        len(rows.passages),
        rule=loaded.config.routing_rule(),
        top_k=loaded.config.top_k_documents,
        selectable=selectable.to(device),
        chunk_index=torch.full_like(of_chunk, head - 1),
        token_index=torch.arange(ids.shape[1], device=device).expand_as(ids),
    )
    reader.layers.update(memory.layers)
    return reader


def _views(flat: Tensor, shapes: Mapping[tuple[str, int], tuple[int, ...]]) -> dict[tuple[str, int], Tensor]:
    """One flat tensor, divided."""
    parts = flat.split([prod(shape) for shape in shapes.values()])
    return {key: part.view(shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}


def _reserve(path: Path, size: int) -> None:
    """Write zeros: a mapped file that finds the disk full would end the process instead of raising."""
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(bytes(min(_BLOCK, size - start)))


@torch.inference_mode()
def _fill_tokens(
    loaded: LoadedModel,
    rows: Rows,
    tensors: dict[tuple[str, int], Tensor],
    batch_tokens: int,
    memory: Memory | None,
) -> None:
    starts = rows.token_of_question
    everything = range(len(rows.questions))
    room = batch_tokens if memory is None else reading_tokens(batch_tokens)
    done = 0
    for batch, routes, seen, _ in run_questions(loaded, rows, everything, batch_tokens=room, memory=memory):
        for row, index in enumerate(batch):
            where = slice(int(starts[index]), int(starts[index + 1]))
            for layer, states in seen.items():
                tensors["tokens", layer][where] = states[row].cpu()[routes[row]]
        done += len(batch)
        log.debug("questions: %d of %d", done, len(rows.questions))


def reading_tokens(batch_tokens: int) -> int:
    """Tokens to run at a time where a memory is read, whose chunks take room, too."""
    return -(-batch_tokens // 4)


@torch.inference_mode()
def _fill_chunks(
    loaded: LoadedModel, rows: Rows, tensors: dict[tuple[str, int], Tensor], batch_tokens: int
) -> None:
    size = loaded.config.chunk_size
    lengths = [len(row) for row in rows.passages]
    counts = chunk_counts(torch.tensor(lengths), size)
    first = counts.cumsum(0) - counts
    done = 0
    for batch in _short_first(lengths, batch_tokens):
        ids, mask = pad([rows.passages[index] for index in batch], WIDTH_MULTIPLE)
        ids, mask = ids.to(loaded.device), mask.to(loaded.device)
        written = ChunkCollector()
        with inputs_of(loaded.model, loaded.config.memory_layers or []) as seen:
            loaded.model.model(
                input_ids=ids, attention_mask=mask, use_cache=False, writer=written, chunks_only=True
            )
        places = torch.cat([torch.arange(int(counts[index])) + first[index] for index in batch])
        for layer, states in seen.items():
            tensors["states", layer][places] = pool_chunks(states, mask.sum(1), size).cpu()
            tensors["k", layer][places] = written.layers[layer].k.cpu()
            tensors["v", layer][places] = written.layers[layer].v.cpu()
        done += sum(lengths[index] for index in batch)
        log.debug("documents: %d of %d tokens", done, sum(lengths))
