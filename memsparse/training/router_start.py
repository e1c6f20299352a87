"""The model whose routers are fitted: one with routers, or one that is given some first."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from memsparse.engine.loading import LoadedModel, load_model
from memsparse.errors import ConfigError, ModelError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.convert import SUPPORTED, convert
from memsparse.training.router_config import RouterConfig
from memsparse.training.start import CONVERTED, OWN, convert_once


def open_start(config: RouterConfig, out: Path) -> tuple[LoadedModel, bool]:
    """Load the model, and say whether its routers are new.

    A backbone without memory is converted into `out`. So is, if `decouple` is set, a model that routes with
    its attention's own queries and keys: its routers begin as copies of these projections. They route
    otherwise than the attention did all the same, as routers have neither its norms nor its rotary phase.

    Raises: ModelError for a model that cannot be used; ConfigError for settings that do not fit it.
    """
    source, kind = config.start, _kind(config.start)
    target = out / CONVERTED
    made = False
    if kind is not None and kind not in (*OWN, *SUPPORTED):
        raise ModelError(f"start: {source} is a {kind} model; supported: {', '.join(SUPPORTED)}")
    if source is not None and kind is not None and kind not in OWN:
        _convert(Path(source).expanduser(), target, config)
        source, made = str(target), True
    elif config.convert:
        raise ConfigError(
            f"convert is {config.convert}, but the start has a memory already; leave convert out"
        )
    loaded = load_model(source, device=config.device, dtype=config.dtype)
    if not loaded.config.decouple_router:
        if not config.decouple:
            raise ConfigError(
                f"{loaded.name} routes with its attention's own queries and keys; set "
                "decouple = true to give it routers of its own"
            )
        base = _folder(loaded)
        convert_once(target, base, {"decouple": True}, lambda: _decouple(base, target))
        loaded, made = load_model(target, device=config.device, dtype=config.dtype), True
    if not loaded.config.memory_layers:
        raise ConfigError(f"{loaded.name} has no memory layers, so no routers to fit; convert it with some")
    return loaded, made


def own_dtype(loaded: LoadedModel) -> torch.dtype:
    """The dtype a model is stored in, whatever it was loaded in."""
    stored: Any = MemSparseConfig.from_pretrained(str(_folder(loaded)))
    return stored.dtype or torch.float32


def _folder(loaded: LoadedModel) -> Path:
    """Where a model was loaded from; a repository of the hub lies in a folder, too."""
    return Path(str(loaded.model.name_or_path))


def _kind(start: str | None) -> str | None:
    """The `model_type` of a folder; None for what is no folder of a model, which loading judges."""
    if start is None:
        return None
    try:
        raw = json.loads((Path(start).expanduser() / "config.json").read_text(encoding="utf-8"))
        return str(raw["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _convert(source: Path, target: Path, config: RouterConfig) -> None:
    settings = config.conversion

    def make() -> None:
        convert(
            source,
            target,
            chunk_size=settings.chunk_size,
            top_k=settings.top_k,
            memory_layers=settings.memory_layers,
            routing_score=settings.score,
        )

    try:
        convert_once(target, source, asdict(settings), make)
    except StrictDataclassError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"convert is {asdict(settings)}, which {source} cannot have: {reason}") from error


def _decouple(source: Path, target: Path) -> None:
    """Convert a model to what it is, but for routers of its own."""
    config: Any = MemSparseConfig.from_pretrained(str(source))
    config.decouple_router = True
    with TemporaryDirectory(prefix=".decouple-", dir=target.parent) as name:
        staging = Path(name)
        for path in source.iterdir():
            if path.is_file() and path.name != "config.json":
                (staging / path.name).symlink_to(path.resolve())
        config.save_pretrained(staging)
        convert(staging, target)
