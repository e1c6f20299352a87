"""From a Qwen3, Qwen2, Llama or Mistral folder, or a published one, to this package's layout, and back.

Weights go through shard by shard, so the memory it takes is that of one shard, whatever the model's size.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from memsparse.errors import ConfigError, ModelError
from memsparse.model.configuration_memsparse import MemSparseConfig, to_published
from memsparse.model.modeling_memsparse import BCE_BIAS_INIT, MemSparseForCausalLM
from memsparse.model.shards import ShardWriter, SourceWeights
from memsparse.text import Template

SUPPORTED = ("qwen3", "qwen2", "llama", "mistral", "msa", "memsparse")
"""Values of `model_type` that convert; "msa" is the published layout."""

CONTROL_TOKENS = ("<|im_start|>", Template().end_of_turn, Template().retrieve_marker)
"""What the prompt template needs as single tokens."""

_SHARD_BYTES = 2 * 1024**3
_KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("use_cache", "tie_word_embeddings", "rope_parameters", "attention_dropout"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "dtype"),
)
"""Settings of a backbone that mean the same here."""
_COPIED = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
)
_NOISE = (
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "id2label", "label2id", "problem_type"),
    *("is_encoder_decoder", "output_attentions", "output_hidden_states", "return_dict"),
    *("layer_types", "sliding_window", "use_sliding_window", "max_window_layers"),
)
"""Keys of `to_dict` that say nothing about this model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What `convert` did."""

    target: Path
    tensors: int
    bytes: int
    """Of all weights written."""
    fresh_routers: tuple[int, ...]
    """Layers whose router began as a copy of their attention's projections; it wants training."""
    added_tokens: tuple[str, ...]
    """Control tokens the tokenizer lacked; their embeddings are the mean of the others and want training."""
    has_tokenizer: bool


