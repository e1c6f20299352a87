"""What can go wrong on one rank while all of them work: the right answer or one clear error, never a hang."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsparse.bank import Bank, BankReader
from memsparse.distributed.ranks import leading
from memsparse.errors import EngineError
from tests.bank.builders import FINGERPRINT, add, queries
from tests.distributed.processes import FORKS, together
from tests.distributed.test_memory_parallel import LAYER, masks, sharded

pytestmark = FORKS
SHORT = 1.0
"""Seconds a rank may take here."""


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("banks") / "notes.bank"
    with Bank.create(path, FINGERPRINT) as opened:
        add(opened, [3] * 12)
    return path


def breaks(rank: int, how: Callable[[], Any], *, at: int = 2) -> Callable[[int], None]:
    """Have a rank do something in its `at`-th read, in place of answering at once."""

    def prepare(this: int) -> None:
        if this != rank:
            return
        read, calls = BankReader.read, []

        def reading(self: BankReader, *arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == at:
                how()
            return read(self, *arguments)

        BankReader.read = reading  # in a process of its own

    return prepare


def reads(path: Path, count: int = 3) -> Callable[[], int]:
    def body() -> int:
        with sharded(path) as reader:
            for _ in range(count):
                reader.read(LAYER, queries(3), masks())
        return count

    return body


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_killed_rank_is_named_at_once(bank, rank):
    outcome = together(3, reads(bank), prepare=breaks(rank, kill(signal.SIGKILL)), timeout=20)
    assert isinstance(outcome.result, EngineError)
    assert str(outcome.result).startswith(f"rank {rank} (process ")
    assert "is gone" in str(outcome.result)
    assert outcome.seconds < 10
    assert outcome.codes == [1, *(-signal.SIGKILL if other == rank else 1 for other in (1, 2))]


@pytest.mark.parametrize("how", [kill(signal.SIGSTOP), lambda: time.sleep(60)], ids=["stopped", "busy"])
def test_a_rank_that_does_not_answer_is_named_when_its_time_is_up(bank, how):
    outcome = together(3, reads(bank), prepare=breaks(2, how), timeout=SHORT, stuck=[2])
    assert isinstance(outcome.result, EngineError)
    assert str(outcome.result).startswith("rank 2 (process ")
    assert f"has not answered for {SHORT:g} s" in str(outcome.result)
    assert "MEMSPARSE_TIMEOUT" in str(outcome.result)
    assert SHORT < outcome.seconds < SHORT + 8
    assert outcome.codes == [1, 1, None]


def test_a_rank_that_is_only_slow_is_waited_for(bank):
    outcome = together(2, reads(bank), prepare=breaks(1, lambda: time.sleep(0.4)), timeout=20)
    assert (outcome.result, outcome.codes) == (3, [0, 0])


def test_a_leader_that_idles_longer_than_the_timeout_is_waited_for(bank):
    def body():
        with sharded(bank) as reader:
            time.sleep(SHORT + 0.5)
            return reader.read(LAYER, queries(3), masks()).documents.shape

    outcome = together(2, body, timeout=SHORT)
    assert outcome.codes == [0, 0]
    assert outcome.result == (3, 4)


def test_a_leader_slow_at_its_own_part_does_not_shorten_the_time_of_others(bank):
    def prepare(rank: int) -> None:
        breaks(rank, lambda: time.sleep(SHORT + 0.7 if rank == 0 else 0), at=1)(rank)

    assert together(2, reads(bank, 1), prepare=prepare, timeout=SHORT).codes == [0, 0]


def test_ranks_end_when_the_leader_is_killed(bank):
    def body():
        with sharded(bank) as reader:
            reader.read(LAYER, queries(3), masks())
            os.kill(os.getpid(), signal.SIGKILL)

    assert together(3, body).codes == [-signal.SIGKILL, 1, 1]


def out_of_memory() -> None:
    raise RuntimeError("not enough memory: you tried to allocate 9 bytes")


def bug() -> None:
    raise AttributeError("no such thing")


def test_what_a_rank_raises_is_told_and_it_goes_on(bank):
    def body():
        told = []
        with sharded(bank) as reader:
            for _ in range(3):
                try:
                    told.append(reader.read(LAYER, queries(3), masks()).documents.shape)
                except EngineError as error:
                    told.append(str(error))
        return told

    outcome = together(3, body, prepare=breaks(1, out_of_memory))
    assert outcome.codes == [0, 0, 0]
    first, error, last = outcome.result
    assert first == last == (3, 4)
    assert error.startswith("rank 1 (process ")
    assert "RuntimeError: not enough memory" in error


def test_a_bug_on_a_rank_is_told_before_it_ends(bank):
    outcome = together(3, reads(bank), prepare=breaks(2, bug))
    assert isinstance(outcome.result, EngineError)
    assert str(outcome.result).startswith("rank 2 (process ")
    assert "AttributeError: no such thing" in str(outcome.result)
    assert outcome.codes == [1, 0, 1]


def test_an_error_of_rank_0_leaves_the_others_in_step(bank):
    def body():
        with sharded(bank) as reader:
            reader.read(LAYER, queries(3), masks())
            with pytest.raises(RuntimeError, match="not enough"):
                reader.read(LAYER, queries(3), masks())
            return reader.read(LAYER, queries(3), masks()).documents.shape

    outcome = together(2, body, prepare=breaks(0, out_of_memory))
    assert (outcome.result, outcome.codes) == ((3, 4), [0, 0])


def test_after_a_rank_is_lost_every_call_says_so_at_once(bank):
    def body():
        told = []
        with sharded(bank) as reader:
            for _ in range(3):
                started = time.perf_counter()
                try:
                    reader.read(LAYER, queries(3), masks())
                except EngineError as error:
                    told.append((str(error), time.perf_counter() - started))
        return told

    stops = breaks(1, kill(signal.SIGSTOP), at=1)
    first, second, third = together(2, body, prepare=stops, timeout=SHORT, stuck=[1]).result
    assert first[0] == second[0] == third[0]
    assert first[1] >= SHORT
    assert second[1] < SHORT / 2
    assert third[1] < SHORT / 2


def test_the_leader_told_to_end_names_the_rank_that_is_gone(bank):
    """As torchrun does to all ranks when one has died, whatever rank 0 is doing."""

    def body():
        os.kill(leading().places[1].pid, signal.SIGKILL)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    outcome = together(3, body)
    assert isinstance(outcome.result, EngineError)
    assert str(outcome.result).startswith("rank 1 (process ")
    assert outcome.codes[1] == -signal.SIGKILL


def test_a_rank_told_to_end_stays_until_the_leader_has_ended(bank):
    def body():
        os.kill(leading().places[1].pid, signal.SIGTERM)
        with sharded(bank) as reader:
            return reader.read(LAYER, queries(3), masks()).documents.shape

    outcome = together(2, body)
    assert (outcome.result, outcome.codes) == ((3, 4), [0, 0])


def test_ranks_that_do_not_come_together(bank):
    def prepare(rank: int) -> None:
        if rank == 1:
            raise SystemExit(3)

    outcome = together(2, reads(bank), prepare=prepare, timeout=0.1)
    assert isinstance(outcome.result, EngineError)
    assert "do not come together" in str(outcome.result)
    assert outcome.codes == [1, 3]


def test_another_version_of_the_package_is_refused(bank):
    from memsparse.distributed import ranks

    def prepare(rank: int) -> None:
        if rank == 1:
            ranks.__version__ = "0.0.1"

    outcome = together(2, reads(bank), prepare=prepare)
    assert str(outcome.result).startswith("rank 1 (process ")
    assert "runs memsparse 0.0.1" in str(outcome.result)
