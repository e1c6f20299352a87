"""One evaluation from the command line: its inputs, its records on disk, its table on the screen."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memsparse.console import note, progress, say, show_json, show_rows
from memsparse.errors import ConfigError, InputError

if TYPE_CHECKING:
    from memsparse.engine.engine import MemoryEngine
    from memsparse.engine.loading import LoadedModel
    from memsparse.evaluation.judge import Judge
    from memsparse.evaluation.questions import Question
    from memsparse.evaluation.results import Record, RecordFile
    from memsparse.evaluation.systems import System
    from memsparse.types import Document


class Inputs:
    """A corpus in a bank, the questions that can be asked, and who is asked."""

    def __init__(
        self,
        engine: "MemoryEngine",
        documents: "Sequence[Document]",
        questions: "Sequence[Question]",
        peers: Sequence[str],
        read: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.engine = engine
        self.documents = documents
        self.questions = questions
        self.settings = settings
        self._peers = peers
        self.read = read

    def facts(self, records: "RecordFile") -> dict[str, Any]:
        """How large the corpus is."""
        return {"documents": len(self.documents), "tokens": self.engine.bank.stats().tokens}

    def systems(self, ability: str, records: "RecordFile") -> "list[System]":
        """The model and the baselines; those that are asked anything have the documents."""
        from memsparse.evaluation.model_system import ModelSystem

        peers = open_baselines(self._peers, self.engine, ability, read=self.read)
        for peer in peers:
            if any({"system": peer.name, "id": question.id} not in records for question in self.questions):
                with progress(peer.name) as show:
                    peer.add(self.documents, show)
        return [ModelSystem(self.engine), *peers]


@contextmanager
def open_inputs(
    corpus: list[Path],
    queries: Path,
    model: str | None,
    baseline: str,
    limit: int | None,
    seed: int,
    where: list[str] | None,
    *,
    ability: str,
    out: str | None = None,
    by: str | None = None,
    read: int | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Iterator[Inputs]:
    """Read and check everything, then encode what is new of the corpus, in a bank of the cache.

    Args:
        ability: the method baselines need: "retrieve" or "answer".
        out: where the result will go; checked like everything else before the long work.
        read: documents a baseline reads to answer. None: as `default_read` says.
        engine: single fields of `EngineConfig`.
    """
    from memsparse.distributed.launch import engine_class
    from memsparse.engine.folder import open_folder
    from memsparse.engine.loading import load_model
    from memsparse.evaluation.questions import load_corpus, load_questions

    result_path(out)
    peers = check_baselines(baseline, ability)
    documents = load_corpus(corpus)
    questions = load_questions(
        queries,
        known={document.id for document in documents},
        limit=limit,
        seed=seed,
        where=read_conditions(where),
    )
    if by is not None and all(by not in question.extra for question in questions):
        raise ConfigError(f"no question has a field {by!r}; leave --by out, or name another field")
    loaded = load_model(model)
    with progress("encoding") as show:
        opened, added = open_folder(
            corpus,
            loaded,
            strict=True,
            kind=engine_class(),
            on_skip=lambda item: None,
            on_progress=lambda state: show(state.documents, state.total),
            **(engine or {}),
        )
    if added.tokens:
        note(f"{added.tokens} tokens encoded in {added.seconds:.1f} s", dim=True)
    settings = describe_inputs(corpus, queries, loaded, limit, seed, where) | {
        "documents": digest(documents),
        "baselines": peers,
    }
    ranks = ability == "retrieve"
    asked = [question for question in questions if (question.rankable if ranks else question.judgeable)]
    if left_out := len(questions) - len(asked):
        what = "positive_ids" if ranks else "accepted answers"
        note(f"{left_out} of {len(questions)} questions have no {what} and are left out")
    with opened:
        yield Inputs(opened, documents, asked, peers, read or default_read(loaded), settings)


def check_baselines(names: str, ability: str) -> list[str]:
    """Read a comma-separated list.

    Raises: ConfigError for a name that is neither known nor a path to a factory, and for one that lacks the
    method `ability`.
    """
    from memsparse.evaluation.baselines import ANSWER_ONLY, BASELINES

    listed = [name.strip() for name in names.split(",") if name.strip()]
    for name in listed:
        if name not in BASELINES and ":" not in name:
            raise ConfigError(
                f"unknown baseline {name!r}; known: {', '.join(BASELINES)}, or package.module:factory"
            )
        if ability != "answer" and name in ANSWER_ONLY:
            raise ConfigError(f"baseline {name!r} cannot {ability}; leave it out here")
    return listed


def digest(documents: "Sequence[Document]") -> str:
    """What tells one corpus from another, folders included."""
    told = hashlib.sha256()
    for document in documents:
        told.update(json.dumps([document.id, document.title, document.text]).encode())
    return told.hexdigest()[:16]


def open_baselines(
    names: Sequence[str], engine: "MemoryEngine", ability: str, *, read: int = 4
) -> "list[System]":
    """Make the baselines `check_baselines` has read.

    Raises: ConfigError for one that cannot be made, or is without the method `ability`.
    """
    if not names:
        return []
    from memsparse.evaluation.baselines import make_baselines
    from memsparse.evaluation.systems import Setup

    peers = make_baselines(names, Setup(engine=engine, read=read))
    for peer in peers:
        if not hasattr(peer, ability):
            raise ConfigError(f"baseline {peer.name!r} cannot {ability}; leave it out here")
    return peers


def default_read(loaded: "LoadedModel") -> int:
    """Documents a baseline reads to answer: a model that only quotes is lost among several texts."""
    return 1 if loaded.config.extractive else 4


def default_document_tokens(loaded: "LoadedModel") -> int:
    """Tokens of text that fit into one passage of the model, and 512 at most."""
    from memsparse.engine.encoder import document_limit

    template = len(loaded.prompts.document(9_999_999, ""))
    return min(document_limit(loaded.config), 512) - template


def open_judge(model: str | None, url: str | None) -> "Judge | None":
    """The judge the options name, if they do."""
    if model is None:
        if url is not None:
            raise ConfigError(f"--judge-url is {url!r} but no model is named; add --judge-model NAME")
        return None
    from memsparse.evaluation.judge import Judge

    return Judge(model=model, base_url=url)


def describe_inputs(
    corpus: Sequence[Path],
    queries: Path,
    loaded: "LoadedModel",
    limit: int | None,
    seed: int,
    where: list[str] | None,
) -> dict[str, Any]:
    """What records depend on, as JSON values."""
    return {
        "corpus": describe_files(corpus),
        "queries": describe_files([queries]),
        "model": describe_model(loaded),
        "limit": limit,
        "seed": seed,
        "where": read_conditions(where),
    }


def describe_model(loaded: "LoadedModel") -> dict[str, Any]:
    """Which model it is, by name and by weights."""
    from memsparse.engine.loading import fingerprint

    return {"name": loaded.name, "weights": fingerprint(loaded).weights[:16]}


def describe_files(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Names and digests: what tells one input from another."""
    told = []
    for path in paths:
        entry = {"file": path.name}
        if path.is_file():
            with path.open("rb") as file:
                entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        told.append(entry)
    return told


