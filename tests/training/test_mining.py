import gzip
import json
import os

import pytest

from memsparse.engine.encoder import Encoder
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model
from memsparse.errors import ConfigError, DocumentError, EngineError
from memsparse.json_lines import read_rows
from memsparse.training import rankers
from memsparse.training.mining import MiningReport, mine_bm25, mine_router, negatives_of
from memsparse.training.passages import Passages
from memsparse.training.reading import ReadingSet
from memsparse.types import Document
from tests.tiny import save_tiny_model

TOPICS = ("harbour", "mill", "river", "market", "tower")
CORPUS = [
    {"id": f"{topic}-{i}", "title": topic.title(), "text": f"The old {topic} number{i} is painted {colour}."}
    for topic in TOPICS
    for i, colour in enumerate(("red", "green", "blue", "white"))
]
QUERIES = [
    {
        "id": f"q-{topic}",
        "question": f"Which colour is the old {topic} number1?",
        "answers": ["green"],
        "positive_ids": [f"{topic}-1"],
        "note": {"kept": True},
    }
    for topic in TOPICS
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "c.jsonl", CORPUS), write(tmp_path / "q.jsonl", QUERIES)


def rows(path):
    return [row for _, row in read_rows(path)]


def test_bm25_finds_what_shares_words_and_is_wrong(files, tmp_path):
    out = tmp_path / "new" / "mined.jsonl"
    report = mine_bm25(*files, out, count=3)
    assert report == MiningReport(questions=5, mined=5, negatives=15)
    for topic, before, after in zip(TOPICS, QUERIES, rows(out), strict=True):
        assert sorted(after.pop("negative_ids")) == [f"{topic}-{i}" for i in (0, 2, 3)]
        assert after == before
    assert [path.name for path in out.parent.iterdir()] == ["mined.jsonl"]


def test_what_holds_an_answer_is_no_negative(files, tmp_path):
    mine_bm25(*files, tmp_path / "mined.jsonl", count=20)
    texts = {row["id"]: row["text"] for row in CORPUS}
    for row in rows(tmp_path / "mined.jsonl"):
        assert len(row["negative_ids"]) == 15
        assert not any("green" in texts[id_] for id_ in row["negative_ids"])


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["Tom Reed"], ["c", "d"]),
        (["nobody", "MAYOR"], ["d"]),
        ([], ["b", "c", "d"]),
        (["no"], ["b", "c", "d"]),
        ([" "], ["b", "c", "d"]),
        (["Velm"], []),
    ],
)
def test_right_passages_are_told_from_wrong_ones(answers, found):
    texts = {
        "a": "Tom Reed leads Velm.",
        "b": "In Velm all know tom reed, the mayor.",
        "c": "Velm has no mayor.",
        "d": "Velm is a river.",
        "same": "Tom Reed leads Velm.",
    }
    passages = Passages(("", {"id": id_, "title": "", "text": text}) for id_, text in texts.items())
    row = {"answers": answers, "positive_ids": ["a", "gone"]}
    assert negatives_of(row, texts, passages, count=9) == found
    assert negatives_of(row, texts, passages, count=1) == found[:1]
    assert negatives_of(row, texts, passages, count=9, skip=1) == found[1:]


def test_an_answer_in_the_title_counts():
    passages = Passages([("", {"id": "b", "title": "Tom Reed", "text": "He was born in Velm."})])
    row = {"answers": ["Tom Reed"], "positive_ids": []}
    assert negatives_of(row, ["b"], passages, count=1) == []


def test_negatives_are_added_to_those_a_question_has(files, tmp_path):
    corpus, queries = files
    write(queries, [QUERIES[0] | {"negative_ids": ["tower-0", "harbour-2"]}, *QUERIES[1:]])
    mine_bm25(corpus, queries, queries, count=3)
    first, second, *_ = rows(queries)
    assert first["negative_ids"][:2] == ["tower-0", "harbour-2"]
    assert sorted(first["negative_ids"]) == ["harbour-0", "harbour-2", "harbour-3", "tower-0"]
    assert len(second["negative_ids"]) == 3
    reading = ReadingSet(corpus, queries, window_words=9)
    assert all(len(each.negatives) >= 3 for each in reading.questions)


def test_mining_goes_deeper_where_the_first_ranks_are_right(tmp_path):
    corpus = [{"id": f"p{i}", "text": f"word answer{i < 290}"} for i in range(300)]
    queries = [{"question": "word", "answers": ["answerTrue"], "positive_ids": []}]
    out = tmp_path / "out.jsonl"
    mine_bm25(write(tmp_path / "c.jsonl", corpus), write(tmp_path / "q.jsonl", queries), out, count=4)
    assert rows(out)[0]["negative_ids"] == ["p290", "p291", "p292", "p293"]


