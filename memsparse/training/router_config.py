"""What fitting routers to a corpus is: settings read from a TOML file and checked before any work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from memsparse.errors import ConfigError
from memsparse.ops.losses import AUX_LOSSES, TEMPERATURE_RANGE
from memsparse.training.config import DTYPES
from memsparse.training.settings import hold, made, read_recipe

INITS = ("keep", "match")
HOLDOUTS = ("documents", "questions")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """How a backbone without memory gets one; see `memsparse.model.convert`."""

    chunk_size: int | None = None
    top_k: int | None = None
    memory_layers: list[int] | None = None
    routing_score: str | None = None

    def __post_init__(self) -> None:
        for name in ("chunk_size", "top_k"):
            if getattr(self, name) is not None:
                hold("convert: ", name, getattr(self, name), 1)
        if not all(isinstance(layer, int) for layer in self.memory_layers or ()):
            raise ConfigError(f"convert: memory_layers is {self.memory_layers}; give layer numbers")
        if self.routing_score not in (None, "cosine", "dot"):
            raise ConfigError(f'convert: routing_score is {self.routing_score!r}; use "cosine" or "dot"')

    @property
    def score(self) -> Literal["cosine", "dot"] | None:
        """`routing_score`, as checked."""
        return self.routing_score  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterConfig:
    """A fit, as a TOML file says it; paths are relative to the working directory."""

    corpus: str
    """JSON Lines of {"id", "title", "text"}, plain, gzipped or Zstandard."""
    queries: str | None = None
    """JSON Lines of {"question", "positive_ids"}. None: questions are made of the documents."""
    start: str | None = None
    """A memsparse model (folder, or repository of the hub), or the folder of a Qwen3, Qwen2, Llama or Mistral
    model, which is converted. None: the model in the package."""
    convert: dict[str, Any] = field(default_factory=dict)
    """For a model that is converted: `chunk_size`, `top_k`, `memory_layers`, `routing_score`."""
    decouple: bool = False
    """Give a model that routes with its attention's own queries and keys routers of their own."""
    init: str | None = None
    """"keep" the routers as they are, or "match": let queries begin as keys, so that like states meet. None:
    "match" for a model that is converted or decoupled here, else "keep"."""
    generated: int | None = None
    """Questions made of each document. None: 4 without `queries`, else 0."""
    validation: float = 0.1
    """Share of the questions that is kept out of the fit, to choose the best state by and to report."""
    holdout: str = "questions"
    """"questions": some of the questions, so that recall tells of new questions about this corpus, all of
    which is fitted to. "documents": the questions of some documents, which are kept out of the fit as
    negatives, too, so that recall tells of documents that come later."""
    steps: int = 400
    rounds: int = 2
    """Parts of the steps. In the first one questions have read nothing; before each further one they are run
    again, and read what the routers select by then."""
    batch: int = 64
    """Questions of a step."""
    pool: int = 4096
    """Chunks a step's questions are scored against, about; a larger corpus is sampled, the hardest first."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    ridge: float = 0.1
    """Routers are fitted in whitened states; this share of the mean variance is added to every direction's.
    Large: as if they were not whitened."""
    warmup: int = 20
    """Steps of a round over which the learning rate rises; it falls linearly to nothing at `steps`."""
    loss: str | None = None
    """One of the auxiliary losses. None: the model's own."""
    temperature: float | None = None
    """Of the contrastive losses. None: the model's own."""
    eval_every: int = 50
    """Steps between two measurements of validation, after each of which the state is saved."""
    patience: int = 4
    """Measurements without a new best after which a round ends."""
    seed: int = 0
    dtype: str = "float32"
    """Of the frozen backbone and of the states kept of it."""
    device: str = "cpu"
    threads: int | None = None
    """CPU threads. None: as torch is set."""
    batch_tokens: int = 8192
    """Tokens that run through the backbone at a time."""
    budget_gib: float = 2.0
    """GiB of states to hold in memory; more stays in a memory-mapped file."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "pool", "eval_every", "patience", "batch_tokens"):
            hold("", name, getattr(self, name), 1)
        for name in ("warmup", "weight_decay", "budget_gib"):
            hold("", name, getattr(self, name), 0)
        hold("", "rounds", self.rounds, 1, self.steps)
        if self.generated is not None:
            hold("", "generated", self.generated, 0)
        if self.threads is not None:
            hold("", "threads", self.threads, 1)
        if self.temperature is not None:
            hold("", "temperature", self.temperature, *TEMPERATURE_RANGE)
        hold("", "validation", self.validation, 0.001, 0.5)
        hold("", "ridge", self.ridge, 1e-6, 1e6)
        hold("", "learning_rate", self.learning_rate, 1e-8, 1)
        for name, value, known in (
            ("init", self.init, INITS),
            ("holdout", self.holdout, HOLDOUTS),
            ("loss", self.loss, AUX_LOSSES),
            ("dtype", self.dtype, DTYPES),
        ):
            if value is not None and value not in known:
                raise ConfigError(f"{name} is {value!r}; use one of {', '.join(known)}")
        if self.queries is None and self.generated == 0:
            raise ConfigError("generated is 0 and no queries are named; name queries, or generate some")
        _ = self.conversion

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises: ConfigError for a missing file, bad TOML, an unknown key or a value out of range.
        """
        return cls.made_of(read_recipe(path), path)

    @classmethod
    def made_of(cls, values: Mapping[str, Any], source: str | Path) -> Self:
        """Make it of the values of a TOML file.

        Raises: ConfigError as `read`; `source` is where it says they come from.
        """
        try:
            return made(cls, values, "")
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @property
    def conversion(self) -> ConvertConfig:
        """How a backbone is converted."""
        return made(ConvertConfig, self.convert, "convert: ")

    @property
    def made_of_each(self) -> int:
        """Questions made of each document."""
        if self.generated is not None:
            return self.generated
        return 4 if self.queries is None else 0

    def round_ends(self) -> list[int]:
        """The step at which each round ends."""
        return [self.steps * (number + 1) // self.rounds for number in range(self.rounds)]

    def factor(self, step: int, begun: int = 0) -> float:
        """Factor on the learning rate of a step, in a round that has begun at step `begun`."""
        return min(1.0, (step - begun + 1) / max(1, self.warmup)) * (1 - step / self.steps)
