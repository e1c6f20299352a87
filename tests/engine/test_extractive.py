import pytest

from memsparse.engine.extractive import SqueezedText, begins, find_span, same_text, squeeze


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("maria lund", "Only Maria Lund knows.", "Maria Lund"),
        ("maria lund", "Only MARIA\n  LUND knows.", "MARIA\n  LUND"),
        ("green-book", "the Green - Book", "Green - Book"),
        ("nine", "ninety, then nine.", "nine"),
        ("195", "In 1954 or 195 more", "195"),
        ("straße", "die STRASSE dort", "STRASSE"),
        ("ÖLAND", "to O\u0308land", "O\u0308land"),
        ("\u6771\u4eac", "\u5927\u6771\u4eac\u90fd", "\u6771\u4eac"),
        ("the cat", "the cat", "the cat"),
        ("$5.50", "costs $5.50 now", "$5.50"),
        ("5", "5.0, 15 and 5.", "5"),
        ("1914", "from 1914-1918", "1914"),
        ("16", "at 16: 50 were there", "16"),
        ("1954", "born 12.05.1954 in town", "1954"),
        ("1954", "in 1954.2 She left", "1954"),
        ("2", "options 1,2,3", "2"),
        ("3", "won 3:1", "3"),
        ("3,600", "counts 3,600, no more", "3,600"),
    ],
)
def test_spans_keep_the_spelling_of_the_text(answer: str, text: str, found: str) -> None:
    span = find_span(answer, text)
    assert span is not None
    assert text[slice(*span)] == found


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        *(("5", "weighs 5.0 kilograms"), ("600", "counts 3,600 people"), ("16", "leaves at 16:50")),
        *(("10.0", "reached under 10.0.0.7"), ("he", "the cat"), ("95", "1954")),
        ("cat", "concatenate"),
        ("dog", "the cat"),
        ("", "x"),
        (" ", "x y"),
    ],
)
def test_what_is_no_whole_word_is_not_found(answer: str, text: str) -> None:
    assert find_span(answer, text) is None


def test_texts_compare_without_case_and_spacing() -> None:
    assert same_text("The documents  do not SAY", "the documents do not say")
    assert not same_text("the documents say", "the documents do not say")
    assert begins("the documents do not say", "The Docu")
    assert not begins("the documents", "the documents do")


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("Rye \u3000BREAD\n", "ryebread"),
        ("Stra\u00dfe", "strasse"),
        ("\u00d6l", "o\u0308l"),
        ("O\u0308l", "o\u0308l"),
        ("", ""),
    ],
)
def test_squeezed_is_folded_decomposed_and_without_whitespace(text: str, letters: str) -> None:
    assert squeeze(text) == letters == squeeze(letters)
    assert SqueezedText(text).letters == letters


def test_places_know_where_words_and_numbers_begin_and_end() -> None:
    text = SqueezedText("Ab 19c, \u6771\u4eac")
    assert [place for place, begins_here in enumerate(text.begins) if begins_here] == [0, 2, 4, 5, 6, 7]
    assert [place for place, ends_here in enumerate(text.ends) if ends_here] == [2, 4, 5, 6, 7, 8]
    assert text.span(2, 5) == (3, 6)
    assert SqueezedText("nao\u0308 x").span(2, 3) == (2, 4)
