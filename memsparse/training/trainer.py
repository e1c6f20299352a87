"""The training loop: phases, micro-batches, metrics, checkpoints, exact resume.

Everything a step sees is drawn from the seed and the step's number, so a run continues where it stopped, and
in as many processes as there are.
"""

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from memsparse.errors import ConfigError, EngineError, InputError
from memsparse.machine import matrix_peak
from memsparse.model.flops import text_flops
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder
from memsparse.training.boards import Board
from memsparse.training.checkpoint import (
    MODEL,
    STATE,
    export_model,
    load_state,
    remove_state,
    save_state,
    saved_config,
)
from memsparse.training.config import BUILT_TASKS, Phase, TrainConfig
from memsparse.training.data import CallMix, Step, copy_batch, induction_batch
from memsparse.training.failures import failure, tell
from memsparse.training.learner import Learner, checkpoint_layers
from memsparse.training.lora import LoraSettings, add_lora, save_adapter
from memsparse.training.measuring import Measures
from memsparse.training.objective import DigitReader, KeyQueue
from memsparse.training.optimizer import MasterOptimizer
from memsparse.training.processes import Processes
from memsparse.training.progress import METRICS, Averages, RunLog, StopSignal, interruption
from memsparse.training.reading import open_reading
from memsparse.training.settings import made
from memsparse.training.sharding import gather, reduce, release, shard
from memsparse.training.start import TOKENIZER, new_model, prepare, start_folder, started_model
from memsparse.training.stream import draw, moved
from memsparse.training.supply import Steps, Supply
from memsparse.training.utilisation import step_flops
from memsparse.training.whole import whole_model

log = logging.getLogger(__name__)

LOG_EVERY = 20
"""Steps between two entries of metrics."""
ADAPTER = "adapter"
BOARD = "tensorboard"

Batch = Step | tuple[torch.Tensor, torch.Tensor]
"""A micro-batch: a step, or the ids and labels of random tokens."""


@dataclass(kw_only=True, slots=True)
class _Since:
    """What was done since the last entry of metrics."""

    averages: Averages = field(default_factory=Averages)
    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loss:
    """What a micro-batch gave."""

    loss: torch.Tensor
    metrics: dict[str, float]
    tokens: int
    flops: float


