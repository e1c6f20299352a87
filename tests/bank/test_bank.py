import hashlib
import multiprocessing
import os
import shutil
from dataclasses import replace

import pytest
import torch

from memsparse.bank import Bank, BankStats, EncodedChunks, Fingerprint, Source, lock
from memsparse.bank.catalog import FILE
from memsparse.errors import (
    BankCorruptError,
    BankError,
    BankExistsError,
    BankLockedError,
    BankMismatchError,
    BankNotFoundError,
    DocumentError,
    InputError,
    ShapeError,
)
from tests.bank.builders import (
    FINGERPRINT,
    add,
    all_tokens,
    answer,
    make_chunks,
    make_parts,
    make_passages,
    queries,
)

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "memsparse.bank", "tests.bank.builders"])


@pytest.fixture
def bank(tmp_path):
    with Bank.create(tmp_path / "notes.bank", FINGERPRINT) as bank:
        yield bank


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


# Create and open


def test_create_makes_missing_folders_and_refuses_what_is_there(tmp_path):
    path = tmp_path / "a" / "b.bank"
    Bank.create(path, FINGERPRINT).close()
    with pytest.raises(BankExistsError, match="there is a bank at"):
        Bank.create(path, FINGERPRINT)
    (tmp_path / "file").touch()
    with pytest.raises(BankExistsError, match="is a file"):
        Bank.create(tmp_path / "file", FINGERPRINT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(BankExistsError, match=r"holds thesis\.txt"):
        Bank.create(tmp_path / "full", FINGERPRINT)
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    Bank.create(tmp_path / "empty", FINGERPRINT).close()


def test_create_goes_over_what_a_killed_create_left(tmp_path):
    (tmp_path / "segments").mkdir()
    for name in (f"{FILE}.tmp", f"{FILE}.tmp-wal", "bank.lock"):
        (tmp_path / name).write_bytes(b"half")
    with Bank.create(tmp_path, FINGERPRINT) as bank:
        assert bank.verify() == []


def test_open_of_nothing(tmp_path):
    with pytest.raises(BankNotFoundError, match="memsparse bank create"):
        Bank.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_open_without_a_catalog_beside_segments_removes_nothing(bank):
    add(bank, [1])
    bank.close()
    (bank.path / FILE).unlink()
    with pytest.raises(BankCorruptError, match=r"has segments but no catalog\.sqlite3"):
        Bank.open(bank.path)
    assert (bank.path / "segments" / "000001.safetensors").exists()


def test_open_with_another_model_says_what_differs(bank):
    add(bank, [1])
    other = replace(FINGERPRINT, chunk_size=64)
    with pytest.raises(
        BankMismatchError, match=r"chunk_size 4 \(the model has 64\); open it with that model, or"
    ):
        Bank.open(bank.path, other)
    Bank.open(bank.path, FINGERPRINT).close()


def _open_and_answer(path, results):
    with Bank.open(path, FINGERPRINT) as bank:
        results.put([tensor.tolist() for tensor in answer(bank)])


def test_a_new_process_answers_identically(bank):
    add(bank, [3, 1, 2, 5])
    bank.remove(["doc1"])
    add(bank, [2, 2], prefix="more", seed=1)
    expected = [tensor.tolist() for tensor in answer(bank)]
    bank.close()
    results = CONTEXT.Queue()
    child = CONTEXT.Process(target=_open_and_answer, args=(bank.path, results))
    child.start()
    assert results.get(timeout=60) == expected
    child.join()
    child.close()


def test_a_copied_bank_answers_identically(bank, tmp_path):
    add(bank, [3, 1, 2])
    expected = answer(bank)
    bank.close()
    shutil.copytree(bank.path, tmp_path / "copy")
    with Bank.open(tmp_path / "copy") as copy:
        assert same(answer(copy), expected)


def test_read_only_reads_beside_a_writer_and_writes_nothing(bank):
    add(bank, [1, 2])
    with Bank.open(bank.path, read_only=True) as guest:
        assert same(answer(guest), answer(bank))
        add(bank, [1])
        assert guest.stats().documents == 3
        for write in (lambda: guest.reserve(1), lambda: guest.remove(["doc0"]), lambda: add(guest, [1])):
            with pytest.raises(BankError, match="open read-only"):
                write()


def test_a_bank_on_a_read_only_disk_can_be_read(bank, monkeypatch):
    add(bank, [1, 2])
    expected = answer(bank)
    bank.close()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with Bank.open(bank.path, read_only=True) as guest:
        assert same(answer(guest), expected)
    assert not list(bank.path.glob("*-shm"))


# Commit


def test_numbers_are_given_once_and_start_at_zero(bank):
    assert bank.reserve(3) == range(3)
    bank.close()
    with Bank.open(bank.path) as again:
        assert again.reserve(0) == range(3, 3)
        assert again.reserve(2) == range(3, 5)
        with pytest.raises(BankError, match="cannot reserve -1"):
            again.reserve(-1)


def test_what_is_stored_comes_back(bank):
    passages = make_passages([0, 1], text="a\0b \u00e9\U0001f600\r\n")
    passages[0] = replace(passages[0], metadata={"tags": ["x", 1, None], "deep": {"y": 1.5}}, title="")
    bank.reserve(2)
    source = Source(sha256="abc", created=12.5, expires=4e9)
    assert bank.commit(passages, make_chunks([2, 1]), sources={("default", "doc0"): source}) == 1
    stored = bank.passages([1, 0, 1])
    assert [passage.number for passage in stored] == [1, 0, 1]
    assert stored[1] == replace(passages[0], tokens=8, chunks=2)
    first, second = bank.documents()
    assert (first.sha256, first.created, first.expires, first.added_in) == ("abc", 12.5, 4e9, 1)
    assert second.sha256 == hashlib.sha256(passages[1].text.encode()).hexdigest()
    assert bank.known("default") == {"doc0": "abc", "doc1": second.sha256}
    assert bank.known("other") == {}
    assert bank.document_text("doc1") == passages[1].text
    assert bank.verify() == []


def test_parts_make_one_document(bank):
    texts = ["First part.\n\n", "Second.\n\n", "Third"]
    parts = make_parts(bank.reserve(3)[0], texts)
    bank.commit([parts[2], parts[0], parts[1]], make_chunks([1, 2, 3]))
    [info] = bank.documents()
    assert (info.id, info.parts, info.numbers, info.chunks, info.tokens) == ("long", 3, (0, 1, 2), 6, 24)
    assert bank.document_text("long", "default") == "".join(texts)
    assert [passage.chunks for passage in bank.passages([0, 1, 2])] == [2, 3, 1]
    assert info.sha256 == hashlib.sha256("".join(texts).encode()).hexdigest()
    assert bank.remove(["long"]) == 1
    assert len(bank.reader()) == 0


def test_documents_are_listed_page_by_page(bank):
    add(bank, [1] * 5)
    add(bank, [1] * 2, namespace="work")
    assert [info.id for info in bank.documents(limit=2, offset=3)] == ["doc3", "doc4"]
    assert [info.id for info in bank.documents(namespace="work")] == ["doc5", "doc6"]
    assert bank.documents(limit=0) == bank.documents(offset=7) == []
    with pytest.raises(BankError, match="must not be negative"):
        bank.documents(limit=-1)


def _with(**changes):
    return lambda passages: [replace(passages[0], **changes), *passages[1:]]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (_with(number=7), BankError, "number 7 was not reserved"),
        (_with(number=-1), BankError, "number -1 was not reserved"),
        (_with(number=2), DocumentError, "two passages carry the same number"),
        (_with(number=0), BankError, "number 0 belongs to a stored passage"),
        (_with(document_id="doc0"), DocumentError, "'doc0' is in namespace 'default' already"),
        (_with(document_id=""), DocumentError, "has the id ''"),
        (_with(namespace="a\0"), DocumentError, "has the namespace"),
        (_with(parts=2), DocumentError, "commit all parts of a document together"),
        (_with(document_id="doc2"), DocumentError, "commit all parts"),
        (_with(start=1), DocumentError, "parts must join to the original text"),
        (_with(end=3), DocumentError, "spans 0:3 with 12 characters"),
        (_with(text="\ud800", end=1), DocumentError, "lone surrogate"),
        (_with(title="\ud800"), DocumentError, "lone surrogate"),
        (_with(metadata={"when": object()}), DocumentError, "metadata of document 'doc1' is not JSON"),
        (_with(metadata={"nan": float("nan")}), DocumentError, "is not JSON"),
        (_with(metadata={1: "x"}), DocumentError, "changes when written as JSON"),
        (_with(metadata={"t": (1, 2)}), DocumentError, "changes when written as JSON"),
        (lambda passages: passages[:1], ShapeError, "2 counts of chunks for 1 passages"),
    ],
)
def test_a_commit_that_cannot_be_is_refused_whole(bank, change, error, says):
    add(bank, [1])
    bank.reserve(2)
    with pytest.raises(error, match=says):
        bank.commit(change(make_passages([1, 2])), make_chunks([1, 2]))
    assert bank.version == 1
    assert [path.name for path in (bank.path / "segments").iterdir()] == ["000001.safetensors"]
    bank.commit(make_passages([1, 2]), make_chunks([1, 2]))
    assert bank.verify() == []


