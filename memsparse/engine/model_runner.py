"""Stage 2 and 3: prefill a prompt over a memory, then run token by token on its cache.

N documents in memory, V tokens of vocabulary.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.errors import EngineError
from memsparse.model.requests import KeyValues, Part, RequestBatch, RequestCache, Routed
from memsparse.ops.routing import top_documents
from memsparse.text import RESPONSE, ROUTES, Prompt
from memsparse.types import LayerRouting, MemoryKV, MemoryReader


class NumberedReader(MemoryReader, Protocol):
    """A reader that knows the numbers of its documents."""

    @property
    def numbers(self) -> Tensor:
        """(N,) int64, ascending: the number of each document index."""


@runtime_checkable
class ExactReader(Protocol):
    """A reader whose scores may be approximate, and that can score a few documents exactly."""

    def exact_scores(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """(B, k) float32 exact scores of documents (B, k); -inf where a document is -1."""


Exact = Callable[[int, Tensor], Tensor]
"""(layer, document indices (k,)) to the exact scores (k,) of one request."""
SHORTLIST = 64
"""Documents scored exactly where the scores of some are guesses, at least; four times those wanted."""


@dataclass(kw_only=True, slots=True)
class Session:
    """One call in progress: its cache, and what the next token is chosen from."""

    cache: RequestCache
    logits: Tensor
    """(V,) float32 on the CPU, after the last token run."""
    routing: dict[int, MemoryKV]
    """What each memory layer read, by layer."""
    position: int
    """Rotary position of the next token."""
    route_seconds: float

    exact: Exact | None = None
    """Scores documents of this request exactly; needed where what a layer read has `errors`."""
    prefix: "Prefix | None" = None
    """Of its prompt, for the next prompt of the request."""

    def scores(self) -> Tensor:
        """(N,) mean routing score of every document over the memory layers, within the mean of their errors;
        a guess where that is inf.

        Raises: EngineError if the reader does not keep the scores of all documents.
        """
        scores = [kv.all_scores[0].cpu() for kv in self.routing.values() if kv.all_scores is not None]
        if not scores or len(scores) < len(self.routing):
            raise EngineError(
                'the memory reader keeps no scores of all documents; use id_decoding="generate"'
            )
        return _mean(scores)

    def best(self, limit: int, without: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The documents with the best exact mean score over the memory layers, as `top_documents` gives them.

        Behind an index, which does not look at all documents in every layer: the best of those whose guessed
        means are the highest.

        Args:
            without: (N,) bool, True on documents to leave out. None: none.

        Returns: scores (limit,) and document indices (limit,); -inf and -1 where there are fewer.

        Raises: EngineError as `scores`.
        """
        scores = self.scores()
        if without is not None:
            scores = scores.masked_fill(without, float("-inf"))
        errors = [kv.errors[0].cpu() for kv in self.routing.values() if kv.errors is not None]
        bound = torch.stack(errors).double().sum(0) / len(self.routing) if errors else None
        return _best(scores, bound, self.means, limit)

    def means(self, documents: Tensor) -> Tensor:
        """(k,) exact mean scores of documents (k,), by index.

        Raises: EngineError as `scores`.
        """
        if all(kv.errors is None for kv in self.routing.values()):
            return self.scores()[documents]
        return _mean([self._exact(layer, documents) for layer in self.routing])

    def take_back(self, tokens: int, logits: Tensor) -> None:
        """Forget the last tokens that were run behind the prompt; `logits` are those before them."""
        for layer in self.cache.layers.values():
            layer.length -= tokens
        self.position -= tokens
        self.logits = logits

    def routed(self, numbers: Tensor, *, limit: int | None = None) -> tuple[LayerRouting, ...]:
        """What every layer selected, by document number, best first; or its `limit` best, selected or not.

        Raises: EngineError if more are asked for than were selected of a reader that keeps no other scores.
        """
        rows = []
        for layer, kv in self.routing.items():
            chosen, scores = kv.documents[0].cpu(), kv.scores[0].cpu()
            chunks = () if kv.chunks is None else tuple(kv.chunks[0].cpu()[chosen >= 0].tolist())
            certified = None if kv.certified is None else bool(kv.certified[0])
            guesses = kv.errors is not None and bool(kv.errors[0].isinf().any())
            if limit is not None and guesses and limit <= len(chosen):
                chosen, scores, chunks = chosen[:limit], scores[:limit], chunks[:limit]
            elif limit is not None:
                if kv.all_scores is None:
                    raise EngineError("the memory reader keeps no scores of all documents; ask for no limit")
                errors = None if kv.errors is None else kv.errors[0].cpu().double()
                scores, chosen = _best(kv.all_scores[0].cpu(), errors, partial(self._exact, layer), limit)
                chunks = () if certified is False else chunks[:limit]
                certified = None if certified is None else not guesses
            real = chosen >= 0
            rows.append(
                LayerRouting(
                    layer=layer,
                    numbers=tuple(numbers[chosen[real]].tolist()),
                    scores=tuple(scores[real].tolist()),
                    chunks=chunks,
                    certified=certified,
                )
            )
        return tuple(rows)

    def _exact(self, layer: int, documents: Tensor) -> Tensor:
        kv = self.routing[layer]
        if kv.all_scores is None:
            raise EngineError(
                "the memory reader keeps no scores of all documents; it cannot tell those of some"
            )
        scores = kv.all_scores[0].cpu()[documents]
        unsure = torch.zeros_like(documents, dtype=torch.bool)
        if kv.errors is not None:
            unsure = kv.errors[0].cpu()[documents] > 0
        if bool(unsure.any()):
            if self.exact is None:
                raise EngineError("the memory reader's scores are approximate, and it has no exact_scores")
            scores[unsure] = self.exact(layer, documents[unsure]).cpu()
        return scores


