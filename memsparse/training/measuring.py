"""Measuring a model while it trains: a world it never trains on, and real questions kept back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from memsparse.text import PromptBuilder
from memsparse.training.config import Phase, ReadingSource, TrainConfig
from memsparse.training.data import Step
from memsparse.training.learner import Learner
from memsparse.training.objective import LossWeights, StepResult
from memsparse.training.reading import Reading, open_reading
from memsparse.training.stream import build_step, moved

_CALLS = 96


class Measures:
    """One large pool of each kind, drawn anew from the same seed whenever it is used."""

    def __init__(self, config: TrainConfig, prompts: PromptBuilder, *, offset: int) -> None:
        self.prompts, self.offset = prompts, offset
        phase = Phase(
            name="eval", steps=1, documents=config.eval_documents, calls=_CALLS, max_words=40, misses=0.1
        )
        longest = [each.max_document_tokens for each in config.phases if each.task == "calls"]
        self.phase = replace(phase, max_document_tokens=max(longest)) if longest else phase
        self.readings = _open_validation(config)

    def take(
        self, learner: Learner, device: torch.device, *, documents: int | None, seed: int
    ) -> dict[str, float]:
        """Measure on the held-out world, and on each validation set with `validation.` before its metrics."""
        phase = self.phase if documents is None else replace(self.phase, documents=documents)
        found = _measured(learner, self._step(phase, None, seed), device)
        real = replace(phase, reading_share=1.0)
        for name, reading in self.readings.items():
            measured = _measured(learner, self._step(real, reading, seed), device)
            found |= {f"validation.{name}{key}": value for key, value in measured.items()}
        return found

    def _step(self, phase: Phase, reading: Reading | None, seed: int) -> Step:
        return build_step(self.prompts, phase, reading, Random(seed), self.offset, split="heldout")


@torch.no_grad()
def _measured(learner: Learner, step: Step, device: torch.device) -> dict[str, float]:
    learner.train(False)
    result = learner("calls", moved(step, device), LossWeights())
    learner.train()
    recalls = {name: value for name, value in result.metrics.items() if name.startswith("recall")}
    return recalls | by_kind(result)


def by_kind(result: StepResult) -> dict[str, float]:
    """Share of calls right throughout, and of first decisions right, for every kind of call."""
    found: dict[str, float] = {}
    for kind in sorted(set(result.kinds)):
        rows = torch.tensor([each == kind for each in result.kinds], device=result.right.device)
        found[kind] = float(result.right[rows].float().mean())
        found[f"{kind}.begins"] = float(result.begins[rows].float().mean())
    return found


def _open_validation(config: TrainConfig) -> Mapping[str, Reading]:
    """The validation sets by prefix: none where there is one, else the names of their files."""
    opened: dict[str, Reading] = {}
    for number, source in enumerate(config.validation_sources, 1):
        reading = open_reading([source], config.reading_window)
        if reading is not None:
            prefix = "" if len(config.validation_sources) == 1 else f"{_short_name(source)}."
            opened[f"{number}.{prefix}" if prefix in opened else prefix] = reading
    return opened


def _short_name(source: ReadingSource) -> str:
    return Path(source.corpus or source.dataset or "").name.partition(".")[0]
