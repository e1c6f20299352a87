import gzip
import json
import pickle
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from memsparse.errors import ConfigError, DocumentError
from memsparse.evaluation.benchmarks import BENCHMARKS, MSA_HUB, SUITE, export, get_benchmark, load_benchmark
from memsparse.evaluation.questions import load_corpus, load_questions

MEMORY = ["Kestrel is a ship.", "Ines keeps the light.", "Kestrel is a ship.", " ", "Größe 東京 \ud83d"]
QUESTIONS = [
    {
        "query": "What is Kestrel?",
        "reference_list": ["Kestrel is a ship."],
        "answer": "a ship",
        "type": "one",
    },
    {
        "query": "Who and what? ",
        "reference_list": [MEMORY[1], MEMORY[4], MEMORY[1]],
        "answer": ["Ines", "東京"],
    },
    {"query": "Nothing?", "reference_list": [], "answer": "", "id": "source-7"},
    {"query": "From where?", "reference_list": [], "answer": "nobody says"},
]


def put(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value) if path.suffix == ".pkl" else json.dumps(value).encode())
    return path


def msa(folder: Path, name: str = "hotpotqa", memory: Any = MEMORY, questions: Any = QUESTIONS) -> Path:
    put(folder / name / f"qdata_{name}.pkl", questions)
    put(folder / name / f"mdata_{name}.pkl", memory)
    return folder


def test_the_suite_is_the_published_one() -> None:
    assert len(SUITE) == 11
    assert SUITE[0] == "ms_100M"
    assert {BENCHMARKS[name].hub_repo for name in SUITE} == {MSA_HUB}
    assert sum("same_backbone" in BENCHMARKS[name].paper_rows for name in SUITE) == 9
    assert BENCHMARKS["triviaqa_06M"].paper_rows == BENCHMARKS["locomo"].paper_rows == ()
    assert BENCHMARKS["ms_100M"].files == ("ms_100M/qdata_msmarco_16K.pkl", "ms_100M/mdata_msmarco_100M.pkl")
    assert BENCHMARKS["musique"].files == ("musique/qdata_musique.pkl", "musique/mdata_musique.pkl")
    assert all(each.licence and each.title for each in BENCHMARKS.values())


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no benchmark 'nq'; there are ms_100M, .*locomo"):
        get_benchmark("nq")


def test_msa_pickles(tmp_path: Path) -> None:
    documents, questions = load_benchmark("hotpotqa", msa(tmp_path))
    assert [each.id for each in documents] == ["hotpotqa:0", "hotpotqa:1", "hotpotqa:4"]
    assert documents[2].text == "Größe 東京 ?"
    assert [each.id for each in questions] == ["hotpotqa:q0", "hotpotqa:q1", "hotpotqa:q2"]
    assert [each.positive_ids for each in questions] == [("hotpotqa:0",), ("hotpotqa:1", "hotpotqa:4"), ()]
    assert [each.answers for each in questions] == [("a ship",), ("Ines", "東京"), ()]
    assert questions[1].text == "Who and what?"
    assert [dict(each.extra) for each in questions] == [{"type": "one"}, {}, {"source_id": "source-7"}]


def test_files_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    assert load_benchmark("hotpotqa", msa(tmp_path) / "hotpotqa") == load_benchmark("hotpotqa", tmp_path)


