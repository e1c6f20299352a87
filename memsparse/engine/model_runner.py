"""Stage 2 and 3: prefill a prompt over a memory, then run token by token on its cache.

N tokens of all requests, R requests, V tokens of vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.engine.session import (
    ExactReader,
    Known,
    Prefix,
    Session,
    SiftingReader,
    mean_scores,
    refuse_nan,
    routed_anywhere,
)
from memsparse.errors import EngineError
from memsparse.model.requests import (
    KeyValues,
    Part,
    RequestBatch,
    RequestCache,
    Routed,
    by_reader,
    side_by_side,
)
from memsparse.text import RESPONSE, ROUTES, Prompt
from memsparse.types import MemoryReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefill:
    """A request needs a prompt routed and run."""

    prompt: Prompt
    reader: MemoryReader
    after: Prefix | None = None
    """Of an earlier prompt: what both start with is not run through the local layers again."""
    ranks: bool = False
    """Whether its documents are to be ranked over all layers: what any layer routes is scored by each."""

    @property
    def tokens(self) -> int:
        """Tokens that enter the memory layers."""
        return len(self.prompt.ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extend:
    """A request needs more tokens run as one causal block, which routes nothing."""

    session: Session
    ids: Sequence[int]

    @property
    def tokens(self) -> int:
        """Tokens that enter the memory layers."""
        return len(self.ids)


Need = Prefill | Extend


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One request's share of a pass."""

    cache: RequestCache
    ids: Sequence[int]
    """What the local layers have to run."""
    position: int
    """Of the first of them."""
    before: Tensor
    """(P, hidden) kept of what stands before them in a prompt; the memory layers run it again."""


