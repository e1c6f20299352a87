"""A model's weights as safetensors files: read without being loaded, written in files of bounded size."""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memsparse.errors import ModelError

_INDEX = "model.safetensors.index.json"


class SourceWeights:
    """The safetensors files of a folder, opened but not read.

    Raises: ModelError if there are none, or one is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        for path in _weight_files(folder):
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                self._stack.close()
                raise ModelError(f"{path} is missing or damaged ({error}); fetch the model again") from error
            self._file_of.update(dict.fromkeys(file.keys(), file))

    @property
    def names(self) -> list[str]:
        """In the order they are stored."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Read from the file's header."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Read one weight."""
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _weight_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            outside = [name for name in names if Path(name).name != name]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} cannot be read ({error}); fetch the model again") from error
        if outside:
            raise ModelError(f"{index} names {outside[0]!r}, outside the folder; fetch the model again")
        return [folder / name for name in sorted(names)]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(path.name for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
    if pickled:
        raise ModelError(f"{folder} holds its weights as pickle ({pickled[0]}); save it as safetensors first")
    raise ModelError(f"no model.safetensors in {folder}; fetch the weights, or save the model as safetensors")


class ShardWriter:
    """Writes weights as files of bounded size, and the index that finds them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.shard_of: dict[str, int] = {}
        self._held: dict[str, Tensor] = {}
        self._held_bytes = self._total = self._shards = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a weight; what is held is written once it would grow past the limit."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + size > self.max_bytes:
            self._flush()
        self._held[name] = tensor.contiguous()
        self._held_bytes += size
        self._total += size
        self.shard_of[name] = self._shards

    def finish(self) -> int:
        """Write the rest, give the files their names, return the bytes of all weights."""
        self._flush()
        if self._shards == 1:
            (self.folder / _part(0)).rename(self.folder / "model.safetensors")
            return self._total
        final = [f"model-{shard + 1:05d}-of-{self._shards:05d}.safetensors" for shard in range(self._shards)]
        for shard, name in enumerate(final):
            (self.folder / _part(shard)).rename(self.folder / name)
        index = {
            "metadata": {"total_size": self._total},
            "weight_map": {name: final[shard] for name, shard in self.shard_of.items()},
        }
        (self.folder / _INDEX).write_text(
            json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        return self._total

    def _flush(self) -> None:
        save_file(self._held, self.folder / _part(self._shards), metadata={"format": "pt"})
        self._held = {}
        self._held_bytes = 0
        self._shards += 1


def _part(shard: int) -> str:
    return f"part-{shard}"
