import gzip
import json

import pytest

from memsparse.errors import DocumentError, InputError
from memsparse.evaluation.questions import Question, load_corpus, load_questions


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def question(number, **changes):
    return {
        "id": f"q{number}",
        "question": f"who is {number}?",
        "answers": ["x"],
        "positive_ids": ["a"],
        **changes,
    }


def test_a_corpus_is_read_whole_and_a_damaged_line_is_an_error(tmp_path):
    rows = [{"id": "a", "title": "T", "text": "one"}, {"id": "b", "text": "two"}]
    corpus = write(tmp_path / "c.jsonl.gz", rows)
    assert [(d.id, d.title, d.text) for d in load_corpus([corpus])] == [("a", "T", "one"), ("b", "", "two")]
    with pytest.raises(DocumentError, match="'a' is taken"):
        load_corpus([write(tmp_path / "d.jsonl", [*rows, rows[0]])])
    with pytest.raises(DocumentError, match="line 2"):
        load_corpus([write(tmp_path / "e.jsonl", [rows[0], {"id": "b"}])])
    with pytest.raises(DocumentError, match="no text"):
        load_corpus([write(tmp_path / "f.jsonl", [])])


def test_questions_come_with_all_their_fields(tmp_path):
    path = write(
        tmp_path / "q.jsonl",
        [question(1, hops=2, positive_ids=["a", 7, "a"]), {"id": 7, "question": " why? "}],
    )
    first, second = load_questions(path, known={"a", "7"})
    assert (first.answers, first.positive_ids, first.extra, first.answerable) == (
        ("x",),
        ("a", "7"),
        {"hops": 2},
        True,
    )
    assert (second.id, second.text, second.answers, second.answerable) == ("7", "why?", (), False)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (question(2, answers="x"), "answers is 'x'; give a list of strings"),
        (question(2, answers=[1]), "give a list of strings"),
        (question(2, positive_ids="a"), "positive_ids is 'a'"),
        (question(2, positive_ids=["nowhere"]), "'nowhere', which is not in the corpus"),
        (question(1), "'q1' is taken"),
        (question(2, question="  "), "question is '  '"),
        (question(2, id=None), "id is None"),
        ({"question": "who?"}, "lacks id"),
        ([1], "not a JSON object"),
    ],
)
def test_a_question_that_cannot_be_used_is_named_by_its_line(tmp_path, row, says):
    path = write(tmp_path / "q.jsonl", [question(1), row])
    with pytest.raises(DocumentError, match=says) as caught:
        load_questions(path, known={"a"})
    assert "line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path):
    path = write(tmp_path / "q.jsonl", [question(i, split="val" if i % 2 else "train") for i in range(40)])
    drawn = [q.id for q in load_questions(path, limit=8, seed=3)]
    assert drawn == [q.id for q in load_questions(path, limit=8, seed=3)]
    assert drawn != [q.id for q in load_questions(path, limit=8, seed=4)]
    assert drawn == sorted(drawn, key=lambda id_: int(id_[1:]))
    assert len(load_questions(path, limit=100)) == 40
    assert {q.extra["split"] for q in load_questions(path, where={"split": "val"})} == {"val"}
    with pytest.raises(InputError, match="no questions with split=test"):
        load_questions(path, where={"split": "test"})


@pytest.mark.parametrize(
    ("fields", "rankable", "judgeable"),
    [
        ({"answers": ("x",), "positive_ids": ("a",)}, True, True),
        ({"positive_ids": ("a",)}, True, False),
        ({"answers": ("x",), "located": False}, False, True),
        ({}, False, True),  # to be refused
        ({"located": False}, False, False),
    ],
)
def test_what_can_be_judged_of_a_question(fields, rankable, judgeable):
    asked = Question(id="q", text="?", **fields)
    assert (asked.rankable, asked.judgeable) == (rankable, judgeable)
