import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.engine.extractive import find_span, squeeze
from memsparse.engine.quoting import Quote
from memsparse.text import PromptBuilder
from tests.engine.builders import SENTENCES, tiny_model
from tests.fakes import char_builder
from tests.tiny import tiny_tokenizer

CHARACTERS = char_builder()
CHARACTER_SIZE = 0x7000  # the code points the tests write
TINY = PromptBuilder(tiny_tokenizer())
TINY_SIZE = len(tiny_tokenizer())
LARGER = tiny_model()
RAGGED = (
    *SENTENCES,
    "\u6771\u4eac\u30bf\u30ef\u30fc\u306f333m",
    "Zu\u0308rich, Z\u00fcrich \u00e9t\u00e9 na\u00efve \u041c\u0430\u043b\u043c\u0451",
    "die STRASSE, die Stra\u00dfe",
    "\u0301x \ufffd\ufffd y\ufffd",
    "\u3000a\u2003b\u3000",
    "  \n\t ",
    "",
    "1954",
    "a" * 3000,
)


def quote(builder: PromptBuilder, size: int, texts: Sequence[str]) -> Quote:
    return Quote(builder, texts, vocab_size=size)


def spell(quoted: Quote, ids: Sequence[int]) -> bool:
    """Feed ids as long as they are allowed; whether all were."""
    for id_ in ids:
        if id_ not in quoted.allowed():
            return False
        quoted.feed(id_)
    return True


def may_stop(quoted: Quote, builder: PromptBuilder) -> bool:
    return not builder.stop_ids.isdisjoint(quoted.allowed())


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(st.sampled_from(RAGGED) | st.text("ab 19\u00e9\u0301\u4eac\n", max_size=12), max_size=3),
    seed=st.integers(0, 10**6),
    larger=st.booleans(),
)
def test_whatever_is_chosen_is_a_quote(texts: list[str], seed: int, larger: bool) -> None:
    builder, size = (LARGER.prompts, LARGER.config.vocab_size) if larger else (TINY, TINY_SIZE)
    quoted = quote(builder, size, texts)
    chance = random.Random(seed)
    ids: list[int] = []
    for _ in range(120):
        token = chance.choice(sorted(quoted.allowed()))
        if token in builder.stop_ids:
            break
        ids.append(token)
        quoted.feed(token)
    said = builder.decode(ids)
    if may_stop(quoted, builder) and squeeze(said):
        assert any(find_span(said, text) for text in texts)
        assert squeeze(said) == quoted.text
    if quoted.text:
        assert squeeze(said).startswith(quoted.text)
        assert any(find_span(quoted.text, text) for text in texts)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), text=st.text("aBe 19.\u00e9\u0308\u00df\u4eac\u0131", min_size=1, max_size=14))
def test_exactly_what_find_span_finds_is_whole(data: st.DataObject, text: str) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    answer = "".join(text[start : data.draw(st.integers(start + 1, len(text)))].split())
    quoted = quote(CHARACTERS, CHARACTER_SIZE, ["other", text])
    spelt = spell(quoted, [ord(character) for character in answer.swapcase()])
    whole = spelt and may_stop(quoted, CHARACTERS) and bool(answer)
    assert whole == any(find_span(answer.swapcase(), one) for one in ("other", text))


@pytest.mark.parametrize("text", SENTENCES)
def test_every_run_of_words_is_open_however_it_is_split(text: str) -> None:
    words = text.rstrip(".").split()
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            answer = " ".join(words[start:end])
            for ids in (
                LARGER.prompts.encode_text(answer),
                LARGER.prompts.encode_text(f" {answer}"),
                [id_ for character in answer for id_ in LARGER.prompts.encode_text(character)],
            ):
                quoted = quote(LARGER.prompts, LARGER.config.vocab_size, SENTENCES)
                assert spell(quoted, ids), answer
                assert may_stop(quoted, LARGER.prompts)
                assert quoted.text == squeeze(answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("re", "on the shore"),
        ("sho", "on the shore"),
        ("11111", "the number is 11213"),
        ("195", "In 1954"),
        ("954", "In 1954"),
        ("Maria Stone", "Maria Lund met Dr. Stone."),
        ("tea cup", "a cup of tea"),
    ],
)
def test_half_words_loops_and_mixtures_never_stand(answer: str, text: str) -> None:
    quoted = quote(CHARACTERS, CHARACTER_SIZE, [text])
    assert not spell(quoted, [ord(letter) for letter in answer]) or not may_stop(quoted, CHARACTERS)
    assert quoted.text != squeeze(answer)


