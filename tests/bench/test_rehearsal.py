import math

import pytest

from memsparse.bench import rehearsal
from memsparse.bench.rehearsal import Rehearsal, rehearse
from tests.engine.builders import tiny_model


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


@pytest.mark.parametrize("key_format", ["bf16", "int8", "binary"])
def test_every_rate_is_measured(loaded, key_format):
    rates = rehearse(loaded, key_format, documents=(80, 160, 400), encoded=500, repeats=3)
    assert rates.chunks == (640, 1280, 3200)
    assert len(rates.reads) == len(rates.passes) == 3
    assert min(*rates.reads, *rates.passes, rates.token) > 0


def test_a_question_is_of_the_length_asked_for(loaded):
    shortest = len(loaded.prompts.question("harbour")[0])
    for tokens in (1, shortest, 40, 200):
        prompt = rehearsal._prompt(loaded, tokens)
        assert max(tokens, shortest) <= len(prompt.ids) <= max(tokens, shortest) + 4
        assert len(prompt.roles) == len(prompt.ids)


def test_rates_are_medians_of_what_was_asked_last(loaded, monkeypatch):
    with Rehearsal(loaded, "bf16", documents=(80, 200)) as banks:
        few = [(9.0, 9.0), (1.0, 5.0), (0.0, 4.0), (8.0, 8.0)]
        many = [(9.0, 9.0), (2.0, 6.0), (0.0, 4.0), (8.0, 8.0)]
        times = iter([(7.0, 7.0)] * 8 + [*few, *many] * 2)
        monkeypatch.setattr(banks, "_asked", lambda _: next(times))
        banks.ask()
        banks.forget()
        banks.ask()
        banks.ask()
        rates = banks.rates()
    assert (rates.reads, rates.passes) == ((1.0, 2.0), (5.0, 6.0))
    assert math.isnan(rates.token)


def test_banks_beyond_the_disk_allowed_become_one_that_is_not(loaded, monkeypatch):
    monkeypatch.setattr(rehearsal, "_BANK_BYTES", 2 * 8 * 16 * 6 * 200)  # 200 documents of the tiny model
    with Rehearsal(loaded, "bf16", documents=(80, 100, 190, 300, 400)) as banks:
        banks.ask()
        assert banks.rates().chunks == (640, 1280, 1920)  # 190 documents take as many segments as 200
