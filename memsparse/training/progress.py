"""What a run tells: metrics as JSON lines in its folder, a bar on a terminal, log lines elsewhere."""

import json
import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memsparse.errors import EngineError
from memsparse.training.boards import Board

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
"""What a run writes into its folder."""


class RunLog:
    """Takes metrics while it is open; shows a bar on standard error if that is a terminal."""

    def __init__(
        self, path: Path, *, done: int, steps: int, silent: bool = False, board: Board | None = None
    ) -> None:
        """Args: path: JSON Lines file that is added to. silent: tell nothing at all. board: is told, too."""
        self.path = path
        self.silent = silent
        self.board = board
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, disable=silent or not console.is_terminal)
        self._task = self._bar.add_task("", total=steps, completed=done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self.board is not None:
            self.board.close()

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        self._bar.update(self._task, completed=step)

    def write(self, entry: Mapping[str, Any], *, lasting: bool = False) -> None:
        """Record an entry. On a terminal a lasting one stays above the bar; others stand beside it.

        Raises: EngineError where the disk is full or cannot be written.
        """
        if self.silent:
            return
        try:
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")
            if self.board is not None:
                self.board.write(entry)
        except OSError as error:
            raise EngineError(
                f"{self.path} cannot be written ({error.strerror}); what was saved last is intact: make room "
                "on the disk and run again"
            ) from error
        line = _line(entry)
        if self._bar.disable:
            log.info("%s", line)
        elif lasting:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            self._bar.update(self._task, description=line)


def _line(entry: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_told(value)}" for name, value in entry.items())


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_line(value)})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


class Averages:
    """Means of metrics over the steps since they were last told; a step may lack some."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, and begin anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def interruption(step: int, out: Path) -> KeyboardInterrupt:
    """What ends a run that was asked to stop, once it is saved."""
    return KeyboardInterrupt(f"interrupted: step {step} is saved in {out}; run again to continue")


class StopSignal:
    """While it is open, the first Ctrl-C only asks to stop, and so does the first SIGTERM, which schedulers
    and launchers send; a second one of its kind interrupts at once.

    In a thread other than the main one it does nothing: signals do not arrive there.

    Args:
        silent: do not say what was understood.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.asked = False
        self._silent = silent
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._ask) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        told, self.asked = self.asked, True
        self._restore(number)
        if not self._silent and not told:  # past every buffer and lock, which what was interrupted may hold
            os.write(2, b"ending this step; Ctrl-C again stops at once\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore(*self._before)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            signal.signal(number, self._before.pop(number))
