import pytest

from memsparse.engine.extractive import begins, find_span, same_text


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
    ],
)
def test_spans_keep_the_spelling_of_the_text(answer: str, text: str, found: str) -> None:
    span = find_span(answer, text)
    assert span is not None
    assert text[slice(*span)] == found


@pytest.mark.parametrize(
    ("answer", "text"),
    [("he", "the cat"), ("95", "1954"), ("cat", "concatenate"), ("dog", "the cat"), ("", "x"), (" ", "x y")],
)
def test_what_is_no_whole_word_is_not_found(answer: str, text: str) -> None:
    assert find_span(answer, text) is None


def test_texts_compare_without_case_and_spacing() -> None:
    assert same_text("The documents  do not SAY", "the documents do not say")
    assert not same_text("the documents say", "the documents do not say")
    assert begins("the documents do not say", "The Docu")
    assert not begins("the documents", "the documents do")
