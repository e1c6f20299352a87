"""What this machine takes at a model's shape: a few seconds of trying, so that a plan need not guess.

Small banks of random latents are asked and documents are encoded, all by the code that does so in earnest.
"""

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Self

import torch

from memsparse.bank import BankReader
from memsparse.bank.tiers import TierConfig
from memsparse.bench.encode import invented_passages
from memsparse.bench.latents import Layout, bank_chunks, grow_bank, segments_for
from memsparse.bench.probe import ProbedReader
from memsparse.bench.timing import in_turns, seconds
from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import ModelRunner
from memsparse.engine.plan import QUESTION_TOKENS, Rates, kv_width
from memsparse.ops.quantization import KeyFormat
from memsparse.text import Prompt

DOCUMENTS = (512, 8192, 65_536)
"""Of the banks that are asked. All are scanned, and the keys of the largest are more than caches hold."""
_DOCUMENT_CHUNKS = 8
_BANK_BYTES = 2**30
"""Of the largest bank, about, at most."""
_TIMED = 3
"""Questions to a bank of which the times count, behind one that fills the caches."""
ENCODED = 16_384
"""Tokens of documents that are encoded."""
ScanFormat = KeyFormat | Literal["auto"]
"""Of routing keys, as `TierConfig` has it."""


@torch.inference_mode()
def rehearse(
    loaded: LoadedModel,
    key_format: KeyFormat,
    *,
    document_tokens: int | None = None,
    question_tokens: int = QUESTION_TOKENS,
    documents: Sequence[int] = DOCUMENTS,
    encoded: int = ENCODED,
    repeats: int = 5,
) -> Rates:
    """Measure a model on its device.

    Args:
        document_tokens: of a document, at most. None: the longest the model encodes.
        question_tokens: of a prompt, about.
        documents: of the banks, about, ascending; those that take too much disk become one that does not.

    Raises: BankError where the disk refuses.
    """
    with Rehearsal(loaded, key_format, question_tokens=question_tokens, documents=documents) as banks:
        for _ in range(repeats):
            banks.ask()
        return banks.rates(encode_rate(loaded, document_tokens=document_tokens, encoded=encoded))


class Rehearsal:
    """Small banks, to be asked beside what they are to foretell: a machine's speed changes in minutes.

    Args: as of `rehearse`.
    Raises: BankError where the disk refuses.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        key_format: ScanFormat,
        *,
        question_tokens: int = QUESTION_TOKENS,
        documents: Sequence[int] = DOCUMENTS,
    ) -> None:
        config = loaded.config
        self._runner, self._prompt = ModelRunner(loaded), _prompt(loaded, question_tokens)
        self._device = loaded.device
        width = len(config.memory_layers or ()) * kv_width(config)
        most = _BANK_BYTES // (_DOCUMENT_CHUNKS * width * 6)  # K, V and keys of 2 bytes each
        largest = max(2 * documents[0], min(documents[-1], most))
        counts = [*(count for count in documents if count < largest), largest]
        sizes = [count * _DOCUMENT_CHUNKS * config.chunk_size for count in counts]
        layout = Layout(segment_tokens=sizes[0], document_chunks=_DOCUMENT_CHUNKS)
        with ExitStack() as opened:
            folder = opened.enter_context(TemporaryDirectory(prefix="memsparse-"))
            bank = opened.enter_context(grow_bank(Path(folder), loaded, layout, sizes[-1]))
            versions = sorted({segments_for(layout, tokens) for tokens in sizes})
            self._chunks = [bank_chunks(bank, version) for version in versions]
            self._readers = [
                bank.reader(
                    top_k=config.top_k_documents,
                    rule=config.routing_rule(),
                    version=version,
                    tiers=TierConfig(routing_keys=key_format),
                    all_scores=False,  # as an engine asks a bank without an index
                )
                for version in versions
            ]
            self._opened = opened.pop_all()
        self.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def forget(self) -> None:
        """Begin anew: what was measured so far tells of an hour that is over."""
        self._times: list[list[tuple[float, float]]] = [[] for _ in self._readers]

    @torch.inference_mode()
    def ask(self) -> None:
        """Put a few questions to each bank."""
        for reader, times in zip(self._readers, self._times, strict=True):
            self._asked(reader)
            times += [self._asked(reader) for _ in range(_TIMED)]

    def rates(self, token: float = math.nan) -> Rates:
        """Medians of what was measured since the last `forget`.

        Args:
            token: seconds to encode one of a document, as `encode_rate` measures it. NaN: not measured.
        """
        banks = [tuple(map(statistics.median, zip(*times, strict=True))) for times in self._times]
        reads, passes = zip(*banks, strict=True)
        return Rates(chunks=tuple(self._chunks), reads=reads, passes=passes, token=token)

    def _asked(self, reader: BankReader) -> tuple[float, float]:
        """Seconds of a question in its reads, and beside them."""
        probed = ProbedReader(reader)
        total = seconds(lambda: int(self._runner.prefill(self._prompt, probed).logits.argmax()), self._device)
        return probed.seconds, total - probed.seconds


@torch.inference_mode()
def encode_rate(loaded: LoadedModel, *, document_tokens: int | None = None, encoded: int = ENCODED) -> float:
    """Seconds to encode one token of a document.

    Args: as of `rehearse`.
    """
    encoder = Encoder(loaded, max_document_tokens=document_tokens)
    passages = invented_passages(encoder, loaded, encoded, seed=0)
    lengths = encoder.encode(passages).tokens_per_passage
    encoding = in_turns({"": lambda: encoder.encode(passages)}, loaded.device, 3)[""]
    return statistics.median(encoding) / sum(lengths)


def _prompt(loaded: LoadedModel, tokens: int) -> Prompt:
    """A question whose prompt has about so many tokens."""
    words = ["harbour"]
    while len(loaded.prompts.question(" ".join(words))[0]) < tokens:
        words.append(("expedition", "paid", "first", "northern")[len(words) % 4])
    ids, roles = loaded.prompts.question(" ".join(words))
    return Prompt(ids=ids, roles=roles, first_position=loaded.config.position_offset)
