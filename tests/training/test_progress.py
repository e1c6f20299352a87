import io
import json
import logging
import os
import signal
import threading

import pytest

from memsparse.training import progress
from memsparse.training.progress import RunLog, StopSignal


def entries(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_entries_are_added_to_the_file_and_logged_where_there_is_no_terminal(tmp_path, caplog, capfd):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with caplog.at_level(logging.INFO), RunLog(path, done=1, steps=9) as run_log:
        run_log.advance(2)
        run_log.write({"step": 2, "loss": 0.123456})
        run_log.write({"step": 2, "eval": {"recall@1": 0.5}}, lasting=True)
    assert entries(path) == [
        {"step": 1},
        {"step": 2, "loss": 0.123456},
        {"step": 2, "eval": {"recall@1": 0.5}},
    ]
    assert caplog.messages == ["step 2  loss 0.123", "step 2  eval (recall@1 0.500)"]
    assert capfd.readouterr().err == ""


def test_a_silent_log_writes_nothing(tmp_path, caplog):
    with caplog.at_level(logging.INFO), RunLog(tmp_path / "m.jsonl", done=0, steps=4, silent=True) as run_log:
        run_log.write({"step": 2}, lasting=True)
    assert caplog.messages == []
    assert not (tmp_path / "m.jsonl").exists()


def test_a_terminal_gets_a_bar_and_lasting_entries_above_it(tmp_path, caplog, monkeypatch):
    screen = io.StringIO()
    console = progress.Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with caplog.at_level(logging.INFO), RunLog(tmp_path / "m.jsonl", done=0, steps=40) as run_log:
        run_log.write({"step": 20, "loss": 2.0})
        run_log.advance(20)
        run_log.write({"step": 20, "eval": {"recall@1": 0.25}}, lasting=True)
    shown = screen.getvalue()
    assert "20/40" in shown
    assert "loss 2.000" in shown
    assert "eval (recall@1 0.250)" in shown
    assert caplog.messages == []
    assert len(entries(tmp_path / "m.jsonl")) == 2


@pytest.fixture
def _interruptible():
    """Background jobs of a shell start with SIGINT ignored; what is tested here is a program in front."""
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, outer)


@pytest.mark.usefixtures("_interruptible")
def test_the_first_interrupt_asks_and_the_second_one_interrupts(capfd):
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        assert capfd.readouterr().err == "ending this step; Ctrl-C again stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_termination_asks_too_and_does_not_use_up_the_interrupt(capfd):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        assert signal.getsignal(signal.SIGTERM) is before
        os.kill(os.getpid(), signal.SIGINT)  # asks again, and only that
        assert capfd.readouterr().err.count("ending this step") == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_handler_before_is_put_back_also_without_an_interrupt():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
    assert not stop.asked
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopSignal():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_averages_are_over_the_steps_that_have_a_metric():
    averages = progress.Averages()
    averages.add({"loss": 1.0, "recall@1": 0.5})
    averages.add({"loss": 3.0})
    assert averages.take() == {"loss": 2.0, "recall@1": 0.5}
    assert averages.take() == {}


def test_a_board_is_told_and_closed(tmp_path):
    told = []

    class Board:
        write = told.append

        def close(self):
            told.append("closed")

    with RunLog(tmp_path / "m.jsonl", done=0, steps=4, board=Board()) as run_log:
        run_log.write({"step": 2, "loss": 1.0})
    assert told == [{"step": 2, "loss": 1.0}, "closed"]
