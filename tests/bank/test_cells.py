"""The index on the disk: made once, made again when it is missing or damaged, and of the right segments."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memsparse.bank import Bank, TierConfig, cells, probing, reader, scan_files
from memsparse.bank.cells import CellFiles, group_segments
from memsparse.bank.segments import SegmentRecord
from memsparse.errors import BankError
from memsparse.ops import cells as ops_cells
from tests.bank.builders import FINGERPRINT, add, all_tokens, flip_byte, queries

CONFIG = TierConfig(index="cells", probes=10_000)
NAME = "000001.cells.safetensors"


@pytest.fixture(autouse=True)
def every_bank_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SMALLEST", 10)
    monkeypatch.setattr(reader, "FEW", 2)
    monkeypatch.setattr(ops_cells, "CELLS_OF_ROOT", 1)  # several chunks in a cell
    monkeypatch.setattr(ops_cells, "fastest_arithmetic", lambda *_: "float32")  # the nearest centre


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed bank of two groups of segments, read once by its index."""
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [3] * 20)
        add(bank, [2] * 8, prefix="more", seed=1)
        add(bank, [1] * 10, prefix="last", seed=2)
        ask(bank)
    return tmp_path / "bank"


def ask(bank: Bank, config: TierConfig = CONFIG) -> list[list]:
    routing_q = queries()
    memory = bank.reader(top_k=4, tiers=config).read(1, routing_q, all_tokens(routing_q))
    assert bool(memory.certified.all())
    return [memory.documents.tolist(), memory.scores.tolist(), memory.chunks.tolist()]


def distances(keys: Tensor, centres: Tensor) -> Tensor:
    """(C, L), not through a matrix product, which loses small ones."""
    return torch.cdist(keys.double(), centres.double(), compute_mode="donot_use_mm_for_euclid_dist")


def side_files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "segments").iterdir() if file.name.count(".") > 1)


def record(id_: int, chunks: int) -> SegmentRecord:
    return SegmentRecord(
        id=id_, file=f"{id_:06d}.safetensors", dtype="float32", chunks=chunks, bytes=0, sha256=f"{id_:064d}"
    )


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([7], [7]),
        ([5, 5], [10]),
        ([5] * 7, [20, 10, 5]),
        ([5] * 8, [40]),
        ([1, 100, 30, 2], [101, 30, 2]),
        ([100, 50], [100, 50]),
        ([100, 51], [151]),
    ],
)
def test_groups_are_runs_of_segments_each_twice_as_large_as_the_next(
    chunks: list[int], expected: list[int]
) -> None:
    records = [record(id_ + 1, count) for id_, count in enumerate(chunks)]
    groups = group_segments(records[::-1])
    assert [group.chunks for group in groups] == expected
    assert [member for group in groups for member in group.segments] == records
    for group in groups:
        first = 0
        for member in group.segments:
            assert group.starts[member.id] == first
            first += member.chunks


def test_every_chunk_lies_in_the_cell_of_its_nearest_centre(path: Path) -> None:
    assert side_files(path) == [NAME, "000002.cells.safetensors"]
    with Bank.open(path) as bank:
        files = CellFiles(path / "segments", bank._files, FINGERPRINT, writes=False)
        for group in files.groups(bank._catalog.segments()):
            for layer in FINGERPRINT.memory_layers:
                found = files.load(group, layer)
                keys = torch.cat([bank._files.get(r).tensor(layer, "routing_k") for r in group.segments])
                assert found.order.sort().values.tolist() == list(range(group.chunks))
                away = distances(keys, found.centres)
                cell = torch.repeat_interleave(torch.arange(len(found.centres)), found.offsets.diff())
                rows = found.order.long()
                own = away[rows, cell]
                torch.testing.assert_close(own, away.amin(1)[rows], atol=1e-6, rtol=0)
                assert bool((own <= found.reach[cell]).all())
                assert bool((found.spread <= found.reach).all())
                for begin, end in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True):
                    assert bool((rows[begin:end].diff() > 0).all())
        assert bank.verify() == []


def test_it_is_made_once_and_may_be_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bank.open(path) as bank:
        exact, with_files = ask(bank, TierConfig()), bank.stats().bytes
        with monkeypatch.context() as patch:
            patch.setattr(CellFiles, "_make", None)
            assert ask(bank) == exact
        for name in side_files(path):
            (path / "segments" / name).unlink()
        assert bank.stats().bytes < with_files
        assert bank.verify() == []
    with Bank.open(path) as bank:
        assert ask(bank) == exact
        assert bank.stats().bytes == with_files


def test_segments_that_are_added_make_new_groups_of_the_small_ones(path: Path) -> None:
    before = (path / "segments" / NAME).read_bytes()
    with Bank.open(path) as bank:
        old = bank.reader(top_k=4, tiers=CONFIG)
        add(bank, [3] * 20, prefix="new", seed=3)
        assert ask(bank) == ask(bank, TierConfig())
        assert side_files(path) == [NAME]
        assert (path / "segments" / NAME).read_bytes() != before
        assert bank.verify() == []
        routing_q = queries()
        assert len(old.read(3, routing_q, all_tokens(routing_q)).documents) == 2


