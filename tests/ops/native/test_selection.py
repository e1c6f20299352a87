import pytest
import torch

from memsparse.errors import InputError, ShapeError
from memsparse.ops import routing
from memsparse.ops.certificate import certify
from memsparse.ops.native import library, selection


@pytest.fixture(autouse=True)
def _built() -> None:
    if not library.is_built():
        pytest.skip("no library here")


@pytest.mark.parametrize(
    ("k", "scores"),
    [
        (0, torch.zeros(1, 3)),
        (selection.MOST + 1, torch.zeros(1, 3)),
        (1, torch.zeros(1, 3, dtype=torch.float64)),
        (1, torch.zeros(1, 3, requires_grad=True)),
        (1, torch.zeros(1, 3, device="meta")),
        (1, torch.nn.Parameter(torch.zeros(1, 3), requires_grad=False)),
    ],
    ids=str,
)
def test_what_it_does_not_take(k: int, scores: torch.Tensor) -> None:
    assert selection.can_select(1, torch.zeros(1, 3))
    assert not selection.can_select(k, torch.zeros(1, 3), scores)


@pytest.mark.parametrize("documents", [0, 1, 15, 16, 17, 5_000])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("k", [1, 16, selection.MOST])
def test_the_top_is_that_of_torch(
    documents: int, levels: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.randint(0, levels, (3, documents)).float()
    scores[torch.rand(scores.shape) < 0.1] = -torch.inf
    best, index = selection.top_documents(scores, k)
    monkeypatch.setattr(selection, "can_select", lambda *_: False)
    slow, slow_index = routing.top_documents(scores, k)
    assert torch.equal(best, slow)
    assert torch.equal(index, slow_index)


def test_scores_that_are_no_numbers_are_refused() -> None:
    for place in (0, 70, 199):
        scores = torch.randn(2, 200)
        scores[1, place] = torch.nan
        with pytest.raises(InputError, match="NaN"):
            selection.top_documents(scores, 4)
        with pytest.raises(InputError, match="NaN"):
            certify(torch.zeros(2, 200), torch.arange(200).expand(2, -1), scores, 4)


def test_memory_of_another_shape_is_refused() -> None:
    three, two = torch.zeros(1, 3), torch.zeros(1, 2)
    numbers = torch.zeros(1, 3, dtype=torch.int64)
    bar, beyond = torch.zeros(1), torch.zeros(1)
    for call in (
        lambda: selection.certify(three, numbers, two, 1, beyond),
        lambda: selection.certify(three, numbers.int(), three, 1, beyond),
        lambda: selection.certify(three.expand(2, -1), numbers, three, 1, torch.zeros(2)),
        lambda: selection.certify(three, numbers, three, 1, torch.zeros(2)),
        lambda: selection.count_promising(three, two, 1, 0.5),
        lambda: selection.raise_best(three.expand(2, -1), three),
        lambda: selection.raise_best(three, three.expand(2, -1)),
        lambda: selection.reaching(three, bar.double(), beyond),
        lambda: selection.reaching(three, bar, torch.zeros(2)),
        lambda: selection.count_reaching(three, torch.zeros(2)),
        lambda: selection.take_best(torch.zeros(3, 2).T, [1, 1]),
    ):
        with pytest.raises(ShapeError, match="a tensor is"):
            call()


def test_a_document_that_is_not_there_is_refused() -> None:
    with pytest.raises(ShapeError, match="out of range"):
        certify(torch.zeros(1, 3), torch.tensor([[0, 3]]), torch.zeros(1, 2), 1)


def test_a_rising_row_replaces_all_of_a_heap() -> None:
    best, index = selection.top_documents(torch.arange(10_000.0)[None], 100)
    assert index.tolist() == [list(range(9_999, 9_899, -1))]
    assert best.tolist() == [[float(each) for each in index[0]]]
