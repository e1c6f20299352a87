"""The fit itself: steps on every memory layer's router over cached states, and recall in use."""

import logging
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from memsparse.engine.loading import LoadedModel, load_model
from memsparse.errors import ConfigError, EngineError
from memsparse.model.memory import LayerChunks
from memsparse.ops.losses import auxiliary_loss
from memsparse.ops.routing import top_documents
from memsparse.training.checkpoint import MODEL, export_model, load_state, save_state
from memsparse.training.objective import RECALLS
from memsparse.training.progress import METRICS, RunLog, StopSignal, interruption
from memsparse.training.router_config import RouterConfig
from memsparse.training.router_heads import Routers, by_document, put_routers, routers_of
from memsparse.training.router_pairs import Pair, PairSet
from memsparse.training.router_pool import Pool, PoolMaker
from memsparse.training.router_start import own_dtype
from memsparse.training.router_states import (
    Memory,
    chunk_states,
    make_rows,
    question_states,
    reading_tokens,
    run_questions,
)

log = logging.getLogger(__name__)

STATE = "router.safetensors"
CHUNKS = "chunks.bin"
QUESTIONS = "questions-{}.bin"
"""Of a round."""
MEAN = "mean"
"""Name of the ranking by the mean score over all memory layers."""
_BLOCK = 32
"""Questions scored at a time."""

Recall = dict[str, dict[str, float]]
"""By ranking ("mean" and every layer), recall at each depth: the share of its documents a question finds."""


