"""Wall times and memory of runs that are to be compared: taken in turns, told as percentiles."""

import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from memsparse.evaluation.results import environment
from memsparse.machine import Machine, finish, load_average

Run = Callable[[], object]


def seconds(run: Run, device: torch.device) -> float:
    """Wall time of one run, the accelerator's work included."""
    finish(device)
    began = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - began


def in_turns(runs: Mapping[str, Run], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Times of every run, one of each after the other, so that a busy moment strikes all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    return times


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p20, p50 and p80 of times in seconds, in milliseconds."""
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else list(values) * 9
    return {name: round(cuts[place] * 1e3, 4) for name, place in (("p20", 1), ("p50", 4), ("p80", 7))}


def peak_bytes(run: Run, device: torch.device) -> int | None:
    """Memory one run takes beyond what was held before it; None where it cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - held
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the run before freed counts as free
        Path("/proc/self/clear_refs").write_text("5")
        held = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - held)
    except OSError:
        return None


def process_peak() -> int:
    """Resident bytes this process took at most since it began."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def surroundings(device: torch.device, machine: Machine) -> dict[str, Any]:
    """What figures depend on besides their settings."""
    return {
        **environment(device),
        "machine": {name: getattr(machine, name) for name in Machine.__dataclass_fields__},
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
