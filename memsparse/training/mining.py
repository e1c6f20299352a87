"""Mined hard negatives: passages that BM25 or a router takes for the right ones, and that are not.

A queries file is written again with "negative_ids" beside the "positive_ids" of each question. What is found
is kept in a folder beside the new file until that is whole, so an interrupted run goes on where it stopped.
"""

import gzip
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.errors import ConfigError, DocumentError, EngineError
from memsparse.json_lines import read_rows
from memsparse.training.passages import Passages
from memsparse.training.rankers import REPORT_SECONDS, Bm25Ranker, Ranker, RouterRanker
from memsparse.training.rows import Row, passage_rows, question_rows

log = logging.getLogger(__name__)

_FOUND = "found.jsonl"
_NO_CONTENT = ("yes", "no")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiningReport:
    """What mining found."""

    questions: int
    mined: int
    """Questions with at least one negative."""
    negatives: int


def mine_bm25(corpus: Path, queries: Path, out: Path, *, count: int = 8, skip: int = 0) -> MiningReport:
    """Write the queries again, each with the passages that BM25 ranks highest among the wrong ones.

    Wrong are passages that are no positive, have not the text of one, and do not hold an accepted answer
    verbatim, whatever its case. Negatives that a question has already are kept, before the new ones.

    Args:
        out: JSON Lines; packed if its name ends in .gz or .zst. May be `queries` itself.
        count: negatives of a question, at most.
        skip: wrong passages passed over at the top of the ranking, where unmarked right ones are likely.

    Raises: ConfigError for a value out of range or a missing package; DocumentError for rows that cannot be
    used; EngineError if `out` cannot be written: what was there then stays.
    """
    passages = _open(corpus, count, skip)
    work = _Work.of("bm25", corpus, queries, out, count, skip)
    return _mine(work, passages, queries, out, lambda: nullcontext(Bm25Ranker(passages)))


def mine_router(
    model: str | Path | LoadedModel | None,
    corpus: Path,
    queries: Path,
    out: Path,
    *,
    count: int = 8,
    skip: int = 0,
) -> MiningReport:
    """Write the queries again, each with the passages that a model's routers rank highest among the wrong.

    The model encodes the corpus into a bank on disk beside `out`, which is removed in the end; passages are
    ranked by the mean score over the memory layers.

    Args:
        model: a folder, a hub repository, or one loaded already. None: the one in the package.

    Other Args, Raises: as `mine_bm25`; ModelError.
    """
    passages = _open(corpus, count, skip)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    work = _Work.of(fingerprint(loaded).to_json(), corpus, queries, out, count, skip)
    return _mine(work, passages, queries, out, lambda: _routing(work.folder / "bank", loaded, passages))


@contextmanager
def _routing(bank: Path, loaded: LoadedModel, passages: Passages) -> Iterator[Ranker]:
    with MemoryEngine.open(bank, loaded) as engine:
        yield RouterRanker(engine, passages)


def negatives_of(
    row: Row, ranked: Iterable[str], passages: Passages, *, count: int, skip: int = 0
) -> list[str]:
    """The first wrong passages of a ranking, as `mine_bm25` tells them from right ones."""
    answers = [each.strip().casefold() for each in row["answers"]]
    answers = [each for each in answers if each and each not in _NO_CONTENT]
    positives = {id_: passages[id_]["text"] for id_ in row["positive_ids"] if id_ in passages}
    right = set(positives.values())
    found: list[str] = []
    for id_ in ranked:
        if id_ in row["positive_ids"] or passages[id_]["text"] in right:
            continue
        text = f"{passages[id_]['title']}\n{passages[id_]['text']}".casefold()
        if any(answer in text for answer in answers):
            continue
        if skip:
            skip -= 1
            continue
        found.append(id_)
        if len(found) == count:
            break
    return found


def _open(corpus: Path, count: int, skip: int) -> Passages:
    if count < 1:
        raise ConfigError(f"count is {count}; it must be at least 1")
    if skip < 0:
        raise ConfigError(f"skip is {skip}; it must be at least 0")
    passages = Passages(passage_rows(corpus))
    if not len(passages):
        raise DocumentError(f"{corpus}: no passages; give a file with some")
    return passages


