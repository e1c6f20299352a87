"""The Triton scan against float64: in Triton's interpreter where there is no GPU, on the GPU where there is.

The same cases for both: "cpu" runs the kernels as Python, "cuda" what the compiler makes of them.
"""

import math
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.errors import ConfigError, InputError, ShapeError
from memsparse.ops import routing, triton_scan
from memsparse.ops.certificate import certify, score_promising
from memsparse.ops.quantization import KeyFormat, ScanKeys, quantize_keys
from memsparse.ops.scan import scan_documents as plain_scan_documents
from memsparse.ops.triton_scan import can_scan, scan_documents, top_documents
from tests.ops.builders import scores_of

FORMATS = list(triton_scan.FORMATS)
INFINITY = math.inf

needs_triton = pytest.mark.skipif(
    not triton_scan.has_triton(), reason="needs triton; it comes with torch for CUDA, or with memsparse[dev]"
)


@pytest.fixture(
    params=[
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason="the kernels are compiled here; the cases on cuda run them"
            ),
        ),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def device(request, monkeypatch):
    """Where the case runs; one configuration, so that no case waits for the tuning of its size."""
    kernels = import_module("memsparse.ops.triton_kernels")
    monkeypatch.setattr(kernels.scan, "configs", kernels.scan.configs[:1])
    return request.param


def exact_scores(q_BTW: Tensor, keys_CW: Tensor, doc_of_chunk: Tensor, mask_BT: Tensor, n: int) -> Tensor:
    """The exact document scores, in float64: (B, N)."""
    chunk_scores = (q_BTW.double() @ keys_CW.double().T).masked_fill(~mask_BT[:, :, None], -INFINITY).amax(1)
    scores = torch.full((len(q_BTW), n), -INFINITY, dtype=torch.double)
    for document in doc_of_chunk.unique().tolist():
        scores[:, document] = chunk_scores[:, doc_of_chunk == document].amax(1)
    return scores


def scan(q: Tensor, keys: ScanKeys, documents: Tensor, mask: Tensor, n: int, device: str, **options: Tensor):
    options = {name: value.to(device) for name, value in options.items()}
    bounds = scan_documents(
        q.to(device), keys.to(device), documents.to(device), mask.to(device), num_documents=n, **options
    )
    return [bound.cpu() for bound in bounds]


def case(chunks: int, documents: int, batch: int, tokens: int, width: int):
    """Queries, keys, ascending document indices (some without a chunk) and a ragged mask."""
    q, keys = torch.randn(batch, tokens, width), torch.randn(chunks, width)
    doc_of_chunk = torch.randint(documents, (chunks,)).sort().values
    lengths = torch.randint(0, tokens + 1, (batch, 1))
    return q, keys, doc_of_chunk, torch.arange(tokens) < lengths


def assert_holds(lower: Tensor, upper: Tensor, exact: Tensor) -> None:
    assert lower.dtype == upper.dtype == torch.float32
    assert lower.shape == upper.shape == exact.shape
    assert bool((lower <= exact).all())
    assert bool((upper >= exact).all())
    absent = exact == -INFINITY
    assert torch.equal(upper == -INFINITY, absent)


SIZES = [
    (1, 1, 1, 1, 8),
    (33, 40, 2, 5, 40),
    (64, 5, 1, 16, 64),
    (70, 9, 3, 17, 72),
    (40, 3, 1, 130, 24),
    (35, 6, 20, 3, 16),
]
"""Chunks, documents, requests, tokens, width: below, at and past the ends of programs, tiles and columns."""


