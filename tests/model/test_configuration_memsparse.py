import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from memsparse.errors import ConfigError
from memsparse.model.configuration_memsparse import MemSparseConfig, from_published, to_published
from memsparse.ops.routing import RoutingRule
from tests.model.builders import tiny_config

PUBLISHED: dict[str, Any] = {
    "architectures": ["MSAForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "max_position_embeddings": 262144,
    "max_window_layers": 36,
    "model_type": "msa",
    "msa_config": {
        "aux_loss": False,
        "aux_loss_method": "INFONCE_DECOUPLE",
        "ansloss_weight": 1.0,
        "auxloss_weight": 0.1,
        "chunk_reduce_method": "max",
        "decouple_pooling_mode": "mean",
        "decouple_router": True,
        "head_reduce_method": "mean",
        "infonce_loss_temp": 0.1,
        "lmloss_weigth": 1.0,
        "pooling_kernel_size": 64,
        "query_reduce_method": "max",
        "recloss_weight": 0.0,
        "rewrite_position": True,
        "router_layer_idx": ",".join(map(str, range(18, 36))),
        "top_k_docs": 16,
    },
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000,
    "sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.3",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
"""`config.json` of the released 36-layer checkpoint."""


def published(**settings: Any) -> dict[str, Any]:
    """The released configuration with other `msa_config` entries."""
    return PUBLISHED | {"msa_config": PUBLISHED["msa_config"] | settings}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    return tmp_path


@pytest.mark.parametrize("door", [AutoConfig, MemSparseConfig])
def test_the_released_configuration_loads(folder: Path, door: type) -> None:
    config = door.from_pretrained(str(folder))
    assert type(config) is MemSparseConfig
    assert config.model_type == "memsparse"
    assert config.architectures == ["MemSparseForCausalLM"]
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (36, 2560, 128)
    assert (config.num_attention_heads, config.num_key_value_heads) == (32, 8)
    assert config.rope_parameters["rope_theta"] == 5e6
    assert config.sliding_window is None
    assert set(config.layer_types) == {"full_attention"}
    assert config.dtype == torch.bfloat16
    assert config.tie_word_embeddings
    assert config.memory_layers == config.supervised_layers == list(range(18, 36))
    assert (config.chunk_size, config.top_k_documents, config.position_offset) == (64, 16, 19)
    assert (config.decouple_router, config.rewrite_position, config.qk_norm) == (True, True, True)
    assert (config.aux_loss_method, config.aux_temperature) == ("INFONCE_DECOUPLE", 0.1)
    weights = config.lm_loss_weight, config.aux_loss_weight, config.reconstruction_loss_weight
    assert (*weights, config.answer_loss_weight) == (1.0, 0.1, 0.0, 1.0)
    assert config.routing_rule() == RoutingRule()


def test_it_goes_back_to_the_published_words() -> None:
    config = MemSparseConfig.from_dict(dict(PUBLISHED))
    again = to_published(config)
    settings = dict(PUBLISHED["msa_config"])
    assert {key: again["msa_config"][key] for key in settings if key != "aux_loss"} == {
        key: value for key, value in settings.items() if key != "aux_loss"
    }
    assert (again["model_type"], again["architectures"]) == ("msa", ["MSAForCausalLM"])
    assert MemSparseConfig.from_dict(again).to_dict() == config.to_dict()


def test_save_and_load(tmp_path: Path) -> None:
    config = tiny_config(gate=True, routing_score="dot", memory_layers=[1, 3], id_decoding="router")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(str(tmp_path))
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict()


@pytest.mark.parametrize(
    ("method", "decoupled", "score", "scale"),
    [
        ("INFONCE", True, "cosine", 1.0),
        ("INFONCE_DECOUPLE_FOCAL", True, "cosine", 1.0),
        ("INFONCE_FOCAL", False, "cosine", 128**-0.5),
        ("BCE", True, "dot", 128**-0.5),
        ("BCE", False, "dot", 128**-0.5),
    ],
)
def test_the_score_rule_is_that_of_training(method: str, decoupled: bool, score: str, scale: float) -> None:
    config = MemSparseConfig.from_dict(published(aux_loss_method=method, decouple_router=decoupled))
    assert (config.routing_rule().score, config.routing_rule().scale) == (score, scale)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", list(range(36))), ("35", [35]), (" 3, 1,2 ", [1, 2, 3]), ("7,", [7])],
)
def test_router_layers_are_read(layers: str, expected: list[int]) -> None:
    assert MemSparseConfig.from_dict(published(router_layer_idx=layers)).memory_layers == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"router_layer_idx": "half"}, "router_layer_idx is 'half'"),
        ({"router_layer_idx": "1,36"}, r"memory_layers is \[1, 36\]; .* below 36"),
        ({"aux_loss_method": "INFONCE_TWICE"}, "aux_loss_method is 'INFONCE_TWICE'"),
        ({"head_reduce_method": "sum"}, "head_reduce is 'sum'; use one of mean, max"),
        ({"pooling_kernel_size": 0}, "chunk_size is 0"),
        ({"top_k_docs": 0}, "top_k_documents is 0"),
    ],
)
def test_a_bad_published_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MemSparseConfig.from_dict(published(**settings))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="num_key_value_heads is 5; give a divisor of num_attention_heads, 16"
    ):
        MemSparseConfig(num_attention_heads=16, num_key_value_heads=5)


def test_missing_published_settings_are_named() -> None:
    settings = {
        k: v for k, v in PUBLISHED["msa_config"].items() if k not in ("top_k_docs", "router_layer_idx")
    }
    with pytest.raises(ConfigError, match="msa_config lacks top_k_docs, router_layer_idx"):
        from_published(PUBLISHED | {"msa_config": settings})
    with pytest.raises(ConfigError, match="msa_config lacks pooling_kernel_size"):
        from_published({key: value for key, value in PUBLISHED.items() if key != "msa_config"})


@pytest.mark.parametrize(
    "changes", [{"gate": True}, {"qk_norm": False}, {"embedding_norm": True}, {"mlp_bias": True}]
)
def test_what_the_published_layout_cannot_say_is_refused(changes: dict[str, bool]) -> None:
    with pytest.raises(ConfigError, match=f"published layout has no {next(iter(changes))}"):
        to_published(tiny_config(**changes))


def test_defaults_put_memory_in_the_upper_half() -> None:
    assert tiny_config().memory_layers == [2, 3]
    assert tiny_config(num_hidden_layers=5, memory_layers=None).memory_layers == [2, 3, 4]


def test_supervision_leaves_the_lower_half_alone_unless_asked() -> None:
    assert tiny_config(memory_layers=[0, 2, 3]).supervised_layers == [2, 3]
    assert tiny_config(memory_layers=[0, 2, 3], aux_all_layers=True).supervised_layers == [0, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_layers": [3, 1]}, "give rising layer indices"),
        ({"memory_layers": [1, 1]}, "give rising layer indices"),
        ({"memory_layers": [-1]}, "give rising layer indices"),
        ({"routing_score": "l2"}, "score is 'l2'"),
        ({"id_decoding": "guess"}, "id_decoding is 'guess'"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_a_bad_setting_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)
