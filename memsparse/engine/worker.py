"""A process that answers for an engine: started by `engine/workers.py`, which it talks with over a socket.

Both sides write lines of JSON. The first tells what to open; every later one is a question. Replies come in
the order in which they are ready, each with the number of what it replies to. When the other side is gone, so
is this one.
"""

import json
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from memsparse.bank import TierConfig
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model
from memsparse.errors import MemSparseError, told
from memsparse.types import Answer


def serve(line: socket.socket) -> int:
    """Open what the first line says and answer what follows, many at a time; returns the exit code."""
    with line, line.makefile("r", encoding="utf-8") as commands:
        answers = _Replies(line)
        start = json.loads(commands.readline() or "null")
        if start is None:
            return 1
        try:
            engine = _opened(start)
        except (MemSparseError, OSError, RuntimeError) as error:
            answers.add({"number": start["number"], **told(error)})
            return 1
        with engine, ThreadPoolExecutor(engine.config.max_batch) as callers:
            answers.add({"number": start["number"], "answer": None})
            with suppress(ConnectionResetError):  # the other side is gone, with answers it did not read
                for command in commands:
                    asked = json.loads(command)
                    future = callers.submit(_ask, engine, asked)
                    future.add_done_callback(partial(_reply, number=asked["number"], answers=answers))
            callers.shutdown(cancel_futures=True)
    return 0


class _Replies:
    """Lines of JSON from several threads."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._mutex = threading.Lock()

    def add(self, reply: Mapping[str, Any]) -> None:
        """Write one; where the other side is gone, nobody wants it."""
        with self._mutex, suppress(BrokenPipeError, ConnectionResetError):
            self._line.sendall((json.dumps(reply) + "\n").encode())


def _opened(start: Mapping[str, Any]) -> MemoryEngine:
    torch.set_num_threads(start["threads"])
    settings = start["settings"] | {"tiers": TierConfig(**start["settings"]["tiers"])}
    loaded = load_model(**start["model"])
    return MemoryEngine.open(start["bank"], loaded, read_only=True, config=EngineConfig(**settings))


def _ask(engine: MemoryEngine, command: Mapping[str, Any]) -> Answer:
    return engine.ask(command["question"], namespace=command["namespace"], version=command["version"])


def _reply(future: "Future[Answer]", *, number: int, answers: _Replies) -> None:
    if future.cancelled():  # nobody is there any more
        return
    error = future.exception()
    answers.add({"number": number, **({"answer": asdict(future.result())} if error is None else told(error))})


if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
