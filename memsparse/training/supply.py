"""What the steps of a run are: streams of micro-batches, and the questions left out of them on the way."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from memsparse.errors import ConfigError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder
from memsparse.training import cleaning
from memsparse.training.checkpoint import write_json
from memsparse.training.config import Phase, TrainConfig
from memsparse.training.data import Step
from memsparse.training.processes import Processes
from memsparse.training.reading import Reading
from memsparse.training.stream import StepStream

log = logging.getLogger(__name__)

Steps = Iterator[tuple[int, int, Step]]
"""Number, index and micro-batch."""
ModelNow = Callable[[], MemSparseForCausalLM | None]
"""The model as it is when asked; None in processes that need not measure it."""


class Supply:
    """Builds the micro-batches of a run, from any step on."""

    def __init__(
        self,
        config: TrainConfig,
        prompts: PromptBuilder,
        reading: Reading | None,
        out: Path,
        *,
        offset: int,
        micros: Sequence[int],
        processes: Processes,
    ) -> None:
        self.config, self.prompts, self.reading, self.out = config, prompts, reading, out
        self.offset, self.micros, self.processes = offset, micros, processes

    def steps(self, start: int, model: ModelNow) -> Steps:
        """Micro-batches from a step on; a phase that leaves out questions begins a stream of its own.

        Raises: ConfigError if a file of questions left out is missing, or all would be.
        """
        later = (self._stream(first, model) for first in self.config.cleanings if first > start)
        return chain(self._stream(start, model), chain.from_iterable(later))

    def _stream(self, start: int, model: ModelNow) -> Steps:
        return StepStream(
            self.config,
            self.prompts,
            self.clean_reading(start, model),
            offset=self.offset,
            start=start,
            stop=min((first for first in self.config.cleanings if first > start), default=self.config.steps),
            micros=self.micros,
        ).prefetched()

    def clean_reading(self, start: int, model: ModelNow) -> Reading | None:
        """The reading without what the phases up to a step left out; one that begins there is asked now."""
        reading = self.reading
        for first, phase in self.config.cleanings.items():
            if reading is None or first > start:
                break
            path = self.out / f"cleaned-{phase.name}.json"
            if first == start:
                self._clean(path, phase, reading, model)
            if not path.exists():
                raise ConfigError(f"no {path}, which phase {phase.name!r} began with; put it back")
            reading = reading.without(json.loads(path.read_text(encoding="utf-8")))
        return reading

    def _clean(self, path: Path, phase: Phase, reading: Reading, model: ModelNow) -> None:
        """Find and store the questions that a phase leaves out, unless that was done before."""
        if self.processes.anywhere(not path.exists()):
            asked = model()
            if asked is not None and self.processes.first:
                seed = self.config.seed
                ids = cleaning.unfit(asked, self.prompts, reading, share=phase.clean, seed=seed)
                write_json(path, ids)
                log.info("%d questions are left out from phase %s on: %s", len(ids), phase.name, path)
        self.processes.wait()
