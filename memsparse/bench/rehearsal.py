"""What this machine takes at a model's shape: a few seconds of trying, so that a plan need not guess.

A small bank of random latents is asked and documents are encoded, all by the code that does so in earnest.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from memsparse.bank import BankReader
from memsparse.bank.tiers import TierConfig
from memsparse.bench.encode import invented_passages
from memsparse.bench.latents import Layout, grow_bank, segments_for
from memsparse.bench.probe import ProbedReader
from memsparse.bench.timing import in_turns
from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import ModelRunner
from memsparse.engine.plan import QUESTION_TOKENS, Rates, kv_width
from memsparse.ops.quantization import KeyFormat
from memsparse.text import Prompt

DOCUMENTS = (512, 32_768)
"""Of the banks that are asked. Both are scanned, and the keys of the larger one are more than caches hold."""
_DOCUMENT_CHUNKS = 8
_BANK_BYTES = 2**29
"""Of the larger bank, about, at most."""
ENCODED = 16_384
"""Tokens of documents that are encoded."""


@torch.inference_mode()
def rehearse(
    loaded: LoadedModel,
    key_format: KeyFormat,
    *,
    document_tokens: int | None = None,
    question_tokens: int = QUESTION_TOKENS,
    documents: Sequence[int] = DOCUMENTS,
    encoded: int = ENCODED,
    repeats: int = 9,
) -> Rates:
    """Measure a model on its device.

    Args:
        document_tokens: of a document, at most. None: the longest the model encodes.
        question_tokens: of a prompt, about.
        documents: of a small bank and of a larger one, about.

    Raises: BankError where the disk refuses.
    """
    config, device = loaded.config, loaded.device
    runner, prompt = ModelRunner(loaded), _prompt(loaded, question_tokens)
    tiers = TierConfig(routing_keys=key_format)
    layers, width = len(config.memory_layers or ()), kv_width(config)
    most = _BANK_BYTES // (_DOCUMENT_CHUNKS * layers * width * 6)  # K, V and keys of 2 bytes each
    few, many = documents[0], max(2 * documents[0], min(documents[1], most))
    chunks, reads, passes = [], [], []
    with TemporaryDirectory(prefix="memsparse-") as folder:
        banks = [count * _DOCUMENT_CHUNKS * config.chunk_size for count in (few, many)]
        layout = Layout(segment_tokens=banks[0], document_chunks=_DOCUMENT_CHUNKS)
        with grow_bank(Path(folder), loaded, layout, banks[1]) as bank:
            for tokens in banks:
                version = segments_for(layout, tokens)
                reader = bank.reader(
                    top_k=config.top_k_documents,
                    rule=config.routing_rule(),
                    version=version,
                    tiers=tiers,
                    all_scores=False,  # as an engine asks a bank without an index
                )
                read, own = _asked(runner, prompt, reader, device, repeats)
                chunks.append(sum(count for *_, count in bank.layout(version=version).rows))
                reads.append(read / layers)
                passes.append(own)
    slope = (reads[1] - reads[0]) / (chunks[1] - chunks[0])
    chunk = slope if slope > 0 else reads[1] / chunks[1]
    encoder = Encoder(loaded, max_document_tokens=document_tokens)
    passages = invented_passages(encoder, loaded, encoded, seed=0)
    lengths = encoder.encode(passages).tokens_per_passage
    encoding = in_turns({"": lambda: encoder.encode(passages)}, device, 3)[""]
    return Rates(
        chunk=chunk,
        read=max(0.0, reads[0] - chunks[0] * chunk),
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
