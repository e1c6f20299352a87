"""BM25 over words."""

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from memsparse.evaluation.index import DocumentIndex, optional
from memsparse.evaluation.systems import OnProgress
from memsparse.types import Document

K1 = 0.9
B = 0.4

_CJK = (
    "\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_REPORT_EVERY = 1000


def words(text: str) -> list[str]:
    r"""The `\w+` of a lower-cased text; of Chinese and Japanese, which write no spaces, every character."""
    return _WORD.findall(text.lower())


class Bm25Index(DocumentIndex):
    """BM25 over title and text (k1 0.9, b 0.4, idf as in Lucene), without stemming or stop words, by bm25s.

    A document that shares no word with the question is not found. The scores are computed at the first
    search after an `add`. Words are kept as one array of integers, 4 bytes each; computing the scores takes
    about 30 bytes for every different word of every document for a moment, and 8 for good.

    Raises: ConfigError where bm25s is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._library = optional("bm25s", "bm25")
        self._vocabulary: dict[str, int] = {}
        self._words = array("i")
        self._ends = array("q", [0])
        self._scorer: Any = None

    def prepare(self) -> None:
        """Compute the scores of every word in every document."""
        if self._scorer is not None or not self._vocabulary:
            return
        scorer = self._library.BM25(k1=K1, b=B, method="lucene")
        scorer.scores = scorer.build_index_from_ids(
            unique_token_ids=range(len(self._vocabulary)),
            corpus_token_ids=_Rows(self._words, self._ends),
            show_progress=False,
        )
        self._scorer = scorer

    def search(self, text: str, limit: int) -> list[tuple[Document, float]]:
        """The documents with the highest scores; a word that stands twice in the question counts twice."""
        self.prepare()
        ids = [self._vocabulary[word] for word in words(text) if word in self._vocabulary]
        if not ids:
            return []
        scores = self._scorer.get_scores_from_ids(ids)
        scores[scores <= 0] = -np.inf
        return self._best(scores, limit)

    def _take(self, documents: Sequence[Document], on_progress: OnProgress | None) -> None:
        vocabulary = self._vocabulary
        taken, ends = array("i"), array("q")
        for done, document in enumerate(documents, start=1):
            for word in words(f"{document.title}\n{document.text}"):
                taken.append(vocabulary.setdefault(word, len(vocabulary)))
            ends.append(len(self._words) + len(taken))
            if on_progress and (done % _REPORT_EVERY == 0 or done == len(documents)):
                on_progress(done, len(documents))
        self._words += taken
        self._ends += ends
        self._scorer = None


class _Rows:
    """The words of each document, as lists that exist one at a time."""

    def __init__(self, ids: "array[int]", ends: "array[int]") -> None:
        self._ids = ids
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for start, end in pairwise(self._ends):
            yield self._ids[start:end].tolist()
