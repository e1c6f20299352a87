"""Checkpoints: one file is the truth a run continues from; the model folder beside it is an export.

`state.safetensors` holds the float32 masters, the optimizers' states, the queues of negatives and the step.
It is written aside and renamed, so a kill at any moment, or a full disk, leaves the last good one. `model/`
follows it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memsparse.errors import EngineError, ModelError

STATE = "state.safetensors"
MODEL = "model"


def save_state(folder: Path, state: dict[str, Any], config: dict[str, Any], *, name: str = STATE) -> None:
    """Write a state of nested dicts, lists, tensors and JSON values; `config` is kept for reference.

    Raises: EngineError where the disk is full or cannot be written; the file that was there is as before.
    """
    tensors, plain = flatten(state)
    aside = folder / f"{name}.tmp"
    with _told(folder / name, aside):
        save_file(tensors, aside, metadata={"state": json.dumps(plain), "config": json.dumps(config)})
        _flush(aside)
        aside.replace(folder / name)
        _flush(folder)


def load_state(folder: Path, *, name: str = STATE) -> dict[str, Any] | None:
    """Read a state back; None where there is none.

    Raises: ModelError for a damaged file.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as opened:
            plain = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        state: dict[str, Any] = unflatten(tensors, plain)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: damaged ({error}); put a copy back, or train into another folder"
        ) from error
    return state


def saved_config(folder: Path, *, name: str = STATE) -> dict[str, Any]:
    """The config of the run that saved a state, which must be there."""
    with safe_open(str(folder / name), "pt") as opened:
        config: dict[str, Any] = json.loads(opened.metadata().get("config", "{}"))
    return config


def remove_state(folder: Path, *, name: str) -> None:
    """Remove a state, if it is there."""
    (folder / name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a small file aside, and rename it.

    Raises: EngineError where the disk is full or cannot be written.
    """
    aside = path.with_name(f"{path.name}.tmp")
    with _told(path, aside):
        aside.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
        _flush(aside)
        aside.replace(path)


def export_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a model folder that loads anywhere; an older one is replaced file by file, the weights last.

    Raises: EngineError where the disk is full or cannot be written; an older one is as before.
    """
    with replacing(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, whose files then take the places of those in `folder`, the weights last.

    Raises: EngineError where the disk is full or cannot be written; what was there is as before.
    """
    aside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    with _told(folder, aside):
        yield aside
        # Only the weights differ from one export of a run to the next: their rename is the switch.
        paths = sorted(aside.iterdir(), key=lambda path: ".safetensors" in path.name)
        for path in paths:
            path.chmod(aside.stat().st_mode & 0o666)  # safetensors' own files are their owner's alone
            _flush(path)
        folder.mkdir(exist_ok=True)
        for path in paths:
            path.replace(folder / path.name)
        aside.rmdir()


@contextmanager
def _told(target: Path, aside: Path) -> Iterator[None]:
    """Say in one line that `target` could not be written, and remove what was written aside."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EngineError(
            f"{target} could not be saved ({reason}); what was saved last is intact: make room on the disk "
            "and run again"
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a nested state into tensors by name and the rest as JSON with the names in place."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = f"t{len(tensors)}"
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            return {"__tensor__": name}
        if isinstance(value, dict):
            return {"__dict__": [[key, walk(each)] for key, each in value.items()]}
        if isinstance(value, (list, tuple)):
            return [walk(each) for each in value]
        return value

    return tensors, walk(state)


def unflatten(tensors: dict[str, Tensor], plain: Any) -> Any:
    """Put a flattened state together again; tuples have become lists."""
    if isinstance(plain, dict) and "__tensor__" in plain:
        return tensors[plain["__tensor__"]]
    if isinstance(plain, dict) and "__dict__" in plain:
        return {key: unflatten(tensors, value) for key, value in plain["__dict__"]}
    if isinstance(plain, list):
        return [unflatten(tensors, value) for value in plain]
    return plain
