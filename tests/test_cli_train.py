import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memsparse.engine.loading import load_model
from memsparse.errors import EngineError
from memsparse.training import trainer
from memsparse.training.lora import LoraSettings, add_lora, merge_lora, save_adapter
from tests.test_cli import assert_one_line_error, run
from tests.tiny import save_tiny_model

ROOT = Path(__file__).resolve().parent.parent

RECIPE = """
seed = 1
vocab_size = 700
warmup = 2
eval_every = 1000

[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
max_position_embeddings = 2048
chunk_size = 8
top_k_documents = 3

[[phases]]
name = "main"
steps = 3
documents = 4
calls = 2
max_words = 24
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the trainer would be run with."""
    seen: list[Any] = []

    def note(config: Any, out: Path, *, until: int | None = None) -> None:
        seen.append((config, out, until))
        raise EngineError("stopped before the first step")

    monkeypatch.setattr(trainer, "run", note)
    return seen


def test_pretrain_trains_and_continues(recipe: Path, tmp_path: Path):
    out = tmp_path / "run"
    first = run("train", "pretrain", "--config", recipe, "--out", out, "--until", 1, "--set", "seed=5")
    assert first.exit_code == 0, first.stderr
    assert first.stdout == f"{out / 'model'}: step 1 of 3\n"
    assert "step 1  phase main" in first.stderr
    assert "2 steps are left: the same command without --until trains them" in first.stderr
    again = run("train", "pretrain", "--config", recipe, "--out", out, "--json", "--set", "seed=5")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == {"step": 3, "steps": 3, "model": str(out / "model")}
    assert "continuing from step 1" in again.stderr
    assert "set otherwise" not in again.stderr
    assert load_model(out / "model").config.chunk_size == 8
    words = ("train", "pretrain", "--config", recipe, "--out", out)
    other = run(*words, "--until", 1, "--set", "seed=6", "--set", "save_every=7")
    assert "set otherwise than before, from here on: seed, save_every" in other.stderr
    assert "step 1 is past: this run stands at step 3" in other.stderr
    done = run(*words, "--set", "seed=5")
    assert done.stdout == f"{out / 'model'}: step 3 of 3\n"
    assert f"all 3 steps in {out} are done" in done.stderr
    assert f"its metrics: {out / 'metrics.jsonl'}; ask it: memsparse ask" in done.stderr


def test_log_lines_end_with_the_command(recipe: Path, tmp_path: Path):
    import logging

    log = logging.getLogger("memsparse")
    before = (list(log.handlers), log.level)
    run("train", "pretrain", "--config", recipe, "--out", tmp_path / "run", "--until", 1)
    assert (log.handlers, log.level) == before


def test_values_take_the_place_of_the_recipes(recipe: Path, tmp_path: Path, configs: list[Any]):
    settings = [
        *("seed=7", "optimizer.matrix_lr=1e-3", "model.memory_layers=[1]", "warmup = 9", "floor=0"),
        *("reading.corpus=my docs/a=b.jsonl", 'dtype="float32"'),
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    result = run("train", "pretrain", "--config", recipe, "--out", tmp_path, "--until", 2, *words)
    assert result.exit_code == 1
    [(config, out, until)] = configs
    assert (out, until) == (tmp_path, 2)
    assert (config.seed, config.warmup, config.floor, config.dtype) == (7, 9, 0, "float32")
    assert config.optimizer == {"matrix_lr": 1e-3}
    assert config.model["memory_layers"] == [1]
    assert config.model["hidden_size"] == 32
    assert config.reading == {"corpus": "my docs/a=b.jsonl"}
    assert config.phases[0].steps == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "--set is 'seed'; write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("optimizer.=3", "write KEY=VALUE"),
        ("seed.more=3", "but seed is no table"),
        ("phases.steps=3", "but phases is no table"),
        ("sead=3", "recipe.toml with --set: unknown key sead; known: seed"),
        ("seed=three", "seed is 'three'; it must be a whole number"),
        ("seed=1\nwarmup=2", "it must be a whole number"),
        ("model.chunk_size=0", "chunk_size is 0"),
        ("start=", "start is empty"),
        ("model.hidden_size=-4", "model: hidden_size is -4; it must be at least 1"),
    ],
)
def test_values_that_cannot_be_used_are_told(
    recipe: Path, tmp_path: Path, configs: list[Any], setting: str, message: str
):
    out = tmp_path / "run"
    result = run("train", "pretrain", "--config", recipe, "--out", out, "--set", setting)
    assert_one_line_error(result, 2, message)
    assert not configs
    assert not out.exists()