def _mine(
    work: "_Work",
    passages: Passages,
    queries: Path,
    out: Path,
    open_ranker: Callable[[], AbstractContextManager[Ranker]],
) -> MiningReport:
    questions = sum(1 for _ in question_rows(queries))  # a bad row must not wait behind the ranking
    with _telling(out):
        done = work.prepare()
        if done:
            log.info("%s: going on after %d questions", out, done)
        if done < questions:
            with open_ranker() as ranker, work.appending() as journal:
                reported = perf_counter()
                for number, (_, row) in enumerate(question_rows(queries), start=1):
                    if number <= done:
                        continue
                    ranked = ranker.rank(row["question"])
                    found = negatives_of(row, ranked, passages, count=work.count, skip=work.skip)
                    journal.write(json.dumps(found).encode() + b"\n")
                    if perf_counter() - reported >= REPORT_SECONDS:
                        reported = perf_counter()
                        journal.flush()
                        log.info("%s: %d of %d questions ranked", out, number, questions)
        return _finish(work, queries, out)


def _finish(work: "_Work", queries: Path, out: Path) -> MiningReport:
    """Put the new queries in place, whole, and remove what led there."""
    questions = mined = negatives = 0
    whole = work.folder / f"whole{out.suffix}"
    with _packing(whole) as file:
        for (_, row), found in zip(read_rows(queries), work.found(), strict=True):
            ids = dict.fromkeys([*(row.get("negative_ids") or ()), *found])
            file.write(json.dumps(row | {"negative_ids": list(ids)}, ensure_ascii=False).encode() + b"\n")
            questions, mined, negatives = questions + 1, mined + bool(found), negatives + len(found)
    with whole.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(whole, out)
    shutil.rmtree(work.folder)
    log.info("%s: %d of %d questions have negatives mined", out, mined, questions)
    return MiningReport(questions=questions, mined=mined, negatives=negatives)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A folder of what is found until all is; it says for which files and settings."""

    folder: Path
    count: int
    skip: int
    header: dict[str, Any]

    @classmethod
    def of(cls, ranker: Any, corpus: Path, queries: Path, out: Path, count: int, skip: int) -> "_Work":
        header = {"ranker": ranker, "count": count, "skip": skip}
        for name, path in (("corpus", corpus), ("queries", queries)):
            if path.is_file():  # what cannot be read is refused where its rows are
                with path.open("rb") as file:
                    header[name] = file_digest(file, "blake2b").hexdigest()
        return cls(folder=out.with_name(out.name + ".mining"), count=count, skip=skip, header=header)

    def prepare(self) -> int:
        """Make the folder, or take up the one that is there; return for how many questions it is done.

        Raises: ConfigError if something else is there.
        """
        journal = self.folder / _FOUND
        if journal.is_file():
            with journal.open("rb") as file:
                whole = [len(line) for line in file if line.endswith(b"\n")]
                file.seek(0)
                same = bool(whole) and json.loads(file.readline()) == self.header
            if same:
                os.truncate(journal, sum(whole))  # a kill may leave half a line
                return len(whole) - 1
            log.info("%s is of other files or settings; starting anew", self.folder)
            shutil.rmtree(self.folder)
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ConfigError(f"{self.folder} is in the way; remove it, or write to another file")
        self.folder.mkdir(parents=True, exist_ok=True)
        journal.write_text(json.dumps(self.header) + "\n", encoding="utf-8")
        return 0

    def appending(self) -> BinaryIO:
        """The journal, to be written on."""
        return (self.folder / _FOUND).open("ab")

    def found(self) -> Iterator[list[str]]:
        """What was found, question by question."""
        with (self.folder / _FOUND).open("rb") as file:
            next(file)
            yield from map(json.loads, file)


@contextmanager
def _packing(path: Path) -> Iterator[Any]:
    """Open a file for writing, packed as its suffix asks."""
    with path.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield packed
        elif path.suffix == ".zst":
            try:
                import zstandard
            except ImportError as error:
                raise ConfigError(
                    f"{path.suffix} needs the package zstandard; pip install 'memsparse[train]'"
                ) from error
            with zstandard.ZstdCompressor().stream_writer(file) as packed:
                yield packed
        else:
            yield file


@contextmanager
def _telling(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"{out} cannot be made: {error.strerror or error}; make room, or write elsewhere"
        ) from error
