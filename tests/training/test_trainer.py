import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from memsparse.engine.loading import load_model
from memsparse.errors import ConfigError, EngineError, ModelError
from memsparse.training import trainer as trainer_module
from memsparse.training.checkpoint import STATE, load_state
from memsparse.training.config import Phase, TrainConfig
from memsparse.training.data import NOT_FOUND
from memsparse.training.objective import KeyQueue
from memsparse.training.trainer import Trainer, by_kind, describe, run
from tests.training.builders import MODEL, calls_phase, prompts, recipe, tokenizer, write_reading
from tests.training.test_objective import make_step

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ROOT = Path(__file__).parents[2]


def mixed(**changes: Any) -> TrainConfig:
    """Random tokens, repeated text, calls with a queue that overflows, and calls without: 10 steps."""
    return recipe(
        Phase(name="copy", steps=1, task="copy", calls=2),
        Phase(name="induction", steps=1, task="induction", calls=2),
        calls_phase(1, name="spans", task="spans", spans=2),
        calls_phase(5, queue=14, gold_only=0.5, spans=2),
        calls_phase(2, lm_documents=0),
        **{"save_every": 100} | changes,
    )


def trainer(out: Path, config: TrainConfig | None = None) -> Trainer:
    return Trainer(config or mixed(), tokenizer(), out)


def everything(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in (folder / STATE, folder / "model" / "model.safetensors"):
        with safe_open(str(file), "pt") as opened:
            found |= {f"{file.name}/{name}": opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            found[f"{file.name}/plain"] = torch.tensor(
                list((opened.metadata() or {}).get("state", "").encode())
            )
    return found


def assert_same(a: Path, b: Path) -> None:
    mine, theirs = everything(a), everything(b)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run leaves after 7 steps, in the middle of the queue's phase."""
    out = tmp_path_factory.mktemp("straight")
    trainer(out).train(until=7)
    return out


@pytest.mark.parametrize("stops", [(4,), (1, 2, 3, 6), (5, 5)])
def test_a_run_in_slices_equals_the_uninterrupted_one_bit_for_bit(tmp_path, straight, stops):
    for stop in stops:
        trainer(tmp_path).train(until=stop)
    trainer(tmp_path).train(until=7)
    assert_same(tmp_path, straight)


def test_a_killed_run_goes_on_from_its_last_save_bit_for_bit(tmp_path, straight, monkeypatch):
    step = trainer_module.MasterOptimizer.step

    class Killed(BaseException):
        pass

    def die_at_step_6(self, factor):
        if killed.step == 6:
            raise Killed
        return step(self, factor)

    killed = trainer(tmp_path, mixed(save_every=5))
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.MasterOptimizer, "step", die_at_step_6)
        with pytest.raises(Killed):
            killed.train()
    resumed = trainer(tmp_path)
    assert resumed.step == 5
    resumed.train(until=7)
    assert_same(tmp_path, straight)


def test_the_queue_is_part_of_the_state_and_may_be_missing_from_an_old_one(tmp_path, straight, monkeypatch):
    state = load_state(straight)
    assert state["queue"]["limit"] == 14
    assert [count for *_, count in state["queue"]["steps"]] == [6, 6]
    with monkeypatch.context() as patch:
        patch.setattr(KeyQueue, "state_dict", lambda self: {"limit": self.limit, "steps": []})
        trainer(tmp_path).train(until=4)
    resumed = trainer(tmp_path)
    resumed.train(until=7)
    assert not torch.equal(resumed.optimizer.masters[1], load_state(straight)["optimizer"]["masters"][1])

    save = trainer_module.save_state
    monkeypatch.setattr(
        trainer_module,
        "save_state",
        lambda out, state, *rest, **named: save(
            out, {key: state[key] for key in ("optimizer", "step")}, *rest, **named
        ),
    )
    resumed.save()
    old = trainer(tmp_path)
    assert (old.step, old.queue) == (7, None)
    old.train(until=8)
    assert old.step == 8


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    config = recipe(Phase(name="copy", steps=2, task="copy", calls=2))
    trainer(tmp_path, config).train()
    before = everything(tmp_path)
    again = trainer(tmp_path, config)
    again.train()
    again.train(until=1)
    assert again.step == 2
    assert all(torch.equal(before[name], value) for name, value in everything(tmp_path).items())


def test_masters_are_float32_and_the_model_bfloat16(tmp_path, straight):
    state = load_state(straight)
    assert {master.dtype for master in state["optimizer"]["masters"]} == {torch.float32}
    net = trainer(tmp_path)
    assert {p.dtype for p in net.model.parameters()} == {torch.bfloat16}
    # Masters keep what rounding would lose.
    assert any(not torch.equal(m, m.to(torch.bfloat16).float()) for m in net.optimizer.masters)
    whole = trainer(tmp_path / "float32", mixed(dtype="float32"))
    assert {p.dtype for p in whole.model.parameters()} == {torch.float32}


def test_the_exported_folder_is_a_model_the_engine_loads(straight):
    loaded = load_model(straight / "model")
    assert (loaded.config.absent_answer, loaded.config.extractive) == (NOT_FOUND, True)
    assert loaded.config.max_document_tokens == 96
    masters = load_state(straight)["optimizer"]["masters"]
    for parameter, master in zip(loaded.model.parameters(), masters, strict=False):
        assert torch.equal(parameter.to(torch.bfloat16), master.to(torch.bfloat16))
    assert loaded.prompts.encode_text("sarno 12") == prompts().encode_text("sarno 12")


def test_a_state_of_another_model_or_a_damaged_one_is_refused(tmp_path, straight):
    (tmp_path / STATE).write_bytes((straight / STATE).read_bytes())
    with pytest.raises(ConfigError, match=r"state\.safetensors: the state belongs to another model"):
        trainer(tmp_path, mixed(model=MODEL | {"hidden_size": 16}))
    (tmp_path / STATE).write_bytes(b"half")
    with pytest.raises(ModelError, match="damaged"):
        trainer(tmp_path)


def test_metrics_are_written_and_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 2)
    evaluate = Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda self: evaluate(self, documents=30))
    trainer(tmp_path, recipe(calls_phase(3), eval_every=2)).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "eval" in line) for line in lines] == [(2, False), (2, True), (3, False)]
    assert {"phase", "tokens/s", "loss", "lm", "aux", "documents", "digits", "norm"} <= set(lines[0])
    assert {"recall@1", "recall@16", "retrieve", "retrieve.begins", "answer", "follow"} <= set(
        lines[1]["eval"]
    )
    assert all(0 <= value <= 1 for value in lines[1]["eval"].values())


