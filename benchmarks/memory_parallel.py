"""What reading one bank with many processes takes beyond the reading itself, and that it reads the same.

    python benchmarks/memory_parallel.py FOLDER [--tokens 1M] [--shape 4b] [--questions 8] [--repeats 20]
    torchrun --nproc-per-node 4 benchmarks/memory_parallel.py FOLDER ...

Makes a bank of random latents in FOLDER, or takes the one there. Prints one JSON object: milliseconds a read
of a memory layer takes (the best and the median of the repeats), how many of them are not the slowest rank's
own scan and fetch, and a checksum of all that was read: equal for any number of processes.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from memsparse.bank import Bank
from memsparse.bench.latents import grow_bank, layout_for, random_model
from memsparse.config import processes
from memsparse.distributed.launch import run
from memsparse.distributed.memory_parallel import ShardedReader
from memsparse.distributed.ranks import leading
from memsparse.engine.hardware import read_counts
from memsparse.engine.loading import load_model
from memsparse.model.shapes import shape_config

TOP_K, TOKENS = 16, 32


def measure(bank: Bank, questions: int, repeats: int) -> dict[str, Any]:
    """Read every memory layer `repeats` times with as many random requests."""
    view: dict[str, Any] = {"namespace": None, "version": bank.version, "now": 0.0, "top_k": TOP_K}
    many = processes() > 1
    reader = ShardedReader.open(leading(), bank, view) if many else bank.reader(**view)
    own, generator = bank.fingerprint, torch.Generator().manual_seed(0)
    routing_q = torch.randn(questions, TOKENS, own.width, generator=generator) / own.width**0.5
    mask = torch.ones(questions, TOKENS, dtype=torch.bool)
    told, seconds, scoring = hashlib.sha256(), [], []
    for repeat in range(repeats + 1):
        for layer in own.memory_layers:
            started = perf_counter()
            memory = reader.read(layer, routing_q, mask)
            seconds.append(perf_counter() - started)
            spent = leading().seconds.pop(layer).scoring if many else seconds[-1]
            scoring.append(spent)
            if not repeat:
                for tensor in (memory.documents, memory.scores, memory.chunks, memory.k, memory.v):
                    if tensor is not None:
                        told.update(tensor.numpy().tobytes())
    warm = slice(len(own.memory_layers), None)  # the first time loads the keys
    overhead = sorted(a - b for a, b in zip(seconds[warm], scoring[warm], strict=True))
    total = sorted(seconds[warm])
    middle = len(total) // 2
    return {
        "processes": processes(),
        "documents": len(reader),
        "layers": len(own.memory_layers),
        "questions": questions,
        "read_ms": [round(1e3 * total[0], 3), round(1e3 * total[middle], 3)],
        "overhead_ms": [round(1e3 * overhead[0], 3), round(1e3 * overhead[middle], 3)],
        "read": told.hexdigest()[:16],
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", default="1M")
    parser.add_argument("--shape", help="a published one; without it the built-in model's")
    parser.add_argument("--questions", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    loaded = random_model(shape_config(options.shape), torch.device("cpu")) if options.shape else load_model()
    (tokens,) = read_counts(options.tokens, "--tokens")
    with grow_bank(options.folder, loaded, layout_for([tokens], 4), tokens) as bank:
        print(json.dumps(measure(bank, options.questions, options.repeats)))


if __name__ == "__main__":
    sys.exit(run(main))
