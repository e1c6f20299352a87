"""The tiers of a memory bank, and what lies where.

    device   routing keys in the format a scan reads; on an accelerator K and V of hot documents too
    host     K and V of hot documents, page-locked where there is CUDA
    disk     the segments, memory mapped and always complete, and quantised keys beside them

On a machine without an accelerator the device is the processor, and its memory the host's. Whatever the tiers
hold, a reader finds the same documents: the exact keys on the disk have the last word (`reader`).
"""

import logging
import threading
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from memsparse.bank.cells import CellFiles
from memsparse.bank.content import ContentTier, Hot
from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.keys import WORTH_A_FILE, KeyBudget, KeyTier, stored_format
from memsparse.bank.scan_files import ScanFiles
from memsparse.bank.segments import SegmentFiles
from memsparse.errors import BankError, ConfigError
from memsparse.machine import free_host_bytes
from memsparse.ops.products import multiplies_integers
from memsparse.ops.quantization import KeyFormat, key_bytes

Content = Literal["stored", "int8"]
Index = Literal["none", "cells"]

_LOG = logging.getLogger(__name__)
_PREFERRED: tuple[KeyFormat, ...] = ("int8", "int4", "binary")
"""Formats tried in turn when the stored one does not fit."""
_SMALL = 4 * 2**20
"""Bytes of stored routing keys up to which a scan costs next to nothing, in any format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierConfig:
    """What a bank's reader holds, and where.

    Raises: ConfigError for a format that does not exist or a negative number.
    """

    routing_keys: KeyFormat | Literal["auto"] = "auto"
    """Format of the keys that are scanned. auto: as stored if they fit `device_bytes`, else int8, else int4,
    else binary; as stored, from the disk, where nothing fits. Processors that multiply integers take int8
    first, for banks that are not small: they scan it faster."""
    device_bytes: int | None = None
    """Bytes for routing keys on the device that scans; 0: none, they are read from the disk for every scan.
    None: half of what is free when the first question is asked (on an accelerator, seven tenths)."""
    host_bytes: int | None = None
    """Bytes of host memory for K and V of hot documents; 0: none. None: a sixteenth of what is free."""
    content: Content = "stored"
    """K and V as they are stored, or through int8 (one scale per chunk and head): half the memory of
    bfloat16, and answers that may differ."""
    projects: bool = True
    """Hold int8 routing keys on a processor in the fewer columns that have nearly all of them in them, where
    there are such: less memory, a shorter scan, the same documents wherever they are proven."""
    rescored: int | None = None
    """Documents scored again from stored keys per request and layer, at most; what is found is then not
    `certified` where more were needed. None: as many as the proof takes."""
    index: Index = "none"
    """cells: look into the cells of an index that promise most, in place of a scan of all routing keys, for
    rules that take a scan and banks that are not small. What is found may then not be `certified`. It is
    made for the first question that is asked, and kept beside the segments if it may be."""
    probes: int = 64
    """Cells of the index a request looks into first, in a layer; more in a view of a part of the bank, and
    where they hold fewer documents than are wanted."""
    lean: float = 0.7
    """How much of its spread, the usual distance of its keys, a cell promises beyond its centre; cells that
    promise as much as the k-th best document of the first ones are looked into too. More finds more."""
    widen: bool = False
    """Look into twice as many cells until what is found is certified; seldom before all are looked into."""

    def __post_init__(self) -> None:
        formats = ("auto", *get_args(KeyFormat))
        if self.routing_keys not in formats:
            raise ConfigError(f"routing_keys is {self.routing_keys!r}; use one of {', '.join(formats)}")
        for name, known in (("content", Content), ("index", Index)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise ConfigError(f"{name} is {value!r}; use one of {', '.join(get_args(known))}")
        if self.probes < 1:
            raise ConfigError(f"probes is {self.probes}; it must be at least 1")
        if not 0 <= self.lean < float("inf"):
            raise ConfigError(f"lean is {self.lean}; it must be 0 or more, and finite")
        for name, least in (("device_bytes", 0), ("host_bytes", 0), ("rescored", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}, or None")

    def check(self, fingerprint: Fingerprint, longest: int) -> None:
        """Compare the budgets with a bank whose longest document has so many chunks.

        Raises: ConfigError for a budget that is smaller than one document, and not 0.
        """
        key_format = (
            stored_format(fingerprint.torch_dtype) if self.routing_keys == "auto" else self.routing_keys
        )
        value_bytes = 2 * (1 if self.content == "int8" else fingerprint.torch_dtype.itemsize)
        for name, budget, needed in (
            ("device_bytes", self.device_bytes, longest * key_bytes(fingerprint.width, key_format)),
            ("host_bytes", self.host_bytes, longest * fingerprint.width * value_bytes),
        ):
            if budget is not None and 0 < budget < needed:
                raise ConfigError(
                    f"{name} is {budget}, one document takes up to {needed} in a layer; allow more, or 0 to "
                    "hold nothing"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class TierReport:
    """What a reader's tiers hold, and what it took to be exact."""

    routing_keys: str
    """Format of the keys scanned last; empty before the first read."""
    device: str
    """Device they are scanned on; empty before the first read."""
    key_bytes: int
    """Of routing keys held there."""
    content_bytes: int
    """Of K and V held in host memory and on accelerators."""
    reads: int
    """Requests times layers."""
    scanned: int
    """Chunks bounded in all reads; all of the view in each, but where an index found others."""
    rescored: int
    """Documents scored again from their stored keys in all reads."""
    uncertified: int
    """Reads whose documents are not proven."""
    fallbacks: tuple[str, ...]
    """What was given up for want of device memory, in order."""


