import math
import re
import string

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memsparse.errors import InputError
from memsparse.evaluation.metrics import (
    all_at,
    answer_tokens,
    bootstrap,
    contains_match,
    degradation,
    exact_match,
    f1_score,
    hit_at,
    ndcg_at,
    normalize_answer,
    precision_recall,
    recall_at,
    reciprocal_rank,
    token_f1,
)

# What version 1.1 of SQuAD's evaluation does, one step at a time and with nothing shared.


def squad_words(text: str) -> list[str]:
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE).split()


def squad_f1(answer: str, gold: str) -> float:
    left, right = squad_words(answer), squad_words(gold)
    rest, same = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            same += 1
    if same == 0:
        return 0.0  # also where neither has a word
    precision, recall = same / len(left), same / len(right)
    return 2 * precision * recall / (precision + recall)


WORDS = st.sampled_from(
    ["a", "An", "the", "THE", "red", "Red", "boat,", "1,204", "km.", "-", "it’s", "“x”", "é"]
)
LETTERS = st.text(alphabet="ab theTHE an.,-'\"!?019 \t\n", max_size=24)
LATIN = st.text(alphabet=st.characters(max_codepoint=0x24F), max_size=16)
ENGLISH = st.one_of(st.lists(WORDS, max_size=6).map(" ".join), LETTERS, LATIN)


@given(ENGLISH, st.lists(ENGLISH, min_size=1, max_size=3))
@example("", ["the"])
@example("A the!", ["an"])
def test_english_answers_are_judged_as_squad_does(answer: str, gold: list[str]) -> None:
    assert token_f1(answer, gold) == pytest.approx(max(squad_f1(answer, each) for each in gold))
    assert exact_match(answer, gold) == any(squad_words(answer) == squad_words(each) for each in gold)
    assert normalize_answer(answer) == " ".join(squad_words(answer))


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("an apple, a day", "apple day"),
        ("", ""),
        ("Theatre", "theatre"),
    ],
)
def test_normalisation_drops_case_articles_and_punctuation(text, normalized):
    assert normalize_answer(text) == normalized


def test_exact_match_accepts_any_of_the_answers():
    assert exact_match("the 1,204 km", ["1204 km", "1204"])
    assert not exact_match("1204 miles", ["1204 km"])
    assert not exact_match("", ["x"])
    assert not exact_match("x", [])


def test_f1_counts_repeated_words_once_per_occurrence():
    assert token_f1("red red boat", ["red boat"]) == pytest.approx(0.8)
    assert token_f1("boat", ["ship", "red boat"]) == pytest.approx(2 / 3)
    assert token_f1("", ["ship"]) == 0
    assert token_f1("ship", []) == 0
    assert token_f1("the", ["a"]) == 0


def test_chinese_counts_by_character():
    assert answer_tokens("《红楼梦》 chapter 12。") == ["红", "楼", "梦", "chapter", "12"]
    assert exact_match("“红楼梦”", ["红楼梦。"])
    assert token_f1("红楼", ["红楼梦"]) == pytest.approx(0.8)
    assert contains_match("答案是红楼梦吗", ["红楼梦"])
    assert not contains_match("答案是红梦楼", ["红楼梦"])


# What version 5 of CMRC 2018's evaluation makes of text without Latin words.
CMRC_MARKS = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"


@given(st.text(alphabet="红楼梦京北一龥" + CMRC_MARKS, max_size=12))
def test_chinese_is_cut_as_cmrc_does(text):
    assert answer_tokens(f"京{text}") == ["京", *(letter for letter in text if letter not in CMRC_MARKS)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("ジョン・スミス", list("ジョンスミス")),
        ("Ｃ＋言語…", ["ｃ", "言", "語"]),
        ("서울 特別市", list("서울特別市")),
        ("1998。", ["1998"]),
        ("The 2008年 Olympics", ["2008", "年", "olympics"]),
        ("𠮷野家", list("𠮷野家")),
        ("。", []),
    ],
)
def test_marks_go_and_characters_part_in_other_scripts(text, tokens):
    assert answer_tokens(text) == tokens


def test_wide_punctuation_stays_where_the_text_is_english_as_in_squad():
    assert exact_match("it’s", ["it’s"])
    assert not exact_match("its", ["it’s"])


def test_contained_answers_are_whole_words_in_order():
    assert contains_match("It was The Red Boat, they say", ["red boat"])
    assert not contains_match("the boat was red", ["red boat"])
    assert not contains_match("cathedral", ["cat"])
    assert not contains_match("anything", [""])
    assert contains_match("", []) is False


