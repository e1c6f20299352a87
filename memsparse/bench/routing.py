"""`memsparse bench routing`: one question routed over one memory layer, ours and peers on the same tensors.

Nothing is timed unless it names the documents of the exact scores, but for approximate peers, whose recall
stands beside their time. The floor is what the machine allows: the larger of key bytes over measured
bandwidth and FLOPs over the measured matrix peak, measured in every turn beside the forms, because machines
that are shared change their speed from minute to minute.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, median, mode
from typing import Any, get_args

import torch
from torch import Tensor

from memsparse.bench.cases import Case, make_case, make_queries
from memsparse.bench.forms import Form, Ranking, exact_ranking, fold, ours, peers, recall, rescore
from memsparse.bench.timing import in_turns, peak_bytes, percentiles, surroundings
from memsparse.errors import ConfigError, EngineError
from memsparse.machine import SECONDS, Machine, measure_machine
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.ops.quantization import KeyFormat
from memsparse.ops.routing import TILE

PEAKS: Mapping[KeyFormat, tuple[str, ...]] = {
    "float32": ("float32",),
    "bf16": ("float32", "bfloat16"),
    "fp8": ("bfloat16", "float8_e4m3fn"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int8"),
    "binary": ("bfloat16", "int8"),
}
"""Dtypes in which a format's product may be computed; the fastest one sets the floor."""
DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
BATCH = 8
"""Questions certified together."""

Note = Callable[[str], None]


def measure_routing(
    config: MemSparseConfig,
    chunks: Sequence[int],
    device: torch.device,
    *,
    formats: Sequence[KeyFormat] = ("float32", "bf16", "int8"),
    with_peers: bool = True,
    tokens: int = 32,
    batch: int = 1,
    top_k: int | None = None,
    tile: int = TILE,
    repeats: int = 9,
    questions: int = 64,
    seed: int = 0,
    seconds: float = SECONDS,
    note: Note = lambda line: None,
) -> dict[str, Any]:
    """Measure banks of so many chunks at a model's shape.

    Args:
        tokens: of a question; all route.
        questions: random ones that are certified, besides the one that is timed.
        seconds: of measuring the machine, for each figure.
        note: told what is under way and what is left out.

    Raises: EngineError where somebody does not find the documents of the exact scores; ConfigError for an
        unknown format or a number below 1.
    """
    unknown = [name for name in formats if name not in get_args(KeyFormat)]
    if unknown:
        raise ConfigError(f"keys is {unknown[0]!r}; use some of {', '.join(get_args(KeyFormat))}")
    if repeats < 1 or questions < 0:
        raise ConfigError(f"{repeats} repeats and {questions} questions; give at least 1 and 0")
    machine = measure_machine(device, DTYPES, seconds=seconds)
    sizes = []
    for count in sorted(chunks):
        note(f"{count:,} chunks")
        case = make_case(config, count, device, tokens=tokens, batch=batch, top_k=top_k, tile=tile, seed=seed)
        with torch.inference_mode():
            others, skipped = peers(case) if with_peers else ([], {})
            for name, why in skipped.items():
                note(f"skipped {name}: {why}")
            forms = [*(ours(case, name) for name in formats), *others]
            sizes.append(
                {
                    "chunks": count,
                    "tokens": count * config.chunk_size,
                    "documents": case.documents,
                    "forms": _measure(case, forms, seconds, repeats, config, questions, seed),
                    "skipped": skipped,
                }
            )
    return {
        "kind": "bench-routing",
        **surroundings(device, machine),
        "settings": {
            "kv_heads": config.num_key_value_heads,
            "heads": config.num_attention_heads,
            "head_dim": config.head_dim,
            "memory_layers": len(config.memory_layers or ()),
            "tokens": tokens,
            "batch": batch,
            "top_k": top_k or config.top_k_documents,
            "tile": tile,
            "repeats": repeats,
            "seed": seed,
        },
        "sizes": sizes,
    }


def floor_seconds(case: Case, form: Form, machine: Machine) -> tuple[float, str]:
    """The least time a form's scan can take on a machine, and what sets it: "bandwidth" or "matrix"."""
    reading = form.key_bytes / machine.bandwidth
    batch, tokens = case.queries.shape[:2]
    flops = 2.0 * batch * tokens * case.flat_keys.numel()
    peaks = [machine.peaks[name] for name in PEAKS[form.format or "float32"] if name in machine.peaks]
    multiplying = flops / max(peaks)
    return (reading, "bandwidth") if reading >= multiplying else (multiplying, "matrix")


