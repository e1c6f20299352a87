import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from memsparse.bank import probing
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model
from tests.bank.builders import flip_byte
from tests.test_cli import KESTREL, SARNO, assert_one_line_error, run
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "kestrel.txt").write_text(f"Kestrel\n\n{KESTREL}", encoding="utf-8")
    (folder / "sarno.txt").write_text(SARNO, encoding="utf-8")
    return folder


@pytest.fixture
def bank(tmp_path: Path, model: Path, files: Path) -> Path:
    path = tmp_path / "notes.bank"
    assert run("bank", "create", path, "--model", model).exit_code == 0
    assert run("bank", "add", path, files, "--model", model).exit_code == 0
    return path


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_create_makes_an_empty_bank_once(model: Path, tmp_path: Path) -> None:
    result = run("bank", "create", tmp_path / "new.bank", "--model", model)
    assert (result.exit_code, result.stderr) == (0, "")
    assert told(run("bank", "stats", tmp_path / "new.bank", "--json"))["documents"] == 0
    again = run("bank", "create", tmp_path / "new.bank", "--model", model)
    assert_one_line_error(again, 2, "there is a bank at")


def test_add_encodes_only_what_is_new(model: Path, bank: Path, files: Path) -> None:
    (files / "new.txt").write_text("The heron is new.", encoding="utf-8")
    (files / "empty.txt").write_bytes(b"")
    result = run("bank", "add", bank, files, "--model", model, "--json")
    report = told(result)
    assert {name: report[name] for name in ("added", "updated", "unchanged", "removed", "skipped")} == {
        "added": 1,
        "updated": 0,
        "unchanged": 2,
        "removed": 0,
        "skipped": 1,
    }
    assert result.stderr.startswith(f"skipped {files / 'empty.txt'}: ")
    again = run("bank", "add", bank, files, "--model", model)
    assert "3 unchanged, 1 skipped; 0 tokens" in again.stdout


def test_add_reads_standard_input_into_a_namespace(model: Path, bank: Path) -> None:
    lines = "".join(json.dumps({"id": id_, "text": "The gull flies."}) + "\n" for id_ in "ab")
    result = run("bank", "add", bank, "-", "--model", model, "--namespace", "birds", stdin=lines)
    assert result.exit_code == 0
    listed = told(run("bank", "list", bank, "--namespace", "birds", "--json"))["documents"]
    hits = told(run("bank", "search", bank, "bird", "--model", model, "--json"))["hits"]
    assert {hit["citation"]["namespace"] for hit in hits} == {"birds", "default"}
    shown = run("bank", "search", bank, "bird", "--model", model).stdout
    assert shown.count(" [birds]\n") == 2
    assert "[default]" not in shown
    assert [info["id"] for info in listed] == ["a", "b"]
    assert told(run("bank", "stats", bank, "--json"))["namespaces"] == {"birds": 2, "default": 2}


def test_add_refuses_what_it_cannot_use(model: Path, bank: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\x00\x01\xff")
    words = ("--model", model)
    assert_one_line_error(run("bank", "add", tmp_path / "none", tmp_path, *words), 2, "memsparse bank create")
    assert_one_line_error(run("bank", "add", bank, tmp_path / "nowhere", *words), 2, "no such file or folder")
    assert_one_line_error(run("bank", "add", bank, tmp_path / "empty", *words), 2, "no documents in")
    assert_one_line_error(
        run("bank", "add", bank, tmp_path / "broken.txt", "--strict", *words), 2, "broken.txt"
    )
    other = save_tiny_model(tmp_path / "other", seed=1)
    assert_one_line_error(run("bank", "add", bank, tmp_path, "--model", other), 2, "was built with weights")


def test_list_shows_documents_in_order(bank: Path) -> None:
    rows = [line.split("\t") for line in run("bank", "list", bank).stdout.splitlines()]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("kestrel.txt", "default", "Kestrel"),
        ("sarno.txt", "default", "sarno"),
    ]
    assert len(run("bank", "list", bank, "--limit", "1").stdout.splitlines()) == 1
    assert told(run("bank", "list", bank, "--namespace", "none", "--json")) == {"documents": []}
    assert run("bank", "list", bank, "--limit", "0").exit_code == 2


def test_show_prints_the_text_as_it_was(bank: Path) -> None:
    assert run("bank", "show", bank, "sarno.txt").stdout == f"{SARNO}\n"
    value = told(run("bank", "show", bank, "sarno.txt", "--json"))
    assert value["text"] == SARNO
    assert value["document"]["id"] == "sarno.txt"
    assert_one_line_error(run("bank", "show", bank, "nothing"), 2, "no document 'nothing'")


