"""From a name to a model that is ready to run: the built-in one, a folder, or a repository of the hub."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as library_logging

from memsparse.bank.fingerprint import DTYPES, Fingerprint
from memsparse.errors import ConfigError, ModelError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.text import PromptBuilder

BUILT_IN = "built-in"
"""Name of the checkpoint that ships with the package."""
SMALL_BYTES = 2 * 2**30
"""Weights up to this size are run in float32 where that is the faster dtype."""
_SAMPLE = 4096
_PROBE = "Abc dé\n[12]. 3,14 \u6771\u4eac \u0442\u0435\u0441\u0442 <x>  don't"
_FILES = ["*.json", "*.safetensors", "*.txt"]
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model with its tokenizer, ready to run."""

    model: MemSparseForCausalLM
    """In evaluation mode, on its device."""
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptBuilder
    name: str
    """As it was asked for."""

    @property
    def config(self) -> MemSparseConfig:
        """The model's own configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.model.device

    def source(self) -> dict[str, str | None]:
        """What `load_model` takes in another process to load the same: a folder by its whole path."""
        folder = Path(self.name).expanduser()
        place = str(folder.resolve()) if folder.exists() else self.name
        return {
            "model": None if self.name == BUILT_IN else place,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": "cpu" if self.device.type == "cpu" else None,
        }


def load_model(
    model: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> LoadedModel:
    """Load a model for answering.

    Args:
        model: a folder, or a repository of the hub ("owner/name"). None: the one in the package.
        device: None: the accelerator if there is one, else the CPU.
        dtype: None: the checkpoint's own; on a CPU without bfloat16 instructions, small models run in
            float32. (With them, a 4M-parameter model encodes 36,000 tokens/s on one core in bfloat16,
            13,000 in float32; without, bfloat16 is emulated and slower than either.)

    Raises: ModelError if the folder is no memsparse model, or is damaged; ConfigError for an unknown device
    or dtype.
    """
    name = BUILT_IN if model is None else str(model)
    folder = _locate(model)
    config = _read_config(folder)
    place = choose_device(device)
    wanted = _dtype(dtype) if dtype is not None else _default_dtype(folder, config, place)
    tokenizer = _read_tokenizer(folder)
    try:
        prompts = PromptBuilder(tokenizer)
    except ConfigError as error:
        raise ModelError(f"model {folder} cannot be used: {error}") from error
    # The library wraps nn.Module.to and eval without their types.
    weights: Any = _read_weights(folder, config, wanted)
    return LoadedModel(model=weights.to(place).eval(), tokenizer=tokenizer, prompts=prompts, name=name)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name. None: the accelerator if there is one, else the CPU.

    Raises: ConfigError for an unknown one, or one this machine does not have.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None:
        return found or torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'device is {device!r}; use "cpu", "cuda" or another torch device') from error
    if chosen.type not in ("cpu", found.type if found else "cpu"):
        raise ConfigError(f"device is {str(device)!r}, and torch sees none here; use {found or 'cpu'}")
    return chosen


def model_config(model: str | Path | None = None) -> MemSparseConfig:
    """The configuration of a model alone; of a repository of the hub nothing else is fetched.

    Raises: ModelError as `load_model`.
    """
    return _read_config(_locate(model, files_wanted=["config.json"]))


def fingerprint(loaded: LoadedModel, *, dtype: str = "bfloat16") -> Fingerprint:
    """What a bank must know of a model: the same for every device and dtype the checkpoint is loaded in.

    Args:
        dtype: of the stored chunks.
    """
    config = loaded.config
    return Fingerprint(
        weights=_weights_digest(loaded.model),
        chunk_size=config.chunk_size,
        memory_layers=tuple(config.memory_layers or ()),
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim,
        routing_score=config.routing_score,
        template=_template_digest(loaded),
        dtype=dtype,
    )


def _weights_digest(model: MemSparseForCausalLM) -> str:
    """Hash names, shapes and an even sample of the values, in bfloat16 whatever they were loaded in."""
    digest = hashlib.sha256()
    config = model.config
    arithmetic = [config.rope_parameters, config.rms_norm_eps, config.hidden_act, config.num_attention_heads]
    digest.update(json.dumps(arithmetic, sort_keys=True).encode())
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        places = torch.linspace(0, max(flat.numel() - 1, 0), min(flat.numel(), _SAMPLE), dtype=torch.float64)
        sample = flat[places.round().long().to(flat.device)].to(torch.bfloat16).cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _template_digest(loaded: LoadedModel) -> str:
    """Hash the template, the vocabulary, and how a probe of many kinds of characters is encoded."""
    vocabulary = sorted(loaded.tokenizer.get_vocab().items(), key=lambda item: item[1])
    probe = loaded.prompts.tokenizer.encode(_PROBE)
    parts = [loaded.prompts.template.digest, vocabulary, probe]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _locate(model: str | Path | None, *, files_wanted: list[str] = _FILES) -> Path:
    if model is None:
        folder = Path(str(files("memsparse").joinpath("weights")))
        if not (folder / "config.json").is_file():
            raise ModelError("this installation has no built-in model; name a folder or a hub repository")
        return folder
    folder = Path(model).expanduser()
    if not folder.exists():
        return _download(str(model), files_wanted)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; name the folder of a memsparse model")
    return folder


def _download(model: str, files_wanted: list[str]) -> Path:
    owner, slash, name = model.partition("/")
    if not slash or not name or "/" in name or owner in ("", ".", "..", "~"):
        raise ModelError(f"no folder {model!r}; name an existing folder, or a hub repository as owner/name")
    try:
        folder = Path(snapshot_download(model, allow_patterns=files_wanted))
    except (OSError, ValueError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"no folder {model!r}, and the hub does not give it ({cause}); check name and network"
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"hub repository {model!r} has no config.json; name a memsparse model")
    return folder


def _read_config(folder: Path) -> MemSparseConfig:
    try:
        kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}/config.json cannot be read ({error}); fetch the model again") from error
    if kind not in ("memsparse", "msa"):
        raise ModelError(
            f"{folder} is a {kind} model; turn it into one with 'memsparse convert {folder} OUT'"
        )
    try:
        config: MemSparseConfig = MemSparseConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"{folder}/config.json does not describe a model: {_first_line(error)}") from error
    return config


def _read_tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(f"model {folder} has no tokenizer; copy its tokenizer.json into the folder")
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the tokenizer of {folder} cannot be read ({_first_line(error)}); fetch the model again"
        ) from error


def _read_weights(folder: Path, config: MemSparseConfig, dtype: torch.dtype) -> MemSparseForCausalLM:
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise ModelError(f"model {folder} has no weights (model.safetensors); fetch the model again")
    try:
        with _quiet():
            loaded: Any = MemSparseForCausalLM.from_pretrained(
                str(folder), config=config, dtype=dtype, output_loading_info=True
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the weights of {folder} are damaged or do not fit its config.json ({_first_line(error)}); "
            "fetch the model again"
        ) from error
    model: MemSparseForCausalLM
    model, report = loaded
    missing = sorted(name for name in report["missing_keys"] if name not in ("b", "temperature"))
    if missing:
        untrained = any("router" in name for name in missing)
        raise ModelError(
            f"model {folder} lacks {len(missing)} weights, among them {missing[0]}; "
            + ("train its router first" if untrained else "fetch it again")
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and reports off standard error; what matters is raised."""
    verbosity, bars = library_logging.get_verbosity(), library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity(logging.CRITICAL)
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    known = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if known not in DTYPES.values():
        raise ConfigError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    return known  # type: ignore[return-value]  # a text that is no key is no value either


def _default_dtype(folder: Path, config: MemSparseConfig, device: torch.device) -> torch.dtype:
    own = _dtype(config.dtype or torch.float32)
    if device.type != "cpu" or own == torch.float32:
        return own
    if own == torch.bfloat16 and _native_bfloat16():
        return own
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return torch.float32 if size <= SMALL_BYTES else own


def _native_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; by its instructions, for a timing would waver."""
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
