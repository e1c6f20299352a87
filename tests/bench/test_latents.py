import os

import pytest
import torch

from memsparse.bench import latents
from memsparse.bench.latents import (
    Layout,
    grow_bank,
    layout_for,
    random_chunks,
    random_model,
    segment_bytes,
    segments_for,
)
from memsparse.engine.loading import load_model
from memsparse.errors import BankMismatchError, ConfigError
from tests.bank.builders import FINGERPRINT
from tests.bench.builders import CPU
from tests.engine.builders import tiny_model
from tests.tiny import tiny_config

TINY = Layout(segment_tokens=80, document_chunks=3)


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


def on_disk(bank):
    return sum(path.stat().st_blocks * 512 for path in (bank.path / "segments").iterdir())


def test_a_bank_grows_to_what_is_asked_and_goes_on_from_there(tmp_path, loaded):
    with grow_bank(tmp_path, loaded, TINY, 200) as bank:
        assert bank.version == segments_for(TINY, 200) == 3
        assert bank.stats().chunks == 3 * 80 // loaded.config.chunk_size
        assert bank.stats().tokens == 240
        assert bank.verify() == []
        files = {path: path.stat().st_mtime_ns for path in (bank.path / "segments").iterdir()}
    with grow_bank(tmp_path, loaded, TINY, 300) as bank:
        assert bank.version == 4
        assert all(path.stat().st_mtime_ns == time for path, time in files.items())
        assert len(bank.reader(version=1)) < len(bank.reader(version=2))
    with grow_bank(tmp_path, loaded, TINY, 80) as bank:
        assert bank.version == 4


def test_a_bank_of_another_model_is_not_used(tmp_path, loaded):
    grow_bank(tmp_path, loaded, TINY, 80).close()
    with pytest.raises(BankMismatchError):
        grow_bank(tmp_path, tiny_model(seed=1), TINY, 80)


def test_counts_are_the_same_at_every_call_and_fill_the_segment():
    counts = TINY.counts(7, 4)
    assert torch.equal(counts, TINY.counts(7, 4))
    assert int(counts.sum()) == 20
    assert int(counts.min()) >= 1
    assert int(counts.max()) <= 5
    assert not torch.equal(counts, TINY.counts(8, 4))


def test_hollow_content_takes_no_disk_and_the_bank_is_sound(tmp_path, loaded):
    hollow = layout_for([40_000], 3, hollow=True)
    with grow_bank(tmp_path, loaded, hollow, 40_000) as bank:
        size = sum(path.stat().st_size for path in (bank.path / "segments").iterdir())
        if not os.path.exists("/proc") or on_disk(bank) == size:
            pytest.skip("this file system has no holes")
        assert on_disk(bank) < size / 2
        assert segment_bytes(hollow, loaded.config) < size / 2
        assert bank.verify() == []
        assert len(bank.reader()) == bank.stats().documents


def test_routing_keys_are_normalised_and_content_is_not_nothing():
    counts = torch.tensor([2, 1, 4])
    chunks = random_chunks(FINGERPRINT, counts, seed=0)
    chunks.check(FINGERPRINT, 3)
    heads = chunks.routing_k[1].float().view(7, 2, 4)
    torch.testing.assert_close(heads.norm(dim=-1), torch.ones(7, 2))
    assert float(chunks.k[1].std()) > 0.1
    assert not torch.equal(chunks.routing_k[1], chunks.routing_k[3])
    hollow = random_chunks(FINGERPRINT, counts, seed=0, hollow=True)
    assert float(hollow.k[1].abs().max()) == 0


def test_sizes_are_cut_into_segments():
    assert layout_for([5_000, 20_000], 8).segment_tokens == 5_000
    assert layout_for([10**6, 10**7], 8).segment_tokens == 10**6
    assert layout_for([10**6, 10**9], 8).segment_tokens == 10**7
    with pytest.raises(ConfigError, match="0 chunks"):
        layout_for([100], 0)


def test_a_random_model_runs_at_its_shape(monkeypatch):
    monkeypatch.setattr(latents, "_BLOCK", 1000)
    built_in = load_model(None)
    config = tiny_config(vocab_size=built_in.config.vocab_size)
    loaded = random_model(config, CPU)
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.prompts is not None
    ids = torch.tensor([[5, 6, 7]])
    logits = loaded.model(input_ids=ids).logits.detach()
    assert bool(torch.isfinite(logits).all())
    assert float(logits.float().std()) > 0
    same = random_model(config, CPU)
    assert torch.equal(logits, same.model(input_ids=ids).logits.detach())


def test_a_random_model_needs_room_for_the_tokenizer():
    with pytest.raises(ConfigError, match="the tokenizer"):
        random_model(tiny_config(), CPU)
