"""A phase of training: a stretch of steps with the same settings."""

import math
import re
from dataclasses import dataclass, field

from memsparse.errors import ConfigError
from memsparse.training.data import CallMix
from memsparse.training.objective import LossWeights
from memsparse.training.settings import hold, made
from memsparse.training.world import DEFAULT_MIX, FEWEST_WORDS

BUILT_TASKS = ("calls", "spans")
"""Tasks whose steps are drawn from documents."""
TASKS = ("copy", "induction", *BUILT_TASKS)
SHAPES = ("linear", "cosine")
_FILE_NAME = re.compile(r"[\w .+-]+")
SHORTEST_DOCUMENT = 32
"""Tokens; both numbers and the template take up to 20."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of steps with the same settings."""

    name: str
    steps: int
    task: str = "calls"
    """"copy", "induction" (random tokens, repeated), "spans" (repeated text) or, with memory, "calls"."""
    documents: int = 64
    """Documents of a step's pool."""
    calls: int = 32
    """Calls of a step; rows of repeated random tokens where they are the task."""
    max_words: int = 30
    """Words of a world's document, at most."""
    max_document_tokens: int = 96
    """Tokens of an encoded document, template included; longer ones lose their middle."""
    reading_share: float = 0.0
    """Share of steps on real questions instead of worlds."""
    real_documents: float = 0.0
    """Share of the documents of worlds, at most, that are real text which nobody asks about; half of the
    needles of such worlds are put into real text, too."""
    gold_only: float = 0.2
    """Share of calls that may select only the documents they ask for."""
    lm_documents: int = 6
    """Documents of a step that take part in language modelling."""
    queue: int = 0
    """Documents of earlier steps kept as negatives."""
    mix: dict[str, float] | None = None
    """Shares of question kinds in worlds; None: the generator's own."""
    weights: dict[str, float] = field(default_factory=dict)
    """Overrides of `LossWeights`."""
    first: float = 0.6
    """Share of first calls; see `CallMix`."""
    spans: int = 0
    """Rows of repeated text: beside the calls, or alone where they are the task."""
    misses: float = 0.15
    """Chance that a call follows a turn which read only wrong documents."""
    distractors: float = 0.4
    """Chance that read documents have others beside them."""
    interleave: bool = True
    original_text: bool = True
    global_positions: bool = False
    """These three, for experiments: see `CallMix`."""
    rate: float = 1.0
    """Factor on the peak learning rates at the phase's first step."""
    rate_end: float | None = None
    """The factor at its last step. None: the same all through."""
    shape: str = "linear"
    """How the factor goes from one to the other: "linear" or "cosine"."""
    clean: float = 0.0
    """Share of the real questions that the model answers worst, left out from here on; 0: none."""

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}: "
        if self.task not in TASKS:
            raise ConfigError(f"{where}task is {self.task!r}; use one of {', '.join(TASKS)}")
        lowest = {"steps": 0, "documents": 1, "calls": 1, "lm_documents": 0, "spans": 0, "queue": 0}
        lowest |= {"max_words": FEWEST_WORDS, "max_document_tokens": SHORTEST_DOCUMENT}
        for name, low in lowest.items():
            hold(where, name, getattr(self, name), low)
        hold(where, "documents", self.documents, 1, 10 ** CallMix().most_digits)
        if self.queue:
            hold(where, "queue", self.queue, self.documents)
        if self.task == "spans":
            hold(where, "spans", self.spans, 1)
        shares = ("reading_share", "real_documents", "gold_only", "first", "misses", "distractors")
        for name in (*shares, "clean"):
            hold(where, name, getattr(self, name), 0, 1)
        hold(where, "rate", self.rate, 0)
        hold(where, "rate_end", self.last_rate, 0)
        if self.shape not in SHAPES:
            raise ConfigError(f"{where}shape is {self.shape!r}; use one of {', '.join(SHAPES)}")
        if self.clean and self.task != "calls":
            raise ConfigError(
                f"{where}clean is {self.clean}, but the task is {self.task!r}; set it for calls"
            )
        if self.clean and not _FILE_NAME.fullmatch(self.name):
            raise ConfigError(f"{where}clean names a file after the phase; use letters, digits, . + - _ only")
        for name, weight in (self.mix or {}).items():
            if name not in DEFAULT_MIX:
                raise ConfigError(f"{where}mix has the unknown kind {name}; known: {', '.join(DEFAULT_MIX)}")
            hold(where, f"mix.{name}", weight, 0)
        if self.mix is not None and not any(self.mix.values()):
            raise ConfigError(f"{where}mix is {self.mix}; give at least one kind a share, or leave mix out")
        for name, weight in self.weights.items():
            hold(where, f"weights.{name}", weight, 0)
        _ = self.loss_weights

    @property
    def loss_weights(self) -> LossWeights:
        """The weights of the losses in this phase."""
        return made(LossWeights, self.weights, f"phase {self.name!r}: weights: ")

    @property
    def last_rate(self) -> float:
        """The factor on the peak learning rates at the last step."""
        return self.rate if self.rate_end is None else self.rate_end

    def rate_at(self, step: int) -> float:
        """The factor on the peak learning rates at a step of the phase, counted from 0."""
        share = step / max(1, self.steps - 1)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.rate + (self.last_rate - self.rate) * share
