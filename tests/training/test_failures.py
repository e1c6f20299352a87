import errno
import json
from dataclasses import replace

import pytest
from safetensors import SafetensorError

from memsparse.errors import EngineError
from memsparse.training import checkpoint
from memsparse.training import trainer as trainer_module
from memsparse.training.checkpoint import STATE, load_state
from memsparse.training.failures import failure
from memsparse.training.progress import RunLog
from memsparse.training.trainer import Trainer
from tests.training.builders import calls_phase, recipe, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_time_is_spent_on_the_machines_peak(monkeypatch):
    monkeypatch.setattr(trainer_module, "matrix_peak", lambda *_: 1e12)


def full(*given: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_in_the_library(*given: object, **named: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "fault", "whole"),
    [
        ("save_file", full, 1),
        ("save_file", full_in_the_library, 1),
        ("os.fsync", full, 1),
        ("model", full_in_the_library, 2),
    ],
)
def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_is_intact(
    tmp_path, monkeypatch, where, fault, whole
):
    config = recipe(calls_phase(3), save_every=1)
    each = Trainer(config, tokenizer(), tmp_path)
    each.train(until=1)
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        if where == "model":
            patch.setattr(type(each.model), "save_pretrained", fault)
        elif where == "os.fsync":
            patch.setattr(checkpoint.os, "fsync", fault)
        else:
            patch.setattr(checkpoint, where, fault)
        with pytest.raises(
            EngineError, match=r"could not be saved .*No space left on device.*intact"
        ) as raised:
            each.train(until=3)
    assert "\n" not in str(raised.value)
    assert load_state(tmp_path)["step"] == whole
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    assert not list(tmp_path.glob("*.tmp"))
    again = Trainer(config, tokenizer(), tmp_path)
    assert again.step == whole
    again.train()
    assert load_state(tmp_path)["step"] == 3


def test_a_finished_run_whose_model_could_not_be_exported_exports_it_when_run_again(tmp_path, monkeypatch):
    config = recipe(calls_phase(2), save_every=1)
    each = Trainer(config, tokenizer(), tmp_path)
    each.train(until=1)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(type(each.model), "save_pretrained", full_in_the_library)
        with pytest.raises(EngineError, match="could not be saved"):
            each.train()
    assert load_state(tmp_path)["step"] == 2
    Trainer(config, tokenizer(), tmp_path).train()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != before


def test_metrics_on_a_full_disk_are_one_line(tmp_path):
    told = r"m\.jsonl cannot be written \(No such file or directory\)"
    run_log = RunLog(tmp_path / "no such folder" / "m.jsonl", done=0, steps=1)
    with run_log, pytest.raises(EngineError, match=told):
        run_log.write({"step": 1})


def test_every_micro_batch_is_kept(tmp_path):
    error = failure(tmp_path, 7, "main", "the gradient norm is nan", {0: {"ids": [1]}, 2: {"ids": [2]}})
    assert str(error).startswith("step 7: the gradient norm is nan; its batch is in ")
    kept = [json.loads((tmp_path / name).read_text()) for name in ("bad-step-7.json", "bad-step-7.2.json")]
    assert [(each["micro"], each["ids"], each["phase"]) for each in kept] == [
        (0, [1], "main"),
        (2, [2], "main"),
    ]


def test_a_batch_that_cannot_be_kept_does_not_hide_the_failure(tmp_path):
    error = failure(tmp_path / "gone", 7, "main", "the loss is nan", {0: {}})
    assert str(error).startswith("step 7: the loss is nan; its batch could not be kept: ")


def test_a_micro_batch_that_fails_is_the_one_that_is_kept(tmp_path, monkeypatch):
    each = Trainer(recipe(calls_phase(2), micro_steps=3), tokenizer(), tmp_path)
    calls = each.learner.calls
    losses = []

    def nan_in_the_second(*given, **named):
        result = calls(*given, **named)
        losses.append(result.loss)
        return replace(result, loss=result.loss * float("nan")) if len(losses) == 2 else result

    monkeypatch.setattr(each.learner, "calls", nan_in_the_second)
    with pytest.raises(EngineError, match=r"step 0: the loss is nan; its batch is in .*bad-step-0\.1\.json"):
        each.train()
    assert [path.name for path in tmp_path.glob("bad-step*")] == ["bad-step-0.1.json"]
    assert not (tmp_path / STATE).exists()
