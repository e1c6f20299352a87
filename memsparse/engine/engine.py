"""The engine: a model, a memory bank, and the questions put to them.

with MemoryEngine.open("notes.bank") as engine:
    engine.add([Document(id="a", text="The ferry leaves at nine.")])
    print(engine.ask("When does the ferry leave?").text)
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from threading import Lock
from time import time
from types import TracebackType
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor

from memsparse.bank import Bank, Fingerprint
from memsparse.engine.config import EngineConfig
from memsparse.engine.encoder import Encoder
from memsparse.engine.ingest import AddReport, Ingest, Progress
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.engine.model_runner import ModelRunner
from memsparse.engine.request import NOTHING_READ, Request, Steps, Tell, citation_of
from memsparse.engine.scheduler import Question, Scheduler
from memsparse.engine.session import NumberedReader
from memsparse.engine.workers import Answering, Outcome, TakenError, Workers, check_workers
from memsparse.errors import BankExistsError, BankNotFoundError, ConfigError, DocumentError, InputError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.ops.lookup import find_ascending
from memsparse.ops.openmp import make_way, release_threads
from memsparse.text import Prompt
from memsparse.types import (
    Answer,
    Citation,
    Document,
    LayerRouting,
    MemoryKV,
    Passage,
    Usage,
    empty_memory,
)

__all__ = ["AddReport", "EngineConfig", "MemoryEngine", "Progress", "Routed", "SearchHit"]

_VIEWS = 4

Namespaces = str | Sequence[str] | None
"""One namespace, several, or all."""
_View = tuple[str | tuple[str, ...] | None, int, bool]
"""Namespaces, version, and whether the scores of all documents are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchHit:
    """A passage the router found."""

    citation: Citation
    score: float
    """Mean routing score over the memory layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """What the router makes of a query, best first."""

    hits: tuple[SearchHit, ...]
    """By the mean over the memory layers."""
    layers: tuple[LayerRouting, ...]
    """Layer by layer."""


class MemoryEngine:
    """Answers questions from a memory bank; `MemoryEngine.open` makes one. Safe to share between threads."""

    def __init__(self, bank: Bank, loaded: LoadedModel, config: EngineConfig) -> None:
        self.bank = bank
        self.model = loaded
        self.config = config
        self._encoder = Encoder(
            loaded,
            batch_tokens=config.batch_tokens,
            max_document_tokens=config.max_document_tokens,
            dtype=bank.fingerprint.torch_dtype,
        )
        self._runner = ModelRunner(loaded)
        self._workers = Workers(bank, loaded, config)
        part = self._workers.part
        self._scheduler = Scheduler(
            self._runner, max_batch=part.max_batch, max_batch_tokens=part.max_batch_tokens
        )
        self._no_memory = _NoMemory(loaded.config)
        self._views: OrderedDict[_View, tuple[NumberedReader, float]] = OrderedDict()
        self._mutex = Lock()

    @classmethod
    def open(
        cls,
        bank: str | Path,
        model: str | Path | LoadedModel | None = None,
        *,
        create: bool = True,
        read_only: bool | None = None,
        config: EngineConfig | None = None,
        **settings: Any,
    ) -> Self:
        """Open a bank with a model.

        Args:
            model: a folder, a hub repository, or one loaded already. None: the one in the package.
            create: make an empty bank if there is none at that path.
            read_only: write nothing, and create nothing. None: only where permissions leave no choice.
            settings: single fields of `EngineConfig`; they win over `config`.

        Raises: ModelError; ConfigError for an unknown setting or a value out of range; BankNotFoundError;
        BankMismatchError if the bank was filled with another model.
        """
        try:
            chosen = replace(config or EngineConfig(), **settings)
        except TypeError as error:
            unknown = sorted(settings.keys() - EngineConfig.__dataclass_fields__.keys())
            raise ConfigError(
                f"unknown setting {unknown[0]!r}; known: {', '.join(EngineConfig.__dataclass_fields__)}"
            ) from error
        loaded = model if isinstance(model, LoadedModel) else load_model(model)
        check_workers(chosen.workers, loaded.device)
        own = fingerprint(loaded)
        release_threads()  # who asks may be another thread
        try:
            opened = Bank.open(bank, own, read_only=read_only)
        except BankNotFoundError:
            if read_only or not create:
                raise
            opened = _create_or_open(bank, own)
        try:
            return cls(opened, loaded, chosen)
        except BaseException:
            opened.close()
            raise

    def add(
        self, documents: Iterable[Document], *, on_progress: Callable[[Progress], None] | None = None
    ) -> AddReport:
        """Store documents: new and changed ones are encoded, unchanged ones skipped.

        Every `segment_documents` passages are committed together; when it is interrupted, the next call
        encodes the rest only.

        Raises: DocumentError for a document without text, or two with one id, naming it; what was committed
        before it stays. BankLockedError while another process writes.
        """
        return self._ingest(on_progress).run(documents)

    def sync(
        self,
        documents: Iterable[Document],
        *,
        namespace: str = "default",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AddReport:
        """Make a namespace hold exactly these documents: `add`, then remove what is not among them.

        Raises: as `add`; DocumentError for a document of another namespace.
        """
        ingest = self._ingest(on_progress)
        total = len(documents) if isinstance(documents, Sized) else None
        report = ingest.run(_only_in(namespace, documents), total=total)
        gone = [id_ for id_ in self.bank.known(namespace) if (namespace, id_) not in ingest.seen]
        if gone:
            # Another process that follows the same documents may have been faster.
            removed = self.bank.remove(gone, namespace=namespace, missing_ok=True)
            report = replace(report, removed=removed)
        return report

    def remove(self, document_ids: Sequence[str], *, namespace: str = "default") -> int:
        """Remove documents; the next question does not see them. Returns how many.

        Raises: DocumentError for an unknown id, and then removes nothing; BankLockedError.
        """
        return self.bank.remove(document_ids, namespace=namespace)

    def search(
        self, query: str, *, limit: int = 16, namespace: Namespaces = None, version: int | None = None
    ) -> list[SearchHit]:
        """The passages the router finds for a query, best first; nothing is read or generated.

        Args:
            namespace: one, or several. None: all of them.
            version: an earlier version of the bank. None: the latest.

        Raises: InputError for an empty or overlong query; ConfigError for a limit below 1.
        """
        return list(self.route(query, limit=limit, namespace=namespace, version=version).hits)

    def route(
        self,
        query: str,
        *,
        limit: int = 16,
        namespace: Namespaces = None,
        version: int | None = None,
    ) -> Routed:
        """`search`, with what every memory layer thinks: its own `limit` best passages.

        Args, Raises: as `search`.
        """
        self._check_question(query, "query")
        if limit < 1:
            raise ConfigError(f"limit is {limit}; it must be at least 1")
        reader = self._reader(namespace, version, all_scores=True)
        if not len(reader.numbers):
            return Routed(hits=(), layers=())
        ids, roles = self.model.prompts.question(query)
        prompt = Prompt(ids=ids, roles=roles, first_position=self._first_position())
        try:
            session = self._runner.prefill(prompt, reader)
            scores, index = session.best(min(limit, len(reader.numbers)))
            layers = session.routed(reader.numbers, limit=min(limit, len(reader.numbers)))
        finally:
            make_way()
        numbers = reader.numbers[index[index >= 0]].tolist()
        hits = tuple(
            SearchHit(citation=citation_of(passage), score=score)
            for passage, score in zip(self.bank.passages(numbers), scores.tolist(), strict=False)
        )
        return Routed(hits=hits, layers=layers)

    def ask(self, question: str, *, namespace: Namespaces = None, version: int | None = None) -> Answer:
        """Answer a question from the documents; see `stream`. Calls of several threads run together."""
        return self.ask_many([question], namespace=namespace, version=version)[0]

    @overload
    def ask_many(
        self,
        questions: Sequence[str],
        *,
        namespace: Namespaces = None,
        version: int | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Answer]: ...

    @overload
    def ask_many(
        self,
        questions: Sequence[str],
        *,
        namespace: Namespaces = None,
        version: int | None = None,
        return_errors: Literal[True],
    ) -> list[Answer | Exception]: ...

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        namespace: Namespaces = None,
        version: int | None = None,
        return_errors: bool = False,
    ) -> list[Answer] | list[Answer | Exception]:
        """Answer questions together, `max_batch` at a time; each gets the answer it gets alone.

        All of them read the same version of the bank.

        Args:
            return_errors: put the error of a question in the place of its answer.

        Returns: the answers, in the order of the questions.

        Raises: BankError for an unknown version; unless errors are returned, the first question's error that
        has one, once all the others are through.
        """
        version = self.bank.version if version is None else version
        namespace = _fixed(namespace)
        here = self.answering(namespace, version)
        outcomes = self._workers.ask(questions, namespace, version, here)
        if not return_errors:
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        return outcomes

    def answering(self, namespace: Namespaces, version: int) -> Answering:
        """What answers questions of one view in this process; `ask_many` shares them with `workers`.

        Raises: BankError for an unknown version.
        """
        reader = self._reader(namespace, version)

        def answer(questions: Sequence[str], takes: Callable[[int], bool] | None = None) -> list[Outcome]:
            tickets = self._scheduler.ask(
                [
                    self._question(question, reader, None if takes is None else partial(takes, at))
                    for at, question in enumerate(questions)
                ]
            )
            return [ticket.error or ticket.result() for ticket in tickets]

        return answer

    def read(self, question: str, documents: Sequence[Document]) -> Answer:
        """Answer from the texts of a few documents alone, without routing or memory: what `ask` is to beat.

        The bank plays no part. Citations number the passages of the documents from 1.

        Raises: InputError for an empty or overlong question, and where the model cannot take all the texts;
        DocumentError for one without text.
        """
        self._check_question(question, "question")
        split = [passage for document in documents for passage in self._encoder.split(document)]
        passages = {number: replace(passage, number=number) for number, passage in enumerate(split, start=1)}
        request = Request(
            self.model.prompts,
            self.model.config,
            self._no_memory,
            question,
            replace(self.config, max_rounds=1),
            passages=lambda numbers: {number: passages[number] for number in numbers if number in passages},
            body=self._encoder.body,
            given=list(passages),
        )
        return self._scheduler.ask([request.steps])[0].result()

    def stream(
        self, question: str, *, namespace: Namespaces = None, version: int | None = None
    ) -> Iterator[str | Answer]:
        """Yield the answer's text piece by piece, then the `Answer` with its citations and its whole trace.

        Without documents to read the answer is at once that there is none. A stream that is closed leaves
        nothing behind; while nobody asks it for more, it goes on only beside questions of other callers.

        Args:
            namespace: one, or several. None: all of them.
            version: an earlier version of the bank. None: the latest.

        Raises: InputError for an empty or overlong question; BankError for an unknown version.
        """
        self._check_question(question, "question")
        return self._scheduler.stream(self._question(question, self._reader(namespace, version)))

    def close(self) -> None:
        """Close the bank, and end the workers; the folder may then be copied."""
        self._workers.close()
        self._views.clear()
        self.bank.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ingest(self, on_progress: Callable[[Progress], None] | None) -> Ingest:
        return Ingest(
            self.bank,
            self._encoder,
            segment_documents=self.config.segment_documents,
            on_progress=on_progress,
        )

    def _check_question(self, text: str, what: str) -> None:
        if not text.strip():
            raise InputError(f"the {what} is empty; write one")
        limit = self.model.config.max_position_embeddings // 2  # the rest is for what is read
        tokens = self.model.prompts.count_tokens(text)
        if tokens > limit:
            raise InputError(f"the {what} has {tokens} tokens, this model takes {limit}; shorten it")

    def _question(
        self, question: str, reader: NumberedReader, takes: Callable[[], bool] | None = None
    ) -> Question:
        """What the scheduler runs; a question that cannot be asked is an error of its first step.

        Args:
            takes: asked in the first step; False if the question is answered elsewhere.
        """

        def steps(tell: Tell) -> Steps:
            if takes is not None and not takes():
                raise TakenError("another process answers the question")
            self._check_question(question, "question")
            if not len(reader.numbers):
                return (yield from _nothing_to_read(tell))
            request = Request(
                self.model.prompts,
                self.model.config,
                reader,
                question,
                self.config,
                passages=lambda numbers: self._passages(reader, numbers),
                body=self._encoder.body,
            )
            return (yield from request.steps(tell))

        return steps

    def _first_position(self) -> int:
        return len(self.model.prompts.head()) + self.model.config.top_k_documents

    def _reader(
        self, namespace: Namespaces, version: int | None, *, all_scores: bool = False
    ) -> NumberedReader:
        """A reader of one version, kept until a document in it expires.

        Args:
            all_scores: whether those of all documents are wanted, and not only who decides by them.
        """
        config = self.model.config
        decides = (self.config.id_decoding or config.id_decoding) == "router"
        all_scores = all_scores or (decides and not self._sifts())
        latest = self.bank.version
        namespace = _fixed(namespace)
        key = (namespace, latest if version is None else version, all_scores)
        with self._mutex:
            reader, stale = self._views.get(key, (None, -inf))
            if reader is None or time() >= stale:
                now = time()
                expiries = (
                    self._expiries(namespace) if key[1] == latest else [now]
                )  # known of the latest only
                stale = min((e for e in expiries if e >= now), default=inf)
                reader = self._open_reader(
                    top_k=config.top_k_documents,
                    rule=config.routing_rule(),
                    all_scores=all_scores,
                    namespace=namespace,
                    version=key[1],
                    now=now,
                    tiers=self._workers.part.tiers,
                )
                self._views[key] = (reader, stale)
                while len(self._views) > _VIEWS:
                    self._views.popitem(last=False)
            self._views.move_to_end(key)
            return reader

    def _open_reader(self, **view: Any) -> NumberedReader:
        """What questions are routed by; `Bank.reader` says what a view is."""
        return self.bank.reader(**view)

    def _sifts(self) -> bool:
        """Whether readers that do not keep the scores of all documents tell enough to decide by them."""
        return self.config.tiers.index == "none"

    def _expiries(self, namespace: Namespaces) -> list[float]:
        return [info.expires for info in self.bank.documents(namespace=namespace) if info.expires is not None]

    def _passages(self, reader: NumberedReader, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number; what the reader does not see does not exist."""
        asked = torch.tensor(list(numbers), dtype=torch.long)
        _, there = find_ascending(reader.numbers, asked)
        visible = asked[there].tolist()
        return dict(zip(visible, self.bank.passages(visible), strict=True))


