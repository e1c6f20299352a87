import torch
from hypothesis import given
from hypothesis import strategies as st

from memsparse.ops.lookup import find_ascending

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
