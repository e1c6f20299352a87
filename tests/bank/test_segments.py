import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from memsparse.bank import segments
from memsparse.bank.segments import SegmentFiles, file_sha256, stray_files, write_segment
from memsparse.errors import BankCorruptError, BankError, ShapeError
from tests.bank.builders import FINGERPRINT, flip_byte, make_chunks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_written_is_read_bit_by_bit(tmp_path, dtype):
    fingerprint = replace(FINGERPRINT, dtype=dtype)
    chunks = make_chunks([2, 1, 3], fingerprint)
    record = write_segment(tmp_path, 7, chunks, dtype=dtype)
    assert (record.file, record.chunks) == ("000007.safetensors", 6)
    assert record.bytes == (tmp_path / record.file).stat().st_size
    assert record.sha256 == file_sha256(tmp_path / record.file)
    assert [path.name for path in tmp_path.iterdir()] == [record.file]
    segment = SegmentFiles(tmp_path, fingerprint).get(record)
    for layer in fingerprint.memory_layers:
        assert torch.equal(segment.tensor(layer, "routing_k"), chunks.routing_k[layer])
        assert torch.equal(segment.tensor(layer, "k"), chunks.k[layer])
        assert torch.equal(segment.tensor(layer, "v"), chunks.v[layer])


def test_views_of_one_tensor_can_be_written(tmp_path):
    chunks = make_chunks([2])
    both = torch.randn(2, 2, 2, 4)
    chunks = replace(chunks, k={1: both[0], 3: both[0]}, v={1: both[1], 3: both[0].transpose(0, 1)})
    segment = SegmentFiles(tmp_path, FINGERPRINT).get(write_segment(tmp_path, 1, chunks, dtype="float32"))
    assert torch.equal(segment.tensor(1, "v"), both[1])
    assert torch.equal(segment.tensor(3, "v"), both[0].transpose(0, 1))


def test_chunks_that_fit_pass_the_check():
    make_chunks([2, 1]).check(FINGERPRINT, 2)
    make_chunks([]).check(FINGERPRINT, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chunks_per_passage": (2,)}, "1 counts of chunks for 2 passages"),
        ({"tokens_per_passage": (1, 2, 3)}, "3 counts of tokens for 2 passages"),
        ({"chunks_per_passage": (3, 0)}, "a passage has 0 chunks"),
        ({"chunks_per_passage": (2, 2)}, r"routing_k of layer 1 is \(3, 8\), the bank needs \(4, 8\)"),
        ({"k": {1: torch.zeros(3, 2, 4)}}, r"k has layers \[1\], the bank \[1, 3\]"),
        (
            {"v": {1: torch.zeros(3, 4, 2), 3: torch.zeros(3, 2, 4)}},
            r"is \(3, 4, 2\), the bank needs \(3, 2, 4\)",
        ),
        (
            {"k": {1: torch.zeros(3, 2, 4).half(), 3: torch.zeros(3, 2, 4)}},
            "float16, the bank stores torch.float32",
        ),
        (
            {"k": {1: torch.full((3, 2, 4), float("nan")), 3: torch.zeros(3, 2, 4)}},
            "k of layer 1 .* not finite",
        ),
    ],
)
def test_chunks_that_do_not_fit_are_refused(change, says):
    with pytest.raises(ShapeError, match=says):
        replace(make_chunks([2, 1]), **change).check(FINGERPRINT, 2)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    rename = os.rename
    monkeypatch.setattr(segments, "flush", lambda path: steps.append(("flush", path.name)))

    def rename_and_tell(old, new):
        steps.append(("rename", new.name))
        rename(old, new)

    monkeypatch.setattr(segments.os, "rename", rename_and_tell)
    folder = tmp_path / "segments"
    folder.mkdir()
    write_segment(folder, 1, make_chunks([1]), dtype="float32")
    assert steps == [
        ("flush", "000001.safetensors.tmp"),
        ("rename", "000001.safetensors"),
        ("flush", "segments"),
    ]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "flush", full)
    with pytest.raises(BankError, match="No space left on device"):
        write_segment(tmp_path, 1, make_chunks([1]), dtype="float32")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def record(tmp_path):
    return write_segment(tmp_path, 1, make_chunks([2, 1]), dtype="float32")


def _open(folder, record):
    files = SegmentFiles(folder, FINGERPRINT)
    return files.get(record).tensor(1, "k")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_corrupt(tmp_path, record, kept):
    path = tmp_path / record.file
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        BankCorruptError, match=r"000001.safetensors is damaged: it has .*; restore the file from a copy"
    ):
        _open(tmp_path, record)


def test_a_missing_file_is_corrupt(tmp_path, record):
    (tmp_path / record.file).unlink()
    with pytest.raises(BankCorruptError, match="it is missing"):
        _open(tmp_path, record)


def test_a_damaged_header_is_corrupt(tmp_path, record):
    flip_byte(tmp_path / record.file, 9)
    with pytest.raises(BankCorruptError, match="is damaged"):
        _open(tmp_path, record)


@pytest.mark.parametrize(
    "tensors", [{}, {"layer_1.k": torch.zeros(2, 2, 4)}, {"layer_1.k": torch.zeros(3, 2, 4).half()}]
)
def test_a_file_with_other_tensors_is_corrupt(tmp_path, record, tensors):
    path = tmp_path / record.file
    save_file({**tensors, "filler": torch.zeros(1)}, path)
    with pytest.raises(BankCorruptError, match=r"layer_1\.k"):
        _open(tmp_path, replace(record, bytes=path.stat().st_size))


def test_problems_are_named_and_a_sound_file_has_none(tmp_path, record):
    files = SegmentFiles(tmp_path, FINGERPRINT)
    assert list(files.problems(record)) == []
    flip_byte(tmp_path / record.file, record.bytes - 3)
    assert list(files.problems(record)) == ["segments/000001.safetensors: its checksum is not the catalog's"]
    (tmp_path / record.file).unlink()
    [missing] = files.problems(record)
    assert "000001.safetensors is damaged: it is missing" in missing


def test_only_a_bounded_number_of_files_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "OPEN_SEGMENTS", 2)
    records = [write_segment(tmp_path, i, make_chunks([1], seed=i), dtype="float32") for i in range(1, 5)]
    files = SegmentFiles(tmp_path, FINGERPRINT)
    kept = files.get(records[0])
    early = kept.tensor(1, "k")
    assert files.get(records[0]) is kept
    for record in records[1:]:
        files.get(record)
    assert files.get(records[0]) is not kept
    assert torch.equal(early, make_chunks([1], seed=1).k[1])


def test_stray_files_are_only_ours(tmp_path, record):
    for name in ("000002.safetensors", "000003.safetensors.tmp", "notes.txt", "model.safetensors"):
        (tmp_path / name).touch()
    assert [path.name for path in stray_files(tmp_path, {record.file})] == [
        "000002.safetensors",
        "000003.safetensors.tmp",
    ]
    assert stray_files(tmp_path / "absent", set()) == []
