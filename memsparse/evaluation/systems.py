"""What is measured: anything that ranks documents for a question, answers it, or does both.

The model is the system `memsparse` (`evaluation.model_system`); peers are in `evaluation.baselines`. A peer
of one's own is any object with the methods below; `--baseline package.module:factory` names what makes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from memsparse.engine.engine import MemoryEngine
from memsparse.evaluation.questions import Question
from memsparse.types import Document

OnProgress = Callable[[int, int | None], None]
"""Takes how much is done, and how much there is to do, if that is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRanking:
    """What one memory layer routed, best first."""

    layer: int
    documents: tuple[str, ...]
    scores: tuple[float, ...]
    chunks: tuple[int, ...] = ()
    """Which chunk of each document matched best, counted from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Documents for a question, best first, each once."""

    documents: tuple[str, ...]
    scores: tuple[float, ...]
    seconds: float
    layers: tuple[LayerRanking, ...] = ()
    """Layer by layer, where the system routes inside a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a system answered."""

    text: str
    found: bool
    """False where it declined: no document holds the answer, it says."""
    cited: tuple[str, ...]
    """Ids of the documents it names, each once."""
    tokens: int
    """Tokens read and written, prompts included."""
    seconds: float
    rounds: tuple[dict[str, Any], ...] = ()
    """The trace, as JSON values."""


class System(Protocol):
    """The least a system needs: documents come in, before or between questions."""

    name: str

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Take more documents; those of earlier calls stay."""


@runtime_checkable
class Retriever(Protocol):
    """A system that ranks documents."""

    def retrieve(self, question: Question, limit: int) -> Ranking:
        """Return the best `limit` documents, or all where there are fewer."""


@runtime_checkable
class Answerer(Protocol):
    """A system that answers."""

    def answer(self, question: Question) -> Reply:
        """Answer from the documents taken so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a baseline is made from."""

    engine: MemoryEngine
    """The engine of the measured model, over the same documents: the reader where a baseline needs one."""
    read: int = 4
    """Documents a baseline reads to answer."""
    options: dict[str, Any] = field(default_factory=dict)


Factory = Callable[[Setup], System]