def _mean(scores: Sequence[Tensor]) -> Tensor:
    """Mean over layers, the same for a document whatever others are beside it: added up in float64."""
    total = torch.zeros_like(scores[0], dtype=torch.float64)
    for layer in scores:
        total += layer
    return (total / len(scores)).float()


def _best(
    scores: Tensor, errors: Tensor | None, exact: Callable[[Tensor], Tensor], limit: int
) -> tuple[Tensor, Tensor]:
    """The top `limit` of exact scores, where `scores` (N,) are within `errors` (N,) float64 of them.

    Every document whose upper bound reaches the `limit`-th best lower bound is scored exactly; no other can
    be among the best. Where some errors are inf, scores are guesses, and a shortlist of the best is scored.
    Returns scores and indices (limit,), as `top_documents`.
    """
    if errors is not None:
        if bool(errors.isinf().any()):
            best, candidates = scores.topk(min(max(SHORTLIST, 4 * limit), len(scores)))
            candidates = candidates[best > float("-inf")]
        else:
            candidates = _within_reach(scores, errors, limit)
        scores = torch.full_like(scores, float("-inf"))
        scores[candidates] = exact(candidates)
    best, index = top_documents(scores[None], limit)
    return best[0], index[0]


def _within_reach(scores: Tensor, errors: Tensor, limit: int) -> Tensor:
    """The indices of documents that can be among the `limit` best."""
    slack = errors + 2.0**-22 * scores.double().abs().nan_to_num(posinf=0.0)  # float32 ties and rounding
    lower, upper = scores - slack, scores + slack
    cut = lower.topk(min(limit, len(lower))).values[-1:]
    return ((upper >= cut) & (scores > float("-inf"))).nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """What the local layers, those below the first memory layer, made of the start of a prompt.

    They see nothing but the tokens before, so it holds for every prompt that starts with the same ids.
    """

    ids: Sequence[int]
    first_position: int
    hidden: Tensor
    """(T, hidden) that enters the first memory layer."""
    keys: Sequence[KeyValues]
    """Of every local layer: those of the prompt head, then of the T ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefill:
    """A request needs a prompt routed and run."""

    prompt: Prompt
    reader: MemoryReader
    after: Prefix | None = None
    """Of an earlier prompt: what both start with is not run through the local layers again."""

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
        local.keep(self._local)
        upper.keep(self._upper)
        return [self._session(*each) for each in zip(needs, parts, hidden, logits, strict=True)]

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

    def _session(self, need: Need, part: Part, hidden: Tensor, logits: Tensor) -> Session:
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


def _exact_scores(
    reader: MemoryReader, routed: Mapping[int, Routed], layer_idx: int, documents: Tensor
) -> Tensor:
    """(k,) exact scores of documents (k,) for what one request asked of a layer.

    Raises: EngineError if the reader gives approximate scores and no exact ones.
    """
    if not isinstance(reader, ExactReader):
        raise EngineError("the memory reader's scores are approximate, and it has no exact_scores")
    queries = routed[layer_idx].queries
    mask = torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)
    return reader.exact_scores(layer_idx, queries, mask, documents[None])[0]


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
    if bool(torch.isnan(logits).any()):
        raise EngineError("the model computed no numbers (NaN); load it in float32")
    if config.temperature == 0:
        return int(ids[logits.argmax()])
    likely, order = (logits / config.temperature).softmax(0).sort(descending=True, stable=True)
    likely = likely.masked_fill(likely.cumsum(0) - likely >= config.top_p, 0)
    return int(ids[order[torch.multinomial(likely, 1, generator=generator)]])
