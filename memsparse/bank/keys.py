"""The tier of routing keys: what a scan reads, on the device that scans, in blocks of whole segments.

Blocks are kept while the budget lasts, first come first kept: a scan visits all of them in turn, so dropping
the oldest for the newest would keep none of use. The rest is loaded for every scan, one block ahead of it.
Blocks belong to the bank, not to a reader: a new version of the bank loads what is new of it. On a processor
int8 keys that are kept take fewer columns where nearly all of them lies in these (`ops.projection`).

C chunks, W = G*D routing width.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.scan_files import LOSSY, ScanFiles
from memsparse.bank.segments import SegmentFiles, SegmentRecord
from memsparse.ops.openmp import release_threads
from memsparse.ops.projection import lie_near, principal_basis, project_keys, sampled_rows
from memsparse.ops.quantization import KeyFormat, ScanKeys, key_bytes, quantize_keys

BLOCK_BYTES = {"cpu": 64 * 2**20}
"""Keys of a block, about; `LARGE_BLOCK_BYTES` on an accelerator, where every block costs a few launches."""
LARGE_BLOCK_BYTES = 2**30
WORTH_A_FILE = 64 * 2**20
"""Bytes of stored routing keys from which on quantised ones are kept in side files."""
_ROWS = 8192
"""Chunks whose norms are computed at a time."""


def stored_format(dtype: torch.dtype) -> KeyFormat:
    """The format that holds stored keys as they are; float16 ones fit in float32 alone."""
    return "bf16" if dtype == torch.bfloat16 else "float32"


def stored_keys(keys_CW: Tensor) -> ScanKeys:
    """Stored routing keys as a scan reads them, without loss: what `quantize_keys` gives, in one cheap pass.

    Norms are bounded from above in float32: over W terms its sum is off by at most W + 2 roundings, and terms
    that underflow add less than 2**-50.
    """
    key_format = stored_format(keys_CW.dtype)
    codes = keys_CW if keys_CW.dtype == torch.bfloat16 else keys_CW.float()
    norms = torch.empty(len(codes), device=codes.device)
    floats = torch.empty(min(_ROWS, len(codes)), codes.shape[1], device=codes.device)
    for start in range(0, len(codes), _ROWS):
        tile = codes[start : start + _ROWS]
        here = slice(start, start + len(tile))
        torch.linalg.vector_norm(floats[: len(tile)].copy_(tile), dim=1, out=norms[here])
    norms.mul_(1 + (codes.shape[1] + 8) * 2.0**-23).add_(2.0**-50)
    if not bool(norms.isfinite().all()):
        return quantize_keys(keys_CW, key_format)
    return ScanKeys(
        format=key_format,
        codes=codes,
        scales=None,
        errors=torch.zeros_like(norms),
        norms=norms,
    )


@dataclass(eq=False, kw_only=True, slots=True)
class KeyBlock:
    """Segments whose keys lie one after the other."""

    segments: tuple[SegmentRecord, ...]
    starts: dict[int, int]
    """Segment id -> its first chunk within the block."""
    chunks: int
    kept: dict[int, ScanKeys] = field(default_factory=dict)
    """Layer -> keys, of the layers that are held."""
    bases: dict[int, Tensor | None] = field(default_factory=dict)
    """Layer -> the columns that its kept keys take; None: all, because they do not lie near the tier's."""
    norms: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> (C,) float32 norms of stored keys that are not held, computed once."""


class KeyBudget:
    """Bytes for routing keys on one device, shared by all tiers there; safe to share between threads."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self._mutex = threading.Lock()

    def take(self, size: int) -> bool:
        """Take bytes, if there are so many left."""
        with self._mutex:
            if self.held + size > self.total:
                return False
            self.held += size
            return True

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        with self._mutex:
            self.held -= size


