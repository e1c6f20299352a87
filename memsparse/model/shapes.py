"""Shapes of published models by name, for planning and measuring without their weights."""

from typing import Any

from memsparse.errors import ConfigError
from memsparse.model.configuration_memsparse import MemSparseConfig, from_published

SHAPES: dict[str, dict[str, Any]] = {
    # config.json of EverMind-AI/MSA-4B, itself Qwen3-4B-Instruct-2507 with routers in the upper half.
    "4b": {
        "model_type": "msa",
        "vocab_size": 151_936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rope_theta": 5_000_000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "msa_config": {
            "router_layer_idx": ",".join(map(str, range(18, 36))),
            "top_k_docs": 16,
            "pooling_kernel_size": 64,
            "decouple_router": True,
            "head_reduce_method": "mean",
            "query_reduce_method": "max",
            "chunk_reduce_method": "max",
            "aux_loss_method": "INFONCE_DECOUPLE",
            "infonce_loss_temp": 0.1,
            "lmloss_weigth": 1.0,
            "auxloss_weight": 0.1,
            "recloss_weight": 0.0,
            "ansloss_weight": 1.0,
            "rewrite_position": True,
        },
    },
}


def shape_config(name: str) -> MemSparseConfig:
    """The configuration of a published shape.

    Raises: ConfigError for a name that is none.
    """
    if name.lower() not in SHAPES:
        raise ConfigError(f"shape is {name!r}; use {', '.join(SHAPES)}, or --model with a model folder")
    return MemSparseConfig(**from_published(SHAPES[name.lower()]))
