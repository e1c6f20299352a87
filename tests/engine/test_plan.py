from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memsparse.bank import Bank
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.hardware import of_machine, read_hardware
from memsparse.engine.loading import load_model
from memsparse.engine.plan import Rates, memory_of, plan_memory, weight_bytes
from memsparse.errors import ConfigError
from memsparse.model.shapes import shape_config
from memsparse.ops.quantization import quantize_keys
from memsparse.training.world import generate_world
from tests.bank.builders import FINGERPRINT, make_chunks, make_passages
from tests.engine.test_hardware import CPU
from tests.tiny import tiny_config

HERE = of_machine(CPU)
SHAPE = shape_config("4b")


def tier(plan, name):
    return next(each for each in plan.tiers if each.name == name)


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A bank that the engine built of texts with the shipped model."""
    path = tmp_path_factory.mktemp("plan") / "world.bank"
    loaded = load_model(None)
    with MemoryEngine.open(path, loaded) as engine:
        engine.add(generate_world(5, documents=120, questions=1, split="heldout").documents)
    return path, loaded


def test_bytes_are_those_of_a_bank_that_was_built(built):
    path, loaded = built
    with Bank.open(path) as bank:
        stats, layers = bank.stats(), bank.fingerprint.memory_layers
        reader = bank.reader()
        for layer in layers:
            q = torch.randn(1, 2, bank.fingerprint.width)
            reader.read(layer, q, torch.ones(1, 2, dtype=torch.bool))
        keys = reader.report().key_bytes
    plan = plan_memory(
        loaded.config, HERE, stats.tokens, document_tokens=round(stats.tokens / stats.passages)
    )
    assert plan.memory.chunks == pytest.approx(stats.chunks, rel=0.05)
    assert plan.memory.documents == pytest.approx(stats.passages, rel=0.05)
    assert tier(plan, "disk").bytes == pytest.approx(file_bytes(path), rel=0.1)
    assert plan.key_bytes[plan.routing_keys] == pytest.approx(keys, rel=0.1)
    weights = sum(parameter.numel() for parameter in loaded.model.parameters()) * 2
    assert weight_bytes(loaded.config) == weights


def test_bytes_are_those_of_random_latents_at_the_published_shape(tmp_path):
    fingerprint = replace(
        FINGERPRINT,
        chunk_size=64,
        memory_layers=tuple(SHAPE.memory_layers),
        kv_heads=8,
        head_dim=128,
        dtype="bfloat16",
    )
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 700, (24,), generator=generator).tolist()
    chunks = make_chunks([-(-length // 64) for length in lengths], fingerprint)
    with Bank.create(tmp_path / "latents.bank", fingerprint) as bank:
        passages = make_passages(list(bank.reserve(24)))
        bank.commit(passages, replace(chunks, tokens_per_passage=tuple(lengths)))
    plan = plan_memory(SHAPE, HERE, sum(lengths), document_tokens=sum(lengths) // 24)
    for key_format in ("float32", "bf16", "fp8", "int8", "int4", "binary"):
        held = sum(quantize_keys(keys.float(), key_format).nbytes for keys in chunks.routing_k.values())
        assert plan.key_bytes[key_format] == pytest.approx(held, rel=0.1)
    assert tier(plan, "disk").bytes == pytest.approx(file_bytes(tmp_path), rel=0.1)


def test_the_shape_of_100_million_tokens_is_that_of_the_design():
    memory = memory_of(SHAPE, 10**8, document_tokens=2048)
    assert (memory.layers, memory.width) == (18, 1024)
    assert memory.chunks == pytest.approx(1_562_500, rel=0.02)
    assert memory.stored_key_bytes == pytest.approx(57.6e9, rel=0.02)
    assert memory.key_bytes("int8") == pytest.approx(28.9e9, rel=0.03)
    assert memory.key_bytes("binary") == pytest.approx(3.6e9, rel=0.12)
    assert weight_bytes(SHAPE) == pytest.approx(8.5e9, rel=0.02)


def test_one_card_of_80_gb_holds_100_million_tokens():
    plan = plan_memory(SHAPE, read_hardware("1x80GB", "512GB"), 10**8)
    assert (plan.routing_keys, plan.routing_keys_in) == ("int8", "device")
    assert tier(plan, "device").bytes <= 40e9
    assert all(each.fits for each in plan.tiers)
    binary = plan_memory(SHAPE, read_hardware("1x80GB"), 10**8, routing_keys="binary")
    assert tier(binary, "device").bytes <= 16e9
    two = plan_memory(SHAPE, read_hardware("2x80GB", "512GB"), 10**8)
    assert two.routing_keys == "bf16"
    assert tier(two, "device").bytes < 80e9


def test_what_does_not_fit_goes_one_tier_down():
    small = plan_memory(SHAPE, read_hardware("1x24GB", "64GB"), 10**8)
    assert small.routing_keys == "binary"
    assert not tier(small, "host").fits
    host = plan_memory(SHAPE, read_hardware("1x24GB", "64GB"), 10**8, routing_keys="int8")
    assert host.routing_keys_in == "host"
    assert host.question.route > 10 * small.question.route
    disk = plan_memory(SHAPE, read_hardware("1x24GB", "64GB"), 10**9, routing_keys="int8")
    assert disk.routing_keys_in == "disk"
    crowded = replace(HERE, host_bytes=10**9)
    assert not tier(plan_memory(SHAPE, crowded, 10**6), "device").fits


def test_times_follow_size_and_hardware():
    config = load_model(None).config
    one, ten = (plan_memory(config, HERE, tokens) for tokens in (10**7, 10**8))
    assert ten.encode_seconds == pytest.approx(10 * one.encode_seconds, rel=0.01)
    assert ten.question.route == pytest.approx(10 * one.question.route, rel=0.1)
    question = one.question
    assert question.first_token == pytest.approx(question.route + question.fetch + question.prefill)
    assert question.bound == "matrix"  # 4e11 FLOP/s, 2e10 bytes/s, 32 tokens
    assert plan_memory(config, HERE, 10**7, question_tokens=1).question.bound == "bandwidth"
    faster = plan_memory(config, replace(HERE, peak=4e12), 10**7)
    assert faster.encode_seconds == pytest.approx(one.encode_seconds / 10)
    fastest = plan_memory(config, replace(HERE, peak=4e15), 10**7)
    written = [item.bytes for item in tier(fastest, "disk").items if item.what != "routing keys, int8"]
    assert fastest.encode_seconds == pytest.approx(sum(written) / HERE.disk)
    two = plan_memory(SHAPE, read_hardware("2xa100"), 10**7)
    alone = plan_memory(SHAPE, read_hardware("1xa100"), 10**7)
    assert two.encode_seconds == pytest.approx(alone.encode_seconds / 2)


def test_measured_rates_take_the_place_of_assumed_ones():
    config = load_model(None).config
    asked = []

    def rates(key_format):
        asked.append(key_format)
        return Rates(chunks=(10**5, 2 * 10**5), reads=(0.002, 0.003), passes=(4e-3, 5e-3), token=1e-5)

    plan = plan_memory(config, HERE, 10**7, rates=rates, routing_keys="bf16")
    assert asked == ["bf16"]
    assert plan.memory.chunks > 2 * 10**5
    assert plan.question.route == pytest.approx(plan.memory.chunks * 1e-8 + 1e-3)
    assert plan.question.first_token == pytest.approx(plan.question.route + 5e-3)
    assert plan.encode_seconds == pytest.approx(100)
    assert not any("matrix peak" in line for line in plan.assumptions)


def test_rates_between_and_beyond_banks_that_were_asked():
    rates = Rates(chunks=(100, 200, 400), reads=(1.0, 2.0, 6.0), passes=(3.0, 4.0, 5.0), token=1.0)
    asked = (10, 100, 150, 300, 400, 500)
    assert [rates.route(chunks) for chunks in asked] == pytest.approx([1, 1, 1.5, 4, 6, 8])
    assert [rates.prefill(chunks) for chunks in asked] == pytest.approx([3, 3, 3.5, 4.5, 5, 5])


def test_noise_does_not_make_a_chunk_free():
    rates = Rates(chunks=(100, 200), reads=(3.0, 2.0), passes=(3.0, 4.0), token=1.0)
    assert rates.route(400) == pytest.approx(4)


def test_assumptions_are_told():
    plan = plan_memory(SHAPE, read_hardware("h200"), 10**6, document_tokens=300)
    told = " ".join(plan.assumptions)
    for part in ("data sheet", "host memory is this machine's", "300 tokens", "bytes of text", "matrix peak"):
        assert part in told


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"document_tokens": 0}, {"routing_keys": "int3"}, {"question_tokens": 0}]
)
def test_wrong_settings_are_refused(wrong):
    settings = {"tokens": 1000, **wrong}
    with pytest.raises(ConfigError):
        plan_memory(SHAPE, HERE, settings.pop("tokens"), **settings)


def test_a_model_without_memory_is_refused():
    with pytest.raises(ConfigError, match="no memory layers"):
        plan_memory(tiny_config(memory_layers=[]), HERE, 1000)
