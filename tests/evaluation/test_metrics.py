import pytest

from memsparse.evaluation.metrics import exact_match, normalize_answer, precision_recall, token_f1


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("an apple, a day", "apple day"),
        ("", ""),
        ("Theatre", "theatre"),
    ],
)
def test_normalisation_drops_case_articles_and_punctuation(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


def test_exact_match_accepts_any_of_the_answers() -> None:
    assert exact_match("the 1,204 km", ["1204 km", "1204"])
    assert not exact_match("1204 miles", ["1204 km"])
    assert not exact_match("", ["x"])


def test_f1_counts_repeated_words_once_per_occurrence() -> None:
    assert token_f1("red red boat", ["red boat"]) == pytest.approx(0.8)
    assert token_f1("boat", ["ship", "red boat"]) == pytest.approx(2 / 3)
    assert token_f1("", ["ship"]) == 0
    assert token_f1("ship", []) == 0


def test_precision_and_recall_of_documents() -> None:
    assert precision_recall(["a", "b"], ["b", "c"]) == (0.5, 0.5)
    assert precision_recall([], ["b"]) == (0.0, 0.0)
    assert precision_recall(["a"], []) == (0.0, 1.0)