def test_what_a_recipe_leaves_open_is_asked_for(tmp_path: Path, configs: list[Any]):
    path = tmp_path / "open.toml"
    path.write_text('start = "..."\nreading = { corpus = "...", queries = "q.jsonl" }\n' + RECIPE)
    words = ["train", "pretrain", "--config", path, "--out", tmp_path / "run"]
    assert_one_line_error(run(*words), 2, "leaves start to you; give --set start=...")
    words += ["--set", "start=models/base"]
    assert_one_line_error(run(*words), 2, "leaves reading.corpus to you; give --set reading.corpus=...")
    assert not configs


@pytest.mark.parametrize("command", ["pretrain", "sft", "router"])
def test_one_recipe_must_be_named(recipe: Path, tmp_path: Path, command: str):
    words = ["train", command, "--out", tmp_path / "run"]
    message = "give --config with a TOML file, or --recipe with a name, and not both"
    assert_one_line_error(run(*words), 2, message)
    assert_one_line_error(run(*words, "--config", recipe, "--recipe", "tiny"), 2, message)
    assert_one_line_error(run(*words, "--recipe", "huge"), 2, "no recipe 'huge'; there are lora, pretrain")
    assert_one_line_error(run(*words, "--config", tmp_path / "gone.toml"), 2, "gone.toml", "readable TOML")
    recipe.write_bytes(b'seed = "\xff"')
    assert_one_line_error(run(*words, "--config", recipe), 2, "readable TOML")
    assert_one_line_error(
        run(*words, "--config", tmp_path), 2, f"{tmp_path}: Is a directory; give a readable"
    )
    recipe.write_bytes(b"\xff")
    assert_one_line_error(run(*words, "--config", recipe), 2, f"{recipe}: not UTF-8 text; give a readable")


def test_sft_wants_a_model(recipe: Path, tmp_path: Path, configs: list[Any]):
    words = ["train", "sft", "--config", recipe, "--out", tmp_path / "run"]
    assert_one_line_error(run(*words), 2, "start is missing; name the model to fine-tune: --set start=DIR")
    assert not configs


def test_a_recipe_is_printed_as_it_lies_in_the_package(tmp_path: Path):
    (tmp_path / "own.toml").write_text(run("train", "recipes", "tiny").stdout)
    assert tomllib.loads((tmp_path / "own.toml").read_text())["phases"]
    assert_one_line_error(run("train", "recipes", "huge"), 2, "no recipe 'huge'; there are lora, ")


def test_recipes_are_listed():
    listed = [line.split("\t") for line in run("train", "recipes").stdout.splitlines()]
    names = [name for name, _ in listed]
    assert names == sorted(names)
    assert {"lora", "pretrain", "sft", "small", "tiny"} <= set(names)
    assert all(purpose and not purpose.startswith("#") for _, purpose in listed)


def test_errors_while_training_keep_their_exit_code(recipe: Path, tmp_path: Path, configs: list[Any]):
    result = run("train", "pretrain", "--config", recipe, "--out", tmp_path / "run")
    assert_one_line_error(result, 1, "stopped before the first step")


def test_an_interruption_is_one_line(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "run", interrupt)
    result = run("train", "pretrain", "--config", recipe, "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
def test_two_processes_train_together(recipe: Path, tmp_path: Path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "memsparse"]
    words = ["train", "pretrain", "--config", recipe, "--out", tmp_path / "run", "--set", "cpu=true"]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'model'}: step 3 of 3\n"
    assert done.stderr.count("step 3  phase") == 1  # the first process alone


# --- merge ------------------------------------------------------------------------------------------------


