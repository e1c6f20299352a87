"""The key-value cache of a request: local keys and values, and the memory chunks selected at its prefill."""

from dataclasses import replace

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memsparse.types import MemoryKV


class MemSparseCache(DynamicCache):
    """A `DynamicCache` that also keeps, per memory layer, the chunks the prefill selected.

    Routing happens once, when a layer first meets a reader; later tokens attend to the same chunks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[int, MemoryKV] = {}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow a beam search: row i becomes what row `beam_idx[i]` was."""
        super().reorder_cache(beam_idx)
        self._select_memory(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, in their order."""
        super().batch_select_indices(indices)
        self._select_memory(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        for layer, kv in self.memory.items():
            self._select_memory(torch.arange(len(kv.k), device=kv.k.device).repeat_interleave(repeats), layer)

    def _select_memory(self, rows: Tensor, layer: int | None = None) -> None:
        for each in [layer] if layer is not None else list(self.memory):
            kv = self.memory[each]
            rows_here = rows.to(kv.k.device)
            self.memory[each] = replace(
                kv,
                k=kv.k[rows_here],
                v=kv.v[rows_here],
                mask=kv.mask[rows_here],
                documents=kv.documents[rows_here],
                scores=kv.scores[rows_here],
                document_of_slot=kv.document_of_slot[rows_here],
                all_scores=None if kv.all_scores is None else kv.all_scores[rows_here],
            )
