"""Models and banks of a shape without their content: random weights, random latents, real files.

For speed and memory only: nothing they answer means anything.
"""

import ctypes
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from memsparse.bank import Bank, EncodedChunks, Fingerprint
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.errors import BankNotFoundError, ConfigError, InputError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.model.modeling_memsparse import MemSparseForCausalLM
from memsparse.types import Passage

SEGMENT_TOKENS = 1_000_000
"""Of a segment, and so of a version of the bank; less for smaller banks, more for over 100 segments."""
SEGMENTS = 100
_BLOCK, _STRIDE = 2**24, 1_000_003
_PUNCH = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE of Linux's fallocate."""

Told = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a bank of random latents is cut."""

    segment_tokens: int
    document_chunks: int
    """Mean; a document has 1 to twice as many less one."""
    hollow: bool = False
    """K and V are zeros that take no disk."""

    @property
    def folder(self) -> str:
        """Name that no other layout has."""
        return f"latents-{self.segment_tokens}-{self.document_chunks}{'-hollow' * self.hollow}.bank"

    def counts(self, segment: int, chunk_size: int) -> Tensor:
        """Chunks of the documents of a segment, counted from 0; the same at every call."""
        chunks = max(1, self.segment_tokens // chunk_size)
        generator = torch.Generator().manual_seed(segment)
        longest = 2 * self.document_chunks - 1
        lengths = torch.randint(1, longest + 1, (chunks,), generator=generator)
        ends = lengths.cumsum(0)
        documents = int((ends < chunks).sum()) + 1
        counts = lengths[:documents]
        counts[-1] -= int(ends[documents - 1]) - chunks
        return counts


def random_model(config: MemSparseConfig, device: torch.device, *, seed: int = 0) -> LoadedModel:
    """A model of a shape in bfloat16, with the built-in model's tokenizer.

    The weights repeat one block of random numbers: drawing billions would take longer than what is measured.

    Raises: ConfigError for a vocabulary the tokenizer does not fit into.
    """
    built_in = load_model(None, device="cpu")
    tokens = len(built_in.tokenizer)
    if config.vocab_size < tokens:
        raise ConfigError(
            f"the shape has {config.vocab_size} tokens, the tokenizer {tokens}; take a larger one"
        )
    with torch.device("meta"):
        empty: Any = MemSparseForCausalLM(config)  # the library wraps nn.Module.to and eval without types
    model = empty.to(torch.bfloat16).to_empty(device=device).eval()
    block = (
        torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed)).mul(0.02).to(device, model.dtype)
    )
    twice = torch.cat([block, block])
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            if parameter.ndim < 2:
                parameter.fill_(1)
                continue
            start = place * _STRIDE % _BLOCK  # no two matrices are alike
            for part in parameter.view(-1).split(_BLOCK):
                part.copy_(twice[start : start + len(part)])
    model.model.rotary_emb = Qwen3RotaryEmbedding(config=config).to(device)
    model.tie_weights()
    return LoadedModel(
        model=model,
        tokenizer=built_in.tokenizer,
        prompts=built_in.prompts,
        name=f"random, {config.num_hidden_layers} layers",
    )


def layout_for(sizes: list[int], document_chunks: int, *, hollow: bool = False) -> Layout:
    """How to cut a bank that is measured at these sizes, in tokens.

    Raises: ConfigError for less than a chunk a document.
    """
    if document_chunks < 1:
        raise ConfigError(f"documents have {document_chunks} chunks; give at least 1")
    return Layout(
        segment_tokens=max(min(SEGMENT_TOKENS, min(sizes)), -(-max(sizes) // SEGMENTS)),
        document_chunks=document_chunks,
        hollow=hollow,
    )


def segments_for(layout: Layout, tokens: int) -> int:
    """Segments, and so versions, that a bank of so many tokens has."""
    return -(-tokens // layout.segment_tokens)


def segment_bytes(layout: Layout, config: MemSparseConfig) -> int:
    """Disk a segment takes, without its few kilobytes of header."""
    width = (config.num_key_value_heads or config.num_attention_heads) * config.head_dim
    chunks = max(1, layout.segment_tokens // config.chunk_size)
    return chunks * len(config.memory_layers or ()) * width * 2 * (1 if layout.hollow else 3)


def grow_bank(
    folder: Path,
    loaded: LoadedModel,
    layout: Layout,
    tokens: int,
    *,
    on_segment: Told = lambda done, total: None,
) -> Bank:
    """Open the bank of a layout below `folder` and grow it to at least so many tokens, a segment a version.

    What an earlier call has written is kept, so an interrupted one goes on where it was.

    Raises: BankMismatchError if it is of another model; BankError where the disk refuses.
    """
    own = fingerprint(loaded)
    path = folder / layout.folder
    try:
        bank = Bank.open(path, own)
    except BankNotFoundError:
        bank = Bank.create(path, own)
    wanted = segments_for(layout, tokens)
    for segment in range(bank.version, wanted):
        counts = layout.counts(segment, own.chunk_size)
        numbers = bank.reserve(len(counts))
        passages = [_passage(number) for number in numbers]
        bank.commit(passages, random_chunks(own, counts, seed=segment, hollow=layout.hollow))
        if layout.hollow:
            _dig(max((path / "segments").glob("*.safetensors")), own)
        on_segment(segment + 1, wanted)
    return bank


def bank_chunks(bank: Bank, version: int) -> int:
    """Chunks of a version."""
    return sum(count for *_, count in bank.layout(version=version).rows)


def random_chunks(own: Fingerprint, counts: Tensor, *, seed: int, hollow: bool = False) -> EncodedChunks:
    """Chunks of documents with so many each: uniform values, routing keys normalised per kv head.

    Args:
        hollow: K and V are zero.
    """
    generator = np.random.Generator(np.random.SFC64(seed))
    total, dtype = int(counts.sum()), own.torch_dtype
    heads = (total, own.kv_heads, own.head_dim)

    def draw() -> Tensor:
        drawn = np.frombuffer(bytearray(generator.bytes(total * own.width)), dtype=np.int8)
        return torch.from_numpy(drawn).view(heads)

    def values() -> Tensor:
        return torch.zeros(heads, dtype=dtype) if hollow else draw().to(dtype) / 64

    keys = {layer: normalize(draw().float(), dim=-1).to(dtype).flatten(1) for layer in own.memory_layers}
    return EncodedChunks(
        routing_k=keys,
        k={layer: values() for layer in own.memory_layers},
        v={layer: values() for layer in own.memory_layers},
        chunks_per_passage=tuple(counts.tolist()),
        tokens_per_passage=tuple((counts * own.chunk_size).tolist()),
    )


def _passage(number: int) -> Passage:
    text = f"random latents {number}"
    return Passage(
        number=number,
        document_id=f"latents-{number}",
        title="",
        text=text,
        namespace="default",
        metadata={},
        start=0,
        end=len(text),
    )


def _dig(path: Path, own: Fingerprint) -> None:
    """Give the disk back what zeros take in a segment: the file reads as before.

    Raises: InputError where the file system cannot.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        libc = ctypes.CDLL(None, use_errno=True)
        for layer in own.memory_layers:
            for name in ("k", "v"):
                first, last = header[f"layer_{layer}.{name}"]["data_offsets"]
                offset, length = ctypes.c_int64(8 + size + first), ctypes.c_int64(last - first)
                if libc.fallocate(file.fileno(), _PUNCH, offset, length):
                    why = os.strerror(ctypes.get_errno())
                    raise InputError(f"{path}: holes cannot be made here ({why}); use a disk with more room")
