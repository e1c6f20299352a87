"""The index of a bank: k-means cells over groups of segments, in side files.

Segments are small, as many documents as one commit stores, and indexes of each would have more centres than
one of all. So consecutive segments form groups, each at least twice as large as the next (`group_segments`):
a bank has few of them, and a key is put into new cells about as often as the bank doubles.

`segments/000001.cells.safetensors` holds the cells of the group that begins with segment 1: for each memory
layer i `layer_{i}.centres`, `.spread`, `.reach`, `.order` and `.offsets`. As the files of quantised keys
(`scan_files`) it is derived, may be removed at any time, and is made again when it is missing, damaged or of
another group; where it cannot be written, cells are made in memory alone.

C chunks, W = G*D routing width, L cells.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.keys import KeyBlock
from memsparse.bank.scan_files import checksum, put_side_file
from memsparse.bank.segments import FOLDER, SegmentFiles, SegmentRecord
from memsparse.ops.cells import LARGEST_SAMPLE, SAMPLE, assign_cells, cell_count, padded_reach, train_centres

VERSION = "1"
"""Of the arithmetic that makes cells: files of another version are made again."""
_PARTS = ("centres", "spread", "reach", "order", "offsets")

OnChunks = Callable[[int], None]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """The cells of one group in one layer."""

    centres: Tensor
    """(L, W) float32."""
    spread: Tensor
    """(L,) float32, the root of the mean squared distance of a cell's keys from its centre."""
    reach: Tensor
    """(L,) float32, `padded_reach`: no key of a cell lies farther from its centre."""
    order: Tensor
    """(C,) int32, the chunks of the group by cell, ascending within each."""
    offsets: Tensor
    """(L + 1,) int64, where each cell begins in `order`, and the end."""

    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of the file."""
        return self.centres, self.spread, self.reach, self.order, self.offsets

    def is_sound(self, chunks: int, width: int) -> bool:
        """Whether shapes, dtypes and the places of all chunks are what they must be."""
        cells = len(self.centres)
        shapes = [tuple(tensor.shape) for tensor in self.tensors()]
        dtypes = [tensor.dtype for tensor in self.tensors()]
        if shapes != [(cells, width), (cells,), (cells,), (chunks,), (cells + 1,)]:
            return False
        if dtypes != [*(torch.float32,) * 3, torch.int32, torch.int64]:
            return False
        ends = int(self.offsets[0]), int(self.offsets[-1])
        return ends == (0, chunks) and bool((self.offsets.diff() >= 0).all())


def group_segments(records: Sequence[SegmentRecord]) -> list[KeyBlock]:
    """Runs of segments by ascending id, each of more than twice the chunks of the next.

    Of equal segments these are the digits of a binary counter: a segment that is added makes one new group of
    itself and of as many as are not larger.
    """
    runs: list[tuple[list[SegmentRecord], int]] = []
    for record in sorted(records, key=lambda record: record.id):
        runs.append(([record], record.chunks))
        while len(runs) > 1 and runs[-2][1] < 2 * runs[-1][1]:
            members, chunks = runs.pop()
            before, more = runs.pop()
            runs.append(([*before, *members], more + chunks))
    groups = []
    for members, chunks in runs:
        starts, first = {}, 0
        for record in members:
            starts[record.id] = first
            first += record.chunks
        groups.append(KeyBlock(segments=tuple(members), starts=starts, chunks=chunks))
    return groups


class CellFiles:
    """The index of one bank; safe to share between threads."""

    def __init__(self, folder: Path, files: SegmentFiles, fingerprint: Fingerprint, *, writes: bool) -> None:
        """Hold nothing yet.

        Args:
            writes: cells may be kept in files beside the segments.
        """
        self._folder = folder
        self._files = files
        self._fingerprint = fingerprint
        self.writes = writes
        self._groups: list[KeyBlock] = []
        self._loaded: dict[tuple[KeyBlock, int], Cells] = {}
        self._mutex = threading.RLock()

    def groups(self, records: Sequence[SegmentRecord]) -> list[KeyBlock]:
        """The groups of all segments of the bank; those that did not change are the same ones as before."""
        with self._mutex:
            before = {group.segments: group for group in self._groups}
            groups = [before.get(group.segments, group) for group in group_segments(records)]
            self._groups = groups
            self._loaded = {key: cells for key, cells in self._loaded.items() if key[0] in groups}
            return groups

    def load(self, group: KeyBlock, layer: int, on_chunks: OnChunks = lambda chunks: None) -> Cells:
        """The cells of a group, from its side file if there is a sound one.

        Args:
            on_chunks: told how many more chunks of a layer have their cell, while they are made.

        Raises: BankCorruptError if a segment is damaged.
        """
        with self._mutex:
            found = self._loaded.get((group, layer))
            if found is None:
                found = self._read(group, layer)
            made = {} if found is None else {layer: found}
            if found is None and self.writes and self._may_replace(group):
                made = {each: self._make(group, each, on_chunks) for each in self._fingerprint.memory_layers}
                self._write(group, made)
            elif found is None:
                made = {layer: self._make(group, layer, on_chunks)}
            if group in self._groups:
                self._loaded |= {(group, each): cells for each, cells in made.items()}
            return made[layer]

    def bytes(self) -> int:
        """Of all side files on the disk."""
        return sum(path.stat().st_size for path in self._folder.glob("*.cells.safetensors"))

    def problems(self, records: Sequence[SegmentRecord]) -> Iterator[str]:
        """One line for each side file that is not what was written for segments of the bank.

        A file of a group that has grown since is out of date, not damaged: it is made again when it is used.
        """
        records = sorted(records, key=lambda record: record.id)
        for first, record in enumerate(records):
            path = self._path(record)
            if not path.exists():
                continue
            run = records[first : first + len(_members_of(path))]
            group = KeyBlock(segments=tuple(run), starts={}, chunks=sum(part.chunks for part in run))
            if any(self._read(group, layer) is None for layer in self._fingerprint.memory_layers):
                yield f"{FOLDER}/{path.name}: it is damaged or of other segments; remove it"

    def _path(self, record: SegmentRecord) -> Path:
        return self._folder / f"{record.file.removesuffix('.safetensors')}.cells.safetensors"

    def _may_replace(self, group: KeyBlock) -> bool:
        """Whether to write the file of a group: not over that of a larger one, of a process that knows of
        more segments."""
        own, there = _members(group), _members_of(self._path(group.segments[0]))
        return len(there) <= len(own) or there[: len(own)] != own

    def _read(self, group: KeyBlock, layer: int) -> Cells | None:
        """The cells of one layer; None where the file is missing, damaged or of something else."""
        if not group.segments or _members_of(self._path(group.segments[0])) != _members(group):
            return None
        try:
            with safe_open(self._path(group.segments[0]), framework="pt") as file:
                about = file.metadata() or {}
                if about.get("version") != VERSION:
                    return None
                parts = {name: file.get_tensor(f"layer_{layer}.{name}") for name in _PARTS}
        except (OSError, SafetensorError):
            return None
        if about.get(f"crc32.{layer}") != checksum(*parts.values()):
            return None
        cells = Cells(**parts)
        return cells if cells.is_sound(group.chunks, self._fingerprint.width) else None

    def _write(self, group: KeyBlock, made: Mapping[int, Cells]) -> None:
        """Put the cells of all layers into a file; a disk that refuses ends writing, not the read."""
        path = self._path(group.segments[0])
        tensors: dict[str, Tensor] = {}
        about = {"segments": " ".join(_members(group)), "version": VERSION}
        for layer, cells in made.items():
            parts = cells.tensors()
            tensors |= {f"layer_{layer}.{name}": part for name, part in zip(_PARTS, parts, strict=True)}
            about[f"crc32.{layer}"] = checksum(*parts)
        self.writes = put_side_file(path, tensors, about)
        if self.writes:
            for record in group.segments[1:]:  # of groups that this one has taken in
                self._path(record).unlink(missing_ok=True)

    def _make(self, group: KeyBlock, layer: int, on_chunks: OnChunks) -> Cells:
        """k-means on a sample, then every key into its cell, segment by segment."""
        _LOG.info("making the index of %s chunks in layer %s", f"{group.chunks:,}", layer)
        count = cell_count(group.chunks)
        taken = min(group.chunks, SAMPLE * count, LARGEST_SAMPLE)
        generator = torch.Generator().manual_seed(layer)
        if taken < group.chunks:  # with repetition, in order: memory does not grow with the chunks
            chosen = torch.randint(group.chunks, (taken,), generator=generator).unique()
        else:
            chosen = torch.arange(group.chunks)
        count = min(count, len(chosen))
        bounds = torch.tensor([group.starts[record.id] for record in group.segments] + [group.chunks])
        runs = torch.searchsorted(chosen, bounds).diff().tolist()
        sample = []
        for record, rows in zip(group.segments, chosen.split(runs), strict=True):
            if len(rows):
                stored = self._files.get(record).tensor(layer, "routing_k")
                sample.append(stored[rows - group.starts[record.id]])
        centres = train_centres(torch.cat(sample), count, seed=layer)
        del sample
        cell_C = torch.empty(group.chunks, dtype=torch.int32)
        squares_L, reach_L = torch.zeros(2, count, dtype=torch.float64).unbind()
        for record in group.segments:
            cell, squares, reach = assign_cells(self._files.get(record).tensor(layer, "routing_k"), centres)
            start = group.starts[record.id]
            cell_C[start : start + record.chunks] = cell.int()
            squares_L, reach_L = squares_L + squares, reach_L.maximum(reach)
            on_chunks(record.chunks)
        order = cell_C.argsort(stable=True).int()
        counts = torch.bincount(cell_C, minlength=count)
        return Cells(
            centres=centres,
            spread=(squares_L / counts.clamp_min(1)).sqrt().float(),
            reach=padded_reach(centres, reach_L),
            order=order,
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        )


def _members(group: KeyBlock) -> list[str]:
    """The segments of a group by the start of their checksums."""
    return [record.sha256[:16] for record in group.segments]


def _members_of(path: Path) -> list[str]:
    """The segments that the file at a path was made of; none where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("segments", "")).split()
    except (OSError, SafetensorError):
        return []
