"""torch's own OpenMP threads: our work is shared among them, and they are let go of where they are too many.

Threads of our own would compete with torch's, which wait for their next work without going to sleep: on two
cores both of ours were put on one for milliseconds in every other scan.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache, partial

import torch

_SOFTLY = 1
"""omp_pause_soft of OpenMP 5.0."""


def work_at_once() -> int | None:
    """Address of what has OpenMP threads work at once, `GOMP_parallel`; None where there is none of it."""
    return None if _forked else _parallel()


def release_threads() -> None:
    """End the OpenMP threads that wait for the next work of the calling one; new ones are made for it.

    Every thread that had work for others keeps some of its own. When there are more of these than processors,
    libgomp lets none of them wait awake, and whatever is small takes longer in every thread: a question by a
    tenth. So who is done for now lets go of them, which takes .1 ms of two threads, and more of more. Other
    OpenMPs than libgomp are left alone, and so is a process of one thread: it may be a child that was forked,
    and would wait for threads that only its parent has.
    """
    pause = None if _forked or torch.get_num_threads() == 1 else _pause()
    if pause is not None:
        pause()


def make_way() -> None:
    """Release threads where there are other Python threads, which may have work for theirs."""
    if threading.active_count() > 1:
        release_threads()


@cache
def _parallel() -> int | None:
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None


@cache
def _pause() -> Callable[[], int] | None:
    if _parallel() is None:
        return None
    known = ctypes.CDLL(None)
    if hasattr(known, "__kmpc_fork_call") or not hasattr(known, "omp_pause_resource"):
        return None  # LLVM's, which has all these names, or an old one
    return partial(known.omp_pause_resource, _SOFTLY, known.omp_get_initial_device())


_forked = False
"""Whether this is a forked process, in which OpenMP may wait for threads that only its parent has."""


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)
