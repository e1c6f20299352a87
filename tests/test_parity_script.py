"""`scripts/parity` as a shell sees it: one line per case, and the exit status."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.timeout(400)  # a subprocess that loads torch, on a busy machine
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "parity"


def run(*arguments: Path | str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


@pytest.fixture
def parity_dir(shared_dir: Path) -> Path:
    folder = shared_dir / "parity"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared/parity` beside the repository; there is none")
    return folder


def test_every_recorded_case_passes(parity_dir: Path, tmp_path: Path) -> None:
    done = run(parity_dir, cwd=tmp_path)
    names = sorted(path.parent.name for path in parity_dir.glob("*/case.json"))
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", name] for name in names]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_case_that_differs_fails_and_the_others_still_run(parity_dir: Path, tmp_path: Path) -> None:
    good, damaged, cut, talk = (tmp_path / name for name in ("good", "damaged", "cut", "talk"))
    for folder in (good, damaged, cut):
        shutil.copytree(parity_dir / "infer_last", folder)
    expected = load_file(damaged / "expected.safetensors")
    expected["stage2/logits"] += 0.01
    save_file(expected, damaged / "expected.safetensors")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(parity_dir / "protocol", talk)
    case = json.loads((talk / "case.json").read_text())
    case["scenarios"][0]["final_outputs"] = ["another text" for _ in case["scenarios"][0]["final_outputs"]]
    (talk / "case.json").write_text(json.dumps(case))

    done = run(damaged, cut, talk, good, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["FAIL", "damaged"],
        ["FAIL", "cut"],
        ["FAIL", "talk"],
        ["ok", "good"],
    ]
    assert "stage2/logits: off by 1.0" in lines[0]
    assert "final text is" in lines[2]
    assert (done.returncode, done.stderr) == (1, "")


def test_folders_that_are_no_cases_fail_with_one_line_each(tmp_path: Path) -> None:
    contents = {
        "broken": "{",
        "strange": '{"kind": "dance"}',
        "listed": "[]",
        "silent": '{"kind": "protocol"}',
    }
    for name, text in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.json").write_text(text)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "case.json").write_text('{"kind": "infer"}')
    save_file({"x": torch.zeros(1)}, bare / "inputs.safetensors")
    (tmp_path / "empty").mkdir()

    folders = [*contents, "bare", "empty", "missing"]
    done = run(*folders, cwd=tmp_path)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["FAIL", name] for name in folders]
    assert "'dance'" in done.stdout
    assert (done.returncode, done.stderr) == (1, "")


def test_files_beside_cases_are_left_out_but_cases_there_must_be(parity_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about the cases")
    done = run(str(parity_dir / "protocol"), "README.md", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["ok", "protocol"])
    assert done.stderr == "scripts/parity: README.md is a file, not a case; left out\n"
    assert run("README.md", cwd=tmp_path).returncode == 1


def test_usage(tmp_path: Path) -> None:
    assert run("--help", cwd=tmp_path).stdout.startswith("usage: parity [-h] DIR [DIR ...]")
    without = run(cwd=tmp_path)
    assert (without.returncode, without.stdout) == (2, "")
    assert "DIR" in without.stderr