def test_evaluation_changes_nothing(tmp_path, straight):
    out = tmp_path / "evaluated"
    each = trainer(out)
    each.train(until=4)
    first, second = each.evaluate(documents=20), each.evaluate(documents=20)
    assert first == second
    assert each.model.training
    each.train(until=7)
    assert_same(out, straight)


def poison(each: Trainer) -> None:
    with torch.no_grad():
        each.model.model.norm.weight.fill_(float("nan"))


@pytest.mark.parametrize("task", ["calls", "copy", "spans"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_a_readable_batch(tmp_path, task):
    each = trainer(tmp_path, recipe(calls_phase(3, task=task, spans=4)))
    each.train(until=1)
    before = [master.clone() for master in each.optimizer.masters]
    poison(each)
    with pytest.raises(EngineError, match=r"step 1: the loss is nan; its batch is in .*bad-step-1\.json"):
        each.train()
    batch = json.loads((tmp_path / "bad-step-1.json").read_text(encoding="utf-8"))
    assert (batch["step"], batch["phase"], batch["reason"]) == (1, "main", "the loss is nan")
    if task == "calls":
        assert batch["documents"][0]["text"].startswith("<|im_start|>[")
        assert all(len(call["ids"]) == len(call["labels"]) for call in batch["calls"])
        assert all(call["target"] in call["text"] for call in batch["calls"] if call["kind"] == "retrieve")
    else:
        assert len(batch["ids"]) == len(batch["repeats" if task == "spans" else "labels"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(before, each.optimizer.masters, strict=True))
    assert trainer(tmp_path, recipe(calls_phase(3, task=task, spans=4))).step == 1


def test_nan_in_the_routers_and_in_the_gradients_stop_the_run_too(tmp_path, monkeypatch):
    each = trainer(tmp_path, recipe(calls_phase(3)))
    with torch.no_grad():
        each.model.model.layers[1].self_attn.router_q_proj[0].weight.fill_(float("nan"))
    with pytest.raises(EngineError, match="step 0: scores hold NaN"):
        each.train()
    monkeypatch.setattr(trainer_module.MasterOptimizer, "step", lambda self, factor: float("inf"))
    with pytest.raises(EngineError, match="step 0: the gradient norm is inf"):
        trainer(tmp_path, recipe(calls_phase(3))).train()
    assert not (tmp_path / STATE).exists()


def test_a_step_out_of_turn_is_refused(tmp_path):
    each = trainer(tmp_path, recipe(calls_phase(3)))
    with pytest.raises(EngineError, match="step 2 was built where step 0 is due"):
        each._take(each.config.phases[0], iter([(2, make_step())]))


def test_an_interrupt_ends_the_step_saves_and_says_so_in_one_line(tmp_path, straight, monkeypatch, caplog):
    take = Trainer._take

    def interrupted(self, phase, steps):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, phase, steps)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "_take", interrupted)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).train()
    assert [m for m in caplog.messages if "interrupt" in m] == [
        f"interrupted: step 5 is saved in {tmp_path}; run again to continue"
    ]
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    trainer(tmp_path).train(until=7)
    assert_same(tmp_path, straight)


