"""What a training run is: phases and settings, read from a TOML recipe and checked before any work."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from huggingface_hub.errors import StrictDataclassError

from memsparse.errors import ConfigError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.training.data import NOT_FOUND, CallMix
from memsparse.training.lora import LoraSettings
from memsparse.training.optimizer import OptimizerConfig
from memsparse.training.phases import BUILT_TASKS as BUILT_TASKS
from memsparse.training.phases import TASKS as TASKS
from memsparse.training.phases import Phase as Phase
from memsparse.training.row_source import TRAIN
from memsparse.training.settings import fits, hold, read_recipe
from memsparse.training.settings import made as made

DTYPES = ("bfloat16", "float32")
ATTENTIONS = ("eager", "sdpa")
_BACKBONE = ("qk_norm", "attention_output_bias", "mlp_bias", "embedding_norm")
MEMORY_SETTINGS = (
    *(name for name in MemSparseConfig.__annotations__ if name not in ("model_type", *_BACKBONE)),
    *("attention_dropout", "max_position_embeddings", "rope_parameters"),
)
"""Fields of `MemSparseConfig` that `[model]` may set where a run starts from a model."""


SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "max_position_embeddings"),
)
"""Fields of `[model]` that no model can have below 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingSource:
    """Where real text comes from, and how often it is drawn."""

    corpus: str | None = None
    """Passages as JSON Lines, relative to the working directory."""
    queries: str | None = None
    """Questions about the corpus; without them or a dataset's, questions are made of the text."""
    dataset: str | None = None
    """A Hugging Face dataset, by name or folder, in place of either file or of both."""
    subset: str | None = None
    """Its configuration, where it has several."""
    split: str | None = None
    """Of the dataset, and of questions that are marked with one: others are left out. None: "train" to read;
    to validate, all questions but those marked "train" (of a dataset it has to be named)."""
    columns: dict[str, str] = field(default_factory=dict)
    """The dataset's names for our fields."""
    negatives: int = 3
    """Mined negatives of a question (`negative_ids`) that may join a pool."""
    strict: bool = False
    """Refuse a question whose passages are not all there, instead of leaving it out."""
    weight: float = 1.0
    """Against the other sources."""

    def __post_init__(self) -> None:
        hold("reading: ", "weight", self.weight, 0)
        hold("reading: ", "negatives", self.negatives, 0)
        if self.corpus is None and self.dataset is None:
            raise ConfigError("reading: corpus is missing; add it, or a dataset")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(Path(each) for each in (self.corpus, self.queries) if each is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole run, as a TOML file says it."""

    seed: int = 0
    start: str | None = None
    """Folder of a model to start from: a memsparse or published checkpoint, or a base model such as Qwen3 or
    Llama. None: random weights."""
    vocab_size: int = 6144
    """Of the tokenizer that is learnt; where a run starts from a model, it keeps the model's."""
    dtype: str = "bfloat16"
    """Of weights and activations; masters and optimizer states are float32 always."""
    attention: str = "eager"
    """How attention is computed: "eager", faster for small models on a CPU, or "sdpa"."""
    threads: int = 1
    """CPU threads of each process."""
    cpu: bool = False
    """Keep off an accelerator."""
    micro_steps: int = 1
    """Micro-batches averaged into one optimizer step, over all processes; their number is a multiple of the
    processes'. 1: one for each process."""
    sharded: bool = False
    """Shard masters and optimizer states over the processes (FSDP2); `matrices` must be "adamw"."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass: less memory, a third more work."""
    warmup: int = 40
    """Steps of linear warm-up."""
    decay: float = 0.25
    """Share of all steps, the last ones, over which the learning rate falls linearly to `floor`."""
    floor: float = 0.03
    eval_every: int = 200
    eval_documents: int = 500
    """Documents of the pools the model is measured on, at most."""
    save_every: int = 200
    tensorboard: bool = False
    """Write metrics for TensorBoard, too, into `tensorboard/` of the run's folder."""
    reading: dict[str, Any] | list[Any] | None = None
    """Fields of `ReadingSource`, or a list of such tables."""
    reading_words: int | list[int] = 48
    """Words of a window cut from a real passage, or the fewest and the most."""
    validation: list[Any] = field(default_factory=list)
    """Tables of `corpus` and `queries`, on which the model is measured whenever it is evaluated."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of `MemSparseConfig`; with `start`, those of the memory alone."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Fields of `OptimizerConfig`."""
    lora: dict[str, Any] | None = None
    """Fields of `LoraSettings`: train low-rank adapters, and merge them into the exported model."""
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in (("dtype", DTYPES), ("attention", ATTENTIONS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}")
        hold("", "seed", self.seed, 0, 2**32 - 1)
        lowest = {"vocab_size": 1, "threads": 1, "warmup": 0, "eval_every": 1, "save_every": 1}
        for name, low in (lowest | {"micro_steps": 1}).items():
            hold("", name, getattr(self, name), low)
        fewest, most = self.reading_window
        hold("", "reading_words", fewest, 1)
        hold("", "reading_words", most, fewest)
        for name in ("decay", "floor"):
            hold("", name, getattr(self, name), 0, 1)
        hold("", "eval_documents", self.eval_documents, 1, 10 ** CallMix().most_digits)
        if self.lora is not None:
            made(LoraSettings, self.lora, "lora: ")
        if self.reading is not None and not sum(source.weight for source in self.reading_sources):
            raise ConfigError("reading names no source with a weight above 0; add one, or leave reading out")
        if not self.steps:
            raise ConfigError("the phases have no steps; give at least one [[phases]] with steps")
        for phase in self.phases:
            for name in ("reading_share", "real_documents", "clean"):
                if getattr(phase, name) and self.reading is None:
                    raise ConfigError(
                        f"phase {phase.name!r}: {name} is {getattr(phase, name)}, but the recipe names no "
                        "reading files; add reading = { corpus = ..., queries = ... }"
                    )
        cleaned = [phase.name for phase in self.cleanings.values()]
        if len(set(cleaned)) < len(cleaned):
            raise ConfigError(f"phases that clean are named {', '.join(cleaned)}; give each its own name")
        matrices = self.optimizer_config.matrices
        if self.sharded and matrices != "adamw":
            raise ConfigError(
                f"sharded is true and matrices {matrices!r}, which needs whole "
                'matrices; set matrices = "adamw" in [optimizer], or sharded = false'
            )
        _ = self.validation_sources
        self._check_model()

    def _check_model(self) -> None:
        for name in SIZES:
            if fits(self.model.get(name), int):
                hold("model: ", name, self.model[name], 1)
        if self.start is None:
            self.model_config()
            if self.lora is not None:
                raise ConfigError("lora adapts a model; name its folder: start = ...")
            return
        if not self.start:
            raise ConfigError("start is empty; name the folder of a model, or leave it out")
        if unknown := sorted(set(self.model) - set(MEMORY_SETTINGS)):
            raise ConfigError(
                f"model: {', '.join(unknown)} cannot be set beside start, whose weights have their shape "
                f"already; of the memory, these can: {', '.join(MEMORY_SETTINGS)}"
            )

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
        phases = values.get("phases", [])
        if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
            raise ConfigError(f"{source}: phases is no list of tables; write each as [[phases]]")
        try:
            read = tuple(made(Phase, phase, f"phase {phase.get('name')!r}: ") for phase in phases)
            return made(cls, {**values, "phases": read}, "")
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def reading_sources(self) -> tuple[ReadingSource, ...]:
        """The sources of real text."""
        tables = [self.reading] if isinstance(self.reading, dict) else self.reading or []
        return tuple(replace(each, split=each.split or TRAIN) for each in _sources("reading", tables))

    @property
    def validation_sources(self) -> tuple[ReadingSource, ...]:
        """The sources the model is measured on."""
        sources = _sources("validation", self.validation)
        for source in sources:
            if source.queries is None and source.dataset is None:
                raise ConfigError(f"validation: {source.corpus} has no queries; name the questions' file")
        return sources

    @property
    def reading_window(self) -> tuple[int, int]:
        """The fewest and the most words of a window."""
        if isinstance(self.reading_words, int):
            return self.reading_words, self.reading_words
        if len(self.reading_words) != 2 or not all(fits(each, int) for each in self.reading_words):
            raise ConfigError(f"reading_words is {self.reading_words}; give one number, or fewest and most")
        return self.reading_words[0], self.reading_words[1]

    @property
    def optimizer_config(self) -> OptimizerConfig:
        """The optimizer's settings."""
        return made(OptimizerConfig, self.optimizer, "optimizer: ")

    @property
    def cleanings(self) -> dict[int, Phase]:
        """The phases before which questions are left out, by their first steps."""
        found, step = {}, 0
        for phase in self.phases:
            if phase.clean and phase.steps:
                found[step] = phase
            step += phase.steps
        return found

    def phase_at(self, step: int) -> Phase:
        """The phase a step belongs to."""
        return self._place(step)[0]

    def learning_rate(self, step: int) -> float:
        """Factor on the peak learning rates: warm-up, constant, linear decay, times the phase's own."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        phase, place = self._place(step)
        return min((step + 1) / max(1, self.warmup), 1.0, max(left, self.floor)) * phase.rate_at(place)

    def _place(self, step: int) -> tuple[Phase, int]:
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def model_settings(self) -> dict[str, Any]:
        """What training fixes in a model's configuration, and the recipe's fields.

        Raises: ConfigError for an unknown field.
        """
        known = MemSparseConfig().to_dict()
        if unknown := sorted(set(self.model) - set(known)):
            near = ", ".join(get_close_matches(unknown[0], known, cutoff=0.5))
            told = (
                f"known ones like {unknown[0]}: {near}" if near else "see MemSparseConfig for the known ones"
            )
            raise ConfigError(f"model: unknown key {', '.join(unknown)}; {told}")
        fixed = {
            "extractive": True,
            "absent_answer": NOT_FOUND,
            "max_document_tokens": max(
                (phase.max_document_tokens for phase in self.phases if phase.task == "calls"), default=None
            ),
            "attn_implementation": self.attention,
        }
        return {**self.model, **fixed}

    def model_config(self, **base: Any) -> MemSparseConfig:
        """The model's configuration: that of `base`, the recipe's fields, what training fixes.

        Raises: ConfigError for an unknown field or a value that cannot be used.
        """
        try:
            config = MemSparseConfig(**{**base, **self.model_settings()})
        except StrictDataclassError as error:
            raise ConfigError(f"model: {' '.join(str(error.__cause__ or error).split())}") from error
        if not config.supervised_layers:
            raise ConfigError(
                f"model: memory_layers is {config.memory_layers}, none in the upper half, so no router "
                "would be trained; add an upper layer or set aux_all_layers"
            )
        longest = config.max_document_tokens or 0
        if longest > config.max_position_embeddings:
            raise ConfigError(
                f"max_document_tokens is {longest}, but the model reads {config.max_position_embeddings} "
                "tokens at most; shorten the documents, or raise max_position_embeddings in [model]"
            )
        return config


def _sources(name: str, tables: list[Any]) -> tuple[ReadingSource, ...]:
    if wrong := [each for each in tables if not isinstance(each, dict)]:
        raise ConfigError(f"{name} has {wrong[0]!r}; each source is a table with corpus and queries")
    return tuple(made(ReadingSource, each, f"{name}: ") for each in tables)
