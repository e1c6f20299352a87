import pytest

from memsparse.text import FastTokenizer, Template
from memsparse.training.config import ReadingSource
from memsparse.training.tokenizer import PADDING, train_tokenizer, vocabulary_texts
from tests.training.builders import prompts, tokenizer, write_reading


def pieces(text: str) -> list[str]:
    own = FastTokenizer(tokenizer())
    return [own.decode([token]) for token in own.encode(text)]


@pytest.mark.parametrize("text", ["[12]", "12345", "([)].,;!?", "1204 7"])
def test_digits_brackets_and_punctuation_stand_alone(text):
    assert pieces(text) == list(text)


def test_no_token_joins_a_digit_or_a_bracket_to_anything():
    own = FastTokenizer(tokenizer())
    special = set(own.control_tokens.values())
    texts = [own.decode([id_]) for id_ in range(len(tokenizer())) if id_ not in special]
    assert not [text for text in texts if len(text) > 1 and any(c.isdigit() or c in "[]" for c in text)]
    assert len([text for text in texts if len(text) > 4]) > 50


def test_case_is_lost_and_the_text_is_not():
    own = FastTokenizer(tokenizer())
    assert own.encode("The River VELM") == own.encode("the river velm")
    assert (
        own.decode(own.encode("Bought 3 Ñandú’s, (at) 1,50 €: 東京")) == "bought 3 ñandú’s, (at) 1,50 €: 東京"
    )
    assert own.decode(own.encode("a\nb")) == "a\n b"


@pytest.mark.parametrize("name", ["Quimbly Thessarn", "harbour", "Ögle"])
def test_a_name_has_the_same_tokens_at_the_start_of_a_line_and_within_one(name):
    own = FastTokenizer(tokenizer())
    within = own.encode(f"x {name}")[len(own.encode("x")) :]
    assert own.encode(f"x\n{name}")[len(own.encode("x\n")) :] == within
    assert own.encode(f". {name}")[1:] == within


def test_the_template_has_its_control_tokens_and_padding_is_zero():
    controls = FastTokenizer(tokenizer()).control_tokens
    template = Template()
    for text in (
        PADDING,
        "<|im_start|>",
        template.end_of_turn,
        template.retrieve_marker,
        template.end_of_retrieve,
    ):
        assert text in controls
    assert tokenizer().pad_token_id == controls[PADDING] == 0
    assert tokenizer().eos_token_id == prompts().tokenizer.control_tokens[template.end_of_turn]


def test_training_is_repeatable_and_bounded_by_the_vocabulary():
    texts = list(vocabulary_texts(None, worlds=1))
    first, second = (train_tokenizer(iter(texts), vocab_size=400) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == 400


def test_vocabulary_texts_add_real_passages_and_questions_up_to_a_limit(tmp_path):
    reading = (ReadingSource(**write_reading(tmp_path)),)
    texts = list(vocabulary_texts(reading, worlds=0))
    assert len(texts) == 12
    assert texts[0].startswith("Sarno\nSarno lies")
    assert "Who dug the harbour?" in texts
    assert len(list(vocabulary_texts(reading, worlds=0, passages=2))) == 2 + 6
    assert len(list(vocabulary_texts(None, worlds=2))) == 2 * 128