def test_expiry_must_be_a_number(bank):
    bank.reserve(1)
    with pytest.raises(DocumentError, match="expires at nan"):
        bank.commit(
            make_passages([0]), make_chunks([1]), sources={("default", "doc0"): Source(expires=float("nan"))}
        )


def test_an_empty_commit_is_no_version(bank):
    add(bank, [1])
    assert bank.commit([], make_chunks([])) == 1
    assert bank.commit([], make_chunks([]), replaces=[("default", "absent")]) == 1
    assert bank.commit([], make_chunks([]), replaces=[("default", "doc0")]) == 2
    assert bank.documents() == []


# Update and remove


def test_update_replaces_in_one_version(bank):
    add(bank, [2, 3])
    before = answer(bank)
    number = bank.reserve(1)[0]
    passage = replace(make_passages([number])[0], document_id="doc0", text="new", end=3)
    replaces = [("default", "doc0"), ("default", "absent")]
    assert bank.commit([passage], make_chunks([1], seed=5), replaces=replaces) == 2
    assert [info.id for info in bank.documents()] == ["doc1", "doc0"]
    assert bank.document_text("doc0") == "new"
    assert bank.reader().numbers.tolist() == [1, 2]
    assert same(answer(bank, version=1), before)
    assert bank.reader(version=0).numbers.tolist() == []
    with pytest.raises(BankError, match="no version 3; the latest is 2"):
        bank.reader(version=3)
    assert bank.verify() == []


