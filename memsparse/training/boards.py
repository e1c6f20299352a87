"""Metrics for TensorBoard."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memsparse.errors import ConfigError


class Board:
    """Writes numbers into a folder that TensorBoard shows."""

    def __init__(self, folder: Path, *, done: int) -> None:
        """Continue after step `done`: what an interrupted run wrote of later ones is hidden.

        Raises: ConfigError where tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # an extra
        except ImportError as error:
            raise ConfigError(
                "tensorboard = true needs the package; pip install 'memsparse[train]', or leave it out"
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=done + 1)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write the numbers of an entry of metrics, those of tables within it too, at its "step"."""
        for name, value in _numbers(entry):
            if name != "step":
                self._writer.add_scalar(name, value, int(entry["step"]))

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()


def _numbers(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
