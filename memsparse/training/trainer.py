"""The training loop of a small model from nothing: phases, metrics, checkpoints, exact resume.

Everything a step sees is drawn from the seed and the step's number, so a run continues where it stopped.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from memsparse.errors import ConfigError, EngineError, InputError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder
from memsparse.training.checkpoint import MODEL, STATE, export_model, load_state, save_state
from memsparse.training.config import BUILT_TASKS, Phase, TrainConfig
from memsparse.training.data import IGNORED, CallMix, Step, copy_batch, induction_batch
from memsparse.training.objective import DigitReader, KeyQueue, LossWeights, StepResult, run_step, span_loss
from memsparse.training.optimizer import MasterOptimizer
from memsparse.training.progress import RunLog, StopSignal
from memsparse.training.reading import Reading, ReadingMix, ReadingSet
from memsparse.training.stream import StepStream, build_step
from memsparse.training.tokenizer import train_tokenizer, vocabulary_texts

log = logging.getLogger(__name__)

LOG_EVERY = 20
"""Steps between two entries of metrics."""
METRICS = "metrics.jsonl"
TOKENIZER = "tokenizer"


class Trainer:
    """Trains a model from nothing, or from the last checkpoint in `out`.

    Processes of a `torch.distributed` group train together: each draws steps of its own, all apply the mean
    of their gradients, and the first one logs, evaluates and saves.
    """

    def __init__(self, config: TrainConfig, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.config, self.tokenizer, self.out = config, tokenizer, out
        self.reading = _open_reading(config)
        self.prompts = PromptBuilder(tokenizer)
        model_config = config.model_config(
            vocab_size=len(tokenizer),
            eos_token_id=int(tokenizer.eos_token_id),
            pad_token_id=0,
        )
        self.model = MemSparseForCausalLM(model_config)
        kv_heads = model_config.num_key_value_heads or model_config.num_attention_heads
        width = len(model_config.memory_layers or ()) * kv_heads * model_config.head_dim
        self.reader = DigitReader(width, CallMix().most_digits)
        # Masters are taken before rounding, so that the first steps start from full precision.
        modules: dict[str, torch.nn.Module] = {"model": self.model, "reader": self.reader}
        self.optimizer = MasterOptimizer(modules, config.optimizer_config)
        for module in modules.values():
            module.to(getattr(torch, config.dtype))
        self.rank = _rank()
        self.step = 0
        self.queue: KeyQueue | None = None
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def train(self, *, until: int | None = None) -> None:
        """Run until the last step, or until step `until`, and save.

        Raises: KeyboardInterrupt after a Ctrl-C, when the step has ended and is saved; EngineError when loss
            or gradients are no longer finite.
        """
        last = self.config.steps if until is None else min(self.config.steps, until)
        offset = self.model.config.position_offset
        stream = StepStream(
            self.config, self.prompts, self.reading, offset=offset, start=self.step, rank=self.rank
        )
        steps = stream.prefetched()
        run_log = RunLog(self.out / METRICS, done=self.step, steps=last, silent=self.rank > 0)
        seconds, tokens, stopping = 0.0, 0, False
        with StopSignal() as stop, run_log:
            while self.step < last and not stopping:
                began = time.perf_counter()
                phase = self.config.phase_at(self.step)
                metrics, count = self._take(phase, steps)
                self.step += 1
                seconds, tokens = seconds + time.perf_counter() - began, tokens + count
                stopping = _anywhere(stop.asked)
                run_log.advance(self.step)
                if self.step % LOG_EVERY == 0 or self.step == last:
                    rate = {"tokens/s": tokens / seconds}
                    run_log.write({"step": self.step, "phase": phase.name, **rate, **metrics})
                    seconds, tokens = 0.0, 0
                if self.step % self.config.eval_every == 0 and phase.task == "calls" and self.rank == 0:
                    run_log.write({"step": self.step, "eval": self.evaluate()}, lasting=True)
                if self.step % self.config.save_every == 0 or self.step == last or stopping:
                    self.save()
        if stopping:
            log.info("interrupted: step %d is saved in %s; run again to continue", self.step, self.out)
            raise KeyboardInterrupt

    def _take(self, phase: Phase, steps: Iterator[tuple[int, Step]]) -> tuple[dict[str, float], int]:
        """Take one step of a phase: metrics and tokens."""
        if phase.task not in BUILT_TASKS:
            return self._tokens(phase)
        number, step = next(steps)
        if number != self.step:
            raise EngineError(f"step {number} was built where step {self.step} is due; report this")
        return self._calls(phase, step) if phase.task == "calls" else self._spans(step)

    def _spans(self, step: Step) -> tuple[dict[str, float], int]:
        ids, repeats = step.spans
        loss = span_loss(self.model, ids, repeats)
        norm = self._descend(loss, lambda: {"ids": ids.tolist(), "repeats": repeats.tolist()})
        return {"loss": float(loss.detach()), "norm": norm}, ids.numel()

    def _tokens(self, phase: Phase) -> tuple[dict[str, float], int]:
        rng = Random(f"{self.config.seed}/{self.step}")
        make = copy_batch if phase.task == "copy" else induction_batch
        ids, labels = make(rng, (5, self.model.config.vocab_size), phase.calls)
        states = self.model.model(input_ids=ids).last_hidden_state
        where = labels[:, 1:] != IGNORED
        logits = self.model.lm_head(states[:, :-1][where]).float()
        loss = cross_entropy(logits, labels[:, 1:][where])
        accuracy = (logits.argmax(1) == labels[:, 1:][where]).float().mean()
        norm = self._descend(loss, lambda: {"ids": ids.tolist(), "labels": labels.tolist()})
        return {"loss": float(loss.detach()), "copy": float(accuracy), "norm": norm}, ids.numel()

    def _calls(self, phase: Phase, step: Step) -> tuple[dict[str, float], int]:
        if phase.queue and (self.queue is None or self.queue.limit != phase.queue):
            self.queue = KeyQueue(phase.queue)
        try:
            result = run_step(
                self.model,
                step,
                phase.loss_weights,
                reader=self.reader,
                queue=self.queue if phase.queue else None,
                gold_only=phase.gold_only,
                generator=torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step),
                lm_documents=phase.lm_documents,
            )
        except InputError as error:  # routing refuses scores that are NaN
            raise self._failure(str(error), describe(step, self.prompts)) from error
        norm = self._descend(result.loss, lambda: describe(step, self.prompts))
        return {"loss": float(result.loss.detach()), **result.metrics, "norm": norm}, step.tokens

    def _descend(self, loss: Tensor, batch: Callable[[], Mapping[str, Any]]) -> float:
        """Take one step down the loss; return the gradient norm."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._failure(f"the loss is {value}", batch())
        loss.backward()
        norm = self.optimizer.step(self.config.learning_rate(self.step))
        if not math.isfinite(norm):
            raise self._failure(f"the gradient norm is {norm}", batch())
        return norm

    def _failure(self, reason: str, batch: Mapping[str, Any]) -> EngineError:
        """Keep the batch of a step that failed, and say where."""
        where = self.out / f"bad-step-{self.step}.json"
        entry = {"step": self.step, "phase": self.config.phase_at(self.step).name, "reason": reason, **batch}
        where.write_text(json.dumps(entry, ensure_ascii=False, indent=1), encoding="utf-8")
        return EngineError(
            f"step {self.step}: {reason}; its batch is in {where}: lower the learning rate, or look there"
        )

    @torch.no_grad()
    def evaluate(self, *, documents: int = 500, seed: int = 7) -> dict[str, float]:
        """Measure on a world never trained on, one large pool: routing, decisions, answers."""
        phase = Phase(name="eval", steps=1, documents=documents, calls=96, max_words=40, misses=0.1)
        offset = self.model.config.position_offset
        step = build_step(self.prompts, phase, None, Random(seed), offset, split="heldout")
        self.model.train(False)
        result = run_step(self.model, step, LossWeights())
        self.model.train()
        recalls = {name: value for name, value in result.metrics.items() if name.startswith("recall")}
        return recalls | by_kind(result)

    def save(self) -> None:
        """Write the state of the run, then export the model; a further process writes only its queue."""
        state: dict[str, Any] = {"step": self.step}
        if self.rank == 0:
            state = {"optimizer": self.optimizer.state_dict(), "step": self.step}
        if self.queue is not None:
            state["queue"] = self.queue.state_dict()
        save_state(self.out, state, asdict(self.config), name=_state_name(self.rank))
        if self.rank > 0:
            return
        export_model(self.out / MODEL, self.model, self.tokenizer)

    def _resume(self) -> None:
        """Continue from the checkpoint in `out`, if there is one."""
        state = load_state(self.out)
        if state is None:
            return
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ConfigError as error:
            raise ConfigError(f"{self.out / STATE}: {error}") from error
        self.step = int(state["step"])
        own = state if self.rank == 0 else load_state(self.out, name=_state_name(self.rank)) or {}
        # A kill may come between the saves of two processes: a queue of another step is left.
        if "queue" in own and own["step"] == self.step:
            self.queue = KeyQueue(int(own["queue"]["limit"]))
            self.queue.load_state_dict(own["queue"])
        log.info("continuing from step %d in %s", self.step, self.out)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _state_name(rank: int) -> str:
    return f"queue-{rank}.safetensors" if rank else STATE


