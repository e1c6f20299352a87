import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.worker import serve
from tests.engine.builders import documents, save_model, tiny_model
from tests.engine.test_engine import QUESTIONS


@contextmanager
def serving() -> "Iterator[tuple[Future[int], socket.socket]]":
    """The exit code to come, and our end of the line, which is closed at the end if not before."""
    here, there = socket.socketpair()
    with ThreadPoolExecutor(1) as threads, here:
        yield threads.submit(serve, there), here


@pytest.fixture
def start(tmp_path: Path) -> dict[str, Any]:
    folder = save_model(tmp_path / "model", tiny_model())
    with MemoryEngine.open(tmp_path / "b.bank", folder, create=True) as engine:
        engine.add(documents(5))
        model = engine.model.source()
    settings = asdict(EngineConfig(max_new_tokens=6))
    threads = torch.get_num_threads()
    return {
        "number": 0,
        "threads": threads,
        "model": model,
        "bank": f"{tmp_path}/b.bank",
        "settings": settings,
    }


def send(line: socket.socket, command: Any) -> None:
    line.sendall((json.dumps(command) + "\n").encode())


def test_it_answers_and_ends_with_the_line(start: dict[str, Any]) -> None:
    with serving() as (code, line), line.makefile("r") as replies:
        send(line, start)
        assert json.loads(replies.readline()) == {"number": 0, "answer": None}
        asked = {"namespace": None, "version": 1}
        for number, question in enumerate([*QUESTIONS, " "], start=1):
            send(line, {"number": number, "question": question, **asked})
        told = {reply["number"]: reply for reply in (json.loads(replies.readline()) for _ in range(5))}
        assert told[5] == {"number": 5, "error": "InputError", "text": "the question is empty; write one"}
        assert all(told[number]["answer"]["rounds"] for number in (1, 2, 3, 4))
        send(line, {"number": 6, "question": QUESTIONS[0], "namespace": None, "version": 99})
        reply = json.loads(replies.readline())
        assert (reply["number"], reply["error"]) == (6, "BankNotFoundError")
        line.shutdown(socket.SHUT_RDWR)
        assert code.result(60) == 0


def test_nothing_to_open_is_a_failure() -> None:
    with serving() as (code, line):
        line.shutdown(socket.SHUT_RDWR)
        assert code.result(60) == 1


def test_what_cannot_be_opened_is_told(start: dict[str, Any], tmp_path: Path) -> None:
    with serving() as (code, line), line.makefile("r") as replies:
        send(line, start | {"bank": str(tmp_path / "none")})
        reply = json.loads(replies.readline())
        assert (reply["number"], reply["error"]) == (0, "BankNotFoundError")
        assert "none" in reply["text"]
        assert code.result(60) == 1


def test_answers_nobody_waits_for_are_dropped(start: dict[str, Any]) -> None:
    with serving() as (code, line), line.makefile("r") as replies:
        send(line, start)
        replies.readline()
        for number in range(1, 40):
            send(line, {"number": number, "question": QUESTIONS[0], "namespace": None, "version": 1})
        line.shutdown(socket.SHUT_RDWR)
        assert code.result(60) == 0