def choose_format(
    config: TierConfig,
    fingerprint: Fingerprint,
    *,
    chunks: int,
    device_bytes: int,
    integers: bool = False,
) -> KeyFormat:
    """The format of the routing keys of a bank with so many chunks; see `TierConfig.routing_keys`.

    Args:
        integers: the scan is a processor's that multiplies integers faster than anything else.
    """
    if config.routing_keys != "auto":
        return config.routing_keys
    stored = stored_format(fingerprint.torch_dtype)
    layers = len(fingerprint.memory_layers)
    is_small = chunks * layers * key_bytes(fingerprint.width, stored) < _SMALL
    for key_format in _PREFERRED if integers and not is_small else (stored, *_PREFERRED):
        packs = {"int4": 2, "binary": 8}.get(key_format, 1)
        if fingerprint.width % packs:
            continue
        if chunks * layers * key_bytes(fingerprint.width, key_format) <= device_bytes:
            return key_format
    return stored


class Tiers:
    """The tiers of one bank, shared by all its readers; safe to share between threads."""

    def __init__(
        self, config: TierConfig, files: SegmentFiles, fingerprint: Fingerprint, *, writes: bool
    ) -> None:
        """Hold nothing yet.

        Args:
            writes: quantised keys may be kept in files beside the segments.
        """
        self.config = config
        self.files = files
        self.fallbacks: list[str] = []
        self._fingerprint = fingerprint
        self._scan_files = ScanFiles(files.folder, files, fingerprint, writes=writes)
        self.cells: CellFiles | None = None
        """The index. None: the config asks for none."""
        if config.index == "cells":
            self.cells = CellFiles(files.folder, files, fingerprint, writes=writes)
        self._keys: dict[tuple[torch.device, KeyFormat], KeyTier] = {}
        self._budgets: dict[torch.device, KeyBudget] = {}
        self._scans_on: dict[torch.device, torch.device] = {}
        self._mutex = threading.RLock()
        host_bytes = free_host_bytes() // 16 if config.host_bytes is None else config.host_bytes
        self.content = ContentTier(
            files,
            quantized=config.content == "int8",
            host_bytes=host_bytes,
            ahead=host_bytes > 0 and torch.cuda.is_available(),
        )

    def scan_device(self, device: torch.device) -> torch.device:
        """Where queries that are on `device` are scanned: there, or on the processor if it cannot be."""
        able = device if device.type in ("cpu", "cuda") else torch.device("cpu")
        return self._scans_on.get(device, able)

    def keys(self, device: torch.device, *, chunks: int, scanned: bool = True) -> KeyTier:
        """The tier of routing keys on a device, for a view over segments of so many chunks.

        Args:
            scanned: in the format of the config. False: as stored, for rules that take no scan.
        """
        with self._mutex:
            budget = self._budget(device)
            key_format = stored_format(self._fingerprint.torch_dtype)
            if scanned:
                key_format = choose_format(
                    self.config,
                    self._fingerprint,
                    chunks=chunks,
                    device_bytes=budget.total,
                    integers=device.type == "cpu" and multiplies_integers(self._fingerprint.width),
                )
            key = (device, key_format)
            if key not in self._keys:
                for (where, _), tier in self._keys.items():
                    if where == device:  # of a bank that was smaller, perhaps
                        tier.release()
                stored = stored_format(self._fingerprint.torch_dtype)
                stored_bytes = chunks * key_bytes(self._fingerprint.width, stored)
                self._keys[key] = KeyTier(
                    self.files,
                    self._scan_files,
                    self._fingerprint,
                    device,
                    key_format=key_format,
                    budget=budget,
                    writes_files=stored_bytes * len(self._fingerprint.memory_layers) >= WORTH_A_FILE,
                    projects=self.config.projects,
                )
            return self._keys[key]

    def fall_back(self, device: torch.device, error: RuntimeError, *, known: int | None = None) -> None:
        """Use one tier less of a device that ran out of memory: hold nothing on it, then do not scan on it.

        Args:
            known: how many fallbacks there were when what failed began: if there are more now, another read
                has seen to it already, and nothing is done.

        Raises: BankError where there is no tier left.
        """
        with self._mutex:
            if known is not None and known < len(self.fallbacks):
                return
            scanning = self.scan_device(device)
            if scanning.type == "cpu":
                raise BankError(
                    f"out of memory while reading the bank ({one_line(error)}); nothing was changed; lower "
                    "top_k_documents or the budgets, or free memory"
                ) from error
            hot = self.content.devices.pop(device, None)
            held = sum(tier.held for (where, _), tier in self._keys.items() if where == scanning)
            budget = self._budgets.get(scanning)
            had_room = budget is not None and budget.total > 0
            if budget is not None:
                budget.total = 0
            for (where, _), tier in self._keys.items():
                if where == scanning:
                    tier.release()
            if hot is not None:
                hot.clear()
            if had_room:
                said = f"{scanning} is out of memory: routing keys ({held:,} bytes) are read block by block"
            else:
                self._scans_on[device] = torch.device("cpu")
                said = f"{scanning} is out of memory: routing keys are scanned on the processor"
            self.fallbacks.append(said)
            _LOG.warning("%s", said)
        if scanning.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def key_bytes(self) -> int:
        """Bytes of routing keys held on all devices."""
        return sum(tier.held for tier in self._keys.values())

    @property
    def content_bytes(self) -> int:
        """Bytes of K and V held."""
        return self.content.host.held + sum(hot.held for hot in self.content.devices.values())

    def _budget(self, device: torch.device) -> KeyBudget:
        """Bytes for routing keys on a device, measured once: what is held must not count as taken later."""
        if device not in self._budgets:
            given = self.config.device_bytes
            if device.type == "cuda":
                free = torch.cuda.mem_get_info(device)[0]
                self._budgets[device] = KeyBudget(free * 7 // 10 if given is None else given)
                self.content.devices[device] = Hot(free // 20)
            else:
                self._budgets[device] = KeyBudget(free_host_bytes() // 2 if given is None else given)
        return self._budgets[device]


def one_line(error: BaseException) -> str:
    """What an error says first."""
    return str(error).partition("\n")[0][:200]
