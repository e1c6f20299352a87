"""`memsparse bench scale`: one question over banks of growing size, up to its first token.

The bank holds random latents at a model's shape: its speed and bytes are real, its answers mean nothing.
Before anything is timed, what every layer selects is compared with the exact scores of all documents.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from memsparse.bank import Bank, BankReader
from memsparse.bank.tiers import TierConfig
from memsparse.bench.latents import Layout, bank_chunks, grow_bank, layout_for, segment_bytes, segments_for
from memsparse.bench.probe import ProbedReader
from memsparse.bench.rehearsal import Rehearsal, ScanFormat
from memsparse.bench.timing import in_turns, peak_bytes, percentiles, process_peak, seconds, surroundings
from memsparse.engine.hardware import of_machine
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import ModelRunner
from memsparse.engine.plan import Rates, plan_memory
from memsparse.errors import EngineError, InputError
from memsparse.machine import SECONDS, Machine, free_host_bytes, measure_machine
from memsparse.model.cache import MemSparseCache
from memsparse.ops.quantization import key_bytes
from memsparse.ops.routing import top_documents
from memsparse.text import Prompt

QUESTION = (
    "Which of the two expeditions reached the northern harbour first, and who had paid for it in the end?"
)
FULL_SHARE = 0.5
"""Of the free memory, that the keys and values of full attention may take."""
LONG = 5.0
"""Seconds of a question by full attention from which on it is put once."""
DTYPES = (torch.float32, torch.bfloat16, torch.int8)
Note = Callable[[str], None]


def measure_scale(
    loaded: LoadedModel,
    sizes: Sequence[int],
    *,
    tiers: TierConfig | None = None,
    keep: Path | None = None,
    document_chunks: int = 8,
    repeats: int = 5,
    with_peer: bool = True,
    seconds_each: float = SECONDS,
    note: Note = lambda line: None,
) -> dict[str, Any]:
    """Grow a bank to each size in turn, and put one question to it `repeats` times.

    Args:
        sizes: tokens.
        keep: folder in which the bank stays, and an interrupted one goes on. None: a temporary folder.
        document_chunks: mean of a document.
        with_peer: measure full attention too, where it fits.

    Raises: EngineError where a layer does not select the documents of the exact scores; InputError where the
        disk is too small; BankError; ConfigError for a number out of range.
    """
    if repeats < 1 or not sizes or min(sizes) < 1:
        raise InputError(f"{repeats} repeats of {list(sizes)} tokens; give at least 1 of each")
    machine = measure_machine(loaded.device, DTYPES, seconds=seconds_each)
    ordered = sorted(set(sizes))
    tiers = tiers or TierConfig()
    with ExitStack() as opened:
        temporary = opened.enter_context(TemporaryDirectory(prefix="memsparse-"))
        folder = Path(temporary) if keep is None else keep
        folder.mkdir(parents=True, exist_ok=True)
        layout = fit_layout(loaded, ordered, document_chunks, folder, note)
        rows = []

        @cache
        def rehearsal(key_format: ScanFormat) -> Rehearsal:
            told = len(loaded.prompts.question(QUESTION)[0])
            return opened.enter_context(Rehearsal(loaded, key_format, question_tokens=told))

        for tokens in ordered:
            began = time.perf_counter()
            bank = grow_bank(folder, loaded, layout, tokens)
            note(f"{tokens:,} tokens are there after {time.perf_counter() - began:.0f} s")
            with bank:
                row, rates = _measure(loaded, bank, segments_for(layout, tokens), tiers, rehearsal, repeats)
            row |= {"asked_tokens": tokens} | planned(loaded, machine, row, rates)
            if with_peer:
                row["full_attention"] = full_attention(loaded, row["tokens"], repeats)
                if "skipped" in row["full_attention"]:
                    note(f"skipped full attention: {row['full_attention']['skipped']}")
            rows.append(row)
    return {
        "kind": "bench-scale",
        **surroundings(loaded.device, machine),
        "settings": {
            "model": loaded.name,
            "layers": loaded.config.num_hidden_layers,
            "memory_layers": len(loaded.config.memory_layers or ()),
            "routing_keys": tiers.routing_keys,
            "document_chunks": document_chunks,
            "content": "zeros without disk" if layout.hollow else "random",
            "repeats": repeats,
            "question": QUESTION,
        },
        "sizes": rows,
        "growth": growth(rows),
    }


def fit_layout(
    loaded: LoadedModel, sizes: list[int], document_chunks: int, folder: Path, note: Note
) -> Layout:
    """A layout whose bank fits the disk; K and V without disk where only the keys fit.

    Raises: InputError where not even those fit.
    """
    free = shutil.disk_usage(folder).free
    for hollow in (False, True):
        layout = layout_for(sizes, document_chunks, hollow=hollow)
        there = (folder / layout.folder).is_dir()  # it may be complete already
        needed = segments_for(layout, max(sizes)) * segment_bytes(layout, loaded.config)
        if there or needed < 0.95 * free:
            if hollow:
                note(f"K and V do not fit the disk ({free / 1e9:.0f} GB free): they are zeros that take none")
            return layout
    raise InputError(
        f"the routing keys take {needed:,} bytes, {folder} has {free:,} free; name a larger --keep"
    )


def _measure(
    loaded: LoadedModel,
    bank: Bank,
    version: int,
    tiers: TierConfig,
    rehearsal: Callable[[ScanFormat], Rehearsal],
    repeats: int,
) -> tuple[dict[str, Any], Rates]:
    """One size: verify, then time whole questions, in turns with those from which a plan follows."""
    config, device = loaded.config, loaded.device
    runner = ModelRunner(loaded)
    ids, roles = loaded.prompts.question(QUESTION)
    prompt = Prompt(ids=ids, roles=roles, first_position=config.position_offset)
    view: dict[str, Any] = {"rule": config.routing_rule(), "version": version, "tiers": tiers}
    view["all_scores"] = False  # as an engine asks
    reader = bank.reader(top_k=config.top_k_documents, **view)
    first, best = ProbedReader(reader), bank.reader(top_k=1, **view)
    cold = seconds(lambda: runner.prefill(prompt, first), device)
    verify(first, bank.reader(top_k=1, **view | {"tiers": TierConfig(device_bytes=0, host_bytes=0)}))
    memory: list[float] = []

    def ask() -> None:
        probed = ProbedReader(reader)
        int(runner.prefill(prompt, probed).logits.argmax())
        memory.append(probed.seconds)

    def route() -> None:
        for layer, (routing_q, mask) in first.asked.items():
            best.read(layer, routing_q, mask)

    peak, whole_peak = peak_bytes(ask, device), process_peak()
    banks = rehearsal(cast(ScanFormat, reader.report().routing_keys or "auto"))
    banks.forget()

    def rehearse() -> None:
        banks.ask()
        runner.prefill(prompt, reader)  # the runs after it find their own keys in the caches

    rehearse()
    memory.clear()
    times = in_turns({"": rehearse, "first_token_ms": ask, "route_ms": route}, device, repeats)
    del times[""]
    report, chunks = reader.report(), bank_chunks(bank, version)
    routing_q = next(iter(first.asked.values()))[0]
    certified = [kv.certified for kv in first.found.values() if kv.certified is not None]
    row = {
        "tokens": chunks * config.chunk_size,
        "documents": len(reader),
        "chunks": chunks,
        **{name: percentiles(values) for name, values in times.items()},
        "memory_ms": percentiles(memory),
        "cold_first_token_ms": round(1e3 * cold, 3),
        "route_ns_a_chunk": round(1e9 * sorted(times["route_ms"])[repeats // 2] / chunks, 3),
        "question_tokens": len(ids),
        "routing_tokens": routing_q.shape[1],
        "routing_keys": report.routing_keys,
        "key_bytes": report.key_bytes,
        "content_bytes": report.content_bytes,
        "certified": float(torch.cat(certified).float().mean()) if certified else None,
        "rescored_documents": round(report.rescored / max(1, report.reads), 1),
        "fallbacks": list(report.fallbacks),
        "peak_bytes": peak,
        "process_peak_bytes": whole_peak,
        "bank_bytes": bank_bytes(bank),
    }
    return row, banks.rates()


def verify(probed: ProbedReader, reader: BankReader) -> None:
    """Compare what every layer selected with the exact scores of all documents.

    Args:
        reader: of the same view; one that holds nothing leaves the tiers of the other as they are.

    Raises: EngineError where they differ.
    """
    for layer, kv in probed.found.items():
        scores = reader.scores(layer, *probed.asked[layer])
        best, wanted = top_documents(scores, kv.documents.shape[1])
        if not torch.equal(wanted.cpu(), kv.documents.cpu()) and not torch.allclose(
            best.cpu(), kv.scores.cpu(), rtol=0, atol=1e-6
        ):
            raise EngineError(
                f"layer {layer} selected {kv.documents[0].tolist()}, exact scores {wanted[0].tolist()}; no "
                "figures without agreement"
            )


def full_attention(loaded: LoadedModel, tokens: int, repeats: int) -> dict[str, Any]:
    """The same question on a full cache of as many tokens, by the same model without its memory.

    Filling the cache, which is quadratic, is not counted.
    """
    config, model, device = loaded.config, loaded.model, loaded.device
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    needed = 2 * config.num_hidden_layers * tokens * kv_heads * config.head_dim * model.dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes()
    if needed > FULL_SHARE * free:
        return {"skipped": f"its keys and values take {needed:,} bytes, {free:,} are free"}
    ids = torch.tensor([loaded.prompts.question(QUESTION)[0]], device=device)
    block = torch.randn(1, kv_heads, tokens, config.head_dim, dtype=model.dtype, device=device)
    caches = MemSparseCache()
    for layer in range(config.num_hidden_layers):
        caches.update(block.clone(), block.clone(), layer)
    positions = torch.arange(tokens, tokens + ids.shape[1], device=device)[None]
    routes = torch.zeros_like(ids, dtype=torch.bool)

    @torch.inference_mode()
    def ask() -> None:
        model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=caches,
            use_cache=True,
            logits_to_keep=1,
            query_mask=routes,
        ).logits.argmax()
        caches.crop(-ids.shape[1])

    warm = seconds(ask, device)
    times = in_turns({"": ask}, device, repeats if warm < LONG else 1)[""]
    return {"first_token_ms": percentiles(times), "cache_bytes": needed}


def planned(loaded: LoadedModel, machine: Machine, row: dict[str, Any], rates: Rates) -> dict[str, Any]:
    """What `plan_memory` says of a bank with as many chunks, from small ones' times, beside what it took.

    Latents fill their chunks; of texts it reckons the last chunk of each document half full.
    """
    size = loaded.config.chunk_size
    tokens = size * row["chunks"] - row["documents"] * (size - 1) // 2
    found = plan_memory(
        loaded.config,
        of_machine(machine),
        tokens,
        document_tokens=round(tokens / row["documents"]),
        routing_keys=row["routing_keys"] or "auto",
        question_tokens=row["question_tokens"],
        rates=lambda _: rates,
    )
    shape = found.memory
    chunk = shape.layers * key_bytes(shape.width, found.routing_keys)
    reading = row["chunks"] * chunk / machine.bandwidth
    flops = 2 * row["chunks"] * shape.layers * shape.width * row["routing_tokens"]
    floor = max(reading, flops / max(machine.peaks.values()))
    return {
        "floor_ms": round(1e3 * floor, 4),
        "fraction_of_floor": round(1e3 * floor / row["route_ms"]["p50"], 4),
        "planned": {
            "key_bytes": row["chunks"] * chunk,
            "bank_bytes": found.tiers[-1].bytes,
            "first_token_ms": round(1e3 * found.question.first_token, 3),
            "of_measured": round(1e3 * found.question.first_token / row["first_token_ms"]["p50"], 3),
        },
    }


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the cost of routing follows the size of the bank, and what one question takes of memory.

    `linear_within` is the largest difference, as a share, of a size's time from a line through the first and
    the last of them; None for fewer than three sizes.
    """
    if len(rows) < 2:
        return {"sizes": 0.0, "route": 0.0, "linear_within": None}
    first, last = rows[0], rows[-1]
    times = {row["chunks"]: row["route_ms"]["p50"] for row in rows}
    slope = (last["route_ms"]["p50"] - first["route_ms"]["p50"]) / (last["chunks"] - first["chunks"])
    line = {n: first["route_ms"]["p50"] + slope * (n - first["chunks"]) for n in times}
    return {
        "sizes": round(last["chunks"] / first["chunks"], 3),
        "route": round(last["route_ms"]["p50"] / first["route_ms"]["p50"], 3),
        "linear_within": max(abs(times[n] / line[n] - 1) for n in times) if len(rows) > 2 else None,
    }


def bank_bytes(bank: Bank) -> int:
    """Bytes of a bank's files, holes included."""
    return sum(path.stat().st_size for path in bank.path.rglob("*") if path.is_file())
