"""What the engine costs on this machine: encoding speed, opening a bank, routing over it, memory of `ask`.

    python benchmarks/engine.py --json benchmarks/results/engine.json

Documents come from an invented world (`memsparse.training.world`); the model is the one in the package.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from memsparse.bank import Bank
from memsparse.engine.encoder import Encoder
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import load_model
from memsparse.evaluation.results import environment
from memsparse.training.world import generate_world
from memsparse.types import Document, Passage


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=10_000, help="documents of the bank")
    parser.add_argument("--files", type=int, default=1000, help="files of the folder that is asked")
    parser.add_argument("--model", help="model folder; default: the one in the package")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = {**environment(), **measure(arguments.documents, arguments.files, arguments.model)}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(documents: int, files: int, model: str | None) -> dict[str, Any]:
    """Run all measurements."""
    world = generate_world(5, documents=documents, questions=40, split="heldout")
    loaded = load_model(model)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "world.bank"
        with MemoryEngine.open(place, loaded) as engine:
            began = time.perf_counter()
            engine.add(world.documents)
            adding = time.perf_counter() - began
            stats = engine.bank.stats()
            engine.search(world.questions[0].text)  # loads the routing keys
            routing = [_timed(lambda q=question: engine.search(q.text)) for question in world.questions]
            answering = [_timed(lambda q=question: engine.ask(q.text)) for question in world.questions]
        opening = [_timed(lambda: Bank.open(place).close()) for _ in range(10)]
        peak = _peak_of_ask(Path(folder) / "files", world.documents[:files], world.questions[0].text, model)
    return {
        "corpus": {"documents": documents, "chunks": stats.chunks, "tokens": stats.tokens},
        "encode_tokens_per_second": _encoding_speed(loaded, world.documents[:4096]),
        "add_tokens_per_second": stats.tokens / adding,
        "open_seconds": _percentiles(opening),
        "search_seconds": _percentiles(routing),
        "ask_seconds": _percentiles(answering),
        "ask_peak_mib": {"files": files, "value": peak},
    }


def _encoding_speed(loaded: Any, documents: tuple[Document, ...]) -> float:
    """Tokens encoded per second, tokenizing included, the best of three runs."""
    encoder = Encoder(loaded)
    passages = [
        Passage(
            number=i,
            document_id=d.id,
            title=d.title,
            text=d.text,
            namespace="default",
            metadata={},
            start=0,
            end=len(d.text),
        )
        for i, d in enumerate(documents)
    ]
    speeds = []
    for _ in range(3):
        began = time.perf_counter()
        chunks = encoder.encode(passages)
        speeds.append(sum(chunks.tokens_per_passage) / (time.perf_counter() - began))
    return max(speeds)


def _peak_of_ask(folder: Path, documents: tuple[Document, ...], question: str, model: str | None) -> float:
    """MiB of resident memory `memsparse ask --docs` needs at most, encoding included."""
    folder.mkdir()
    for i, document in enumerate(documents):
        (folder / f"{i:05d}.txt").write_text(f"{document.title}\n\n{document.text}\n", encoding="utf-8")
    environment = os.environ | {"MEMSPARSE_CACHE": str(folder.parent / "cache")}
    command = [sys.executable, "-m", "memsparse", "ask", "--docs", str(folder), question]
    subprocess.run(
        command + (["--model", model] if model else []), env=environment, check=True, capture_output=True
    )
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _percentiles(seconds: list[float]) -> dict[str, float]:
    values = torch.tensor(seconds, dtype=torch.float64).quantile(
        torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    )
    return dict(zip(("p20", "p50", "p80"), values.tolist(), strict=True))


if __name__ == "__main__":
    main()
