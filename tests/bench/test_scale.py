import json
from functools import partial

import pytest
import torch

from memsparse.bank.tiers import TierConfig
from memsparse.bench import rehearsal, scale
from memsparse.bench.latents import Layout, grow_bank
from memsparse.bench.probe import ProbedReader
from memsparse.bench.scale import fit_layout, full_attention, growth, measure_scale, verify
from memsparse.errors import EngineError, InputError
from tests.bench.test_routing import MACHINE
from tests.engine.builders import tiny_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(scale, "measure_machine", lambda *_, **__: MACHINE)
    monkeypatch.setattr(scale, "QUESTION", "the kestrel is moored in the harbour")


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


@pytest.fixture(autouse=True)
def _short_rehearsal(monkeypatch):
    monkeypatch.setattr(scale, "Rehearsal", partial(rehearsal.Rehearsal, documents=(80, 200)))


@pytest.mark.parametrize("key_format", ["auto", "int8"])
def test_figures_of_a_growing_bank(loaded, tmp_path, key_format):
    result = measure_scale(
        loaded, [20_000, 4000, 12_000], tiers=TierConfig(routing_keys=key_format), keep=tmp_path, repeats=3
    )
    json.dumps(result, allow_nan=False)
    assert [row["asked_tokens"] for row in result["sizes"]] == [4000, 12_000, 20_000]
    assert [row["tokens"] for row in result["sizes"]] == [4000, 12_000, 20_000]
    for row in result["sizes"]:
        for name in ("first_token_ms", "route_ms", "memory_ms"):
            assert 0 < row[name]["p20"] <= row[name]["p50"] <= row[name]["p80"]
        assert row["fraction_of_floor"] > 0  # of banks that fit a processor's cache it may pass 1
        assert row["certified"] in (None, 1.0)
        assert row["full_attention"]["first_token_ms"]["p50"] > 0
        assert row["routing_keys"] == {"auto": "bf16", "int8": "int8"}[key_format]
        assert row["fallbacks"] == []
    assert result["growth"]["sizes"] == 5
    assert result["growth"]["linear_within"] >= 0
    assert list(tmp_path.glob("latents-4000-8.bank"))


def test_bytes_planned_are_bytes_measured(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("memsparse.engine.plan.TEXT_BYTES", 1.0)  # texts of a bank of latents are short
    result = measure_scale(loaded, [20_000], keep=tmp_path, repeats=1, with_peer=False)
    row = result["sizes"][0]
    assert row["planned"]["bank_bytes"] == pytest.approx(row["bank_bytes"], rel=0.1)
    assert row["planned"]["key_bytes"] == pytest.approx(row["key_bytes"], rel=0.1)
    assert row["planned"]["of_measured"] == pytest.approx(
        row["planned"]["first_token_ms"] / row["first_token_ms"]["p50"], rel=0.01
    )
    assert "full_attention" not in row


def test_a_selection_that_is_not_the_exact_one_is_refused(loaded, tmp_path):
    with grow_bank(tmp_path, loaded, Layout(segment_tokens=400, document_chunks=3), 400) as bank:
        reader = bank.reader(top_k=3, rule=loaded.config.routing_rule())
        probed = ProbedReader(reader)
        q = torch.randn(1, 4, 16)
        kv = probed.read(loaded.config.memory_layers[0], q, torch.ones(1, 4, dtype=torch.bool))
        assert probed.seconds > 0
        verify(probed, reader)
        object.__setattr__(kv, "documents", kv.documents + 1)
        object.__setattr__(kv, "scores", kv.scores - 0.1)
        with pytest.raises(EngineError, match="no figures without agreement"):
            verify(probed, reader)


def test_full_attention_that_does_not_fit_is_named(loaded, monkeypatch):
    monkeypatch.setattr(scale, "free_host_bytes", lambda: 1000)
    assert "bytes" in full_attention(loaded, 500, 1)["skipped"]


def test_a_small_disk_takes_hollow_content_or_is_refused(loaded, tmp_path, monkeypatch):
    told = []
    sizes = [100_000]
    needed = 100_000 // 4 * 2 * 16 * 2
    for free, hollow in ((10 * needed, False), (2 * needed, True)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(scale.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert fit_layout(loaded, sizes, 8, tmp_path, told.append).hollow is hollow
    assert len(told) == 1
    monkeypatch.setattr(scale.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match="larger --keep"):
        fit_layout(loaded, sizes, 8, tmp_path, told.append)


def row(chunks, milliseconds):
    return {"chunks": chunks, "route_ms": {"p50": milliseconds}}


def test_growth_is_told_against_a_line():
    linear = growth([row(10, 2.0), row(50, 6.0), row(100, 11.0)])
    assert linear == {"sizes": 10, "route": 5.5, "linear_within": pytest.approx(0)}
    assert growth([row(10, 1.0), row(50, 7.5), row(100, 10.0)])["linear_within"] == pytest.approx(0.5)
    assert growth([row(10, 1.0), row(50, 5.0)])["linear_within"] is None
    assert growth([row(10, 1.0)])["sizes"] == 0


def test_nothing_is_not_measured(loaded):
    with pytest.raises(InputError, match="at least 1"):
        measure_scale(loaded, [])
    with pytest.raises(InputError, match="at least 1"):
        measure_scale(loaded, [100], repeats=0)
