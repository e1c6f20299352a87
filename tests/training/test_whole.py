from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memsparse.errors import ConfigError
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.training import trainer as trainer_module
from memsparse.training.checkpoint import load_state
from memsparse.training.lora import load_adapter, merge_lora
from memsparse.training.trainer import run
from memsparse.training.whole import whole_model
from tests.training.builders import calls_phase, model, recipe
from tests.training.test_start import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_time_is_spent_on_the_machines_peak(monkeypatch):
    monkeypatch.setattr(trainer_module, "matrix_peak", lambda *_: 1e12)


def adapted(folder: Path, **changes):
    return recipe(
        calls_phase(3),
        start=str(folder),
        model={},
        lora={"rank": 2, "dropout": 0.3},
        optimizer={"matrices": "adamw", "matrix_lr": 0.05},
        **changes,
    )


def test_a_model_without_adapters_is_itself():
    net = model()
    assert whole_model(net, None, torch.bfloat16) is net


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_adapters_are_trained_alone_and_merged_into_the_exported_model(tmp_path, dtype):
    folder = checkpoint(tmp_path / "model", decouple_router=True)
    config = adapted(folder, dtype=dtype)
    each = run(config, tmp_path / "run")
    state = load_state(tmp_path / "run")
    trained = [parameter for parameter in each.learner.parameters() if parameter.requires_grad]
    assert len(state["optimizer"]["masters"]) == len(trained)
    assert sum(m.numel() for m in state["optimizer"]["masters"]) < sum(
        p.numel() for p in model().parameters()
    )
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    before = load_file(folder / "model.safetensors")
    assert exported.keys() == before.keys()
    changed = {
        name
        for name in exported
        if not torch.equal(exported[name].float(), before[name].to(each.dtype).float())
    }
    assert "model.layers.2.self_attn.q_proj.weight" in changed
    assert "model.layers.2.self_attn.router_q_proj.0.weight" in changed
    assert not [name for name in changed if "norm" in name or "embed" in name]
    # Training goes on with the adapters that were merged into the copy.
    assert hasattr(each.model, "peft_config")
    merged = MemSparseForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=each.dtype)
    again = MemSparseForCausalLM.from_pretrained(folder, dtype=each.dtype)
    load_adapter(again, tmp_path / "run" / "adapter")
    for net in (each.model, again):
        merge_lora(net)
        for (name, a), b in zip(net.named_parameters(), merged.parameters(), strict=True):
            assert torch.equal(a, b), name


def test_adapters_with_dropout_resume_bit_for_bit(tmp_path):
    folder = checkpoint(tmp_path / "model")
    for name, stops in (("straight", (3,)), ("slices", (1, 2, 3))):
        for stop in stops:
            run(adapted(folder), tmp_path / name, until=stop)
    masters = [load_state(tmp_path / name)["optimizer"]["masters"] for name in ("straight", "slices")]
    assert all(torch.equal(a, b) for a, b in zip(*masters, strict=True))


def test_adapters_need_a_model_and_known_settings(tmp_path):
    with pytest.raises(ConfigError, match="lora adapts a model; name its folder"):
        recipe(calls_phase(1), lora={})
    with pytest.raises(ConfigError, match="lora: unknown key rnak; known: rank, alpha"):
        recipe(calls_phase(1), start=str(tmp_path), model={}, lora={"rnak": 2})