def verify(case: Case, form: Form, wanted: Ranking) -> tuple[Ranking, float | None]:
    """Run a form once and compare; the recall is told of forms that are not exact.

    Raises: EngineError where an exact form names other documents.
    """
    found = form.run(case)
    if form.exact == "recall":
        return found, recall(found.documents, wanted.documents)
    differing = (~agree(case, found, wanted)).nonzero()[:, 0].tolist()
    if differing:
        ours, exact = (ranking.documents[differing[0]].tolist() for ranking in (found, wanted))
        raise EngineError(
            f"{form.name} ranks {ours} for question {differing[0]}, exact scores {exact}; no figures "
            "without agreement"
        )
    return found, None


def agree(case: Case, found: Ranking, wanted: Ranking) -> Tensor:
    """(B,) bool: the same documents, but for those whose scores float32 sums may tell apart either way."""
    same = (found.documents == wanted.documents).all(1)
    if bool(same.all()):
        return same
    routing_q, stored = fold(case), case.flat_keys.cpu()
    scores, exact = (rescore(case, routing_q, stored, each.documents) for each in (found, wanted))
    return same | torch.isclose(scores, exact, rtol=0, atol=1e-6).all(1)


def _measure(
    case: Case,
    forms: Sequence[Form],
    seconds: float,
    repeats: int,
    config: MemSparseConfig,
    questions: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Verify everybody, then time them in turns, and measure the machine in each of these.

    Args:
        seconds: of measuring the machine, for each figure, in all turns together.
    """
    wanted = exact_ranking(case)
    rows: dict[str, dict[str, Any]] = {}
    for form in forms:
        found, share = verify(case, form, wanted)
        rows[form.name] = {"format": form.format, "key_bytes": form.key_bytes, "recall": share}
        rows[form.name] |= {
            "largest_score_difference": float((found.scores - wanted.scores).abs().max()),
            "peak_bytes": peak_bytes(partial(form.run, case), case.device),
        }
        if form.format is not None:
            rows[form.name] |= certified_share(case, form, config, questions, seed)
    runs = {form.name: partial(form.run, case) for form in forms}
    scans = {form.name: partial(form.scan, case) for form in forms if form.scan is not None}
    machines: list[Machine] = []

    def look_at_machine() -> None:
        machines.append(measure_machine(case.device, DTYPES, seconds=seconds / repeats))

    timed = runs | {f"scan of {name}": run for name, run in scans.items()}
    times = in_turns(timed | {"machine": look_at_machine}, case.device, repeats)
    for name in runs:
        rows[name] |= percentiles(times[name])
    for name in scans:
        rows[name]["scan_ms"] = percentiles(times[f"scan of {name}"])
    stored = case.flat_keys.nbytes
    for form in (form for form in forms if form.format is not None):
        row = rows[form.name]
        floors, bounds = zip(*(floor_seconds(case, form, machine) for machine in machines), strict=True)
        row |= {
            "floor_ms": round(1e3 * median(floors), 4),
            "bound": mode(bounds),
            "fraction_of_floor": _fraction(floors, times[form.name]),
            "scan_fraction_of_floor": _fraction(floors, times[f"scan of {form.name}"]),
            "key_bytes_of_bf16": round(form.key_bytes / stored, 4),
            "all_layers_ms": round(row["p50"] * len(config.memory_layers or ()), 4),
            "faster_than": {
                other.name: round(rows[other.name]["p50"] / row["p50"], 2)
                for other in forms
                if other.format is None
            },
        }
    return rows


def _fraction(floors: Sequence[float], times: Sequence[float]) -> float:
    """The median over turns of the floor, as the machine was in that turn, over the time."""
    return round(median(floor / time for floor, time in zip(floors, times, strict=True)), 4)


def certified_share(
    case: Case, form: Form, config: MemSparseConfig, questions: int, seed: int
) -> dict[str, Any]:
    """How many random questions are certified, and how many documents that takes.

    Raises: EngineError where documents that are certified are not those of the exact scores.
    """
    certified, rescored, same = 0.0, [], 0.0
    tokens = case.queries.shape[1]
    for start in range(0, questions, BATCH):
        batch = min(BATCH, questions - start)
        drawn = make_queries(config, case.device, tokens=tokens, batch=batch, seed=seed + 2 + start)
        asked = case.asking(drawn)
        found, wanted = form.run(asked), exact_ranking(asked)
        if found.certified is None or found.rescored is None:
            raise EngineError(f"{form.name} certifies nothing; measure a form of ours")
        equal = agree(asked, found, wanted)
        if bool((found.certified & ~equal).any()):
            raise EngineError(f"{form.name} certified documents that are not those of the exact scores")
        certified += float(found.certified.sum())
        same += float(equal.sum())
        rescored += found.rescored.tolist()
    return {
        "questions": questions,
        "certified": certified / questions if questions else None,
        "equal": same / questions if questions else None,
        "rescored_documents": round(fmean(rescored), 1) if rescored else None,
    }
