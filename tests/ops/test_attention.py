import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen3.modeling_qwen3 import repeat_kv

from memsparse.errors import ShapeError
from memsparse.ops import reference
from memsparse.ops.attention import attend_each, causal_attention, causal_mask, memory_attention

IMPLEMENTATIONS = ["sdpa", "eager"]


def make(
    tokens: int = 3, past: int = 0, slots: int = 4, heads: int = 4, kv_heads: int = 2, width: int = 4
) -> dict[str, Any]:
    """Arguments of `memory_attention` for two rows, everything in use."""
    leaf = {"dtype": torch.float64, "requires_grad": True}
    local_mask = torch.ones(2, past + tokens, dtype=torch.bool)
    local_mask[0, : (past + tokens) // 3] = False  # padded on the left
    memory_mask = torch.rand(2, tokens, slots) < 0.6
    return {
        "q_BHTD": torch.randn(2, heads, tokens, width, **leaf),
        "local_k_BGSD": torch.randn(2, kv_heads, past + tokens, width, **leaf),
        "local_v_BGSD": torch.randn(2, kv_heads, past + tokens, width, **leaf),
        "local_mask_BTS": causal_mask(local_mask, tokens),
        "memory_k_BGMD": torch.randn(2, kv_heads, slots, width, **leaf),
        "memory_v_BGMD": torch.randn(2, kv_heads, slots, width, **leaf),
        "memory_mask_BTM": memory_mask,
        "memory_bias_BM": torch.randn(2, slots, **leaf),
        "scale": 0.4,
    }


def without_memory(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if not name.startswith("memory")}


def agree(arguments: dict[str, Any], implementation: str) -> None:
    """Values and all gradients equal the twin's."""
    fast = memory_attention(**arguments, implementation=implementation)
    slow = reference.memory_attention(**arguments)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    leaves = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]
    weights = torch.randn_like(slow)
    got = torch.autograd.grad((fast * weights).sum(), leaves)
    want = torch.autograd.grad((slow * weights).sum(), leaves, materialize_grads=True)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (4, 1)])
