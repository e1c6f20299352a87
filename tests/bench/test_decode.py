import json
from dataclasses import replace

import pytest

from memsparse.bench import decode
from memsparse.bench.decode import measure_decode
from memsparse.engine.engine import MemoryEngine
from memsparse.errors import ConfigError, EngineError
from tests.bench.test_routing import MACHINE
from tests.engine.builders import tiny_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(decode, "measure_machine", lambda *_, **__: MACHINE)


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


def measure(loaded, **settings):
    return measure_decode(loaded, **{"documents": 8, "questions": 3, "max_new_tokens": 4, **settings})


def test_figures_alone_and_in_company(loaded):
    told = []
    result = measure(loaded, together=(1, 2), note=told.append)
    json.dumps(result, allow_nan=False)
    assert [row["together"] for row in result["together"]] == [1, 2]
    assert [row["same_answers"] for row in result["together"]] == [1, 1]
    assert result["together"][0]["times_one"] == 1
    assert result["together"][0]["latency_ms"]["p50"] > 0
    assert result["search_ms"]["p50"] > 0
    assert result["open_ms"]["p50"] > 0
    for row in result["together"]:
        assert row["questions_per_second"] == pytest.approx(3 / row["seconds"], rel=0.01)
    assert told == ["2 at once"]


def test_another_answer_in_company_is_refused_unless_it_is_a_figure(loaded, monkeypatch):
    answer_many = MemoryEngine.ask_many

    def other(engine, questions, **view):
        first, *rest = answer_many(engine, questions, **view)
        return [replace(first, text="something else"), *rest] if rest else [first]

    monkeypatch.setattr(MemoryEngine, "ask_many", other)
    with pytest.raises(EngineError, match="'something else' among 2, alone"):
        measure(loaded, together=(2,))
    result = measure(loaded, together=(2,), exact=False)
    assert result["together"][1]["same_answers"] == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize(
    "settings", [{"documents": 0}, {"questions": 0}, {"together": ()}, {"together": (0,)}]
)
def test_nothing_is_not_measured(loaded, settings):
    with pytest.raises(ConfigError, match="1 or more"):
        measure(loaded, **settings)


def test_many_questions_take_turns_in_parts(loaded, monkeypatch):
    monkeypatch.setattr(decode, "_WAVES", 1)
    sizes = []
    answer_many = MemoryEngine.ask_many

    def spy(engine, questions, **view):
        if len(questions) > 1:
            sizes.append(len(questions))
        return answer_many(engine, questions, **view)

    monkeypatch.setattr(MemoryEngine, "ask_many", spy)
    row = measure(loaded, questions=7, together=(1, 2))["together"][1]
    assert sizes == [7, 2, 2, 3]
    assert len(row["times_one_of_parts"]) == 3
    assert row["questions_per_second"] == pytest.approx(7 / row["seconds"], rel=0.01)


def test_workers_divide_what_is_under_way(loaded, monkeypatch):
    opened = []
    open_engine = MemoryEngine.open

    def spy(*place, **settings):
        opened.append((settings.get("max_batch"), settings.pop("workers", None)))
        return open_engine(*place, **settings)

    monkeypatch.setattr(MemoryEngine, "open", spy)
    result = measure(loaded, together=(1, 2, 3, 4, 6), workers=3)
    assert opened == [(None, None), (2, 2), (3, 3), (4, 2), (6, 3)]
    assert [row["workers"] for row in result["together"]] == [1, 2, 3, 2, 3]