def convert(
    source: Path,
    target: Path,
    *,
    to: Literal["memsparse", "published"] = "memsparse",
    chunk_size: int | None = None,
    top_k: int | None = None,
    memory_layers: Sequence[int] | None = None,
    routing_score: Literal["cosine", "dot"] | None = None,
    max_shard_bytes: int = _SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write `source` to the new folder `target`, which appears only once it is complete.

    Args:
        to: "published" writes the layout of the published checkpoints (`model_type: "msa"`).
        chunk_size: tokens. None: the source's own, or 64 where it has no memory. So for the next three.
        top_k: documents per memory layer (16).
        memory_layers: (the upper half).
        routing_score: ("cosine").
        max_shard_bytes: size of a weight file, and about what is held in memory at a time.
        on_progress: called with tensors written and tensors in all.

    Raises: ModelError if the folder is no model of a supported type in safetensors, or the target exists;
    ConfigError for settings that do not fit the model, or that the published layout cannot say.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise ModelError(f"{target} exists already; remove it or choose another folder")
    config = _read_config(source, chunk_size, top_k, memory_layers, routing_score)
    staging = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        with SourceWeights(source) as weights:
            _check(weights, config)
            staging.mkdir(parents=True)
            _write_config(config, staging, to)
            added, has_tokenizer = _copy_tokenizer(source, staging)
            plan = _Plan(weights, config, added)
            if plan.vocab_size > config.vocab_size:
                config.vocab_size = plan.vocab_size
                _write_config(config, staging, to)
            writer = ShardWriter(staging, max_shard_bytes)
            for name, tensor in plan.tensors():
                writer.add(name, tensor)
                if on_progress is not None:
                    on_progress(len(writer.shard_of), plan.count)
            total = writer.finish()
        staging.rename(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot convert {source} to {target}: {error}; check the files and the space"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Conversion(
        target=target,
        tensors=len(writer.shard_of),
        bytes=total,
        fresh_routers=plan.fresh_routers,
        added_tokens=tuple(added),
        has_tokenizer=has_tokenizer,
    )


# --- configuration ----------------------------------------------------------------------------------------


def _read_config(
    source: Path,
    chunk_size: int | None,
    top_k: int | None,
    memory_layers: Sequence[int] | None,
    routing_score: str | None,
) -> MemSparseConfig:
    """The source's configuration as ours, with the settings given."""
    try:
        raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"no config.json in {source}; give the folder of a model") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{source / 'config.json'} cannot be read ({error}); fetch the model again"
        ) from error
    if kind not in SUPPORTED:
        raise ModelError(f"model_type in {source} is {kind!r}; supported: {', '.join(SUPPORTED)}")
    if raw.get("quantization_config"):
        raise ModelError(f"the weights in {source} are quantised; save the model unquantised first")
    given = {
        "chunk_size": chunk_size,
        "top_k_documents": top_k,
        "memory_layers": None if memory_layers is None else list(memory_layers),
        "routing_score": routing_score,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        original = AutoConfig.from_pretrained(str(source))
    except (ConfigError, OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{source / 'config.json'} is no valid {kind} configuration: {reason}") from error
    if isinstance(original, MemSparseConfig):
        return MemSparseConfig(**{**original.to_dict(), **settings})
    _refuse_unsupported(source, original)
    return MemSparseConfig(
        **{name: getattr(original, name) for name in _KEPT}, **_flags(original), **settings
    )


def _refuse_unsupported(source: Path, original: Any) -> None:
    windowed = "sliding_attention" in (getattr(original, "layer_types", None) or ())
    if windowed or (original.model_type == "mistral" and original.sliding_window is not None):
        raise ModelError(
            f"{source} attends through a sliding window of {original.sliding_window} tokens, which is not "
            "supported; choose a model without one"
        )
    partial = (original.rope_parameters or {}).get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise ModelError(
            f"{source} rotates {partial} of each head; only models that rotate all of it convert"
        )


def _flags(original: Any) -> dict[str, Any]:
    """What sets the backbones apart, as `MemSparseConfig` says it."""
    kind = original.model_type
    head_dim = getattr(original, "head_dim", None) or original.hidden_size // original.num_attention_heads
    bias = bool(getattr(original, "attention_bias", False))
    return {
        "head_dim": head_dim,
        "qk_norm": kind == "qwen3",
        "attention_bias": bias or kind == "qwen2",
        "attention_output_bias": bias,
        "mlp_bias": bool(getattr(original, "mlp_bias", False)),
    }


def _write_config(config: MemSparseConfig, folder: Path, to: str) -> None:
    if to == "published":
        values = to_published(config)
        # transformers 4, which the published code runs on, spells these so.
        rope = dict(values.pop("rope_parameters"))
        values["rope_theta"] = rope.pop("rope_theta")
        values["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
        values["torch_dtype"] = values.pop("dtype")
        kept = {"architectures", "sliding_window"}
    else:
        values = config.to_dict() | {"architectures": ["MemSparseForCausalLM"]}
        kept = {"architectures"}
    values = {name: value for name, value in values.items() if name not in _NOISE or name in kept}
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


# --- tokenizer --------------------------------------------------------------------------------------------


def _copy_tokenizer(source: Path, folder: Path) -> tuple[dict[str, int], bool]:
    """Copy the tokenizer, with the control tokens it lacks; return these by id, and whether there is one."""
    files = {path for pattern in _COPIED for path in source.glob(pattern) if path.is_file()}
    for path in sorted(files):
        shutil.copyfile(path, folder / path.name)
    if not any(path.name.startswith(("tokenizer", "vocab.")) for path in files):
        return {}, False
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        known = tokenizer.get_added_vocab()
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the tokenizer in {source} cannot be loaded ({reason}); save it as a fast tokenizer"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {source} has no tokenizer.json; save it as a fast tokenizer")
    missing = [token for token in CONTROL_TOKENS if token not in known]
    if missing:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": missing}, replace_extra_special_tokens=False
        )
    # A folder without a class of its own was read by its model_type, which is another now.
    if missing or _tokenizer_state(folder) != tokenizer.backend_tokenizer.to_str():
        tokenizer.save_pretrained(str(folder))
    ids = tokenizer.get_added_vocab()
    return {token: ids[token] for token in missing}, True


def _tokenizer_state(folder: Path) -> str | None:
    try:
        return str(AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer.to_str())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


# --- weights ----------------------------------------------------------------------------------------------


def _check(weights: SourceWeights, config: MemSparseConfig) -> None:
    """Hold the names and shapes of a folder against its configuration, before anything is written.

    Raises: ModelError for a weight that is missing, unknown or of another shape.
    """
    expected = _expected(config)
    names = set(weights.names)
    missing = [name for name in expected if name not in names and _template_of(name) is None]
    if missing:
        raise ModelError(
            f"{weights.folder} lacks {missing[0]} ({_more(missing)}); give a whole language model"
        )
    unknown = [name for name in weights.names if name not in expected and not _is_spare(name)]
    if unknown:
        raise ModelError(
            f"{weights.folder} holds {unknown[0]} ({_more(unknown)}), which config.json does not speak of; "
            "give a plain language model"
        )
    for name in names & expected.keys():
        if weights.shape(name) != expected[name]:
            raise ModelError(
                f"{name} in {weights.folder} is {weights.shape(name)}, config.json says {expected[name]}; "
                "fetch the model again"
            )


def _expected(config: MemSparseConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight a folder of this configuration stores."""
    with torch.device("meta"):
        weights = MemSparseForCausalLM(config).state_dict()
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _more(names: Sequence[str]) -> str:
    return f"{len(names)} such weights" if len(names) > 1 else "1 such weight"


def _is_spare(name: str) -> bool:
    """Whether a weight may be left out: a tied head stored twice, a table of old exports, a scalar of another
    loss, the router of a layer that is to have none."""
    return (
        name in ("lm_head.weight", "temperature", "b")
        or ".router_" in name
        or name.endswith("rotary_emb.inv_freq")
    )


def _template_of(name: str) -> str | None:
    """What a weight missing from the source starts as: another weight's name, or "" for a constant."""
    if ".router_" in name:
        return name.replace("router_", "").replace("_proj.0.", "_proj.")
    return "" if name in ("temperature", "b") or name.endswith(".routing_gate") else None


class _Plan:
    """Every weight of the target, in the order it is written."""

    def __init__(self, weights: SourceWeights, config: MemSparseConfig, added: dict[str, int]) -> None:
        self.weights = weights
        self.config = config
        self.added_ids = sorted(added.values())
        self.vocab_size = max([config.vocab_size, *(id_ + 1 for id_ in self.added_ids)])
        expected = _expected(config)
        stored = set(weights.names)
        self._kept = [name for name in weights.names if name in expected]
        self._made = [name for name in expected if name not in stored]
        self.count = len(expected)
        self.fresh_routers = tuple(
            sorted({int(name.split(".")[2]) for name in self._made if ".router_" in name})
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value, one at a time."""
        made_from: dict[str | None, list[str]] = {}
        for name in self._made:
            made_from.setdefault(_template_of(name), []).append(name)
        for name in self._kept:
            tensor = self.weights.read(name)
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                tensor = self._extend(tensor)
            yield name, tensor
            for copy in made_from.get(name, ()):
                yield copy, tensor.clone()
        for name in made_from.get("", ()):
            yield name, torch.tensor(self._constant(name))

    def _extend(self, table: Tensor) -> Tensor:
        """Give the added tokens a row each: the mean of the others."""
        if not self.added_ids:
            return table
        grown = table.new_empty(self.vocab_size, table.shape[1])
        grown[: len(table)] = table
        # Rows behind the tokenizer's vocabulary are padding nobody trained.
        used = min(len(table), self.added_ids[0])
        mean = table[:used].mean(0, dtype=torch.float32).to(table.dtype)
        grown[len(table) :] = mean
        grown[self.added_ids] = mean
        return grown

    def _constant(self, name: str) -> float:
        if name == "temperature":
            return float(self.config.aux_temperature)
        return BCE_BIAS_INIT if name == "b" else float(self.config.gate_init)