def read_conditions(conditions: list[str] | None) -> dict[str, str]:
    """Read FIELD=VALUE words.

    Raises: ConfigError for a word that is none.
    """
    pairs = [condition.partition("=") for condition in conditions or []]
    for name, equals, value in pairs:
        if not name or not equals:
            raise ConfigError(f"--where is {name + equals + value!r}; write FIELD=VALUE, such as split=val")
    return {name: value for name, _, value in pairs}


def token_counter(loaded: "LoadedModel") -> "Callable[[Document], int]":
    """Counts the tokens of a document as it is encoded, parts of a long one aside."""
    from memsparse.text import passage_text

    return lambda document: len(loaded.prompts.document(9999, passage_text(document.title, document.text)))


def growing_stream(
    documents: "Sequence[Document]",
    distractors: Sequence[Path],
    generated: bool,
    seed: int,
    drawn: dict[str, int],
) -> "Iterator[Document]":
    """What a bank is filled with: the corpus, the distractors, then invented worlds; `drawn` counts them."""
    from memsparse.sources import read_documents
    from memsparse.training.world import generate_world

    def invented() -> "Iterator[Document]":
        for number in count():
            yield from generate_world(seed * 1_000_003 + number, documents=512, questions=0).documents

    sources: dict[str, Iterable[Document]] = {
        "corpus": documents,
        "distractors": read_documents(distractors, strict=True, on_skip=lambda item: None),
        "generated": invented() if generated else (),
    }
    for name, source in sources.items():
        for document in source:
            drawn[name] = drawn.get(name, 0) + 1
            yield document


def conduct(
    kind: str,
    out: str | None,
    settings: Mapping[str, Any],
    key: Sequence[str],
    measure: "Callable[[RecordFile], None]",
    summarise: "Callable[[RecordFile], dict[str, Any]]",
    facts: "Callable[[RecordFile], dict[str, Any]]",
) -> None:
    """Measure, keeping every record; write what there is even if it is cut short, and show the figures."""
    from memsparse.evaluation.results import RecordFile, environment, is_finished, missing

    path = result_path(out)
    if path is not None and is_finished(path):
        note(f"{path} is there already; it is written anew when this run is finished")
    here = environment()
    records = RecordFile(path, {"kind": kind, **settings}, key=key)
    if records.records:
        note(f"going on after {len(records.records)} records in {records.path}")
    session = {name: here[name] for name in ("commit", "device", "versions")}
    sessions = [*records.marks.get("sessions", []), session]
    if session not in sessions[:-1]:
        records.mark("sessions", sessions)

    def result() -> dict[str, Any]:
        named = [entry["file"] for entry in settings.get("corpus", [])]
        told = {
            "kind": kind,
            **here,
            "seed": settings["seed"],
            "settings": dict(settings),
            "partial": False,
            "corpus": {**facts(records), "files": named},
            **summarise(records),
        }
        if failed := missing(records.records):
            told["missing"] = failed
        if len(records.marks["sessions"]) > 1:  # parts were measured by other code, or elsewhere
            told["sessions"] = records.marks["sessions"]
        return told

    try:
        measure(records)
        told = result()
        if path is not None:
            records.write(path, told, partial=False)
    except BaseException:
        if path is not None and records.records:
            if not is_finished(path):
                records.write(path, result(), partial=True)
            note(f"{len(records.records)} records are kept; the same command goes on from there")
        raise
    finally:
        records.close()
    if out == "-":
        show_json({**told, "records": records.records})
    else:
        _show(told)


