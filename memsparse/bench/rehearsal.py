"""What this machine takes at a model's shape: a few seconds of trying, so that a plan need not guess.

A small bank of random latents is asked and documents are encoded, all by the code that does so in earnest.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import normalize

from memsparse.bank import BankReader
from memsparse.bank.keys import BLOCK_BYTES, LARGE_BLOCK_BYTES
from memsparse.bank.tiers import TierConfig
from memsparse.bench.encode import invented_passages
from memsparse.bench.latents import Layout, grow_bank, segments_for
from memsparse.bench.probe import ProbedReader
from memsparse.bench.timing import in_turns
from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import ModelRunner
from memsparse.engine.plan import QUESTION_TOKENS, Rates
from memsparse.ops.quantization import KeyFormat, ScanKeys, key_bytes, quantize_keys
from memsparse.ops.scan import scan_documents
from memsparse.text import Prompt

BANKS = (20_000, 1_000_000)
"""Tokens of the banks that are asked."""
ENCODED = 16_384
"""Tokens of documents that are encoded."""
_DRAWN = 2**14
"""Keys that are drawn; more are copies of them."""
_BLOCKS = 2
"""Blocks of keys that are scanned, so that no cache holds them."""


@torch.inference_mode()
def rehearse(
    loaded: LoadedModel,
    key_format: KeyFormat,
    *,
    document_tokens: int | None = None,
    question_tokens: int = QUESTION_TOKENS,
    banks: Sequence[int] = BANKS,
    encoded: int = ENCODED,
    repeats: int = 9,
) -> Rates:
    """Measure a model on its device.

    Args:
        document_tokens: of a document, at most. None: the longest the model encodes.
        question_tokens: of a prompt, about.
        banks: tokens of a small bank and of a larger one.

    Raises: BankError where the disk refuses.
    """
    config, device = loaded.config, loaded.device
    runner, prompt = ModelRunner(loaded), _prompt(loaded, question_tokens)
    tiers = TierConfig(routing_keys=key_format)
    chunks, reads, passes = [], [], []
    with TemporaryDirectory(prefix="memsparse-") as folder:
        layout = Layout(segment_tokens=min(banks), document_chunks=8)
        with grow_bank(Path(folder), loaded, layout, max(banks)) as bank:
            for tokens in banks:
                version = segments_for(layout, tokens)
                reader = bank.reader(
                    top_k=config.top_k_documents, rule=config.routing_rule(), version=version, tiers=tiers
                )
                read, own = _asked(runner, prompt, reader, device, repeats)
                chunks.append(sum(count for *_, count in bank.layout(version=version).rows))
                reads.append(read / len(config.memory_layers or ()))
                passes.append(own)
    encoder = Encoder(loaded, max_document_tokens=document_tokens)
    passages = invented_passages(encoder, loaded, encoded, seed=0)
    lengths = encoder.encode(passages).tokens_per_passage
    encoding = in_turns({"": lambda: encoder.encode(passages)}, device, 3)[""]
    scan = _scanning(loaded, key_format, len(prompt.ids), chunks[1], repeats)
    per_chunk = (reads[1] - reads[0]) / (chunks[1] - chunks[0]) + scan[1] - scan[0]
    return Rates(
        chunk=per_chunk,
        read=max(0.0, reads[0] - chunks[0] * per_chunk),
        question=statistics.median(passes),
        token=statistics.median(encoding) / sum(lengths),
    )


def _asked(
    runner: ModelRunner, prompt: Prompt, reader: BankReader, device: torch.device, repeats: int
) -> tuple[float, float]:
    """Seconds of a question in its reads, and beside them."""
    reads: list[float] = []

    def ask() -> None:
        probed = ProbedReader(reader)
        int(runner.prefill(prompt, probed).logits.argmax())
        reads.append(probed.seconds)

    ask()  # loads keys
    reads.clear()
    totals = in_turns({"": ask}, device, repeats)[""]
    others = [total - read for total, read in zip(totals, reads, strict=True)]
    return statistics.median(reads), statistics.median(others)


def _prompt(loaded: LoadedModel, tokens: int) -> Prompt:
    """A question whose prompt has about so many tokens."""
    words = ["harbour"]
    while len(loaded.prompts.question(" ".join(words))[0]) < tokens:
        words.append(("expedition", "paid", "first", "northern")[len(words) % 4])
    ids, roles = loaded.prompts.question(" ".join(words))
    return Prompt(ids=ids, roles=roles, first_position=loaded.config.position_offset)


def _scanning(
    loaded: LoadedModel, key_format: KeyFormat, tokens: int, few: int, repeats: int
) -> tuple[float, float]:
    """Seconds a chunk of a scan of few chunks, which caches may hold, and of many."""
    config, device = loaded.config, loaded.device
    width = (config.num_key_value_heads or config.num_attention_heads) * config.head_dim
    block = BLOCK_BYTES.get(device.type, LARGE_BLOCK_BYTES) // key_bytes(width, key_format)
    drawn = quantize_keys(normalize(torch.randn(min(_DRAWN, block), width), dim=1), key_format)
    q = normalize(torch.randn(1, tokens, width, device=device), dim=2)
    mask = torch.ones(1, tokens, dtype=torch.bool, device=device)

    def scanning(count: int, copies: int) -> Callable[[], None]:
        keys = [_repeated(drawn, count).to(device) for _ in range(copies)]
        owners = torch.arange(count, device=device) // 8

        def scan() -> None:
            for each in keys:
                scan_documents(q, each, owners, mask, num_documents=-(-count // 8))

        return scan

    times = in_turns({"few": scanning(few, 1), "many": scanning(block, _BLOCKS)}, device, repeats)
    return statistics.median(times["few"]) / few, statistics.median(times["many"]) / (block * _BLOCKS)


def _repeated(keys: ScanKeys, count: int) -> ScanKeys:
    rows = torch.arange(count) % len(keys)
    return keys.select(rows)