def test_a_process_that_knows_of_less_leaves_the_file_of_more(path: Path) -> None:
    with Bank.open(path) as bank:
        fewer = bank._catalog.segments()
        add(bank, [3] * 20, prefix="new", seed=3)
        ask(bank)
        newer = (path / "segments" / NAME).read_bytes()
        files = CellFiles(path / "segments", bank._files, FINGERPRINT, writes=True)
        group = files.groups(fewer)[0]
        assert len(files.load(group, 1).order) == group.chunks
        assert (path / "segments" / NAME).read_bytes() == newer


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_another_group(file: Path) -> None:
    file.write_bytes(file.with_name("000002.cells.safetensors").read_bytes())


def of_another_version(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"version":"1"', b'"version":"0"'))


DAMAGES = {
    "half": half,
    "empty": lambda file: file.write_bytes(b""),
    "header": lambda file: flip_byte(file, 20),
    "middle": lambda file: flip_byte(file, int(0.6 * file.stat().st_size)),
    "last": lambda file: flip_byte(file, file.stat().st_size - 1),
    "another group": of_another_group,
    "another version": of_another_version,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_found_and_made_again(path: Path, how: str) -> None:
    file = path / "segments" / NAME
    sound = file.read_bytes()
    DAMAGES[how](file)
    assert file.read_bytes() != sound
    with Bank.open(path) as bank:
        exact, routing_q = ask(bank, TierConfig()), queries()
        assert bank.verify() == [f"segments/{NAME}: it is damaged or of other segments; remove it"]
        for layer in FINGERPRINT.memory_layers:  # a flipped byte may be of either
            bank.reader(tiers=CONFIG).read(layer, routing_q, all_tokens(routing_q))
        assert ask(bank) == exact
        assert bank.verify() == []
    assert file.stat().st_size == len(sound)


@pytest.mark.parametrize("how", [None, *DAMAGES])
def test_a_reader_that_may_not_write_answers_all_the_same(path: Path, how: str | None) -> None:
    file = path / "segments" / NAME
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


def test_what_a_killed_process_left_of_it_is_swept(path: Path) -> None:
    folder = path / "segments"
    for name in (f"{NAME}.0a1b2c3d.tmp", "000009.cells.safetensors"):
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    (folder / f"{NAME}.0b2c3d4e.tmp").touch()  # somebody writes it, maybe
    with Bank.open(path, read_only=True) as bank:
        assert len(bank.verify()) == 2
    Bank.open(path).close()
    assert side_files(path) == [NAME, f"{NAME}.0b2c3d4e.tmp", "000002.cells.safetensors"]


def test_a_sample_of_a_large_group_makes_the_cells(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "LARGEST_SAMPLE", 30)
    for name in side_files(path):
        (path / "segments" / name).unlink()
    with Bank.open(path) as bank:
        assert ask(bank) == ask(bank, TierConfig())
        files = CellFiles(path / "segments", bank._files, FINGERPRINT, writes=False)
        assert len(files.load(files.groups(bank._catalog.segments())[0], 1).centres) <= 30


def test_tables_that_do_not_fit_are_not_sound(path: Path) -> None:
    with Bank.open(path) as bank:
        files = CellFiles(path / "segments", bank._files, FINGERPRINT, writes=False)
        found = files.load(files.groups(bank._catalog.segments())[0], 1)
        chunks, width = len(found.order), FINGERPRINT.width
        assert found.is_sound(chunks, width)
        assert not found.is_sound(chunks + 1, width)
        assert not found.is_sound(chunks, width + 1)
        assert not replace(found, offsets=found.offsets + 1).is_sound(chunks, width)
        assert not replace(found, offsets=found.offsets.flip(0)).is_sound(chunks, width)
        assert not replace(found, order=found.order.long()).is_sound(chunks, width)


def test_an_index_is_made_ahead_with_progress(tmp_path: Path) -> None:
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [3] * 20)
        add(bank, [1] * 5, prefix="small", seed=1)  # a group too small for an index
        told: list[tuple[int, int]] = []
        assert bank.make_index(lambda done, total: told.append((done, total))) == 60
        total = 60 * len(FINGERPRINT.memory_layers)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (total, total)
        assert {of for _, of in told} == {total}
        assert side_files(tmp_path / "bank") == [NAME]
        told.clear()
        assert bank.make_index(lambda done, total: told.append((done, total))) == 60
        assert told == [(total, total)]
    with Bank.create(tmp_path / "empty", FINGERPRINT) as bank:
        assert bank.make_index() == 0


def test_an_index_that_cannot_be_kept_is_made_once_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scan_files, "save_file", full)
    with Bank.create(tmp_path / "bank", FINGERPRINT) as bank:
        add(bank, [3] * 20)
        told: list[int] = []
        with pytest.raises(BankError, match="cannot be written"):
            bank.make_index(lambda done, total: told.append(done))
        assert told[-1] == 60 * len(FINGERPRINT.memory_layers) == max(told)
        assert ask(bank) is not None
