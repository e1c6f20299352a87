"""The whole pipeline on an invented world the model never saw: routing, citations, answers, speed.

    python benchmarks/worlds.py --documents 1000 --questions 300 --json benchmarks/results/worlds-1000.json

The world's names and a part of its phrasings are held out from training by construction.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import torch

import memsparse
from memsparse.engine.engine import MemoryEngine
from memsparse.evaluation.metrics import exact_match, precision_recall, token_f1
from memsparse.training.world import Question, generate_world


def main() -> None:
    """Build the bank, ask the questions, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument(
        "--split",
        choices=["heldout", "train"],
        default="heldout",
        help="heldout: names and phrasings kept out of training; train: a new world, its phrasings known",
    )
    parser.add_argument("--seed", type=int, default=20_261_121)
    parser.add_argument("--model", help="model folder; default: the one in the package")
    parser.add_argument("--id-decoding", choices=["router", "generate"])
    parser.add_argument("--margin", type=float)
    parser.add_argument("--max-read", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    print(json.dumps({key: value for key, value in result.items() if key != "records"}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark."""
    world = generate_world(
        arguments.seed, documents=arguments.documents, questions=arguments.questions, split=arguments.split
    )
    given = {"id_decoding": arguments.id_decoding, "margin": arguments.margin, "max_read": arguments.max_read}
    settings = {name: value for name, value in given.items() if value is not None}
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryEngine.open(Path(folder) / "world.bank", arguments.model, **settings) as engine,
    ):
        order = list(world.documents)
        Random(arguments.seed).shuffle(order)
        began = time.perf_counter()
        engine.add(order)
        encoding = time.perf_counter() - began
        records = [_ask(engine, question) for question in world.questions]
        tokens = engine.bank.stats().tokens
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": _commit(),
        "device": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "memsparse": memsparse.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
        "split": arguments.split,
        "corpus": {"documents": arguments.documents, "tokens": tokens},
        "add_tokens_per_second": tokens / encoding,
        "kinds": summarise(records),
        "records": records,
    }


def _ask(engine: MemoryEngine, question: Question) -> dict[str, Any]:
    began = time.perf_counter()
    hits = engine.search(question.text, limit=16)
    searched = time.perf_counter() - began
    answer = engine.ask(question.text)
    cited = [citation.document_id for citation in answer.citations]
    precision, recall = precision_recall(cited, question.chain)
    routed = [hit.citation.document_id for hit in hits]
    # Where no document holds the answer, there is nothing to retrieve or to cite.
    retrieval = {
        "recall@1": float(routed[:1] == list(question.chain[:1])),
        "recall@16": float(set(question.chain[:1]) <= set(routed)),
        "citation_precision": precision,
        "citation_recall": recall,
    }
    return {
        "question": question.text,
        "kind": question.kind,
        "answers": question.answers,
        "answer": answer.text if answer.found else None,
        "chain": question.chain,
        "cited": cited,
        "rounds": [[list(r.numbers), r.text] for r in answer.rounds],
        "exact_match": float(answer.found and exact_match(answer.text, question.answers)),
        "f1": token_f1(answer.text, question.answers) if answer.found else 0.0,
        "refused": float(not answer.found),
        **(retrieval if question.chain else {}),
        "search_seconds": searched,
        "seconds": answer.usage.seconds,
    }


def summarise(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means of every figure by kind of question."""
    grouped = defaultdict(list)
    for record in records:
        grouped[record["kind"]].append(record)
    means: dict[str, dict[str, float]] = {}
    for kind, rows in sorted(grouped.items()):
        names = [name for name, value in rows[0].items() if isinstance(value, float)]
        means[kind] = {"n": len(rows)} | {
            name: round(sum(row[name] for row in rows) / len(rows), 4) for name in names
        }
    return means


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