def test_it_equals_the_twin_with_gradients(implementation: str, heads: int, kv_heads: int) -> None:
    agree(make(heads=heads, kv_heads=kv_heads), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("tokens", "past", "slots"), [(1, 0, 1), (1, 7, 5), (4, 3, 63), (2, 64, 65), (5, 0, 0)]
)
def test_ragged_sizes(implementation: str, tokens: int, past: int, slots: int) -> None:
    agree(make(tokens, past, slots), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_mask_for_all_tokens_and_no_bias(implementation: str) -> None:
    arguments = make()
    arguments["memory_mask_BTM"] = torch.tensor([[[True, True, False, False]], [[False] * 4]])
    agree(arguments | {"memory_bias_BM": None}, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_memory(implementation: str) -> None:
    agree(without_memory(make(tokens=4, past=2)), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("with_memory", [True, False])
def test_no_local_mask_means_plain_causal(implementation: str, with_memory: bool) -> None:
    arguments = make(tokens=5)
    arguments["local_mask_BTS"] = causal_mask(torch.ones(2, 5), 5)
    if not with_memory:
        arguments = without_memory(arguments)
    want = memory_attention(**arguments, implementation=implementation)
    got = memory_attention(**arguments | {"local_mask_BTS": None}, implementation=implementation)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("per_token", [True, False])
def test_nothing_leaks_from_padded_slots(implementation: str, per_token: bool) -> None:
    arguments = make()
    mask = arguments["memory_mask_BTM"] if per_token else torch.rand(2, 1, 4) < 0.5
    mask[:, :, -1] = False
    arguments["memory_mask_BTM"] = mask
    clean = memory_attention(**arguments, implementation=implementation)
    padding = ~mask.any(1)[:, None, :, None]
    poisoned = dict(arguments)
    for name in ("memory_k_BGMD", "memory_v_BGMD"):
        poisoned[name] = arguments[name].detach().masked_fill(padding, math.nan).requires_grad_()
    dirty = memory_attention(**poisoned, implementation=implementation)
    torch.testing.assert_close(dirty, clean)
    leaves = [value for value in poisoned.values() if isinstance(value, Tensor) and value.requires_grad]
    for gradient in torch.autograd.grad(dirty.sum(), leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_memory_kept_in_another_dtype_takes_that_of_the_context(implementation: str) -> None:
    arguments = {
        name: value.detach().bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in make().items()
    }
    want = memory_attention(**arguments, implementation=implementation)
    for name in ("memory_k_BGMD", "memory_v_BGMD"):
        arguments[name] = arguments[name].float()
    got = memory_attention(**arguments, implementation=implementation)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)


def test_query_heads_share_the_kv_head_of_their_group() -> None:
    arguments = without_memory(make(heads=4, kv_heads=2))
    grouped = memory_attention(**arguments, implementation="eager")
    for name in ("local_k_BGSD", "local_v_BGSD"):
        arguments[name] = repeat_kv(arguments[name], 2)
    torch.testing.assert_close(memory_attention(**arguments, implementation="eager"), grouped)


def test_the_causal_mask_hides_padding_and_what_comes_later() -> None:
    mask = causal_mask(torch.tensor([[0, 1, 1, 1]]), 2)
    assert mask.int().tolist() == [[[0, 1, 1, 0], [0, 1, 1, 1]]]


def test_a_padding_token_sees_itself_alone() -> None:
    mask = causal_mask(torch.tensor([[0, 0, 1]]), 3)
    assert mask.int().tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("memory_v_BGMD", (2, 2, 5, 4), r"memory K is .* V \(2, 2, 5, 4\)"),
        ("memory_k_BGMD", (2, 2, 5, 4), r"memory K is \(2, 2, 5, 4\)"),
        ("memory_mask_BTM", (2, 3, 5), r"memory mask is \(2, 3, 5\)"),
        ("memory_mask_BTM", (2, 2, 4), r"memory mask is \(2, 2, 4\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        memory_attention(**make() | {name: torch.ones(shape)})


def test_the_memory_of_another_model_is_refused() -> None:
    arguments = make()
    other = make(kv_heads=1)
    for name in ("memory_k_BGMD", "memory_v_BGMD"):
        arguments[name] = other[name]
    with pytest.raises(ShapeError, match=r"memory is for \(2, 1, 4\) .* attention for \(2, 2, 4\)"):
        memory_attention(**arguments)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize(("tokens", "past", "slots"), [(1, 0, 0), (1, 5, 3), (3, 0, 0), (7, 0, 4), (5, 9, 6)])
@pytest.mark.parametrize("gated", [False, True])
def test_one_request_by_itself_equals_the_twin(
    heads: int, kv_heads: int, tokens: int, past: int, slots: int, gated: bool
) -> None:
    q = torch.randn(1, heads, tokens, 4, dtype=torch.float64)
    k, v = torch.randn(2, 1, kv_heads, slots + past + tokens, 4, dtype=torch.float64)
    bias = torch.randn(1, slots, dtype=torch.float64) if gated else None
    slow = reference.memory_attention(
        q,
        k[:, :, slots:],
        v[:, :, slots:],
        causal_mask(torch.ones(1, past + tokens), tokens),
        memory_k_BGMD=k[:, :, :slots],
        memory_v_BGMD=v[:, :, :slots],
        memory_mask_BTM=torch.ones(1, 1, slots, dtype=torch.bool),
        memory_bias_BM=bias,
        scale=0.4,
    )
    keys_bias = None if bias is None else torch.nn.functional.pad(bias[0], (0, past + tokens))
    fast = causal_attention(q[0].transpose(0, 1), k[0], v[0], bias_S=keys_bias, scale=0.4)
    torch.testing.assert_close(fast.transpose(0, 1)[None], slow, atol=1e-6, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize(("tokens", "keys"), [(1, 9), (7, 7), (5, 300)])
def test_flash_attention_is_enough_on_an_accelerator(
    heads: int, kv_heads: int, tokens: int, keys: int
) -> None:
    q = torch.randn(tokens, heads, 64, dtype=torch.bfloat16, device="cuda")
    k, v = torch.randn(2, kv_heads, keys, 64, dtype=torch.bfloat16, device="cuda")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        got = causal_attention(q, k, v, scale=0.4)
    want = causal_attention(q.double().cpu(), k.double().cpu(), v.double().cpu(), scale=0.4)
    torch.testing.assert_close(got.double().cpu(), want, atol=0.02, rtol=0.02)


def test_tokens_without_keys_of_their_own_are_refused() -> None:
    with pytest.raises(ShapeError, match="3 query tokens for 2 keys"):
        causal_attention(torch.randn(3, 2, 4), torch.randn(2, 2, 4), torch.randn(2, 2, 4), scale=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [32, 20])
def test_each_of_many_requests_attends_as_by_itself(dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(width)
    queries = [torch.randn(tokens, 4, width).to(dtype) for tokens in (1, 5, 40)]
    keys = [
        (torch.randn(2, seen, width).to(dtype), torch.randn(2, seen, width).to(dtype), bias)
        for seen, bias in ((6, None), (5, torch.randn(5)), (64, torch.randn(64)))
    ]
    with torch.no_grad():
        together = attend_each(torch.cat(queries), [len(q) for q in queries], keys, scale=0.3)
    alone = [
        causal_attention(q.float(), k.float(), v.float(), bias_S=bias, scale=0.3)
        for q, (k, v, bias) in zip(queries, keys, strict=True)
    ]
    close = 1e-5 if dtype == torch.float32 else 2.0**-6
    torch.testing.assert_close(together.float(), torch.cat(alone), atol=close, rtol=close)


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "groups"), [(1, 1, 2, 2), (3, 33, 4, 2), (2, 100, 3, 1)]
)
def test_rows_in_bfloat16_without_gradients_are_those_of_float64(
    batch: int, tokens: int, heads: int, groups: int
) -> None:
    torch.manual_seed(tokens)
    q, k, v = (
        torch.randn(batch, tokens, own, 32).bfloat16().transpose(1, 2) for own in (heads, groups, groups)
    )
    with torch.no_grad():
        found = memory_attention(q, k, v, None, scale=0.2)
        none = memory_attention(q[:0], k[:0], v[:0], None, scale=0.2)
    exact = reference.memory_attention(
        q.double(), k.double(), v.double(), causal_mask(torch.ones(batch, tokens), tokens), scale=0.2
    )
    assert none.shape == (0, heads, tokens, 32)
    assert found.shape == q.shape
    torch.testing.assert_close(found.double(), exact, atol=2.0**-7, rtol=2.0**-7)


def test_keys_that_are_no_rows_of_their_tokens_are_torchs() -> None:
    torch.manual_seed(8)
    q, k = torch.randn(2, 4, 5, 32).bfloat16(), torch.randn(2, 2, 9, 32).bfloat16()
    few, across = k[:, :, :5], k[:, :, :5].transpose(2, 3).contiguous().transpose(2, 3)
    with torch.no_grad():
        for keys, values in ((k, k), (few, few[..., :20]), (across, few), (few, across)):
            wanted = scaled_dot_product_attention(q, keys, values, is_causal=True, scale=0.2, enable_gqa=True)
            found = memory_attention(q, keys, values, None, scale=0.2)
            torch.testing.assert_close(found, wanted, atol=2.0**-6, rtol=2.0**-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_keys_that_come_with_many_requests_are_written(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    q, own_k, own_v = (torch.randn(8, heads, 32).to(dtype) for heads in (4, 2, 2))
    keys = [(*torch.randn(2, 2, seen, 32).to(dtype), None) for seen in (6, 4)]
    wanted = [(k.clone(), v.clone(), None) for k, v, _ in keys]
    for at, (first, last) in enumerate(((0, 2), (2, 6))):
        for place, own in enumerate((own_k, own_v)):
            to = wanted[at][place]
            to[:, to.shape[1] - (last - first) :] = own[first:last].transpose(0, 1)
    with torch.no_grad():
        found = attend_each(q, [2, 4], keys, scale=0.3, own=(own_k, own_v, [2, 4]))
        assert torch.equal(found, attend_each(q, [2, 4], wanted, scale=0.3))
    assert not found[6:].any()
    for (k, v, _), (k_wanted, v_wanted, _) in zip(keys, wanted, strict=True):
        assert torch.equal(k, k_wanted)
        assert torch.equal(v, v_wanted)


def test_many_requests_without_keys_of_their_own_are_refused() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        q, k = torch.randn(3, 2, 32).to(dtype), torch.randn(1, 2, 32).to(dtype)
        with torch.no_grad(), pytest.raises(ShapeError):
            attend_each(q, [3], [(k, k, None)], scale=1.0)
