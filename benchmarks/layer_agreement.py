"""How many of a memory layer's documents the next memory layer selects too: what fetching ahead can gain.

    python benchmarks/layer_agreement.py CORPUS QUERIES [--documents 1000] [--questions 100] [--model M]

Prints one JSON object: for each pair of neighbouring memory layers the mean share over the questions.
"""

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from pathlib import Path

from memsparse.engine.engine import MemoryEngine
from memsparse.json_lines import read_rows
from memsparse.types import Document


def agreement(engine: MemoryEngine, questions: list[str]) -> dict[str, float]:
    """Mean share of layer i's documents in layer j's, under "i-j"."""
    shares = defaultdict(list)
    for question in questions:
        layers = engine.route(question, limit=engine.model.config.top_k_documents).layers
        for one, following in itertools.pairwise(layers):
            common = set(one.numbers) & set(following.numbers)
            shares[f"{one.layer}-{following.layer}"].append(len(common) / len(one.numbers))
    return {pair: sum(values) / len(values) for pair, values in shares.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--model")
    options = parser.parse_args()
    rows = [row for _, row in itertools.islice(read_rows(options.corpus), options.documents)]
    known = {str(row["id"]) for row in rows}
    queries = [row for _, row in read_rows(options.queries)]
    asked = [row for row in queries if known & set(map(str, row["positive_ids"]))]
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryEngine.open(Path(folder) / "bank", options.model) as engine,
    ):
        engine.add([Document(id=str(row["id"]), text=row["text"]) for row in rows])
        shares = agreement(engine, [row["question"] for row in asked[: options.questions]])
    print(json.dumps({"documents": len(rows), "questions": min(len(asked), options.questions), **shares}))


if __name__ == "__main__":
    main()
