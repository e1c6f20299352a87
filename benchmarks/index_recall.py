"""What an index finds of the documents of an exact search, and what it reads and takes for it.

    python benchmarks/index_recall.py --bank BANK --questions FILE.jsonl.gz --lean 0.5,0.6,0.65 --json OUT

Routes every question at each memory layer by a scan of all routing keys, and by the index with so many cells
looked into first (`probes`), and others as they promise (`lean`). Tells how much of the scan's documents the
index finds (recall), how often its first, the share of the chunks read, and the time of a read against the
scan's of the same question, in turn in the same run. What is certified must be the documents of the exact
search. The index is made before anything is timed.
"""

import argparse
import itertools
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import torch
from torch import Tensor

from memsparse.bank import BankReader, TierConfig, probing
from memsparse.bench.probe import ProbedReader
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.model_runner import ModelRunner
from memsparse.errors import EngineError
from memsparse.evaluation.results import environment
from memsparse.json_lines import read_rows
from memsparse.text import Prompt
from memsparse.types import MemoryKV

Asked = tuple[int, Tensor, Tensor]
"""Layer, routing queries (1, T, W) and their mask."""


def hear(engine: MemoryEngine, reader: BankReader, questions: Sequence[str]) -> list[Asked]:
    """What the memory layers ask a reader for questions, layer by layer."""
    asked: list[Asked] = []
    runner, prompts = ModelRunner(engine.model), engine.model.prompts
    for question in questions:
        ids, roles = prompts.question(question)
        first = len(prompts.head()) + reader.top_k
        probed = ProbedReader(reader)
        runner.prefill(Prompt(ids=ids, roles=roles, first_position=first), probed)
        asked += [(layer, *queries) for layer, queries in probed.asked.items()]
    return asked


def timed(reader: BankReader, asked: Asked) -> tuple[MemoryKV, float]:
    """One read and its seconds."""
    began = time.perf_counter()
    found = reader.read(*asked)
    if asked[1].is_cuda:
        torch.cuda.synchronize()
    return found, time.perf_counter() - began


def compare(scan: BankReader, index: BankReader, asked: Sequence[Asked]) -> dict[str, Any]:
    """Put every question to both readers.

    Raises: EngineError where documents that are certified are not those of the exact search.
    """
    layers: dict[int, dict[str, list[float]]] = {}
    for layer in {layer for layer, _, _ in asked}:  # nothing is loaded or made while it is timed
        index.read(*next(each for each in asked if each[0] == layer))
    before, chunks = index.report(), scan.report().scanned
    for question in asked:
        exact, scan_seconds = timed(scan, question)
        found, seconds = timed(index, question)
        wanted, there = ({n for n in kv.documents[0].tolist() if n >= 0} for kv in (exact, found))
        proven = found.certified is not None and bool(found.certified[0])
        if proven and not torch.equal(found.documents, exact.documents):
            raise EngineError(f"layer {question[0]} certified documents that are not those of the scan")
        row = layers.setdefault(
            question[0], {"recall": [], "first": [], "ms": [], "scan_ms": [], "ratio": []}
        )
        row["recall"].append(len(wanted & there) / max(1, len(wanted)))
        row["first"].append(float(exact.documents[0, 0] in found.documents[0]))
        row["ms"].append(1e3 * seconds)
        row["scan_ms"].append(1e3 * scan_seconds)
        row["ratio"].append(seconds / scan_seconds)
    after = index.report()
    reads = after.reads - before.reads
    return {
        "recall": fmean(value for row in layers.values() for value in row["recall"]),
        "share_of_chunks": (after.scanned - before.scanned) / (scan.report().scanned - chunks),
        "certified": 1 - (after.uncertified - before.uncertified) / reads,
        "rescored_documents": (after.rescored - before.rescored) / reads,
        "layers": {
            layer: {
                "recall": fmean(row["recall"]),
                "finds_the_first": fmean(row["first"]),
                "ms_p20_p50_p80": spread(row["ms"]),
                "scan_ms_p20_p50_p80": spread(row["scan_ms"]),
                "ratio_p20_p50_p80": spread(row["ratio"]),
            }
            for layer, row in sorted(layers.items())
        },
    }


def spread(values: Sequence[float]) -> list[float]:
    """The 20th, 50th and 80th percentile."""
    if len(values) < 2:
        return [values[0]] * 3
    tenths = quantiles(values, n=10, method="inclusive")
    return [round(tenths[place], 4) for place in (1, 4, 7)]


def measure(engine: MemoryEngine, questions: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """All settings on one bank."""
    config = engine.model.config
    view: dict[str, Any] = {"top_k": config.top_k_documents, "rule": config.routing_rule()}
    keys = {"routing_keys": options.routing_keys}
    scan = engine.bank.reader(**view, tiers=TierConfig(**keys))
    asked = hear(engine, scan, questions)
    began = time.perf_counter()
    settings = []
    for probes, lean in itertools.product(options.probes, options.lean):
        tiers = TierConfig(index="cells", probes=probes, lean=lean, **keys)
        index = engine.bank.reader(**view, tiers=tiers)
        if not settings:
            for layer in engine.bank.fingerprint.memory_layers:
                index.read(*next(each for each in asked if each[0] == layer))
            made = time.perf_counter() - began
        settings.append({"probes": probes, "lean": lean} | compare(scan, index, asked))
        print(json.dumps(settings[-1]), flush=True)
    stats = engine.bank.stats()
    return {
        "documents": len(scan),
        "chunks": stats.chunks,
        "tokens": stats.tokens,
        "segments": stats.segments,
        "routing_keys": scan.report().routing_keys,
        "questions": len(questions),
        "smallest": probing.SMALLEST,
        "seconds_to_make_or_load": round(made, 1),
        "threads": torch.get_num_threads(),
        **environment(torch.device("cpu")),
        "settings": settings,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True, help="JSON Lines with a question in each")
    parser.add_argument("--limit", type=int, default=200, help="questions asked, at most")
    parser.add_argument("--probes", default="64", help="cells looked into first, in turn")
    parser.add_argument("--lean", default="0,0.5,0.6,0.65,0.7", help="how far the others lean, in turn")
    parser.add_argument(
        "--routing-keys", default="auto", help="format of the keys, of the scan and the index"
    )
    parser.add_argument("--smallest", type=int, help="chunks of a group worth an index; for small banks")
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    options.probes = [int(probes) for probes in options.probes.split(",")]
    options.lean = [float(lean) for lean in options.lean.split(",")]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.smallest is not None:
        probing.SMALLEST = options.smallest
    asked = [row["question"] for _, row in itertools.islice(read_rows(options.questions), options.limit)]
    with MemoryEngine.open(options.bank, options.model, create=False) as engine:
        result = measure(engine, asked, options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
