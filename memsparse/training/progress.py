"""What a run tells: metrics as JSON lines in its folder, a bar on a terminal, log lines elsewhere."""

import json
import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class RunLog:
    """Takes metrics while it is open; shows a bar on standard error if that is a terminal."""

    def __init__(self, path: Path, *, done: int, steps: int, silent: bool = False) -> None:
        """Args: path: JSON Lines file that is added to. silent: tell nothing at all."""
        self.path = path
        self.silent = silent
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

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        self._bar.update(self._task, completed=step)

    def write(self, entry: Mapping[str, Any], *, lasting: bool = False) -> None:
        """Record an entry. On a terminal a lasting one stays above the bar; others stand beside it."""
        if self.silent:
            return
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")
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


class StopSignal:
    """While it is open, the first Ctrl-C only asks to stop; a second one interrupts at once.

    In a thread other than the main one it does nothing: signals do not arrive there.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
