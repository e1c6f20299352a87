import json
from pathlib import Path
from typing import Any

import pytest

from memsparse.errors import DocumentError
from memsparse.training.router_config import RouterConfig
from memsparse.training.router_pairs import PairSet, read_pairs

TEXT = "The ferry to {0} leaves at nine from the old harbour of {0}, said Captain {1} in 19{2}."
PLACES = ("Oland", "Sarno", "Velm", "Krito", "Bergen", "Lucca", "Tarn", "Osk", "Merano", "Dunmore")


def rows(count: int = 10) -> list[dict[str, Any]]:
    return [
        {
            "id": f"d{i}",
            "title": f"Ferries of {place}",
            "text": TEXT.format(place, place[::-1].title(), 10 + i),
        }
        for i, place in enumerate(PLACES[:count])
    ]


def asked(count: int = 10) -> list[dict[str, Any]]:
    return [
        {"id": f"q{i}", "question": f"When does the ferry to {place} leave?", "positive_ids": [f"d{i}"]}
        for i, place in enumerate(PLACES[:count])
    ]


def write(path: Path, lines: list[Any]) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return str(path)


def pairs(folder: Path, corpus: list[Any], queries: list[Any] | None = None, **settings: Any) -> PairSet:
    names = {"corpus": write(folder / "c.jsonl", corpus)}
    if queries is not None:
        names["queries"] = write(folder / "q.jsonl", queries)
    return read_pairs(RouterConfig(**{**names, **settings}))


def test_held_out_documents_are_asked_for_by_validation_alone(tmp_path: Path) -> None:
    found = pairs(tmp_path, rows(), asked(), validation=0.3, holdout="documents")
    assert len(found.heldout) == 3
    assert {index for pair in found.validation for index in pair.positives} == found.heldout
    assert not {index for pair in found.train for index in pair.positives} & found.heldout
    assert len(found.train) == 7


def test_held_out_questions_leave_every_document_in(tmp_path: Path) -> None:
    found = pairs(tmp_path, rows(), asked(), validation=0.3)
    assert not found.heldout
    assert (len(found.train), len(found.validation)) == (7, 3)
    assert {pair.question for pair in (*found.train, *found.validation)} == {q["question"] for q in asked()}


def test_the_seed_alone_decides_what_is_held_out(tmp_path: Path) -> None:
    assert pairs(tmp_path, rows(), asked()) == pairs(tmp_path, rows(), asked())
    held = {pairs(tmp_path, rows(), asked(), seed=seed).validation for seed in range(8)}
    assert len(held) > 1


def test_no_more_pairs_are_kept_than_the_steps_take(tmp_path: Path) -> None:
    assert len(pairs(tmp_path, rows(), asked(), steps=2, batch=2).train) == 4


def test_several_positives_and_ids_that_are_numbers(tmp_path: Path) -> None:
    corpus = [{"id": i, "text": f"text {i}"} for i in range(4)]
    queries = [{"question": f"q{i}", "positive_ids": [i, 0, i]} for i in range(1, 4)]
    found = pairs(tmp_path, corpus, queries)
    assert {pair.positives for pair in (*found.train, *found.validation)} == {(0, 1), (0, 2), (0, 3)}


def test_questions_of_another_split_or_without_positives_are_left_out(tmp_path: Path) -> None:
    queries = [
        *asked(),
        {"question": "out", "positive_ids": ["d1"], "split": "val"},
        {"question": "none", "positive_ids": []},
    ]
    found = pairs(tmp_path, rows(), queries)
    assert not {"out", "none"} & {pair.question for pair in (*found.train, *found.validation)}


def test_questions_are_made_of_every_document(tmp_path: Path) -> None:
    found = pairs(tmp_path, rows(), generated=3)
    made = [*found.train, *found.validation]
    assert {index for pair in made for index in pair.positives} == set(range(10))
    assert len({(pair.positives, pair.question) for pair in made}) == len(made)
    assert all(sum(pair.positives == (i,) for pair in made) <= 3 for i in range(10))


def test_texts_too_short_for_a_question_are_asked_for_by_their_words(tmp_path: Path) -> None:
    found = pairs(tmp_path, [{"id": str(i), "text": f"word{i}"} for i in range(5)])
    made = [*found.train, *found.validation]
    assert {pair.positives for pair in made} == {(i,) for i in range(5)}
    assert all(f"word{pair.positives[0]}" in pair.question for pair in made)


def test_questions_can_be_made_besides_those_given(tmp_path: Path) -> None:
    for holdout in ("documents", "questions"):
        found = pairs(tmp_path, rows(), asked(), generated=2, holdout=holdout, validation=0.2)
        given = {row["question"] for row in asked()}
        assert {pair.question for pair in found.validation} < given
        assert len(found.validation) == 2
        assert len([pair for pair in found.train if pair.question in given]) == 8
        assert len(found.train) > 8
        assert all(found.heldout.isdisjoint(pair.positives) for pair in found.train)


def test_a_title_that_several_documents_share_is_not_asked_about(tmp_path: Path) -> None:
    corpus = [{**row, "title": "Zanzibar"} for row in rows()]
    found = pairs(tmp_path, corpus, generated=20)
    assert not [pair for pair in (*found.train, *found.validation) if "zanzibar" in pair.question.lower()]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"id": "d1", "text": "again"}, "'d1' stands on an earlier line"),
        ({"id": "x", "text": "  "}, "'x' has no text"),
        ({"id": "x"}, "lacks text"),
        ({"id": "x", "text": 3}, "is no text"),
        ({"id": "x", "text": "t", "title": ["t"]}, "is no text"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_document_is_told_with_its_line(tmp_path: Path, line: Any, told: str) -> None:
    with pytest.raises(DocumentError, match="line 11") as caught:
        pairs(tmp_path, [*rows(), line], asked())
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"question": "q", "positive_ids": ["d1", "d99"]}, "positive 'd99' is not in"),
        ({"question": " ", "positive_ids": ["d1"]}, "question is ' '"),
        ({"question": "q", "positive_ids": "d1"}, "positive_ids is 'd1'"),
        ({"question": "q"}, "lacks positive_ids"),
    ],
)
def test_a_bad_question_is_told_with_its_line(tmp_path: Path, line: Any, told: str) -> None:
    with pytest.raises(DocumentError, match="line 11") as caught:
        pairs(tmp_path, rows(), [*asked(), line])
    assert told in str(caught.value)


def test_bytes_that_are_no_utf8_are_told(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"id": "a", "text": "\xff\xfe"}\n')
    with pytest.raises(DocumentError, match="line 1"):
        read_pairs(RouterConfig(corpus=str(tmp_path / "c.jsonl")))


def test_what_is_too_little_to_fit_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="1 documents"):
        pairs(tmp_path, rows(1), asked(1))
    with pytest.raises(DocumentError, match="too few"):
        pairs(tmp_path, rows(), asked(1))
    with pytest.raises(DocumentError, match="no question has positive_ids"):
        pairs(tmp_path, rows(), [{"question": "q", "positive_ids": []}])
    with pytest.raises(DocumentError, match=r"none\.jsonl"):
        read_pairs(RouterConfig(corpus=str(tmp_path / "none.jsonl")))