class _NoMemory:
    """A reader over no documents."""

    def __init__(self, config: MemSparseConfig) -> None:
        self._config = config
        self.numbers = torch.empty(0, dtype=torch.long)

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        kv_heads = self._config.num_key_value_heads or self._config.num_attention_heads
        return empty_memory(len(routing_q), kv_heads, self._config.head_dim, like=routing_q)


def _create_or_open(path: str | Path, own: Fingerprint) -> Bank:
    try:
        return Bank.create(path, own)
    except BankExistsError as error:
        try:
            return Bank.open(path, own)  # another process has created it in this moment
        except BankNotFoundError:
            raise error from None


def _fixed(namespace: Namespaces) -> str | tuple[str, ...] | None:
    """Namespaces as a key; whatever a sequence of them becomes later."""
    return namespace if namespace is None or isinstance(namespace, str) else tuple(namespace)


def _nothing_to_read(tell: Tell) -> Steps:
    """A question to a memory without documents: it needs nothing run."""
    yield from ()
    tell(NOTHING_READ)
    usage = Usage(prompt_tokens=0, completion_tokens=0, route_seconds=0.0, seconds=0.0)
    return Answer(text=NOTHING_READ, citations=(), rounds=(), usage=usage, found=False)


def _only_in(namespace: str, documents: Iterable[Document]) -> Iterable[Document]:
    for document in documents:
        if document.namespace != namespace:
            raise DocumentError(
                f"document {document.id!r} is of namespace {document.namespace!r}; sync them one at a time, "
                f"this is {namespace!r}"
            )
        yield document
