import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.errors import ConfigError, ShapeError
from memsparse.ops import reference
from memsparse.ops.losses import (
    AUX_LOSSES,
    auxiliary_loss,
    binary_relevance,
    info_nce,
    info_nce_decoupled,
    info_nce_decoupled_focal,
    info_nce_focal,
    shifted_cross_entropy,
)

CASES = [(method, 2.0) for method in AUX_LOSSES] + [("INFONCE_DECOUPLE_FOCAL", None)]

SCORES = [
    [0.3, -0.2, 0.9, 0.1],
    [0.5, -math.inf, 0.1, -0.4],  # a document that is not there
    [0.2, 0.1, 0.0, -0.1],  # no positive: left out
    [0.7, 0.6, -math.inf, -math.inf],  # no negative
    [-math.inf, 0.1, -math.inf, 0.2],  # its only positive is not there: left out
    [-math.inf] * 4,
]
POSITIVES = [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def check(
    method: str, exponent: float | None, rows: list[list[float]], marks: list[list[int]], tau: float
) -> None:
    scores = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    positives = torch.tensor(marks).bool()
    options = {"temperature": tau, "bias": bias, "focal_exponent": exponent}
    fast = auxiliary_loss(method, scores, positives, **options)
    slow = reference.auxiliary_loss(method, scores, positives, **options)
    torch.testing.assert_close(fast, slow.float(), atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(fast, [scores, bias], materialize_grads=True)
    assert got[0].isfinite().all()
    if slow.requires_grad:
        want = torch.autograd.grad(slow, [scores, bias], materialize_grads=True)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    else:
        assert not got[0].any()


@pytest.mark.parametrize(("method", "exponent"), CASES)
@pytest.mark.parametrize("temperature", [0.5, 0.1, 1e-9, 7.0])
def test_every_loss_equals_the_twin_with_gradients(
    method: str, exponent: float | None, temperature: float
) -> None:
    check(method, exponent, SCORES, POSITIVES, temperature)


@pytest.mark.parametrize(("method", "exponent"), CASES)
@given(
    data=st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.lists(
                st.tuples(st.floats(-1, 1).map(lambda x: round(x, 3)) | st.just(-math.inf), st.booleans()),
                min_size=n,
                max_size=n,
            ),
            min_size=1,
            max_size=3,
        )
    )
)
@settings(max_examples=40)
def test_any_rows_equal_the_twin(
    method: str, exponent: float | None, data: list[list[tuple[float, bool]]]
) -> None:
    check(
        method,
        exponent,
        [[s for s, _ in row] for row in data],
        [[int(p) for _, p in row] for row in data],
        0.3,
    )


def test_the_five_losses_by_hand() -> None:
    scores, positives, valid = (
        torch.tensor([[0.0, 0.0, 0.0]]),
        torch.tensor([[True, False, False]]),
        torch.ones(1, 3),
    )
    both = scores, positives, valid.bool()
    third = math.log(3)
    assert info_nce(*both).item() == pytest.approx(third)
    assert info_nce_decoupled(*both).item() == pytest.approx(third)
    assert info_nce_focal(*both).item() == pytest.approx((2 / 3) ** 2 * third)
    assert info_nce_decoupled_focal(*both, exponent=None).item() == pytest.approx(2 / 3 * third)
    assert binary_relevance(*both, torch.tensor(0.0)).item() == pytest.approx(math.log(2))


def test_decoupling_keeps_positives_from_competing() -> None:
    scores = torch.tensor([[9.0, 9.0, 0.0]])
    positives, valid = torch.tensor([[True, True, False]]), torch.ones(1, 3).bool()
    assert info_nce(scores, positives, valid).item() > math.log(2) - 1e-3
    assert info_nce_decoupled(scores, positives, valid).item() < 1e-3


