import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memsparse.bank import Bank
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.engine.workers import Worker, Workers, answer_of
from memsparse.errors import BankNotFoundError, ConfigError, InputError, ModelError
from memsparse.types import Answer, Citation, LayerRouting, Round, Usage
from tests.engine.builders import documents, save_model, tiny_model
from tests.engine.test_engine import QUESTIONS, trace

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


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()[:64]:
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.05)


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

    def spy(worker: Worker, question: str, *view: Any) -> Any:
        given.append(question)
        return ask(worker, question, *view)

    monkeypatch.setattr(Worker, "ask", spy)
    engine.ask(QUESTIONS[0])
    assert given == []
    engine.ask_many(QUESTIONS)
    assert given == [QUESTIONS[1], QUESTIONS[3]]
    given.clear()
    inside, outside = threading.Event(), threading.Event()

    def held(questions: Any) -> list[Any]:
        inside.set()
        assert outside.wait(SECONDS)
        return [None] * len(questions)

    with ThreadPoolExecutor(1) as others:
        first = others.submit(engine._workers.ask, ["held"], None, 1, here=held)
        assert inside.wait(SECONDS)
        engine.ask(QUESTIONS[2])
        outside.set()
        assert first.result() == [None]
    assert given == [QUESTIONS[2]]


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


def test_what_a_killed_worker_had_is_answered_here(
    bank: Path, loaded: LoadedModel, single: MemoryEngine, caplog: pytest.LogCaptureFixture
) -> None:
    right = [trace(answer) for answer in single.ask_many(QUESTIONS)]
    with MemoryEngine.open(bank, loaded, workers=2, max_new_tokens=12) as engine:
        [pid] = pids(engine)
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as callers:
            asked = callers.submit(engine.ask_many, QUESTIONS)
            with pytest.raises(TimeoutError):
                asked.result(0.5)
            os.kill(pid, signal.SIGKILL)
            assert [trace(answer) for answer in asked.result(SECONDS)] == right
        assert [trace(answer) for answer in engine.ask_many(QUESTIONS)] == right
        assert caplog.text.count(f"worker {pid} is gone") == 1


def test_what_cannot_be_opened_there_is_told_here(bank: Path, loaded: LoadedModel) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ModelError, match="no/such"):
        MemoryEngine.open(bank, replace(loaded, name="no/such/model"), workers=2)
    assert torch.get_num_threads() == threads


def test_processes_end_with_their_engine(bank: Path, loaded: LoadedModel) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = MemoryEngine.open(bank, loaded, workers=2)
        assert torch.get_num_threads() == 1
        [pid] = pids(engine)
        engine.close()
        assert torch.get_num_threads() == 2
        assert not Path(f"/proc/{pid}").exists()
    finally:
        torch.set_num_threads(threads)


def test_processes_end_with_a_killed_one(bank: Path, folder: Path) -> None:
    script = """
import sys, time
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model

engine = MemoryEngine.open(sys.argv[1], load_model(sys.argv[2], dtype="float32"), workers=2)
print(*engine._workers.pids, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", script, str(bank), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        pid = int(asking.stdout.readline())
        asking.kill()
    wait_until_gone(pid)


def test_accelerators_are_not_shared(bank: Path, loaded: LoadedModel) -> None:
    elsewhere: Any = SimpleNamespace(device=torch.device("cuda"))
    with Bank.open(bank, fingerprint(loaded)) as opened:
        with pytest.raises(ConfigError, match="workers is 2; processes cannot share cuda"):
            Workers(opened, elsewhere, EngineConfig(workers=2))
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
