import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memsparse.evaluation.lexical import Bm25Index, words
from memsparse.evaluation.questions import load_corpus, load_questions
from memsparse.types import Document

pytest.importorskip("bm25s", reason="needs bm25s: pip install 'memsparse[eval]'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Café's 2nd_floor -- open!", ["the", "café", "s", "2nd_floor", "open"]),
        ("GPT4在2023年 ok", ["gpt4", "在", "2023", "年", "ok"]),
        ("カメラ・かな", ["カ", "メ", "ラ", "か", "な"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("... ", []),
        ("", []),
    ],
)
def test_words_are_runs_and_chinese_characters_stand_alone(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def document(id_: str, text: str, title: str = "") -> Document:
    return Document(id=id_, text=text, title=title)


def reference(documents: Sequence[Document], question: str) -> dict[str, float]:
    """BM25 as Lucene has it (without its constant factor), word by word."""
    bags = [Counter(words(f"{each.title}\n{each.text}")) for each in documents]
    average = sum(bag.total() for bag in bags) / len(bags)
    scores: dict[str, float] = {}
    for each, bag in zip(documents, bags, strict=True):
        total = 0.0
        for word in words(question):
            holders = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - holders + 0.5) / (holders + 0.5))
            total += idf * bag[word] / (bag[word] + 0.9 * (1 - 0.4 + 0.4 * bag.total() / average))
        if total > 0:
            scores[each.id] = total
    return scores


@pytest.mark.parametrize("batches", [[40], [1, 0, 2, 37], [39, 1]])
def test_it_agrees_with_the_formula_however_the_documents_come(batches: list[int]) -> None:
    chance = random.Random(3)
    vocabulary = [f"w{i}" for i in range(30)]
    documents = [
        document(str(i), " ".join(chance.choices(vocabulary, k=chance.randint(1, 20))), title=f"w{i % 7}")
        for i in range(40)
    ]
    index = Bm25Index()
    start = 0
    for size in batches:
        index.add(documents[start : start + size])
        start += size
        index.search("w1", 3)  # what is indexed so far must not stick
    for question in ("w1 w2", "w3 w3 w29 unheard", "W0!"):
        expected = reference(documents, question)
        found = index.search(question, 100)
        assert {each.id: score for each, score in found} == pytest.approx(expected, rel=1e-5)
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)
        assert index.search(question, 5) == found[:5]


def test_equal_scores_go_by_the_order_of_the_documents() -> None:
    index = Bm25Index()
    index.add([document(id_, "red boat") for id_ in "dbca"])
    index.add([document("e", "red boat"), document("f", "red red boat")])
    assert [each.id for each, _ in index.search("red", 4)] == ["f", "d", "b", "c"]


def test_what_shares_no_word_is_not_found() -> None:
    index = Bm25Index()
    assert index.search("red", 5) == []
    index.add([document("nothing", "?!")])
    assert index.search("red", 5) == []
    index.add([document("a", "red boat"), document("b", "blue boat"), document("empty", "--")])
    assert [each.id for each, _ in index.search("red?", 5)] == ["a"]
    assert index.search("green", 5) == []
    assert index.search("", 5) == []
    assert index.search("red", 0) == []


def test_a_document_counts_once_whoever_adds_it() -> None:
    index = Bm25Index()
    told: list[tuple[int, int | None]] = []
    index.add([document("a", "red boat"), document("b", "boat")], lambda *state: told.append(state))
    before = index.search("red boat", 5)
    index.add([document("a", "red boat"), document("b", "boat")], lambda *state: told.append(state))
    assert index.search("red boat", 5) == before
    assert [each.id for each in index.documents] == ["a", "b"]
    assert told == [(2, 2)]


@pytest.mark.parametrize(
    ("name", "first", "ten"),
    [("nq_val", 0.856, 0.966), ("squad_val", 0.745, 0.930), ("lihua_chat", 0.668, 0.912)],
)
def test_it_reproduces_the_known_figures(shared_dir: Path, name: str, first: float, ten: float) -> None:
    index = Bm25Index()
    index.add(load_corpus([shared_dir / f"data/{name}.corpus.jsonl.gz"]))
    hits, shares = [], []
    for question in load_questions(shared_dir / f"data/{name}.queries.jsonl.gz"):
        if question.answerable:
            found = [each.id for each, _ in index.search(question.text, 10)]
            hits.append(found[:1] != [] and found[0] in question.positive_ids)
            shares.append(np.mean([id_ in found for id_ in question.positive_ids]))
    assert np.mean(hits) == pytest.approx(first, abs=0.0005)
    assert np.mean(shares) == pytest.approx(ten, abs=0.0005)


def test_chinese_questions_find_their_passages(shared_dir: Path) -> None:
    index = Bm25Index()
    index.add(load_corpus([shared_dir / "data/cmrc2018_trial.corpus.jsonl.gz"]))
    questions = load_questions(shared_dir / "data/cmrc2018_trial.queries.jsonl.gz", limit=200)
    hits = [index.search(each.text, 1)[0][0].id in each.positive_ids for each in questions]
    assert np.mean(hits) > 0.9
