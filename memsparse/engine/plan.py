"""What a memory of so many tokens takes and costs, from a model's configuration and the hardware alone.

Bytes follow from shapes; what depends on texts or was not measured is an assumption, and told.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.keys import WORTH_A_FILE
from memsparse.bank.scan_files import LOSSY
from memsparse.bank.tiers import TierConfig, choose_format
from memsparse.engine.config import EngineConfig
from memsparse.engine.encoder import document_limit
from memsparse.engine.hardware import Hardware
from memsparse.errors import ConfigError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.flops import pass_flops
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.ops.products import multiplies_integers
from memsparse.ops.quantization import KeyFormat, key_bytes
from memsparse.ops.routing import TILE

KEY_SHARE, LARGE_KEY_SHARE = 1 / 2, 7 / 10
"""Of what a host or an accelerator has free, that `TierConfig` gives to routing keys by itself."""
STORED = "bfloat16"
"""Of the segments' routing keys, K and V."""
CONTENT = 2
"""Bytes of an element of them."""
TEXT_BYTES = 4.0
"""UTF-8 bytes of a token of text."""
ROW_BYTES = 400
"""Bytes of a document's rows in the catalog."""
QUESTION_TOKENS = 32
ROUTE_FRACTION = 0.7
"""Of the floor of a scan that is reached."""
MATRIX_FRACTION = 0.4
"""Of the matrix peak that encoding reaches; so does a prefill."""
LAYER_SECONDS = 3e-4
"""Time a layer takes whatever its size: launches, Python."""
_COLUMNS_ASSUMED = "routing keys keep all columns; a processor holds and scans fewer where trained keys allow"
_TIMES_ASSUMED = (
    f"scans reach {ROUTE_FRACTION:.0%} of their floor, encoding and prefill {MATRIX_FRACTION:.0%} of the "
    f"matrix peak; a layer takes {1000 * LAYER_SECONDS:g} ms at least, to read and tokenise texts nothing"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The shape of a bank."""

    tokens: int
    documents: int
    chunks: int
    layers: int
    """Memory layers."""
    width: int
    """Of a routing key, and of K and of V: kv_heads * head_dim."""

    def key_bytes(self, format: KeyFormat) -> int:  # noqa: A002 - the word everywhere else
        """Routing keys of all layers as a scan reads them, scales and bounds included."""
        return self.chunks * self.layers * key_bytes(self.width, format)

    @property
    def stored_key_bytes(self) -> int:
        """Exact routing keys as segments hold them."""
        return self.chunks * self.layers * self.width * CONTENT

    @property
    def content_bytes(self) -> int:
        """K and V of all layers."""
        return 2 * self.stored_key_bytes

    @property
    def catalog_bytes(self) -> int:
        """Texts and rows."""
        return round(self.tokens * TEXT_BYTES) + self.documents * ROW_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """What lies in a tier."""

    what: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """A place, what it is to hold, and whether it can."""

    name: str
    """device (each of them), host or disk."""
    items: tuple[Item, ...]
    bytes: int
    capacity: int | None
    """Bytes. None: not known."""
    fits: bool
    """Whether all of it does. What does not fit the host stays on the disk, where all of it lies anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """One question until its first token, in seconds; one round."""

    route: float
    """All memory layers."""
    bound: str
    """What the scan waits for: "bandwidth" or "matrix"."""
    fetch: float
    """K and V of the selected documents; part of `route` where that was measured, and they lie in memory."""
    prefill: float
    first_token: float
    """The sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What this machine takes at a model's shape, in seconds; see `memsparse.bench.rehearsal`."""

    chunks: tuple[int, ...]
    """Of the banks that were asked, ascending; at least two."""
    reads: tuple[float, ...]
    """To read all memory layers of each, for one question."""
    passes: tuple[float, ...]
    """A question's pass through all layers beside them, its reads left out: large scans empty the caches."""
    token: float
    """To encode one token of a document."""

    def route(self, chunks: float) -> float:
        """To read a bank of so many chunks: between those asked by lines, below as the smallest, above by the
        last slope."""
        beyond = chunks - self.chunks[-1]
        if beyond <= 0:
            return float(np.interp(chunks, self.chunks, self.reads))
        slope = (self.reads[-1] - self.reads[-2]) / (self.chunks[-1] - self.chunks[-2])
        share = self.reads[-1] / self.chunks[-1]  # noise must not make a chunk free
        return self.reads[-1] + beyond * (slope if slope > 0 else share)

    def prefill(self, chunks: float) -> float:
        """A question's pass beside the reads of such a bank; beyond those asked as the nearest of them."""
        return float(np.interp(chunks, self.chunks, self.passes))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Bytes, places and times of one memory."""

    hardware: Hardware
    memory: Memory
    routing_keys: KeyFormat
    """As asked for, or what "auto" takes."""
    routing_keys_in: str
    """The tier they are scanned in: device, host or disk."""
    key_bytes: dict[str, int]
    """By format."""
    tiers: tuple[Tier, ...]
    encode_seconds: float
    question: Latency
    assumptions: tuple[str, ...]


def plan_memory(
    config: MemSparseConfig,
    hardware: Hardware,
    tokens: int,
    *,
    document_tokens: int | None = None,
    routing_keys: str = "auto",
    question_tokens: int = QUESTION_TOKENS,
    rates: Callable[[KeyFormat], Rates] | None = None,
) -> Plan:
    """Plan a memory of `tokens` tokens.

    Args:
        document_tokens: of a document, in the mean, template included. None: the longest the model encodes.
        routing_keys: a format of the scan, or "auto", as `TierConfig` has it.
        question_tokens: of a prompt; all route.
        rates: measures the hardware with routing keys of a format. None: times follow from its peaks.

    Raises: ConfigError for a model without memory layers, an unknown format, or a number below 1.
    """
    tiers_config = TierConfig(routing_keys=routing_keys)  # type: ignore[arg-type]  # it checks that itself
    if question_tokens < 1:
        raise ConfigError(f"a question has {question_tokens} tokens; give at least 1")
    length = document_limit(config) if document_tokens is None else document_tokens
    memory = memory_of(config, tokens, document_tokens=length)
    weights, passes = weight_bytes(config), activation_bytes(config, question_tokens)
    share = LARGE_KEY_SHARE if hardware.accelerators else KEY_SHARE
    room = math.floor(share * (_device_bytes(hardware) - weights)) * max(1, hardware.accelerators)
    chosen = choose_format(
        tiers_config,
        _fingerprint(config, memory),
        chunks=memory.chunks,
        device_bytes=max(0, room),
        integers=not hardware.accelerators and multiplies_integers(memory.width),
    )
    place = _place(memory.key_bytes(chosen), room, hardware)
    tiers = _tiers(memory, hardware, chosen, place, weights, passes)
    measured = None if rates is None else rates(chosen)
    question = question_latency(
        config,
        hardware,
        memory,
        chosen,
        place,
        content_in="host" if tiers[1].fits else "disk",
        question_tokens=question_tokens,
        rates=measured,
    )
    return Plan(
        hardware=hardware,
        memory=memory,
        routing_keys=chosen,
        routing_keys_in=place,
        key_bytes={name: memory.key_bytes(name) for name in get_args(KeyFormat)},
        tiers=tiers,
        encode_seconds=encode_seconds(config, hardware, memory, rates=measured),
        question=question,
        assumptions=(
            *hardware.assumed,
            f"routing keys may take {share:.0%} of what weights and a pass leave free on the device",
            f"documents have {length} tokens, and the last chunk of each is half full",
            f"{TEXT_BYTES:g} bytes of text a token, {ROW_BYTES} bytes of rows a document",
            f"a question has {question_tokens} tokens, all of which route; one round",
            *([_COLUMNS_ASSUMED] if chosen == "int8" and not hardware.accelerators else []),
            *([_TIMES_ASSUMED] if measured is None else []),
        ),
    )


def memory_of(config: MemSparseConfig, tokens: int, *, document_tokens: float) -> Memory:
    """The shape of a bank of documents that have `document_tokens` tokens in the mean.

    Raises: ConfigError for a model without memory layers, or a number below 1.
    """
    layers = len(config.memory_layers or ())
    if not layers:
        raise ConfigError("the model has no memory layers; name one that has, or convert it")
    if tokens < 1 or document_tokens < 1:
        raise ConfigError(f"{tokens} tokens in documents of {document_tokens}; give at least 1 of each")
    documents = math.ceil(tokens / document_tokens)
    size = config.chunk_size
    return Memory(
        tokens=tokens,
        documents=documents,
        chunks=math.ceil(tokens / size + documents * (size - 1) / (2 * size)),
        layers=layers,
        width=kv_width(config),
    )


def weight_bytes(config: MemSparseConfig) -> int:
    """Weights in the checkpoint's dtype, as the model's own modules have them."""
    with torch.device("meta"):
        model = MemSparseForCausalLM(config)
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def activation_bytes(config: MemSparseConfig, question_tokens: int = QUESTION_TOKENS) -> int:
    """What a pass takes at its widest: a batch of documents, or a scan, whichever is more."""
    heads, kv = config.num_attention_heads * config.head_dim, kv_width(config)
    widest = 3 * config.hidden_size + max(3 * config.intermediate_size, 2 * heads + 4 * kv)
    return max(EngineConfig().batch_tokens * widest * CONTENT, 4 * question_tokens * TILE)


def encode_seconds(
    config: MemSparseConfig, hardware: Hardware, memory: Memory, *, rates: Rates | None = None
) -> float:
    """Time to encode a bank with all accelerators, or to write it, whichever is longer."""
    written = memory.stored_key_bytes + memory.content_bytes + memory.catalog_bytes
    if rates is None:
        length = round(memory.tokens / memory.documents)
        flops = memory.documents * pass_flops(config, [length], weights=2, writes=True, chunks_only=True)
        encoded = flops / (MATRIX_FRACTION * hardware.peak)
    else:
        encoded = memory.tokens * rates.token
    return max(encoded / max(1, hardware.accelerators), written / hardware.disk)


def question_latency(
    config: MemSparseConfig,
    hardware: Hardware,
    memory: Memory,
    format: KeyFormat,  # noqa: A002
    place: str,
    *,
    content_in: str = "host",
    question_tokens: int = QUESTION_TOKENS,
    rates: Rates | None = None,
) -> Latency:
    """Time to the first token: the floors of reading and multiplying and a fixed time for each layer, or what
    was measured.

    Args:
        place: the tier the routing keys lie in.
        content_in: the tier K and V are fetched from.
    """
    shards = max(1, hardware.accelerators)
    speed = {"device": hardware.bandwidth, "host": hardware.link, "disk": hardware.disk}
    reading = memory.key_bytes(format) / shards / speed[place]
    pairs = memory.layers * memory.chunks * question_tokens
    multiplying = 2 * pairs * memory.width / shards / hardware.peak
    read = min(memory.documents, config.top_k_documents) * memory.chunks / memory.documents
    route = max(reading, multiplying) / ROUTE_FRACTION + memory.layers * LAYER_SECONDS
    fetch = read * memory.layers * 2 * memory.width * CONTENT / speed[content_in]
    flops = pass_flops(config, [question_tokens], weights=2, targets=1, memory_chunks=read)
    floor = max(flops / hardware.peak / MATRIX_FRACTION, weight_bytes(config) / hardware.bandwidth)
    prefill = floor + config.num_hidden_layers * LAYER_SECONDS
    if rates is not None:
        chunks = memory.chunks / shards
        route = max(rates.route(chunks), 0.0 if place == "device" else reading)
        prefill, fetch = rates.prefill(chunks), 0.0 if content_in == "host" else fetch
    return Latency(
        route=route,
        bound="bandwidth" if reading >= multiplying else "matrix",
        fetch=fetch,
        prefill=prefill,
        first_token=route + fetch + prefill,
    )


def _fingerprint(config: MemSparseConfig, memory: Memory) -> Fingerprint:
    """Of a bank that no model has filled yet."""
    return Fingerprint(
        weights="",
        chunk_size=config.chunk_size,
        memory_layers=tuple(config.memory_layers or ()),
        kv_heads=memory.width // config.head_dim,
        head_dim=config.head_dim,
        routing_score=config.routing_score,
        template="",
        dtype=STORED,
    )


def _place(wanted: int, room: int, hardware: Hardware) -> str:
    """The tier from which so many bytes of routing keys are scanned; the host caches the disk."""
    if wanted <= room:
        return "device"
    return "host" if hardware.accelerators and wanted <= hardware.host_bytes else "disk"


def _tiers(
    memory: Memory,
    hardware: Hardware,
    chosen: KeyFormat,
    place: str,
    weights: int,
    passes: int,
) -> tuple[Tier, ...]:
    """Device, host and disk; without an accelerator host memory is the device tier."""
    keys = Item(what=f"routing keys, {chosen}", bytes=memory.key_bytes(chosen))
    shards = max(1, hardware.accelerators)
    device = [Item(what="weights", bytes=weights), Item(what="one pass", bytes=passes)]
    if place == "device":
        device.append(Item(what=keys.what, bytes=-(-keys.bytes // shards)))
    cached = [Item(what="K and V", bytes=memory.content_bytes)]
    if chosen != "bf16":
        cached.append(Item(what="exact routing keys", bytes=memory.stored_key_bytes))
    host = [keys] * (place == "host") + cached
    disk = [
        Item(what="exact routing keys", bytes=memory.stored_key_bytes),
        Item(what="K and V", bytes=memory.content_bytes),
        *[keys] * (chosen in LOSSY and memory.stored_key_bytes >= WORTH_A_FILE),
        Item(what="catalog and texts", bytes=memory.catalog_bytes),
    ]
    first = _tier("device", device, _device_bytes(hardware))
    left = hardware.host_bytes if hardware.accelerators else hardware.host_bytes - first.bytes
    return first, _tier("host", host, max(0, left)), _tier("disk", disk, None)


def _tier(name: str, items: list[Item], capacity: int | None) -> Tier:
    total = sum(item.bytes for item in items)
    return Tier(
        name=name,
        items=tuple(items),
        bytes=total,
        capacity=capacity,
        fits=capacity is None or total <= capacity,
    )


def _device_bytes(hardware: Hardware) -> int:
    return hardware.accelerator_bytes if hardware.accelerators else hardware.host_bytes


def kv_width(config: MemSparseConfig) -> int:
    """Of a routing key, and of K and of V: W."""
    return (config.num_key_value_heads or config.num_attention_heads) * config.head_dim
