"""Several processes, started as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memsparse.errors import ConfigError
from memsparse.training.checkpoint import STATE, load_state
from memsparse.training.config import TrainConfig
from memsparse.training.processes import Processes
from memsparse.training.trainer import run
from tests.training.builders import calls_phase, recipe, write_reading
from tests.training.test_start import checkpoint
from tests.training.test_trainer import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ROOT = Path(__file__).parents[2]

RECIPE = """
seed = 3
vocab_size = 420
warmup = 1
{settings}
reading = {{ corpus = "{corpus}", queries = "{queries}" }}
[model]
{model}
[optimizer]
{optimizer}
[[phases]]
name = "copy"
task = "copy"
steps = 1
calls = 2
[[phases]]
name = "main"
steps = 4
documents = 6
calls = 14
reading_share = 0.5
max_document_tokens = 160
{phase}
"""
MODEL = """
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
memory_layers = [1]
chunk_size = 4
gate = true
"""


def write(folder: Path, name: str = "tiny", *, model: str = MODEL, **parts: str) -> Path:
    path = folder / f"{name}.toml"
    blank = {"settings": "", "optimizer": "", "phase": ""}
    path.write_text(RECIPE.format(**write_reading(folder), model=model, **blank | parts))
    return path


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return started("-m", "memsparse", "train", "pretrain", *arguments)


def together(*runs: tuple[Path, Path, int]) -> None:
    """Run recipes in two processes, each until a step."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = started(
        *launcher, ROOT / "tests" / "training" / "together.py", *(part for each in runs for part in each)
    )
    assert done.returncode == 0, done.stderr


def alone(*runs: tuple[Path, Path, int]) -> None:
    for recipe_path, out, until in runs:
        run(TrainConfig.read(recipe_path), out, until=until)


