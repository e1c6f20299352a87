"""Quantised routing keys beside their segments, so that they are made once and not at every start.

`segments/000001.int8.safetensors` holds, for each memory layer i, `layer_{i}.codes`, `.scales`, `.errors` and
`.norms` of segment 1. To quantise the keys of a bank larger than memory takes a pass over all of it (58 GB at
the 4B model's shape and 100M tokens); its 1-bit keys are a sixteenth of that to read, so they are worth a
file even though they are held in memory afterwards. A side file is derived and never the only copy of
anything: it may be removed at any time, and is made again when it is missing, damaged or of another segment.
Where it cannot be written (no permission, no space, a bank open read-only) or is not worth it (a small bank),
keys are quantised in memory alone.
"""

import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.segments import FOLDER, SegmentFiles, SegmentRecord, flush
from memsparse.errors import ConfigError, ShapeError
from memsparse.ops.quantization import KeyFormat, ScanKeys, quantize_keys

LOSSY: tuple[KeyFormat, ...] = ("fp8", "int8", "int4", "binary")
"""Formats that have side files; the others are the stored keys as they are."""
VERSION = "1"
"""Of the arithmetic of `quantize_keys`: files of another version are made again."""
_PARTS = ("codes", "scales", "errors", "norms")


class ScanFiles:
    """The side files of one bank; safe to share between threads."""

    def __init__(self, folder: Path, files: SegmentFiles, fingerprint: Fingerprint, *, writes: bool) -> None:
        self._folder = folder
        self._files = files
        self._fingerprint = fingerprint
        self.writes = writes
        self._sound: set[tuple[str, int]] = set()
        """(file, layer) whose checksums were compared."""

    def load(self, record: SegmentRecord, layer: int, key_format: KeyFormat, *, keep: bool) -> ScanKeys:
        """Quantised routing keys of a segment, from its side file if there is a sound one.

        Args:
            keep: write a missing side file, if that may be done at all.

        Raises: BankCorruptError if the segment itself is damaged.
        """
        path = self._path(record, key_format)
        found = self._read(path, record, layer, key_format)
        if found is not None:
            return found
        if keep and self.writes:
            self._write(path, record, key_format)
            found = self._read(path, record, layer, key_format)
        if found is None:
            found = quantize_keys(self._files.get(record).tensor(layer, "routing_k"), key_format)
        return found

    def bytes(self) -> int:
        """Of all side files on the disk."""
        return sum(path.stat().st_size for key in LOSSY for path in self._folder.glob(f"*.{key}.safetensors"))

    def problems(self, record: SegmentRecord) -> Iterator[str]:
        """One line for each side file of a segment that is not what was written for it."""
        for key_format in LOSSY:
            path = self._path(record, key_format)
            if not path.exists():
                continue
            self._sound -= {(path.name, layer) for layer in self._fingerprint.memory_layers}
            layers = self._fingerprint.memory_layers
            if any(self._read(path, record, layer, key_format) is None for layer in layers):
                yield f"{FOLDER}/{path.name}: it is damaged or of another segment; remove it"

    def _path(self, record: SegmentRecord, key_format: KeyFormat) -> Path:
        return self._folder / f"{record.file.removesuffix('.safetensors')}.{key_format}.safetensors"

    def _read(self, path: Path, record: SegmentRecord, layer: int, key_format: KeyFormat) -> ScanKeys | None:
        """The keys of one layer; None where the file is missing, damaged or of something else."""
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if (about.get("segment"), about.get("version")) != (record.sha256, VERSION):
                    return None
                codes, scales, errors, norms = (file.get_tensor(f"layer_{layer}.{part}") for part in _PARTS)
            keys = ScanKeys(format=key_format, codes=codes, scales=scales, errors=errors, norms=norms)
        except (OSError, SafetensorError, ShapeError, ConfigError):
            return None
        if len(keys) != record.chunks or keys.width != self._fingerprint.width:
            return None
        if (path.name, layer) not in self._sound:
            if about.get(f"crc32.{layer}") != checksum(codes, scales, errors, norms):
                return None
            self._sound.add((path.name, layer))
        return keys

    def _write(self, path: Path, record: SegmentRecord, key_format: KeyFormat) -> None:
        """Quantise all layers of a segment into a file; a disk that refuses ends writing, not the read."""
        segment = self._files.get(record)
        tensors: dict[str, Tensor] = {}
        about = {"segment": record.sha256, "version": VERSION}
        for layer in self._fingerprint.memory_layers:
            keys = quantize_keys(segment.tensor(layer, "routing_k"), key_format)
            if keys.scales is None:
                return
            parts = (keys.codes, keys.scales, keys.errors, keys.norms)
            tensors |= {f"layer_{layer}.{name}": part for name, part in zip(_PARTS, parts, strict=True)}
            about[f"crc32.{layer}"] = checksum(*parts)
        self.writes = put_side_file(path, tensors, about)


def put_side_file(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> bool:
    """Put tensors into a file that is there as a whole or not at all; False where the disk refuses it."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        save_file(tensors, aside, metadata=about)
        flush(aside)
        os.rename(aside, path)
    except (OSError, SafetensorError):
        aside.unlink(missing_ok=True)
        return False
    return True


def checksum(*tensors: Tensor) -> str:
    """CRC-32 of the bytes of tensors, one after the other."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.contiguous().view(uint8).numpy().data, value)
    return str(value)
