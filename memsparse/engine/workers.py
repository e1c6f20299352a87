"""Processes that answer beside this one, over the same bank: Python runs one thread of a process at a time.

Each has the model, its share of the threads, and routing keys of its own. A question goes to the process that
has the fewest, this one included.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from typing import Any

import torch

from memsparse.bank import Bank
from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.errors import ConfigError, EngineError, retold
from memsparse.types import Answer, Citation, LayerRouting, Round, Usage

ENDING_SECONDS = 10.0
"""How long a worker may take to finish what it is at, once it is to end."""
_log = logging.getLogger(__name__)


class WorkerLostError(EngineError):
    """A worker ended before it answered; the question may be asked elsewhere."""


class Workers:
    """All processes that answer for one engine, this one included."""

    def __init__(self, bank: Bank, loaded: LoadedModel, config: EngineConfig) -> None:
        """Start `config.workers` less one, and wait until they are ready.

        From here to `close`, torch computes in this process with its share of the threads.

        Raises: ConfigError for a model that is not on the CPU; what opening model or bank raised in a worker.
        """
        if config.workers > 1 and loaded.device.type != "cpu":
            raise ConfigError(
                f"workers is {config.workers}; processes cannot share {loaded.device}: use 1, or device cpu"
            )
        self._threads = torch.get_num_threads()
        threads = max(1, self._threads // config.workers)
        batch = -(-config.max_batch // config.workers)
        start = {
            "threads": threads,
            "model": loaded.source(),
            "bank": str(bank.path.resolve()),
            "settings": asdict(replace(config, workers=1, max_batch=batch)),
        }
        self._mutex = threading.Lock()
        self._here = 0
        self._workers: list[Worker] = []
        try:
            for _ in range(config.workers - 1):
                self._workers.append(Worker(start))
            for worker in self._workers:
                worker.ready.result()
        except BaseException:
            self.close()
            raise
        if self._workers:
            torch.set_num_threads(threads)

    @property
    def pids(self) -> list[int]:
        """Of the other processes."""
        return [worker.pid for worker in self._workers]

    def ask(
        self,
        questions: Sequence[str],
        namespace: str | Sequence[str] | None,
        version: int,
        here: Callable[[Sequence[str]], Sequence[Answer | Exception]],
    ) -> list[Answer | Exception]:
        """Answers, or what was raised in their place, in the order of the questions.

        Args:
            here: answers in this process. What a lost worker had comes here, too.
        """
        given: dict[int, Future[Answer]] = {}
        with self._mutex:
            has = [self._here, *(worker.busy for worker in self._workers)]
            for at, question in enumerate(questions):
                place = has.index(min(has))
                has[place] += 1
                if place:
                    given[at] = self._workers[place - 1].ask(question, namespace, version)
            own = [at for at in range(len(questions)) if at not in given]
            self._here += len(own)
        try:
            outcomes = dict(zip(own, here([questions[at] for at in own]), strict=True))
        finally:
            with self._mutex:
                self._here -= len(own)
        for at, future in given.items():
            outcomes[at] = _outcome(future)
        lost = [at for at in given if isinstance(outcomes[at], WorkerLostError)]
        outcomes.update(zip(lost, here([questions[at] for at in lost]), strict=True))
        return [outcomes[at] for at in range(len(questions))]

    def close(self) -> None:
        """End the other processes; this one has its threads back."""
        for worker in self._workers:
            worker.close()
        if self._workers:
            torch.set_num_threads(self._threads)
        self._workers.clear()


class Worker:
    """Another process that answers."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        """Start it.

        Args:
            start: what it opens.
        """
        self._line, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "memsparse.engine.worker", str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": str(start["threads"])},
                start_new_session=True,  # an interrupt is for the process that asks
            )
        self._numbers = count()
        self._asked: dict[int, Future[Any]] = {}
        self._mutex, self._sending = threading.Lock(), threading.Lock()
        self._is_lost = self._is_closing = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.ready = self._send(start)
        """Done when it has opened model and bank; its error says why it could not."""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def busy(self) -> float:
        """Questions it has; inf when it is lost."""
        with self._mutex:
            return float("inf") if self._is_lost else len(self._asked)

    def ask(self, question: str, namespace: str | Sequence[str] | None, version: int) -> "Future[Answer]":
        """Hand a question over. The future's error is what `MemoryEngine.ask` raises, or WorkerLostError."""
        return self._send({"question": question, "namespace": namespace, "version": version})

    def close(self) -> None:
        """End it; what it has not answered is lost."""
        self._is_closing = True
        with suppress(OSError):  # it has ended already
            self._line.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._line.close()

    def _send(self, command: Mapping[str, Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._mutex:
            if self._is_lost:
                future.set_exception(self._loss())
                return future
            number = next(self._numbers)
            self._asked[number] = future
        line = json.dumps({"number": number, **command}) + "\n"
        with self._sending, suppress(OSError):  # the listener hears of its end, too
            self._line.sendall(line.encode())
        return future

    def _listen(self) -> None:
        with suppress(OSError), self._line.makefile("r", encoding="utf-8") as replies:
            for line in replies:
                reply = json.loads(line)
                with self._mutex:
                    future = self._asked.pop(reply["number"])
                if "error" in reply:
                    future.set_exception(retold(reply))
                else:
                    future.set_result(reply["answer"] and answer_of(reply["answer"]))
        self._lose()

    def _lose(self) -> None:
        with self._mutex:
            self._is_lost = True
            left, self._asked = list(self._asked.values()), {}
        for future in left:
            future.set_exception(self._loss())
        if not self._is_closing:
            _log.warning("%s; this process goes on without it", self._loss())

    def _loss(self) -> WorkerLostError:
        return WorkerLostError(f"worker {self.pid} is gone; see its own messages for the cause")


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


def _outcome(future: "Future[Answer]") -> Answer | Exception:
    error = future.exception()
    return error if isinstance(error, Exception) else future.result()
