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


def test_what_caches_do_not_hold_is_added(loaded, monkeypatch):
    """A chunk's time is that of a large bank, though the banks asked are small."""
    settings = {"documents": (80, 200), "encoded": 500, "repeats": 3}
    monkeypatch.setattr(rehearsal, "_scanning", lambda *_: [1e-3, 1e-3, 0.0])
    small = rehearse(loaded, "bf16", **settings)
    monkeypatch.setattr(rehearsal, "_scanning", lambda *_: [1e-3, 1e-3, 1e6])
    assert rehearse(loaded, "bf16", **settings).chunk > small.chunk + 1e-3


def test_a_chunk_never_takes_less_than_its_scan(loaded, monkeypatch):
    monkeypatch.setattr(rehearsal, "_scanning", lambda *_: [0.0, 1e3, 1e6])  # what is subtracted is more
    assert rehearse(loaded, "bf16", documents=(80, 200), encoded=500, repeats=2).chunk > 0
