import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsparse.engine.overlap import word_overlap, words

TEXTS = st.lists(st.text(alphabet="ab c'Z9", max_size=12), max_size=5)


def test_words_are_lower_case_and_bare() -> None:
    assert words("Who's Zoë? ZOË, 12-a_b") == {"who", "s", "zoë", "12", "a", "b"}
    assert words("Zoe\u0308 STRASSE") == words("zo\u00eb stra\u00dfe")


def test_rarer_words_weigh_more() -> None:
    question = "the keys of Lund"
    overlap = word_overlap(question, ["the keys", "the lights of Lund", "the"])
    keys = lund = of = math.log(4 / 1)
    the = math.log(4 / 3)
    whole = keys + lund + of + the
    assert overlap == pytest.approx([(keys + the) / whole, (lund + of + the) / whole, the / whole])


@pytest.mark.parametrize(
    ("question", "texts", "overlap"),
    [
        ("who?", [], []),
        ("who?", ["a cat", ""], [0.0, 0.0]),
        ("", ["a cat"], [0.0]),
        ("?!", ["?!"], [0.0]),
        ("which cat", ["a cat"], [1.0]),  # no text holds "which": it tells nothing
    ],
)
def test_words_that_tell_nothing(question: str, texts: list[str], overlap: list[float]) -> None:
    assert word_overlap(question, texts) == overlap


@given(st.text(alphabet="ab c'Z9", max_size=12), TEXTS)
def test_shares_lie_between_0_and_1_and_equal_texts_are_equal(question: str, texts: list[str]) -> None:
    overlap = word_overlap(question, texts)
    assert all(0 <= each <= 1 + 1e-12 for each in overlap)
    held = [words(text) & words(question) for text in texts]
    for a, first in zip(held, overlap, strict=True):
        for b, second in zip(held, overlap, strict=True):
            if a <= b:
                assert first <= second + 1e-12
            if a == b:
                assert first == second
