import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memsparse.bank import Bank, TierConfig
from memsparse.distributed.ranks import _lives
from memsparse.engine import workers as workers_module
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.engine.workers import Worker, WorkerLostError, Workers, answer_of, check_workers, part_of
from memsparse.errors import BankNotFoundError, ConfigError, EngineError, InputError, ModelError
from memsparse.types import Answer, Citation, LayerRouting, Round, Usage
from tests.engine.builders import documents, save_model, tiny_model
from tests.engine.test_engine import QUESTIONS, trace
from tests.engine.test_scheduler import wait_until

SECONDS = 60.0
"""For what takes a moment, on a machine that may be busy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), tiny_model())


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(folder, dtype="float32")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> Path:
    place = tmp_path_factory.mktemp("banks") / "b.bank"
    with MemoryEngine.open(place, loaded) as engine:
        engine.add([*documents(12), *documents(4, namespace="other")])
    return place


@pytest.fixture(scope="module")
def engine(bank: Path, loaded: LoadedModel) -> Iterator[MemoryEngine]:
    with MemoryEngine.open(bank, loaded, workers=2, max_new_tokens=12) as engine:
        yield engine


@pytest.fixture(scope="module")
def single(bank: Path, loaded: LoadedModel) -> Iterator[MemoryEngine]:
    with MemoryEngine.open(bank, loaded, max_new_tokens=12) as engine:
        yield engine


def pids(engine: MemoryEngine) -> list[int]:
    return engine._workers.pids


def is_gone(pid: int) -> bool:
    return not _lives(pid)


READY = """
number = json.loads(started)["numbers"][0]
line.send_bytes(json.dumps({"number": number}).encode())
"""


def instead(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes of workers run something else; `line` is their end of the connection."""
    begin = (
        "import sys; from multiprocessing.connection import Connection; line = Connection(int(sys.argv[1]));"
    )
    command = (
        sys.executable,
        "-c",
        f"{begin} import json, os, signal; started = line.recv_bytes(); {script}",
    )
    monkeypatch.setattr(workers_module, "_COMMAND", command)


def stand_in(script: str, monkeypatch: pytest.MonkeyPatch) -> Worker:
    instead(script, monkeypatch)
    return Worker({"threads": 1})


def test_answers_are_those_of_one_process(engine: MemoryEngine, single: MemoryEngine) -> None:
    for view in ({}, {"namespace": "other"}, {"namespace": ("default", "other")}, {"version": 1}):
        together = engine.ask_many(QUESTIONS, **view)
        assert [trace(answer) for answer in together] == [
            trace(answer) for answer in single.ask_many(QUESTIONS, **view)
        ]


