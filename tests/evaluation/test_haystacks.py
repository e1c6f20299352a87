import re
import sys
from itertools import islice
from random import Random
from uuid import UUID

import pytest

from memsparse.errors import ConfigError, InputError
from memsparse.evaluation import haystacks
from memsparse.evaluation.haystacks import (
    NOISE,
    Draws,
    excerpt,
    fill,
    needle_question,
    noise_pieces,
    pack,
    seven_digits,
    text_pieces,
    with_needle,
)
from memsparse.types import Document


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def texts(*contents: str) -> list[Document]:
    return [Document(id=str(i), text=text) for i, text in enumerate(contents)]


def test_draws_have_the_form_of_their_kind_and_repeat_with_their_seed():
    draws = Draws("a", set())
    assert re.fullmatch("[a-z]+-[a-z]+", draws.draw("words"))
    assert re.fullmatch("[1-9][0-9]{6}", draws.draw("numbers"))
    assert UUID(draws.draw("uuids")).version == 4
    assert (
        Draws("a", set()).draw("words") == Draws("a", set()).draw("words") != Draws("b", set()).draw("words")
    )


def test_draws_avoid_what_is_taken():
    first = Draws("a", set()).draw("numbers")
    taken = {first}
    second = Draws("a", taken).draw("numbers")
    assert second != first
    assert taken == {first, second}


def test_draws_say_when_nothing_is_left(monkeypatch):
    monkeypatch.setattr(haystacks, "_word_lists", lambda: (["red"], ["car", "bus"]))
    draws = Draws("a", set())
    assert {draws.draw("words"), draws.draw("words")} == {"red-car", "red-bus"}
    with pytest.raises(ConfigError, match="hardly any words are left; choose a shorter length"):
        draws.draw("words")


def test_words_without_their_package_name_the_extra(monkeypatch):
    haystacks._word_lists.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'memsparse[eval]'")):
        Draws("a", set()).draw("words")


def test_pack_fills_documents_in_order_and_keeps_a_long_sentence_whole():
    sentences = ["One two.", "Three four.", "Five six seven eight nine ten eleven.", "Twelve."]
    assert list(pack(sentences, count, 6)) == [
        ("One two. Three four.", 6),
        ("Five six seven eight nine ten eleven.", 8),
        ("Twelve.", 2),
    ]
    assert list(pack([], count, 6)) == []


def test_noise_documents_repeat_every_sentence():
    pieces = list(noise_pieces(count, 100))
    assert len({text for text, _ in pieces}) == len(NOISE)
    for text, size in pieces:
        assert 90 <= size == count(text) <= 100
        assert all(text.count(sentence) >= 2 for sentence in NOISE)


def test_texts_are_cut_on_sentence_borders_and_blank_ones_left_out():
    pieces = list(text_pieces(texts("One two. Three four. Five six.", "  \n "), count, 6))
    assert pieces == [("One two. Three four.", 6), ("Five six.", 3)]


@pytest.mark.parametrize(
    ("tokens", "documents"), [(0, 1), (5, 1), (7, 1), (8, 2), (10, 2), (12, 2), (13, 3), (26, 5)]
)
def test_fill_comes_closest_to_the_length_and_repeats(tokens, documents):
    haystack = fill("h", [("a", 5), ("b", 5)], tokens)
    assert (haystack.documents, haystack.tokens) == (documents, 5 * documents)
    assert haystack.repeats == max(1.0, documents / 2)
    assert [haystack.document(i).text for i in range(documents)] == list("ababab"[:documents])
    assert [haystack.document(i).id for i in range(documents)] == [f"h-{i}" for i in range(documents)]


def test_fill_takes_no_more_than_it_needs_and_starts_over_only_at_the_end():
    pieces = iter([("a", 2), ("b", 8), ("c", 90), ("d", 1)])
    haystack = fill("h", pieces, 12)
    assert (haystack.texts, haystack.tokens, haystack.longest, haystack.repeats) == (["a", "b"], 10, 8, 1.0)
    assert next(pieces) == ("d", 1)


def test_fill_without_text():
    with pytest.raises(InputError, match="no text"):
        fill("h", [], 10)


def test_excerpts_come_from_the_later_half_and_fit():
    sentences = [f"Sentence {i} has a few words more." for i in range(40)]
    documents = texts("Early.", "Early too.", " ".join(sentences[:20]), " ".join(sentences[20:]))
    taken = {excerpt(documents, Random(seed), count, 20) for seed in range(40)}
    assert len(taken) > 5
    for text in taken:
        assert "Early" not in text
        assert re.fullmatch(r"(Sentence \d+ has a few words more\. ?){2}", text)


@pytest.mark.parametrize("text", ["", "word " * 50, "\u4f60\u597d\u3002" * 30, "Short. " + "word " * 50])
def test_excerpts_of_odd_texts_fit_too(text):
    found = excerpt(texts(text), Random(0), count, 10)
    assert count(found) <= 10
    assert found in text
    assert count(found) >= 5 or not text


def test_a_needle_lies_between_sentences():
    found = {with_needle("N.", 'He said: "Go." They went. Then', Random(seed)) for seed in range(30)}
    assert found == {
        'N. He said: "Go." They went. Then',
        'He said: "Go." N. They went. Then',
        'He said: "Go." They went. N. Then',
    }
    assert {with_needle("N.", "All of it.", Random(seed)) for seed in range(9)} == {
        "N. All of it.",
        "All of it. N.",
    }
    assert with_needle("N.", "", Random(0)) == "N."


def test_questions_name_one_key_or_several():
    assert needle_question(["a"], "uuids", plural=False) == (
        "What is the special magic uuid for a mentioned in the provided text?"
    )
    assert needle_question(["a", "b", "c"], "numbers", plural=True) == (
        "What are all the special magic numbers for a, b, and c mentioned in the provided text?"
    )


def test_seven_digits_are_found_inside_longer_numbers():
    assert seven_digits(texts("12345678 and 7654321", "123456")) == {"1234567", "2345678", "7654321"}


def test_needle_pieces_never_end_and_never_repeat():
    draws = Draws("a", set())
    pieces = list(islice(haystacks.needle_pieces(draws, "words", "numbers", count, 60), 50))
    needles = [each for text, _ in pieces for each in re.findall(r"for (\S+) is: (\d{7})\.", text)]
    assert all(count(text) == size <= 60 for text, size in pieces)
    assert len(needles) == len(dict(needles)) == len({value for _, value in needles}) >= 150
