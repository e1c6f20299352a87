"""Processes that answer beside this one, over the same bank: Python runs one thread of a process at a time.

Each has the model, its share of the threads, and routing keys of its own. A question goes to the process that
has the fewest, this one included. What is said between them is JSON in the messages of a `Connection`.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import torch

from memsparse.bank import Bank
from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.errors import ConfigError, EngineError, retold
from memsparse.machine import free_host_bytes
from memsparse.types import Answer, Citation, LayerRouting, Round, Usage

ENDING_SECONDS = 10.0
"""How long a worker may take to finish what it is at, once it is to end."""
_COMMAND = (sys.executable, "-P", "-m", "memsparse.engine.worker")
_STDERR = 2
_log = logging.getLogger(__name__)

Outcome = Answer | Exception
"""What comes of a question: the answer, or what was raised in its place."""
Answering = Callable[[Sequence[str]], list[Outcome]]
"""Questions to what comes of them, over one view of the bank."""


class WorkerLostError(EngineError):
    """A worker ended before it answered; the question may be asked elsewhere."""


def check_workers(workers: int, device: torch.device) -> None:
    """Raises: ConfigError for several processes on an accelerator."""
    if workers > 1 and device.type != "cpu":
        raise ConfigError(f"workers is {workers}; processes cannot share {device}: use 1, or device cpu")


def part_of(config: EngineConfig) -> EngineConfig:
    """The settings of each of the processes: its part of the batch, and of the memory that may be taken."""
    if config.workers == 1:
        return config
    free, tiers = free_host_bytes() // config.workers, config.tiers
    return replace(
        config,
        workers=1,
        max_batch=-(-config.max_batch // config.workers),
        tiers=replace(
            tiers,
            device_bytes=free // 2 if tiers.device_bytes is None else tiers.device_bytes,
            host_bytes=free // 16 if tiers.host_bytes is None else tiers.host_bytes,
        ),
    )


class Workers:
    """All processes that answer for one engine, this one included; safe to share between threads."""

    def __init__(self, bank: Bank, loaded: LoadedModel, config: EngineConfig) -> None:
        """Start `config.workers` less one, and wait until they are ready.

        Args:
            config: of all of them; each runs by `part_of` it.

        Raises: ConfigError for a model that is not on the CPU; what opening model or bank raised in a worker;
        WorkerLostError for one that ended instead.
        """
        check_workers(config.workers, loaded.device)
        self.part = part_of(config)
        """What each of them runs by, this one included."""
        self._threads = max(1, torch.get_num_threads() // config.workers)
        self._mutex = threading.Lock()
        self._has = [0] * config.workers
        """Questions of each process, this one first."""
        self._workers: tuple[Worker, ...] = ()
        start = {
            "threads": self._threads,
            "model": loaded.source(),
            "bank": str(bank.path.resolve()),
            "settings": asdict(self.part),
        }
        try:
            for _ in range(config.workers - 1):
                worker = Worker(start)
                self._workers += (worker,)
                weakref.finalize(self, worker.hang_up)
            for worker in self._workers:
                worker.ready.result()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Of the other processes."""
        return [worker.pid for worker in self._workers]

    def ask(
        self,
        questions: Sequence[str],
        namespace: str | Sequence[str] | None,
        version: int,
        here: Answering,
    ) -> list[Outcome]:
        """The outcomes of questions, in their order; an error that is none of ours comes back as EngineError.

        When this is interrupted, the workers forget what they have not begun.

        Args:
            here: answers in this process. What a lost worker had comes here, too.
        """
        workers, shares = self._shared(len(questions))
        own, *others = shares
        futures: dict[int, Future[Answer]] = {}
        try:
            for worker, share in zip(workers, others, strict=True):
                if share:
                    asked = worker.ask([questions[at] for at in share], namespace, version)
                    futures.update(zip(share, asked, strict=True))
            with _at_most(self._threads if any(self._has[1:]) else None):
                outcomes = dict(zip(own, here([questions[at] for at in own]) if own else [], strict=True))
            for at, future in futures.items():
                error = future.exception()
                outcomes[at] = error if isinstance(error, Exception) else future.result()
            lost = [at for at in futures if isinstance(outcomes[at], WorkerLostError)]
            if lost:
                outcomes.update(zip(lost, here([questions[at] for at in lost]), strict=True))
        except BaseException:
            for worker in workers:
                worker.forget(futures.values())
            raise
        finally:
            with self._mutex:
                for place, share in enumerate(shares):
                    self._has[place] -= len(share)
        return [outcomes[at] for at in range(len(questions))]

    def close(self) -> None:
        """End the other processes once they have finished what they are at; the rest is lost."""
        with self._mutex:
            workers, self._workers = self._workers, ()
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.join()

    def _shared(self, questions: int) -> "tuple[tuple[Worker, ...], list[list[int]]]":
        """The workers there are, and which of so many questions each process takes, this one first."""
        with self._mutex:
            workers = self._workers
            shares: list[list[int]] = [[] for _ in range(len(workers) + 1)]
            places = [0, *(place for place, worker in enumerate(workers, start=1) if not worker.is_lost)]
            for at in range(questions):
                place = min(places, key=self._has.__getitem__)
                self._has[place] += 1
                shares[place].append(at)
        return workers, shares


