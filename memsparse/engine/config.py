"""How an engine runs: everything a caller may choose, with defaults that serve."""

from dataclasses import dataclass, field
from typing import Literal

from memsparse.bank import TierConfig
from memsparse.errors import ConfigError

SHORTEST_DOCUMENT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Settings of a `MemoryEngine`; what a checkpoint fixes is in the model's own config.

    Raises: ConfigError for a value out of range.
    """

    id_decoding: Literal["generate", "router"] | None = None
    """The model writes the numbers of documents, or the routing scores decide. None: as it was trained."""
    max_rounds: int = 4
    """Rounds of one question that may read documents. 0: answer at once."""
    max_new_tokens: int = 64
    """Tokens the model may write for the numbers of one round, and again for the answer."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Share of the probability mass that is sampled from, likeliest tokens first."""
    seed: int = 0
    """Of sampling; every question starts from it."""
    max_document_tokens: int | None = None
    """Longer documents are split; tokens, template included. None: the model's own limit."""
    margin: float = 0.05
    """Router decoding: documents whose score, words counted, is within this of the best are read too; score
    units."""
    max_read: int = 2
    """Router decoding: documents read per round, at most."""
    overlap: float = 0.2
    """Router decoding: what a document gets on top of its mean score when the first to read are chosen, if
    it holds all words of the question that any candidate holds; others get a part. Score units; 0: the router
    alone."""
    read_on: int = 1
    """Router decoding, models that quote: rounds read beyond the model's own end of retrieval, while what it
    read holds no answer and `max_rounds` allows."""
    quote_decoding: bool = True
    """Models that quote: the answer can be nothing but a quote of what was read, or the sentence for none.
    False: it is written freely, and counts as not found when it is no quote."""
    quote_passes: int = 32
    """Quote decoding at temperature 0: passes of the model that may go into finding the likeliest quote. 0:
    the likeliest token is taken at each step."""
    refuse_above: float = 0.2
    """Models that quote: how probable the whole sentence for none must be to be the answer. A quote is one of
    many, so the likeliest first token says little; 0: refuse always, 1: never."""
    max_batch: int = 16
    """Questions that run together; later ones wait for a place."""
    workers: int = 1
    """Processes that answer what `ask` and `ask_many` are given, this one included, on a CPU. Each has the
    model, an even share of `max_batch` (rounded up) and of the memory that is free, and of torch's threads
    while several answer; `max_batch_tokens` and the bytes that `tiers` names are for each of them."""
    max_batch_tokens: int = 2048
    """Tokens of one step of all questions that run together: what bounds how long the others wait for one
    long prompt, and how much memory a step takes. A prompt that is longer takes a step alone."""
    batch_tokens: int = 8192
    """Tokens encoded together, padding included."""
    segment_documents: int = 256
    """Passages stored together: the most an interruption can lose."""
    tiers: TierConfig = field(default_factory=TierConfig)
    """What of the bank is held where, and in which format its routing keys are scanned."""

    def __post_init__(self) -> None:
        if self.id_decoding not in (None, "generate", "router"):
            raise ConfigError(f'id_decoding is {self.id_decoding!r}; use "generate" or "router"')
        for name, least in (
            ("max_batch", 1),
            ("workers", 1),
            ("max_batch_tokens", 1),
            ("max_rounds", 0),
            ("max_new_tokens", 1),
            ("max_read", 1),
            ("read_on", 0),
            ("quote_passes", 0),
            ("batch_tokens", 1),
            ("segment_documents", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.workers > self.max_batch:
            raise ConfigError(f"workers is {self.workers}; it must be at most max_batch, {self.max_batch}")
        if self.max_document_tokens is not None and self.max_document_tokens < SHORTEST_DOCUMENT:
            raise ConfigError(
                f"max_document_tokens is {self.max_document_tokens}; it must be at least {SHORTEST_DOCUMENT}"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not 0 <= self.refuse_above <= 1:
            raise ConfigError(f"refuse_above is {self.refuse_above}; it must be between 0 and 1")
        if not self.margin >= 0:
            raise ConfigError(f"margin is {self.margin}; it must be 0 or more")
        if not 0 <= self.overlap < float("inf"):
            raise ConfigError(f"overlap is {self.overlap}; it must be 0 or more, and finite")
