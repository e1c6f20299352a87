import subprocess
import sys
from pathlib import Path

import pytest

from memsparse.ops import openmp

BEGIN = """
import os, threading, time
import torch
from memsparse.ops.openmp import make_way, release_threads
torch.set_num_threads(4)
numbers = torch.randn(10**6)
wanted = numbers.sin()
def threads():
    return len(os.listdir("/proc/self/task"))
def settles(count):  # one that has ended may be listed a moment longer
    deadline = time.monotonic() + 10
    while threads() != count:
        assert time.monotonic() < deadline, (threads(), count)
        time.sleep(0.001)
"""


def run(text: str) -> None:
    if openmp._pause() is None or not Path("/proc/self/task").is_dir():
        pytest.skip("torch has another OpenMP here, or there is no /proc")
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", BEGIN + text], check=True, timeout=300, cwd=root)


def test_threads_that_wait_for_work_are_ended_and_made_anew() -> None:
    run("""
before = threads()
release_threads()
settles(before - 3)
release_threads()
assert torch.equal(numbers.sin(), wanted)
assert threads() == before and torch.get_num_threads() == 4
""")


def test_those_of_another_thread_stay() -> None:
    run("""
before, inside, ended = threads(), threading.Event(), threading.Event()
def work():
    numbers.sin()
    assert threads() == before + 1 + 3
    release_threads()
    inside.set()
    ended.wait()
other = threading.Thread(target=work, daemon=True)
other.start()
inside.wait()
settles(before + 1)
ended.set()
other.join()
""")


def test_way_is_made_only_for_others() -> None:
    run("""
before = threads()
make_way()
assert threads() == before
ended = threading.Event()
other = threading.Thread(target=ended.wait, daemon=True)
other.start()
make_way()
settles(before + 1 - 3)
ended.set()
other.join()
""")


@pytest.mark.parametrize("late", [False, True])
def test_a_forked_process_waits_for_no_thread_of_its_parent(late: bool) -> None:
    """Not even where it was forked before this module was there to notice."""
    run(f"""
import signal, sys
if {late}:
    del sys.modules["memsparse.ops.openmp"]
child = os.fork()
if not child:
    signal.alarm(60)
    torch.set_num_threads(1)
    import memsparse.ops.openmp as openmp
    openmp._forked = openmp._forked and not {late}
    openmp.release_threads()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""")