def test_describe_and_by_kind_tell_every_call():
    step = make_step(calls=12)
    told = describe(step, prompts())
    assert len(told["calls"]) == 12
    assert len(told["documents"]) == 8
    assert all("<|endoftext|>" not in call["text"] for call in told["calls"])
    asked = [call for call in told["calls"] if call["positives"]]
    for call in asked:
        number = call["target"].split("]")[0].removeprefix("[")
        assert f"[{number}]. " in told["documents"][call["positives"][0]]["text"]
    assert asked

    class Result:
        kinds = ("answer", "retrieve", "answer")
        right = torch.tensor([True, False, False])
        begins = torch.tensor([True, True, False])

    assert by_kind(Result()) == {"answer": 0.5, "answer.begins": 0.5, "retrieve": 0.0, "retrieve.begins": 1.0}


def test_missing_reading_files_are_told_before_anything_is_made(tmp_path):
    files = write_reading(tmp_path)
    Path(files["queries"]).unlink()
    config = recipe(calls_phase(1), reading=files)
    with pytest.raises(ConfigError, match=r"reading: no file .*queries\.jsonl"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_and_an_end_before_the_start_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="train into a folder that can be made"):
        run(recipe(calls_phase(1)), tmp_path / "file")
    with pytest.raises(ConfigError, match="until is 0"):
        run(recipe(calls_phase(1)), tmp_path / "out", until=0)


# --- the command -------------------------------------------------------------------------------------------

RECIPE = """
seed = 3
vocab_size = 420
warmup = 1
reading = {{ corpus = "{corpus}", queries = "{queries}" }}
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
memory_layers = [1]
chunk_size = 4
[[phases]]
name = "copy"
task = "copy"
steps = 1
calls = 2
[[phases]]
name = "main"
steps = 4
documents = 4
calls = 2
reading_share = 1.0
max_document_tokens = 160
"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memsparse.training", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_trains_continues_and_shows_no_bar_in_a_pipe(tmp_path):
    path, out = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(RECIPE.format(**write_reading(tmp_path)))
    first = command(path, "--out", out, "--until", 2)
    assert (first.returncode, first.stdout) == (0, "")
    assert "step 2  phase main" in first.stderr
    assert "\r" not in first.stderr
    assert len(first.stderr.splitlines()) == 1
    assert load_state(out)["step"] == 2
    assert {path.name for path in out.iterdir()} == {"metrics.jsonl", "model", STATE, "tokenizer"}


@pytest.mark.slow
def test_two_processes_train_together_and_continue_bit_for_bit(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(**write_reading(tmp_path)) + "queue = 8\n")
    for out, stops in (("straight", (4,)), ("slices", (3, 4))):
        for stop in stops:
            done = together(path, "--out", tmp_path / out, "--until", stop)
            assert done.returncode == 0, done.stderr
            assert done.stderr.count(f"step {stop}  phase") == 1  # the first process alone
    assert_same(tmp_path / "straight", tmp_path / "slices")
    own, other = (load_state(tmp_path / "slices", name=name) for name in (STATE, "queue-1.safetensors"))
    assert (own["step"], other["step"], set(other)) == (4, 4, {"step", "queue"})
    assert not torch.equal(own["queue"]["steps"][0][0][1], other["queue"]["steps"][0][0][1])
    alone = command(path, "--out", tmp_path / "alone", "--until", 4)
    assert alone.returncode == 0
    assert not torch.equal(
        load_state(tmp_path / "alone")["optimizer"]["masters"][0], own["optimizer"]["masters"][0]
    )


def together(*arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "memsparse.training", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_tells_a_bad_recipe_in_one_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("sead = 1\n")
    done = command(path, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}: unknown key sead; known: seed")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
