import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memsparse.errors import DocumentError
from memsparse.sources import Skipped, read_documents
from memsparse.types import Document

Paths = list[str | Path]


def read(*paths: str | Path) -> tuple[list[Document], list[tuple[str, str]]]:
    """Return the documents, and path and reason of everything skipped."""
    skipped: list[Skipped] = []
    documents = list(read_documents(paths, on_skip=skipped.append))
    return documents, [(item.path, item.reason) for item in skipped]


def refuse(skipped: Skipped) -> None:
    raise AssertionError(f"nothing should be skipped here: {skipped}")


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def test_a_file_is_known_by_its_name_and_a_folders_files_by_their_paths_in_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep.txt").write_text("deep")
    (tmp_path / "a" / "top.md").write_text("top")
    assert [document.id for document in read(tmp_path / "a" / "top.md")[0]] == ["top.md"]
    assert [document.id for document in read(str(tmp_path))[0]] == ["a/b/deep.txt", "a/top.md"]


def test_folders_are_read_in_sorted_order_without_hidden_entries(tmp_path: Path) -> None:
    for name in ("c.txt", "b/z.txt", "b/a.txt", "a.txt", ".hidden.txt", ".git/config", "b/.cache/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    documents, skipped = read(tmp_path)
    assert [document.id for document in documents] == ["a.txt", "b/a.txt", "b/z.txt", "c.txt"]
    assert skipped == []


def test_a_hidden_file_is_read_when_named(tmp_path: Path) -> None:
    path = tmp_path / ".notes"
    path.write_text("kept")
    assert [document.text for document in read(path)[0]] == ["kept"]


def test_namespace_is_that_of_the_call(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}')
    documents = read_documents([tmp_path], namespace="work", on_skip=refuse)
    assert [document.namespace for document in documents] == ["work", "work"]


def test_one_path_need_not_be_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert [document.id for document in read_documents(str(tmp_path), on_skip=refuse)] == ["a.txt"]


def test_no_paths_give_no_documents() -> None:
    assert list(read_documents([], strict=True, on_skip=refuse)) == []


@pytest.mark.parametrize("strict", [False, True])
def test_a_missing_path_is_an_error_before_anything_is_read(tmp_path: Path, strict: bool) -> None:
    (tmp_path / "a.txt").write_text("a")
    paths: Paths = [tmp_path / "a.txt", tmp_path / "nowhere.txt"]
    with pytest.raises(DocumentError, match=r"no such file or folder: .*nowhere\.txt"):
        read_documents(paths, strict=strict, on_skip=refuse)


@pytest.mark.parametrize("path", ["", "a.txt/b", "nul\0"])
def test_paths_that_can_not_exist_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DocumentError, match="no such file or folder"):
        read_documents([path], on_skip=refuse)


def test_of_two_documents_with_one_id_the_first_is_read(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text(folder)
    documents, skipped = read(tmp_path / "one", tmp_path / "two")
    assert [document.text for document in documents] == ["one"]
    path, first = str(tmp_path / "two" / "notes.txt"), str(tmp_path / "one" / "notes.txt")
    reason = f"its id 'notes.txt' is taken by a document in {first}"
    assert skipped == [(path, f"{reason}; name the folder above both, or give each a namespace")]


def test_the_same_id_twice_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "x", "text": "one"}\n{"id": "y", "text": "two"}\n{"id": "x", "text": "three"}\n')
    documents, skipped = read(path)
    assert [document.text for document in documents] == ["one", "two"]
    assert len(skipped) == 1


def test_strict_makes_the_first_skip_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.bin").write_bytes(b"\0")
    (tmp_path / "c.txt").write_text("c")
    documents = read_documents([tmp_path], strict=True, on_skip=refuse)
    assert next(documents).id == "a.txt"
    with pytest.raises(DocumentError, match=r"b\.bin: binary file; repair it or leave it out"):
        next(documents)


def test_strict_refuses_a_second_document_with_the_same_id(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DocumentError, match="is taken by"):
        list(read_documents([tmp_path / "a.txt", tmp_path], strict=True, on_skip=refuse))