class Worker:
    """Another process that answers."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        """Start it.

        Args:
            start: what it opens.
        """
        self._line, there = socket.socketpair()
        self._messages = Connection(os.dup(self._line.fileno()))
        path = os.pathsep.join(place for place in sys.path if place)
        with there:
            self._process = subprocess.Popen(
                [*_COMMAND, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                env=os.environ | {"OMP_NUM_THREADS": str(start["threads"]), "PYTHONPATH": path},
                start_new_session=True,  # an interrupt is for the process that asks
            )
        self._numbers = count()
        self._asked: dict[int, Future[Any]] = {}
        self._mutex, self._sending = threading.Lock(), threading.Lock()
        self._is_closing = self.is_lost = False
        [self.ready] = self._send([next(self._numbers)], start)
        """Done when it has opened model and bank; its error says why it could not."""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(
        self, questions: Sequence[str], namespace: str | Sequence[str] | None, version: int
    ) -> list[Future[Answer]]:
        """Hand questions over. A future's error is the question's own, or WorkerLostError."""
        with self._mutex:
            numbers = [next(self._numbers) for _ in questions]
        return self._send(numbers, {"questions": questions, "namespace": namespace, "version": version})

    def forget(self, futures: Iterable[Future[Any]]) -> None:
        """Have it drop what it has not begun of some questions; nobody waits for their answers any more."""
        mine = set(futures)
        with self._mutex:
            numbers = [number for number, future in self._asked.items() if future in mine]
            for number in numbers:
                del self._asked[number]
        if numbers:
            self._tell(json.dumps({"forget": numbers}).encode())

    def hang_up(self) -> None:
        """Have it end once it has finished what it is at."""
        self._is_closing = True
        self._shut()

    def join(self) -> None:
        """Wait until it has ended, not for ever."""
        self._listener.join()

    def _send(self, numbers: Sequence[int], command: Mapping[str, Any]) -> list[Future[Any]]:
        """Tell it of something under numbers, which its replies have."""
        message = json.dumps({"numbers": numbers, **command}).encode()
        futures: list[Future[Any]] = [Future() for _ in numbers]
        with self._mutex:
            is_lost = self.is_lost
            if not is_lost:
                self._asked.update(zip(numbers, futures, strict=True))
        if is_lost:
            self._fail(futures)
        else:
            self._tell(message)
        return futures

    def _tell(self, message: bytes) -> None:
        try:
            with self._sending:
                self._messages.send_bytes(message)
        except OSError:  # it has ended: so does the listener
            self._shut()
        except BaseException:  # half a message may be on its way
            self._shut()
            raise

    def _shut(self) -> None:
        with suppress(OSError):  # it is shut already
            self._line.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        try:
            while True:
                reply = json.loads(self._messages.recv_bytes())
                error = retold(reply) if "error" in reply else None
                answer = reply.get("answer") and answer_of(reply["answer"])
                with self._mutex:
                    future = self._asked.pop(reply["number"], None)
                if future is None:  # forgotten
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(answer)
        except (EOFError, OSError):  # it has ended
            pass
        finally:
            self._lose()

    def _lose(self) -> None:
        """Wait for the process to end, and tell those who wait for its answers."""
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._mutex:
            self.is_lost = True
            left, self._asked = list(self._asked.values()), {}
        is_ready = self.ready.done() and self.ready.exception() is None
        if is_ready and not self._is_closing:
            _log.warning("%s; the other processes go on without it", self._loss())
        self._fail(left)
        with self._sending:
            self._line.close()
            self._messages.close()

    def _fail(self, futures: Iterable[Future[Any]]) -> None:
        for future in futures:
            future.set_exception(self._loss())

    def _loss(self) -> WorkerLostError:
        code = self._process.returncode
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
        return WorkerLostError(f"worker {self.pid} {how}")


def answer_of(values: Mapping[str, Any]) -> Answer:
    """The answer that `dataclasses.asdict` made JSON values of."""
    rounds = []
    for each in values["rounds"]:
        layers = [
            LayerRouting(**layer | {name: tuple(layer[name]) for name in ("numbers", "scores", "chunks")})
            for layer in each["routing"]
        ]
        rounds.append(Round(**each | {"routing": tuple(layers), "numbers": tuple(each["numbers"])}))
    citations = tuple(Citation(**each) for each in values["citations"])
    usage = Usage(**values["usage"])
    return Answer(**{**values, "citations": citations, "rounds": tuple(rounds), "usage": usage})


@contextmanager
def _at_most(threads: int | None) -> Iterator[None]:
    """Have torch compute with no more threads in this one; None: with as many as it has."""
    before = torch.get_num_threads()
    if threads is None or threads >= before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
