from collections import Counter
from random import Random

import pytest

from memsparse.errors import DocumentError
from memsparse.training.reading import ReadingSet
from tests.training.builders import PASSAGES, write_reading

TEXTS = {id_: text for id_, _, text in PASSAGES}


def reading_set(folder, words=8) -> ReadingSet:
    files = write_reading(folder)
    return (
        ReadingSet(folder / "corpus.jsonl", folder / "queries.jsonl", window_words=words) if files else None
    )


def test_only_questions_with_one_passage_that_states_an_answer_are_kept(tmp_path):
    assert [row["id"] for row in reading_set(tmp_path).questions] == ["q1", "q2", "q3", "q4", "q5"]


@pytest.mark.parametrize("words", [1, 2, 5, 8, 100])
def test_a_window_holds_the_answer_verbatim_and_few_words_more(tmp_path, words):
    reading = reading_set(tmp_path, words)
    windows = set()
    for seed in range(60):
        documents, questions = reading.sample(Random(seed), 4, 5)
        by_id = {document.id: document for document in documents}
        for question in questions:
            (answer,) = question.answers
            window = by_id[question.chain[0]].text
            assert answer in window
            assert window in TEXTS[question.chain[0]]
            assert len(window.split()) <= max(words, len(answer.split())) + 2
            windows.add((question.chain[0], window))
    assert len(windows) > (4 if words < 100 else 3)


def test_the_first_answer_that_is_stated_is_asked_for(tmp_path):
    reading = reading_set(tmp_path)
    answers = {q.text: q.answers for seed in range(20) for q in reading.sample(Random(seed), 4, 5)[1]}
    assert answers["When does Velm freeze?"] == ("every March",)
    assert answers["Which boats moor there?"] == ("(Kestrel) boats",)


@pytest.mark.parametrize(("documents", "questions"), [(1, 5), (2, 2), (3, 1), (4, 5), (40, 40)])
def test_a_pool_is_no_larger_than_asked_and_holds_every_question(tmp_path, documents, questions):
    reading = reading_set(tmp_path)
    for seed in range(20):
        pool, drawn = reading.sample(Random(seed), documents, questions)
        ids = [document.id for document in pool]
        assert len(ids) == len(set(ids)) <= documents
        assert drawn
        assert {question.chain[0] for question in drawn} <= set(ids)
        assert max(Counter(question.chain for question in drawn).values()) == 1


def test_passages_of_the_same_title_come_first_as_negatives(tmp_path):
    reading = reading_set(tmp_path)
    seen = 0
    for seed in range(40):
        pool, drawn = reading.sample(Random(seed), 2, 1)
        if drawn[0].chain[0] in ("p1", "p2"):
            seen += 1
            assert {document.id for document in pool} == {"p1", "p2"}
    assert seen


def test_equal_seeds_draw_equal_pools(tmp_path):
    reading = reading_set(tmp_path)
    assert reading.sample(Random(3), 4, 3) == reading.sample(Random(3), 4, 3)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_reading(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"id": "other", "text": "nothing"}\n')
    with pytest.raises(DocumentError, match="check the pair"):
        ReadingSet(tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl", window_words=9)
