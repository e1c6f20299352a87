import re
from random import Random

import pytest

from memsparse.training.selfmade import Quizzer
from memsparse.types import Document

TEXT = (
    "The old mill of Sarno was bought in 1874 by the painter Ada Velm, who lived there with two herons and a "
    "parrot until the flood of the following winter carried the wheel away."
)
DOCUMENT = Document(id="d", title="Sarno", text=TEXT)


def questions(document: Document = DOCUMENT, count: int = 400):
    quizzer = Quizzer([TEXT, "the the of of a mill", "the painter was there"])
    rng = Random(1)
    return [question for _ in range(count) if (question := quizzer.ask(rng, document)) is not None]


def test_a_blank_is_answered_by_the_words_left_out():
    blanks = [question for question in questions() if question.answers]
    assert len(blanks) > 80
    assert {question.answers[0] for question in blanks} >= {"1874", "Ada Velm"}
    for question in blanks:
        (answer,) = question.answers
        assert answer in TEXT
        assert "___" in question.text
        assert answer not in question.text
        assert (question.chain, question.kind) == (("d",), "one_hop")


def test_other_questions_ask_for_the_document_alone_in_its_own_words():
    others = [question for question in questions() if not question.answers]
    assert len(others) > 150
    words = set(re.findall(r"\w+", TEXT.lower()))
    for question in others:
        assert (question.chain, question.kind, question.steps) == (("d",), "lookup", ())
        assert words & set(re.findall(r"\w+", question.text.lower()))
    assert any("Sarno" in question.text and "mill" not in question.text for question in others)


def test_keywords_are_rare_words():
    rare = [q.text.lower() for q in questions(Document(id="d", text=TEXT)) if "___" not in q.text]
    assert sum("herons" in text for text in rare) > sum("there" in text for text in rare)


def test_texts_without_enough_words_give_no_question():
    assert questions(Document(id="d", text="")) == []
    assert questions(Document(id="d", text="one two"), count=50) == []


def test_equal_seeds_ask_alike():
    assert questions() == questions()


CHINESE = Document(
    id="z", text="北京是中华人民共和国的首都，位于华北平原的北部，是全国的政治中心和文化中心。" * 3
)


def test_a_text_without_spaces_is_quoted_by_its_characters():
    found = questions(CHINESE, count=60)
    assert len(found) > 20
    longest = max(len(question.text) for question in found)
    assert longest < 80
    assert any(set(CHINESE.text[:8]) & set(question.text) for question in found)


@pytest.mark.parametrize("text", ["Velm", "x" * 5000, CHINESE.text, "one two", "..."])
def test_every_text_can_be_looked_up(text):
    document = Document(id="d", text=text)
    quizzer = Quizzer([text])
    for seed in range(20):
        question = quizzer.look_up(Random(seed), document)
        assert (question.chain, question.kind, question.answers) == (("d",), "lookup", ())
        assert text[:2].lower() in question.text.lower()
        assert len(question.text) < 120
