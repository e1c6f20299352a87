"""Processes that answer beside this one, over the same bank: Python runs one thread of a process at a time.

Each has the model, its share of the threads, and routing keys of its own. A question goes to the process that
has the fewest, this one included; of many, each takes the next whenever it is through with one. What is said
between them is JSON in the messages of a `Connection`.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, Protocol

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
_BEHIND = 2
"""Questions, at most, that wait at a worker for those it is at, so that it need not wait for them."""
_log = logging.getLogger(__name__)
_calls = count()

Outcome = Answer | Exception
"""What comes of a question: the answer, or what was raised in its place."""


class Answering(Protocol):
    """Questions to what comes of them, over one view of the bank."""

    def __call__(self, questions: Sequence[str], takes: Callable[[int], bool] | None = None) -> list[Outcome]:
        """The outcomes, in their order.

        Args:
            takes: asked by its place for each question that is about to begin; False leaves it out, and
                TakenError is what comes of it.
        """


class TakenError(EngineError):
    """The question is another process's."""


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
        call = _Call(questions, namespace, version, self._has, self._mutex, self.part.max_batch)
        try:
            call.begin(self._workers)
            ours = call.left()
            outcomes: dict[int, Outcome] = {}
            if ours:
                with _at_most(self._threads if any(self._has[1:]) else None):
                    found = here([questions[at] for at in ours], lambda own: call.takes(ours[own]))
                outcomes.update(zip(ours, found, strict=True))
            for at, future in call.elsewhere.items():
                error = future.exception()
                outcomes[at] = error if isinstance(error, Exception) else future.result()
            lost = [at for at in call.elsewhere if isinstance(outcomes[at], WorkerLostError)]
            if lost:
                outcomes.update(zip(lost, here([questions[at] for at in lost]), strict=True))
        except BaseException:
            call.forget()
            raise
        finally:
            call.end()
        return [outcomes[at] for at in range(len(questions))]

    def close(self) -> None:
        """End the other processes once they have finished what they are at; the rest is lost."""
        with self._mutex:
            workers, self._workers = self._workers, ()
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.join()


class _Call:
    """The questions of one call: this process takes them from the front, the workers from the back."""

    def __init__(
        self,
        questions: Sequence[str],
        namespace: str | Sequence[str] | None,
        version: int,
        has: list[int],
        mutex: threading.Lock,
        together: int,
    ) -> None:
        """Nobody has taken one.

        Args:
            has: questions of each process, of this call and others, this process first; kept up to date.
            mutex: for `has`, and for what this holds itself.
            together: questions that a process answers at a time.
        """
        self.elsewhere: dict[int, Future[Answer]] = {}
        """What comes of those that workers took, by place; all of them once this process can take no more."""
        self._number = next(_calls)
        self._questions = questions
        self._view = namespace, version
        self._left = dict.fromkeys(range(len(questions)))
        """Places of those that nobody has taken yet."""
        self._has, self._mutex, self._together = has, mutex, together
        self._own = [0] * len(has)
        """As `has`, of this call."""
        self._asked: dict[Worker, set[Future[Answer]]] = {}
        """What each worker was asked and has not answered."""

    def begin(self, workers: "Sequence[Worker]") -> None:
        """Give each worker its share to begin with; the rest counts as this process's."""
        most = self._together + _BEHIND
        shares: list[list[int]] = [[] for _ in workers]
        with self._mutex:
            for at in self._left:
                places = [
                    place
                    for place, worker in enumerate(workers, start=1)
                    if not worker.is_lost and len(shares[place - 1]) < most
                ]
                place = min([0, *places], key=self._has.__getitem__)
                self._count(place, 1)
                if place:
                    shares[place - 1].append(at)
            for share in shares:
                for at in share:
                    del self._left[at]
                    self.elsewhere[at] = Future()
        for place, (worker, share) in enumerate(zip(workers, shares, strict=True), start=1):
            if share:
                self._hand(worker, place, share)

    def left(self) -> list[int]:
        """Places of the questions that nobody has taken."""
        with self._mutex:
            return list(self._left)

    def takes(self, at: int) -> bool:
        """Whether this process is to answer a question, which no worker takes from now on."""
        with self._mutex:
            if at not in self._left:
                return False
            del self._left[at]
            return True

    def forget(self) -> None:
        """Have the workers drop what they have not begun; nobody waits for it any more."""
        with self._mutex:
            self._left.clear()
            asked = {worker: set(futures) for worker, futures in self._asked.items()}
        for worker, futures in asked.items():
            worker.forget(futures)

    def end(self) -> None:
        """Count its questions no more."""
        with self._mutex:
            for place, own in enumerate(self._own):
                self._count(place, -own)

    def _count(self, place: int, more: int) -> None:
        self._has[place] += more
        self._own[place] += more

    def _hand(self, worker: "Worker", place: int, share: Sequence[int]) -> None:
        asked = worker.ask([self._questions[at] for at in share], *self._view, self._number)
        with self._mutex:
            self._asked.setdefault(worker, set()).update(asked)
        for at, future in zip(share, asked, strict=True):
            future.add_done_callback(partial(self._hand_next, worker, place, at))

    def _hand_next(self, worker: "Worker", place: int, at: int, future: Future[Answer]) -> None:
        """Pass on what came of a question, and give its worker another in its stead.

        Few wait at a worker when few are left, so that no process has to be waited for long at the end.
        """
        following = None
        with self._mutex:
            self._asked[worker].discard(future)
            most = self._together + min(_BEHIND, len(self._left) // len(self._has))
            if self._left and not worker.is_lost and len(self._asked[worker]) < most:
                following = self._left.popitem()[0]
                self._count(0, -1)
                self._count(place, 1)
                self.elsewhere[following] = Future()
        if following is not None:
            try:
                self._hand(worker, place, [following])
            except Exception as problem:  # noqa: BLE001 - whoever waits for it is told
                self.elsewhere[following].set_exception(problem)
        error = future.exception()
        if error is None:
            self.elsewhere[at].set_result(future.result())
        else:
            self.elsewhere[at].set_exception(error)


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
        self,
        questions: Sequence[str],
        namespace: str | Sequence[str] | None,
        version: int,
        call: int | None = None,
    ) -> list[Future[Answer]]:
        """Hand questions over. A future's error is the question's own, or WorkerLostError.

        Args:
            call: whose questions they are: those of one call are answered from one view.
        """
        with self._mutex:
            numbers = [next(self._numbers) for _ in questions]
        view = {"namespace": namespace, "version": version, "call": call}
        return self._send(numbers, {"questions": questions, **view})

    def forget(self, futures: Collection[Future[Any]]) -> None:
        """Have it drop what it has not begun of some questions; nobody waits for their answers any more."""
        with self._mutex:
            numbers = [number for number, future in self._asked.items() if future in futures]
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
