from random import Random

import pytest

from memsparse.training.windows import cut_window

CHINESE = "北京是中华人民共和国的首都，位于华北平原的北部，是全国的政治中心和文化中心。"


@pytest.mark.parametrize(
    "text", ["Velm", "x" * 4000, CHINESE, " a ", "a\n\n\nb", "   x   y   ", "。", "a" * 40]
)
@pytest.mark.parametrize("words", [1, 2, 7, 500])
def test_no_text_is_too_short_or_too_long(text, words):
    for seed in range(60):
        for span in (None, (0, 0), (0, len(text)), (len(text) // 2, 1)):
            window = cut_window(text, Random(seed), span, fewest=words)
            assert window
            assert window in text


@pytest.mark.parametrize("words", [1, 4, 12])
def test_without_spaces_characters_count(words):
    windows = set()
    for seed in range(200):
        window = cut_window(CHINESE, Random(seed), None, fewest=words)
        assert len(window) <= words
        windows.add(window)
    assert len(windows) > 20
    start = CHINESE.index("华北平原")
    for seed in range(30):
        window = cut_window(CHINESE, Random(seed), (start, 4), fewest=words)
        assert "华北平原" in window
        assert len(window) <= max(words, 4)


def test_spaced_text_is_cut_between_words():
    text = " ".join(f"w{i}" for i in range(50))
    start = text.index("w25")
    lengths = set()
    for seed in range(200):
        window = cut_window(text, Random(seed), (start, 3), fewest=3, most=6).split()
        assert "w25" in window
        lengths.add(len(window))
    assert {2, 3, 4, 5} <= lengths <= set(range(1, 8))
