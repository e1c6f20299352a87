import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from memsparse.errors import ModelError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.training import checkpoint
from memsparse.training.checkpoint import (
    MODEL,
    STATE,
    export_model,
    flatten,
    load_state,
    save_state,
    unflatten,
)
from tests.training.builders import model, tokenizer


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


STATE_OF_EVERYTHING = {
    "step": 12,
    "masters": [torch.randn(3, 2), torch.randn(4).to(torch.bfloat16)],
    "state": {0: {"momentum": torch.ones(2, 3).T, "lr": 1e-3, "betas": (0.9, 0.95)}, 1: {}},
    "none": None,
    "flag": True,
    "empty": [],
    "__tensor__ like": {"__dict__": "text"},
}


def test_a_nested_state_comes_back_with_integer_keys_and_exact_numbers(tmp_path):
    save_state(tmp_path, STATE_OF_EVERYTHING, {"seed": 1})
    assert same(STATE_OF_EVERYTHING, load_state(tmp_path))
    with safe_open(str(tmp_path / STATE), "pt") as opened:
        assert json.loads(opened.metadata()["config"]) == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_tensors_that_share_memory_are_stored_apart():
    base = torch.arange(6.0)
    tensors, plain = flatten({"a": base, "b": base[2:4], "c": base})
    assert len(tensors) == 3
    base.zero_()
    assert unflatten(tensors, plain)["b"].tolist() == [2, 3]


def test_no_state_is_none(tmp_path):
    assert load_state(tmp_path) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_state_is_refused_by_name(tmp_path, damage):
    save_state(tmp_path, STATE_OF_EVERYTHING, {})
    path = tmp_path / STATE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"state\.safetensors: damaged") as raised:
        load_state(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_state_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / STATE)
    with pytest.raises(ModelError, match="damaged"):
        load_state(tmp_path)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["save_file", "_flush"])
def test_a_kill_while_saving_leaves_the_last_good_state(tmp_path, monkeypatch, moment):
    save_state(tmp_path, {"step": 1}, {})

    def die(*given: object, **named: object) -> None:
        (tmp_path / f"{STATE}.tmp").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, moment, die)
        with pytest.raises(Killed):
            save_state(tmp_path, {"step": 2}, {})
    assert load_state(tmp_path) == {"step": 1}
    save_state(tmp_path, {"step": 3}, {})
    assert load_state(tmp_path) == {"step": 3}


def test_an_export_loads_and_a_kill_during_the_next_leaves_it_whole(tmp_path, monkeypatch):
    folder = tmp_path / MODEL
    first, second = model(), model()
    with torch.no_grad():
        second.model.norm.weight.add_(1)
    export_model(folder, first, tokenizer())
    for moment in (1, 3, 5):
        flushed = []

        def die(path, flushed=flushed, moment=moment):
            flushed.append(path)
            if len(flushed) == moment:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_flush", die)
            with pytest.raises(Killed):
                export_model(folder, second, tokenizer())
        loaded = MemSparseForCausalLM.from_pretrained(folder)
        assert torch.equal(loaded.model.norm.weight, first.model.norm.weight)
    export_model(folder, second, tokenizer())
    assert torch.equal(
        MemSparseForCausalLM.from_pretrained(folder).model.norm.weight, second.model.norm.weight
    )
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]


def test_whoever_may_read_a_new_file_may_read_an_export(tmp_path):
    export_model(tmp_path / "model", model(), tokenizer())
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in [tmp_path / "plain", *(tmp_path / "model").iterdir()]}
    assert len(modes) == 1
