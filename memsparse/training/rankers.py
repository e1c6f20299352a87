"""What finds passages for a question when negatives are mined: words in common, or a model's routers."""

import logging
from array import array
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch

from memsparse.engine.engine import MemoryEngine, Progress
from memsparse.errors import ConfigError, InputError
from memsparse.ops.routing import top_documents
from memsparse.training.passages import Passages
from memsparse.training.words import words
from memsparse.types import Document

log = logging.getLogger(__name__)

K1 = 0.9
B = 0.4
_FIRST = 64
"""Passages looked at for a question at once; four times as many where those do not suffice."""
_DEEPEST = 4096
"""Passages a router is asked for, at most."""
REPORT_SECONDS = 10.0


class Ranker(Protocol):
    """Ranks the passages of a corpus."""

    def rank(self, question: str) -> Iterator[str]:
        """Yield ids, best first."""
        ...


class Bm25Ranker:
    """BM25 over title and text (k1 0.9, b 0.4, idf as in Lucene) by bm25s; equal scores in corpus order.

    Its index takes 4 bytes of memory for every word of the corpus and 8 for every different word of every
    passage, while it is made four times that.

    Raises: ConfigError where bm25s is not installed.
    """

    def __init__(self, passages: Passages) -> None:
        try:
            library = import_module("bm25s")
        except ImportError as error:
            raise ConfigError(
                f"mining by BM25 needs the package bm25s ({error}); pip install 'memsparse[eval]'"
            ) from error
        self._passages = passages
        self._vocabulary: dict[str, int] = {}
        taken, ends = array("i"), array("q", [0])
        for place in range(len(passages)):
            row = passages.at(place)
            for word in words(f"{row['title']}\n{row['text']}"):
                taken.append(self._vocabulary.setdefault(word, len(self._vocabulary)))
            ends.append(len(taken))
        self._scorer: Any = library.BM25(k1=K1, b=B, method="lucene")
        self._scorer.scores = self._scorer.build_index_from_ids(
            unique_token_ids=range(len(self._vocabulary)),
            corpus_token_ids=_Rows(taken, ends),
            show_progress=False,
        )

    def rank(self, question: str) -> Iterator[str]:
        """Yield the passages that share a word with the question, best first."""
        ids = [self._vocabulary[word] for word in words(question) if word in self._vocabulary]
        if not ids:
            return
        scores = self._scorer.get_scores_from_ids(ids)
        scores[scores <= 0] = -np.inf
        seen, size = 0, _FIRST
        while seen < len(scores):
            _, best = top_documents(torch.from_numpy(scores)[None], min(size, len(scores)))
            for place in best[0, seen:].tolist():
                if place < 0:
                    return
                yield self._passages.at(place)["id"]
            seen, size = best.shape[1], 4 * size


class RouterRanker:
    """The routers of a model: the mean over the memory layers, as the engine routes a question.

    The corpus is encoded into the engine's bank; passages that are in it already are not encoded again.
    """

    def __init__(self, engine: MemoryEngine, passages: Passages) -> None:
        self._engine = engine
        self._reported = perf_counter()
        documents = (Document(**passages.at(place)) for place in range(len(passages)))
        engine.add(documents, on_progress=self._report)

    def rank(self, question: str) -> Iterator[str]:
        """Yield passages, best first; none for a question that is too long for the model."""
        seen: set[str] = set()
        size = _FIRST
        while size <= _DEEPEST:
            try:
                hits = self._engine.route(question, limit=size).hits
            except InputError as error:
                log.warning("no negatives for %r: %s", question[:60], error)
                return
            for id_ in (hit.citation.document_id for hit in hits):
                if id_ not in seen:  # parts of a long passage count as the passage
                    seen.add(id_)
                    yield id_
            if len(hits) < size:
                return
            size *= 4

    def _report(self, progress: Progress) -> None:
        if perf_counter() - self._reported >= REPORT_SECONDS:
            self._reported = perf_counter()
            log.info("encoded %d passages, %d tokens", progress.documents, progress.tokens)


class _Rows:
    """The words of each passage, as lists that exist one at a time."""

    def __init__(self, ids: "array[int]", ends: "array[int]") -> None:
        self._ids, self._ends = ids, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for start, end in pairwise(self._ends):
            yield self._ids[start:end].tolist()
