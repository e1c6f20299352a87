"""The command line and scripts under torchrun: one answer, one voice, and an end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memsparse.cli import app
from memsparse.distributed.launch import engine_class, run
from memsparse.engine.engine import MemoryEngine
from tests.distributed.processes import FORKS, together
from tests.engine.builders import documents, save_model, tiny_model

ROOT = Path(__file__).parents[2]
QUESTION = "Who keeps the lighthouse keys?"

MID_QUESTION = """
import os, signal, sys, threading
from memsparse.cli import app
from memsparse.distributed.launch import engine_class, run
from memsparse.distributed.ranks import leading

def body():
    with engine_class().open(sys.argv[1], sys.argv[2]) as engine:
        engine.ask("Who?")
        victim = leading().places[1]
        sys.stderr.write(f"victim {victim.pid}\\n")
        threading.Timer(0.3, os.kill, (victim.pid, signal.SIGKILL)).start()
        while True:
            engine.ask("Who?")

try:
    sys.exit(run(body))
except Exception as error:
    sys.exit(f"error: {error}")
"""


def started(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes else []
    )
    return subprocess.run(
        [sys.executable, *map(str, [*launcher, *words])],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> tuple[Path, Path]:
    """A bank and its model."""
    folder = tmp_path_factory.mktemp("memory")
    model = save_model(folder / "model", tiny_model())
    with MemoryEngine.open(folder / "notes.bank", model) as engine:
        engine.add(documents(20))
    return folder / "notes.bank", model


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if "seconds" not in name}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def test_ask_under_torchrun_says_what_one_process_says_once(memory):
    bank, model = memory
    words = ["ask", QUESTION, "--bank", str(bank), "--model", str(model), "--json"]
    many = started("-m", "memsparse", *words)
    assert many.returncode == 0, many.stderr
    one = CliRunner().invoke(app, words)
    assert timeless(json.loads(many.stdout)) == timeless(json.loads(one.stdout))


@pytest.mark.slow
def test_documents_are_encoded_by_all_ranks_into_one_bank(memory, tmp_path):
    _, model = memory
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents(20)))
    bank = tmp_path / "many.bank"
    words = ("-m", "memsparse", "bank")
    assert started(*words, "create", bank, "--model", model, processes=0).returncode == 0
    added = started(*words, "add", bank, corpus, "--model", model, "--json", processes=3)
    assert (added.returncode, json.loads(added.stdout)["added"]) == (0, 20), added.stderr
    found = started(*words, "search", bank, "rye bread", "--model", model, "--json")
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["hits"]) == 16


@pytest.mark.slow
def test_bad_input_is_told_once(memory):
    done = started("-m", "memsparse", "ask", QUESTION, "--bank", "/nowhere.bank")
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count("error: no bank at /nowhere.bank") == 1
    assert "exitcode  : 2" in done.stderr


@pytest.mark.slow
def test_a_rank_killed_in_mid_question_is_named_and_nothing_is_left(memory, tmp_path):
    script = tmp_path / "asking.py"
    script.write_text(MID_QUESTION)
    done = started(script, *memory, processes=3)
    assert done.returncode == 1
    victim = done.stderr.partition("victim ")[2].split()[0]
    assert f"error: rank 1 (process {victim} on " in done.stderr
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(script) not in listed


def test_without_torchrun_a_script_just_runs():
    opened = []
    assert run(lambda: opened.append(engine_class())) == 0
    assert opened == [MemoryEngine]


def test_a_script_may_end_itself_with_a_code_or_a_reason():
    with pytest.raises(SystemExit, match="a reason"):
        run(lambda: sys.exit("a reason"))


@FORKS
def test_ranks_that_served_to_the_end_did_not_fail():
    def body() -> None:
        raise SystemExit(7)

    assert together(3, body).codes == [7, 0, 0]