class Trainer:
    """Trains a model from nothing, from another one, or from the last checkpoint in `out`.

    Processes train together: each takes its share of a step's micro-batches, all apply the mean of their
    gradients, and the first one logs and saves.
    """

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: PreTrainedTokenizerFast,
        out: Path,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes(cpu=config.cpu)
        torch.set_num_threads(config.threads)
        self.config, self.tokenizer, self.out = config, tokenizer, out
        self.micros = self.processes.share(config.micro_steps)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        reading = open_reading(config.reading_sources, config.reading_window)
        self.prompts = PromptBuilder(tokenizer)
        self.lora = None if config.lora is None else made(LoraSettings, config.lora, "lora: ")
        self._make_learner()
        offset = self.model.config.position_offset
        self.measures = Measures(config, self.prompts, offset=offset)
        self.supply = Supply(
            config, self.prompts, reading, out, offset=offset, micros=self.micros, processes=self.processes
        )
        self.step = 0
        self.queues: dict[int, KeyQueue] = {}
        out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _make_learner(self) -> None:
        """Make model, readout and optimizer, on their device."""
        config, device = self.config, self.processes.device
        torch.manual_seed(config.seed)
        if config.start is None:
            self.model = new_model(config, self.tokenizer)
        else:
            # What stays frozen needs no float32 masters.
            frozen = self.lora is not None and not config.sharded
            folder = start_folder(config.start, self.out)
            self.model = started_model(
                config, self.tokenizer, folder, dtype=self.dtype if frozen else torch.float32
            )
        settings = self.model.config
        kv_heads = settings.num_key_value_heads or settings.num_attention_heads
        width = len(settings.memory_layers or ()) * kv_heads * settings.head_dim
        self.reader = DigitReader(width, CallMix().most_digits)
        if self.lora is not None:
            add_lora(self.model, self.lora)
        if config.gradient_checkpointing:
            checkpoint_layers(self.model)
        self.learner = Learner(self.model, self.reader).to(device)
        if config.sharded:
            shard(self.learner, device=device, processes=self.processes.count, dtype=self.dtype)
        # Masters are taken before rounding, so that the first steps start from full precision.
        self.optimizer = MasterOptimizer(
            {"learner": self.learner}, config.optimizer_config, processes=self.processes
        )
        if not config.sharded:
            # Parameters alone: rounded frequencies would turn other angles than those the engine turns.
            for parameter in self.learner.parameters():
                parameter.data = parameter.data.to(self.dtype)

    def train(self, *, until: int | None = None) -> None:
        """Run until the last step, or until step `until`, and save; a run that is there already exports its
        model again, which a full disk may have prevented.

        Raises: KeyboardInterrupt after a Ctrl-C, when the step has ended and is saved; EngineError when loss
            or gradients are no longer finite, or the disk is full.
        """
        last = self.config.steps if until is None else min(self.config.steps, until)
        if self.step >= last:
            self._export()
            return
        peak = matrix_peak(self.dtype, self.processes.device)
        steps = self.supply.steps(self.step, self._measured_model)
        since, stopping = _Since(), False
        with StopSignal(silent=not self.processes.first) as stop, self._run_log(last) as run_log:
            while self.step < last and not stopping:
                began = time.perf_counter()
                phase = self.config.phase_at(self.step)
                self._take(phase, steps, since)
                since.seconds += time.perf_counter() - began
                self.step += 1
                stopping = self.processes.anywhere(stop.asked)
                run_log.advance(self.step)
                if self.step % LOG_EVERY == 0 or self.step == last:
                    run_log.write(self._entry(phase, since, peak))
                    since = _Since()
                if self.step % self.config.eval_every == 0 and phase.task == "calls":
                    run_log.write({"step": self.step, "eval": self.evaluate()}, lasting=True)
                if self.step % self.config.save_every == 0 or self.step == last or stopping:
                    self.save()
        if stopping:
            raise interruption(self.step, self.out) if self.processes.first else KeyboardInterrupt

    def _run_log(self, last: int) -> RunLog:
        first = self.processes.first
        board = Board(self.out / BOARD, done=self.step) if self.config.tensorboard and first else None
        return RunLog(self.out / METRICS, done=self.step, steps=last, silent=not first, board=board)

    def _entry(self, phase: Phase, since: _Since, peak: float) -> dict[str, Any]:
        """What is logged of the steps since the last entry; tokens are those of all processes."""
        tokens = self.processes.sum(torch.tensor(float(since.tokens), device=self.processes.device))
        return {
            "step": self.step,
            "phase": phase.name,
            "tokens/s": float(tokens) / since.seconds,
            "mfu": since.flops / since.seconds / peak,
            "rate": self.config.learning_rate(self.step - 1),
            **since.averages.take(),
        }

    # --- steps --------------------------------------------------------------------------------------------

    def _take(self, phase: Phase, steps: Steps, since: _Since) -> None:
        """Take one step of a phase: the mean gradient of its micro-batches, then the optimizers."""
        batches = {micro: self._draw(phase, micro, steps) for micro in self.micros}
        gather(self.learner)
        for micro, batch in batches.items():
            taken = self._micro(phase, micro, batch)
            since.averages.add(taken.metrics)
            since.tokens += taken.tokens
            since.flops += taken.flops
        reduce(self.learner)
        norm = self.optimizer.step(self.config.learning_rate(self.step), micro_steps=len(self.micros))
        if not math.isfinite(norm):
            raise self._failure(f"the gradient norm is {norm}", phase, batches)
        since.averages.add({"norm": norm})

    def _draw(self, phase: Phase, micro: int, steps: Steps) -> Batch:
        if phase.task not in BUILT_TASKS:
            make = copy_batch if phase.task == "copy" else induction_batch
            rng = draw(self.config.seed, self.step, micro)
            return make(rng, (5, self.model.config.vocab_size), phase.calls)
        number, index, step = next(steps)
        if (number, index) != (self.step, micro):
            raise EngineError(f"step {number} was built where step {self.step} is due; report this")
        return step

    def _micro(self, phase: Phase, micro: int, batch: Batch) -> _Loss:
        """Loss and gradients of one micro-batch."""
        torch.manual_seed(draw(self.config.seed, self.step, micro).getrandbits(63))  # for dropout
        reason, taken = "", None
        try:
            taken = self._loss(phase, micro, batch)
            value = float(taken.loss.detach())
            reason = "" if math.isfinite(value) else f"the loss is {value}"
        except InputError as error:  # routing refuses scores that are NaN
            reason = str(error)
        # Other processes would wait for this one in their next exchange.
        if self.processes.anywhere(bool(reason)) or taken is None:
            raise self._failure(reason, phase, {micro: batch})
        taken.loss.backward()
        if not self.config.sharded:
            self.optimizer.collect()
        return taken

    def _loss(self, phase: Phase, micro: int, batch: Batch) -> _Loss:
        frozen = self.lora is not None
        there = moved(batch, self.processes.device)
        config = self.model.config
        if isinstance(batch, Step) and phase.task == "calls":
            result = self.learner(
                "calls",
                there,
                phase.loss_weights,
                queue=self._queue(phase, micro),
                gold_only=phase.gold_only,
                generator=self._generator(micro),
                lm_documents=phase.lm_documents,
            )
            metrics = {"loss": float(result.loss.detach()), **result.metrics}
            flops = step_flops(config, batch, lm_documents=phase.lm_documents, frozen=frozen)
            return _Loss(loss=result.loss, metrics=metrics, tokens=batch.tokens, flops=flops)
        if isinstance(batch, Step):
            ids, loss, metrics = batch.spans[0], self.learner("spans", *there.spans), {}
        else:
            ids = batch[0]
            loss, accuracy = self.learner(phase.task, *there)
            metrics = {"copy": float(accuracy)}
        flops = text_flops(config, *ids.shape, weights=4 if frozen else 6)
        metrics["loss"] = float(loss.detach())
        return _Loss(loss=loss, metrics=metrics, tokens=ids.numel(), flops=flops)

    def _queue(self, phase: Phase, micro: int) -> KeyQueue | None:
        """The keys of earlier micro-batches of the same index."""
        if not phase.queue:
            return None
        if micro not in self.queues or self.queues[micro].limit != phase.queue:
            self.queues[micro] = KeyQueue(phase.queue)
        return self.queues[micro]

    def _generator(self, micro: int) -> torch.Generator:
        seed = self.config.seed * 1_000_003 + self.step
        return torch.Generator().manual_seed(seed + (micro << 52))

    def _failure(self, reason: str, phase: Phase, batches: Mapping[int, Batch]) -> EngineError:
        if not reason:
            return EngineError(f"step {self.step}: another process stopped; its own line says why")
        told = {micro: tell(phase.task, batch, self.prompts) for micro, batch in batches.items()}
        return failure(self.out, self.step, phase.name, reason, told)

    # --- measuring and saving -----------------------------------------------------------------------------

    def _measured_model(self) -> MemSparseForCausalLM | None:
        """The model as it is now, adapters and all, for what measures it by itself."""
        return whole_model(self.model, self.lora if self.config.sharded else None, self.dtype)

    def evaluate(self, *, documents: int | None = None, seed: int = 7) -> dict[str, float]:
        """Measure on a world never trained on, and on the validation sets: routing, decisions, answers.

        The first process measures, others return nothing; all must ask where the model is sharded.
        """
        gather(self.learner)
        found: dict[str, float] = {}
        if self.processes.first:
            found = self.measures.take(self.learner, self.processes.device, documents=documents, seed=seed)
        release(self.learner)
        return found

    def save(self) -> None:
        """Write the state of the run, then export the model.

        Raises: EngineError where the disk is full; the last good checkpoint is as before.
        """
        queues = self._all_queues()
        state = {"optimizer": self.optimizer.state_dict(), "step": self.step, "queues": queues}
        if self.processes.first:
            save_state(self.out, state, asdict(self.config))
        self._export()

    def _export(self) -> None:
        """Write the model as the engine loads it."""
        model = whole_model(self.model, self.lora, self.dtype)
        if self.processes.first and model is not None:
            export_model(self.out / MODEL, model, self.tokenizer)
            if self.lora is not None and not self.config.sharded:
                save_adapter(self.model, self.out / ADAPTER)

    def _all_queues(self) -> dict[int, Any]:
        """The queues of every micro-batch, as the first process is to save them; others hand theirs over."""
        own = {micro: queue.state_dict() for micro, queue in sorted(self.queues.items())}
        if not self.processes.first:
            save_state(self.out, {"queues": own}, {}, name=_part_name(self.processes.rank))
        self.processes.wait()
        if self.processes.first:
            for rank in range(1, self.processes.count):
                handed = load_state(self.out, name=_part_name(rank)) or {}
                own |= handed.get("queues", {})
                remove_state(self.out, name=_part_name(rank))
        return own

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
        held = state.get("queues") or ({0: state["queue"]} if "queue" in state else {})
        for micro in self.micros:
            if micro in held:
                self.queues[micro] = KeyQueue(int(held[micro]["limit"]))
                self.queues[micro].load_state_dict(moved(held[micro], self.processes.device))
        if self.step < self.config.steps:
            log.info("continuing from step %d in %s", self.step, self.out)
        else:
            log.info("all %d steps in %s are done", self.step, self.out)
        now, before = json.loads(json.dumps(asdict(self.config))), saved_config(self.out)
        changed = [name for name, value in now.items() if name in before and before[name] != value]
        if changed:
            log.info("set otherwise than before, from here on: %s", ", ".join(changed))


