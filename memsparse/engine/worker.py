"""A process that answers for an engine: started by `engine/workers.py`, which it talks with over a socket.

Both sides send JSON in the messages of a `Connection`. The first tells what to open; every later one has
questions and whose call they are of, or the numbers of some that nobody waits for any more. Replies come in
the order in which they are ready, each with the number of what it replies to. When the other side is gone, so
is this one, once it has finished what it is at.
"""

import gc
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from memsparse.bank import TierConfig
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model
from memsparse.engine.workers import Answering
from memsparse.errors import MemSparseError, told

_ALLOCATED = 10_000
"""Objects of Python that are made before the collector looks for garbage among them; some megabytes."""


def serve(line: Connection) -> int:
    """Open what the first message says, answer what the others ask, many at a time; returns the exit code."""
    replies = _Replies(line)
    try:
        start = json.loads(line.recv_bytes())
    except (EOFError, OSError):
        return 1
    [number] = start["numbers"]
    try:
        engine = _opened(start)
    except BaseException as error:
        replies.add({"number": number, **told(error)})
        if isinstance(error, MemSparseError):
            return 1
        raise
    with engine, no_garbage(), ThreadPoolExecutor(engine.config.max_batch) as callers:
        replies.add({"number": number})
        _answer(line, engine, callers, replies)
        callers.shutdown(cancel_futures=True)
    return 0


def _opened(start: Mapping[str, Any]) -> MemoryEngine:
    torch.set_num_threads(start["threads"])
    settings = start["settings"] | {"tiers": TierConfig(**start["settings"]["tiers"])}
    loaded = load_model(**start["model"])
    return MemoryEngine.open(start["bank"], loaded, read_only=True, config=EngineConfig(**settings))


@contextmanager
def no_garbage() -> Iterator[None]:
    """Have Python's collector pass over whatever there is now: half a million objects of a model and its
    libraries, through which it goes every now and then in the midst of answers, for a third of a second; and
    look at what is new less often.

    For a process that does nothing but answer, once: at the end it is over for all that was frozen.
    """
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATED, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _answer(line: Connection, engine: MemoryEngine, callers: ThreadPoolExecutor, replies: "_Replies") -> None:
    """Take messages until the other side is gone."""
    waiting: dict[int, Future[None]] = {}
    call, view = None, None
    while True:
        try:
            message = json.loads(line.recv_bytes())
        except (EOFError, OSError):
            return
        for number in message.get("forget", ()):
            forgotten = waiting.pop(number, None)
            if forgotten is not None:
                forgotten.cancel()
        if "questions" not in message:
            continue
        if view is None or call is None or message["call"] != call:
            # The first to have a place; those behind it, which wait for it, are of the same view.
            view = callers.submit(engine.answering, message["namespace"], message["version"])
            call = message["call"]
        for number, question in zip(message["numbers"], message["questions"], strict=True):
            # Replies leave from there: here only messages are taken, whatever the other side is busy with.
            waiting[number] = callers.submit(_ask, view, question, number, replies)
            waiting[number].add_done_callback(partial(_forget, number=number, waiting=waiting))


def _ask(view: Future[Answering], question: str, number: int, replies: "_Replies") -> None:
    try:
        [outcome] = view.result()([question])
    except Exception as error:  # noqa: BLE001 - it is told there
        outcome = error
    replies.add(
        {
            "number": number,
            **(told(outcome) if isinstance(outcome, Exception) else {"answer": outcome}),
        }
    )


def _forget(future: Future[None], *, number: int, waiting: dict[int, Future[None]]) -> None:
    waiting.pop(number, None)


class _Replies:
    """Messages from several threads."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._mutex = threading.Lock()

    def add(self, reply: Mapping[str, Any]) -> None:
        """Send one; where the other side is gone, nobody wants it."""
        with self._mutex, suppress(BrokenPipeError, ConnectionResetError):
            self._line.send_bytes(json.dumps(reply, default=_fields).encode())


def _fields(part: Any) -> dict[str, Any]:
    """Of a dataclass, by name: for JSON what `dataclasses.asdict` makes of it, in a fraction of the time."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


if __name__ == "__main__":
    sys.exit(serve(Connection(int(sys.argv[1]))))