class KeyTier:
    """The routing keys of one bank on one device in one format; safe to share between threads."""

    def __init__(
        self,
        files: SegmentFiles,
        scan_files: ScanFiles,
        fingerprint: Fingerprint,
        device: torch.device,
        *,
        key_format: KeyFormat,
        budget: KeyBudget,
        writes_files: bool,
        projects: bool = True,
    ) -> None:
        """Hold nothing yet.

        Args:
            budget: of the device; keys beyond it are loaded for every scan.
            writes_files: keep quantised keys in side files.
            projects: keep int8 keys on a processor in fewer columns where that is possible.
        """
        self.device = device
        self.format = key_format
        self.budget = budget
        self.held = 0
        """Bytes of the keys it holds."""
        self.merges = 0
        """How often a block was taken into a larger one; places told before are then out of date."""
        self._files = files
        self._scan_files = scan_files
        self._stored = fingerprint.torch_dtype
        self._writes_files = writes_files
        self._projects = projects and key_format == "int8" and device.type == "cpu"
        self._bases: dict[int, Tensor | None] = {}
        """By layer, as the first block that was large enough decided; None: keys stay as they are."""
        block_bytes = BLOCK_BYTES.get(device.type, LARGE_BLOCK_BYTES)
        self._block_chunks = max(block_bytes // key_bytes(fingerprint.width, key_format), 1)
        self._blocks: list[KeyBlock] = []
        self._of_segment: dict[int, KeyBlock] = {}
        self._width = fingerprint.width
        self._copies: torch.cuda.Stream | None = None
        self._spare: list[Tensor] = []
        """Memory for blocks that are not held, used again: fresh memory costs more than the copy into it."""
        self._mutex = threading.RLock()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="memsparse-keys")

    def place(self, records: Sequence[SegmentRecord]) -> dict[int, KeyBlock]:
        """The block of every segment, made where there is none; a block not full yet takes new ones in."""
        with self._mutex:
            new = [record for record in records if record.id not in self._of_segment]
            if new and self._blocks and self._blocks[-1].chunks < self._block_chunks:
                last = self._blocks.pop()
                self.merges += 1
                self._drop(last)
                new = [*last.segments, *new]
            while new:
                taken, chunks = 0, 0
                starts = {}
                while taken < len(new) and (not taken or chunks + new[taken].chunks <= self._block_chunks):
                    starts[new[taken].id] = chunks
                    chunks += new[taken].chunks
                    taken += 1
                block = KeyBlock(segments=tuple(new[:taken]), starts=starts, chunks=chunks)
                self._blocks.append(block)
                self._of_segment |= dict.fromkeys(starts, block)
                new = new[taken:]
            return {record.id: self._of_segment[record.id] for record in records}

    def stream(self, layer: int, blocks: Sequence[KeyBlock]) -> Iterator[ScanKeys]:
        """The keys of one block after the other; what is not held is loaded while the one before is used."""
        ahead: Future[ScanKeys] | None = None
        buffers: tuple[Tensor, Tensor] | None = None
        try:
            for place, block in enumerate(blocks):
                if buffers is None and _needs_buffer(block, layer):
                    buffers = self._borrow(), self._borrow()
                buffer = None if buffers is None else buffers[place % 2]
                keys = self._load(layer, block, buffer) if ahead is None else ahead.result()
                ahead = None
                if place + 1 < len(blocks) and layer not in blocks[place + 1].kept:
                    if buffers is None and _needs_buffer(blocks[place + 1], layer):
                        buffers = self._borrow(), self._borrow()
                    following = None if buffers is None else buffers[(place + 1) % 2]
                    ahead = self._ahead.submit(self._load_ahead, layer, blocks[place + 1], following)
                yield keys
        finally:
            if ahead is not None:
                ahead.exception()  # it writes into what is given back here
            if buffers is not None:
                with self._mutex:
                    self._spare += buffers

    def hold(self, layer: int, block: KeyBlock) -> ScanKeys | None:
        """The keys of a block if they are held, or can be from now on; None where the budget has no room."""
        with self._mutex:
            if layer in block.kept:
                return block.kept[layer]
            size = block.chunks * self._chunk_bytes(layer, block)
            is_current = self._of_segment.get(block.segments[0].id) is block
            if not is_current or self.budget.held + size > self.budget.total:
                return None
            return self._load(layer, block, None)

    def release(self) -> None:
        """Let go of everything held; it is held again as far as the budget allows."""
        with self._mutex:
            self._spare.clear()
            for block in self._blocks:
                self._drop(block)

    def _drop(self, block: KeyBlock) -> None:
        size = sum(keys.nbytes for keys in block.kept.values())
        self.held -= size
        self.budget.give_back(size)
        block.kept.clear()

    def _borrow(self) -> Tensor:
        """Memory for one block, (bytes,) uint8; page-locked where it is copied from to an accelerator."""
        with self._mutex:
            size = max(block.chunks for block in self._blocks) * key_bytes(self._width, self.format)
            while self._spare:
                spare = self._spare.pop()
                if len(spare) >= size:
                    return spare
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def _load(self, layer: int, block: KeyBlock, buffer: Tensor | None) -> ScanKeys:
        """The keys of a block: those held, or read, into `buffer` where they will not be held."""
        with self._mutex:
            if layer in block.kept:
                return block.kept[layer]
            current = self._of_segment[block.segments[0].id] is block  # not one since taken into another
            size = block.chunks * self._chunk_bytes(layer, block)
            holds = current and self.budget.take(size)
            try:
                basis = self._basis(layer, block) if holds else None
                if basis is not None:
                    keys = self._read_projected(layer, block, basis)
                else:
                    keys = self._read(layer, block, None if holds and self.device.type == "cpu" else buffer)
                if self.device.type != "cpu":
                    keys = self._copy(keys)
            except BaseException:
                self.budget.give_back(size if holds else 0)
                raise
            if holds:
                block.kept[layer] = keys
                self.held += keys.nbytes
                self.budget.give_back(size - keys.nbytes)
            return keys

    def _load_ahead(self, layer: int, block: KeyBlock, buffer: Tensor | None) -> ScanKeys:
        try:
            return self._load(layer, block, buffer)
        finally:
            release_threads()

    def _basis(self, layer: int, block: KeyBlock) -> Tensor | None:
        """The columns that kept keys of a block take, by a sample of them; None: all of them."""
        least = block.chunks * key_bytes(1, self.format)
        if not self._projects or least > self.budget.total:
            return None
        if layer not in block.bases:
            wanted = sampled_rows(self._width)
            if layer not in self._bases and block.chunks < wanted:
                return None  # for now: a larger one will decide
            step = max(block.chunks // wanted, 1)
            sample = torch.cat([keys[::step].float() for keys in self._stored_of(layer, block)])
            if layer not in self._bases:
                self._bases[layer] = principal_basis(sample)
            basis = self._bases[layer]
            is_near = basis is not None and lie_near(project_keys(sample, basis))
            block.bases[layer] = basis if is_near else None
        return block.bases[layer]

    def _chunk_bytes(self, layer: int, block: KeyBlock) -> int:
        """What a chunk of a block takes if it is kept."""
        basis = self._basis(layer, block)
        return key_bytes(self._width if basis is None else basis.shape[1], self.format)

    def _read_projected(self, layer: int, block: KeyBlock, basis: Tensor) -> ScanKeys:
        """The keys of a block in fewer columns, from side files where these are kept."""
        parts: Iterable[ScanKeys | Tensor] = self._stored_of(layer, block)
        if self._writes_files:
            parts = (
                self._scan_files.load(record, layer, self.format, keep=True) for record in block.segments
            )
        return ScanKeys.join([project_keys(keys, basis) for keys in parts])

    def _stored_of(self, layer: int, block: KeyBlock) -> Iterator[Tensor]:
        """The stored keys of a block, segment by segment."""
        return (self._files.get(record).tensor(layer, "routing_k") for record in block.segments)

    def _copy(self, keys: ScanKeys) -> ScanKeys:
        """Keys on the accelerator; on CUDA copied on a stream of its own, beside the scan before."""
        if self.device.type != "cuda":
            return keys.to(self.device)
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copies):
            keys = keys.pin_memory().to(self.device, non_blocking=True)
        self._copies.synchronize()
        for tensor in (keys.codes, keys.scales, keys.errors, keys.norms):
            if tensor is not None:  # its memory is reused only when the scan is done with it
                tensor.record_stream(torch.cuda.default_stream(self.device))
        return keys

    def _read(self, layer: int, block: KeyBlock, buffer: Tensor | None) -> ScanKeys:
        if self.format in LOSSY:
            parts = [
                self._scan_files.load(record, layer, self.format, keep=self._writes_files)
                for record in block.segments
            ]
            scales = [part.scales for part in parts if part.scales is not None]
            return ScanKeys(
                format=self.format,
                codes=_joined([part.codes for part in parts], buffer),
                scales=torch.cat(scales),
                errors=torch.cat([part.errors for part in parts]),
                norms=torch.cat([part.norms for part in parts]),
            )
        codes = _joined(list(self._stored_of(layer, block)), buffer)
        if layer not in block.norms:
            keys = stored_keys(codes)
            block.norms[layer] = keys.norms
            return keys
        norms = block.norms[layer]
        return ScanKeys(
            format=self.format,
            codes=codes if codes.dtype == torch.bfloat16 else codes.float(),
            scales=None,
            errors=torch.zeros_like(norms),
            norms=norms,
        )


def _needs_buffer(block: KeyBlock, layer: int) -> bool:
    """Whether the keys of a block are put together of several segments, for one scan."""
    return layer not in block.kept and len(block.segments) > 1


def _joined(parts: list[Tensor], buffer: Tensor | None) -> Tensor:
    """Matrices one after the other, in `buffer` where there is one; a single one is left where it is."""
    if len(parts) == 1:
        return parts[0]
    if buffer is None:
        return torch.cat(parts)
    out = buffer[: sum(part.nbytes for part in parts)].view(parts[0].dtype).view(-1, parts[0].shape[1])
    return torch.cat(parts, out=out)
