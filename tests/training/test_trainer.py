import json
import logging
import os
import signal
from dataclasses import replace
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
from memsparse.training.failures import describe
from memsparse.training.measuring import by_kind
from memsparse.training.objective import KeyQueue
from memsparse.training.trainer import Trainer, run
from tests.training.builders import MODEL, calls_phase, prompts, recipe, tokenizer, write_reading
from tests.training.test_objective import make_step

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_time_is_spent_on_the_machines_peak(monkeypatch):
    monkeypatch.setattr(trainer_module, "matrix_peak", lambda *_: 1e12)


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


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_steps": 2, "optimizer": {"matrices": "adamw", "matrix_lr": 1e-3, "router_lr": 1e-2}},
        {"dtype": "float32", "gradient_checkpointing": True, "micro_steps": 3},
    ],
    ids=["adamw", "float32"],
)
def test_micro_batches_are_resumed_bit_for_bit_too(tmp_path, changes):
    config = recipe(calls_phase(3, queue=14, documents=4), Phase(name="c", steps=1, task="copy"), **changes)
    for name, stops in (("straight", (4,)), ("slices", (1, 2, 4))):
        for stop in stops:
            trainer(tmp_path / name, config).train(until=stop)
    assert_same(tmp_path / "straight", tmp_path / "slices")
    assert sorted(load_state(tmp_path / "slices")["queues"]) == list(range(changes["micro_steps"]))


def test_a_step_of_micro_batches_takes_the_mean_of_their_gradients(tmp_path):
    config = recipe(calls_phase(1, lm_documents=0), micro_steps=2, dtype="float32", optimizer={"clip": 1e9})
    whole = trainer(tmp_path / "whole", config)
    gradients = []
    for micro in (0, 1):
        each = trainer(tmp_path / str(micro), config)
        each.micros = each.supply.micros = range(micro, micro + 1)
        each.train()
        gradients.append([master.grad for master in each.optimizer.masters])
    whole.train()
    for a, b, master in zip(*gradients, whole.optimizer.masters, strict=True):
        torch.testing.assert_close((a + b) / 2, master.grad)


def test_a_killed_run_goes_on_from_its_last_save_bit_for_bit(tmp_path, straight, monkeypatch):
    step = trainer_module.MasterOptimizer.step

    class Killed(BaseException):
        pass

    def die_at_step_6(self, factor, **named):
        if killed.step == 6:
            raise Killed
        return step(self, factor, **named)

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
    assert state["queues"][0]["limit"] == 14
    assert [len(hashes) for *_, hashes in state["queues"][0]["steps"]] == [6, 6]
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
    assert (old.step, old.queues) == (7, {})
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


@pytest.mark.parametrize(
    "changes",
    [{"aux_loss_method": "BCE"}, {"aux_loss_method": "INFONCE_DECOUPLE", "learn_temperature": True}],
)
def test_the_scalars_of_the_losses_are_trained_saved_and_started_from(tmp_path, changes):
    config = recipe(calls_phase(2), model=MODEL | changes, dtype="float32")
    each = trainer(tmp_path / "run", config)
    name = "b" if changes["aux_loss_method"] == "BCE" else "temperature"
    before = getattr(each.model, name).item()
    each.train()
    trained = getattr(each.model, name).item()
    assert trained != before
    follow = recipe(calls_phase(2), start=str(tmp_path / "run" / "model"), model={}, dtype="float32")
    assert getattr(trainer(tmp_path / "next", follow).model, name).item() == trained


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


def test_metrics_are_means_over_the_steps_and_go_to_tensorboard_too(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 1)
    config = recipe(calls_phase(4, rate=0.5, rate_end=0.25), warmup=0, decay=0.0)
    trainer(tmp_path / "each", config).train()
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 4)
    trainer(tmp_path / "all", replace(config, tensorboard=True)).train()
    each, (whole,) = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("each", "all")
    )
    for name in ("loss", "aux", "norm"):
        assert whole[name] == pytest.approx(sum(line[name] for line in each) / 4)
    assert [line["rate"] for line in each] == pytest.approx([0.5, 0.5 - 1 / 12, 0.25 + 1 / 12, 0.25])
    assert 0 < whole["mfu"] < 1
    assert list((tmp_path / "all" / "tensorboard").iterdir())
    assert not (tmp_path / "each" / "tensorboard").exists()


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
    monkeypatch.setattr(trainer_module.MasterOptimizer, "step", lambda self, factor, **_: float("inf"))
    with pytest.raises(EngineError, match="step 0: the gradient norm is inf"):
        trainer(tmp_path, recipe(calls_phase(3))).train()
    assert not (tmp_path / STATE).exists()


def test_a_step_out_of_turn_is_refused(tmp_path):
    each = trainer(tmp_path, recipe(calls_phase(3)))
    with pytest.raises(EngineError, match="step 2 was built where step 0 is due"):
        each._draw(each.config.phases[0], 0, iter([(2, 0, make_step())]))


def test_an_interrupt_ends_the_step_saves_and_says_so_in_one_line(tmp_path, straight, monkeypatch, caplog):
    take = Trainer._take

    def interrupted(self, *given):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, *given)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "_take", interrupted)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt) as told:
        trainer(tmp_path).train()
    assert str(told.value) == f"interrupted: step 5 is saved in {tmp_path}; run again to continue"
    assert not [m for m in caplog.messages if "interrupt" in m]
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    trainer(tmp_path).train(until=7)
    assert_same(tmp_path, straight)


def test_describe_and_by_kind_tell_every_call():
    step = make_step(calls=12)
    told = describe(step, prompts())
    assert len(told["calls"]) == sum(len(batch.kinds) for batch in step.batches) > 6
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
