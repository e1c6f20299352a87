import pytest
import torch
from torch import Tensor, nn

from memsparse.model.linear import Linear
from memsparse.ops.native import layers


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that our own kernel was given."""
    if not layers.has_bfloat16():
        pytest.skip("no such kernel here")
    given: list[tuple[int, ...]] = []
    multiply = layers.linear

    def spy(tokens: Tensor, weight: Tensor) -> Tensor:
        given.append(tuple(tokens.shape))
        return multiply(tokens, weight)

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
