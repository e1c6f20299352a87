"""The key-value cache of a request: local keys and values, and the memory chunks selected at its prefill."""

from dataclasses import replace

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from memsparse.types import MemoryKV, sifted_rows


class MemSparseCache(DynamicCache):
    """A `DynamicCache` that also keeps, per memory layer, the chunks the prefill selected.

    Routing happens once, when a layer first meets a reader; later tokens attend to the same chunks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[int, MemoryKV] = {}
        self.position_shift = 0
        """Added to the positions `generate` counts."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow a beam search: row i becomes what row `beam_idx[i]` was."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]  # any integers do
        self._select_memory(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, in their order."""
        super().batch_select_indices(indices)
        self._select_memory(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        rows = len(next(iter(self.memory.values())).k) if self.memory else 0
        self._select_memory(torch.arange(rows).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything, the selected chunks too: the next pass routes anew."""
        self.layers.clear()  # some releases of transformers only zero what a layer holds
        self.memory.clear()
        self.position_shift = 0

    def _select_memory(self, rows: Tensor) -> None:
        for layer, kv in self.memory.items():
            here = rows.to(kv.k.device)
            self.memory[layer] = replace(
                kv,
                k=kv.k[here],
                v=kv.v[here],
                mask=kv.mask[here],
                documents=kv.documents[here],
                scores=kv.scores[here],
                document_of_slot=kv.document_of_slot[here],
                all_scores=None if kv.all_scores is None else kv.all_scores[here],
                chunks=None if kv.chunks is None else kv.chunks[here],
                errors=None if kv.errors is None else kv.errors[here],
                certified=None if kv.certified is None else kv.certified[here],
                sifted=None if kv.sifted is None else sifted_rows(kv.sifted, here),
            )
