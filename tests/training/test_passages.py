import tracemalloc
from array import array
from collections.abc import Iterator

import pytest

from memsparse.errors import DocumentError
from memsparse.training import passages as module
from memsparse.training.passages import KeyIndex, Passages
from memsparse.training.rows import Placed


def rows(count: int, *, words: int = 3, titles: int = 3) -> Iterator[Placed]:
    for index in range(count):
        text = "w " * (words - 1) + f"w{index}"
        yield f"c.jsonl, line {index + 1}", {"id": f"id-{index}", "title": f"t{index % titles}", "text": text}


def test_passages_are_found_by_id_place_and_title():
    passages = Passages(rows(10))
    assert len(passages) == 10
    assert list(passages) == [f"id-{index}" for index in range(10)]
    assert passages["id-4"] == passages.at(4) == {"id": "id-4", "title": "t1", "text": "w w w4"}
    assert passages.place("id-9") == 9
    assert passages.titled("t0").tolist() == [0, 3, 6, 9]
    assert passages.titled("none").tolist() == []
    assert "id-10" not in passages
    assert passages.get("id-10") is None


def test_an_empty_corpus_has_nothing():
    passages = Passages(rows(0))
    assert (len(passages), list(passages), "x" in passages) == (0, [], False)
    assert passages.titled("").tolist() == []


def test_ids_that_share_a_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(module, "hashed", lambda text: len(text))
    passages = Passages(rows(30))
    assert [passages[f"id-{index}"]["id"] for index in range(30)] == [f"id-{index}" for index in range(30)]
    assert "id-99" not in passages


@pytest.mark.parametrize("collide", [False, True])
def test_an_id_that_comes_twice_names_both_places(monkeypatch, collide):
    if collide:
        monkeypatch.setattr(module, "hashed", lambda _: 7)
    twice = [*rows(5), ("c.jsonl, line 8", {"id": "id-2", "title": "", "text": "other"})]
    with pytest.raises(
        DocumentError, match=r"^c.jsonl, line 8: the id 'id-2' is that of c.jsonl, line 3, too"
    ):
        Passages(twice)


def test_what_is_held_of_a_passage_does_not_grow_with_its_text():
    count = 5_000
    held, peaks = [], []
    for words in (5, 100):
        tracemalloc.start()
        passages = Passages(rows(count, words=words, titles=count))
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert passages["id-4999"]["text"].endswith("w w4999")
        held.append(now / count)
        peaks.append((peak - 2 * 2**20) / count)  # rows wait for the disk in blocks of a megabyte
    assert max(held) < 60
    assert max(peaks) < 150
    assert held[1] - held[0] < 5


def test_many_passages_stay_findable_after_others_were_read():
    passages = Passages(rows(500))
    for _ in range(2):
        assert all(passages[f"id-{index}"]["title"] == f"t{index % 3}" for index in range(500))
    assert len(passages._recent) <= 64


def test_a_key_index_gives_places_in_order():
    index = KeyIndex(array("Q", [5, 2**64 - 1, 5, 0, 5]))
    assert index.places(5).tolist() == [0, 2, 4]
    assert index.places(2**64 - 1).tolist() == [1]
    assert index.places(1).tolist() == []
    assert [places.tolist() for places in index.shared()] == [[0, 2, 4]]
