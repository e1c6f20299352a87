"""Whether a coarse scan finds what an exact one does for real questions, and what the proof takes.

    python benchmarks/certified_questions.py CORPUS QUERIES [--questions 1000] [--routing-keys int8]

Asks a bank of the corpus every question, one round, and compares at each memory layer the documents selected
with the best of the exact scores of all. Prints one JSON object: the shares certified and equal (both must be
1.0), how many documents were scored again, and the bytes of keys scanned against those of bfloat16.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memsparse.bank import BankReader, TierConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.model_runner import ModelRunner
from memsparse.json_lines import read_rows
from memsparse.ops.quantization import key_bytes
from memsparse.ops.routing import top_documents
from memsparse.text import Prompt
from memsparse.types import Document, MemoryKV


class Compared:
    """A reader that asks for the exact scores too, and counts where they select other documents."""

    def __init__(self, reader: BankReader) -> None:
        self.reads = self.equal = self.certified = 0
        self._reader = reader

    @property
    def numbers(self) -> Tensor:
        """As `BankReader.numbers`."""
        return self._reader.numbers

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        """As `BankReader.read`."""
        found = self._reader.read(layer_idx, routing_q, query_mask)
        every = torch.arange(len(self._reader)).expand(len(routing_q), -1)
        exact = self._reader.exact_scores(layer_idx, routing_q, query_mask, every)
        best, documents = top_documents(exact, self._reader.top_k)
        same = torch.equal(found.documents, documents) and torch.equal(found.scores, best)
        self.reads += 1
        self.equal += same
        self.certified += found.certified is not None and bool(found.certified.all())
        return found


def compare(engine: MemoryEngine, questions: list[str], routing_keys: str) -> dict[str, Any]:
    """Put questions to the bank of an engine."""
    tiers = TierConfig(routing_keys=routing_keys)  # type: ignore[arg-type]  # it checks that itself
    config, prompts = engine.model.config, engine.model.prompts
    reader = engine.bank.reader(top_k=config.top_k_documents, rule=config.routing_rule(), tiers=tiers)
    compared, runner = Compared(reader), ModelRunner(engine.model)
    for question in questions:
        ids, roles = prompts.question(question)
        first = len(prompts.head()) + config.top_k_documents
        runner.prefill(Prompt(ids=ids, roles=roles, first_position=first), compared)
    width = engine.bank.fingerprint.width
    return {
        "routing_keys": routing_keys,
        "documents": len(reader),
        "questions": len(questions),
        "reads": compared.reads,
        "certified": compared.certified / compared.reads,
        "equal": compared.equal / compared.reads,
        "rescored_documents": reader.report().rescored / compared.reads,
        "key_bytes_of_bf16": key_bytes(width, routing_keys) / key_bytes(width, "bf16"),  # type: ignore[arg-type]
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--routing-keys", default="int8")
    parser.add_argument("--model")
    options = parser.parse_args()
    asked = [row["question"] for _, row in itertools.islice(read_rows(options.queries), options.questions)]
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryEngine.open(Path(folder) / "bank", options.model) as engine,
    ):
        rows = (row for _, row in read_rows(options.corpus))
        engine.add(Document(id=str(row["id"]), text=row["text"]) for row in rows)
        print(json.dumps(compare(engine, asked, options.routing_keys)))


if __name__ == "__main__":
    main()