@pytest.mark.parametrize(
    ("memory", "questions", "words"),
    [
        (["other"], QUESTIONS, r"qdata_hotpotqa.pkl, question 0: its passage 'Kestrel is a ship.' is not in"),
        ([["a", "b"]], QUESTIONS, "mdata_hotpotqa.pkl: not a list of texts"),
        (MEMORY, {"a": 1}, "qdata_hotpotqa.pkl: not a list of objects"),
        (MEMORY, [{"query": "", "reference_list": []}], "question 0: its query is '', no text"),
        (MEMORY, [{"query": "x", "reference_list": "abc"}], "question 0: reference_list is no list"),
        (MEMORY, [{"query": "x", "answer": {"a": 1}}], "question 0: an answer is a dict"),
        (Path("x"), QUESTIONS, r"opcode STACK_GLOBAL at byte \d+ names or builds an object"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, memory: Any, questions: Any, words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        load_benchmark("hotpotqa", msa(tmp_path, memory=memory, questions=questions))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"musique: no file musique/qdata_musique\.pkl in "):
        load_benchmark("musique", tmp_path)


def test_a_pointer_is_not_the_file(tmp_path: Path) -> None:
    path = msa(tmp_path) / "hotpotqa" / "mdata_hotpotqa.pkl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DocumentError, match="a Git LFS pointer, not the file itself; run git lfs pull"):
        load_benchmark("hotpotqa", tmp_path)


def test_exports_are_what_the_commands_take(tmp_path: Path) -> None:
    corpus, queries = export("hotpotqa", msa(tmp_path), tmp_path / "out")
    documents = load_corpus([corpus])
    known = {each.id for each in documents}
    questions = load_questions(queries, known=known)
    given = load_benchmark("hotpotqa", tmp_path)
    assert ([(each.id, each.text) for each in documents], questions) == (
        [(each.id, each.text) for each in given[0]],
        given[1],
    )
    before = corpus.read_bytes(), queries.read_bytes()
    export("hotpotqa", tmp_path, tmp_path / "out")
    assert (corpus.read_bytes(), queries.read_bytes()) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [corpus.name, queries.name]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DocumentError):
        export("hotpotqa", msa(tmp_path, memory=["other"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_hub_is_asked_for_these_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def give(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(msa(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert load_benchmark("hotpotqa") == load_benchmark("hotpotqa", tmp_path)
    assert asked == {
        "repo": MSA_HUB,
        "repo_type": "dataset",
        "allow_patterns": ["hotpotqa/qdata_hotpotqa.pkl", "hotpotqa/mdata_hotpotqa.pkl"],
    }


@pytest.mark.parametrize("name", ["hotpotqa", "locomo"])
def test_without_the_hub_one_line_says_what_to_do(name: str) -> None:
    with pytest.raises(DocumentError, match="--from FOLDER") as caught:
        load_benchmark(name)
    assert "\n" not in str(caught.value)


def test_hipporag(tmp_path: Path) -> None:
    corpus = [
        {"title": "Kestrel", "text": "A ship. It sails."},
        {"title": "Ines", "text": "A keeper."},
        {"title": "Sarno", "text": "A town."},
    ]
    facts = {"supporting_facts": [["Kestrel", 0], ["Kestrel", 1], ["Ines", 0]]}
    context = [["Kestrel", ["A ship.", " It sails."]], ["Ines", ["A keeper."]], ["Sarno", ["A town."]]]
    paragraphs = [
        {"title": "Sarno", "paragraph_text": "A town.", "is_supporting": True},
        {"title": "Ines", "paragraph_text": "A keeper.", "is_supporting": False},
    ]
    rows = [
        {"_id": "5a", "question": "Who?", "answer": "Ines", "type": "bridge", "context": context, **facts},
        {"id": "2hop", "question": "Where?", "answer": "Sarno", "answer_aliases": ["S."],
         "paragraphs": paragraphs},
    ]  # fmt: skip
    put(tmp_path / "musique.json", rows)
    put(tmp_path / "musique_corpus.json", corpus)
    documents, questions = load_benchmark("hipporag_musique", tmp_path)
    assert (documents[0].title, documents[0].text) == ("Kestrel", "A ship. It sails.")
    assert questions[0].positive_ids == ("hipporag_musique:0", "hipporag_musique:1")
    assert questions[0].extra == {"type": "bridge", "source_id": "5a"}
    assert questions[1].positive_ids == ("hipporag_musique:2",)
    assert questions[1].answers == ("Sarno", "S.")

    put(tmp_path / "musique_corpus.json", dict(context))
    assert load_benchmark("hipporag_musique", tmp_path) == (documents, questions)
    put(tmp_path / "musique.json", [{"question": "Who?", "answer": "x"}])
    with pytest.raises(DocumentError, match="question 0: its passages are in no known layout"):
        load_benchmark("hipporag_musique", tmp_path)


def test_locomo(tmp_path: Path) -> None:
    def turn(number: str, speaker: str, text: str, **more: str) -> dict[str, str]:
        return {"dia_id": number, "speaker": speaker, "text": text, **more}

    talk = {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ada",
            "speaker_b": "Ben",
            "session_1_date_time": "1 May 2023",
            "session_1": [turn("D1:1", "Ada", "Hi"), turn("D1:2", "Ben", "Look", blip_caption="a dog")],
            "session_2_date_time": "2 May 2023",
            "session_2": [turn("D2:1", "Ada", "It rained")],
            "session_3_date_time": "3 May 2023",
        },
        "qa": [
            {"question": "Which year?", "answer": 2023, "category": 2, "evidence": ["D1:2", "D2:1"]},
            {"question": "Likely?", "answer": "Yes; she said so", "category": 3, "evidence": ["D1:1; D:2:1"]},
            {"question": "Never?", "category": 5, "evidence": ["D1:1"], "adversarial_answer": "a cat"},
            {"question": "Gone?", "answer": "x", "category": 1, "evidence": ["D9:1", "D"]},
        ],
    }
    put(tmp_path / "data" / "locomo10.json", [talk])
    documents, questions = load_benchmark("locomo", tmp_path)
    assert [(each.id, each.title) for each in documents] == [
        ("locomo:conv-1:s1", "Ada and Ben, 1 May 2023"),
        ("locomo:conv-1:s2", "Ada and Ben, 2 May 2023"),
    ]
    assert documents[0].text == "Ada: Hi\nBen: Look [image: a dog]"
    both = ("locomo:conv-1:s1", "locomo:conv-1:s2")
    assert [each.positive_ids for each in questions] == [both, both, ()]
    assert [each.answers for each in questions] == [("2023",), ("Yes; she said so", "Yes"), ()]
    assert questions[2].extra == {"category": 5, "adversarial_answer": "a cat"}


def test_evermembench(tmp_path: Path) -> None:
    rows = "".join(json.dumps({**each, "domain": "law"}) + "\n" for each in QUESTIONS)
    (tmp_path / "qar").mkdir()
    (tmp_path / "qar" / "test.jsonl").write_text(rows)
    put(tmp_path / "data" / "1M" / "unique_reference.pkl", MEMORY)
    documents, questions = load_benchmark("evermembench_static_1M", tmp_path)
    assert [each.id for each in documents] == [f"evermembench_static_1M:{number}" for number in (0, 1, 4)]
    assert len(questions[1].positive_ids) == 2
    assert questions[0].extra["domain"] == "law"
    assert re.search("NC", BENCHMARKS["evermembench_static_1M"].licence)


def test_a_value_that_a_question_needs_cannot_be_overwritten(tmp_path: Path) -> None:
    row = {
        "query": "x?",
        "reference_list": [MEMORY[1]],
        "answer": "y",
        "answers": "z",
        "positive_ids": "none",
    }
    _, queries = export("hotpotqa", msa(tmp_path, questions=[row]), tmp_path / "out")
    assert json.loads(gzip.decompress(queries.read_bytes())) == {
        "id": "hotpotqa:q0",
        "question": "x?",
        "answers": ["y"],
        "positive_ids": ["hotpotqa:1"],
    }
