import pytest

from memsparse.bench import rehearsal
from memsparse.bench.rehearsal import rehearse
from tests.engine.builders import tiny_model


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


@pytest.mark.parametrize("key_format", ["bf16", "int8", "binary"])
def test_every_rate_is_measured(loaded, key_format):
    rates = rehearse(loaded, key_format, documents=(80, 200), encoded=500, repeats=3)
    assert rates.question > 0
    assert rates.token > 0
    assert rates.read >= 0
    assert 0 < rates.chunk < 1e-3


def test_a_question_is_of_the_length_asked_for(loaded):
    shortest = len(loaded.prompts.question("harbour")[0])
    for tokens in (1, shortest, 40, 200):
        prompt = rehearsal._prompt(loaded, tokens)
        assert max(tokens, shortest) <= len(prompt.ids) <= max(tokens, shortest) + 4
        assert len(prompt.roles) == len(prompt.ids)


def test_rates_are_a_line_through_two_banks(loaded, monkeypatch):
    reads = iter([(0.040, 0.5), (0.060, 0.7)])
    monkeypatch.setattr(rehearsal, "_asked", lambda *_: next(reads))
    rates = rehearse(loaded, "bf16", documents=(80, 200), encoded=500)
    layers = len(loaded.config.memory_layers)
    assert rates.question == pytest.approx(0.6)
    assert layers * (640 * rates.chunk + rates.read) == pytest.approx(0.040)
    assert layers * (1920 * rates.chunk + rates.read) == pytest.approx(0.060)  # three segments of 640


def test_noise_does_not_make_a_chunk_free(loaded, monkeypatch):
    reads = iter([(0.050, 0.5), (0.010, 0.5)])
    monkeypatch.setattr(rehearsal, "_asked", lambda *_: next(reads))
    rates = rehearse(loaded, "bf16", documents=(80, 200), encoded=500)
    assert rates.chunk > 0
    assert rates.read >= 0
