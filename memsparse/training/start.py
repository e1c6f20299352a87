"""The model and the tokenizer a run begins with: random weights, a checkpoint, or a converted base model."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from memsparse.errors import ConfigError, ModelError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.convert import SUPPORTED, convert
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.model.shards import SourceWeights
from memsparse.text import PromptBuilder
from memsparse.training.checkpoint import STATE, replacing, write_json
from memsparse.training.config import TrainConfig
from memsparse.training.tokenizer import train_tokenizer, vocabulary_texts

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer"
CONVERTED = "start"
"""Folder, in that of the run, of a base model turned into ours."""
OWN = ("memsparse", "msa")
"""Kinds of model that need no conversion."""
_CONSTANTS = ("temperature", "b", "routing_gate")
_SPARE = (".router_", ".routing_gate", "rotary_emb.inv_freq")


def prepare(config: TrainConfig, out: Path) -> None:
    """Make what a run needs in its folder, once: the tokenizer, and its start if that is to be converted.

    A tokenizer that no state goes with is of a run that ended before its first save, and is made anew.

    Raises: ModelError if `start` is no model that can be used.
    """
    folder = out / TOKENIZER
    source = None if config.start is None else start_folder(config.start, out)
    if config.start is not None and source == out / CONVERTED:
        base = Path(config.start).expanduser()
        convert_once(source, base, {}, lambda: convert(base, source))
    if folder.exists() and (out / STATE).exists():
        return
    if source is None:
        tokenizer = train_tokenizer(vocabulary_texts(config.reading_sources), vocab_size=config.vocab_size)
    else:
        tokenizer = _read_tokenizer(source)
    if folder.exists():
        shutil.rmtree(folder)
    with replacing(folder) as aside:
        tokenizer.save_pretrained(aside)


def convert_once(target: Path, base: Path, settings: Mapping[str, Any], make: Callable[[], object]) -> None:
    """Convert a base model into a run's folder, unless that was done already; a note beside it tells of what.

    Raises: ConfigError where what is there was made of another model, or with other settings; what `make`
        raises.
    """
    made_of = {"base": str(base.resolve()), **settings}
    note = target.with_name(f"{target.name}.json")
    if not target.exists():
        write_json(note, made_of)
        make()
        log.info("converted %s into %s", base, target)
        return
    before = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if before != made_of:
        raise ConfigError(
            f"{target} was made of {json.dumps(before)}, not of {json.dumps(made_of)}; train into another "
            "folder, or remove it"
        )


def start_folder(start: str, out: Path) -> Path:
    """Where the weights to start from lie, or will: `start` itself, or its conversion in the run's folder.

    Raises: ModelError if it is no folder of a model of a known kind.
    """
    source = Path(start).expanduser()
    try:
        kind = json.loads((source / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError as error:
        what = f"no config.json in {source}" if source.is_dir() else f"there is no folder {source}"
        raise ModelError(f"start: {what}; give the folder of a model") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"start: {source / 'config.json'} cannot be read ({error}); fetch it again"
        ) from error
    if kind not in SUPPORTED:
        raise ModelError(f"start: {source} is a {kind} model; supported: {', '.join(SUPPORTED)}")
    return source if kind in OWN else out / CONVERTED


def new_model(config: TrainConfig, tokenizer: PreTrainedTokenizerFast) -> MemSparseForCausalLM:
    """A model of random weights."""
    eos = int(tokenizer.eos_token_id)
    return MemSparseForCausalLM(
        config.model_config(vocab_size=len(tokenizer), eos_token_id=eos, pad_token_id=0)
    )


def started_model(
    config: TrainConfig, tokenizer: PreTrainedTokenizerFast, folder: Path, *, dtype: torch.dtype
) -> MemSparseForCausalLM:
    """The model of a memsparse or published folder, with the recipe's memory settings.

    Routers that the folder has no weights for begin as copies of their attention's projections, and gates at
    `gate_init`.

    Raises: ModelError if the folder is damaged, or its weights are not those its configuration speaks of;
        ConfigError for settings that cannot be used.
    """
    try:
        base: Any = MemSparseConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"start: {folder}/config.json does not describe a model: {reason}") from error
    settings = config.model_config(**base.to_dict())
    if len(tokenizer) > settings.vocab_size:
        raise ModelError(
            f"start: the tokenizer of {folder} has {len(tokenizer)} tokens, the model {settings.vocab_size}; "
            "use the two that belong together"
        )
    model = empty_model(settings, dtype)
    with SourceWeights(folder) as weights:
        fresh = _fill(model, weights)
    model.tie_weights()
    if fresh:
        log.info("routers without weights in %s begin as copies of the attention's: %d", folder, len(fresh))
    return model


def empty_model(settings: MemSparseConfig, dtype: torch.dtype) -> MemSparseForCausalLM:
    """A model whose weights hold nothing yet, without the time that random ones take."""
    with torch.device("meta"):
        model = MemSparseForCausalLM(settings)
    empty: Any = model.to_empty(device="cpu")
    empty.model.rotary_emb = type(empty.model.rotary_emb)(config=settings)
    for parameter in empty.parameters():
        parameter.data = parameter.data.to(dtype)
    for module in empty.modules():
        if isinstance(gate := getattr(module, "routing_gate", None), nn.Parameter):
            nn.init.constant_(gate, settings.gate_init)
    empty.init_loss_scalar()
    return empty  # type: ignore[no-any-return]


@torch.no_grad()
def _fill(model: MemSparseForCausalLM, weights: SourceWeights) -> list[str]:
    """Put a folder's weights into a model; return the routers' that were made of others."""
    own: dict[str, Tensor] = model.state_dict()
    if model.config.tie_word_embeddings:
        own.pop("lm_head.weight")
    stored = set(weights.names)
    source_of = {name: _source_of(name, stored) for name in own}
    _refuse(weights, [name for name, source in source_of.items() if source is None], "lacks")
    unknown = [name for name in stored - set(own) if not any(part in name for part in _SPARE)]
    _refuse(weights, sorted(set(unknown) - {"lm_head.weight", "temperature", "b"}), "has besides")
    for name, source in source_of.items():
        if not source:
            continue
        if weights.shape(source) != tuple(own[name].shape):
            raise ModelError(
                f"start: {source} in {weights.folder} is {weights.shape(source)}, its config.json says "
                f"{tuple(own[name].shape)}; fetch the model again"
            )
        try:
            own[name].copy_(weights.read(source))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"start: {weights.folder} is damaged ({error}); fetch it again") from error
    return [name for name, source in source_of.items() if source and source != name]


def _source_of(name: str, stored: Iterable[str]) -> str | None:
    """The stored weight that one begins as; "" for a constant, None where there is none."""
    if name in stored:
        return name
    if name.rpartition(".")[2] in _CONSTANTS:
        return ""
    attention = name.replace("router_", "").replace("_proj.0.", "_proj.")
    return attention if ".router_" in name and attention in stored else None


def _refuse(weights: SourceWeights, names: list[str], verb: str) -> None:
    if names:
        raise ModelError(
            f"start: {weights.folder} {verb} {names[0]} ({len(names)} such weights), so it is not what its "
            "config.json describes; fetch the model again"
        )


def _read_tokenizer(folder: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        PromptBuilder(tokenizer)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"start: {folder} has no tokenizer that can be used ({reason}); put its tokenizer.json there"
        ) from error
    return tokenizer
