import pytest
import torch
from torch import Tensor, nn

from memsparse.model.modules import Linear, RMSNorm, gated_linear, rotate, silu_gate
from memsparse.ops.native import layers


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that our own kernel was given."""
    if not layers.has_bfloat16():
        pytest.skip("no such kernel here")
    given: list[tuple[int, ...]] = []
    multiply = layers.linear

    def spy(tokens: Tensor, *weights: Tensor) -> Tensor:
        given.append(tuple(tokens.shape))
        return multiply(tokens, *weights)

    monkeypatch.setattr(layers, "linear", spy)
    return given


def layer(bias: bool = False, dtype: torch.dtype = torch.bfloat16, outputs: int = 96) -> Linear:
    torch.manual_seed(0)
    return Linear(64, outputs, bias=bias, dtype=dtype)


def test_it_is_a_linear_layer() -> None:
    ours = layer()
    theirs = nn.Linear(64, 96, bias=False, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 37, 64).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens).double(), theirs(tokens.double()), atol=1e-4, rtol=2.0**-8)


def test_our_kernel_takes_what_answers(calls: list[tuple[int, ...]]) -> None:
    tokens = torch.randn(2, 5, 64).bfloat16()
    with torch.no_grad():
        assert layer()(tokens).shape == (2, 5, 96)
        assert layer()(tokens[0, 0]).shape == (96,)
        assert layer()(tokens[:, :0]).shape == (2, 0, 96)
    assert calls == [(10, 64), (1, 64), (0, 64)]


def test_torch_takes_what_learns_and_what_does_not_fit(calls: list[tuple[int, ...]]) -> None:
    tokens = torch.randn(5, 64).bfloat16()
    ours = layer()
    ours(tokens).sum().backward()
    assert ours.weight.grad is not None
    with torch.no_grad():
        layer(bias=True)(tokens)
        layer(dtype=torch.float32)(tokens.float())
        layer(outputs=97)(tokens)
        Linear(8192, 32, bias=False, dtype=torch.bfloat16)(torch.randn(1, 8192).bfloat16())
        turned = layer()
        turned.weight = nn.Parameter(torch.randn(64, 96).bfloat16().T)
        turned(tokens)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            ours(tokens)
    assert calls == []


def test_a_token_is_the_same_in_any_company(calls: list[tuple[int, ...]]) -> None:
    tokens, ours = torch.randn(400, 64).bfloat16(), layer()
    with torch.inference_mode():
        all_of_them = ours(tokens)
        for count in (1, 31, 64, 333):
            assert torch.equal(ours(tokens[:count]), all_of_them[:count])
    assert len(calls) == 5


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What our own kernels were asked to do to tokens."""
    if not layers.has_bfloat16():
        pytest.skip("no such kernel here")
    given: list[str] = []
    for name in ("rms_norm", "rotate", "gate"):
        run = getattr(layers, name)
        monkeypatch.setattr(layers, name, lambda *each, name=name, run=run: given.append(name) or run(*each))
    return given


def changed(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(1)
    norm, rows = RMSNorm(64, eps=1e-6).to(dtype), torch.randn(2, 5, 3, 64).to(dtype)
    angles = torch.rand(2, 5, 64)
    q, k = rotate(rows, rows[:, :, :1].contiguous(), angles.cos().to(dtype), angles.sin().to(dtype))
    return [norm(rows), q, k, silu_gate(rows, rows.flip(0))]


def test_our_kernels_change_tokens_as_torch_does(changes: list[str]) -> None:
    with torch.inference_mode():
        ours, exact = changed(torch.bfloat16), changed(torch.float32)
    for found, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.02)
    assert changes == ["rotate", "rotate", "rms_norm", "gate"]


def test_torch_changes_what_learns_what_is_compiled_and_what_does_not_fit(
    changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changed(torch.bfloat16)[0].requires_grad
    with torch.no_grad():
        turned = torch.ones(1, 5, 64).bfloat16()  # for every row of a batch
        rows = torch.ones(2, 5, 3, 64).bfloat16()
        assert rotate(rows, rows, turned, turned)[0].shape == rows.shape
        RMSNorm(40).bfloat16()(torch.randn(2, 40).bfloat16())
        silu_gate(rows.transpose(0, 1), rows.transpose(0, 1))
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        changed(torch.bfloat16)
    assert changes == []


def test_two_layers_of_which_one_gates_the_other_are_one_product(calls: list[tuple[int, ...]]) -> None:
    opens, passes, tokens = layer(), layer(), torch.randn(2, 37, 64).bfloat16()
    passes.weight.data = passes.weight.data.flip(0)
    with torch.no_grad():
        found = gated_linear(tokens, opens, passes)
        assert calls == [(74, 64)]
        assert torch.equal(found, silu_gate(opens(tokens), passes(tokens)))


class Adapted(Linear):
    """A layer with more to it than its weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in torch
        return super().forward(input) + 1


def test_layers_that_are_more_than_a_product_run_as_they_are() -> None:
    tokens = torch.randn(5, 64).bfloat16()
    adapted, hooked, asked = Adapted(64, 96, bias=False).bfloat16(), layer(), layer()
    hooked.register_forward_hook(lambda module, given, made: made + 1)
    asked.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    wrapped = layer()
    wrapped.forward = lambda given: Linear.forward(wrapped, given) + 1  # type: ignore[method-assign]
    for other in (adapted, hooked, asked, wrapped, layer(bias=True)):
        with torch.no_grad():
            for pair in ((other, layer()), (layer(), other)):
                wanted = silu_gate(pair[0](tokens), pair[1](tokens))
                assert torch.equal(gated_linear(tokens, *pair), wanted)
    gated_linear(tokens, layer(), layer()).sum().backward()  # what learns is torch's


def test_hooks_of_all_modules_are_asked() -> None:
    seen: list[nn.Module] = []
    opens, passes = layer(), layer()
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, made: seen.append(module))
    with torch.no_grad():
        gated_linear(torch.randn(5, 64).bfloat16(), opens, passes)
    hook.remove()
    assert seen == [opens, passes]
