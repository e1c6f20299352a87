import json
from dataclasses import replace

import pytest
import torch

from memsparse.bench import encode
from memsparse.bench.encode import invented_passages, measure_encode, plain_forward, verify
from memsparse.engine.encoder import Encoder
from memsparse.errors import ConfigError, EngineError
from tests.bench.test_routing import MACHINE
from tests.engine.builders import tiny_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(encode, "measure_machine", lambda *_, **__: replace(MACHINE, peaks={"float32": 1e13}))


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


def test_figures_beside_a_plain_pass(loaded):
    told = []
    result = measure_encode(loaded, 600, document_tokens=64, repeats=3, note=told.append)
    json.dumps(result, allow_nan=False)
    assert result["forms"].keys() == {"encode", "plain forward"}
    for form in result["forms"].values():
        assert 0 < form["p20"] <= form["p50"] <= form["p80"]
        assert form["tokens_per_second"] > 0
        assert 0 <= form["fraction_of_peak"] <= 1.2
    assert result["forms"]["encode"]["flops"] < result["forms"]["plain forward"]["flops"]
    assert result["chunks"] >= result["tokens"] / loaded.config.chunk_size
    assert len(told) == 1


@pytest.mark.parametrize(("tokens", "room"), [(50, 40), (900, 64), (900, 500)])
def test_passages_are_about_as_long_as_the_model_takes(loaded, tokens, room):
    encoder = Encoder(loaded, max_document_tokens=room)
    passages = invented_passages(encoder, loaded, tokens, 0)
    lengths = [len(loaded.prompts.document(p.number, encoder.body(p))) for p in passages]
    assert [passage.number for passage in passages] == list(range(len(passages)))
    assert max(lengths) <= room
    assert sum(lengths) >= tokens
    assert sum(lengths) < 2 * tokens + 3 * room


def test_chunks_that_differ_from_those_of_the_passage_alone_are_refused(loaded):
    encoder = Encoder(loaded, max_document_tokens=64)
    passages = invented_passages(encoder, loaded, 300, 0)
    chunks = encoder.encode(passages)
    verify(encoder, passages, chunks)
    with torch.inference_mode():
        chunks.v[3][0] += 1
    with pytest.raises(EngineError, match="v of layer 3 differs"):
        verify(encoder, passages, chunks)
    with torch.inference_mode():
        chunks.k[2][0] = torch.nan
    with pytest.raises(EngineError, match="k of layer 2 differs"):
        verify(encoder, passages, chunks)


def test_a_plain_pass_runs_every_row(loaded, monkeypatch):
    seen = []
    forward = loaded.model.model.forward
    monkeypatch.setattr(
        loaded.model.model, "forward", lambda **kw: (seen.append(kw["input_ids"].shape), forward(**kw))[1]
    )
    plain_forward(loaded, [[1] * 5, [2] * 9, [3] * 7], 64)
    assert [tuple(shape) for shape in seen] == [(2, 9), (1, 5)]


@pytest.mark.parametrize("settings", [{"tokens": 0}, {"tokens": 10, "repeats": 0}])
def test_nothing_is_not_measured(loaded, settings):
    with pytest.raises(ConfigError, match="at least 1"):
        measure_encode(loaded, **settings)