def _anywhere(asked: bool) -> bool:
    """Whether any process was asked to stop: all must end after the same step."""
    if not distributed.is_initialized():
        return asked
    flag = torch.tensor(int(asked))
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def by_kind(result: StepResult) -> dict[str, float]:
    """Share of calls right throughout, and of first decisions right, for every kind of call."""
    found: dict[str, float] = {}
    for kind in sorted(set(result.kinds)):
        rows = torch.tensor([each == kind for each in result.kinds])
        found[kind] = float(result.right[rows].float().mean())
        found[f"{kind}.begins"] = float(result.begins[rows].float().mean())
    return found


def describe(step: Step, prompts: PromptBuilder) -> dict[str, Any]:
    """A step as JSON: text of documents and calls, what each call should have said, and the token ids."""
    lengths = step.document_lengths.tolist()
    documents = [row[:length] for row, length in zip(step.document_ids.tolist(), lengths, strict=True)]
    calls = []
    for batch in step.batches:
        for row, kind in enumerate(batch.kinds):
            ids = batch.ids[row][batch.mask[row]].tolist()
            labels = batch.labels[row][batch.mask[row]].tolist()
            calls.append(
                {
                    "kind": kind,
                    "text": prompts.decode(ids),
                    "target": prompts.decode([label for label in labels if label != IGNORED]),
                    "positives": batch.positives[row].nonzero().flatten().tolist(),
                    "read": batch.read[row].nonzero().flatten().tolist(),
                    "ids": ids,
                    "labels": labels,
                }
            )
    return {"documents": [{"text": prompts.decode(ids), "ids": ids} for ids in documents], "calls": calls}


