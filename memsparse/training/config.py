"""What a training run is: phases and settings, read from a TOML recipe and checked before any work."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

from huggingface_hub.errors import StrictDataclassError

from memsparse.errors import ConfigError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.training.data import NOT_FOUND, CallMix
from memsparse.training.objective import LossWeights
from memsparse.training.optimizer import OptimizerConfig
from memsparse.training.world import DEFAULT_MIX, FEWEST_WORDS

BUILT_TASKS = ("calls", "spans")
"""Tasks whose steps are drawn from documents."""
TASKS = ("copy", "induction", *BUILT_TASKS)
DTYPES = ("bfloat16", "float32")
SHORTEST_DOCUMENT = 32
"""Tokens; both numbers and the template take up to 20."""

_T = TypeVar("_T")


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

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}: "
        if self.task not in TASKS:
            raise ConfigError(f"{where}task is {self.task!r}; use one of {', '.join(TASKS)}")
        lowest = {"steps": 0, "documents": 1, "calls": 1, "lm_documents": 0, "spans": 0, "queue": 0}
        lowest |= {"max_words": FEWEST_WORDS, "max_document_tokens": SHORTEST_DOCUMENT}
        for name, low in lowest.items():
            _hold(where, name, getattr(self, name), low)
        _hold(where, "documents", self.documents, 1, 10 ** CallMix().most_digits)
        if self.task == "spans":
            _hold(where, "spans", self.spans, 1)
        for name in ("reading_share", "real_documents", "gold_only", "first", "misses", "distractors"):
            _hold(where, name, getattr(self, name), 0, 1)
        for name, weight in (self.mix or {}).items():
            if name not in DEFAULT_MIX:
                raise ConfigError(f"{where}mix has the unknown kind {name}; known: {', '.join(DEFAULT_MIX)}")
            _hold(where, f"mix.{name}", weight, 0)
        if self.mix is not None and not any(self.mix.values()):
            raise ConfigError(f"{where}mix is {self.mix}; give at least one kind a share, or leave mix out")
        for name, weight in self.weights.items():
            _hold(where, f"weights.{name}", weight, 0)
        _ = self.loss_weights

    @property
    def loss_weights(self) -> LossWeights:
        """The weights of the losses in this phase."""
        return made(LossWeights, self.weights, f"phase {self.name!r}: weights: ")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingSource:
    """Files of real text, and how often they are drawn."""

    corpus: str
    """JSON Lines, relative to the working directory."""
    queries: str | None = None
    """Questions about the corpus; None: questions are made of its text."""
    weight: float = 1.0
    """Against the other sources."""

    def __post_init__(self) -> None:
        _hold("reading: ", "weight", self.weight, 0)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(Path(each) for each in (self.corpus, self.queries) if each is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole run, as a TOML file says it."""

    seed: int = 0
    vocab_size: int = 6144
    dtype: str = "bfloat16"
    threads: int = 1
    warmup: int = 40
    """Steps of linear warm-up."""
    decay: float = 0.25
    """Share of all steps, the last ones, over which the learning rate falls linearly to `floor`."""
    floor: float = 0.03
    eval_every: int = 200
    save_every: int = 200
    reading: dict[str, Any] | list[Any] | None = None
    """Fields of `ReadingSource`, or a list of such tables."""
    reading_words: int | list[int] = 48
    """Words of a window cut from a real passage, or the fewest and the most."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `MemSparseConfig`."""
    optimizer: dict[str, float] = field(default_factory=dict)
    """Fields of `OptimizerConfig`."""
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; use one of {', '.join(DTYPES)}")
        _hold("", "seed", self.seed, 0, 2**32 - 1)
        lowest = {"vocab_size": 1, "threads": 1, "warmup": 0, "eval_every": 1, "save_every": 1}
        for name, low in lowest.items():
            _hold("", name, getattr(self, name), low)
        fewest, most = self.reading_window
        _hold("", "reading_words", fewest, 1)
        _hold("", "reading_words", most, fewest)
        for name in ("decay", "floor"):
            _hold("", name, getattr(self, name), 0, 1)
        if self.reading is not None and not sum(source.weight for source in self.reading_sources):
            raise ConfigError("reading names no source with a weight above 0; add one, or leave reading out")
        if not self.steps:
            raise ConfigError("the phases have no steps; give at least one [[phases]] with steps")
        for phase in self.phases:
            for name in ("reading_share", "real_documents"):
                if getattr(phase, name) and self.reading is None:
                    raise ConfigError(
                        f"phase {phase.name!r}: {name} is {getattr(phase, name)}, but the recipe names no "
                        "reading files; add reading = { corpus = ..., queries = ... }"
                    )
        _ = self.optimizer_config
        self.model_config()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises: ConfigError for a missing file, bad TOML, an unknown key or a value out of range.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}; give a readable TOML recipe") from error
        phases = values.pop("phases", [])
        if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
            raise ConfigError(f"{path}: phases is no list of tables; write each as [[phases]]")
        try:
            read = tuple(made(Phase, phase, f"phase {phase.get('name')!r}: ") for phase in phases)
            return made(cls, values | {"phases": read}, "")
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def reading_sources(self) -> tuple[ReadingSource, ...]:
        """The sources of real text."""
        tables = [self.reading] if isinstance(self.reading, dict) else self.reading or []
        if wrong := [each for each in tables if not isinstance(each, dict)]:
            raise ConfigError(f"reading has {wrong[0]!r}; each source is a table with corpus and queries")
        return tuple(made(ReadingSource, each, "reading: ") for each in tables)

    @property
    def reading_window(self) -> tuple[int, int]:
        """The fewest and the most words of a window."""
        if isinstance(self.reading_words, int):
            return self.reading_words, self.reading_words
        if len(self.reading_words) != 2 or not all(_fits(each, int) for each in self.reading_words):
            raise ConfigError(f"reading_words is {self.reading_words}; give one number, or fewest and most")
        return self.reading_words[0], self.reading_words[1]

    @property
    def optimizer_config(self) -> OptimizerConfig:
        """The optimizer's settings."""
        return made(OptimizerConfig, self.optimizer, "optimizer: ")

    def phase_at(self, step: int) -> Phase:
        """The phase a step belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def learning_rate(self, step: int) -> float:
        """Factor on the peak learning rates: warm-up, constant, linear decay."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min((step + 1) / max(1, self.warmup), 1.0, max(left, self.floor))

    def model_config(self, **tokens: int | None) -> MemSparseConfig:
        """The model's configuration: the recipe's fields, the tokenizer's (`tokens`), what training fixes.

        Raises: ConfigError for an unknown field or a value that cannot be used.
        """
        known = set(MemSparseConfig().to_dict())
        if unknown := sorted(set(self.model) - known):
            raise ConfigError(
                f"model: unknown key {', '.join(unknown)}; see MemSparseConfig for the known ones"
            )
        fixed = {
            "extractive": True,
            "absent_answer": NOT_FOUND,
            "max_document_tokens": max(
                (phase.max_document_tokens for phase in self.phases if phase.task == "calls"), default=None
            ),
            "attn_implementation": "eager",
        }
        settings: dict[str, Any] = {**tokens, **self.model, **fixed}
        try:
            config = MemSparseConfig(**settings)
        except StrictDataclassError as error:
            raise ConfigError(f"model: {' '.join(str(error.__cause__ or error).split())}") from error
        if config.aux_loss_method == "BCE":
            raise ConfigError('model: aux_loss_method is "BCE"; this trainer knows the INFONCE methods only')
        if not config.supervised_layers:
            raise ConfigError(
                f"model: memory_layers is {config.memory_layers}, none in the upper half, so no router "
                "would be trained; add an upper layer or set aux_all_layers"
            )
        return config


def made(cls: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Make a config dataclass of a table's values.

    Raises: ConfigError for an unknown or missing key, or a value of another type.
    """
    hints = get_type_hints(cls)
    known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]  # every config is a dataclass
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    for name, each in known.items():
        if name in values and not _fits(values[name], hints[name]):
            raise ConfigError(f"{where}{name} is {values[name]!r}; it must be {_told(hints[name])}")
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{where}{name} is missing; add it")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if get_origin(hint) is UnionType:
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(each, get_args(hint)[1]) for each in value.values())
    return hint is Any or isinstance(value, get_origin(hint) or hint)


def _told(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text"}
    if get_origin(hint) is UnionType:
        return " or ".join(_told(each) for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is list:
        return "a list"
    if get_origin(hint) is dict and get_args(hint)[1] is not Any:
        return f"a table, each value {_told(get_args(hint)[1])}"
    return names.get(hint, "a table")


def _hold(where: str, name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ConfigError(f"{where}{name} is {value}; it must be {bounds}")
