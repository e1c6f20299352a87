import json
from dataclasses import replace

import pytest
import torch

from memsparse.bench import routing
from memsparse.bench.forms import Form, Ranking, exact_ranking, fold, ours, published
from memsparse.bench.routing import certified_share, floor_seconds, measure_routing, verify
from memsparse.errors import ConfigError, EngineError
from memsparse.machine import Machine
from tests.bench.builders import CPU, case, config

MACHINE = Machine(
    name="made up",
    device="cpu",
    cores=1,
    threads=1,
    host_bytes=2**30,
    accelerators=0,
    accelerator_bytes=0,
    bandwidth=1e9,
    peaks={"float32": 1e9, "bfloat16": 4e9},
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(routing, "measure_machine", lambda *_, **__: MACHINE)


def test_figures_of_two_sizes(quick):
    told = []
    result = measure_routing(
        config(), [300, 40], CPU, formats=("bf16", "int8"), tokens=5, repeats=3, questions=9, note=told.append
    )
    json.dumps(result, allow_nan=False)
    assert [size["chunks"] for size in result["sizes"]] == [40, 300]
    assert result["sizes"][1]["tokens"] == 300 * config().chunk_size
    assert {"machine", "versions", "commit", "device", "threads", "load_average"} <= result.keys()
    for size in result["sizes"]:
        for name, form in size["forms"].items():
            assert 0 < form["p20"] <= form["p50"] <= form["p80"]
            assert form["largest_score_difference"] < (1e-6 if form["recall"] is None else 0.1), name
        for name in ("ours bf16", "ours int8"):
            form = size["forms"][name]
            assert 0 < form["fraction_of_floor"] <= 1.2
            assert 0 < form["scan_fraction_of_floor"] <= 1.2
            assert (form["certified"], form["equal"], form["questions"]) == (1.0, 1.0, 9)
            assert {"published", "grouped", "matmul"} <= form["faster_than"].keys()
            assert form["all_layers_ms"] == pytest.approx(2 * form["p50"], abs=1e-3)
    assert told[:1] == ["40 chunks"]


def test_the_larger_of_reading_and_multiplying_is_the_floor():
    made = case(100)  # 1 x 5 tokens x 100 chunks x 16
    form = Form(name="ours int8", run=published, format="int8", key_bytes=10**6)
    assert floor_seconds(made, form, MACHINE) == (1e-3, "bandwidth")
    seconds, bound = floor_seconds(made, replace(form, key_bytes=1), MACHINE)
    assert (seconds, bound) == (pytest.approx(2 * 5 * 100 * 16 / 4e9), "matrix")
    seconds, _ = floor_seconds(made, replace(form, key_bytes=1, format="float32"), MACHINE)
    assert seconds == pytest.approx(2 * 5 * 100 * 16 / 1e9)


def wrong(made):
    found = exact_ranking(made)
    return Ranking(scores=found.scores, documents=found.documents.flip(1))


def test_no_figures_without_agreement(quick, monkeypatch):
    made = case()
    with pytest.raises(EngineError, match=r"peer ranks .* no figures without agreement"):
        verify(made, Form(name="peer", run=wrong), exact_ranking(made))
    monkeypatch.setattr(routing, "peers", lambda _: ([Form(name="peer", run=wrong)], {}))
    with pytest.raises(EngineError, match="peer ranks"):
        measure_routing(config(), [60], CPU, repeats=1, questions=0)


def test_scores_that_float32_cannot_tell_apart_may_change_places(quick):
    made = case()
    asked = fold(made)[0, 0]
    for document in (3, 7):
        made.flat_keys[made.doc_of_chunk == document] = (asked / asked.norm()).bfloat16()
    wanted = exact_ranking(made)

    def swapped(_):
        documents = wanted.documents.clone()
        documents[wanted.documents == 3], documents[wanted.documents == 7] = 7, 3
        return Ranking(scores=wanted.scores, documents=documents)

    assert bool((wanted.documents == 3).any())
    verify(made, Form(name="peer", run=swapped), wanted)


def test_an_approximate_peer_has_a_recall_instead():
    made = case()
    _, share = verify(made, Form(name="peer", run=wrong, exact="recall"), exact_ranking(made))
    assert share == 1
    _, share = verify(made, Form(name="published", run=published), exact_ranking(made))
    assert share is None


def test_a_false_certificate_is_an_error():
    made = case()

    def lie(asked):
        found = wrong(asked)
        yes = torch.ones(len(asked.queries), dtype=torch.bool)
        return replace(found, certified=yes, rescored=yes.long())

    with pytest.raises(EngineError, match="certified documents that are not"):
        certified_share(made, Form(name="ours int8", run=lie, format="int8"), config(), 3, 0)
    with pytest.raises(EngineError, match="certifies nothing"):
        certified_share(made, Form(name="published", run=published), config(), 3, 0)
    honest = certified_share(made, ours(made, "int8"), config(), 0, 0)
    assert honest["certified"] is None


@pytest.mark.parametrize(
    "settings", [{"formats": ("int3",)}, {"repeats": 0}, {"questions": -1}, {"batch": 0}]
)
def test_bad_settings_are_refused(quick, settings):
    with pytest.raises(ConfigError):
        measure_routing(config(), [20], CPU, **settings)