def test_chinese_is_mined_by_its_characters(tmp_path):
    texts = {"a": "北京是中国的首都。", "b": "上海是中国的城市。", "c": "An English text."}
    corpus = write(tmp_path / "c.jsonl", [{"id": id_, "text": text} for id_, text in texts.items()])
    queries = [{"question": "中国的首都在哪里？", "answers": ["北京"], "positive_ids": ["a"]}]
    mine_bm25(corpus, write(tmp_path / "q.jsonl", queries), tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl")[0]["negative_ids"] == ["b"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_packed_files_are_written_as_their_names_say(files, tmp_path, suffix):
    mine_bm25(*files, tmp_path / f"out{suffix}", count=2)
    mine_bm25(*files, tmp_path / "out.jsonl", count=2)
    assert rows(tmp_path / f"out{suffix}") == rows(tmp_path / "out.jsonl")
    if suffix.endswith("gz"):
        assert gzip.decompress((tmp_path / f"out{suffix}").read_bytes())


class StoppedError(Exception):
    pass


def stop_after(monkeypatch, cls, questions):
    """Let a ranker rank so many questions and then break off; returns the questions it ranked."""
    asked = []
    rank = cls.rank

    def counted(self, question):
        if len(asked) == questions:
            raise StoppedError
        asked.append(question)
        return rank(self, question)

    monkeypatch.setattr(cls, "rank", counted)
    return asked


@pytest.mark.parametrize("torn", [b"", b'["harb'])
def test_interrupted_mining_leaves_no_half_file_and_goes_on(files, tmp_path, torn):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    mine_bm25(*files, whole, count=3)
    out.write_text("what was there before\n")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, rankers.Bm25Ranker, 3)
        with pytest.raises(StoppedError):
            mine_bm25(*files, out, count=3)
    assert out.read_text() == "what was there before\n"
    with (tmp_path / "out.jsonl.mining" / "found.jsonl").open("ab") as journal:
        journal.write(torn)
    with pytest.MonkeyPatch.context() as patch:
        asked = stop_after(patch, rankers.Bm25Ranker, 9)
        mine_bm25(*files, out, count=3)
    assert asked == [row["question"] for row in QUERIES[3:]]
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.jsonl.mining").exists()


@pytest.mark.parametrize("change", ["queries", "corpus", "count"])
def test_what_was_found_for_other_files_or_settings_is_not_used(files, tmp_path, change):
    corpus, queries = files
    out = tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, rankers.Bm25Ranker, 3)
        with pytest.raises(StoppedError):
            mine_bm25(corpus, queries, out, count=3)
    if change == "queries":
        write(queries, QUERIES[::-1])
    elif change == "corpus":
        write(corpus, CORPUS[::-1])
    with pytest.MonkeyPatch.context() as patch:
        asked = stop_after(patch, rankers.Bm25Ranker, 9)
        mine_bm25(corpus, queries, out, count=2 if change == "count" else 3)
    assert len(asked) == 5
    mine_bm25(corpus, queries, tmp_path / "anew.jsonl", count=2 if change == "count" else 3)
    assert out.read_bytes() == (tmp_path / "anew.jsonl").read_bytes()


def test_a_folder_of_somebody_else_is_left_alone(files, tmp_path):
    (tmp_path / "out.jsonl.mining").mkdir()
    (tmp_path / "out.jsonl.mining" / "letters.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"out.jsonl.mining is in the way; remove it"):
        mine_bm25(*files, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl.mining" / "letters.txt").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there(files, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    out.write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"out.jsonl cannot be made: No space left on device; make room"):
        mine_bm25(*files, out)
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"skip": -1}, "skip is -1; it must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(files, tmp_path, settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        mine_bm25(*files, tmp_path / "out.jsonl", **settings)


def test_bad_rows_are_refused_before_anything_is_made(files, tmp_path):
    corpus, queries = files
    write(queries, [*QUERIES, {"question": "Who?", "answers": "Tom"}])
    for path in (queries, tmp_path / "none.jsonl"):
        with pytest.raises(DocumentError, match=r"line 6: answers is 'Tom'|none.jsonl: No such file"):
            mine_bm25(corpus, path, tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "q.jsonl"]


def test_a_corpus_without_passages_is_refused(files, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DocumentError, match=r"empty\.jsonl: no passages; give"):
        mine_bm25(tmp_path / "empty.jsonl", files[1], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_without_bm25s_the_extra_is_named(files, tmp_path, monkeypatch):
    def missing(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(rankers, "import_module", missing)
    with pytest.raises(ConfigError, match=r"needs the package bm25s .*; pip install 'memsparse\[eval\]'"):
        mine_bm25(*files, tmp_path / "out.jsonl")


# --- the router ---


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), initializer_range=0.3)


def test_the_router_ranks_as_the_engine_does(files, tmp_path, model):
    out = tmp_path / "out.jsonl"
    report = mine_router(model, *files, out, count=4)
    assert (report.questions, report.mined) == (5, 5)
    with MemoryEngine.open(tmp_path / "bank", model) as engine:
        engine.add(mining_documents())
        for row in rows(out):
            hits = [hit.citation for hit in engine.route(row["question"], limit=20).hits]
            wrong = [
                hit.document_id
                for hit in hits
                if "green" not in hit.text and hit.document_id not in row["positive_ids"]
            ]
            assert row["negative_ids"] == wrong[:4]
    assert not (tmp_path / "out.jsonl.mining").exists()


def mining_documents():
    return [Document(**row) for row in CORPUS]


def test_an_interrupted_router_encodes_nothing_twice(files, tmp_path, model):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    loaded = load_model(model)
    mine_router(loaded, *files, whole, count=2)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, rankers.RouterRanker, 2)
        with pytest.raises(StoppedError):
            mine_router(loaded, *files, out, count=2)
    encoded = []
    with pytest.MonkeyPatch.context() as patch:
        encode = Encoder.encode
        patch.setattr(
            Encoder, "encode", lambda self, *args, **kw: encoded.append(1) or encode(self, *args, **kw)
        )
        mine_router(loaded, *files, out, count=2)
    assert encoded == []
    assert out.read_bytes() == whole.read_bytes()


def test_a_question_too_long_for_the_model_has_no_negatives(files, tmp_path, model, caplog):
    corpus, queries = files
    write(queries, [QUERIES[0] | {"question": "where is it? " * 3000}, QUERIES[1]])
    report = mine_router(model, corpus, queries, tmp_path / "out.jsonl")
    assert (report.questions, report.mined) == (2, 1)
    assert any("no negatives for 'where is it?" in line for line in caplog.messages)
