"""A reader that is watched while a model asks it."""

import time

from torch import Tensor

from memsparse.bank import BankReader
from memsparse.machine import finish
from memsparse.types import MemoryKV


class ProbedReader:
    """A reader that remembers what it was asked, and how long it took, layer by layer."""

    def __init__(self, reader: BankReader) -> None:
        self._reader = reader
        self.numbers = reader.numbers
        self.asked: dict[int, tuple[Tensor, Tensor]] = {}
        self.found: dict[int, MemoryKV] = {}
        self.seconds = 0.0

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """Read, with the accelerator's work waited for."""
        finish(routing_q.device)
        began = time.perf_counter()
        self.found[layer_idx] = self._reader.read(layer_idx, routing_q, query_mask)
        finish(routing_q.device)
        self.seconds += time.perf_counter() - began
        self.asked[layer_idx] = routing_q, query_mask
        return self.found[layer_idx]

    def exact_scores(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        """As the reader's own."""
        return self._reader.exact_scores(layer_idx, routing_q, query_mask, documents)
