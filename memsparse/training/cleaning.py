"""Data cleaning between the stages of fine-tuning: questions that a model cannot answer from their passages.

A question whose answer stays unlikely though exactly its own passages are read is, more often than others,
one with a wrong label.
"""

import logging
import math
from collections.abc import Iterator
from random import Random
from time import perf_counter

import torch

from memsparse.engine.encoder import document_limit
from memsparse.errors import ConfigError, InputError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder
from memsparse.training.data import CallMix, Step, StepBuilder
from memsparse.training.objective import LossWeights, run_step
from memsparse.training.reading import Reading
from memsparse.training.stream import moved
from memsparse.training.world import Question
from memsparse.types import Document

log = logging.getLogger(__name__)

_TRIES = 64
"""Calls drawn of a question until one is that which answers."""
_REPORT_SECONDS = 10.0


@torch.no_grad()
def unfit(
    model: MemSparseForCausalLM,
    prompts: PromptBuilder,
    reading: Reading,
    *,
    share: float,
    seed: int,
    most: int = 2000,
) -> list[str]:
    """Return the ids of the questions whose answers a model finds least likely, the worst first.

    Each question is measured alone: a memory of the windows it needs, all of them read, then the mean loss
    over the tokens of the answer sentence. Questions without an answer are not measured. Equal arguments
    give equal ids.

    Args:
        share: of the questions measured that are returned, rounded down.
        most: questions measured, at most; drawn at random from all.

    Raises: ConfigError for a share outside 0 to 1, or `most` below 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}; it must be between 0 and 1")
    if most < 1:
        raise ConfigError(f"most is {most}; it must be at least 1")
    builder = StepBuilder(
        prompts,
        position_offset=model.config.position_offset,
        max_document_tokens=document_limit(model.config),
        mix=CallMix(distractors=0.0, first=0.0, misses=0.0),
    )
    training = model.training
    model.train(False)
    losses: dict[str, float] = {}
    reported = perf_counter()
    try:
        for id_, step in _answering(builder, reading, seed, most):
            losses[id_] = _loss(model, step)
            if perf_counter() - reported >= _REPORT_SECONDS:
                reported = perf_counter()
                log.info("%d questions measured", len(losses))
    finally:
        model.train(training)
    ranked = sorted(losses, key=lambda id_: (-losses[id_], id_))
    return ranked[: int(share * len(ranked))]


def _loss(model: MemSparseForCausalLM, step: Step) -> float:
    """Mean over the tokens of the answer sentence, without the decision to give one."""
    loss = run_step(model, moved(step, model.device), LossWeights(decisions=0.0)).metrics["lm"]
    return math.inf if math.isnan(loss) else loss


def _answering(builder: StepBuilder, reading: Reading, seed: int, most: int) -> Iterator[tuple[str, Step]]:
    """Questions in a random order, each with a step that holds nothing but the call which answers it."""
    order = list(range(reading.asked))
    Random(seed).shuffle(order)
    for number in order:
        if most == 0:
            return
        rng = Random(f"{seed}/{number}")
        id_, documents, question = reading.alone(number, rng)
        if not question.answers:
            continue
        step = _last_call(builder, documents, question, rng)
        if step is not None:
            most -= 1
            yield id_, step


def _last_call(
    builder: StepBuilder, documents: list[Document], question: Question, rng: Random
) -> Step | None:
    """The call that comes after all passages were read; None where it is too long."""
    for _ in range(_TRIES):
        try:
            step = builder.build(documents, [question], rng, calls=1)
        except InputError:
            continue
        if step.batches[0].kinds == ("answer",):
            return step
    return None