@needs_triton
@pytest.mark.parametrize("key_format", FORMATS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_interval_holds_the_exact_score(size, key_format, device):
    q, keys, doc_of_chunk, mask = case(*size)
    n = size[1]
    lower, upper = scan(q, quantize_keys(keys, key_format), doc_of_chunk, mask, n, device)
    assert_holds(lower, upper, exact_scores(q, keys, doc_of_chunk, mask, n))


ROUNDING = {"bf16": (2.0**-8, 2.0**-16), "fp8": (2.0**-11, 2.0**-11), "int8": (1 / 254, 1 / 32512)}
"""What rounding one component of a query to one and to two parts may cost, relative to the largest."""


@needs_triton
@pytest.mark.parametrize("key_format", ["bf16", "fp8", "int8"])
@pytest.mark.parametrize("batch", [1, 9], ids=["two parts", "one part"])
def test_the_interval_is_as_narrow_as_its_causes(batch, key_format, device):
    q, keys, doc_of_chunk, mask = case(40, 8, batch, 12, 64)
    mask[:] = True
    quantized = quantize_keys(keys, key_format)
    lower, upper = scan(q, quantized, doc_of_chunk, mask, 8, device)
    length = q.norm(dim=2).amax()
    lost = 8 * q.abs().amax() * ROUNDING[key_format][batch == 1]
    half = length * quantized.errors.amax() + (lost + length * 2.0**-15) * quantized.norms.amax()
    there = upper > -INFINITY
    assert bool(((upper - lower)[there] <= 2.1 * half).all())


@needs_triton
@pytest.mark.parametrize("key_format", FORMATS)
def test_no_request_depends_on_its_neighbours(key_format, device):
    q, keys, doc_of_chunk, mask = case(50, 7, 3, 20, 32)
    mask[0], mask[1, 3:], mask[2] = True, False, False
    q[~mask] = math.nan  # what lies there is not read
    quantized = quantize_keys(keys, key_format)
    together = scan(q, quantized, doc_of_chunk, mask, 7, device)
    assert bool((together[1][2] == -INFINITY).all())
    exact = exact_scores(q, keys, doc_of_chunk, mask, 7)
    for b in range(3):
        alone = scan(q[b : b + 1], quantized, doc_of_chunk, mask[b : b + 1], 7, device)
        assert_holds(alone[0], alone[1], exact[b : b + 1])
    assert_holds(together[0], together[1], exact)


@needs_triton
@pytest.mark.parametrize("key_format", ["bf16", "int8"])
def test_a_document_may_not_be_allowed(key_format, device):
    q, keys, doc_of_chunk, mask = case(150, 20, 3, 4, 32)
    mask[:] = True
    quantized = quantize_keys(keys, key_format)
    open_lower, open_upper = scan(q, quantized, doc_of_chunk, mask, 20, device)
    allowed = torch.rand(3, 20) < 0.5
    allowed[:, :12] = False  # whole programs have nothing to do
    allowed[2] = False
    lower, upper = scan(q, quantized, doc_of_chunk, mask, 20, device, allowed=allowed)
    assert torch.equal(lower, open_lower.masked_fill(~allowed, -INFINITY))
    assert torch.equal(upper, open_upper.masked_fill(~allowed, -INFINITY))


@needs_triton
def test_one_document_may_cross_many_programs_and_the_order_is_free(device):
    q, keys, _, mask = case(150, 1, 2, 5, 16)
    mask[:] = True
    quantized = quantize_keys(keys, "int8")
    whole = torch.zeros(150, dtype=torch.long)
    lower, upper = scan(q, quantized, whole, mask, 3, device)
    assert_holds(lower, upper, exact_scores(q, keys, whole, mask, 3))
    mixed = torch.randint(6, (150,))
    order = mixed.argsort(stable=True)
    sorted_keys = quantize_keys(keys[order], "int8")
    by_document = scan(q, sorted_keys, mixed[order], mask, 6, device)
    assert all(map(torch.equal, scan(q, quantized, mixed, mask, 6, device), by_document))
    assert all(map(torch.equal, scan(q, quantized, mixed.int(), mask, 6, device), by_document))


@needs_triton
@pytest.mark.parametrize("empty", ["chunks", "documents", "requests", "tokens", "all tokens masked"])
def test_what_is_empty_scores_nothing(empty, device):
    chunks, n = (0 if empty in ("chunks", "documents") else 4), (0 if empty == "documents" else 3)
    batch, tokens = (0 if empty == "requests" else 2), (0 if empty == "tokens" else 5)
    keys = quantize_keys(torch.randn(chunks, 16), "bf16")
    mask = torch.full((batch, tokens), empty != "all tokens masked")
    lower, upper = scan(
        torch.randn(batch, tokens, 16), keys, torch.zeros(chunks, dtype=torch.long), mask, n, device
    )
    assert lower.shape == upper.shape == (batch, n)
    assert bool((lower == -INFINITY).all())
    assert bool((upper == -INFINITY).all())


@needs_triton
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("key_format", FORMATS)
@pytest.mark.parametrize("value", [math.nan, INFINITY, -INFINITY])
def test_a_query_that_is_not_finite_is_told_from_one_that_scores_low(value, key_format, device):
    q, keys, doc_of_chunk, mask = case(40, 4, 2, 3, 16)
    mask[:] = True
    q[0, 1, 2] = value
    lower, upper = scan(q, quantize_keys(keys, key_format), doc_of_chunk, mask, 5, device)
    assert bool((lower[0] < INFINITY).all())
    assert upper[0, :4].tolist() == [INFINITY] * 4
    assert upper[0, 4] == -INFINITY
    q[0], mask[0] = 0, False
    assert_holds(lower[1:], upper[1:], exact_scores(q, keys, doc_of_chunk, mask, 5)[1:])


Q_SCALES = torch.tensor([0.0, 1e-42, 1e-30, 1.0, 1e30, 3e37])
K_SCALES = torch.tensor([0.0, 1e-42, 1e-38, 1e-30, 1.0, 1000.0, 1e30, 3e36])


@needs_triton
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("key_format", FORMATS)
def test_the_interval_holds_at_the_ends_of_float32(key_format, device):
    """A request for every scale of queries, a document for every scale of keys: all pairs at once."""
    q = torch.randn(len(Q_SCALES), 3, 16) * Q_SCALES[:, None, None]
    doc_of_chunk = torch.arange(3 * len(K_SCALES)) // 3
    keys = torch.randn(3 * len(K_SCALES), 16) * K_SCALES[doc_of_chunk, None]
    keys[K_SCALES[doc_of_chunk] == 1000] = (
        1000  # no format loses a bit: the score overflows, its error does not
    )
    keys[-1], q[:, 0] = 2e37, 1.9 * Q_SCALES[:, None]  # small scores too, but the sums behind them overflow
    mask = torch.ones(len(q), 3, dtype=torch.bool)
    n = len(K_SCALES)
    lower, upper = scan(q, quantize_keys(keys, key_format), doc_of_chunk, mask, n, device)
    exact = exact_scores(q, keys, doc_of_chunk, mask, n)
    assert_holds(lower, upper, exact)
    ordinary = exact.abs() < 1e20
    ordinary[:, K_SCALES > 1e26] = False
    assert bool((upper - lower)[ordinary].isfinite().all())


@needs_triton
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(1, 4), st.integers(1, 6)),
    width=st.sampled_from([8, 24, 40]),
    key_format=st.sampled_from(FORMATS),
    k=st.integers(1, 10),
    distinct=st.integers(1, 5),
)
def test_the_exact_top_k_is_certified(device, seed, sizes, width, key_format, k, distinct):
    chunks, n, batch, tokens = sizes
    generator = torch.Generator().manual_seed(seed)
    # Few distinct keys: ties within and between documents.
    keys = torch.randn(distinct, width, generator=generator)
    keys = keys[torch.randint(distinct, (chunks,), generator=generator)]
    q = torch.randn(batch, tokens, width, generator=generator)
    doc_of_chunk = torch.randint(n, (chunks,), generator=generator).sort().values
    mask = torch.rand(batch, tokens, generator=generator) < 0.7
    lower, upper = scan(q, quantize_keys(keys, key_format), doc_of_chunk, mask, n, device)
    exact = exact_scores(q, keys, doc_of_chunk, mask, n)
    assert_holds(lower, upper, exact)
    exact = exact.float()
    scored = score_promising(lower, upper, k, lambda ranked: scores_of(exact, ranked))
    best, found, certified = certify(scored.upper, scored.documents, scored.scores, k)
    assert bool(certified.all())
    assert all(map(torch.equal, (best, found), routing.top_documents(exact, k)))


