"""What this machine is and can do: cores, memory and accelerators; bandwidth and peak as measured."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memsparse.config import processes
from memsparse.ops.routing import inner_products

SIZES = {"cpu": (256, 512, 1024, 2048)}
"""Sides of the square matrices that are tried; `LARGE_SIZES` on anything but a CPU."""
LARGE_SIZES = (2048, 4096, 8192)
SECONDS = 0.5
"""Time a measurement takes, about."""
STREAM_BYTES = {"cpu": 512 * 2**20}
"""Bytes read to measure a bandwidth, many times any cache; `LARGE_STREAM_BYTES` on anything but a CPU."""
LARGE_STREAM_BYTES = 4 * 2**30
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One machine, seen from the device that computes."""

    name: str
    """Of the processor or accelerator that computes."""
    device: str
    """Its type: "cpu", "cuda"."""
    cores: int
    """Processor cores this process may use."""
    threads: int
    """Threads torch computes with on them."""
    host_bytes: int
    """Memory of the host, or what a container may take of it."""
    accelerators: int
    """Of the type of the device; 0 for a CPU."""
    accelerator_bytes: int
    """Memory of each; 0 for a CPU, or where it cannot be told."""
    bandwidth: float
    """Bytes a second the device reads of its memory."""
    peaks: dict[str, float]
    """FLOP a second of the fastest matrix product, by dtype; dtypes without a product are left out."""
    load_average: float | None = None
    """Of the whole machine over the minute before the measuring. None: not told."""


def measure_machine(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
    *,
    seconds: float = SECONDS,
) -> Machine:
    """Look at a machine and measure its device, `seconds` for the bandwidth and for each dtype."""
    load = load_average()
    peaks = {str(d).removeprefix("torch."): matrix_peak(d, device, seconds=seconds) for d in dtypes}
    cpu = device.type == "cpu"
    return Machine(
        name=processor_name() if cpu else accelerator_name(device),
        device=device.type,
        cores=core_count(),
        threads=torch.get_num_threads(),
        host_bytes=host_bytes(),
        accelerators=0 if cpu else torch.accelerator.device_count(),
        accelerator_bytes=accelerator_bytes(device),
        bandwidth=read_bandwidth(device, seconds=seconds),
        peaks={name: peak for name, peak in peaks.items() if peak > 0},
        load_average=load,
    )


def core_count() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """Processes that ran or waited on the whole machine, in the mean over the last minute."""
    return round(os.getloadavg()[0], 2)


def busy(load: float) -> bool:
    """Whether so much load slows down what is measured beside it: more than half of the machine's cores."""
    return load > (os.cpu_count() or 1) / 2


def host_bytes() -> int:
    """Memory of the host, or what a container may take of it if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = _CGROUP.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def free_host_bytes() -> int:
    """Memory that can be taken now without swapping; all of it where the system does not say. Each of several
    processes torchrun started on this host has an even share."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    found = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return (host_bytes() if found is None else min(found, host_bytes())) // processes(here=True)


def accelerator_bytes(device: torch.device) -> int:
    """Memory of one accelerator; 0 for a CPU, or where it cannot be told."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def accelerator_name(device: torch.device) -> str:
    """Of one accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def processor_name() -> str:
    """Of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def read_bandwidth(device: torch.device, *, seconds: float = SECONDS, size: int | None = None) -> float:
    """Bytes a second of the fastest of a few sums over a buffer far larger than the caches.

    Args:
        size: bytes of the buffer. None: as `STREAM_BYTES` says.
    """
    size = size or STREAM_BYTES.get(device.type, LARGE_STREAM_BYTES)
    words = torch.ones(size // 8, dtype=torch.int64, device=device)
    floats = words.view(torch.float32)
    best = 0.0
    for read in (words.sum, floats.sum, floats.amax):
        best = max(best, words.nbytes / min(_repeat(read, device, seconds / 3)))
    return best


def matrix_peak(dtype: torch.dtype, device: torch.device, *, seconds: float = SECONDS) -> float:
    """FLOPs a second of the fastest square matrix product, over about so many seconds of trying.

    0 where the device has no product of that dtype. int8 is summed in int32; float8 has unit scales.
    """
    sizes = SIZES.get(device.type, LARGE_SIZES)
    best = 0.0
    for size in sizes:
        products = _products(dtype, device, size)
        took = [list(_repeat(product, device, seconds / len(sizes) / len(products))) for product in products]
        best = max([best, *(2 * size**3 / min(times) for times in took)])
        if sum(map(sum, took)) > seconds + seconds / len(sizes):  # a larger one would take many times as long
            break
    return best


def _products(dtype: torch.dtype, device: torch.device, size: int) -> list[Callable[[], Tensor]]:
    """Ways to multiply square matrices, none where there are none."""
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    one = torch.ones((), device=device)

    def multiply() -> Tensor:
        if dtype == torch.int8:
            return torch._int_mm(a, b)
        if dtype == torch.float8_e4m3fn:
            return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return a @ b

    if dtype.is_floating_point and dtype.itemsize > 1:
        # Of a float32 product torch's own choice is not the fastest on every processor.
        return [multiply, *([lambda: inner_products(a[None], b)[0]] if device.type == "cpu" else [])]
    try:
        multiply()
    except (RuntimeError, NotImplementedError, AttributeError):  # it depends on device and build
        return []
    return [multiply]


def _repeat(run: Callable[[], object], device: torch.device, seconds: float) -> Iterator[float]:
    """Wall times of one run after another, after a first that only warms up; at least one."""
    run()
    finish(device)
    until = time.perf_counter() + seconds
    while True:
        began = time.perf_counter()
        run()
        finish(device)
        now = time.perf_counter()
        yield now - began
        if now >= until:
            return


def finish(device: torch.device) -> None:
    """Wait for an accelerator's work; a CPU's is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