def test_a_question_goes_where_there_are_fewest(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    ask = Worker.ask

    def spy(worker: Worker, questions: Sequence[str], *view: Any) -> Any:
        given.append(tuple(questions))
        return ask(worker, questions, *view)

    monkeypatch.setattr(Worker, "ask", spy)
    engine.ask(QUESTIONS[0])
    assert given == []
    engine.ask_many(QUESTIONS)
    assert given == [(QUESTIONS[1], QUESTIONS[3])]
    given.clear()
    inside, outside = threading.Event(), threading.Event()

    def held(questions: Sequence[str], takes: Any = None) -> list[Any]:
        assert takes is not None
        assert all(map(takes, range(len(questions))))
        inside.set()
        assert outside.wait(SECONDS)
        return [None] * len(questions)

    with ThreadPoolExecutor(1) as others:
        first = others.submit(engine._workers.ask, ["held"], None, 1, held)
        assert inside.wait(SECONDS)
        try:
            engine.ask(QUESTIONS[2])
        finally:
            outside.set()
        assert first.result() == [None]
    assert given == [(QUESTIONS[2],)]
    engine.ask(QUESTIONS[2])
    assert given == [(QUESTIONS[2],)]


def test_whoever_is_through_takes_the_next(engine: MemoryEngine, single: MemoryEngine) -> None:
    right = [trace(answer) for answer in single.ask_many(QUESTIONS)]
    answering = engine.answering(None, engine.bank.version)
    [worker] = engine._workers._workers
    slots = engine._workers.part.max_batch + workers_module._BEHIND
    many = QUESTIONS * slots

    def late(questions: Sequence[str], takes: Any = None) -> list[Any]:
        """Takes nothing until the worker, which has `slots` to begin with, has taken them all."""
        wait_until(lambda: engine._workers._has[0] == 0)
        assert not any(map(takes, range(len(questions))))
        return answering(questions, lambda at: False)

    outcomes = engine._workers.ask(many, None, engine.bank.version, late)
    assert [trace(outcome) for outcome in outcomes] == right * slots
    assert engine._workers._has == [0, 0]
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as callers:
            asked = callers.submit(engine.ask_many, many)
            wait_until(lambda: engine._workers._has == [len(many) - slots, slots])
            wait_until(lambda: not engine._scheduler._tickets)  # all the others are answered here
            assert not asked.done()
            os.kill(worker.pid, signal.SIGCONT)
            assert [trace(answer) for answer in asked.result(SECONDS)] == right * slots
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert engine._workers._has == [0, 0]


class Ledger:
    """A worker that writes down what it is asked."""

    def __init__(self, *, is_lost: bool = False) -> None:
        self.is_lost = is_lost
        self.futures: dict[str, Future[Answer]] = {}

    def ask(self, questions: Sequence[str], *view: Any) -> list[Future[Answer]]:
        self.futures |= {question: Future() for question in questions}
        return [self.futures[question] for question in questions]


def test_this_process_takes_from_the_front_and_workers_from_the_back() -> None:
    worker, has = Ledger(), [0, 0]
    call = workers_module._Call("abcdefgh", None, 1, has, threading.Lock(), together=1)
    call.begin([worker])
    assert list(worker.futures) == ["b", "d", "f"]
    assert call.left() == [0, 2, 4, 6, 7]
    assert call.takes(0)
    worker.futures["b"].set_exception(InputError("unanswerable"))
    assert list(worker.futures) == ["b", "d", "f", "h"]
    assert call.left() == [2, 4, 6]
    assert not call.takes(7)
    assert has == [4, 4]
    call.end()
    assert has == [0, 0]


def test_fewer_wait_at_a_worker_when_few_are_left() -> None:
    worker = Ledger()
    call = workers_module._Call("abcdefgh", None, 1, [0, 0], threading.Lock(), together=1)
    call.begin([worker])
    waiting = {"b", "d", "f"}
    for done, given in (("b", "h"), ("d", "g"), ("f", ""), ("h", "e"), ("g", "c"), ("e", ""), ("c", "a")):
        worker.futures[done].set_exception(InputError("unanswerable"))
        waiting = waiting - {done} | set(given)
        assert set(worker.futures) - {name for name, each in worker.futures.items() if each.done()} == waiting
    worker.futures["a"].set_exception(InputError("unanswerable"))
    assert not call.left()


def test_a_lost_worker_is_given_nothing() -> None:
    lost, worker, has = Ledger(is_lost=True), Ledger(), [0, 0, 0]
    call = workers_module._Call("abcd", None, 1, has, threading.Lock(), together=7)
    call.begin([lost, worker])
    assert not lost.futures
    assert list(worker.futures) == ["b", "d"]
    worker.is_lost = True
    worker.futures["b"].set_exception(WorkerLostError("gone"))
    assert call.left() == [0, 2]
    assert isinstance(call.elsewhere[1].exception(), WorkerLostError)


def test_a_question_of_an_idle_worker_does_not_wait_for_this_process(engine: MemoryEngine) -> None:
    inside, outside = threading.Event(), threading.Event()

    def held(questions: Sequence[str], takes: Any = None) -> list[Any]:
        assert all(map(takes, range(len(questions))))
        inside.set()
        assert outside.wait(SECONDS)
        return [None] * len(questions)

    def never(questions: Sequence[str], takes: Any = None) -> list[Any]:
        raise AssertionError("it is the worker's")

    version = engine.bank.version
    with ThreadPoolExecutor(1) as others:
        first = others.submit(engine._workers.ask, ["held"], None, version, held)
        assert inside.wait(SECONDS)
        try:
            [answer] = engine._workers.ask(QUESTIONS[:1], None, version, never)
        finally:
            outside.set()
        assert isinstance(answer, Answer)
        assert first.result() == [None]


def test_a_question_that_cannot_be_told_later_is_an_error_of_its_own(engine: MemoryEngine) -> None:
    slots = engine._workers.part.max_batch + workers_module._BEHIND
    answering = engine.answering(None, engine.bank.version)

    def late(questions: Sequence[str], takes: Any = None) -> list[Any]:
        wait_until(lambda: engine._workers._has[0] == 0)
        return answering(questions, takes)

    questions: list[Any] = [*QUESTIONS[:1] * 2 * slots, object()]
    outcomes = engine._workers.ask(questions, None, engine.bank.version, late)
    assert [type(outcome) for outcome in outcomes] == [*[Answer] * 2 * slots, TypeError]


def test_a_process_has_its_share_of_threads_while_others_answer(
    engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._workers, "_threads", 2)
    seen = []

    def here(questions: Sequence[str], takes: Any = None) -> list[Any]:
        seen.append(torch.get_num_threads())
        for at in range(len(questions)):
            if takes is not None:
                takes(at)
        return [None] * len(questions)

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        engine._workers.ask(["alone"], None, 1, here)
        engine._workers.ask(QUESTIONS, None, 1, here)
        assert seen == [4, 2]
        assert torch.get_num_threads() == 4
        torch.set_num_threads(1)
        engine._workers.ask(QUESTIONS, None, 1, here)
        assert seen[-1] == 1
    finally:
        torch.set_num_threads(threads)


def test_errors_are_those_of_one_process(engine: MemoryEngine) -> None:
    outcomes = engine.ask_many(["  ", "", QUESTIONS[0], " "], return_errors=True)
    assert [type(outcome) for outcome in outcomes] == [InputError, InputError, Answer, InputError]
    assert len({str(outcome) for outcome in outcomes[:2]}) == 1
    with pytest.raises(InputError, match="the question is empty"):
        engine.ask_many([QUESTIONS[0], " "])
    with pytest.raises(BankNotFoundError, match="version 99"):
        engine.ask_many(QUESTIONS, version=99)


def test_the_next_question_sees_what_was_added(loaded: LoadedModel, tmp_path: Path) -> None:
    with MemoryEngine.open(tmp_path / "b", loaded, workers=2, max_new_tokens=12) as engine:
        assert not any(answer.found for answer in engine.ask_many(QUESTIONS))
        engine.add(documents(6))
        more = engine.ask_many(QUESTIONS)
        assert all(answer.rounds for answer in more)
        engine.remove(["d0", "d1", "d2", "d3", "d4"])
        [left] = engine.bank.documents()
        for answer in engine.ask_many(QUESTIONS):
            seen = {number for each in answer.rounds for layer in each.routing for number in layer.numbers}
            assert seen == set(left.numbers)
        assert [trace(a) for a in engine.ask_many(QUESTIONS, version=1)] == [trace(a) for a in more]
        [pid] = pids(engine)
    assert is_gone(pid)


def test_what_a_killed_worker_had_is_answered_here(
    bank: Path, loaded: LoadedModel, single: MemoryEngine, caplog: pytest.LogCaptureFixture
) -> None:
    right = [trace(answer) for answer in single.ask_many(QUESTIONS)]
    with MemoryEngine.open(bank, loaded, workers=3, max_new_tokens=12) as engine:
        pid, other = pids(engine)
        worker = engine._workers._workers[0]
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as callers:
            asked = callers.submit(engine.ask_many, QUESTIONS)
            wait_until(lambda: len(worker._asked) == 1)
            os.kill(pid, signal.SIGKILL)
            assert [trace(answer) for answer in asked.result(SECONDS)] == right
        assert [trace(answer) for answer in engine.ask_many(QUESTIONS)] == right
        assert f"worker {pid} was killed by signal 9; the other processes go on" in caplog.text
        assert str(other) not in caplog.text
    assert len(caplog.records) == 1


def test_an_interrupted_call_is_forgotten(
    engine: MemoryEngine, single: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [worker] = engine._workers._workers
    told = []
    tell = worker._tell
    monkeypatch.setattr(worker, "_tell", lambda message: (told.append(json.loads(message)), tell(message)))

    def interrupted(questions: Sequence[str], takes: Any = None) -> list[Any]:
        raise KeyboardInterrupt

    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine._workers.ask(QUESTIONS * 50, None, 1, interrupted)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert told[1] == {"forget": told[0]["numbers"]}
    assert not worker._asked
    assert engine._workers._has == [0, 0]
    assert [trace(a) for a in engine.ask_many(QUESTIONS)] == [trace(a) for a in single.ask_many(QUESTIONS)]


def test_a_reply_that_comes_too_late_is_not_counted() -> None:
    """The listener may have it in hand while the call that asked is interrupted."""
    has, worker, late = [0, 0], StillThere(), Future[Answer]()
    call = workers_module._Call(["a", "b", "c"], None, 1, has, threading.Lock(), together=1)
    worker.futures = [late]
    call.begin([worker])  # type: ignore[list-item]
    assert has == [2, 1]
    call.forget()
    call.end()
    assert has == [0, 0]
    late.set_exception(EngineError("too late"))
    assert has == [0, 0]
    assert worker.asked == [["b"]]


class StillThere:
    """In a worker's place."""

    is_lost = False

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.futures: list[Future[Answer]] = []

    def ask(self, questions: list[str], *view: Any) -> list[Future[Answer]]:
        self.asked.append(questions)
        return self.futures

    def forget(self, futures: Any) -> None:
        """It is too late."""


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("os._exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9"),
        ("os.write(line.fileno(), bytes([0, 0, 1, 0]) + b'{'); os._exit(0)", "ended with exit code 0"),
    ],
)
def test_a_worker_that_does_not_begin_is_told(
    script: str, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = stand_in(script, monkeypatch)
    with pytest.raises(WorkerLostError, match=f"worker {worker.pid} {how}"):
        worker.ready.result(SECONDS)
    assert worker.is_lost
    [late] = worker.ask(["late"], None, 1)
    assert isinstance(late.exception(SECONDS), WorkerLostError)
    worker.hang_up()
    worker.join()
    assert not caplog.text  # whoever waits for it says so


def test_half_a_reply_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    half = """line.recv_bytes()
os.write(line.fileno(), bytes([0, 0, 1, 0]) + b'{"number": 1, "answer": {"te')
os._exit(0)
"""
    worker = stand_in(READY + half, monkeypatch)
    assert worker.ready.result(SECONDS) is None
    [asked] = worker.ask(["?"], None, 1)
    assert isinstance(asked.exception(SECONDS), WorkerLostError)
    worker.join()


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "ENDING_SECONDS", 0.2)
    worker = stand_in("import time; time.sleep(600)", monkeypatch)
    worker.hang_up()
    worker.join()
    assert isinstance(worker.ready.exception(SECONDS), WorkerLostError)
    assert is_gone(worker.pid)