def make_adapter(model: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Write an adapter of a model; return the weights that merging should give."""
    net = load_model(model, dtype=torch.float32).model
    torch.manual_seed(1)
    add_lora(net, LoraSettings(rank=2))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_adapter(net, folder)
    merge_lora(net)
    return net.state_dict()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_writes_an_ordinary_model(tmp_path: Path, dtype: str):
    model, adapter, out = tmp_path / "model", tmp_path / "adapter", tmp_path / "new" / "merged"
    save_tiny_model(model, dtype=dtype)
    expected = make_adapter(model, adapter)
    result = run("train", "merge", model, adapter, "--out", out)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    assert result.stdout.startswith(f"{out}: ")
    held, before = load_file(out / "model.safetensors"), load_file(model / "model.safetensors")
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in before.items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in held.items()} == shapes
    assert all(torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in held.items())
    assert not torch.equal(
        held["model.layers.3.self_attn.router_q_proj.0.weight"],
        before["model.layers.3.self_attn.router_q_proj.0.weight"],
    )
    load_model(out)  # with its tokenizer
    assert_one_line_error(run("train", "merge", model, adapter, "--out", out), 2, "exists already")


def test_merge_refuses_what_does_not_fit(tmp_path: Path):
    model, other = save_tiny_model(tmp_path / "model"), save_tiny_model(tmp_path / "other", hidden_size=40)
    make_adapter(other, tmp_path / "adapter")
    out = tmp_path / "merged"
    for folder, message in ((tmp_path / "adapter", "belongs to another model"), (model, "no adapter_config")):
        assert_one_line_error(run("train", "merge", model, folder, "--out", out), 2, message)
        assert not out.exists()


# --- mine -------------------------------------------------------------------------------------------------

PASSAGES = (
    ("a", "The Kestrel is moored in the harbour of Sarno."),
    ("b", "The Kestrel was built at Velm."),
    ("c", "Ines painted the Kestrel, which lies at Sarno."),
    ("d", "Salt was traded for glass."),
)


@pytest.fixture
def reading(tmp_path: Path) -> tuple[Path, Path]:
    corpus, queries = tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl"
    rows = [{"id": id_, "title": "", "text": text} for id_, text in PASSAGES]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    question = {"id": "q", "question": "Where is the Kestrel moored?", "answers": ["Sarno"]}
    queries.write_text(json.dumps(question | {"positive_ids": ["a"]}) + "\n", encoding="utf-8")
    return corpus, queries


def test_mine_writes_the_questions_again(reading: tuple[Path, Path], tmp_path: Path):
    model = save_tiny_model(tmp_path / "model")
    words = ["train", "mine", "--corpus", reading[0], "--queries", reading[1]]
    result = run(*words, "--out", tmp_path / "bm25.jsonl", "--count", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'bm25.jsonl'}: 1 negatives for 1 of 1 questions\n"
    [row] = map(json.loads, (tmp_path / "bm25.jsonl").read_text(encoding="utf-8").splitlines())
    assert (row["id"], row["negative_ids"]) == ("q", ["b"])  # c holds the answer
    result = run(*words, "--out", tmp_path / "router.jsonl", "--by", "router", "--model", model, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"questions": 1, "mined": 1, "negatives": 2}
    [row] = map(json.loads, (tmp_path / "router.jsonl").read_text(encoding="utf-8").splitlines())
    assert sorted(row["negative_ids"]) == ["b", "d"]


def test_mine_tells_what_it_cannot_use(reading: tuple[Path, Path], tmp_path: Path):
    corpus, queries = reading
    words = ["train", "mine", "--out", tmp_path / "out.jsonl", "--corpus"]
    assert_one_line_error(run(*words, tmp_path / "gone", "--queries", queries), 2, "gone")
    assert_one_line_error(run(*words, corpus, "--queries", queries, "--model", "m"), 2, "add --by router")
    queries.write_text("{}\n", encoding="utf-8")
    assert_one_line_error(run(*words, corpus, "--queries", queries), 2, "queries.jsonl, line 1")
    assert not (tmp_path / "out.jsonl").exists()


# --- router -----------------------------------------------------------------------------------------------


def test_router_fits_a_corpus_as_a_recipe_says(tmp_path: Path):
    model, path, corpus = tmp_path / "model", tmp_path / "fit.toml", tmp_path / "corpus.jsonl"
    save_tiny_model(model)
    towns = ["Sarno", "Velm", "Orla", "Tesk", "Brin", "Gallow", "Nessa", "Puil", "Kerr", "Adda"]
    rows = [
        {"id": town, "title": town, "text": f"The mill of {town} grinds barley. {town} has {number} wells."}
        for number, town in enumerate(towns, start=12)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path.write_text('corpus = "..."\nsteps = 2\neval_every = 1\nvalidation = 0.3\nthreads = 1\n')
    words = ["train", "router", "--config", path, "--out", tmp_path / "fit", "--set", f"start={model}"]
    assert_one_line_error(run(*words), 2, "leaves corpus to you; give --set corpus=...")
    words += ["--set", f"corpus={corpus}"]
    assert_one_line_error(
        run(*words, "--set", "epochs=2"), 2, "fit.toml with --set: unknown key epochs; known: corpus"
    )
    told = run(*words, "--json")
    assert told.exit_code == 0, told.stderr
    report = json.loads(told.stdout)
    assert (report["documents"], report["steps"]) == (10, 2)
    again = run(*words)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.startswith(f"{tmp_path / 'fit' / 'model'}: ")
    load_model(tmp_path / "fit" / "model")