class ModelRunner:
    """Runs one model for any number of requests; safe to share between threads, which a session is not."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._device = loaded.device
        layers, memory_layers = loaded.config.num_hidden_layers, loaded.config.memory_layers or []
        local = min(memory_layers, default=layers - 1)
        self._local, self._upper = range(local), range(local, layers)
        self._memory_layers = frozenset(memory_layers)
        self._head = self._encode_head(loaded.prompts.head())
        self._nothing = self._model.model.embed_tokens.weight.detach()[:0]
        first = loaded.config.position_offset
        self._lead = Prefix(ids=[], first_position=first, hidden=self._nothing, keys=self._head[:local])
        asked = [loaded.prompts.question(text)[0] for text in "a1"]
        if lead := asked[0][: common_start(*asked)]:
            self._lead = self.begin(Prompt(ids=lead, roles=[RESPONSE] * len(lead), first_position=first))

    def prefill(self, prompt: Prompt, reader: MemoryReader) -> Session:
        """Route and run one prompt behind the template head."""
        return self.run([Prefill(prompt=prompt, reader=reader)])[0]

    def append(self, session: Session, ids: Sequence[int]) -> None:
        """Run more tokens of one request; they attend to the memory of its prefill."""
        if ids:
            self.run([Extend(session=session, ids=ids)])

    def known(self, prompt: Prompt, after: Prefix | None = None) -> int:
        """How many of a prompt's first tokens the local layers need not run; never all of them."""
        return self._start(prompt, after)[1]

    @torch.inference_mode()
    def begin(self, prompt: Prompt, after: Prefix | None = None, *, tokens: int | None = None) -> Prefix:
        """Run the next `tokens` tokens of a prompt (None: all) through the local layers, before its prefill.

        Only they can take a prompt piece by piece: a memory layer routes by all routing tokens of a prompt
        before the first of its tokens can attend.
        """
        task = self._prompt_task(prompt, after, tokens)
        batch, [hidden] = self._run_local([task])
        batch.keep(self._local)
        return self._prefix(prompt, task.cache, hidden)

    @torch.inference_mode()
    def run(self, needs: Sequence[Need]) -> list[Session]:
        """Run what several requests need, each for itself, in one pass over the model's weights.

        A request attends to nothing but its own tokens and chunks; a reader is asked once per layer for all
        requests that share it. Where the pass fails, every session is what it was.

        Returns: the session of every need: of a prefill a new one, of an append its own.
        """
        if not needs:
            return []
        tasks = [self._task(need) for need in needs]
        local, hidden = self._run_local(tasks)
        parts = [self._upper_part(*each) for each in zip(needs, tasks, hidden, strict=True)]
        upper = RequestBatch(parts, self._head, self._device)
        starts = [task.position - len(task.before) for task in tasks]
        states = self._pass(upper, self._upper, starts, inputs_embeds=torch.cat(hidden))
        logits = self._model.lm_head(states).float().cpu()
        known = _score_routed(needs, parts)
        local.keep(self._local)
        upper.keep(self._upper)
        return [self._session(*each) for each in zip(needs, parts, hidden, logits, known, strict=True)]

    def _task(self, need: Need) -> _Task:
        if isinstance(need, Prefill):
            return self._prompt_task(need.prompt, need.after)
        session = need.session
        return _Task(cache=session.cache, ids=need.ids, position=session.position, before=self._nothing)

    def _start(self, prompt: Prompt, after: Prefix | None) -> tuple[Prefix, int]:
        """The prefix that has the most of a prompt, and how many of its tokens; one is left to run."""
        best, known = self._lead, 0
        for prefix in (after, self._lead):
            if prefix is not None and prefix.first_position == prompt.first_position:
                common = min(common_start(prefix.ids, prompt.ids), len(prompt.ids) - 1)
                if common > known:
                    best, known = prefix, common
        return best, known

    def _prompt_task(self, prompt: Prompt, after: Prefix | None, tokens: int | None = None) -> _Task:
        prefix, known = self._start(prompt, after)
        ids = prompt.ids[known:] if tokens is None else prompt.ids[known : known + tokens]
        cache = RequestCache()
        for layer, (k, v) in zip(self._local, prefix.keys, strict=True):
            kept = k.shape[1] - len(prefix.ids) + known
            cache.begin(layer, [(k[:, :kept], v[:, :kept])], tokens=len(ids))
        position = prompt.first_position + known
        return _Task(cache=cache, ids=ids, position=position, before=prefix.hidden[:known])

    def _run_local(self, tasks: Sequence[_Task]) -> tuple[RequestBatch, list[Tensor]]:
        """(T, hidden) of every task that enters the memory layers, what was known before included."""
        parts = [Part(cache=task.cache, tokens=len(task.ids)) for task in tasks]
        batch = RequestBatch(parts, self._head, self._device)
        ids = torch.tensor([id_ for task in tasks for id_ in task.ids], device=self._device)
        states = self._pass(batch, self._local, [task.position for task in tasks], input_ids=ids)
        own = states[: len(ids)].split([part.tokens for part in parts])
        return batch, [torch.cat([task.before, rows]) for task, rows in zip(tasks, own, strict=True)]

    def _upper_part(self, need: Need, task: _Task, hidden: Tensor) -> Part:
        if isinstance(need, Extend):
            return Part(cache=task.cache, tokens=len(hidden))
        for layer in self._upper:
            if layer not in self._memory_layers:
                task.cache.begin(layer, [self._head[layer]], tokens=len(hidden))
        routes = [at for at, role in enumerate(need.prompt.roles) if role == ROUTES]
        return Part(cache=task.cache, tokens=len(hidden), reader=need.reader, routes=routes)

    def _pass(self, batch: RequestBatch, layers: range, starts: Sequence[int], **inputs: Tensor) -> Tensor:
        """(N, hidden) of a row of requests behind some layers, the first token of each at its start.

        Behind the last layer there is one token of each request: (R, hidden).

        Args:
            inputs: input_ids (tokens,) or inputs_embeds (tokens, hidden), filled up here.
        """
        positions = [
            start + token
            for start, part in zip(starts, batch.parts, strict=True)
            for token in range(part.tokens)
        ]
        positions += [0] * (batch.length - len(positions))
        rows = {
            name: torch.cat([x, x.new_zeros(batch.length - len(x), *x.shape[1:])])
            for name, x in inputs.items()
        }
        output = self._model.model(
            position_ids=torch.tensor([positions], device=self._device),
            past_key_values=batch,
            layers=layers,
            **{name: x[None] for name, x in rows.items()},
        )
        return cast(Tensor, output.last_hidden_state)[0]

    def _session(
        self, need: Need, part: Part, hidden: Tensor, logits: Tensor, known: Known | None
    ) -> Session:
        if isinstance(need, Extend):
            need.session.logits = logits
            need.session.position += len(need.ids)
            return need.session
        return Session(
            cache=part.cache,
            logits=logits,
            routing={layer: routed.kv for layer, routed in part.routed.items()},
            position=need.prompt.first_position + len(need.prompt.ids),
            route_seconds=sum(routed.seconds for routed in part.routed.values()),
            exact=partial(_exact_scores, need.reader, part.routed),
            whole=partial(_bound_all, need.reader, part.routed),
            known=known,
            prefix=self._prefix(need.prompt, part.cache, hidden),
        )

    def _prefix(self, prompt: Prompt, cache: RequestCache, hidden: Tensor) -> Prefix:
        return Prefix(
            ids=prompt.ids[: len(hidden)],
            first_position=prompt.first_position,
            hidden=hidden,
            keys=[cache.kept(layer) for layer in self._local],
        )

    @torch.inference_mode()
    def _encode_head(self, ids: list[int]) -> list[KeyValues]:
        """K and V of the prompt head in every layer; it sees nothing but itself."""
        config = self._model.config
        size = (config.num_key_value_heads or config.num_attention_heads, 0, config.head_dim)
        nothing = torch.empty(size, dtype=self._model.dtype, device=self._device)
        cache = RequestCache()
        layers = range(config.num_hidden_layers)
        for layer in layers:
            cache.begin(layer, [(nothing, nothing)], tokens=len(ids))
        if ids:
            batch = RequestBatch([Part(cache=cache, tokens=len(ids))], [], self._device)
            self._pass(batch, layers, [0], input_ids=torch.tensor(ids, device=self._device))
            batch.keep(layers)
        return [cache.kept(layer) for layer in layers]


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences start with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _score_routed(needs: Sequence[Need], parts: Sequence[Part]) -> list[Known | None]:
    """For those that rank, exact scores in every layer of what any layer routed: one call a layer for all."""
    known: list[Known | None] = [None for _ in needs]
    ranking = [
        (at, need.reader)
        for at, (need, part) in enumerate(zip(needs, parts, strict=True))
        if isinstance(need, Prefill) and need.ranks and isinstance(need.reader, ExactReader)
        if not all(layer.kv.is_exact for layer in part.routed.values())
    ]
    for reader, places in by_reader([reader for _, reader in ranking]):
        rows = [ranking[place][0] for place in places]
        routed = [parts[at].routed for at in rows]
        found = [routed_anywhere(layer.kv for layer in own.values()) for own in routed]
        documents_BM = pad_sequence(found, batch_first=True, padding_value=-1)
        scores: dict[int, Tensor] = {}
        for layer_idx in routed[0]:
            queries, mask = side_by_side([own[layer_idx].queries[0] for own in routed])
            scores[layer_idx] = reader.exact_scores(layer_idx, queries, mask, documents_BM).cpu()
        means_BM = mean_scores(list(scores.values()))
        for row, (at, documents) in enumerate(zip(rows, found, strict=True)):
            known[at] = Known(
                documents=documents,
                scores={layer: scores_BM[row, : len(documents)] for layer, scores_BM in scores.items()},
                means=means_BM[row, : len(documents)],
            )
    return known


