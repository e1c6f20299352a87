"""JSON Lines, plain, gzipped or Zstandard, read line by line; files written whole or not at all."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from memsparse.errors import DocumentError

_BLOCK = 1 << 16


def unpacked_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the lines of a stream, unpacked as its name's suffix asks.

    Raises: DocumentError with the bare reason for damaged packing, or a missing package.
    """
    if name.lower().endswith(".zst"):
        yield from _split_lines(_unpack_zst(stream))
        return
    packed = name.lower().endswith(".gz")
    done = 0
    try:
        for line in gzip.GzipFile(fileobj=stream) if packed else stream:
            yield line
            done += 1
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DocumentError(f"damaged gzip data after line {done}") from None


def read_rows(path: Path, *, fields: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a file with the words that name its place: "FILE, line 3".

    Raises: DocumentError naming the file, and the line if one is no JSON object or lacks one of `fields`.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(unpacked_lines(stream, path.name), start=1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _row(line, where, fields)
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror or error}; give a readable JSON Lines file") from error
    except DocumentError as error:
        if str(error).startswith(str(path)):
            raise
        raise DocumentError(f"{path}: {error}; give a readable JSON Lines file") from error


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as gzipped JSON Lines, whole or not at all; the same rows give the same bytes.

    Raises: OSError as `whole_file`.
    """
    with (
        whole_file(path) as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        for row in rows:
            text.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once all of it is written; its folder is made.

    Raises: OSError where it cannot be written; what was at `path` then stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".writing")
    with aside.open("wb") as file:
        yield file
    os.replace(aside, path)


def _row(line: bytes, where: str, fields: Sequence[str]) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where}: not UTF-8 text; convert the file to UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: not JSON ({error}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise DocumentError(f"{where}: not a JSON object; mend or remove the line")
    if missing := [name for name in fields if name not in row]:
        raise DocumentError(f"{where}: lacks {', '.join(missing)}; mend or remove the line")
    return row


def _unpack_zst(stream: BinaryIO) -> Iterator[bytes]:
    """Unpack frame after frame; unlike zstandard's own reader, notice a file that ends in mid-frame."""
    try:
        import zstandard
    except ImportError:
        raise DocumentError("needs the package zstandard; pip install 'memsparse[files]'") from None
    decompressor = zstandard.ZstdDecompressor()
    frame, complete = decompressor.decompressobj(), True
    while packed := stream.read(_BLOCK):
        while packed:
            try:
                yield frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise DocumentError(f"damaged Zstandard data: {error}") from None
            packed, complete = frame.unused_data, frame.eof
            if complete:
                frame = decompressor.decompressobj()
    if not complete:
        raise DocumentError("damaged Zstandard data: the file ends too early")


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