def result_path(out: str | None) -> Path | None:
    """Where a result goes; None: to the screen alone.

    Raises: InputError for what cannot be a file.
    """
    if out is None or out == "-":
        return None
    path = Path(out)
    if not out or path.is_dir():
        raise InputError(f"--json is {out!r}; name a file, or - for standard output")
    return path


_LEFT_OUT = frozenset({"recall@10", "all@5", "all@10", "judge_match", "search_seconds", "citation_f1"})
"""Metrics of a result that the table on the screen does without."""


def _show(result: Mapping[str, Any]) -> None:
    from memsparse.evaluation.figures import LABELS

    for head, systems in _sections(result):
        if head:
            say(head, bold=True)
        if result["kind"] == "needles":
            cells = [(system, *pair) for system, metrics in systems.items() for pair in metrics.items()]
            rows = [(system, name, _cell(name, value)) for system, name, value in cells if "@" in name]
            show_rows(rows, ("system", "task", "score"), always_head=True)
        else:
            shown = [
                (name, title)
                for name, title in LABELS.items()
                if name not in _LEFT_OUT and any(_has(metrics, name) for metrics in systems.values())
            ]
            table = [
                (system, *(_cell(name, metrics.get(name)) for name, _ in shown))
                for system, metrics in systems.items()
            ]
            show_rows(table, ("system", *(title for _, title in shown)), always_head=True)
    for system, metrics in result["systems"].items():
        if _has(metrics, "exact_match") and "judge" in metrics:
            asked = metrics["exact_match"]["n"]
            lacking = asked - min(metrics[name]["n"] for name in ("judge", "judge_match"))
            if lacking:
                note(f"{system}: the judge left {lacking} of {asked} answers without a mark")
    for system, entry in (result.get("missing") or {}).items():
        note(f"{system} failed on {entry['n']} questions, first: {entry['first']}")


def _sections(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is shown as a table each: a heading, and systems with their metrics."""
    for rung in result.get("rungs", []):
        yield f"{rung['tokens']:,} tokens, {rung['documents']:,} documents", rung["systems"]
    if "rungs" not in result:
        yield _questions(result["systems"]), result["systems"]
    for value, systems in result.get("groups", {}).items():
        yield f"{result['by']} = {value}, {_questions(systems)}", systems


def _questions(systems: Mapping[str, Any]) -> str:
    """How many questions figures are about, at most: some metrics leave some out."""
    most = max((metric["n"] for metrics in systems.values() for metric in metrics.values()), default=0)
    return f"{most:,} question{'s' * (most != 1)}"


def _has(metrics: Mapping[str, Any], name: str) -> bool:
    return name in metrics and metrics[name]["n"] > 0


_DIGITS = {"judge": 2, "tokens_per_question": 0}
"""Digits of a figure that is no share, behind the point; of others, which are seconds, three."""


def _cell(name: str, estimate: Mapping[str, Any] | None) -> str:
    from memsparse.evaluation.figures import is_share

    if estimate is None or estimate["value"] is None:
        return "-"
    scale, digits = (100, 1) if is_share(name) else (1, _DIGITS.get(name, 3))
    value, low, high = (scale * float(estimate[bound]) for bound in ("value", "low", "high"))
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def groups(
    records: "Sequence[Record]", by: str | None, summarise: "Callable[[Sequence[Record]], dict[str, Any]]"
) -> dict[str, Any]:
    """Figures for each value of a field of the questions, as a part of the result."""
    from memsparse.evaluation.results import by_group

    if by is None:
        return {}
    found = by_group(records, by)
    return {"by": by, "groups": {value: summarise(rows) for value, rows in sorted(found.items())}}


def beside(path: Path, suffix: str) -> Path:
    """A path that goes with a result file."""
    return path.with_name(path.name + suffix)


def remove_unless(folder: Path, needed: Path) -> None:
    """Remove a folder that is of use only while another file is there."""
    if not needed.exists():
        shutil.rmtree(folder, ignore_errors=True)