class RouterFit:
    """Steps on the routers over cached states, in rounds; see `RouterConfig.rounds`."""

    def __init__(
        self, config: RouterConfig, pairs: PairSet, loaded: LoadedModel, *, match: bool, out: Path
    ) -> None:
        """Run the documents through the backbone.

        Args:
            match: let the routers begin anew.
        """
        self.config, self.pairs, self.loaded, self.out, self.match = config, pairs, loaded, out, match
        self.layers = tuple(loaded.config.memory_layers or ())
        self.rows = make_rows(
            loaded,
            pairs.documents,
            [pair.question for pair in (*pairs.train, *pairs.validation)],
            batch_tokens=config.batch_tokens,
        )
        self.budget = config.budget_gib * 2**30
        self.cached = [
            chunk_states(
                loaded,
                self.rows,
                out / CHUNKS,
                batch_tokens=config.batch_tokens,
                budget_bytes=self.budget,
            )
        ]
        self.chunks = self.cached[0].of("states")
        self.method = config.loss or loaded.config.aux_loss_method
        self.bias = _bias(self.method, loaded)
        self.temperature = config.temperature or float(getattr(loaded.model, "temperature", 1.0))
        self.pools = PoolMaker(pairs, self.rows, limit=config.pool, seed=config.seed)
        self.step = self.round = self.stale = self.best_step = 0
        self.loss = 0.0
        self.best, self.best_bias = routers_of(loaded.model), self._bias_now()
        self.readers = self.best
        self.best_recall = -1.0
        self.before: Recall = {}
        self._starts = self.rows.token_of_question

    # --- the loop -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Measure, then take the steps of every round; or continue what is saved.

        Raises: KeyboardInterrupt after a Ctrl-C, when the step has ended and is saved; EngineError for a loss
        that is not finite.
        """
        state = load_state(self.out, name=STATE)
        if state is None:
            self.before = self.measure(self.best)
        else:
            self._continue(state)
        run_log = RunLog(self.out / METRICS, done=self.step, steps=self.config.steps)
        with StopSignal() as stop, run_log:
            while self.round < self.config.rounds:
                self._open_round(state)
                state = None
                while self.step < self._end and self.stale < self.config.patience:
                    self.loss += self._take()
                    self.step += 1
                    run_log.advance(self.step)
                    begun = self.step % self.config.eval_every or self.config.eval_every
                    if self.step % self.config.eval_every == 0 or self.step == self._end:
                        loss = {"loss": self.loss / min(begun, self.step - self._begun)}
                        run_log.write(
                            {"step": self.step, "round": self.round, **loss, **self._judge()}, lasting=True
                        )
                        self.loss = 0.0
                        self._save()
                    if stop.asked:
                        self._save()
                        raise interruption(self.step, self.out)
                self._close_round()

    def _continue(self, state: Mapping[str, Any]) -> None:
        self.round, self.step, self.before = int(state["round"]), int(state["step"]), state["before"]
        self.readers, self.best, self.best_step = state["readers"], state["best"], int(state["best_step"])
        self.best_recall, self.stale = float(state["best_recall"]), int(state["stale"])
        self.best_bias = state["best_bias"]
        self.loss = float(state["loss"])
        ends = self.config.round_ends()
        goes_on = self.step < ends[self.round] and self.stale < self.config.patience
        if goes_on or self.round + 1 < len(ends):
            log.info("continuing from step %d in %s", self.step, self.out)
        else:
            log.info("the fit in %s is done, at step %d", self.out, self.step)

    def _open_round(self, state: Mapping[str, Any] | None) -> None:
        """Run the questions, and put routers and optimizer where the round begins, or where `state` is."""
        config = self.config
        before = 0 if self.round == 0 else config.round_ends()[self.round - 1]
        self._begun, self._end = before, config.round_ends()[self.round]
        held = 0 if self.cached[0].mapped else self.cached[0].bytes
        questions = question_states(
            self.loaded,
            self.rows,
            self.out / QUESTIONS.format(self.round),
            self._reading if self.round else lambda: None,
            batch_tokens=config.batch_tokens,
            budget_bytes=self.budget - held,
        )
        (self.out / QUESTIONS.format(self.round - 1)).unlink(missing_ok=True)
        self.cached = [self.cached[0], questions]
        self.tokens = questions.of("tokens")
        self.routers = self._routers(self.readers)
        if state is None:
            self.best, self.stale, self.loss = self.readers, 0, 0.0
            self.best_recall = _figure(self._validate())
        if self.match and self.round == 0:
            self.routers = self._routers(None)
        trained = [*self.routers.parameters.values(), *([] if self.bias is None else [self.bias])]
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
        if state is not None:
            self.routers.load_state_dict(state["routers"])
            self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
            if self.bias is not None:
                self.bias.data.copy_(state["bias"])

    def _close_round(self) -> None:
        """The next round reads with the best routers of this one, and begins with them."""
        self.step, self.readers = self._end, self.best
        if self.bias is not None and self.best_bias is not None:
            self.bias.data.copy_(self.best_bias)
        self.round += 1

    def _routers(self, weights: Mapping[str, Tensor] | None) -> Routers:
        return Routers(
            self.loaded.model,
            weights,
            self.tokens,
            self.chunks,
            ridge=self.config.ridge,
            seed=self.config.seed,
        )

    def _reading(self) -> Memory:
        """What questions read in this round: anything but the documents they are to ask for."""
        train = enumerate(self.pairs.train)
        return Memory(
            layers=self._memory(self.readers), hidden={index: pair.positives for index, pair in train}
        )

    def _take(self) -> float:
        """One step of every layer's router; return the mean loss."""
        batch = self._batch()
        questions = [self.pairs.train[index] for index in batch]
        pool = self.pools.pool(self.step, questions, lambda pool: self._hardness(batch, pool))
        positives = pool.positives(questions).to(self.loaded.device)
        losses = []
        for layer in self.layers:
            scores = by_document(self._scores(layer, batch, pool), pool.document_of_passage, pool.size)
            loss = auxiliary_loss(
                self.method, scores, positives, temperature=self.temperature, bias=self.bias
            )
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise EngineError(
                    f"step {self.step}: the loss of layer {layer} is {losses[-1]}; lower learning_rate "
                    f"({self.config.learning_rate}) and fit into another folder"
                )
            loss.backward()  # layer by layer: only one layer's scores are held at a time
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.config.factor(self.step, self._begun)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(losses) / len(losses)

    def _judge(self) -> dict[str, float]:
        """Recall on what is held out, by the round's states; keep the routers if they are its best yet."""
        found = self._validate()
        if _figure(found) > self.best_recall:
            self.best, self.best_bias, self.best_step = self.routers.weights(), self._bias_now(), self.step
            self.best_recall, self.stale = _figure(found), 0
        else:
            self.stale += 1
        return found

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        whole = self.pools.whole
        first = len(self.pairs.train)
        indices = range(first, first + len(self.pairs.validation))
        total = torch.zeros(len(indices), len(self.rows.passages))
        for layer in self.layers:
            keys = self._keys(layer, whole)
            for start in range(0, len(indices), _BLOCK):
                block = indices[start : start + _BLOCK]
                total[start : start + _BLOCK] += self._scores(layer, block, whole, keys=keys).cpu()
        scores = by_document(total / len(self.layers), whole.document_of_passage, whole.size)
        return recall(scores, self.pairs.validation)

    # --- scores -------------------------------------------------------------------------------------------

    def _keys(self, layer: int, pool: Pool) -> Tensor:
        chunks = self.chunks[layer] if pool.chunks is None else self.chunks[layer][pool.chunks]
        return self.routers.keys(layer, chunks.to(self._device))

    def _scores(
        self, layer: int, questions: Sequence[int], pool: Pool, *, keys: Tensor | None = None
    ) -> Tensor:
        """(B, P) of one layer."""
        starts, ends = self._starts[list(questions)], self._starts[[index + 1 for index in questions]]
        longest = int((ends - starts).max())
        index = starts[:, None] + torch.arange(longest)
        mask = index < ends[:, None]
        states = self.tokens[layer][index.masked_fill(~mask, 0)].to(self._device)
        return self.routers.scores(
            layer,
            self.routers.queries(layer, states),
            mask.to(self._device),
            self._keys(layer, pool) if keys is None else keys,
            pool.passage_of_chunk.to(self._device),
            len(pool.document_of_passage),
        )

    @torch.no_grad()
    def _hardness(self, batch: Sequence[int], pool: Pool) -> Tensor:
        """(N,) how high each document of a pool scores, at most, for a question that does not ask for it."""
        layers = [self._scores(layer, batch, pool) for layer in self.layers]
        scores = by_document(torch.stack(layers).mean(0), pool.document_of_passage, pool.size).cpu()
        wanted = pool.positives([self.pairs.train[index] for index in batch])
        return scores.masked_fill(wanted, float("-inf")).amax(0)

    @property
    def _device(self) -> torch.device:
        return self.loaded.device

    def _batch(self) -> list[int]:
        """Questions of a step: all of them in a random order, then all of them in another one."""
        count = len(self.pairs.train)
        size = min(self.config.batch, count)
        orders: dict[int, list[int]] = {}
        drawn = []
        for place in range(self.step * size, (self.step + 1) * size):
            epoch, at = divmod(place, count)
            if epoch not in orders:
                orders[epoch] = list(range(count))
                Random(f"{self.config.seed}/epoch/{epoch}").shuffle(orders[epoch])
            drawn.append(orders[epoch][at])
        return drawn

    # --- in use -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self, routers: Mapping[str, Tensor]) -> Recall:
        """Recall of the model itself with these routers, rounded as they are exported."""
        memory = Memory(layers=self._memory(routers))
        first = len(self.pairs.train)
        indices = range(first, first + len(self.pairs.validation))
        found = {layer: torch.zeros(len(indices), len(self.rows.passages)) for layer in self.layers}
        budget = reading_tokens(self.config.batch_tokens)
        for batch, _, _, scores in run_questions(
            self.loaded, self.rows, indices, batch_tokens=budget, memory=memory
        ):
            for layer, each in scores.items():
                found[layer][[index - first for index in batch]] = each.float().cpu()
        rankings = {MEAN: torch.stack(list(found.values())).mean(0)}
        rankings |= {f"layer {layer}": scores for layer, scores in found.items()}
        return {
            name: recall(
                by_document(scores, self.rows.document_of_passage, len(self.pairs.documents)),
                self.pairs.validation,
            )
            for name, scores in rankings.items()
        }

    @torch.no_grad()
    def _memory(self, routers: Mapping[str, Tensor]) -> dict[int, LayerChunks]:
        """The corpus as these routers find it; they are in the model then, rounded as they are exported."""
        put_routers(self.loaded.model, routers, own_dtype(self.loaded))
        config, rule = self.loaded.config, self.loaded.config.routing_rule()
        k, v = self.cached[0].of("k"), self.cached[0].of("v")
        memory = {}
        for layer in self.layers:
            projection = self.loaded.model.model.get_submodule(f"layers.{layer}.self_attn.router_k_proj")
            projected = projection(self.chunks[layer].to(self._device)).unflatten(1, (-1, config.head_dim))
            memory[layer] = LayerChunks(
                k=k[layer].to(self._device), v=v[layer].to(self._device), routing_k=rule.keys(projected)
            )
        return memory

    def export(self) -> None:
        """Write the model with the best routers; of its backbone not a bit has changed."""
        source = self.loaded.model.name_or_path
        dtype = own_dtype(self.loaded)
        fresh = load_model(source, device="cpu", dtype=dtype)
        if self.best_step:
            put_routers(fresh.model, self.best, dtype)
            if self.best_bias is not None:
                fresh.model.b.data.copy_(self.best_bias)
        export_model(self.out / MODEL, fresh.model, cast(PreTrainedTokenizerFast, fresh.tokenizer))

    def _bias_now(self) -> Tensor | None:
        return None if self.bias is None else self.bias.detach().clone()

    def _save(self) -> None:
        state = {
            "routers": self.routers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "bias": self._bias_now(),
            "best_bias": self.best_bias,
            "readers": self.readers,
            "best": self.best,
            "best_step": self.best_step,
            "best_recall": self.best_recall,
            "stale": self.stale,
            "round": self.round,
            "step": self.step,
            "loss": self.loss,
            "before": self.before,
        }
        save_state(self.out, state, asdict(self.config), name=STATE)


def recall(scores_QN: Tensor, pairs: Sequence[Pair]) -> dict[str, float]:
    """Share of a question's documents among its best 1, 5 and 16, mean over questions."""
    _, best = top_documents(scores_QN, max(RECALLS))
    found = dict.fromkeys(RECALLS, 0.0)
    for row, pair in zip(best, pairs, strict=True):
        hits = torch.isin(row, torch.tensor(pair.positives))
        for depth in RECALLS:
            found[depth] += int(hits[:depth].sum()) / len(pair.positives)
    return {f"recall@{depth}": value / len(pairs) for depth, value in found.items()}


def _figure(found: Mapping[str, float]) -> float:
    """One number to choose by: the mean over depths, which is never all 0 or all 1 for long."""
    return sum(found.values()) / len(found)


def _bias(method: str, loaded: LoadedModel) -> nn.Parameter | None:
    """The learnt scalar of BCE, fitted with the routers; None for the other losses."""
    if method != "BCE":
        return None
    own = getattr(loaded.model, "b", None)
    if own is None:
        raise ConfigError(
            f'loss is "BCE", which {loaded.name} has no bias for; use one of the INFONCE losses'
        )
    return nn.Parameter(own.detach().float().clone())