@needs_triton
def test_the_scan_hands_over_keys_a_kernel_takes(device, monkeypatch):
    q, keys, doc_of_chunk, mask = (value.to(device) for value in case(40, 6, 2, 5, 16))
    quantized = quantize_keys(keys, "int8")
    monkeypatch.setattr(triton_scan, "can_scan", lambda keys: True)
    handed = plain_scan_documents(q, quantized, doc_of_chunk, mask, num_documents=6)
    own = scan_documents(q, quantized, doc_of_chunk, mask, num_documents=6)
    assert all(map(torch.equal, handed, own))
    monkeypatch.setattr(triton_scan, "can_scan", lambda keys: False)
    plain = plain_scan_documents(q, quantized, doc_of_chunk, mask, num_documents=6)
    assert bool((plain[0] <= own[1]).all() & (own[0] <= plain[1]).all())  # both hold the exact score


def test_sizes_that_do_not_fit_are_refused(monkeypatch):
    q, keys, doc_of_chunk, mask = case(4, 2, 1, 3, 16)
    scanned = quantize_keys(keys, "int8")
    with pytest.raises(ConfigError, match="no kernel scans float32 keys; use one of bf16, fp8, int8"):
        scan_documents(q, quantize_keys(keys, "float32"), doc_of_chunk, mask, num_documents=2)
    with pytest.raises(ShapeError, match=r"routing queries are \(1, 3, 8\); pass \(requests, tokens, 16\)"):
        scan_documents(q[:, :, :8], scanned, doc_of_chunk, mask, num_documents=2)
    with pytest.raises(ShapeError, match=r"query_mask is \(1, 2\)"):
        scan_documents(q, scanned, doc_of_chunk, mask[:, :2], num_documents=2)
    with pytest.raises(ShapeError, match="3 document indices for 4 chunks"):
        scan_documents(q, scanned, doc_of_chunk[:3], mask, num_documents=2)
    with pytest.raises(ShapeError, match=r"allowed is \(1, 3\), bounds are \(1, 2\)"):
        scan_documents(q, scanned, doc_of_chunk, mask, num_documents=2, allowed=torch.ones(1, 3).bool())
    monkeypatch.setattr(triton_scan, "WIDEST", 8)
    with pytest.raises(ShapeError, match="routing keys are 16 wide; the kernel sums up to 8 products"):
        scan_documents(q, scanned, doc_of_chunk, mask, num_documents=2)


