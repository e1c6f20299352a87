"""Rankings of documents outside any model of ours: the contract, and the fusion of several."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch

from memsparse.errors import ConfigError
from memsparse.evaluation.systems import OnProgress
from memsparse.ops.routing import top_documents
from memsparse.types import Document

FUSION_CONSTANT = 60
"""k of reciprocal rank fusion, as it was published (Cormack, Clarke and Buettcher, SIGIR 2009)."""
FUSION_DEPTH = 100
"""Places of each ranking that are fused, at least."""


class Index(Protocol):
    """Documents, and a way to rank them for a question."""

    @property
    def documents(self) -> Sequence[Document]:
        """Those taken, in the order they came."""

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Take documents; those whose id is here already are passed over, so that an index can be shared."""

    def prepare(self) -> None:
        """Do now what would else be done at the first search after an `add`."""

    def search(self, text: str, limit: int) -> list[tuple[Document, float]]:
        """At most `limit` documents with their scores, best first; ties go to what came first."""


class DocumentIndex(ABC):
    """What indexes of documents have in common. Each refers to its documents, and copies none."""

    def __init__(self) -> None:
        self._documents: list[Document] = []
        self._ids: set[str] = set()

    @property
    def documents(self) -> Sequence[Document]:
        """Those taken, in the order they came."""
        return self._documents

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Take documents, but none twice; where this is interrupted, none of them."""
        fresh = list({each.id: each for each in documents if each.id not in self._ids}.values())
        if fresh:
            self._take(fresh, on_progress)
            self._documents += fresh
            self._ids.update(each.id for each in fresh)

    def prepare(self) -> None:  # noqa: B027  # most have nothing to do
        """Do now what would else be done at the first search after an `add`."""

    @abstractmethod
    def search(self, text: str, limit: int) -> list[tuple[Document, float]]:
        """At most `limit` documents with their scores, best first; ties go to what came first."""

    @abstractmethod
    def _take(self, documents: Sequence[Document], on_progress: OnProgress | None) -> None:
        """Index documents that are not here yet."""

    def _best(self, scores: "np.ndarray[Any, Any]", limit: int) -> list[tuple[Document, float]]:
        """The documents with the best scores (N,); -inf: not found."""
        best, rows = top_documents(torch.from_numpy(scores)[None], min(limit, len(scores)))
        found = zip(rows[0].tolist(), best[0].tolist(), strict=True)
        return [(self._documents[row], score) for row, score in found if row >= 0]


class FusedIndex:
    """Reciprocal rank fusion: a document's score is the sum of 1 / (60 + rank) over the rankings it is in.

    Equal scores, such as of the first of one ranking and the first of another, go by the order of `parts`.
    """

    def __init__(self, parts: Sequence[Index]) -> None:
        self._parts = tuple(parts)

    @property
    def documents(self) -> Sequence[Document]:
        """Those of the part that has most; all have the same unless one is shared."""
        return max((part.documents for part in self._parts), key=len)

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Give the documents to every part."""
        for part in self._parts:
            part.add(documents, on_progress)

    def prepare(self) -> None:
        """Prepare every part."""
        for part in self._parts:
            part.prepare()

    def search(self, text: str, limit: int) -> list[tuple[Document, float]]:
        """Fuse the first `limit` places of every part, or 100 where that is more."""
        documents: dict[str, Document] = {}
        scores: dict[str, float] = {}
        for part in self._parts:
            for rank, (document, _) in enumerate(part.search(text, max(limit, FUSION_DEPTH)), start=1):
                documents[document.id] = document
                scores[document.id] = scores.get(document.id, 0.0) + 1 / (FUSION_CONSTANT + rank)
        ranked = sorted(scores.items(), key=lambda item: -item[1])[:limit]
        return [(documents[id_], score) for id_, score in ranked]


def optional(package: str, baseline: str) -> Any:
    """Import a package that comes with an extra; Any, because not all of them ship types.

    Raises: ConfigError if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"the baseline {baseline} needs the package {package} ({error}); pip install 'memsparse[eval]'"
        ) from error
