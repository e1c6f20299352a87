import os
import shlex

import pytest

from memsparse.bank.paths import absent, refuse_occupied


def advised(error):
    return shlex.split(str(error).partition("memsparse bank create ")[2])


def test_where_nothing_is_a_bank_can_be_created(tmp_path):
    for path in (tmp_path / "absent", tmp_path / "two words", tmp_path):
        error = absent(path)
        assert str(error).startswith(f"no bank at {path}; ")
        assert advised(error) == [str(path)]


@pytest.mark.parametrize("what", ["folder of other files", "file"])
def test_where_something_else_is_the_advice_leads_elsewhere(tmp_path, what):
    path = tmp_path / "my notes"
    if what == "file":
        path.write_text("a note")
    else:
        path.mkdir()
        (path / "note.txt").touch()
    (tmp_path / "my notes.bank").mkdir()
    error = absent(path)
    assert f"{path} is a {what}, not a bank; answer from it with --docs" in str(error)
    (there,) = advised(error)
    refuse_occupied(there_path := tmp_path / there)
    assert not there_path.exists()


def test_the_advice_for_the_folder_one_is_in_lies_outside(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").touch()
    monkeypatch.chdir(tmp_path / "notes")
    assert advised(absent(tmp_path.__class__(os.curdir))) == [str(tmp_path / "notes.bank")]