def test_search_lists_what_the_router_finds(model: Path, bank: Path) -> None:
    value = told(run("bank", "search", bank, "Who keeps the lighthouse?", "--model", model, "--json"))
    with MemoryEngine.open(bank, load_model(model)) as engine:
        hits = engine.search("Who keeps the lighthouse?")
    assert [hit["citation"]["document_id"] for hit in value["hits"]] == [
        hit.citation.document_id for hit in hits
    ]
    assert [hit["score"] for hit in value["hits"]] == pytest.approx([hit.score for hit in hits])
    shown = run("bank", "search", bank, "Who keeps the lighthouse?", "--limit", "1", "--model", model).stdout
    assert shown.splitlines()[0] == f"{hits[0].score:.4f}  {hits[0].citation.document_id}"
    assert len(shown.splitlines()) == 2
    assert_one_line_error(run("bank", "search", bank, " ", "--model", model), 2, "query is empty")


def test_search_takes_an_index(model: Path, bank: Path) -> None:
    """Of a bank too small for one: the same hits as without."""
    asked = ("bank", "search", bank, "Who keeps the lighthouse?", "--model", model)
    plain = told(run(*asked, "--json"))
    assert told(run(*asked, "--json", "--index", "cells", "--probes", "4", "--lean", "1")) == plain
    assert_one_line_error(run(*asked, "--index", "cells", "--probes", "0"), 2, "probes is 0")
    assert_one_line_error(run(*asked, "--lean", "1"), 2, "--lean is for an index")


def test_an_index_is_made_once(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "too small" in run("bank", "index", bank).stdout
    assert not list(bank.rglob("*.cells.safetensors"))
    monkeypatch.setattr(probing, "SMALLEST", 1)
    assert "chunks have an index" in run("bank", "index", bank).stdout
    made = {path: path.stat().st_mtime_ns for path in bank.rglob("*.cells.safetensors")}
    assert made
    assert run("bank", "index", bank).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in bank.rglob("*.cells.safetensors")} == made
    assert run("bank", "verify", bank).exit_code == 0


def test_remove_takes_all_or_none(bank: Path) -> None:
    assert_one_line_error(run("bank", "remove", bank, "sarno.txt", "nothing"), 2, "no document 'nothing'")
    assert told(run("bank", "stats", bank, "--json"))["documents"] == 2
    assert run("bank", "remove", bank, "sarno.txt", "kestrel.txt").stdout == "removed: 2\n"
    assert told(run("bank", "stats", bank, "--json"))["documents"] == 0


def test_stats_count_what_is_there(bank: Path) -> None:
    value = told(run("bank", "stats", bank, "--json"))
    assert (value["documents"], value["segments"], value["namespaces"]) == (2, 1, {"default": 2})
    rows = dict(line.split("\t") for line in run("bank", "stats", bank).stdout.splitlines())
    assert rows["documents"] == rows["namespace default"] == "2"
    assert rows["bytes"] == str(value["bytes"])


def test_verify_finds_damage(bank: Path) -> None:
    assert run("bank", "verify", bank).stdout == f"{bank}: sound\n"
    (segment,) = bank.glob("segments/*.safetensors")
    flip_byte(segment, segment.stat().st_size - 1)
    result = run("bank", "verify", bank)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert segment.name in result.stdout
    as_json = run("bank", "verify", bank, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["ok"] is False
    (bank / "catalog.sqlite3").write_bytes(b"no database" * 1000)
    assert_one_line_error(run("bank", "verify", bank), 1)


def test_what_a_killed_writer_left_is_no_damage(bank: Path) -> None:
    stray = bank / "segments" / "000009.safetensors.tmp"
    stray.write_bytes(b"half")
    result = run("bank", "verify", bank)
    assert (result.exit_code, result.stdout) == (0, f"{bank}: sound\n")
    assert not stray.exists()


def test_a_bank_on_a_read_only_disk_is_read_and_left_as_it_is(
    model: Path, bank: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "new.txt").write_text("The heron is new.", encoding="utf-8")
    (bank / "segments" / "000009.safetensors.tmp").write_bytes(b"half")  # a writer would remove it
    before = {path: path.stat().st_mtime_ns for path in bank.rglob("*")}
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    for command in ("list", "stats"):
        assert run("bank", command, bank).exit_code == 0
    assert run("bank", "search", bank, "Where?", "--model", model).exit_code == 0
    assert run("ask", "Where?", "--bank", bank, "--model", model).exit_code == 0
    for words in (("bank", "remove", bank, "sarno.txt"), ("bank", "add", bank, files, "--model", model)):
        assert_one_line_error(run(*words), 1, "is open read-only; fix its permissions")
    assert {path: path.stat().st_mtime_ns for path in bank.rglob("*")} == before


def test_reading_leaves_one_catalog_file(bank: Path) -> None:
    for command in ("list", "stats", "verify"):
        assert run("bank", command, bank).exit_code == 0
    assert sorted(path.name for path in bank.glob("catalog*")) == ["catalog.sqlite3"]


@pytest.mark.parametrize("command", ["list", "stats", "verify"])
def test_a_missing_bank_is_an_error(command: str, tmp_path: Path) -> None:
    assert_one_line_error(run("bank", command, tmp_path / "none"), 2, "no bank at")
    assert not (tmp_path / "none").exists()