def test_precision_and_recall_of_documents():
    assert precision_recall(["a", "b"], ["b", "c"]) == (0.5, 0.5)
    assert precision_recall([], ["b"]) == (0.0, 0.0)
    assert precision_recall(["a"], []) == (0.0, 1.0)
    assert f1_score(0, 0) == 0
    assert f1_score(1, 0.5) == pytest.approx(2 / 3)


# Rankings: the twin sees the ranked list itself.


@given(
    st.permutations([f"d{i}" for i in range(9)]),
    st.sets(st.sampled_from([f"d{i}" for i in range(12)]), min_size=1, max_size=5),
    st.integers(1, 10),
)
def test_rankings_are_judged_as_their_definitions_say(order, positives, k):
    places = {id_: place for place, id_ in enumerate(order, start=1)}
    ranks = [places.get(id_) for id_ in sorted(positives)]
    top = order[:k]
    gains = [float(id_ in positives) for id_ in top]
    ideal = sorted([1.0] * len(positives) + [0.0] * 9, reverse=True)[:k]
    dcg, best = (sum(g / math.log2(i + 2) for i, g in enumerate(row)) for row in (gains, ideal))
    assert hit_at(ranks, k) == float(bool(set(top) & positives))
    assert recall_at(ranks, k) == pytest.approx(len(set(top) & positives) / len(positives))
    assert all_at(ranks, k) == float(positives <= set(top))
    assert ndcg_at(ranks, k) == pytest.approx(dcg / best)
    assert reciprocal_rank(ranks, k) == next(
        (1 / (i + 1) for i, id_ in enumerate(top) if id_ in positives), 0.0
    )


def test_without_positives_there_is_nothing_to_find():
    assert hit_at([], 5) == recall_at([], 5) == all_at([], 5) == ndcg_at([], 5) == reciprocal_rank([], 5) == 0


# Intervals


def test_an_interval_holds_the_mean_and_repeats_with_its_seed():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    one = bootstrap(values, seed=4)
    assert one == bootstrap(values, seed=4)
    assert one != bootstrap(values, seed=5)
    assert one.value == pytest.approx(0.625)
    assert one.low is not None
    assert one.high is not None
    assert one.low < 0.625 < one.high
    assert one.to_json() == {"value": one.value, "low": one.low, "high": one.high, "n": 8}


def test_an_interval_is_about_as_wide_as_theory_says():
    generator = np.random.default_rng(0)
    one = bootstrap(generator.normal(5, 2, 400).tolist())
    assert one.low is not None
    assert one.high is not None
    assert one.high - one.low == pytest.approx(2 * 1.96 * 2 / math.sqrt(400), rel=0.15)


def test_nothing_measured_and_one_thing_measured():
    assert bootstrap([]).to_json() == {"value": None, "low": None, "high": None, "n": 0}
    assert bootstrap([0.5]).to_json() == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 1}
    assert degradation([], []).value is None
    assert degradation([0.0, 0.0], [1.0, 0.0]).value is None


def test_a_loss_is_relative_and_pairs_questions():
    lost = degradation([1.0, 1.0, 0.0, 1.0] * 20, [1.0, 0.0, 0.0, 1.0] * 20)
    assert lost.value == pytest.approx(1 / 3)
    assert lost.low is not None
    assert lost.high is not None
    assert lost.low < 1 / 3 < lost.high
    same = degradation([1.0, 0.0] * 9, [1.0, 0.0] * 9)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert degradation([0.5] * 4, [1.0] * 4).value == -1


def test_a_loss_needs_the_same_questions_twice():
    with pytest.raises(InputError, match="3 values first but 5 last"):
        degradation([1.0] * 3, [1.0, 0.0, 0.0, 0.0, 0.0])
    one = degradation([0.8], [0.6])
    assert one.n == 1
    assert one.value == one.low == one.high == pytest.approx(0.25)


def test_a_loss_whose_every_resample_starts_at_zero_has_no_interval():
    # one draw of two questions that takes the zero twice
    seed = next(s for s in range(99) if np.random.default_rng(s).integers(0, 2, 2).tolist() == [1, 1])
    one = degradation([1.0, 0.0], [0.5, 0.0], seed=seed, resamples=1)
    assert (one.value, one.low, one.high, one.n) == (0.5, None, None, 2)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        one = bootstrap(generator.binomial(1, 0.6, 60).astype(float).tolist(), seed=trial, resamples=200)
        assert one.low is not None
        assert one.high is not None
        covered += one.low <= 0.6 <= one.high
    assert 0.88 <= covered / 200 <= 0.99