@pytest.mark.parametrize(
    "loss", [info_nce, info_nce_decoupled, info_nce_focal, info_nce_decoupled_focal], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    ("positives", "valid"),
    [([0, 0, 0], [1, 1, 1]), ([1, 1, 1], [1, 1, 1]), ([1, 0, 0], [1, 0, 0]), ([0, 0, 0], [0, 0, 0])],
    ids=["no positive", "no negative", "one document", "no document"],
)
def test_rows_short_of_documents_give_finite_gradients(loss, positives: list[int], valid: list[int]) -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, 0.3]], requires_grad=True)
    normal = [1, 0, 0], [1, 1, 1]
    losses = loss(
        scores, torch.tensor([positives, normal[0]]).bool(), torch.tensor([valid, normal[1]]).bool()
    )
    assert losses.isfinite().all()
    if not any(positives):
        assert losses[0] == 0
    losses.sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[1].any()


def test_bce_of_a_row_without_documents_is_zero() -> None:
    scores = torch.tensor([[1.0]], requires_grad=True)
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    binary_relevance(scores, nothing, nothing, torch.tensor(0.0)).sum().backward()
    assert scores.grad.tolist() == [[0.0]]


@pytest.mark.parametrize("method", AUX_LOSSES)
def test_without_any_positive_the_loss_is_zero(method: str) -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    loss = auxiliary_loss(
        method, scores, torch.zeros(2, 3, dtype=torch.bool), temperature=0.1, bias=torch.tensor(0.0)
    )
    assert loss.item() == 0
    loss.backward()
    assert not scores.grad.any()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_without_rows_or_documents_the_loss_is_zero(shape: tuple[int, int]) -> None:
    loss = auxiliary_loss(
        "INFONCE", torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), temperature=0.1
    )
    assert loss.item() == 0


def test_bad_arguments_are_refused() -> None:
    one = torch.zeros(1, 2), torch.tensor([[True, False]])
    with pytest.raises(ConfigError, match="'TRIPLET'; use one of INFONCE"):
        auxiliary_loss("TRIPLET", *one, temperature=0.1)
    with pytest.raises(ConfigError, match="BCE needs its learnt bias"):
        auxiliary_loss("BCE", *one, temperature=0.1)
    with pytest.raises(ShapeError, match=r"scores are \(1, 2\), positives \(1, 1\)"):
        auxiliary_loss("INFONCE", one[0], one[1][:, :1], temperature=0.1)
    with pytest.raises(ShapeError, match=r"labels are \(2, 3\), logits \(2, 4, 5\)"):
        shifted_cross_entropy(torch.zeros(2, 4, 5), torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("tokens", [2, 5])
def test_cross_entropy_equals_the_twin_with_gradients(tokens: int) -> None:
    logits = torch.randn(3, tokens, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (3, tokens))
    labels[0] = -100
    labels[1, 1:3] = -100
    fast, slow = shifted_cross_entropy(logits, labels), reference.shifted_cross_entropy(logits, labels)
    torch.testing.assert_close(fast, slow.float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_cross_entropy_without_targets_is_zero_whatever_the_logits(tokens: int) -> None:
    logits = torch.full((2, tokens, 5), math.nan, requires_grad=True)
    labels = torch.full((2, tokens), -100)
    labels[:, :1] = 3  # the first token is nobody's target
    loss = shifted_cross_entropy(logits, labels)
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize(
    "loss",
    [
        info_nce,
        info_nce_decoupled,
        info_nce_focal,
        info_nce_decoupled_focal,
        lambda s, p, v: binary_relevance(s, p, v, torch.tensor(0.5)),
    ],
    ids=["info_nce", "decoupled", "focal", "decoupled_focal", "bce"],
)
def test_a_document_that_is_not_there_does_not_count_whatever_its_score(loss) -> None:
    positives, valid = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    scores = torch.tensor([[0.5, 0.2, 3.0]], requires_grad=True)
    value = loss(scores, positives, valid)
    torch.testing.assert_close(value, loss(scores[:, :2], positives[:, :2], valid[:, :2]))
    value.sum().backward()
    assert scores.grad[0, 2] == 0
    assert scores.grad[0, :2].all()
