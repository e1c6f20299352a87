from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memsparse.bank import Bank
from memsparse.engine.encoder import Encoder
from memsparse.engine.ingest import AddReport, Ingest, Progress, content_digest
from memsparse.engine.loading import LoadedModel, fingerprint
from memsparse.errors import DocumentError
from memsparse.types import Document
from tests.engine.builders import documents, tiny_model


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model()


@pytest.fixture
def bank(loaded: LoadedModel, tmp_path: Path) -> Iterator[Bank]:
    with Bank.create(tmp_path / "b.bank", fingerprint(loaded)) as bank:
        yield bank


def add(bank: Bank, loaded: LoadedModel, given: Any, *, segment: int = 256, told: Any = None) -> AddReport:
    return Ingest(bank, Encoder(loaded), segment_documents=segment, on_progress=told).run(given)


def counts(report: AddReport) -> tuple[int, int, int]:
    return report.added, report.updated, report.unchanged


def test_only_new_and_changed_documents_are_encoded(bank: Bank, loaded: LoadedModel) -> None:
    given = documents(6)
    first = add(bank, loaded, given)
    assert counts(first) == (6, 0, 0)
    assert (first.passages, first.tokens) == (6, sum(info.tokens for info in bank.documents()))
    again = add(bank, loaded, given)
    assert counts(again) == (0, 0, 6)
    assert (again.passages, again.tokens) == (0, 0)
    assert bank.version == 1
    given[2] = replace(given[2], text="Another text.")
    assert counts(add(bank, loaded, [*given, documents(7)[6]])) == (1, 1, 5)
    assert bank.document_text("d2") == "Another text."
    assert len(bank.documents()) == 7


@pytest.mark.parametrize(
    "change", [{"title": "T"}, {"metadata": {"n": 9}}, {"expires": 4e9}, {"text": "Other words."}]
)
def test_a_change_anywhere_is_an_update(bank: Bank, loaded: LoadedModel, change: dict[str, Any]) -> None:
    [document] = documents(1)
    add(bank, loaded, [document])
    assert counts(add(bank, loaded, [replace(document, **change)])) == (0, 1, 0)
    assert len(bank.documents()) == 1


def test_the_digest_does_not_depend_on_the_order_of_metadata() -> None:
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    [document] = documents(1)
    assert content_digest(replace(document, metadata=one)) == content_digest(
        replace(document, metadata=other)
    )
    with pytest.raises(DocumentError, match="metadata that is not JSON"):
        content_digest(replace(document, metadata={"a": object()}))


def test_the_same_id_may_stand_in_two_namespaces(bank: Bank, loaded: LoadedModel) -> None:
    given = documents(2)
    add(bank, loaded, [*given, *documents(2, namespace="other")])
    assert bank.stats().namespaces == {"default": 2, "other": 2}


@pytest.mark.parametrize("segment", [1, 3, 100])
def test_segments_hold_as_many_passages_as_asked(bank: Bank, loaded: LoadedModel, segment: int) -> None:
    add(bank, loaded, iter(documents(7)), segment=segment)
    assert bank.stats().segments == -(-7 // segment)
    assert bank.verify() == []


def test_a_long_document_is_committed_whole(bank: Bank, loaded: LoadedModel) -> None:
    long = Document(id="long", text="\n\n".join(document.text for document in documents(40)))
    encoder = Encoder(loaded, max_document_tokens=60)
    Ingest(bank, encoder, segment_documents=4, on_progress=None).run([long])
    [info] = bank.documents()
    assert info.parts > 4
    assert bank.stats().segments == 1
    assert bank.document_text("long") == long.text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Document(id="d1", text="again"), "two documents have the id 'd1'"),
        (Document(id="hollow", text=" \n"), "'hollow' has no text"),
        (Document(id="m", text="x", metadata={"k": {1, 2}}), "'m' has metadata"),
    ],
)
def test_a_bad_document_is_named_and_what_was_committed_stays(
    bank: Bank, loaded: LoadedModel, bad: Document, message: str
) -> None:
    with pytest.raises(DocumentError, match=message):
        add(bank, loaded, [*documents(5), bad], segment=2)
    assert [info.id for info in bank.documents()] == ["d0", "d1", "d2", "d3"]
    assert bank.verify() == []


@pytest.mark.parametrize("at", range(1, 9))
def test_an_interrupted_add_continues_with_the_rest(bank: Bank, loaded: LoadedModel, at: int) -> None:
    told: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        told.append(progress)
        if len(told) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(bank, loaded, documents(7), segment=2, told=interrupt)
    kept = len(bank.documents())
    assert kept == told[-1].documents
    rest = add(bank, loaded, documents(7), segment=2)
    assert counts(rest) == (7 - kept, 0, kept)
    assert [info.id for info in bank.documents()] == [f"d{i}" for i in range(7)]
    assert bank.verify() == []


def test_progress_rises_to_the_total(bank: Bank, loaded: LoadedModel) -> None:
    told: list[Progress] = []
    report = add(bank, loaded, documents(5), segment=2, told=told.append)
    assert [item.total for item in told] == [5] * len(told)
    assert [item.documents for item in told] == sorted(item.documents for item in told)
    assert (told[-1].documents, told[-1].tokens) == (5, report.tokens)
    told.clear()
    add(bank, loaded, iter(documents(5)), told=told.append)
    assert (told[-1].documents, told[-1].total) == (5, None)


@pytest.mark.parametrize("during", ["reading", "encoding"])
@pytest.mark.parametrize("theirs", [2, 6])
def test_another_writer_of_the_same_documents_is_no_error(
    bank: Bank, loaded: LoadedModel, during: str, theirs: int
) -> None:
    """Both start from an empty bank; the other one stores its documents while this one is at work."""
    met: list[AddReport] = []

    def meet(*_: Any) -> None:
        if not met:
            met.append(add(bank, loaded, documents(theirs)))

    def given() -> Iterator[Document]:
        yield from documents(6)
        if during == "reading":
            meet()

    report = add(bank, loaded, given(), told=meet if during == "encoding" else None)
    assert counts(met[0]) == (theirs, 0, 0)
    found = theirs if during == "reading" or theirs == 6 else 0
    assert counts(report) == (6 - found, 0, found)
    assert bank.version == (1 if theirs == 6 else 2)
    assert sorted(bank.known()) == [document.id for document in documents(6)]
    assert bank.verify() == []


def test_nothing_to_add(bank: Bank, loaded: LoadedModel) -> None:
    assert counts(add(bank, loaded, [])) == (0, 0, 0)
    assert bank.version == 0
