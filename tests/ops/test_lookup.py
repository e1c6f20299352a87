import torch
from hypothesis import given
from hypothesis import strategies as st

from memsparse.ops.lookup import find_ascending, rows_of

NUMBERS = st.integers(-20, 20)


@given(among=st.sets(NUMBERS), wanted=st.lists(NUMBERS))
def test_numbers_are_found_where_they_stand(among: set[int], wanted: list[int]) -> None:
    ascending = sorted(among)
    places, which = find_ascending(
        torch.tensor(ascending, dtype=torch.int64), torch.tensor(wanted, dtype=torch.int64)
    )
    there = [index for index, number in enumerate(wanted) if number in among]
    assert which.tolist() == there
    assert places.tolist() == [ascending.index(wanted[index]) for index in there]


def test_rows_of_runs() -> None:
    assert rows_of(torch.tensor([5, 0, 9]), torch.tensor([2, 1, 3])).tolist() == [5, 6, 0, 9, 10, 11]
    assert rows_of(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)).tolist() == []