def run(config: TrainConfig, out: Path, *, until: int | None = None) -> Trainer:
    """Train as a config says, into a folder; a second call continues what the first left.

    Raises: ConfigError for a folder or reading files that cannot be used, before any step; and as
        `Trainer.train`.
    """
    if until is not None and until < 1:
        raise ConfigError(f"until is {until}; stop after step 1 or later")
    for path in (path for source in config.reading_sources for path in source.paths):
        if not path.is_file():
            raise ConfigError(f"reading: no file {path} (relative to {Path.cwd()}); mend the recipe's path")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; train into a folder that can be made") from error
    folder = out / TOKENIZER
    if not folder.exists() and _rank() == 0:
        tokenizer = train_tokenizer(vocabulary_texts(config.reading_sources), vocab_size=config.vocab_size)
        aside = out / f"{TOKENIZER}.tmp"
        tokenizer.save_pretrained(aside)
        aside.replace(folder)
    if distributed.is_initialized():
        distributed.barrier()  # for the tokenizer
    trainer = Trainer(config, PreTrainedTokenizerFast.from_pretrained(folder), out)
    trainer.train(until=until)
    return trainer


def _open_reading(config: TrainConfig) -> Reading | None:
    sources = [source for source in config.reading_sources if source.weight]
    if not sources:
        return None
    sets = [
        ReadingSet(
            Path(source.corpus),
            None if source.queries is None else Path(source.queries),
            window_words=config.reading_window,
        )
        for source in sources
    ]
    return ReadingMix(sets, [source.weight for source in sources])