def started(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def masters(folder: Path) -> list[torch.Tensor]:
    return load_state(folder)["optimizer"]["masters"]


def assert_close(a: Path, b: Path) -> None:
    for mine, theirs in zip(masters(a), masters(b), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_the_command_trains_continues_and_shows_no_bar_in_a_pipe(tmp_path):
    path, out = write(tmp_path), tmp_path / "run"
    first = command("--config", path, "--out", out, "--until", 2)
    assert (first.returncode, first.stdout) == (0, f"{out / 'model'}: step 2 of 5\n")
    assert first.stderr.count("step 2  phase main") == 1
    assert "\r" not in first.stderr
    assert "Warning" not in first.stderr
    assert load_state(out)["step"] == 2
    assert {path.name for path in out.iterdir()} == {"metrics.jsonl", "model", STATE, "tokenizer"}


def test_the_command_tells_a_bad_recipe_in_one_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("sead = 1\n")
    done = command("--config", path, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}: unknown key sead; known: seed")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_micro_batches_are_shared_out_evenly(monkeypatch):
    this = Processes(cpu=True)
    assert (this.rank, this.count, this.first, this.device.type) == (0, 1, True, "cpu")
    assert [list(this.share(micro_steps)) for micro_steps in (1, 3)] == [[0], [0, 1, 2]]
    assert this.anywhere(True)
    assert not this.anywhere(False)
    this.rank, this.count = 1, 2
    assert [list(this.share(micro_steps)) for micro_steps in (1, 2, 4)] == [[1], [1], [1, 3]]
    with pytest.raises(
        ConfigError, match="micro_steps is 3, which 2 processes cannot share; set a multiple of 2"
    ):
        this.share(3)


def test_gradients_are_averaged_in_messages_of_bounded_size(monkeypatch):
    this = Processes(cpu=True)
    this.count = 4
    sent = []

    def summed(value):
        sent.append(value.numel())
        return value * 4 * 3  # four processes, each three times these gradients

    monkeypatch.setattr(this, "sum", summed)
    monkeypatch.setattr("memsparse.training.processes.BUCKET", 8)
    gradients = [torch.full(shape, float(i)) for i, shape in enumerate([(2, 3), (4,), (), (9,), (1, 2)])]
    averaged = this.mean(gradients, [torch.nn.Parameter(g) for g in gradients])
    assert [(a.shape, a.flatten().tolist()) for a in averaged] == [
        (g.shape, (3 * g).flatten().tolist()) for g in gradients
    ]
    assert sent == [10, 10, 2]


def test_training_without_accelerate_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"needs accelerate; pip install 'memsparse\[train\]'"):
        Processes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_give_what_one_gives_with_two_micro_batches_and_go_on_as_one(tmp_path):
    plain = {"settings": 'dtype = "float32"', "phase": "queue = 8"}
    pair = write(tmp_path, **plain)
    single = write(tmp_path, "single", **plain | {"settings": 'dtype = "float32"\nmicro_steps = 2'})
    paths = {name: tmp_path / name for name in ("straight", "slices", "one")}
    together((pair, paths["straight"], 4), (pair, paths["slices"], 3), (pair, paths["slices"], 4))
    assert_same(paths["straight"], paths["slices"])
    alone((single, paths["one"], 4))
    assert_close(paths["straight"], paths["one"])
    state = load_state(paths["straight"])
    assert (state["step"], sorted(state["queues"])) == (4, [0, 1])
    assert not torch.equal(*(state["queues"][micro]["steps"][0][0][1] for micro in (0, 1)))
    assert {path.name for path in paths["slices"].iterdir()} == {"metrics.jsonl", "model", STATE, "tokenizer"}
    # One process goes on with what two began.
    alone((single, paths["slices"], 5), (single, paths["one"], 5))
    assert_close(paths["slices"], paths["one"])
    assert len((paths["straight"] / "metrics.jsonl").read_text().splitlines()) == 1
    alone((pair, tmp_path / "without the other", 4))
    assert not torch.equal(masters(tmp_path / "without the other")[0], masters(paths["straight"])[0])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sharded_run_gives_what_a_whole_one_gives_and_either_goes_on_from_the_other(tmp_path):
    folder = checkpoint(tmp_path / "start", num_hidden_layers=2, memory_layers=[1], decouple_router=True)
    parts = {
        "model": "",
        "optimizer": 'matrices = "adamw"\nmatrix_lr = 1e-3\nrouter_lr = 1e-3',
    }
    settings = (
        f'dtype = "float32"\nstart = "{folder}"\ngradient_checkpointing = true\n'
        "save_every = 3\neval_every = 3\neval_documents = 9\n"
    )
    whole = write(tmp_path, "whole", settings=settings + "micro_steps = 2", **parts)
    sharded = write(tmp_path, "sharded", settings=settings + "sharded = true", **parts)
    paths = {name: tmp_path / f"run-{name}" for name in ("sharded", "crossed", "whole", "back")}
    alone((whole, paths["back"], 3))
    together(
        *((sharded, paths["sharded"], until) for until in (3, 5)),
        (sharded, paths["crossed"], 3),
        (sharded, paths["back"], 5),
    )
    alone((whole, paths["whole"], 5), (whole, paths["crossed"], 5))
    for name in ("sharded", "crossed", "back"):
        assert load_state(paths[name])["step"] == 5
        assert_close(paths["whole"], paths[name])
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (paths["whole"], paths["sharded"])]
    evals = [[json.loads(line)["eval"] for line in each if "eval" in line] for each in lines]
    assert evals[0] == [pytest.approx(each) for each in evals[1]]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_adapters_of_a_sharded_model_are_merged_too_and_questions_are_cleaned(tmp_path):
    folder = checkpoint(tmp_path / "start", num_hidden_layers=2, memory_layers=[1])
    settings = f'start = "{folder}"\ndtype = "float32"\n'
    parts = {
        "model": "[lora]\nrank = 2",
        "optimizer": 'matrices = "adamw"\nmatrix_lr = 1e-2',
        "phase": "clean = 0.5",
    }
    whole = write(tmp_path, "whole", settings=settings + "micro_steps = 2", **parts)
    sharded = write(tmp_path, "sharded", settings=settings + "sharded = true", **parts)
    paths = [tmp_path / "run-whole", tmp_path / "run-sharded"]
    together((sharded, paths[1], 5))
    alone((whole, paths[0], 5))
    assert_close(*paths)
    for name in ("cleaned-main.json", "model/config.json"):
        assert (paths[0] / name).read_text() == (paths[1] / name).read_text()
    weights = [load_file(path / "model" / "model.safetensors") for path in paths]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=1e-5)


def test_sharding_needs_an_optimizer_that_takes_parts():
    with pytest.raises(ConfigError, match="sharded is true and matrices 'muon', which needs whole matrices"):
        recipe(calls_phase(1), sharded=True)
