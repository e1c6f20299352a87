import gzip
import json

import pytest

from memsparse.errors import DocumentError
from memsparse.training.rows import passage_rows, question_rows


def passage(**fields):
    return {"id": "p", "title": "T", "text": "Some text."} | fields


def question(**fields):
    return {"id": "q", "question": "What?", "answers": ["this"], "positive_ids": ["p"]} | fields


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_passages_are_given_with_their_places(tmp_path):
    path = write(tmp_path / "c.jsonl", passage(more=1), {"id": 7, "text": "x"}, passage(id="r", title=None))
    assert list(passage_rows(path)) == [
        (f"{path}, line 1", {"id": "p", "title": "T", "text": "Some text."}),
        (f"{path}, line 2", {"id": "7", "title": "", "text": "x"}),
        (f"{path}, line 3", {"id": "r", "title": "", "text": "Some text."}),
    ]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (passage(text=""), "document 'p' has no text; write one, or remove the line"),
        (passage(text=" \n\t"), "document 'p' has no text"),
        (passage(text=None), "text is None; it must be a text"),
        (passage(text=["a"]), r"text is \['a'\]; it must be a text"),
        (passage(id=None), "id is None; it must be a text or a whole number"),
        (passage(id=1.5), "id is 1.5; it must be"),
        (passage(id=True), "id is True; it must be"),
        (passage(id=""), "id is ''; it must be"),
        (passage(title=3), "title is 3; it must be a text"),
        (passage(text="a \ud800"), "text holds an unpaired surrogate"),
        ({"id": "p"}, "lacks text; mend or remove the line"),
        ([1], "not a JSON object"),
    ],
)
def test_a_bad_passage_is_one_line_with_file_and_line(tmp_path, row, complaint):
    path = write(tmp_path / "c.jsonl", passage(id="first"), row)
    with pytest.raises(DocumentError, match=rf"^{path}, line 2: {complaint}") as raised:
        list(passage_rows(path))
    assert "\n" not in str(raised.value)


def test_a_question_has_lists_of_texts_and_what_else_it_came_with(tmp_path):
    path = write(
        tmp_path / "q.jsonl",
        question(type="x", positive_ids=["p", 3, "p"], id=9),
        {"question": "Where?"},
        question(answers=None, positive_ids=None, negative_ids=["n", "n"]),
    )
    first, second, third = (row for _, row in question_rows(path))
    assert (first["positive_ids"], first["type"], first["id"]) == (["p", "3"], "x", "9")
    assert (second["answers"], second["positive_ids"], second["negative_ids"]) == ([], [], [])
    assert (third["answers"], third["negative_ids"]) == ([], ["n"])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (question(question=" "), "the question is empty"),
        (question(question=5), "question is 5; it must be a text"),
        (question(answers="this"), "answers is 'this'; it must be a list"),
        (question(answers=[1874]), "an answer is 1874; it must be a text"),
        (question(answers={"text": ["x"]}), "answers is .*; it must be a list"),
        (question(positive_ids="p"), "positive_ids is 'p'; it must be a list"),
        (question(positive_ids=[["p"]]), r"an id of positive_ids is \['p'\]; it must be a text or a whole"),
        (question(negative_ids=[None]), "an id of negative_ids is None"),
        (question(sub_questions=["a"]), "sub_questions has 'a'; each is an object"),
        (question(id=[1]), r"id is \[1\]; it must be"),
    ],
)
def test_a_bad_question_is_one_line_with_file_and_line(tmp_path, row, complaint):
    path = write(tmp_path / "q.jsonl", question(), row)
    with pytest.raises(DocumentError, match=rf"^{path}, line 2: {complaint}"):
        list(question_rows(path))


def test_damaged_files_name_their_place(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(json.dumps(passage()).encode() + b'\n{"id": "q", "text": "caf\xe9"}\n')
    with pytest.raises(DocumentError, match=r"c.jsonl, line 2: .*UTF-8"):
        list(passage_rows(path))
    path = tmp_path / "c.jsonl.gz"
    packed = gzip.compress("".join(json.dumps(passage(id=str(i))) + "\n" for i in range(999)).encode())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DocumentError, match=r"c.jsonl.gz: damaged gzip data after line \d+"):
        list(passage_rows(path))
    with pytest.raises(DocumentError, match=r"none.jsonl: No such file"):
        list(passage_rows(tmp_path / "none.jsonl"))
