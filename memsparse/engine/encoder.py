"""Stage 1: documents become passages, passages become the chunks a bank stores."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from memsparse.bank import EncodedChunks
from memsparse.engine.config import SHORTEST_DOCUMENT
from memsparse.engine.loading import LoadedModel
from memsparse.errors import DocumentError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.memory import ChunkCollector
from memsparse.ops.positions import chunk_counts
from memsparse.text import passage_text, split_document
from memsparse.types import Document, Passage

UNNUMBERED = -1
"""Number of a passage the bank has not given one yet."""
LONGEST_DEFAULT = 2048
"""Tokens of a document where the model does not say how many it was trained on."""
WIDTH_MULTIPLE = 32
"""Rows are padded to a multiple of this: few shapes repeat, and little is padding."""
_LONG_NUMBER = 9_999_999


class Encoder:
    """Runs a model over documents.

    Passages never attend to each other, so how they are batched changes nothing but rounding.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_tokens: int = 8192,
        max_document_tokens: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Choose how much to run at a time.

        Args:
            batch_tokens: tokens per pass, padding included; a longer passage runs alone.
            max_document_tokens: None: the model's own limit.
            dtype: of the chunks handed out.
        """
        self.max_document_tokens = max_document_tokens or document_limit(loaded.config)
        self._loaded = loaded
        self._prompts = loaded.prompts
        self._batch_tokens = batch_tokens
        self._dtype = dtype

    def split(self, document: Document) -> list[Passage]:
        """Cut a document into passages of at most `max_document_tokens` tokens, title and template included.

        Their spans cover the text; they carry no number yet.

        Raises: DocumentError if the text is empty or whitespace.
        """
        if not document.text.strip():
            raise DocumentError(f"document {document.id!r} has no text; leave it out")
        overhead = len(self._prompts.document(_LONG_NUMBER, "", self.heading(document.title)))
        room = max(self.max_document_tokens - overhead, SHORTEST_DOCUMENT // 2)
        spans = split_document(document.text, self._prompts.count_tokens, room)
        return [
            Passage(
                number=UNNUMBERED,
                document_id=document.id,
                title=document.title,
                text=document.text[start:end],
                namespace=document.namespace,
                metadata=document.metadata,
                start=start,
                end=end,
                part=part,
                parts=len(spans),
            )
            for part, (start, end) in enumerate(spans)
        ]

    def heading(self, title: str) -> str:
        """The title as the model sees it: at most half of what a passage may take."""
        room = self.max_document_tokens // 2
        if title.isascii() and len(title) < room:  # of an ASCII character comes a token at most
            return title.rstrip()
        spans = split_document(title, self._prompts.count_tokens, room)
        return title[slice(*spans[0])].rstrip() if spans else ""

    def body(self, passage: Passage) -> str:
        """What the model reads of a passage, in memory and when it is read back into a prompt."""
        return passage_text(self.heading(passage.title), passage.text)

    @torch.inference_mode()
    def encode(
        self, passages: Sequence[Passage], *, on_batch: Callable[[int], None] | None = None
    ) -> EncodedChunks:
        """Encode numbered passages.

        Args:
            on_batch: told how many tokens each pass took.

        Returns: chunks on the CPU, in the order of the passages.
        """
        rows = [self._prompts.document(passage.number, self.body(passage)) for passage in passages]
        lengths = [len(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: lengths[i], reverse=True)
        counts = chunk_counts(torch.tensor(lengths, dtype=torch.long), self._loaded.config.chunk_size)
        first = counts.cumsum(0) - counts
        joined: dict[int, tuple[Tensor, ...]] = {}
        for batch in batches(order, lengths, self._batch_tokens):
            places = torch.cat([torch.arange(int(counts[i])) + first[i] for i in batch])
            for layer, chunks in self._run([rows[i] for i in batch]).items():
                if layer not in joined:
                    total = int(counts.sum())
                    joined[layer] = tuple(t.new_empty(total, *t.shape[1:]) for t in chunks)
                for whole, part in zip(joined[layer], chunks, strict=True):
                    whole[places] = part
            if on_batch is not None:
                on_batch(sum(lengths[i] for i in batch))
        return EncodedChunks(
            routing_k={layer: tensors[0] for layer, tensors in joined.items()},
            k={layer: tensors[1] for layer, tensors in joined.items()},
            v={layer: tensors[2] for layer, tensors in joined.items()},
            chunks_per_passage=tuple(counts.tolist()),
            tokens_per_passage=tuple(lengths),
        )

    def _run(self, rows: list[list[int]]) -> dict[int, tuple[Tensor, ...]]:
        """One pass, without output head or cache: routing_k, k and v of every memory layer."""
        device = self._loaded.device
        ids = torch.zeros(len(rows), _padded(max(map(len, rows))), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        collector = ChunkCollector()
        self._loaded.model.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            use_cache=False,
            writer=collector,
            chunks_only=True,
        )
        return {
            layer: tuple(
                t.to(device="cpu", dtype=self._dtype) for t in (chunks.routing_k, chunks.k, chunks.v)
            )
            for layer, chunks in collector.layers.items()
        }


def document_limit(config: MemSparseConfig) -> int:
    """Tokens a document may have before it is split: what the model was trained on, as far as it says so."""
    own = config.max_document_tokens or LONGEST_DEFAULT
    return max(min(config.max_position_embeddings, own), SHORTEST_DOCUMENT)


def _padded(length: int) -> int:
    return -(-length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def batches(order: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut rows in an order of length, either way, into batches of at most `batch_tokens` tokens when padded.

    A row that is longer by itself is a batch of its own.
    """
    cut: list[list[int]] = []
    for i in order:
        if cut and (len(cut[-1]) + 1) * _padded(max(lengths[cut[-1][0]], lengths[i])) <= batch_tokens:
            cut[-1].append(i)
        else:
            cut.append([i])
    return cut