def _part_name(rank: int) -> str:
    return f"queues-{rank}.part.safetensors"


def run(config: TrainConfig, out: Path, *, until: int | None = None) -> Trainer:
    """Train as a config says, into a folder; a second call continues what the first left.

    Under torchrun or `accelerate launch`, it joins the other processes; the caller leaves them
    (`memsparse.training.processes.leave`).

    Raises: ConfigError for a folder or reading files that cannot be used, before any step; and as
        `Trainer.train`.
    """
    if until is not None and until < 1:
        raise ConfigError(f"until is {until}; stop after step 1 or later")
    sources = [("reading", source) for source in config.reading_sources]
    sources += [("validation", source) for source in config.validation_sources]
    for name, path in ((name, path) for name, source in sources for path in source.paths):
        if not path.is_file():
            raise ConfigError(f"{name}: no file {path} (relative to {Path.cwd()}); mend the recipe's path")
    if config.start is not None:
        start_folder(config.start, out)
    processes = Processes(cpu=config.cpu)
    processes.share(config.micro_steps)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; train into a folder that can be made") from error
    if processes.first:
        prepare(config, out)
    processes.wait()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / TOKENIZER)
    trainer = Trainer(config, tokenizer, out, processes)
    trainer.train(until=until)
    return trainer
