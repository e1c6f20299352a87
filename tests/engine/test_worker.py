import gc
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from memsparse.engine import worker
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.worker import no_garbage, serve
from tests.engine.builders import documents, save_model, tiny_model
from tests.engine.test_engine import QUESTIONS

VIEW = {"namespace": None, "version": 1, "call": None}


@contextmanager
def serving() -> Iterator[tuple[Future[int], Connection]]:
    """The exit code to come, and our end of the line, which is closed at the end if not before."""
    here, there = Pipe()
    with ThreadPoolExecutor(1) as threads, here:
        yield threads.submit(serve, there), here


@pytest.fixture
def start(tmp_path: Path) -> dict[str, Any]:
    folder = save_model(tmp_path / "model", tiny_model())
    with MemoryEngine.open(tmp_path / "b.bank", folder, create=True) as engine:
        engine.add(documents(5))
        model = engine.model.source()
    settings = asdict(EngineConfig(max_new_tokens=6, max_batch=2))
    threads = torch.get_num_threads()
    bank = str(tmp_path / "b.bank")
    return {"numbers": [0], "threads": threads, "model": model, "bank": bank, "settings": settings}


def send(line: Connection, message: Any) -> None:
    line.send_bytes(json.dumps(message).encode())


def receive(line: Connection) -> dict[str, Any]:
    assert line.poll(60)
    return dict(json.loads(line.recv_bytes()))


def test_it_answers_and_ends_with_the_line(start: dict[str, Any]) -> None:
    with serving() as (code, line):
        send(line, start)
        assert receive(line) == {"number": 0}
        send(line, {"numbers": [1, 2, 3, 4, 5], "questions": [*QUESTIONS, " "], **VIEW})
        told = {reply["number"]: reply for reply in (receive(line) for _ in range(5))}
        assert told[5] == {"number": 5, "error": "InputError", "text": "the question is empty; write one"}
        assert all(told[number]["answer"]["rounds"] for number in (1, 2, 3, 4))
        send(line, {"numbers": [6, 7], "questions": QUESTIONS[:2], **VIEW, "version": 99})
        told = {reply["number"]: reply for reply in (receive(line) for _ in range(2))}
        assert [told[number]["error"] for number in (6, 7)] == ["BankNotFoundError"] * 2
        line.close()
        assert code.result(60) == 0


def test_nothing_to_open_is_a_failure() -> None:
    with serving() as (code, line):
        line.close()
        assert code.result(60) == 1


def test_what_cannot_be_opened_is_told(start: dict[str, Any], tmp_path: Path) -> None:
    with serving() as (code, line):
        send(line, start | {"bank": str(tmp_path / "none")})
        reply = receive(line)
        assert (reply["number"], reply["error"]) == (0, "BankNotFoundError")
        assert "none" in reply["text"]
        assert code.result(60) == 1
    with serving() as (code, line):
        send(line, start | {"settings": {**start["settings"], "unknown": 1}})
        assert receive(line)["error"] == "TypeError"
        with pytest.raises(TypeError):
            code.result(60)


def test_what_nobody_waits_for_is_not_begun(start: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, free, forgotten = [], threading.Event(), threading.Event()
    ask, forget = worker._ask, worker._forget

    def held(view: Any, question: str, *to: Any) -> None:
        begun.append(question)
        assert free.wait(60)
        ask(view, question, *to)

    def watched(future: Any, **of: Any) -> None:
        forget(future, **of)
        if future.cancelled() and of["number"] == 8:
            forgotten.set()

    monkeypatch.setattr(worker, "_ask", held)
    monkeypatch.setattr(worker, "_forget", watched)
    with serving() as (code, line):
        send(line, start)
        receive(line)
        send(
            line, {"numbers": list(range(1, 9)), "questions": [f"What is {n}?" for n in range(1, 9)], **VIEW}
        )
        send(line, {"forget": [4, 5, 6, 7, 8, 99]})
        assert forgotten.wait(60)
        free.set()
        assert {receive(line)["number"] for _ in range(3)} == {1, 2, 3}
        free.clear()
        send(line, {"numbers": list(range(10, 40)), "questions": ["What is left?"] * 30, **VIEW})
        line.close()
        threading.Timer(0.5, free.set).start()
        assert code.result(60) == 0
    assert sorted(set(begun) - {"What is left?"}) == ["What is 1?", "What is 2?", "What is 3?"]
    assert begun.count("What is left?") <= 2


def test_what_a_worker_has_is_left_out_of_collections_until_it_ends(start: dict[str, Any]) -> None:
    with serving() as (code, line):
        send(line, start)
        receive(line)
        assert gc.get_freeze_count()
        line.close()
        assert code.result(60) == 0
    assert not gc.get_freeze_count()
    before = gc.get_threshold()
    with no_garbage():
        assert gc.get_freeze_count()
        assert gc.get_threshold() > before
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()
