"""`train router`: the routers of a frozen backbone, fitted to a corpus in minutes.

1. Pairs are read, or made of the documents' titles and sentences; some documents, or questions, are held out.
2. The backbone runs over all documents and questions, once in each round (`router_states`).
3. Every memory layer's router takes steps on its own contrastive loss (paper Eq. 5 and its variants), all
   documents, or the hardest of a sample, being the negatives; the best state on what is held out is kept.
4. Recall is measured in use, before and after: the model itself runs over the whole corpus as its memory,
   each layer reading what its router selects.

A fit that was killed is continued by the same call, and ends with the same bits (on a CPU).
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from memsparse.engine.loading import LoadedModel, fingerprint
from memsparse.errors import ConfigError
from memsparse.training.checkpoint import MODEL, write_json
from memsparse.training.router_config import RouterConfig as RouterConfig
from memsparse.training.router_fit import Recall, RouterFit
from memsparse.training.router_pairs import read_pairs
from memsparse.training.router_start import open_start

IDENTITY = "run.json"
REPORT = "report.json"
_FREE = ("threads", "budget_gib")
"""Settings that may change between two calls of one fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterReport:
    """What a fit did."""

    model: str
    """Folder of the model with its new routers."""
    documents: int
    passages: int
    chunks: int
    pairs: int
    """Questions fitted to."""
    validation: int
    """Questions held out, on which recall is measured."""
    holdout: str
    steps: int
    """Of all rounds, those included that a round which no longer learnt left out."""
    best_step: int
    """0: the routers began best and stay as they were."""
    bytes: int
    """Of states."""
    mapped: bool
    """The states were too large for the budget and stayed in their file."""
    seconds: dict[str, float]
    """Of this call: reading and loading, fitting (the backbone's runs included), measuring afterwards."""
    before: Recall
    after: Recall

    def __str__(self) -> str:
        lines = [
            f"{self.model}: routers of step {self.best_step}, {self.pairs} questions about {self.documents} "
            f"documents; {self.bytes / 1e6:.0f} MB of states{' in a file' if self.mapped else ''}, "
            f"{sum(self.seconds.values()):.0f} s"
        ]
        for name, found in self.after.items():
            told = [
                f"{depth} {self.before[name][depth]:.3f} -> {value:.3f}" for depth, value in found.items()
            ]
            lines.append(f"{name:>8}: {', '.join(told)} ({self.validation} held out)")
        return "\n".join(lines)


def fit_router(config: RouterConfig, out: Path) -> RouterReport:
    """Fit as a config says, into a folder; a second call continues what the first left.

    Writes `out/model`, `out/report.json` and `out/metrics.jsonl`.

    Raises: DocumentError, ConfigError or ModelError for files, settings or a model that cannot be used,
    before any step; EngineError for a loss that is not finite, or a disk that is full; KeyboardInterrupt
    after a Ctrl-C, once the state is saved.
    """
    began = time.perf_counter()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pairs = read_pairs(config)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; fit into a folder that can be made") from error
    loaded, fresh = open_start(config, out)
    _identify(config, loaded, out)
    opened = time.perf_counter()
    match = config.init == "match" or (config.init is None and fresh)
    fit = RouterFit(config, pairs, loaded, match=match, out=out)
    fit.run()
    fitted = time.perf_counter()
    after = fit.measure(fit.best)
    fit.export()
    report = RouterReport(
        model=str(out / MODEL),
        documents=len(pairs.documents),
        passages=len(fit.rows.passages),
        chunks=len(fit.rows.passage_of_chunk),
        pairs=len(pairs.train),
        validation=len(pairs.validation),
        holdout=config.holdout,
        steps=fit.step,
        best_step=fit.best_step,
        bytes=sum(each.bytes for each in fit.cached),
        mapped=any(each.mapped for each in fit.cached),
        seconds={
            "open": opened - began,
            "fit": fitted - opened,
            "measure": time.perf_counter() - fitted,
        },
        before=fit.before,
        after=after,
    )
    write_json(out / REPORT, asdict(report))
    return report


def _identify(config: RouterConfig, loaded: LoadedModel, out: Path) -> None:
    """Hold a folder to one fit: settings, files and model.

    Raises: ConfigError if it holds another one.
    """
    now: dict[str, Any] = {name: value for name, value in asdict(config).items() if name not in _FREE}
    for name in ("corpus", "queries"):
        path = getattr(config, name)
        if path is not None:
            with Path(path).open("rb") as file:
                now[f"contents of {name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    now["weights of start"] = fingerprint(loaded).weights
    path = out / IDENTITY
    if not path.exists():
        write_json(path, now)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); fit into another folder") from error
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{out} holds a fit with another {name} ({before.get(name)!r}, now {now.get(name)!r}); fit into "
            "another folder, or remove this one"
        )