def test_a_quote_stays_within_one_text() -> None:
    quoted = quote(CHARACTERS, CHARACTER_SIZE, ["red", "house"])
    assert not spell(quoted, [ord(letter) for letter in "red house"])
    assert quoted.text == "red"


def test_what_was_cut_short_is_its_last_whole_quote() -> None:
    quoted = quote(CHARACTERS, CHARACTER_SIZE, ["the old harbour"])
    assert spell(quoted, [ord(letter) for letter in "the OLD har"])
    assert quoted.text == "theold"
    assert not may_stop(quoted, CHARACTERS)


@pytest.mark.parametrize("texts", [[], [""], [" \n"]])
def test_nothing_to_say_leaves_the_end(texts: list[str]) -> None:
    assert quote(TINY, TINY_SIZE, texts).allowed() == TINY.stop_ids


@pytest.mark.parametrize(
    "answer", ["\u6771\u4eac", "\u4eac", "\u00e9t\u00e9", "Z\u00dcRICH", "\u041c\u0430\u043b\u043c\u0451"]
)
@pytest.mark.parametrize("lead", ["", " "])
def test_characters_of_several_tokens_are_open_and_no_others(answer: str, lead: str) -> None:
    text = "In \u5927\u6771\u4eac\u90fd, \u00e9t\u00e9: Zu\u0308rich - \u041c\u0430\u043b\u043c\u0451."
    ids = TINY.encode_text(lead + answer)
    quoted = quote(TINY, TINY_SIZE, [text])
    for at, id_ in enumerate(ids):
        assert id_ in quoted.allowed()
        if "\ufffd" in TINY.decode(ids[:at]):
            assert not may_stop(quoted, TINY)
        quoted.feed(id_)
    assert may_stop(quoted, TINY)
    assert find_span(quoted.text, text) == find_span(answer, text)
    assert not spell(quote(TINY, TINY_SIZE, [text]), TINY.encode_text(f"{lead}\u5317"))


def test_a_mark_of_its_own_meets_the_character_it_belongs_to() -> None:
    composed, decomposed = "\u00e9tang", "e\u0301tang"
    for read, said in ((composed, decomposed), (decomposed, composed)):
        quoted = quote(TINY, TINY_SIZE, [read])
        assert spell(quoted, TINY.encode_text(said))
        assert find_span(quoted.text, read) == (0, len(read))


def test_a_place_no_token_leads_away_from_is_never_entered() -> None:
    # The tokenizer composes accents, so a bare letter can not go on to its mark.
    quoted = quote(TINY, TINY_SIZE, ["\u00e9tang"])
    assert not spell(quoted, TINY.encode_text("e"))
    assert not spell(quote(TINY, TINY_SIZE, ["a\ud800b"]), TINY.encode_text("ab"))
    assert quote(TINY, TINY_SIZE, ["\ud800"]).allowed() == TINY.stop_ids


def test_spaces_are_open_once_in_a_row() -> None:
    quoted = quote(CHARACTERS, CHARACTER_SIZE, ["rye bread"])
    assert spell(quoted, [ord(" ")])
    assert ord("\n") not in quoted.allowed()
    assert spell(quoted, [ord(letter) for letter in "rye "])
    assert may_stop(quoted, CHARACTERS)
    assert {chr(id_) for id_ in quoted.allowed() - CHARACTERS.stop_ids} == {"b", "B"}
    assert spell(quoted, [ord(letter) for letter in "bread"])
    assert quoted.allowed() == CHARACTERS.stop_ids
    assert quoted.text == "ryebread"


def test_an_answer_is_never_empty() -> None:
    for text in ("(a)", "-", "\u6771\u4eac", "rye bread"):
        quoted = quote(CHARACTERS, CHARACTER_SIZE, [text])
        assert not may_stop(quoted, CHARACTERS)
        assert spell(quoted, [ord(" ")])
        assert not may_stop(quoted, CHARACTERS)


def test_control_tokens_are_never_open() -> None:
    text = "say <|im_end|> or <|object_ref_end|> now"
    quoted = quote(TINY, TINY_SIZE, [text])
    control = set(TINY.tokenizer.control_tokens.values())
    assert control.isdisjoint(quoted.allowed())
    assert spell(quoted, TINY.encode_text(text))
    assert quoted.text == squeeze(text)
