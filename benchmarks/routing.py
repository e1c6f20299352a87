"""Routing one question over a bank: the collapsed inner product against per-head forms, on the same tensors.

    python benchmarks/routing.py --json benchmarks/results/routing.json

ours       `collapse_queries`, `score_documents` and `top_documents`: one inner product of width G*D per token
           and chunk
published  a cosine per query head with keys repeated over the heads of their group, mean over heads, max over
           tokens, max over a document's chunks; tiled, so that it fits memory
grouped    the same, but the query heads of a group become rows of one product and no key is repeated: the
           best per-head form

Keys are normalised beforehand for all three. Nothing is timed unless all three name the same documents.
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from memsparse.evaluation.results import environment
from memsparse.ops.routing import TILE, collapse_keys, collapse_queries, score_documents, top_documents

Ranking = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One question and one bank."""

    queries: Tensor
    """(B, T, H, D), as the model gives them."""
    keys: Tensor
    """(C, G, D), normalised per kv head."""
    flat_keys: Tensor
    """(C, W), the same keys as a bank lays them."""
    doc_of_chunk: Tensor
    query_mask: Tensor
    top_k: int
    tile: int


def make_case(arguments: argparse.Namespace) -> Case:
    """Random tensors; documents have 1 to 8 chunks."""
    generator = torch.Generator().manual_seed(arguments.seed)
    chunks, kv_heads = arguments.chunks, arguments.width_heads
    heads = kv_heads * arguments.rep
    lengths = torch.randint(1, 9, (chunks,), generator=generator)
    owners = torch.repeat_interleave(torch.arange(chunks), lengths)[:chunks]
    keys = torch.randn(chunks, kv_heads, arguments.head_dim, generator=generator)
    q = torch.randn(1, arguments.tokens, heads, arguments.head_dim, generator=generator)
    k_CGD = normalize(keys, dim=-1, out=keys).to(arguments.device)
    return Case(
        queries=q.to(arguments.device),
        keys=k_CGD,
        flat_keys=collapse_keys(k_CGD, normalize=False),
        doc_of_chunk=owners.to(arguments.device),
        query_mask=torch.ones(1, arguments.tokens, dtype=torch.bool, device=arguments.device),
        top_k=arguments.top_k,
        tile=arguments.tile,
    )


def ours(case: Case) -> Ranking:
    """The package's own path."""
    routing_q = collapse_queries(case.queries, case.keys.shape[1])
    scores = score_documents(routing_q, case.flat_keys, case.doc_of_chunk, case.query_mask, tile=case.tile)
    return top_documents(scores, case.top_k)


def published(case: Case) -> Ranking:
    """Every query head against its own copy of the keys."""
    q_HTD = normalize(case.queries[0], dim=-1).transpose(0, 1)
    repeats = q_HTD.shape[0] // case.keys.shape[1]

    def score(k_CGD: Tensor) -> Tensor:
        k_HDC = k_CGD.repeat_interleave(repeats, dim=1).permute(1, 2, 0)
        return (q_HTD @ k_HDC).mean(0).amax(0)

    return rank(case, score)


def grouped(case: Case) -> Ranking:
    """The query heads of a group as rows of one product."""
    _, tokens, heads, width = case.queries.shape
    kv_heads = case.keys.shape[1]
    q = normalize(case.queries[0], dim=-1).view(tokens, kv_heads, heads // kv_heads, width)
    q_GND = q.permute(1, 0, 2, 3).reshape(kv_heads, -1, width)

    def score(k_CGD: Tensor) -> Tensor:
        per_head = (q_GND @ k_CGD.permute(1, 2, 0)).view(kv_heads, tokens, -1, len(k_CGD))
        return per_head.mean((0, 2)).amax(0)

    return rank(case, score)


def rank(case: Case, score: Callable[[Tensor], Tensor]) -> Ranking:
    """Score tile by tile, take the max over a document's chunks, and the best documents."""
    chunk_scores = torch.cat([score(tile) for tile in case.keys.split(case.tile)])
    scores = chunk_scores.new_full((int(case.doc_of_chunk[-1]) + 1,), -torch.inf)
    best = scores.scatter_reduce(0, case.doc_of_chunk, chunk_scores, "amax").topk(
        min(case.top_k, len(scores))
    )
    return best.values[None], best.indices[None]


FORMS: dict[str, Callable[[Case], Ranking]] = {"ours": ours, "published": published, "grouped": grouped}


def verify(case: Case) -> float:
    """Largest difference of a top score between ours and the others; exits where the documents differ."""
    scores, documents = ours(case)
    worst = 0.0
    for name, form in FORMS.items():
        other_scores, other = form(case)
        if not torch.equal(other, documents):
            sys.exit(
                f"{name} ranks {other.tolist()}, ours {documents.tolist()}; no figures without agreement"
            )
        worst = max(worst, float((other_scores - scores).abs().max()))
    return worst


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Memory one run takes beyond what was held before it; None where it cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - held
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the run before freed counts as free
        Path("/proc/self/clear_refs").write_text("5")
        held = _status("VmRSS")
        run()
        return _status("VmHWM") - held
    except OSError:
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one run, the accelerator's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def percentiles(values: list[float]) -> dict[str, float]:
    """p20, p50 and p80 in milliseconds."""
    cuts = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    return {name: round(cuts[place] * 1e3, 3) for name, place in (("p20", 1), ("p50", 4), ("p80", 7))}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Verify, then time the forms in turns."""
    device = torch.device(arguments.device)
    case = make_case(arguments)
    difference = verify(case)
    memory = {name: peak_bytes(lambda form=form: form(case), device) for name, form in FORMS.items()}
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(arguments.repeats):
        for name, form in FORMS.items():
            times[name].append(seconds(lambda form=form: form(case), device))
    forms = {name: percentiles(values) | {"peak_bytes": memory[name]} for name, values in times.items()}
    return {
        "benchmark": "routing",
        "sizes": {name: getattr(arguments, name) for name in SIZES},
        "documents": int(case.doc_of_chunk[-1]) + 1,
        "same_documents": True,
        "largest_score_difference": difference,
        "milliseconds": forms,
        "ratio_p50": {
            name: round(form["p50"] / forms["ours"]["p50"], 2)
            for name, form in forms.items()
            if name != "ours"
        },
        "host": host(device),
    }


SIZES = ("chunks", "width_heads", "rep", "head_dim", "tokens", "top_k", "tile", "repeats", "seed")


def host(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the sizes."""
    return {
        **environment(device),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=131_072)
    parser.add_argument("--width-heads", type=int, default=8, help="kv heads")
    parser.add_argument("--rep", type=int, default=4, help="query heads per kv head")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32, help="query tokens that route")
    parser.add_argument("--top-k", type=int, default=16)
    parser.add_argument("--tile", type=int, default=TILE, help="chunks scored at a time, in every form")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        result = measure(arguments)
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
