import json
from random import Random

import pytest

from memsparse.errors import DocumentError
from memsparse.training.reading import ReadingMix, ReadingSet
from tests.training.builders import PASSAGES, write_reading

TEXTS = {id_: text for id_, _, text in PASSAGES}


def reading_set(folder, words=8) -> ReadingSet:
    write_reading(folder)
    return ReadingSet(folder / "corpus.jsonl", folder / "queries.jsonl", window_words=words)


def plain_set(folder, words=8) -> ReadingSet:
    write_reading(folder)
    return ReadingSet(folder / "corpus.jsonl", None, window_words=words)


def pools(reading: ReadingSet, documents: int, questions: int, count: int = 60):
    return [reading.sample(Random(seed), documents, questions) for seed in range(count)]


def test_questions_whose_passages_state_no_answer_are_left_out(tmp_path):
    texts = {each.text for each in reading_set(tmp_path).questions}
    assert "Who rules Velm?" not in texts
    assert "What is lost?" not in texts
    assert {"Who dug the harbour?", "What was traded for glass?", "Which town?"} <= texts


@pytest.mark.parametrize("words", [1, 2, 5, 8, 100, (3, 9)])
def test_a_window_holds_the_answer_verbatim_and_few_words_more(tmp_path, words):
    most = words if isinstance(words, int) else words[1]
    windows = set()
    for documents, questions in pools(reading_set(tmp_path, words), 4, 5):
        by_id = {document.id: document for document in documents}
        for question in questions:
            if not question.answers:
                continue
            (answer,) = question.answers
            held = [by_id[id_].text for id_ in question.chain]
            assert any(answer in window for window in held)
            for id_ in question.chain:
                assert by_id[id_].text in TEXTS[id_]
                assert len(by_id[id_].text.split()) <= max(most, len(answer.split())) + 2
            windows.add((question.chain, *held))
    assert len(windows) > (4 if most < 100 else 3)


def test_the_first_answer_that_is_stated_is_asked_for(tmp_path):
    reading = reading_set(tmp_path)
    answers = {q.text: q.answers for _, questions in pools(reading, 4, 5) for q in questions if q.answers}
    assert answers["When does Velm freeze?"] == ("every March",)
    assert answers["Which boats moor there?"] == ("(Kestrel) boats",)


@pytest.mark.parametrize(("documents", "questions"), [(1, 5), (2, 2), (3, 1), (4, 5), (40, 40)])
def test_a_pool_is_no_larger_than_asked_and_holds_every_question(tmp_path, documents, questions):
    for pool, drawn in pools(reading_set(tmp_path), documents, questions):
        ids = [document.id for document in pool]
        assert len(ids) == len(set(ids)) <= documents
        assert 1 <= len(drawn) <= questions
        assert {id_ for question in drawn for id_ in question.chain} <= set(ids)


def test_the_document_of_an_absent_question_is_not_in_the_pool(tmp_path):
    reading = reading_set(tmp_path)
    asked = {each.text: each for each in reading.questions}
    found = 0
    for pool, questions in pools(reading, 3, 4, count=200):
        ids = {document.id for document in pool}
        for question in questions:
            if question.kind == "absent":
                found += 1
                assert (question.chain, question.answers) == ((), ())
                assert not set(asked[question.text].chain) & ids
                assert question.about in ("", *ids)
    assert found > 10


def test_several_questions_may_be_about_one_window(tmp_path):
    found = [questions for _, questions in pools(reading_set(tmp_path, 100), 4, 8)]
    assert any(len([q for q in each if q.chain == ("p1",)]) == 2 for each in found)


def test_passages_of_the_same_title_come_first_as_negatives(tmp_path):
    seen = 0
    for pool, drawn in pools(reading_set(tmp_path), 2, 1):
        if drawn[0].chain in (("p1",), ("p2",)):
            seen += 1
            assert {document.id for document in pool} == {"p1", "p2"}
    assert seen


def test_equal_seeds_draw_equal_pools(tmp_path):
    for reading in (reading_set(tmp_path), plain_set(tmp_path)):
        assert reading.sample(Random(3), 4, 3) == reading.sample(Random(3), 4, 3)


def test_text_without_questions_is_asked_about_all_the_same(tmp_path):
    for pool, questions in pools(plain_set(tmp_path, (6, 12)), 4, 9, count=20):
        ids = {document.id: document.text for document in pool}
        assert len(ids) == 4
        assert 4 <= len(questions) <= 9
        for question in questions:
            assert all(answer in ids[question.chain[0]] for answer in question.answers)


def test_prose_is_a_window_of_about_as_many_words_as_asked(tmp_path):
    reading = plain_set(tmp_path)
    for words in (1, 4, 9):
        drawn = [reading.prose(Random(seed), words) for seed in range(40)]
        assert len({document.text for document in drawn}) > 10
        assert all(document.text in TEXTS[document.id] for document in drawn)
        assert max(len(document.text.split()) for document in drawn) <= words + 2


def test_a_mix_draws_its_sets_by_weight(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "corpus.jsonl").write_text(
        json.dumps({"id": "z", "text": "Quite another text about cabbages and kings of 1865 in Velm."})
    )
    other = ReadingSet(tmp_path / "other" / "corpus.jsonl", None, window_words=12)
    mix = ReadingMix([reading_set(tmp_path), other], [3, 1])
    drawn = [mix.sample(Random(seed), 1, 1)[0][0].id for seed in range(400)]
    assert 0.18 < drawn.count("z") / 400 < 0.32
    never = ReadingMix([reading_set(tmp_path), other], [0, 1])
    assert {never.prose(Random(seed), 5).id for seed in range(20)} == {"z"}


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_reading(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"id": "other", "text": "nothing"}\n')
    with pytest.raises(DocumentError, match="check the pair"):
        ReadingSet(tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl", window_words=9)
    (tmp_path / "corpus.jsonl").write_text("\n")
    with pytest.raises(DocumentError, match="no passage"):
        ReadingSet(tmp_path / "corpus.jsonl", None, window_words=9)
