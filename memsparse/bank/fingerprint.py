"""What a bank knows of the model that filled it."""

import json
from dataclasses import asdict, dataclass, fields

import torch

from memsparse.errors import BankCorruptError, ConfigError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ROUTING_SCORES = ("cosine", "dot")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """Everything that must agree before a model may read a bank.

    Raises: ConfigError for a dtype or routing score that does not exist, or a size below 1.
    """

    weights: str
    """Hash of the model's weights."""
    chunk_size: int
    """Tokens a chunk is the mean of."""
    memory_layers: tuple[int, ...]
    kv_heads: int
    head_dim: int
    routing_score: str
    """cosine or dot."""
    template: str
    """Hash of the document template and the tokenizer."""
    dtype: str
    """Of the stored routing keys, K and V: bfloat16, float16 or float32."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype of a bank is {self.dtype!r}; use one of {', '.join(DTYPES)}")
        if self.routing_score not in ROUTING_SCORES:
            raise ConfigError(
                f"routing_score is {self.routing_score!r}; use one of {', '.join(ROUTING_SCORES)}"
            )
        for name in ("chunk_size", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.memory_layers or len(set(self.memory_layers)) < len(self.memory_layers):
            raise ConfigError(
                f"memory_layers is {self.memory_layers}; name each layer once, and at least one"
            )

    @property
    def width(self) -> int:
        """Size of a routing vector: kv_heads * head_dim."""
        return self.kv_heads * self.head_dim

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored dtype as torch names it."""
        return DTYPES[self.dtype]

    def to_json(self) -> str:
        """As the catalog stores it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Fingerprint":
        """Read back what `to_json` wrote.

        Raises: BankCorruptError if the text is anything else.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "memory_layers": tuple(values["memory_layers"])})
        except (ValueError, TypeError, KeyError) as error:
            raise BankCorruptError(
                f"the bank's fingerprint cannot be read ({error}); restore catalog.sqlite3 from a copy"
            ) from error

    def differences(self, model: "Fingerprint") -> list[str]:
        """One phrase for each field in which a model differs from the bank."""
        return [
            f"{name} {_show(getattr(self, name))} (the model has {_show(getattr(model, name))})"
            for name in (field.name for field in fields(self))
            if getattr(self, name) != getattr(model, name)
        ]


def _show(value: object) -> str:
    """A value short enough for one line: hashes are cut."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
