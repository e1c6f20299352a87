"""Ranks for a test: real processes on this machine, forked so that they start at once."""

import multiprocessing
import os
import pickle
import random
import signal
import socket
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import pytest

from memsparse.distributed.launch import run
from memsparse.errors import MemSparseError

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
TIMEOUT = 20.0
"""Seconds a sound rank may take to answer; this machine may be busy."""
GRACE = 5.0
"""Seconds the others have to end when rank 0 has."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a run."""

    result: Any
    """What rank 0's part returned, or the error it raised."""
    codes: list[int | None]
    """Exit codes by rank; None for one that had to be killed."""
    seconds: float
    """Until rank 0 had ended."""


def together(
    count: int,
    body: Callable[[], Any],
    *,
    timeout: float = TIMEOUT,
    prepare: Callable[[int], None] | None = None,
    stuck: Collection[int] = (),
    deadline: float = 60.0,
) -> Outcome:
    """Run `body` on rank 0 of `count` processes, the others serving it; none of them is left at the end.

    Args:
        prepare: called with its rank in every process before it joins: a place to break things.
        stuck: ranks that are not expected to end.
        deadline: seconds after which the run is taken for hung.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    port = free_port()
    processes = [
        context.Process(target=_rank, args=(rank, count, port, body, timeout, prepare, sending))
        for rank in range(count)
    ]
    started = time.perf_counter()
    for process in processes:
        process.start()
    sending.close()
    try:
        result = _received(receiving, deadline)
        processes[0].join(5)
        seconds = time.perf_counter() - started
        for rank, process in enumerate(processes):
            process.join(0 if rank in stuck else GRACE)
        return Outcome(result=result, codes=[process.exitcode for process in processes], seconds=seconds)
    finally:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)  # which also ends one that is stopped
            process.join(5)
            assert not process.is_alive()


def _received(receiving: Any, deadline: float) -> Any:
    try:
        return pickle.loads(receiving.recv_bytes()) if receiving.poll(deadline) else None
    except EOFError:  # nobody lives who could say more
        return None


def _send(sending: Any, result: Any) -> None:
    sending.send_bytes(pickle.dumps(result))  # whole: `send` would leave tensors in this process's memory


def free_port() -> int:
    """A port nobody listens on, out of the range that connections are given theirs from."""
    for port in random.SystemRandom().sample(range(15_000, 30_000), 100):
        with socket.socket() as listening:
            try:
                listening.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")


def _rank(rank: int, count: int, port: int, body: Any, timeout: float, prepare: Any, sending: Any) -> None:
    places = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in (places | address).items()}
    if prepare is not None:
        prepare(rank)

    def told() -> None:
        try:
            _send(sending, body())
        except MemSparseError as error:
            _send(sending, error)
            raise SystemExit(error.exit_code) from error
        except BaseException:
            _send(sending, traceback.format_exc())
            raise

    try:
        code = run(told, timeout=timeout)
    except MemSparseError as error:
        if rank == 0:
            _send(sending, error)
        code = error.exit_code
    raise SystemExit(code)
