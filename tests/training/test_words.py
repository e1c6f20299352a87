import pytest

from memsparse.training.words import joined, unspaced, words

CHINESE = "北京是中国的首都，有两千多万人口。"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Kestrel's 2 boats.", ["the", "kestrel", "s", "2", "boats"]),
        ("北京 2024年", ["北", "京", "2024", "年"]),
        ("", []),
        ("...", []),
    ],
)
def test_words_are_lower_case_and_characters_where_no_spaces_are_written(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "without"),
    [
        (CHINESE, True),
        ("x" * 300, True),
        ("a b c", False),
        ("Sarno", False),
        ("", False),
        ("one two " * 50, False),
    ],
)
def test_texts_without_spaces_are_known(text, without):
    assert unspaced(text) is without


def test_letters_are_bound_to_their_neighbours_only_where_words_are_marked():
    assert joined("o", "n", "Sarno no")
    assert not joined("o", " ", "Sarno no")
    assert not joined("o", "", "Sarno")
    assert not joined("京", "是", CHINESE)
    assert joined("京", "是", "The name 北京是 in an English text about something else")