def test_what_cannot_be_told_is_nobody_s_question(engine: MemoryEngine) -> None:
    [worker] = engine._workers._workers
    with pytest.raises(TypeError):
        worker.ask([object()], None, 1)  # type: ignore[list-item]
    assert not worker._asked
    assert engine.ask_many(QUESTIONS, namespace=deque(["default"]))  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_cannot_be_opened_there_is_told_here(tmp_path: Path, loaded: LoadedModel) -> None:
    nowhere = replace(loaded, name="no/such/model")
    with pytest.raises(ModelError, match="no/such"):
        MemoryEngine.open(tmp_path / "b", nowhere, workers=2)


def test_processes_end_with_an_engine_nobody_closed(
    bank: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(READY + "line.poll(None)", monkeypatch)
    engine = MemoryEngine.open(bank, loaded, workers=2)
    [pid] = pids(engine)
    engine.bank.close()
    del engine
    gc.collect()
    wait_until(lambda: is_gone(pid))


@pytest.mark.slow
def test_processes_end_with_a_killed_one(bank: Path, folder: Path) -> None:
    script = """
import sys, time
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model

engine = MemoryEngine.open(sys.argv[1], load_model(sys.argv[2], dtype="float32"), workers=2)
print(*engine._workers.pids, flush=True)
engine.ask_many(["Where is the cat?"] * 100000)
"""
    command = [sys.executable, "-c", script, str(bank), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        try:
            assert asking.stdout is not None
            pid = int(asking.stdout.readline())
            time.sleep(0.5)
        finally:
            asking.kill()
    wait_until(lambda: is_gone(pid))


def test_memory_and_batch_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "free_host_bytes", lambda: 6400)
    given = EngineConfig(workers=4, max_batch=10, tiers=TierConfig(device_bytes=7))
    part = part_of(given)
    assert (part.workers, part.max_batch) == (1, 3)
    assert (part.tiers.device_bytes, part.tiers.host_bytes) == (7, 100)
    assert part_of(replace(given, tiers=TierConfig(host_bytes=5))).tiers == TierConfig(
        device_bytes=800, host_bytes=5
    )
    assert part_of(EngineConfig()) == EngineConfig()


def test_accelerators_are_not_shared(bank: Path, loaded: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="workers is 2; processes cannot share cuda"):
        check_workers(2, torch.device("cuda"))
    check_workers(1, torch.device("cuda"))
    with Bank.open(bank, fingerprint(loaded)) as opened:
        Workers(opened, loaded, EngineConfig()).close()


def test_an_answer_comes_back_whole() -> None:
    layer = LayerRouting(layer=3, numbers=(4, 1), scores=(0.1, -1 / 3), chunks=(0, 2), certified=True)
    answer = Answer(
        text='a "quote"\n\u6771',
        citations=(Citation(number=4, document_id="d", title="", start=0, end=3, text="abc"),),
        rounds=(
            Round(routing=(layer,), numbers=(4,), text="[4]", seconds=0.25),
            Round(routing=(), numbers=(), text="", seconds=1e-9),
        ),
        usage=Usage(prompt_tokens=3, completion_tokens=2, route_seconds=0.1, seconds=0.3, answer_seconds=0.2),
        found=False,
    )
    assert answer_of(json.loads(json.dumps(asdict(answer)))) == answer