def test_damage_in_one_file_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_bytes(b"\xff\xff")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "d.txt").write_text("d")
    documents, skipped = read(tmp_path)
    assert [document.id for document in documents] == ["a.txt", "d.txt"]
    assert [os.path.basename(path) for path, _ in skipped] == ["b.txt", "c.txt"]


def test_links_to_a_folder_above_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    documents, skipped = read(tmp_path)
    assert [document.id for document in documents] == ["a/x.txt"]
    assert skipped == []


def test_links_elsewhere_are_followed_and_broken_ones_named(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.txt").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    (folder / "self").symlink_to(folder / "self")
    documents, skipped = read(folder)
    assert [document.id for document in documents] == ["linked/x.txt"]
    assert [path for path, _ in skipped] == [str(folder / "broken"), str(folder / "self")]
    assert all(reason.startswith("cannot be read: ") for _, reason in skipped)


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(tmp_path) == ([], [(str(tmp_path / "pipe.txt"), "not a regular file")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "b").mkdir(mode=0)
    documents, skipped = read(tmp_path)
    assert documents == []
    assert [reason for _, reason in skipped] == ["cannot be read: Permission denied"] * 2


def test_an_error_while_opening_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_to_open(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(Path, "open", refuse_to_open)
    monkeypatch.setattr(os, "listdir", lambda _: ["a.txt"])
    assert read(tmp_path) == ([], [(str(tmp_path / "a.txt"), "cannot be read: Permission denied")])


def test_a_file_name_that_is_no_text_is_named_readably(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    try:
        Path(os.fsdecode(path)).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    documents, [(shown, reason)] = read(tmp_path)
    assert documents == []
    assert shown.endswith("\\udcff.txt")
    assert reason == "its name is not UTF-8; rename it"


def test_closed_standard_input_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read("-") == ([], [("standard input", "it is closed; give it something to read")])


def test_files_are_opened_only_as_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("before")
    documents = read_documents([tmp_path], on_skip=refuse)
    next(documents)
    (tmp_path / "b.txt").write_text("after")
    assert next(documents).text == "after"


def test_standard_input_is_one_plain_text(stdin: Callable[[bytes], None]) -> None:
    stdin("Café\n\nOpen till nine.\n".encode())
    [document], skipped = read("-")
    assert (document.id, document.title, document.text) == ("stdin", "Café", "Café\n\nOpen till nine.\n")
    assert skipped == []


def test_standard_input_may_be_json_lines(stdin: Callable[[bytes], None]) -> None:
    stdin(b'\n{"id": "a", "title": "T", "text": "one"}\nbroken\n{"text": "two"}\n')
    documents, [(path, reason)] = read("-")
    assert [(d.id, d.title, d.text) for d in documents] == [("a", "T", "one"), ("stdin#4", "", "two")]
    assert path == "standard input"
    assert reason.startswith("line 3: not JSON")


@pytest.mark.parametrize("data", [b'{"no": "text"}', b"[1]", b'"quoted"', b'{"text": '])
def test_standard_input_that_is_not_json_lines_of_texts_is_a_text(
    stdin: Callable[[bytes], None], data: bytes
) -> None:
    stdin(data)
    [document], _ = read("-")
    assert document.text == data.decode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no text in it"),
        (b" \n \n", "no text in it"),
        (b"a\0b", "binary file"),
        (b"\xff\xff", "not UTF-8"),
    ],
)
def test_standard_input_without_text_is_skipped(
    stdin: Callable[[bytes], None], data: bytes, expected: str
) -> None:
    stdin(data)
    documents, [(path, reason)] = read("-")
    assert documents == []
    assert path == "standard input"
    assert expected in reason


def test_the_real_corpora_read_without_a_skip(shared_dir: Path) -> None:
    path = shared_dir / "data" / "hotpotqa_train.corpus.jsonl.gz"
    documents = list(read_documents([path], strict=True, on_skip=refuse))
    assert len(documents) == 959
    assert all(document.id and document.title and document.text for document in documents)


def test_metadata_arrives(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"text": "x", "metadata": {"year": 1999, "tags": ["a"]}}))
    [document], _ = read(path)
    assert document.metadata == {"year": 1999, "tags": ["a"]}
