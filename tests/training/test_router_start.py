import json
from pathlib import Path

import pytest
import torch

from memsparse.errors import ConfigError, ModelError
from memsparse.training.router_config import RouterConfig
from memsparse.training.router_heads import routers_of
from memsparse.training.router_start import CONVERTED, open_start, own_dtype
from tests.engine.builders import save_model, tiny_model
from tests.training.router_builders import save_backbone


def settings(start: Path, **changes: object) -> RouterConfig:
    return RouterConfig(**{"corpus": "c", "start": str(start), **changes})  # type: ignore[arg-type]


def test_a_model_with_routers_is_taken_as_it_is(tmp_path: Path) -> None:
    save_model(tmp_path / "m", tiny_model(), dtype=torch.bfloat16)
    loaded, fresh = open_start(settings(tmp_path / "m"), tmp_path)
    assert not fresh
    assert loaded.model.dtype == torch.float32
    assert own_dtype(loaded) == torch.bfloat16
    assert not (tmp_path / CONVERTED).exists()


def test_a_backbone_is_converted_once(tmp_path: Path) -> None:
    source = save_backbone(tmp_path / "qwen", tiny_model())
    config = settings(source, convert={"chunk_size": 8, "memory_layers": [1, 3], "top_k": 2})
    loaded, fresh = open_start(config, tmp_path)
    assert fresh
    assert (loaded.config.chunk_size, loaded.config.memory_layers) == (8, [1, 3])
    assert loaded.config.top_k_documents == 2
    written = (tmp_path / CONVERTED / "model.safetensors").stat().st_mtime_ns
    open_start(config, tmp_path)
    assert (tmp_path / CONVERTED / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match=r'was made of .*"chunk_size": 8.*, not of .*another folder'):
        open_start(settings(source, convert={"chunk_size": 16}), tmp_path)


def test_a_model_without_routers_is_refused_or_given_some(tmp_path: Path) -> None:
    joint = tiny_model(decouple_router=False)
    save_model(tmp_path / "m", joint)
    with pytest.raises(ConfigError, match="decouple = true"):
        open_start(settings(tmp_path / "m"), tmp_path)
    loaded, fresh = open_start(settings(tmp_path / "m", decouple=True), tmp_path)
    assert fresh
    assert loaded.config.decouple_router
    attention = joint.model.model.get_submodule("layers.2.self_attn")
    assert torch.equal(routers_of(loaded.model)["2.q"], attention.q_proj.weight)  # type: ignore[arg-type,union-attr]
    assert torch.equal(routers_of(loaded.model)["2.k"], attention.k_proj.weight)  # type: ignore[arg-type,union-attr]
    own, new = joint.model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(own[name], new[name]) for name in own)


def test_conversion_settings_for_a_model_with_memory_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m", tiny_model())
    with pytest.raises(ConfigError, match="has a memory already"):
        open_start(settings(tmp_path / "m", convert={"chunk_size": 8}), tmp_path)


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    source = save_backbone(tmp_path / "qwen", tiny_model())
    with pytest.raises(ConfigError, match="memory_layers is"):
        open_start(settings(source, convert={"memory_layers": [9]}), tmp_path)
    with pytest.raises(ConfigError, match="no memory layers"):
        open_start(settings(source, convert={"memory_layers": []}), tmp_path)


def test_a_model_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="is a bert model; supported: qwen3"):
        open_start(settings(tmp_path / "bert"), tmp_path)
    with pytest.raises(ModelError):
        open_start(settings(tmp_path / "none"), tmp_path)
