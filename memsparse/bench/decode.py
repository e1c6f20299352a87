"""`memsparse bench decode`: whole answers, one question at a time and several at once."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from memsparse.bank import Bank
from memsparse.bench.timing import in_turns, percentiles, process_peak, surroundings
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel
from memsparse.engine.workers import check_workers
from memsparse.errors import ConfigError, EngineError
from memsparse.machine import SECONDS, measure_machine
from memsparse.training.world import generate_world
from memsparse.types import Answer

Note = Callable[[str], None]
_PARTS = 5
"""Of the questions, at most, that are asked one by one and then at once."""
_WAVES = 20
"""Times as many questions as are under way in a part, if there are so many: when it begins all are at one
step, and at its end fewer and fewer are under way, which took a twentieth of a part of five waves."""


def measure_decode(
    loaded: LoadedModel,
    *,
    documents: int = 1000,
    questions: int = 320,
    together: Sequence[int] = (1, 2, 4, 8, 16),
    seed: int = 5,
    seconds: float = SECONDS,
    workers: int = 1,
    exact: bool = True,
    note: Note = lambda line: None,
    **settings: Any,
) -> dict[str, Any]:
    """Answer questions of an invented world, one by one and so many at once.

    Both answer all of them before they are timed, so that what they keep of the bank is there. Then they take
    turns, part by part of the questions, so that a busy moment strikes both; how many times as many are
    answered at once is told for each part. There are five parts where there are a hundred times as many
    questions as are under way.

    Args:
        together: numbers of questions that are under way at a time.
        workers: processes that answer several at once, an even part each; fewer where the number does not
            divide by it.
        exact: every answer must be the one given alone. False, for weights that mean nothing and whose tokens
            are next to equally likely: the share of such answers is a figure.
        settings: of the engine.

    Raises: EngineError where a question is answered otherwise in company than alone; ConfigError for a number
        below 1, and for several workers on an accelerator.
    """
    if documents < 1 or questions < 1 or not together or min(together) < 1:
        raise ConfigError(
            f"{documents} documents, {questions} questions, {list(together)} at once; give 1 or more"
        )
    check_workers(workers, loaded.device)
    machine = measure_machine(loaded.device, (torch.float32, loaded.model.dtype), seconds=seconds)
    world = generate_world(seed, documents=documents, questions=questions, split="heldout")
    asked = [question.text for question in world.questions][:questions]
    with TemporaryDirectory(prefix="memsparse-") as folder:
        place = Path(folder) / "world.bank"
        with MemoryEngine.open(place, loaded, **settings) as engine:
            engine.add(world.documents)
            alone, _ = _one_by_one(engine, asked)
            _, latencies = _one_by_one(engine, asked)
            searching = in_turns({text: partial(engine.search, text) for text in asked}, loaded.device, 1)
            stats = engine.bank.stats()
            told = {"latency_ms": percentiles(latencies), "same_answers": 1.0, "workers": 1}
            rows = [_row(1, alone, sum(latencies)) | told | {"times_one": 1.0}]
            for count in sorted(set(together) - {1}):
                note(f"{count} at once")
                beside = max(n for n in range(1, min(workers, count) + 1) if count % n == 0)
                company = {"max_batch": count, "workers": beside, "read_only": True}
                with MemoryEngine.open(place, loaded, **settings | company) as other:
                    row = _in_company(engine, other, asked, alone, count, exact=exact)
                rows.append(row | {"workers": beside})
        opening = in_turns({"": lambda: Bank.open(place, read_only=True).close()}, loaded.device, 10)[""]
    return {
        "kind": "bench-decode",
        **surroundings(loaded.device, machine),
        "settings": {"model": loaded.name, "layers": loaded.config.num_hidden_layers, "seed": seed}
        | settings,
        "documents": documents,
        "tokens": stats.tokens,
        "questions": len(asked),
        "open_ms": percentiles(opening),
        "search_ms": percentiles([times[0] for times in searching.values()]),
        "process_peak_bytes": process_peak(),
        "together": rows,
    }


def _one_by_one(engine: MemoryEngine, asked: Sequence[str]) -> tuple[list[Answer], list[float]]:
    """Answers, and what each took in seconds."""
    answers, latencies = [], []
    for question in asked:
        began = perf_counter()
        answers.append(engine.ask(question))
        latencies.append(perf_counter() - began)
    return answers, latencies


def _in_company(
    engine: MemoryEngine,
    company: MemoryEngine,
    asked: Sequence[str],
    alone: Sequence[Answer],
    count: int,
    *,
    exact: bool,
) -> dict[str, Any]:
    """The same questions, `count` under way at a time, compared with what each got alone; both in turns."""
    parts = max(1, min(_PARTS, len(asked) // (_WAVES * count)))
    edges = [len(asked) * part // parts for part in range(parts + 1)]
    answers = company.ask_many(asked)
    ratios, took = [], 0.0
    for begin, end in pairwise(edges):
        _, latencies = _one_by_one(engine, asked[begin:end])
        began = perf_counter()
        company.ask_many(asked[begin:end])
        seconds = perf_counter() - began
        ratios.append(sum(latencies) / seconds)
        took += seconds
    same = [
        (one.text, one.citations) == (other.text, other.citations)
        for one, other in zip(alone, answers, strict=True)
    ]
    if exact and not all(same):
        place = same.index(False)
        raise EngineError(
            f"{asked[place]!r} is answered {answers[place].text!r} among {count}, alone "
            f"{alone[place].text!r}; no figures without agreement"
        )
    return _row(count, answers, took) | {
        "same_answers": round(sum(same) / len(same), 4),
        "times_one": round(statistics.median(ratios), 3),
        "times_one_of_parts": [round(ratio, 3) for ratio in ratios],
    }


def _row(count: int, answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    prompts = sum(answer.usage.prompt_tokens for answer in answers)
    return {
        "together": count,
        "seconds": round(seconds, 4),
        "questions_per_second": round(len(answers) / seconds, 3),
        "tokens_per_second": round(tokens / seconds, 2),
        "prompt_tokens_per_second": round(prompts / seconds, 2),
    }
