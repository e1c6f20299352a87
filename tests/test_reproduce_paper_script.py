"""`scripts/reproduce-paper` as a shell sees it: its plan, its results, its tables."""

import json
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_tiny_model

pytestmark = pytest.mark.timeout(400)  # a subprocess that loads torch, on a busy machine
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "reproduce-paper"


def run(*arguments: Path | str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


def put(folder: Path, name: str, memory: list[str]) -> None:
    questions = [
        {"query": f"what of {text[:9]}?", "reference_list": [text], "answer": "harbour"} for text in memory
    ]
    (folder / name).mkdir(parents=True)
    (folder / name / f"qdata_{name}.pkl").write_bytes(pickle.dumps(questions))
    (folder / name / f"mdata_{name}.pkl").write_bytes(pickle.dumps(memory))


def test_a_dry_run_shows_the_published_suite_and_touches_nothing(tmp_path: Path) -> None:
    done = run("--dry-run", "--model", "M", "--judge-model", "J", "--ladder", "16K,1M", "--", "--read", "8",
               cwd=tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    commands = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    assert len(commands) == 12
    assert commands[0][:3] == ["memsparse", "eval", "qa"]
    assert commands[0][3:9] == [
        "--corpus", "runs/paper/ms_100M/corpus.jsonl.gz", "--queries", "runs/paper/ms_100M/queries.jsonl.gz",
        "--json", "runs/paper/ms_100M.json",
    ]  # fmt: skip
    assert all(
        command[-6:] == ["--model", "M", "--judge-model", "J", "--read", "8"] for command in commands[:11]
    )
    assert commands[11][2] == "scaling"
    assert commands[11][commands[11].index("--rungs") + 1] == "16K,1M"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_what_a_folder_lacks(tmp_path: Path) -> None:
    put(tmp_path / "sets", "hotpotqa", ["one"])
    done = run("--dry-run", "--from", "sets", "--only", "hotpotqa,musique", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("# missing:") == 1
    assert "musique: no file musique/qdata_musique.pkl in sets" in done.stdout


@pytest.mark.parametrize("words", [["--only", "nq"], ["--only", ","]])
def test_a_wrong_name_is_one_line(words: list[str], tmp_path: Path) -> None:
    done = run("--dry-run", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_small_suite_runs_fails_where_it_must_and_goes_on(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    put(tmp_path / "sets", "hotpotqa", ["The Kestrel lies in the harbour.", "Sarno has a harbour."])
    (tmp_path / "sets" / "dureader").mkdir()
    words = ["--from", "sets", "--out", "out", "--model", str(model), "--only", "dureader,hotpotqa"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "dureader: no file dureader/qdata_dureader.pkl in sets" in done.stderr
    assert done.stderr.splitlines()[-1] == "scripts/reproduce-paper: failed: dureader"
    result = json.loads((tmp_path / "out" / "hotpotqa.json").read_text())
    assert result["systems"]["memsparse"]["f1"]["n"] == 2
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "| hotpotqa | 1.35M | - | - | 2.252 |" in tables
    assert "| dureader | - | - | - |" in tables

    again = run(*words[:-1], "hotpotqa", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "[1/1] hotpotqa: done before" in again.stdout

    other = run(*words, "--seed", "5", cwd=tmp_path)
    assert other.returncode == 2
    assert "out holds results with seed=0, not 5; choose another --out" in other.stderr
