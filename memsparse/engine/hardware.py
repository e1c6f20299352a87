"""The hardware a plan is for: this machine as measured, or accelerators by name or size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from memsparse.errors import ConfigError
from memsparse.machine import Machine, host_bytes, measure_machine

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_SIZES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

HOST_BANDWIDTH = 50e9
"""Bytes a second of host memory, where an accelerator is planned for another machine."""
LINK = {"pcie4": 25e9, "pcie5": 50e9}
"""Bytes a second from pinned host memory to an accelerator."""
DISK = 2e9
"""Bytes a second of a disk, read or written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """An accelerator as its data sheet has it."""

    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    peak: float
    """FLOP a second of dense bfloat16 products."""
    link: float


CARDS: Mapping[str, Card] = {
    "4090": Card(memory=24 * 10**9, bandwidth=1.008e12, peak=165e12, link=LINK["pcie4"]),
    "a100-40gb": Card(memory=40 * 10**9, bandwidth=1.555e12, peak=312e12, link=LINK["pcie4"]),
    "l40s": Card(memory=48 * 10**9, bandwidth=0.864e12, peak=362e12, link=LINK["pcie4"]),
    "a100": Card(memory=80 * 10**9, bandwidth=2.039e12, peak=312e12, link=LINK["pcie4"]),
    "h100": Card(memory=80 * 10**9, bandwidth=3.35e12, peak=989e12, link=LINK["pcie5"]),
    "h200": Card(memory=141 * 10**9, bandwidth=4.8e12, peak=989e12, link=LINK["pcie5"]),
    "b200": Card(memory=180 * 10**9, bandwidth=8.0e12, peak=2250e12, link=LINK["pcie5"]),
}
"""By name, smallest memory first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What a plan may use."""

    name: str
    accelerators: int
    """0: the CPU computes, and the device tier is host memory."""
    accelerator_bytes: int
    """Of each."""
    host_bytes: int
    bandwidth: float
    """Bytes a second the device reads of its own memory."""
    peak: float
    """FLOP a second of the device's bfloat16 products, float32 ones if those are faster."""
    link: float
    """Bytes a second from host memory to the device."""
    disk: float
    """Bytes a second of the disk, read or written."""
    assumed: tuple[str, ...]
    """What was not measured, one line each."""
    load_average: float | None = None
    """Of the machine as it was measured. None: nothing was."""


def read_count(text: str, what: str = "tokens") -> int:
    """Read "100M", "1.5B", "64k" or "10_000"; k, M, B and T are powers of 1,000.

    Raises: ConfigError for anything else, and for less than 1.
    """
    found = _read(text, _COUNTS)
    if found is None or found < 1:
        raise ConfigError(f"{what} is {text!r}; write a number such as 64k, 100M or 1.5B")
    return found


def read_counts(text: str, what: str = "tokens") -> list[int]:
    """Read several counts with commas, ascending.

    Raises: ConfigError as `read_count`.
    """
    return sorted({read_count(part.strip(), what) for part in text.split(",")})


def read_size(text: str, what: str = "size") -> int:
    """Read "80GB", "512GiB" or "2TB" as bytes.

    Raises: ConfigError for anything else, and for less than 1 byte.
    """
    found = _read(text, _SIZES)
    if found is None or found < 1:
        raise ConfigError(f"{what} is {text!r}; write a size such as 80GB, 512GiB or 2TB")
    return found


def read_hardware(gpu: str | None = None, host: str | None = None) -> Hardware:
    """Read what `memsparse plan --gpu` says; measures this machine where it is meant, in about a second.

    Args:
        gpu: "1x80GB", "2xh100", "h200"; "none" for the CPU of this machine; None for this machine as it is.
        host: host memory, such as "512GB". None: that of this machine.

    Raises: ConfigError for what is none of these.
    """
    memory = host_bytes() if host is None else read_size(host, "--host")
    told = "host memory is this machine's" if host is None else "host memory is as given"
    if gpu is None or gpu.strip().lower() == "none":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = torch.device("cpu") if gpu is not None or found is None else found
        return of_machine(measure_machine(device), memory)
    count, card, name = _read_card(gpu)
    return Hardware(
        name=f"{count} x {name}",
        accelerators=count,
        accelerator_bytes=card.memory,
        host_bytes=memory,
        bandwidth=card.bandwidth,
        peak=card.peak,
        link=card.link,
        disk=DISK,
        assumed=(
            f"{card.bandwidth / 1e12:.2f} TB/s, {card.peak / 1e12:.0f} TFLOP/s and {card.link / 1e9:.0f} "
            "GB/s from the host: data sheet, not measured",
            told,
            f"the disk reads and writes {DISK / 1e9:.0f} GB/s",
        ),
    )


def of_machine(machine: Machine, memory: int | None = None) -> Hardware:
    """A measured machine as hardware to plan for."""
    cpu = not machine.accelerators
    link = machine.bandwidth if cpu else LINK["pcie4"]
    assumed = [f"the disk reads and writes {DISK / 1e9:.0f} GB/s"]
    if not cpu:
        assumed.append(f"the host sends {link / 1e9:.0f} GB/s to the device")
    return Hardware(
        name=machine.name,
        accelerators=machine.accelerators,
        accelerator_bytes=machine.accelerator_bytes,
        host_bytes=machine.host_bytes if memory is None else memory,
        bandwidth=machine.bandwidth,
        peak=max(machine.peaks.values()),
        link=link,
        disk=DISK,
        assumed=tuple(assumed),
        load_average=machine.load_average,
    )


def _read_card(gpu: str) -> tuple[int, Card, str]:
    """How many of which card."""
    found = re.fullmatch(r"(?:(\d+)\s*[x*]\s*)?(\S+)", gpu.strip().lower())
    count, kind = (int(found[1] or 1), found[2]) if found else (0, "")
    if count >= 1 and kind in CARDS:
        return count, CARDS[kind], kind.upper()
    size = _read(kind, _SIZES)
    if count < 1 or size is None or size < 10**9:
        raise ConfigError(f"--gpu is {gpu!r}; write 1x80GB, 2x{list(CARDS)[-2]} ({', '.join(CARDS)}) or none")
    like = [card for card in CARDS.values() if card.memory <= size] or [next(iter(CARDS.values()))]
    nearest = max(like, key=lambda card: card.memory)
    slowest = min((card for card in like if card.memory == nearest.memory), key=lambda card: card.bandwidth)
    return (
        count,
        Card(memory=size, bandwidth=slowest.bandwidth, peak=slowest.peak, link=slowest.link),
        f"{size / 1e9:.0f} GB",
    )


def _read(text: str, units: Mapping[str, int]) -> int | None:
    """A number and its unit, or None."""
    found = re.fullmatch(r"(\d[\d_,]*(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in units:
        return None
    return round(float(re.sub("[_,]", "", found[1])) * units[found[2]])
