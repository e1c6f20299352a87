"""Where processes become ranks: `torchrun --nproc-per-node 4 -m memsparse ask ...`, or a script of one's own.

def body() -> None:
    with engine_class().open("notes.bank") as engine:
        print(engine.ask("When does the ferry leave?").text)

sys.exit(run(body))
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from memsparse import config
from memsparse.distributed.follower import Follower
from memsparse.distributed.memory_parallel import ParallelEngine
from memsparse.distributed.ranks import Ranks, follow, lead, leads, leave
from memsparse.engine.engine import MemoryEngine
from memsparse.errors import EngineError

_STAY = 3.0
"""Seconds by which a rank outlives the signal that is to end it."""


def engine_class() -> type[MemoryEngine]:
    """The engine this process is to open: one over all ranks where it leads some, else the plain one."""
    return ParallelEngine if leads() else MemoryEngine


def run(body: Callable[[], None], *, timeout: float | None = None) -> int:
    """Have rank 0 run something while the other ranks serve it; every rank calls this.

    Without torchrun `body` just runs.

    Args:
        body: opens its engines with `engine_class`.
        timeout: seconds a rank may take to answer. None: `MEMSPARSE_TIMEOUT`, or 60.

    Returns: the exit code of this rank: 0 on rank 0, and on the others if they served to the end.

    Raises: EngineError if the ranks do not come together; what `body` raises, SystemExit included.
    """
    if config.processes() == 1:
        body()
        return 0
    seconds = config.rank_timeout() if timeout is None else timeout
    try:
        if config.rank() != 0:
            return _follow(seconds)
        _lead(body, seconds)
        return 0
    finally:
        leave()


def _lead(body: Callable[[], None], timeout: float) -> None:
    ranks = lead(timeout)
    try:
        with _ended_by_launcher(ranks):
            body()
    finally:
        ranks.stop()


def _follow(timeout: float) -> int:
    _outlive_rank_0()
    line = follow(timeout)
    try:
        return Follower(config.rank(), line).run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _outlive_rank_0() -> None:
    """Put off being ended: when one rank dies torchrun ends the others, and rank 0 should not take this one,
    whichever is first, for the cause."""
    if threading.current_thread() is not threading.main_thread():
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def end() -> None:
        with reading, writing:
            while reading.recv(1)[0] != signal.SIGTERM:
                continue
            time.sleep(_STAY)
            os._exit(128 + signal.SIGTERM)

    # The handler itself would have to wait for as long as this thread waits inside torch; the byte need not.
    signal.set_wakeup_fd(writing.fileno())
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    threading.Thread(target=end, daemon=True).start()


@contextmanager
def _ended_by_launcher(ranks: Ranks) -> Iterator[None]:
    """Say which rank is gone when torchrun ends this one because of it."""

    def end(number: int, frame: FrameType | None) -> None:
        for place in ranks.gone():
            raise EngineError(
                f"{place} is gone; see its own messages for the cause, then start all ranks again"
            )
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