def test_an_edited_bank_answers_as_one_made_from_scratch(bank, tmp_path):
    passages, chunks = add(bank, [2, 1, 3])
    add(bank, [4], prefix="late", seed=3)
    bank.remove(["late3", "doc1"])
    with Bank.create(tmp_path / "fresh.bank", FINGERPRINT) as fresh:
        fresh.reserve(3)
        keep = torch.tensor([0, 1, 3, 4, 5])
        kept = EncodedChunks(
            routing_k={layer: k[keep] for layer, k in chunks.routing_k.items()},
            k={layer: k[keep] for layer, k in chunks.k.items()},
            v={layer: v[keep] for layer, v in chunks.v.items()},
            chunks_per_passage=(2, 3),
            tokens_per_passage=(8, 12),
        )
        fresh.commit([passages[0], passages[2]], kept)
        assert same(answer(bank), answer(fresh))


def test_remove_is_all_or_nothing(bank):
    add(bank, [1, 1, 1])
    with pytest.raises(
        DocumentError, match=r"no document 'a', 'b' in namespace 'default'; nothing was removed"
    ):
        bank.remove(["doc0", "b", "a"])
    with pytest.raises(DocumentError, match="no document 'doc0' in namespace 'other'"):
        bank.remove(["doc0"], namespace="other")
    assert bank.version == 1
    assert bank.remove(["doc0", "doc2", "doc0"]) == 2
    assert bank.version == 2
    assert bank.remove([]) == 0
    assert [info.id for info in bank.documents()] == ["doc1"]
    with pytest.raises(DocumentError, match="doc0"):
        bank.remove(["doc0"])
    assert bank.remove(["doc0", "never"], missing_ok=True) == 0
    assert bank.version == 2
    with pytest.raises(DocumentError, match="doc0"):
        bank.document_text("doc0")
    assert bank.passages([0])[0].document_id == "doc0"
    with pytest.raises(BankError, match="has no passage 9"):
        bank.passages([0, 9])


