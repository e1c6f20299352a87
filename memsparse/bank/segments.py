"""Segments: immutable safetensors files of chunks, written once and memory mapped ever after.

A file holds, for each memory layer i, `layer_{i}.routing_k` (C, W), `.k` and `.v` (C, G, D), with C chunks,
W = G * D, G kv heads, D head_dim. Nothing in it says what a chunk belongs to: that is the catalog's.
"""

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memsparse.bank.fingerprint import Fingerprint
from memsparse.errors import BankCorruptError, BankError, ShapeError

FOLDER = "segments"
OPEN_SEGMENTS = 4096
"""Segments kept mapped at a time; each takes address space and a few mappings, no file handle."""
_YOUNG = 3600
"""Seconds within which the writing of a side file certainly ends."""
_OURS = re.compile(r"(\d{6,})(\.[a-z]+\d*)?\.safetensors(\.[0-9a-f]{8})?(\.tmp)?")
"""A segment, or a file of quantised keys beside it; `.tmp` while it is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedChunks:
    """Chunks of a run of passages, in passage order; layer -> tensor."""

    routing_k: dict[int, Tensor]
    """(C, W) each, W = kv_heads * head_dim."""
    k: dict[int, Tensor]
    """(C, G, D) each, rotary phase included."""
    v: dict[int, Tensor]
    """(C, G, D) each."""
    chunks_per_passage: tuple[int, ...]
    tokens_per_passage: tuple[int, ...]

    def check(self, fingerprint: Fingerprint, passages: int) -> None:
        """Compare with what the bank stores.

        Raises: ShapeError for counts, layers, sizes, dtypes or values that do not fit.
        """
        for name, counts in (("chunks", self.chunks_per_passage), ("tokens", self.tokens_per_passage)):
            if len(counts) != passages:
                raise ShapeError(
                    f"{len(counts)} counts of {name} for {passages} passages; pass one per passage"
                )
            if min(counts, default=1) < 1:
                raise ShapeError(f"a passage has {min(counts)} {name}; every passage needs at least one")
        total, shape = sum(self.chunks_per_passage), (fingerprint.kv_heads, fingerprint.head_dim)
        for name, layers in (("routing_k", self.routing_k), ("k", self.k), ("v", self.v)):
            if passages and set(layers) != set(fingerprint.memory_layers):
                raise ShapeError(
                    f"{name} has layers {sorted(layers)}, the bank {sorted(fingerprint.memory_layers)}; "
                    "pass all of them"
                )
            expected = (total, fingerprint.width) if name == "routing_k" else (total, *shape)
            for layer, tensor in layers.items():
                _check_tensor(f"{name} of layer {layer}", tensor, expected, fingerprint.torch_dtype)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a segment file, each with its own storage."""
        groups = (("routing_k", self.routing_k), ("k", self.k), ("v", self.v))
        return {
            tensor_name(layer, name): _own(tensor.detach().cpu().contiguous())
            for name, layers in groups
            for layer, tensor in layers.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRecord:
    """A segment as the catalog knows it."""

    id: int
    file: str
    dtype: str
    chunks: int
    bytes: int
    sha256: str


def tensor_name(layer: int, name: str) -> str:
    """Name of a tensor in a segment file."""
    return f"layer_{layer}.{name}"


def _own(tensor: Tensor) -> Tensor:
    """The tensor in a storage that holds nothing else, copied only if it must be."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _check_tensor(what: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape:
        raise ShapeError(
            f"{what} is {tuple(tensor.shape)}, the bank needs {shape}; encode with the bank's model"
        )
    if tensor.dtype != dtype:
        raise ShapeError(f"{what} is {tensor.dtype}, the bank stores {dtype}; convert it first")
    if not bool(torch.isfinite(tensor).all()):
        raise ShapeError(f"{what} holds values that are not finite; encode the passages again")


def write_segment(folder: Path, segment: int, chunks: EncodedChunks, *, dtype: str) -> SegmentRecord:
    """Write chunks aside, flush them, then give the file its name; the caller names it in the catalog.

    Raises: BankError if the disk refuses.
    """
    path = folder / f"{segment:06d}.safetensors"
    aside = path.with_name(path.name + ".tmp")
    try:
        save_file(chunks.tensors(), aside)
        flush(aside)
        size, digest = aside.stat().st_size, file_sha256(aside)
        os.rename(aside, path)
        flush(folder)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise BankError(f"cannot write {path} ({error}); nothing was added; free space and repeat") from error
    return SegmentRecord(
        id=segment,
        file=path.name,
        dtype=dtype,
        chunks=sum(chunks.chunks_per_passage),
        bytes=size,
        sha256=digest,
    )


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Checksum of a whole file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stray_files(folder: Path, known: set[str]) -> list[Path]:
    """Files named like segments that no catalog row names, and those beside such: left by a killed writer.

    A side file is written without the bank's lock, so a young unfinished one may be somebody's.
    """
    return sorted(path for path in _ours(folder) if _segment_of(path) not in known and not _is_young(path))


def _ours(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _OURS.fullmatch(path.name)] if folder.is_dir() else []


def _is_young(path: Path) -> bool:
    """Whether a file is an unfinished side file of the last hour."""
    found = _OURS.fullmatch(path.name)
    if not found or not (found[2] and found[4]):
        return False
    try:
        return time.time() - path.stat().st_mtime < _YOUNG
    except FileNotFoundError:
        return True  # it was finished, or given up, in this moment


def _segment_of(path: Path) -> str:
    """Name of the segment a file is, or lies beside; none for one still being written."""
    found = _OURS.fullmatch(path.name)
    return f"{found[1]}.safetensors" if found and not found[4] else ""


class Segment:
    """One open segment. Tensors are views of the mapped file: nothing is read before it is used."""

    def __init__(self, folder: Path, record: SegmentRecord, fingerprint: Fingerprint) -> None:
        self.record = record
        self._fingerprint = fingerprint
        self._path = folder / record.file
        self._tensors: dict[str, Tensor] = {}
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
            if size != record.bytes:
                raise _damaged(self._path, f"it has {size} bytes, the catalog says {record.bytes}")
            # safe_open of safetensors is typed only in part
            self._file: Any = safe_open(self._path, framework="pt")
        except FileNotFoundError as error:
            raise _damaged(self._path, "it is missing") from error
        except PermissionError as error:
            raise BankError(f"cannot read {self._path} ({error.strerror}); fix its permissions") from error
        except (OSError, SafetensorError) as error:
            raise _damaged(self._path, str(error)) from error

    def tensor(self, layer: int, name: str) -> Tensor:
        """`routing_k` (C, W), `k` or `v` (C, G, D) of a memory layer; not to be written to.

        Raises: BankCorruptError if the file does not hold what the catalog says.
        """
        key = tensor_name(layer, name)
        if key not in self._tensors:
            self._tensors[key] = self._map(key, name)
        return self._tensors[key]

    def _map(self, key: str, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except SafetensorError as error:
            raise _damaged(self._path, str(error)) from error
        fingerprint, chunks = self._fingerprint, self.record.chunks
        heads = (chunks, fingerprint.kv_heads, fingerprint.head_dim)
        expected = (chunks, fingerprint.width) if name == "routing_k" else heads
        if tuple(tensor.shape) != expected or tensor.dtype != fingerprint.torch_dtype:
            raise _damaged(
                self._path,
                f"{key} is {tuple(tensor.shape)} {tensor.dtype}, expected {expected} {fingerprint.dtype}",
            )
        return tensor


class SegmentFiles:
    """The segments of one bank, opened when first read; the longest unused are closed."""

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._open: OrderedDict[int, Segment] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, record: SegmentRecord) -> Segment:
        """Raises: BankCorruptError if the file is missing or is not what the catalog says."""
        with self._mutex:
            segment = self._open.get(record.id)
            if segment is None:
                segment = self._open[record.id] = Segment(self.folder, record, self._fingerprint)
                if len(self._open) > OPEN_SEGMENTS:
                    self._open.popitem(last=False)
            self._open.move_to_end(record.id)
            return segment

    def close(self) -> None:
        """Let go of every file; tensors handed out stay valid."""
        with self._mutex:
            self._open.clear()

    def problems(self, record: SegmentRecord) -> Iterator[str]:
        """Read one file whole and compare it with its catalog row: checksum, names, shapes, dtypes."""
        try:
            segment = Segment(self.folder, record, self._fingerprint)
            if file_sha256(self.folder / record.file) != record.sha256:
                yield f"{FOLDER}/{record.file}: its checksum is not the catalog's"
            for layer in self._fingerprint.memory_layers:
                for name in ("routing_k", "k", "v"):
                    segment.tensor(layer, name)
        except BankError as error:
            yield str(error)
        except OSError as error:
            yield f"{FOLDER}/{record.file}: {error}"


def _damaged(path: Path, why: str) -> BankCorruptError:
    return BankCorruptError(
        f"segment {path} is damaged: {why}; restore the file from a copy, or create a new bank and add the "
        "documents again"
    )
