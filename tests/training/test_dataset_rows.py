import json

import pytest
from datasets import Dataset, DatasetDict

from memsparse.errors import ConfigError, DocumentError
from memsparse.training import dataset_rows
from memsparse.training.dataset_rows import DatasetRows
from memsparse.training.reading import ReadingSet

SARNO = "Sarno lies by the sea. Its harbour was dug in 1204 by monks, and Kestrel boats moor there."
VELM = "Velm is a river. It freezes every March, they say, and thaws when the herons come back."
SQUAD = {
    "id": ["a", "b", "c"],
    "title": ["Sarno", "Sarno", "Velm"],
    "context": [SARNO, SARNO, VELM],
    "question": ["Who dug the harbour?", "When was it dug?", "When does it freeze?"],
    "answers": [
        {"text": ["monks"], "answer_start": [51]},
        {"text": ["1204", "in 1204"], "answer_start": [43, 40]},
        {"text": ["every March"], "answer_start": [29]},
    ],
}


def saved(folder, columns, *, split="train"):
    DatasetDict({split: Dataset.from_dict(columns)}).save_to_disk(folder)
    return str(folder)


def test_contexts_become_passages_once_with_ids_of_their_content(tmp_path):
    rows = DatasetRows(saved(tmp_path / "d", SQUAD))
    passages = [row for _, row in rows.contexts()]
    assert [(row["title"], row["text"]) for row in passages] == [("Sarno", SARNO), ("Velm", VELM)]
    other = DatasetRows(saved(tmp_path / "e", {name: values[2:] for name, values in SQUAD.items()}))
    assert [row["id"] for _, row in other.contexts()] == [passages[1]["id"]]
    questions = [row for _, row in rows.questions()]
    assert [row["positive_ids"] for row in questions] == [[passages[i]["id"]] for i in (0, 0, 1)]
    assert [row["answers"] for row in questions] == [["monks"], ["1204", "in 1204"], ["every March"]]


def test_a_set_reads_a_dataset_as_it_reads_files(tmp_path):
    reading = ReadingSet(None, dataset=saved(tmp_path / "d", SQUAD), window_words=6)
    assert len(reading.passages) == 2
    assert [(each.id, each.text, each.answer) for each in reading.questions] == [
        ("a", "Who dug the harbour?", "monks"),
        ("b", "When was it dug?", "1204"),
        ("c", "When does it freeze?", "every March"),
    ]


def test_one_split_saved_alone_and_other_splits_are_read(tmp_path):
    Dataset.from_dict(SQUAD).save_to_disk(tmp_path / "one")
    assert len(list(DatasetRows(str(tmp_path / "one")).questions())) == 3
    two = saved(tmp_path / "two", SQUAD, split="validation")
    assert len(list(DatasetRows(two, split="validation").questions())) == 3
    with pytest.raises(ConfigError, match=r"two has no split 'train'; it has validation$"):
        DatasetRows(two)


def test_a_folder_of_data_files_is_read(tmp_path):
    (tmp_path / "d").mkdir()
    rows = [
        {"question": "When?", "answer": "1204", "text": SARNO},
        {"question": None, "answer": "", "text": VELM},
    ]
    (tmp_path / "d" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = DatasetRows(str(tmp_path / "d"))
    assert len(list(held.contexts())) == 2
    ((where, question),) = held.questions()
    assert where.endswith("/d [train], row 1")
    assert (question["question"], question["answers"]) == ("When?", ["1204"])


def test_columns_may_have_other_names(tmp_path):
    columns = {"q": ["When?"], "gold": [["1204"]], "body": [SARNO], "head": ["Sarno"], "question": ["decoy"]}
    names = {"question": "q", "answers": "gold", "context": "body", "title": "head"}
    reading = ReadingSet(None, dataset=saved(tmp_path / "d", columns), columns=names, window_words=6)
    assert [(each.text, each.answer) for each in reading.questions] == [("When?", "1204")]
    assert next(iter(reading.passages.values()))["title"] == "Sarno"


def test_several_contexts_are_several_positives(tmp_path):
    columns = {
        "question": ["Is Sarno by the sea and Velm a river?"],
        "answers": [["yes"]],
        "context": [[SARNO, VELM]],
        "title": [["Sarno", "Velm"]],
    }
    reading = ReadingSet(None, dataset=saved(tmp_path / "d", columns), window_words=6)
    (asked,) = reading.questions
    assert [reading.passages[id_]["title"] for id_ in asked.chain] == ["Sarno", "Velm"]
    assert asked.unordered
    columns["title"] = [["Sarno"]]
    with pytest.raises(DocumentError, match=r"row 1: 2 contexts have 1 titles; give one for each"):
        ReadingSet(None, dataset=saved(tmp_path / "e", columns), window_words=6)


def test_text_without_questions_is_asked_about(tmp_path):
    reading = ReadingSet(None, dataset=saved(tmp_path / "d", {"text": [SARNO, VELM]}), window_words=6)
    assert reading.asked == 0
    assert reading.quizzer is not None
    assert len(reading.passages) == 2


def test_a_dataset_stands_in_for_either_file(tmp_path):
    corpus, queries = tmp_path / "c.jsonl", tmp_path / "q.jsonl"
    corpus.write_text(json.dumps({"id": "p1", "text": SARNO}) + "\n")
    queries.write_text(json.dumps({"question": "When?", "answers": ["1204"], "positive_ids": ["p1"]}) + "\n")
    asked = saved(tmp_path / "q", {"question": ["Who?"], "answers": [["monks"]], "positive_ids": [["p1"]]})
    held = saved(tmp_path / "c", {"id": ["p1"], "text": [SARNO], "title": [None]})
    assert [each.text for each in ReadingSet(corpus, dataset=asked, window_words=6).questions] == ["Who?"]
    assert [each.text for each in ReadingSet(None, queries, dataset=held, window_words=6).questions] == [
        "When?"
    ]
    with pytest.raises(ConfigError, match="leave one of the three out"):
        ReadingSet(corpus, queries, dataset=held, window_words=6)


@pytest.mark.parametrize(
    ("columns", "names", "complaint"),
    [
        (
            {"question": ["a"]},
            {},
            r"no column context or text; name the one that holds it as columns = \{ con",
        ),
        ({"context": ["a"]}, {"question": "q"}, "has no column 'q' for question; it has context"),
        ({"context": ["a"]}, {"quest": "q"}, "columns: unknown key quest; known: id, question"),
    ],
)
def test_columns_that_are_not_there_are_one_line(tmp_path, columns, names, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ReadingSet(None, dataset=saved(tmp_path / "d", columns), columns=names, window_words=6)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"question": ["a"], "context": [""]}, r"d \[train\], row 1: document .* has no text"),
        ({"question": ["a"], "context": [SARNO], "answers": [5]}, "row 1: answers is 5; it must be a list"),
        (
            {"question": ["a"], "context": [SARNO], "answers": [{"spans": ["x"]}]},
            "row 1: answers is an object without text",
        ),
    ],
)
def test_bad_rows_name_dataset_and_row(tmp_path, columns, complaint):
    with pytest.raises(DocumentError, match=complaint):
        ReadingSet(None, dataset=saved(tmp_path / "d", columns), window_words=6)


def test_a_dataset_that_cannot_be_had_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset no/such-thing cannot be had: .*; check name") as raised:
        DatasetRows("no/such-thing")
    assert "\n" not in str(raised.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    def missing(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(dataset_rows, "import_module", missing)
    with pytest.raises(ConfigError, match=r"needs the package datasets .*; pip install 'memsparse\[train\]'"):
        DatasetRows("squad")
