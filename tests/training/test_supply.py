import json

import pytest

from memsparse.errors import ConfigError
from memsparse.training import supply
from memsparse.training import trainer as trainer_module
from memsparse.training.trainer import Trainer
from tests.training.builders import calls_phase, recipe, tokenizer, write_reading
from tests.training.test_trainer import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_time_is_spent_on_the_machines_peak(monkeypatch):
    monkeypatch.setattr(trainer_module, "matrix_peak", lambda *_: 1e12)


def trainer(out, config):
    return Trainer(config, tokenizer(), out)


def test_a_phase_that_cleans_leaves_questions_out_from_its_first_step_on(tmp_path, monkeypatch):
    files = write_reading(tmp_path)
    asked = []

    def unfit(model, prompts, reading, *, share, seed):
        asked.append((share, reading.asked))
        return [["0/q1", "0/q2"], ["0/q3"]][len(asked) - 1]

    monkeypatch.setattr(supply.cleaning, "unfit", unfit)
    phase = {"reading_share": 1.0, "documents": 4, "max_document_tokens": 160}
    config = recipe(
        calls_phase(2, **phase),
        calls_phase(2, name="second", clean=0.3, **phase),
        calls_phase(2, name="third", clean=0.1, **phase),
        reading=files,
    )
    trainer(tmp_path / "straight", config).train()
    assert asked == [(0.3, 6), (0.1, 4)]
    kept = [
        json.loads((tmp_path / "straight" / f"cleaned-{name}.json").read_text())
        for name in ("second", "third")
    ]
    assert kept == [["0/q1", "0/q2"], ["0/q3"]]
    for stop in (1, 2, 3, 5, 6):
        if stop == 3:
            asked.clear()
        trainer(tmp_path / "slices", config).train(until=stop)
    assert len(asked) == 2
    assert_same(tmp_path / "straight", tmp_path / "slices")
    each = trainer(tmp_path / "slices", config)
    assert [each.supply.clean_reading(start, None).asked for start in (0, 2, 3, 4)] == [6, 4, 4, 3]
    (tmp_path / "slices" / "cleaned-second.json").unlink()
    with pytest.raises(ConfigError, match=r"no .*cleaned-second\.json, which phase 'second' began with"):
        each.supply.clean_reading(3, None)


def test_a_share_of_the_questions_is_really_measured_and_left_out(tmp_path):
    config = recipe(
        calls_phase(1, reading_share=1.0, documents=4, max_document_tokens=160),
        calls_phase(1, name="second", clean=0.5, reading_share=1.0, documents=4, max_document_tokens=160),
        reading=write_reading(tmp_path),
    )
    each = trainer(tmp_path / "run", config)
    each.train()
    ids = json.loads((tmp_path / "run" / "cleaned-second.json").read_text())
    assert 1 <= len(ids) <= 3
    assert each.supply.clean_reading(1, None).asked == each.supply.reading.asked - len(ids)
    assert each.model.training
