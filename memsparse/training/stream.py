"""The steps of a run, in order, built ahead by a worker process; a step depends on seed and number alone."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from memsparse.errors import EngineError, MemSparseError
from memsparse.text import PromptBuilder
from memsparse.training.config import BUILT_TASKS, Phase, TrainConfig
from memsparse.training.data import CallMix, Step, StepBuilder
from memsparse.training.needles import Prose
from memsparse.training.reading import Reading
from memsparse.training.world import generate_world
from memsparse.types import Document

AHEAD = 8
"""Steps that wait, built, for the trainer."""


class StepStream(IterableDataset[tuple[int, int, Step]]):
    """The steps of a run from `start` to `stop`; random tokens are not drawn here.

    A step has one or more micro-batches, each a `Step` drawn from the seed, its number and its index alone.
    """

    def __init__(
        self,
        config: TrainConfig,
        prompts: PromptBuilder,
        reading: Reading | None,
        *,
        offset: int,
        start: int,
        stop: int | None = None,
        micros: Sequence[int] = (0,),
    ) -> None:
        """Args: micros: indices of the micro-batches that this process takes."""
        self.config, self.prompts, self.reading = config, prompts, reading
        self.offset, self.start = offset, start
        self.stop = config.steps if stop is None else stop
        self.micros = tuple(micros)

    def __iter__(self) -> Iterator[tuple[int, int, Step]]:
        """Yield number, index and micro-batch, one after the other."""
        if get_worker_info() is not None:
            torch.set_num_threads(1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to answer
        for number in range(self.start, self.stop):
            phase = self.config.phase_at(number)
            if phase.task not in BUILT_TASKS:
                continue
            for micro in self.micros:
                rng = draw(self.config.seed, number, micro)
                yield number, micro, build_step(self.prompts, phase, self.reading, rng, self.offset)

    def prefetched(self) -> Iterator[tuple[int, int, Step]]:
        """Start a worker process; return the same steps from there.

        Raises: EngineError in one line for a step that cannot be built.
        """
        # Started here and not at the first step: a bar's thread would be forked with it.
        return _in_one_line(iter(DataLoader(self, batch_size=None, num_workers=1, prefetch_factor=AHEAD)))


def _in_one_line(steps: Iterator[tuple[int, int, Step]]) -> Iterator[tuple[int, int, Step]]:
    try:
        yield from steps
    except MemSparseError as error:  # its text is the worker's whole traceback
        reason = str(error).strip().splitlines()[-1]
        raise EngineError(f"a step could not be built: {reason}") from error


def draw(seed: int, step: int, micro: int) -> Random:
    """What a micro-batch is drawn with."""
    return Random(f"{seed}/{step}/{micro}" if micro else f"{seed}/{step}")


def moved(value: Any, device: torch.device) -> Any:
    """A step, or anything made of lists, tuples, dicts and dataclasses, with its tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(each, device) for each in value)
    if isinstance(value, dict):
        return {name: moved(each, device) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value)}
        return replace(value, **moved(held, device))
    return value


def build_step(
    prompts: PromptBuilder,
    phase: Phase,
    reading: Reading | None,
    rng: Random,
    offset: int,
    *,
    split: str = "train",
) -> Step:
    """Draw one step of a phase."""
    builder = StepBuilder(
        prompts,
        position_offset=offset,
        max_document_tokens=phase.max_document_tokens,
        mix=CallMix(
            first=phase.first,
            misses=phase.misses,
            distractors=phase.distractors,
            interleave=phase.interleave,
            original_text=phase.original_text,
            global_positions=phase.global_positions,
        ),
    )
    if reading is not None and rng.random() < phase.reading_share:
        documents, questions = reading.sample(rng, phase.documents, phase.calls)
        return builder.build(documents, questions, rng, calls=phase.calls, spans=phase.spans)
    real: list[Document] = []
    prose: Prose | None = None
    if reading is not None and phase.real_documents:
        prose = partial(_prose, reading)
        count = int(rng.random() * phase.real_documents * phase.documents)
        drawn = (reading.prose(rng, rng.randint(phase.max_words // 2, phase.max_words)) for _ in range(count))
        real = list({document.id: document for document in drawn}.values())
    world = generate_world(
        rng.getrandbits(48),
        documents=max(1, phase.documents - len(real)),
        questions=phase.calls * 2,
        split="heldout" if split == "heldout" else "train",
        max_words=phase.max_words,
        mix=phase.mix,
        prose=prose,
    )
    documents = [*world.documents, *real]
    rng.shuffle(documents)
    return builder.build(documents, world.questions, rng, calls=phase.calls, spans=phase.spans)


def _prose(reading: Reading, rng: Random, words: int) -> str:
    return reading.prose(rng, words).text
