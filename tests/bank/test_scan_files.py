import os
from pathlib import Path

import pytest
import torch

from memsparse.bank import Bank, TierConfig, reader, scan_files, tiers
from memsparse.bank.scan_files import LOSSY, ScanFiles
from memsparse.ops.quantization import KeyFormat, quantize_keys
from tests.bank.builders import FINGERPRINT, add, all_tokens, flip_byte, queries

CONFIG = TierConfig(routing_keys="int8")


@pytest.fixture(autouse=True)
def every_bank_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "WORTH_A_FILE", 0)
    monkeypatch.setattr(reader, "FEW", 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed bank of two segments, read once in int8."""
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [3] * 20)
        add(bank, [2] * 15, prefix="more", seed=1)
        ask(bank)
    return tmp_path / "bank"


def ask(bank: Bank, config: TierConfig = CONFIG):
    routing_q = queries()
    found = [bank.reader(top_k=4, tiers=config).read(1, routing_q, all_tokens(routing_q))]
    assert found[0].certified is not None
    return [item for memory in found for item in (memory.documents.tolist(), memory.scores.tolist())]


def side_files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "segments").iterdir() if file.name.count(".") > 1)


@pytest.mark.parametrize("key_format", LOSSY)
def test_what_is_written_is_what_is_quantised(path: Path, key_format: KeyFormat) -> None:
    with Bank.open(path) as bank:
        files = ScanFiles(path / "segments", bank._files, FINGERPRINT, writes=True)
        for record in bank.layout().segments.values():
            for layer in FINGERPRINT.memory_layers:
                stored = bank._files.get(record).tensor(layer, "routing_k")
                expected = quantize_keys(stored, key_format)
                for keys in (files.load(record, layer, key_format, keep=keep) for keep in (True, False)):
                    assert keys.codes.view(torch.uint8).equal(expected.codes.view(torch.uint8))
                    assert keys.scales.equal(expected.scales)
                    assert keys.errors.equal(expected.errors)
                    assert keys.norms.equal(expected.norms)
        assert f"000001.{key_format}.safetensors" in side_files(path)
        assert bank.verify() == []


def test_side_files_are_made_once_and_may_be_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert side_files(path) == ["000001.int8.safetensors", "000002.int8.safetensors"]
    with Bank.open(path) as bank:
        exact = ask(bank, TierConfig())
        with_files = bank.stats().bytes
        with monkeypatch.context() as patch:
            patch.setattr(scan_files, "quantize_keys", None)
            assert ask(bank) == exact
        for name in side_files(path):
            (path / "segments" / name).unlink()
        assert bank.stats().bytes < with_files
        assert bank.verify() == []
        assert ask(bank) == exact
    assert side_files(path) == ["000001.int8.safetensors", "000002.int8.safetensors"]


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(at: float):
    return lambda file: flip_byte(file, int(at * file.stat().st_size))


def of_another_segment(file: Path) -> None:
    file.write_bytes(file.with_name("000002.int8.safetensors").read_bytes())


def of_another_version(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"version":"1"', b'"version":"0"'))


def no_file(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = {
    "half": half,
    "empty": no_file,
    "header": flipped(0.02),
    "first": flipped(0.5),
    "middle": flipped(0.8),
    "last": lambda file: flip_byte(file, file.stat().st_size - 1),
    "another segment": of_another_segment,
    "another version": of_another_version,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_side_file_is_found_and_made_again(path: Path, how: str) -> None:
    file = path / "segments" / "000001.int8.safetensors"
    sound = file.read_bytes()
    DAMAGES[how](file)
    damaged = file.read_bytes()
    assert damaged != sound
    with Bank.open(path) as bank:
        exact = ask(bank, TierConfig())
        assert bank.verify() == [
            "segments/000001.int8.safetensors: it is damaged or of another segment; remove it"
        ]
        routing_q = queries()
        for layer in FINGERPRINT.memory_layers:  # a flipped byte may be of either
            bank.reader(tiers=CONFIG).read(layer, routing_q, all_tokens(routing_q))
        assert ask(bank) == exact
        assert bank.verify() == []
    assert file.stat().st_size == len(sound)


@pytest.mark.parametrize("how", [None, *DAMAGES])
def test_a_reader_that_may_not_write_answers_all_the_same(path: Path, how: str | None) -> None:
    file = path / "segments" / "000001.int8.safetensors"
    if how is None:
        file.unlink()
    else:
        DAMAGES[how](file)
    before = {name: (path / "segments" / name).read_bytes() for name in side_files(path)}
    with Bank.open(path, read_only=True) as bank:
        assert ask(bank) == ask(bank, TierConfig())
    assert {name: (path / "segments" / name).read_bytes() for name in side_files(path)} == before


def test_a_disk_that_refuses_is_asked_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(file: Path) -> None:
        asked.append(file)
        raise OSError(28, "No space left on device")

    for name in side_files(path):
        (path / "segments" / name).unlink()
    monkeypatch.setattr(scan_files, "flush", full)
    with Bank.open(path) as bank:
        assert ask(bank) == ask(bank, TierConfig())
    assert len(asked) == 1
    assert side_files(path) == []


def test_small_banks_have_no_side_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [3] * 80)
        assert ask(bank) == ask(bank, TierConfig())
    assert side_files(tmp_path / "bank") == []


def test_orphans_are_swept_and_other_files_are_not(path: Path) -> None:
    folder = path / "segments"
    orphans = [
        "000009.int8.safetensors",
        "000001.int8.safetensors.0a1b2c3d.tmp",
        "000001.int8.safetensors.tmp",
    ]
    for name in [*orphans, "000001.notes.txt"]:
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    (folder / "000001.int8.safetensors.0b2c3d4e.tmp").touch()  # somebody writes it, maybe
    with Bank.open(path, read_only=True) as bank:
        assert len(bank.verify()) == 3
    Bank.open(path).close()
    assert sorted(os.listdir(folder)) == [
        "000001.int8.safetensors",
        "000001.int8.safetensors.0b2c3d4e.tmp",
        "000001.notes.txt",
        "000001.safetensors",
        "000002.int8.safetensors",
        "000002.safetensors",
    ]
