import gzip
import json
import shutil
import subprocess

import pytest
import torch

from memsparse.errors import InputError
from memsparse.evaluation import results
from memsparse.evaluation.results import (
    RecordFile,
    by_system,
    environment,
    is_finished,
    missing,
    read_result,
    write_result,
)

SETTINGS = {"seed": 1, "corpus": [{"file": "c.jsonl"}]}


def record(number, **fields):
    return {"system": "memsparse", "id": f"q{number}", **fields}


def test_records_survive_and_are_not_asked_again(tmp_path):
    out = tmp_path / "deep" / "out.json"
    with RecordFile(out, SETTINGS, key=("system", "id")) as first:
        first.add(record(1, ranks=[1, None]))
        first.mark("rung 16", {"tokens": 16})
    with RecordFile(out, SETTINGS, key=("system", "id")) as again:
        pass
    assert again.records == [record(1, ranks=[1, None])]
    assert again.marks == {"rung 16": {"tokens": 16}}
    assert record(1) in again
    assert record(2) not in again
    assert not out.exists()


def test_a_line_cut_off_by_a_kill_is_dropped_and_written_over(tmp_path):
    out = tmp_path / "out.json"
    with RecordFile(out, SETTINGS, key=("system", "id")) as first:
        for number in range(3):
            first.add(record(number))
    assert first.path is not None
    whole = first.path.read_bytes()
    for cut in range(len(whole)):
        first.path.write_bytes(whole[:cut])
        with RecordFile(out, SETTINGS, key=("system", "id")) as kept:
            assert [r["id"] for r in kept.records] == [f"q{i}" for i in range(whole[:cut].count(b"\n") - 1)]
            kept.add(record(9))
        with RecordFile(out, SETTINGS, key=("system", "id")) as again:
            assert record(9) in again


def test_other_settings_and_other_files_are_refused_in_a_line(tmp_path):
    out = tmp_path / "out.json"
    with RecordFile(out, SETTINGS, key=("system", "id")) as records:
        records.add(record(1))
    with pytest.raises(InputError, match=r"seed=1, this one has 2; remove it"):
        RecordFile(out, {**SETTINGS, "seed": 2}, key=("system", "id"))
    for damage in (b"nonsense\n", b"[1]\n", b'{"settings": {}}\n{"else": 1}\n', b'{"record": 1}\n'):
        (tmp_path / "out.json.partial").write_bytes(damage)
        with pytest.raises(InputError, match=r"remove it$"):
            RecordFile(out, {}, key=("system", "id"))


@pytest.mark.parametrize("name", ["out.json", "out.json.gz"])
def test_a_finished_run_leaves_one_file(tmp_path, name):
    out = tmp_path / name
    records = RecordFile(out, SETTINGS, key=("system", "id"))
    records.add(record(1, question="wer ist Zoë?"))
    records.write(out, {"kind": "qa"}, partial=True)
    assert read_result(out)["partial"] is True
    assert (tmp_path / f"{name}.partial").exists()
    records.write(out, {"kind": "qa"}, partial=False)
    records.close()
    assert read_result(out) == {"kind": "qa", "partial": False, "records": records.records}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    data = out.read_bytes()
    write_result(out, read_result(out))
    assert out.read_bytes() == data
    assert "Zoë" in (gzip.decompress(data) if name.endswith("gz") else data).decode()


def test_without_a_file_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = RecordFile(None, SETTINGS, key=("id",))
    records.add(record(1))
    assert record(1) in records
    assert list(tmp_path.iterdir()) == []


def test_failures_are_missing_and_never_counted(tmp_path):
    rows = [record(1, f1=1.0), record(2, error="it does not fit"), record(3, error="later")]
    assert by_system(rows) == {"memsparse": [rows[0]]}
    assert missing(rows) == {"memsparse": {"n": 2, "first": "it does not fit"}}
    assert missing(rows[:1]) == {}


def test_reading_what_is_no_result(tmp_path):
    path = tmp_path / "x.json"
    for text in ("", "[1]", '{"kind": "qa"}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"x\.json"):
            read_result(path)


def test_an_environment_says_what_a_figure_depends_on():
    told = environment()
    assert told.keys() == {"command", "commit", "device", "versions"}
    assert {"memsparse", "torch", "python", "transformers"} <= told["versions"].keys()
    assert json.loads(json.dumps(told)) == told
    assert "threads" in told["device"] or told["device"]
    assert f"{torch.get_num_threads()} threads" in environment(torch.device("cpu"))["device"]


def test_a_commit_is_changed_by_code_and_not_by_results(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("no git here")
    source, result = tmp_path / "pkg/results.py", tmp_path / "benchmarks/results/x.json"
    for path in (source, result):
        path.parent.mkdir(parents=True)
        path.write_text("1")
    monkeypatch.setattr(results, "__file__", str(source))
    assert results._commit().startswith("installed ")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert results._commit().startswith("installed ")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    commit = results._commit()
    assert len(commit) == 10
    result.unlink()
    assert results._commit() == commit
    source.write_text("2")
    assert results._commit() == f"{commit}-dirty"


def test_settings_of_a_run_without_records_do_not_bind(tmp_path):
    out = tmp_path / "out.json"
    with RecordFile(out, SETTINGS, key=("id",)):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.json.partial").write_text(
        '{"settings": {"seed": 7}}\n'
    )  # killed before its first record
    with RecordFile(out, SETTINGS, key=("id",)) as records:
        records.add({"id": 1})
    with RecordFile(out, SETTINGS, key=("id",)) as records:
        assert records.records == [{"id": 1}]


def test_two_runs_do_not_write_one_file(tmp_path):
    out = tmp_path / "out.json"
    with RecordFile(out, SETTINGS, key=("id",)) as first:
        with pytest.raises(InputError, match="another run is writing"):
            RecordFile(out, SETTINGS, key=("id",))
        first.add({"id": 1})
        first.add({"id": 1})
        assert first.records == [{"id": 1}]


def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --json"):
        RecordFile(tmp_path / "file" / "out.json", SETTINGS, key=("id",))
    (tmp_path / "out.json").mkdir()
    with pytest.raises(InputError, match="choose another --json"):
        write_result(tmp_path / "out.json", {})
    with (
        RecordFile(None, SETTINGS, key=("id",)) as records,
        pytest.raises(ValueError, match="JSON compliant"),
    ):
        records.add({"id": 1, "score": float("inf")})


def test_only_a_whole_result_is_finished(tmp_path):
    out = tmp_path / "out.json"
    assert not is_finished(out)
    for partial in (True, False):
        write_result(out, {"kind": "qa", "records": [], "partial": partial})
        assert is_finished(out) is not partial