def test_names_that_are_no_text_are_refused_in_words(bank):
    for ask in (
        bank.known,
        lambda name: bank.documents(namespace=name),
        lambda name: bank.reader(namespace=name),
    ):
        with pytest.raises(InputError, match="lone surrogate"):
            ask("x\udce9")


def test_the_same_id_lives_once_in_each_namespace(bank):
    for namespace in ("a", "b"):
        passage = replace(make_passages(list(bank.reserve(1)), namespace=namespace)[0], document_id="same")
        bank.commit([passage], make_chunks([1]))
    assert bank.remove(["same"], namespace="a") == 1
    assert bank.known("a") == {}
    assert list(bank.known("b")) == ["same"]


def test_expired_documents_are_not_seen_and_give_way(bank):
    add(bank, [1], source=Source(expires=1000.0))
    assert bank.documents() == []
    assert bank.known() == {}
    assert len(bank.reader()) == 0
    assert bank.reader(now=999.0).numbers.tolist() == [0]
    assert bank.reader(now=1000.0).numbers.tolist() == []
    passage = replace(make_passages(list(bank.reserve(1)))[0], document_id="doc0")
    bank.commit([passage], make_chunks([1]))
    assert bank.reader(now=999.0).numbers.tolist() == [1]
    assert bank.stats().removed == 1
    assert bank.verify() == []


def test_expired_documents_can_be_removed(bank):
    add(bank, [1], source=Source(expires=1000.0))
    assert bank.remove(["doc0"]) == 1
    assert len(bank.reader(now=999.0)) == 0


def test_stats_count_what_is_seen(bank):
    assert bank.stats().documents == bank.stats().chunks == bank.stats().versions == 0
    add(bank, [2, 3])
    add(bank, [1], namespace="work")
    bank.remove(["doc0"])
    size = sum((bank.path / "segments" / f"{i:06d}.safetensors").stat().st_size for i in (1, 2))
    assert bank.stats() == BankStats(
        documents=2,
        passages=2,
        removed=1,
        chunks=4,
        tokens=16,
        bytes=size + (bank.path / FILE).stat().st_size,
        segments=2,
        versions=3,
        namespaces={"default": 1, "work": 1},
    )


# Two writers


def test_a_second_writer_waits_then_gives_up(bank, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.05)
    add(bank, [1])
    with Bank.open(bank.path) as second, lock.writer_lock(bank.path):
        for write in (lambda: second.reserve(1), lambda: second.remove(["doc0"])):
            with pytest.raises(BankLockedError, match=r"waited 0.05 s"):
                write()
        assert len(second.reader()) == 1


def _write_ten(path, name):
    with Bank.open(path) as bank:
        for _ in range(10):
            add(bank, [1, 2], prefix=name)


def test_two_processes_write_at_the_same_time(bank):
    children = [CONTEXT.Process(target=_write_ten, args=(bank.path, name)) for name in ("a", "b")]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
        child.close()
    assert bank.stats().documents == 40
    assert bank.reserve(1) == range(40, 41)
    assert bank.reader().numbers.tolist() == list(range(40))
    assert bank.version == 20
    assert bank.verify() == []


def test_half_precision_banks(tmp_path):
    fingerprint: Fingerprint = replace(FINGERPRINT, dtype="bfloat16")
    with Bank.create(tmp_path / "bf16.bank", fingerprint) as bank:
        _, chunks = add(bank, [2, 1])
        memory = bank.reader().read(1, queries(), all_tokens(queries()))
        assert memory.k.dtype == torch.float32
        assert torch.equal(memory.k[0].transpose(0, 1), chunks.k[1].float())
        bank.reserve(1)
        with pytest.raises(ShapeError, match=r"float32, the bank stores torch\.bfloat16"):
            bank.commit(make_passages([2]), make_chunks([1]))


def test_a_reader_of_several_namespaces_sees_each_of_them_and_no_other(bank):
    add(bank, [1, 1], namespace="one")
    add(bank, [1], namespace="two")
    add(bank, [1], namespace="three")
    assert bank.reader(namespace=["one", "three"]).numbers.tolist() == [0, 1, 3]
    assert len(bank.reader(namespace=[])) == 0
    assert [info.namespace for info in bank.documents(namespace=("three", "two"))] == ["two", "three"]
