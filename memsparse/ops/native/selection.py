"""Which documents of many: the C of `ops.selection` and `ops.certificate`, which say what each function does.

B requests, N documents, M documents scored again, k wanted.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from memsparse.errors import ShapeError
from memsparse.ops.native.library import check, is_built, is_readable, loaded, takes

MOST = 1024
"""Documents wanted up to which a heap of them pays."""


def can_select(k: int, *scores: Tensor) -> bool:
    """Whether C takes such scores: some wanted, not too many, float32 in host memory, no gradient."""
    return 0 < k <= MOST and takes(*scores)


def raise_best(best_Bk: Tensor, scores_BN: Tensor) -> Tensor:
    """As `ops.selection.raise_best`; best_Bk is one that this function raised, or all -inf."""
    scores, bar = scores_BN.contiguous(), torch.empty(len(best_Bk), device="cpu")
    _expect(best_Bk, (len(scores), best_Bk.shape[1]))
    check(
        loaded().memsparse_raise_best(
            best_Bk.data_ptr(), *best_Bk.shape, scores.data_ptr(), scores.shape[1], bar.data_ptr()
        )
    )
    return bar


def reaching(upper_BN: Tensor, bar_B: Tensor, beyond_B: Tensor) -> Tensor:
    """As `ops.selection.reaching`."""
    upper, bar = upper_BN.contiguous(), _of_requests(upper_BN, bar_B)
    _expect(beyond_B, (len(upper),))
    kept = torch.empty(upper.shape[1], dtype=torch.int64, device="cpu")
    count = loaded().memsparse_reaching(
        upper.data_ptr(), *upper.shape, bar.data_ptr(), beyond_B.data_ptr(), kept.data_ptr()
    )
    return kept[:count]


def count_reaching(bounds_BN: Tensor, bar_B: Tensor) -> list[int]:
    """As `ops.selection.count_reaching`."""
    bounds, bar = bounds_BN.contiguous(), _of_requests(bounds_BN, bar_B)
    counts = (ctypes.c_int64 * len(bounds))()
    loaded().memsparse_count_reaching(bounds.data_ptr(), *bounds.shape, bar.data_ptr(), counts)
    return list(counts)


def count_promising(lower_BN: Tensor, upper_BN: Tensor, k: int, share: float) -> list[int]:
    """As `ops.selection.count_promising`."""
    lower, upper = lower_BN.contiguous(), upper_BN.contiguous()
    _expect(lower, tuple(upper.shape))
    counts = (ctypes.c_int64 * len(upper))()
    problem = loaded().memsparse_count_promising(
        lower.data_ptr(), upper.data_ptr(), *upper.shape, k, share, counts
    )
    check(problem)
    return list(counts)


def mean_bounds(
    documents: Sequence[Tensor], upper: Sequence[Tensor], beyond: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """As `ops.selection.mean_bounds`."""
    lists, bounds = len(documents), [each.contiguous() for each in upper]
    for own, of_own in zip(documents, bounds, strict=True):
        _expect(own, tuple(of_own.shape), torch.int64)
    room = sum(map(len, documents))
    found = torch.empty(room, dtype=torch.int64, device="cpu")
    means = torch.empty(room, dtype=torch.float32, device="cpu")
    count = loaded().memsparse_mean_bounds(
        lists,
        (ctypes.c_void_p * lists)(*(each.data_ptr() for each in documents)),
        (ctypes.c_void_p * lists)(*(each.data_ptr() for each in bounds)),
        (ctypes.c_int64 * lists)(*map(len, documents)),
        (ctypes.c_double * lists)(*beyond),
        found.data_ptr(),
        means.data_ptr(),
    )
    if count < 0:
        raise MemoryError("for the mean of some bounds")
    return found[:count], means[:count]


def can_compare(numbers: Tensor) -> bool:
    """Whether `ascend` takes such numbers: int64 in host memory."""
    return is_built() and is_readable(numbers, torch.int64, tuple(numbers.shape))


def ascend(numbers: Tensor) -> bool:
    """As `ops.selection.ascend`."""
    return bool(loaded().memsparse_ascend(numbers.data_ptr(), len(numbers)))


def take_best(bounds_BN: Tensor, wanted: Sequence[int]) -> Tensor:
    """As `ops.selection.take_best`; bounds_BN is contiguous."""
    _expect(bounds_BN, (len(wanted), *bounds_BN.shape[1:]))
    most = max(wanted, default=0)
    taken = torch.empty(len(wanted), most, dtype=torch.int64, device="cpu")
    own = (ctypes.c_int64 * len(wanted))(*wanted)
    check(loaded().memsparse_take_best(bounds_BN.data_ptr(), *bounds_BN.shape, own, most, taken.data_ptr()))
    return taken


def top_documents(scores_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `ops.routing.top_documents`."""
    scores = scores_BN.contiguous()
    best, index = _ranking(len(scores), k)
    check(loaded().memsparse_top(scores.data_ptr(), *scores.shape, k, best.data_ptr(), index.data_ptr()))
    return best, index


def certify(
    upper_BN: Tensor, documents_BM: Tensor, exact_BM: Tensor, k: int, beyond_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.certificate.certify`."""
    upper, documents, exact = upper_BN.contiguous(), documents_BM.contiguous(), exact_BM.contiguous()
    beyond, scored = _of_requests(upper, beyond_B), (len(upper), documents.shape[1])
    _expect(documents, scored, torch.int64)
    _expect(exact, scored)
    best, index = _ranking(len(upper), k)
    certified = torch.empty(len(upper), dtype=torch.bool, device="cpu")
    problem = loaded().memsparse_certify(
        upper.data_ptr(),
        *upper.shape,
        beyond.data_ptr(),
        documents.data_ptr(),
        exact.data_ptr(),
        documents.shape[1],
        k,
        *(each.data_ptr() for each in (best, index, certified)),
    )
    check(problem)
    return best, index, certified


def _of_requests(bounds_BN: Tensor, numbers_B: Tensor) -> Tensor:
    """A number for each request, as C reads them."""
    numbers = numbers_B.contiguous()
    _expect(numbers, bounds_BN.shape[:1])
    return numbers


def _expect(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    if not is_readable(tensor, dtype, shape):
        raise ShapeError(
            f"a tensor is {tuple(tensor.shape)} {tensor.dtype}; pass {shape} {dtype}, contiguous, on the CPU"
        )


def _ranking(requests: int, k: int) -> tuple[Tensor, Tensor]:
    """Room for scores and documents, (B, k) each."""
    index = torch.empty(requests, k, dtype=torch.int64, device="cpu")
    return torch.empty(requests, k, device="cpu"), index
