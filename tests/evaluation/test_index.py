from collections.abc import Sequence

import pytest

from memsparse.errors import ConfigError
from memsparse.evaluation.index import FusedIndex, optional
from memsparse.evaluation.systems import OnProgress
from memsparse.types import Document


class Fixed:
    """Ranks the documents it has in an order given."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.documents: list[Document] = []
        self.limits: list[int] = []
        self.prepared = 0

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        self.documents += documents

    def prepare(self) -> None:
        self.prepared += 1

    def search(self, text: str, limit: int) -> list[tuple[Document, float]]:
        self.limits.append(limit)
        by_id = {each.id: each for each in self.documents}
        return [(by_id[id_], 1.0) for id_ in self.order if id_ in by_id][:limit]


def documents(ids: str) -> list[Document]:
    return [Document(id=id_, text="x") for id_ in ids]


def test_fusion_adds_reciprocal_ranks() -> None:
    index = FusedIndex([Fixed("abc"), Fixed("cad")])
    index.add(documents("abcd"))
    found = {each.id: score for each, score in index.search("?", 10)}
    assert found == pytest.approx({"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "b": 1 / 62, "d": 1 / 63})
    assert list(found) == ["a", "c", "b", "d"]


def test_fusion_looks_deeper_than_it_answers() -> None:
    parts = [Fixed("abc"), Fixed("bca")]
    index = FusedIndex(parts)
    index.add(documents("abc"))
    assert [each.id for each, _ in index.search("?", 1)] == ["b"]  # second and first; a is first and third
    index.search("?", 400)
    assert parts[0].limits == parts[1].limits == [100, 400]


def test_equal_sums_go_by_the_order_of_the_parts() -> None:
    for first, second in (("ab", "cd"), ("cd", "ab")):
        index = FusedIndex([Fixed(first), Fixed(second)])
        index.add(documents("dcba"))
        found = [each.id for each, _ in index.search("?", 10)]
        assert found == [first[0], second[0], first[1], second[1]]


def test_documents_of_a_fusion_are_those_of_the_part_with_most() -> None:
    ahead, behind = Fixed("ab"), Fixed("ab")
    ahead.add(documents("a"))
    index = FusedIndex([behind, ahead])
    index.add(documents("b"))
    assert len(index.documents) == 2
    index.prepare()
    assert ahead.prepared == behind.prepared == 1


def test_a_package_that_is_missing_is_one_line_with_the_next_step() -> None:
    with pytest.raises(
        ConfigError, match=r"the baseline x needs .*pip install 'memsparse\[eval\]'"
    ) as caught:
        optional("no_such_package_anywhere", "x")
    assert "\n" not in str(caught.value)
    assert optional("json", "x").dumps([]) == "[]"
