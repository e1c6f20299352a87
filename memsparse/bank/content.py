"""The tier of content: K and V of the documents a layer attends to, hot ones held, the next fetched ahead.

Every document is one contiguous slice of its segment. What was read lately stays in host memory (page-locked
where there is CUDA), and on the accelerator too, each within a budget of bytes, the longest unused out first.

G kv heads, D head_dim, c chunks of a document, M of all documents asked for.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from memsparse.bank.segments import SegmentFiles, SegmentRecord
from memsparse.errors import BankError


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the chunks of a document lie."""

    record: SegmentRecord
    offset: int
    chunks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """K and V of some chunks, as they are stored or quantised."""

    values: Tensor
    """(2, c, G, D): K, then V; int8 where quantised."""
    scales: Tensor | None = None
    """(2, c, G, 1) float32 where quantised."""

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def to(self, device: torch.device) -> "Content":
        """The same on another device, copied without waiting."""
        scales = None if self.scales is None else self.scales.to(device, non_blocking=True)
        return Content(values=self.values.to(device, non_blocking=True), scales=scales)

    def pin_memory(self) -> "Content":
        """The same in page-locked memory."""
        scales = None if self.scales is None else self.scales.pin_memory()
        return Content(values=self.values.pin_memory(), scales=scales)


def quantize_content(values: Tensor) -> Content:
    """K and V in int8, one scale per chunk and head: |x - x~| <= scale / 2 = max |x| / 254 in each vector.

    Shape: values (..., D).
    """
    values = values.float()
    scales = values.abs().amax(-1, keepdim=True) / 127
    codes = (values / scales.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    return Content(values=codes, scales=scales)


def dequantize_content(content: Content, dtype: torch.dtype) -> Tensor:
    """(2, c, G, D) in the dtype asked for."""
    if content.scales is None:
        return content.values.to(dtype)
    return (content.values.float() * content.scales).to(dtype)


class Hot:
    """What was used lately, within a budget of bytes; safe to share between threads."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = 0
        """Bytes."""
        self._items: OrderedDict[tuple[int, int, int], Content] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, key: tuple[int, int, int]) -> Content | None:
        """What is held under a key, now the last to leave."""
        with self._mutex:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
            return found

    def put(self, key: tuple[int, int, int], content: Content) -> None:
        """Hold it, in place of the longest unused; what is larger than the budget is not held."""
        with self._mutex:
            if key in self._items or content.nbytes > self.budget:
                return
            self._items[key] = content
            self.held += content.nbytes
            while self.held > self.budget:
                self.held -= self._items.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Let go of everything, and hold nothing from now on."""
        with self._mutex:
            self.budget = self.held = 0
            self._items.clear()


class ContentTier:
    """The content of one bank; safe to share between threads."""

    def __init__(self, files: SegmentFiles, *, quantized: bool, host_bytes: int, ahead: bool) -> None:
        """Hold nothing yet.

        Args:
            quantized: read K and V through int8, whatever tier they come from.
            host_bytes: budget of host memory.
            ahead: fetch what `prefetch` names; False: do nothing.
        """
        self.host = Hot(host_bytes)
        self.devices: dict[torch.device, Hot] = {}
        """Budgets of accelerators; none where documents are copied every time."""
        self._files = files
        self._quantized = quantized
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="memsparse-content") if ahead else None
        self._fetching: Future[None] | None = None
        self._mutex = threading.Lock()

    def gather(self, layer: int, places: Sequence[Place], *, like: Tensor) -> Tensor:
        """K and V of documents, one after the other: (2, M, G, D) on the device and in the dtype of `like`.

        Raises: BankCorruptError for a damaged file.
        """
        device = like.device
        found = self._fetch(layer, places, device)
        if device in self._streams:
            torch.cuda.current_stream(device).wait_stream(self._streams[device])
        values = torch.cat([content.values for content in found], dim=1)
        scales = None
        if self._quantized:
            scales = torch.cat([content.scales for content in found if content.scales is not None], dim=1)
        return dequantize_content(Content(values=values, scales=scales), like.dtype)

    def prefetch(self, layer: int, places: Sequence[Place], device: torch.device) -> None:
        """Begin to fetch documents a layer will probably read; one that is still under way is enough."""
        if self._ahead is None or (self._fetching is not None and not self._fetching.done()):
            return
        self._fetching = self._ahead.submit(self._warm, layer, list(places), device)

    def _warm(self, layer: int, places: Sequence[Place], device: torch.device) -> None:
        try:
            self._fetch(layer, places, device)
        except (BankError, torch.OutOfMemoryError):
            return  # the read that needs it tells

    def _fetch(self, layer: int, places: Sequence[Place], device: torch.device) -> list[Content]:
        """Content on the device, copied there where it is not held, all missing documents at once."""
        keys = [(layer, place.record.id, place.offset) for place in places]
        if device.type == "cpu":
            return [self._from_host(*each, pins=False) for each in zip(keys, places, strict=True)]
        hot = self.devices.get(device)
        found = [None if hot is None else hot.get(key) for key in keys]
        missing = [index for index, content in enumerate(found) if content is None]
        if missing:
            pins = device.type == "cuda"
            host = [self._from_host(keys[index], places[index], pins=pins) for index in missing]
            for index, content in zip(missing, self._copy(host, device), strict=True):
                found[index] = content
                if hot is not None:
                    hot.put(keys[index], content)
        return [content for content in found if content is not None]

    def _from_host(self, key: tuple[int, int, int], place: Place, *, pins: bool) -> Content:
        """Content in host memory, page-locked where an accelerator copies it."""
        content = self.host.get(key)
        if content is None:
            segment = self._files.get(place.record)
            here = slice(place.offset, place.offset + place.chunks)
            values = torch.stack([segment.tensor(key[0], name)[here] for name in ("k", "v")])
            content = quantize_content(values) if self._quantized else Content(values=values)
            content = content.pin_memory() if pins else content
            self.host.put(key, content)
        return content

    def _copy(self, contents: Sequence[Content], device: torch.device) -> list[Content]:
        """Contents on an accelerator; on CUDA from page-locked memory, on a stream of its own."""
        if device.type != "cuda":
            return [content.to(device) for content in contents]
        with self._mutex:
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)
        user = torch.cuda.current_stream(device)
        with torch.cuda.stream(self._streams[device]):
            copies = [
                (content if content.values.is_pinned() else content.pin_memory()) for content in contents
            ]
            moved = [content.to(device) for content in copies]
        for content in moved:
            for tensor in (content.values, content.scales):
                if tensor is not None:  # its memory is reused only when the model is done with it
                    tensor.record_stream(user)
        return moved