def test_without_triton_the_next_step_is_named(monkeypatch):
    q, keys, doc_of_chunk, mask = case(4, 2, 1, 3, 16)
    monkeypatch.setattr(triton_scan, "has_triton", lambda: False)
    with pytest.raises(ConfigError, match="needs the package triton; install it, or scan with torch"):
        scan_documents(q, quantize_keys(keys, "int8"), doc_of_chunk, mask, num_documents=2)


@pytest.mark.parametrize("key_format", ["float32", "int8"])
def test_keys_on_the_processor_are_left_to_torch(key_format: KeyFormat):
    assert not can_scan(quantize_keys(torch.randn(2, 8), key_format))


@pytest.mark.gpu
def test_keys_on_the_device_are_taken():
    keys = quantize_keys(torch.randn(2, 8), "int8").to("cuda")
    assert can_scan(keys) == triton_scan.has_triton()
    assert not can_scan(quantize_keys(torch.randn(2, 8), "float32").to("cuda"))


@pytest.mark.parametrize("batch", [1, 2, 3, 16, 200])
@pytest.mark.parametrize("tokens", [1, 2, 17, 64, 128, 129, 1000])
def test_a_program_takes_enough_columns_for_a_tensor_core_and_no_more_than_fit(batch, tokens):
    requests, per_request = triton_scan._column_shape(batch, tokens)
    assert 16 <= requests * per_request <= triton_scan.COLUMNS
    assert requests & (requests - 1) == per_request & (per_request - 1) == 0
    assert requests < 2 * batch
    assert per_request >= min(tokens, triton_scan.COLUMNS)


@needs_triton
@pytest.mark.parametrize("k", [0, 1, 3, 40])
@pytest.mark.parametrize("documents", [0, 1, 127, 128, 129, 500])
def test_the_best_documents_are_those_of_the_plain_form(documents, k, device, monkeypatch):
    monkeypatch.setattr(triton_scan, "BLOCK", 128)  # 500 documents then take three passes for 40
    scores = torch.randint(-20, 20, (3, documents)).float()  # ties
    scores[1] = -INFINITY
    scores[2] *= -0.0  # one zero is as good as the other
    scores[:, ::3] = -INFINITY
    best, index = top_documents(scores.to(device), k)
    expected, expected_index = routing.top_documents(scores, k)
    assert torch.equal(best.cpu(), expected)
    assert torch.equal(index.cpu(), expected_index)


@needs_triton
def test_the_best_documents_of_extreme_scores(device):
    tiny = torch.finfo(torch.float32).smallest_normal
    scores = torch.tensor([[-INFINITY, INFINITY, -3e38, 3e38, -tiny, tiny, 0.0, -1.0, 1.0, INFINITY]])
    best, index = top_documents(scores.to(device), 10)
    assert index.tolist() == [[1, 9, 3, 8, 5, 6, 4, 7, 2, -1]]
    assert best.tolist()[0] == [INFINITY, INFINITY, *scores[0, [3, 8, 5, 6, 4, 7, 2]].tolist(), -INFINITY]


def test_many_best_documents_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(triton_scan, "has_triton", lambda: False)
    scores = torch.randn(2, 300)
    found = top_documents(scores, 129)
    assert all(map(torch.equal, found, routing.top_documents(scores, 129)))
    with pytest.raises(InputError, match="k is -1; ask for 0 documents or more"):
        top_documents(scores, -1)
    with pytest.raises(ShapeError, match=r"scores are \(300,\)"):
        top_documents(scores[0], 1)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("key_format", FORMATS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 32), (16, 64)])
def test_the_interval_holds_at_the_size_of_a_large_model(batch, tokens, key_format):
    q = torch.nn.functional.normalize(torch.randn(batch, tokens, 1024, device="cuda"), dim=-1) / 8**0.5
    keys = torch.nn.functional.normalize(torch.randn(50_000, 8, 128, device="cuda"), dim=-1).flatten(1)
    doc_of_chunk = torch.arange(50_000, device="cuda") // 8
    mask = torch.ones(batch, tokens, dtype=torch.bool, device="cuda")
    lower, upper = scan_documents(q, quantize_keys(keys, key_format), doc_of_chunk, mask, num_documents=6_250)
    exact = torch.cat([(row.double() @ keys.double().T).amax(0).view(1, -1, 8).amax(2) for row in q])
    assert_holds(lower, upper, exact)
    best, index = top_documents(lower, 16)
    expected, expected_index = routing.top_documents(lower, 16)
    assert torch.equal(best, expected)
    assert torch.equal(index, expected_index)
