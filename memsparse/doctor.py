"""Is everything here that the package needs? One check per line, each with what to do about it."""

import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from importlib import metadata
from platform import python_version
from time import perf_counter

import torch

from memsparse.config import cache_dir
from memsparse.engine.loading import load_model
from memsparse.errors import MemSparseError
from memsparse.ops import openmp
from memsparse.ops.native import layers, library, scans

_REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_NOT_YET = ("serve",)
"""Extras for what the package does not do yet; nobody should install them."""
_PROBE_SIZE = 512
"""Rows and columns of the matrices whose product is timed: large enough to keep every core busy."""
_PROBE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    needed: bool
    """Whether the package is of no use without it."""
    detail: str
    """What was found, and when it is not as it should be, what to do."""


def examine(model: str | None = None) -> tuple[Check, ...]:
    """Look at the installation, the machine and a model (None: the built-in one); takes a few seconds."""
    return (
        Check(name="python", ok=True, needed=True, detail=python_version()),
        *(_version(name) for name in _REQUIRED),
        *_devices(),
        _cpu(),
        _kernel(),
        _sqlite(),
        _cache(),
        _model(model),
        *_extras(),
    )


def _version(distribution: str) -> Check:
    try:
        return Check(name=distribution, ok=True, needed=True, detail=metadata.version(distribution))
    except metadata.PackageNotFoundError:
        detail = f"is not installed; pip install {distribution}"
        return Check(name=distribution, ok=False, needed=True, detail=detail)


def _devices() -> list[Check]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return [Check(name="device", ok=True, needed=True, detail="cpu (torch sees no accelerator)")]
    found = []
    for index in range(torch.accelerator.device_count()):
        name = f"{accelerator.type}:{index}"
        if accelerator.type == "cuda":
            properties = torch.cuda.get_device_properties(index)
            name += f" {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found.append(Check(name="device", ok=True, needed=True, detail=name))
    return found


def _cpu() -> Check:
    speeds = {dtype: _matmul_gflops(dtype) for dtype in (torch.float32, torch.bfloat16)}
    threads = torch.get_num_threads()
    detail = (
        f"{threads} thread{'s' * (threads != 1)} on {os.cpu_count()} cores, matrix product "
        f"{speeds[torch.float32]:.0f} GFLOP/s in float32, {speeds[torch.bfloat16]:.0f} in bfloat16"
    )
    return Check(name="cpu", ok=True, needed=True, detail=detail)


def _matmul_gflops(dtype: torch.dtype) -> float:
    """Best of the products that fit into a moment; the first one only warms up."""
    matrix = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype)
    best, spent = float("inf"), 0.0
    torch.mm(matrix, matrix)
    while spent < _PROBE_SECONDS:
        started = perf_counter()
        torch.mm(matrix, matrix)
        seconds = perf_counter() - started
        best, spent = min(best, seconds), spent + seconds
    return 2 * _PROBE_SIZE**3 / best / 1e9


def _kernel() -> Check:
    """Our own kernels, of scans and of models, on a CPU."""
    taken = [dtype for dtype in (torch.int8, torch.bfloat16, torch.float32) if scans.can_multiply(dtype, 64)]
    detail = "multiplies " + ", ".join(str(dtype).removeprefix("torch.") for dtype in taken)
    tiled = [str(dtype).removeprefix("torch.") for dtype in taken if library.has_tiles(dtype)]
    detail += f" ({' and '.join(tiled)} by tiles)" if tiled else ""
    detail += "; models in bfloat16" if layers.has_bfloat16() else ""
    detail += "" if openmp.work_at_once() else "; on one thread: torch has no OpenMP here"
    if not taken:
        why = "there was no C compiler, or it is of another version: install the package again"
        why = "this processor lacks AVX-512" if library.is_built() else why
        detail = f"none ({why}); torch's products take its place, at about half the speed"
    return Check(name="scan kernel", ok=bool(taken), needed=False, detail=detail)


def _sqlite() -> Check:
    version = sqlite3.sqlite_version
    try:
        with sqlite3.connect(":memory:") as connection:
            connection.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    except sqlite3.Error:
        detail = f"{version}, without full-text search (FTS5); use a Python whose SQLite has it"
        return Check(name="sqlite", ok=False, needed=False, detail=detail)
    finally:
        connection.close()
    return Check(name="sqlite", ok=True, needed=True, detail=f"{version}, with full-text search (FTS5)")


def _cache() -> Check:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        detail = f"{folder} cannot be written ({error.strerror}); set MEMSPARSE_CACHE to a folder that can"
        return Check(name="cache", ok=False, needed=True, detail=detail)
    detail = f"{folder}, {used / 2**20:.1f} MiB used, {free / 2**30:.1f} GiB free"
    return Check(name="cache", ok=True, needed=True, detail=detail)


def _model(model: str | None) -> Check:
    try:
        loaded = load_model(model)
    except MemSparseError as error:
        return Check(name="model", ok=False, needed=True, detail=str(error))
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    detail = f"{loaded.name}, {size / 1e6:.1f}M parameters, {loaded.model.dtype} on {loaded.device}"
    return Check(name="model", ok=True, needed=True, detail=detail.replace("torch.", ""))


def _extras() -> list[Check]:
    try:
        about = metadata.metadata("memsparse")
    except metadata.PackageNotFoundError:
        detail = "unknown, memsparse runs from its sources; pip install --editable . to have it known"
        return [Check(name="extras", ok=False, needed=False, detail=detail)]
    requirements = about.get_all("Requires-Dist") or []
    checks = []
    for extra in (name for name in about.get_all("Provides-Extra") or [] if name not in _NOT_YET):
        wanted = [
            _distribution(line) for line in requirements if f"extra == '{extra}'" in line.replace('"', "'")
        ]
        lacking = [name for name in wanted if not _version(name).ok]
        detail = f"without {', '.join(lacking)}; pip install 'memsparse[{extra}]'" if lacking else "installed"
        checks.append(Check(name=f"extra {extra}", ok=not lacking, needed=False, detail=detail))
    return checks


def _distribution(requirement: str) -> str:
    name = requirement
    for mark in " ;[<>=!~(":
        name = name.partition(mark)[0]
    return name