def _exact_scores(
    reader: MemoryReader, routed: Mapping[int, Routed], layer_idx: int, documents: Tensor
) -> Tensor:
    """(k,) exact scores of documents (k,) for what one request asked of a layer.

    Raises: EngineError if the reader gives approximate scores and no exact ones.
    """
    if not isinstance(reader, ExactReader):
        raise EngineError("the memory reader's scores are approximate, and it has no exact_scores")
    return reader.exact_scores(layer_idx, *_asked(routed[layer_idx]), documents[None])[0]


def _bound_all(reader: MemoryReader, routed: Mapping[int, Routed], layer_idx: int) -> tuple[Tensor, Tensor]:
    """(1, N) scores and errors of all documents for what one request asked of a layer.

    Raises: EngineError if the reader does not tell them.
    """
    if not isinstance(reader, SiftingReader):
        raise EngineError("the memory reader sifts documents, and has no bound_all")
    return reader.bound_all(layer_idx, *_asked(routed[layer_idx]))


def _asked(routed: Routed) -> tuple[Tensor, Tensor]:
    """The routing queries of one request and their mask."""
    queries = routed.queries
    return queries, torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)


def sample(
    logits: Tensor, config: EngineConfig, allowed: Collection[int] | None, generator: torch.Generator
) -> int:
    """Choose the next token: the likeliest at temperature 0, else drawn from the `top_p` mass.

    Args:
        logits: (V,) float32.
        allowed: ids that may be chosen. None: all.

    Raises: EngineError if nothing may be chosen, or the logits are not numbers.
    """
    ids = torch.arange(len(logits)) if allowed is None else torch.tensor(sorted(allowed), dtype=torch.long)
    if not len(ids):
        raise EngineError("no token may follow; the constraint of this round is exhausted")
    logits = logits[ids]
    refuse_nan(logits)
    if config.temperature == 0:
        return int(ids[logits.argmax()])
    likely, order = (logits / config.temperature).softmax(0).sort(descending=True, stable=True)
    likely = likely.masked_fill(likely.cumsum(0) - likely >= config.top_p, 0)
    return int(ids[order[torch.multinomial(likely, 1, generator=generator)]])
