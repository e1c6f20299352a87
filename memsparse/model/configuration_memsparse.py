"""The configuration of a Memory Sparse Attention model, and the published checkpoints' own spelling of it."""

from typing import Any

from transformers import AutoConfig
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from memsparse.errors import ConfigError
from memsparse.ops.losses import AUX_LOSSES
from memsparse.ops.routing import RoutingRule

TEMPLATE_HEAD_TOKENS = 3
"""Tokens of the published prompt head, `<|im_start|>user` and a newline."""


class MemSparseConfig(Qwen3Config):
    """A Qwen3 decoder with memory in some of its layers.

    The backbone's flags (`qk_norm`, the biases) also describe Llama, Mistral and Qwen2. `model_type: "msa"`
    folders, the published layout, are translated on loading.
    """

    model_type = "memsparse"

    qk_norm: bool = True
    """RMSNorm on every query and key head before rotary (Qwen3)."""
    attention_output_bias: bool = False
    """Bias on o_proj; `attention_bias` speaks of q, k and v."""
    mlp_bias: bool = False
    embedding_norm: bool = False
    """RMSNorm after the embedding; steadies small models trained from nothing."""

    chunk_size: int = 64
    """Tokens pooled into one chunk."""
    top_k_documents: int = 16
    """Documents each memory layer selects. (transformers takes a config's `top_k` for a sampling setting.)"""
    memory_layers: list[int] | None = None
    """Layers that route and read memory. None: the upper half."""
    decouple_router: bool = True
    """Separate routing projections; otherwise the attention's own queries and keys route."""
    routing_score: str = "cosine"
    """"cosine", as routers are trained, or "dot"."""
    head_reduce: str = "mean"
    query_reduce: str = "max"
    chunk_reduce: str = "max"
    gate: bool = False
    """Add the routing score, times a learnt scale, to the attention logits of the selected chunks."""
    gate_init: float = 10.0
    id_decoding: str = "generate"
    """How documents are decided: "generate" writes their numbers, "router" takes the routing scores."""
    extractive: bool = False
    """The model answers with spans of what it read; anything else counts as not found."""
    absent_answer: str = ""
    """Sentence the model was trained to give when the documents hold no answer. Empty: it has none."""
    max_document_tokens: int | None = None
    """Longest document the model was trained to encode, template included; longer ones are split."""

    aux_loss_method: str = "INFONCE_DECOUPLE"
    aux_temperature: float = 0.1
    """Initial temperature of the contrastive losses; the scalar stored in the checkpoint wins."""
    learn_temperature: bool = False
    """Train the temperature with the rest."""
    aux_all_layers: bool = False
    """Supervise every memory layer; otherwise only those in the upper half of the model (as published)."""
    lm_loss_weight: float = 1.0
    aux_loss_weight: float = 0.1
    reconstruction_loss_weight: float = 0.0
    answer_loss_weight: float = 1.0
    rewrite_position: bool = True
    """Training uses the caller's positions; otherwise 0..L-1 over the packed row."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.memory_layers is None:
            self.memory_layers = list(range(self.num_hidden_layers // 2, self.num_hidden_layers))
        for name in ("chunk_size", "top_k_documents"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        kv_heads = self.num_key_value_heads or self.num_attention_heads
        if self.num_attention_heads % kv_heads:
            raise ConfigError(
                f"num_key_value_heads is {kv_heads}; give a divisor of num_attention_heads, "
                f"{self.num_attention_heads}"
            )
        outside = [layer for layer in self.memory_layers if not 0 <= layer < self.num_hidden_layers]
        if outside or sorted(set(self.memory_layers)) != list(self.memory_layers):
            raise ConfigError(
                f"memory_layers is {self.memory_layers}; "
                f"give rising layer indices below {self.num_hidden_layers}"
            )
        if self.aux_loss_method not in AUX_LOSSES:
            raise ConfigError(
                f"aux_loss_method is {self.aux_loss_method!r}; use one of {', '.join(AUX_LOSSES)}"
            )
        if self.id_decoding not in ("generate", "router"):
            raise ConfigError(f'id_decoding is {self.id_decoding!r}; use "generate" or "router"')
        self.routing_rule()

    @property
    def supervised_layers(self) -> list[int]:
        """Memory layers that the auxiliary loss trains."""
        lowest = 0 if self.aux_all_layers else self.num_hidden_layers // 2
        return [layer for layer in self.memory_layers or [] if layer >= lowest]

    def routing_rule(self) -> RoutingRule:
        """The rule that turns this model's routing vectors into document scores."""
        unscaled = self.routing_score == "cosine" and self.decouple_router
        return RoutingRule(
            score=self.routing_score,  # type: ignore[arg-type]  # checked by RoutingRule itself
            scale=1.0 if unscaled else self.head_dim**-0.5,
            head_reduce=self.head_reduce,  # type: ignore[arg-type]
            query_reduce=self.query_reduce,  # type: ignore[arg-type]
            chunk_reduce=self.chunk_reduce,  # type: ignore[arg-type]
        )

    @property
    def position_offset(self) -> int:
        """Position of the question's first token: after the prompt head and one place per document."""
        return TEMPLATE_HEAD_TOKENS + self.top_k_documents

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a folder's `config.json`, translated if it is in the published layout."""
        config_dict, rest = super().get_config_dict(*args, **kwargs)
        return (from_published(config_dict) if config_dict.get("model_type") == "msa" else config_dict), rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read either spelling; a folder in the published layout becomes a `MemSparseConfig`."""
        if config_dict.get("model_type") == "msa":
            return MemSparseConfig.from_dict(from_published(config_dict), **kwargs)
        return super().from_dict(config_dict, **kwargs)


class PublishedConfig(MemSparseConfig):
    """Door for `model_type: "msa"` in `AutoConfig`; loading through it yields a `MemSparseConfig`."""

    model_type = "msa"


_PUBLISHED = {
    "pooling_kernel_size": "chunk_size",
    "top_k_docs": "top_k_documents",
    "decouple_router": "decouple_router",
    "head_reduce_method": "head_reduce",
    "query_reduce_method": "query_reduce",
    "chunk_reduce_method": "chunk_reduce",
    "aux_loss_method": "aux_loss_method",
    "infonce_loss_temp": "aux_temperature",
    "lmloss_weigth": "lm_loss_weight",
    "auxloss_weight": "aux_loss_weight",
    "recloss_weight": "reconstruction_loss_weight",
    "ansloss_weight": "answer_loss_weight",
    "rewrite_position": "rewrite_position",
}
"""Keys of `msa_config` (the misspelling is theirs) and our names for them."""

_OWN = (
    "qk_norm",
    "attention_output_bias",
    "mlp_bias",
    "embedding_norm",
    "memory_layers",
    "routing_score",
    "gate",
    "gate_init",
    "id_decoding",
    "extractive",
    "absent_answer",
    "max_document_tokens",
    "aux_all_layers",
)


def from_published(published: dict[str, Any]) -> dict[str, Any]:
    """Translate the published `config.json` into ours.

    The score rule becomes that of training: cosine for every INFONCE method. The published engine serves all
    but exactly INFONCE on the raw dot product; set `routing_score="dot"` to do as it does.

    Raises: ConfigError if a key of `msa_config` is missing.
    """
    config = {key: value for key, value in published.items() if key not in ("msa_config", "sliding_window")}
    settings = published.get("msa_config") or {}
    missing = [key for key in (*_PUBLISHED, "router_layer_idx") if key not in settings]
    if missing:
        raise ConfigError(f"msa_config lacks {', '.join(missing)}; add them to config.json")
    config.update({ours: settings[theirs] for theirs, ours in _PUBLISHED.items()})
    layers = str(settings["router_layer_idx"]).strip()
    try:
        config["memory_layers"] = (
            list(range(config["num_hidden_layers"]))
            if layers == "all"
            else sorted({int(part) for part in layers.split(",") if part.strip()})
        )
    except ValueError as error:
        raise ConfigError(
            f'router_layer_idx is {layers!r}; give "all" or layer numbers with commas'
        ) from error
    config["routing_score"] = "cosine" if "INFONCE" in settings["aux_loss_method"] else "dot"
    config |= {"model_type": "memsparse", "architectures": ["MemSparseForCausalLM"]}
    config["use_sliding_window"] = False
    return config


def to_published(config: MemSparseConfig) -> dict[str, Any]:
    """Write a configuration in the published layout.

    Raises: ConfigError if the model uses what that layout cannot say.
    """
    absent = ("attention_output_bias", "mlp_bias", "embedding_norm", "gate")
    unsayable = [] if config.qk_norm else ["qk_norm=False"]
    unsayable += [name for name in absent if getattr(config, name)]
    if unsayable:
        raise ConfigError(
            f"the published layout has no {', '.join(unsayable)}; keep this model in the memsparse layout"
        )
    published = config.to_dict()
    settings = {theirs: published.pop(ours) for theirs, ours in _PUBLISHED.items()}
    layers = published["memory_layers"]
    everywhere = len(layers) == config.num_hidden_layers
    settings["router_layer_idx"] = "all" if everywhere else ",".join(map(str, layers))
    settings |= {"aux_loss": True, "decouple_pooling_mode": "mean"}
    for name in _OWN:
        published.pop(name, None)
    return published | {
        "model_type": "msa",
        "architectures": ["MSAForCausalLM"],
        "sliding_window": False,
        "msa_config": settings,
    }


AutoConfig.register("memsparse", MemSparseConfig)
AutoConfig.register("msa", PublishedConfig)
