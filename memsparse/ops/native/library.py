"""The compiled functions, and what they say when they do not do their work."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memsparse.errors import InputError, ShapeError
from memsparse.ops.openmp import work_at_once

LIBRARY = Path(__file__).with_name("scan.kernel")
VERSION = 18
"""Of the library's functions; one of another version is not used."""
KINDS = {torch.int8: 0, torch.bfloat16: 1, torch.float32: 2}
"""What C calls keys of a dtype that meet tokens of the same."""
TILED = {torch.int8: 4, torch.bfloat16: 5}
"""The same by tiles (AMX), where the processor has them and rows are whole ones."""
_NO_MEMORY, _DOCUMENT_OUTSIDE, MIXED, _RUN_OUTSIDE, _NOT_A_NUMBER = 2, 3, 4, 5, 6
"""Problems that C reports; MIXED is that documents do not ascend, for which it has no way."""
OUTSIDE_ITS_BLOCK = "a run does not lie in its block"
NO_NUMBER = "scores hold NaN; look for NaN in the routing queries and keys"


def is_built() -> bool:
    """Whether there is a library."""
    return library_or_none() is not None


def has(question: str, *about: int) -> bool:
    """Whether there is a library that says yes to a question about this processor."""
    library = library_or_none()
    return library is not None and _answer(library, question, *about)


@cache
def _answer(library: ctypes.CDLL, question: str, *about: int) -> bool:
    """Asked once: it takes a microsecond, which every linear layer would pay."""
    return bool(getattr(library, question)(*about))


def has_tiles(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies such numbers by tiles (AMX), and the system lets it."""
    return dtype in TILED and has("memsparse_can_multiply", TILED[dtype])


def all_threads() -> tuple[int | None, int]:
    """What has threads work at once, and how many torch has."""
    return work_at_once(), torch.get_num_threads()


def threads_for(work: int, least: int) -> tuple[int | None, int]:
    """What has threads work at once, and how many of them, each with at least so much of the work."""
    at_once, threads = all_threads()
    return at_once, max(1, min(threads, work // least))


def check(problem: int) -> None:
    """Raise what a call of C reports."""
    if problem == _NO_MEMORY:
        raise MemoryError("for what a kernel works with besides what it is given")
    if problem == _DOCUMENT_OUTSIDE:
        raise ShapeError("a chunk's document is out of range; number them from 0, below those of the bounds")
    if problem == _RUN_OUTSIDE:
        raise ShapeError(OUTSIDE_ITS_BLOCK)
    if problem == _NOT_A_NUMBER:
        raise InputError(NO_NUMBER)
    if problem:
        raise RuntimeError("no kernel for this processor")


def loaded() -> ctypes.CDLL:
    """The library, which there must be."""
    library = library_or_none()
    assert library is not None
    return library


def is_readable(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether C may take a tensor's memory for what it expects."""
    found = tensor.dtype, tuple(tensor.shape), tensor.device.type
    return found == (dtype, shape, "cpu") and tensor.is_contiguous()


def takes(*tensors: Tensor) -> bool:
    """Whether there is a library to take tensors for torch: float32 in host memory, without a gradient."""
    return is_built() and all(
        type(each) is Tensor
        and each.dtype == torch.float32
        and each.device.type == "cpu"
        and not each.requires_grad
        for each in tensors
    )


@cache
def library_or_none() -> ctypes.CDLL | None:
    """The compiled functions; None where there are none, or they are another machine's or version's."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.memsparse_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    long, pointer, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    product: list[Any] = [ctypes.c_int, pointer, long, long, pointer, long, pointer, long]
    of_chunks: list[Any] = [long, *[pointer] * 7]
    threads: list[Any] = [pointer, ctypes.c_int, long]
    library.memsparse_can_multiply.argtypes = [ctypes.c_int]
    library.memsparse_has_bfloat16.argtypes = [ctypes.c_int]
    library.memsparse_linear.argtypes = [
        *(pointer, long, pointer, pointer, long, long, pointer, ctypes.c_int),
        *threads[:2],
    ]
    library.memsparse_attend.argtypes = [
        *(pointer, long, long, long, long, real, ctypes.c_int),
        *threads[:2],
    ]
    library.memsparse_change_tokens.argtypes = [
        *(ctypes.c_int, pointer, long, long, long, pointer, pointer, real, pointer),
        *threads[:2],
    ]
    library.memsparse_pool.argtypes = [pointer, long, pointer, pointer, long, pointer, *threads[:2]]
    library.memsparse_collapse_queries.argtypes = [
        *(pointer, long, long, long, long),
        *(ctypes.c_int, real, pointer),
    ]
    library.memsparse_round_tokens.argtypes = [
        *(ctypes.c_int, pointer, long, pointer, long),
        *(pointer, pointer, pointer, pointer, pointer),
    ]
    library.memsparse_half_widths.argtypes = [
        *(pointer, pointer, pointer, long),
        *(ctypes.c_double, ctypes.c_double, pointer, pointer),
    ]
    library.memsparse_raise_best_products.argtypes = [*product, pointer, *threads]
    library.memsparse_scan.argtypes = [*product, *of_chunks, real, pointer, pointer, *threads]
    library.memsparse_raise_bounds.argtypes = [pointer, long, long, *of_chunks, real, pointer, pointer]
    library.memsparse_score_stored.argtypes = [
        *(ctypes.c_int, long, pointer, pointer, long),
        *(pointer, pointer, long, pointer, pointer, pointer),
        *(long, long, pointer, pointer),
        *threads,
    ]
    library.memsparse_raise_best.argtypes = [pointer, long, long, pointer, long, pointer]
    library.memsparse_reaching.argtypes = [pointer, long, long, pointer, pointer, pointer]
    library.memsparse_count_reaching.argtypes = [pointer, long, long, pointer, pointer]
    library.memsparse_count_promising.argtypes = [pointer, pointer, long, long, long, real, pointer]
    library.memsparse_mean_bounds.argtypes = [long, *[pointer] * 6]
    library.memsparse_ascend.argtypes = [pointer, long]
    library.memsparse_take_best.argtypes = [pointer, long, long, pointer, long, pointer]
    library.memsparse_top.argtypes = [pointer, long, long, long, pointer, pointer]
    library.memsparse_certify.argtypes = [
        *(pointer, long, long, pointer, pointer, pointer, long),
        *(long, pointer, pointer, pointer),
    ]
    library.memsparse_reaching.restype = library.memsparse_mean_bounds.restype = long
    library.memsparse_collapse_queries.restype = library.memsparse_half_widths.restype = None
    library.memsparse_count_reaching.restype = None
    return library
