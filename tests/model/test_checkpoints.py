"""Folders of weights: ours, the published layout, and base models without routers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from memsparse.model.modeling_memsparse import BCE_BIAS_INIT, MemSparseForCausalLM
from tests.model.builders import SIZES, fill, question, spread, tiny_model
from tests.model.test_configuration_memsparse import PUBLISHED

SCALED = PUBLISHED | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "max_window_layers": 6,
    "vocab_size": 151,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "msa_config": PUBLISHED["msa_config"] | {"router_layer_idx": "3,4,5"},
}
"""The released configuration, six layers of it and narrow."""


def published_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the published names, bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"q": 128, "k": 32, "v": 32}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (151, 64), "model.norm.weight": (64,)}
    for i in range(6):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.{name}.weight": (64,) for name in ("input_layernorm", "post_attention_layernorm")
        }
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (96, 64) for name in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (64, 96), f"{layer}.self_attn.o_proj.weight": (64, 128)}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (size, 64) for name, size in sizes.items()}
        shapes |= {f"{layer}.self_attn.{name}_norm.weight": (16,) for name in ("q", "k")}
        if i >= 3:
            shapes[f"{layer}.self_attn.router_q_proj.0.weight"] = (128, 64)
            shapes[f"{layer}.self_attn.router_k_proj.0.weight"] = (32, 64)
    weights = {
        name: torch.randn(shape, generator=generator).mul(0.2).add(len(shape) == 1).bfloat16()
        for name, shape in shapes.items()
    }
    return weights | {"temperature": torch.tensor(0.0625).bfloat16()}


@pytest.fixture
def published_folder(tmp_path: Path) -> Path:
    """The published layout in three shards with an index."""
    weights, shards = published_weights(), 3
    (tmp_path / "config.json").write_text(json.dumps(SCALED))
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in sorted(weights)[shard::shards]}
        save_file(part, tmp_path / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("door", [AutoModelForCausalLM, MemSparseForCausalLM])
def test_the_published_layout_loads(published_folder: Path, door: Any) -> None:
    model, report = door.from_pretrained(str(published_folder), output_loading_info=True)
    assert type(model) is MemSparseForCausalLM
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    state = model.state_dict()
    for name, weight in published_weights().items():
        assert torch.equal(state[name], weight), name
    assert float(model.temperature) == 0.0625


def test_a_published_model_answers_over_memory(published_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(published_folder))
    ids, mask = question()
    memory = fill(model, (70, 64, 3))
    assert sorted(memory.layers) == [3, 4, 5]
    assert memory.layers[3].k.dtype == torch.bfloat16
    out = model.generate(ids, attention_mask=mask, memory=memory, max_new_tokens=3, do_sample=False)
    assert out.shape[0] == 2


def test_its_dtype_may_be_chosen(published_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(published_folder), dtype=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"gate": True, "decouple_router": False},
        {"aux_loss_method": "BCE", "routing_score": "dot"},
        {"qk_norm": False, "attention_bias": True, "embedding_norm": True},
    ],
)
def test_save_and_load_are_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    with torch.no_grad():
        (model.b if hasattr(model, "b") else model.temperature).fill_(0.37)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    varying = {"_name_or_path": None, "dtype": None}
    assert again.config.to_dict() | varying == model.config.to_dict() | varying
    want = model.state_dict()
    assert again.state_dict().keys() == want.keys()
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, want[name]), name
    ids, mask = question()
    torch.testing.assert_close(
        again(input_ids=ids, attention_mask=mask, memory=fill(again)).logits,
        model(input_ids=ids, attention_mask=mask, memory=fill(model)).logits,
    )


def base_folder(tmp_path: Path, **extra: Any) -> tuple[Path, Qwen3ForCausalLM]:
    """A plain Qwen3 with a configuration of ours beside it: no router, no loss scalar."""
    base = spread(Qwen3ForCausalLM(Qwen3Config(**SIZES))).eval()
    base.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "memsparse",
        "chunk_size": 4,
        "top_k_documents": 2,
        "aux_temperature": 0.25,
    } | extra
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, base


@pytest.mark.parametrize("extra", [{}, {"aux_loss_method": "BCE"}, {"gate": True, "gate_init": 4.0}])
def test_a_base_model_gets_fresh_routers(tmp_path: Path, extra: dict[str, Any]) -> None:
    folder, base = base_folder(tmp_path, **extra)
    model, report = MemSparseForCausalLM.from_pretrained(str(folder), output_loading_info=True)
    assert not report["unexpected_keys"]
    fresh = {name for name in report["missing_keys"] if "router_" in name}
    assert len(fresh) == 4
    for name in fresh:
        assert 0.01 < model.get_parameter(name).std() < 0.03, name  # initializer_range is 0.02
    if extra.get("aux_loss_method") == "BCE":
        assert model.b.item() == BCE_BIAS_INIT
    else:
        assert float(model.temperature) == 0.25
    if extra.get("gate"):
        assert [layer.self_attn.routing_gate.item() for layer in model.model.layers[2:]] == [4.0, 4.0]
    ids, mask = question(left_padding=2)
    want = base(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(
        model(input_ids=ids, attention_mask=mask).logits[mask == 1], want[mask == 1], atol=2e-5, rtol=1e-4
    )


def test_a_stored_scalar_wins_though_routers_are_fresh(tmp_path: Path) -> None:
    folder, _ = base_folder(tmp_path)
    weights = load_file(folder / "model.safetensors") | {"temperature": torch.tensor(0.03125)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert float(MemSparseForCausalLM.from_pretrained(str(folder)).temperature) == 0.03125
