"""Peers of the measured model: the same questions, the same documents, and the same reader.

bm25         words, by bm25s
minilm       all-MiniLM-L6-v2, exact search
hybrid       reciprocal rank fusion of the two
rag          the measured model's own states as embeddings, exact search
routed-text  the measured model's router
full         everything, as plain text, while it fits into the model's context
oracle       the documents that hold the answer

The first five rank documents, and all of them answer: the best `Setup.read` documents are read as plain text
by the measured model. Where not all of those fit into its context, the worst are left out (`TextReader`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from time import perf_counter
from types import MappingProxyType

from memsparse.engine.engine import MemoryEngine
from memsparse.errors import ConfigError, EngineError, InputError
from memsparse.evaluation.dense import Backbone, DenseIndex, MiniLm
from memsparse.evaluation.figures import OWN
from memsparse.evaluation.index import FusedIndex, Index
from memsparse.evaluation.lexical import Bm25Index
from memsparse.evaluation.model_system import ModelSystem
from memsparse.evaluation.questions import Question
from memsparse.evaluation.systems import (
    Answerer,
    Factory,
    OnProgress,
    Ranking,
    Reply,
    Retriever,
    Setup,
    System,
)
from memsparse.evaluation.text_reader import TextReader
from memsparse.types import Document

ANSWER_ONLY = frozenset({"full", "oracle"})
"""Baselines that rank nothing."""
INDEXES = "indexes"
"""Key of `Setup.options`: the indexes made so far, by name, so that the systems of one run share them."""


class IndexSystem:
    """Ranks by an index; answers by reading the best documents."""

    def __init__(self, name: str, index: Index, setup: Setup) -> None:
        self.name = name
        self._index = index
        self._reader = TextReader(setup.engine)
        self._read = setup.read
        self._taken: set[str] = set()

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Index documents, unless a system that shares the index has done so."""
        self._index.add(documents, on_progress)
        self._taken.update(document.id for document in documents)

    def retrieve(self, question: Question, limit: int) -> Ranking:
        """Rank the documents; fewer than `limit` where the index finds no more.

        Raises: EngineError if a system that shares the index was given other documents.
        """
        self._prepare()
        began = perf_counter()
        found = self._index.search(question.text, limit)
        return Ranking(
            documents=tuple(document.id for document, _ in found),
            scores=tuple(score for _, score in found),
            seconds=perf_counter() - began,
        )

    def answer(self, question: Question) -> Reply:
        """Read the best documents.

        Raises: EngineError as `retrieve`; InputError for what the model cannot take.
        """
        self._prepare()
        began = perf_counter()
        found = self._index.search(question.text, self._read)
        reply = self._reader.read(question.text, [document for document, _ in found])
        return replace(reply, seconds=perf_counter() - began)

    def _prepare(self) -> None:
        if len(self._index.documents) != len(self._taken):
            raise EngineError(
                f"{self.name} was given {len(self._taken)} documents, but the index it shares with others "
                f"has {len(self._index.documents)}; give all of them the same before asking"
            )
        self._index.prepare()


class RoutedText:
    """The measured model's router, over the engine's bank; answers by reading its best documents as text."""

    name = "routed-text"

    def __init__(self, setup: Setup) -> None:
        self._model = ModelSystem(setup.engine)
        self._reader = TextReader(setup.engine)
        self._read = setup.read
        self._documents: dict[str, Document] = {}

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Encode documents into the bank, unless they are in it already."""
        self._model.add(documents, on_progress)
        self._documents.update((document.id, document) for document in documents)

    def retrieve(self, question: Question, limit: int) -> Ranking:
        """Rank as the model does."""
        return self._model.retrieve(question, limit)

    def answer(self, question: Question) -> Reply:
        """Read the best documents.

        Raises: InputError for what the model cannot take.
        """
        began = perf_counter()
        ranking = self._model.retrieve(question, self._read)
        found = [self._documents[id_] for id_ in ranking.documents if id_ in self._documents]
        reply = self._reader.read(question.text, found)
        return replace(reply, seconds=perf_counter() - began)


class FullText:
    """Full attention over all documents as plain text."""

    name = "full"

    def __init__(self, setup: Setup) -> None:
        self._reader = TextReader(setup.engine)
        self._documents: list[Document] = []
        self._passages = 0
        self._tokens = 0

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Keep documents, and count their tokens until they are too many."""
        for document in documents:
            if self._tokens > self._reader.context:
                return
            costs = self._reader.costs(document, first=self._passages + 1)
            self._passages += len(costs)
            self._tokens += sum(costs)
            self._documents.append(document)

    def answer(self, question: Question) -> Reply:
        """Read everything.

        Raises: InputError where it does not fit.
        """
        room = self._reader.room(question.text)
        if self._tokens > room:
            over = "more than " if self._tokens > self._reader.context else ""
            raise InputError(
                f"the corpus does not fit: it takes {over}{min(self._tokens, self._reader.context)} tokens, "
                f"{max(room, 0)} are free beside the question; ask full attention of a shorter corpus"
            )
        return self._reader.read_all(question.text, self._documents)


class Oracle:
    """Reads the documents that hold the answer: what perfect retrieval would give.

    Of a question no document answers it reads nothing, and so declines.
    """

    name = "oracle"

    def __init__(self, setup: Setup) -> None:
        self._reader = TextReader(setup.engine)
        self._documents: dict[str, Document] = {}

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        """Keep documents."""
        self._documents.update((document.id, document) for document in documents)

    def answer(self, question: Question) -> Reply:
        """Read the question's positives, in their order.

        Raises: InputError for a question that does not say which they are, a positive that was not given,
        and for what the model cannot take.
        """
        if not question.located:
            raise InputError(
                f"question {question.id!r} has no positive_ids; the oracle cannot know what to read"
            )
        missing = [id_ for id_ in question.positive_ids if id_ not in self._documents]
        if missing:
            raise InputError(
                f"question {question.id!r} needs document {missing[0]!r}, which the corpus does not hold; "
                "give the corpus of these questions"
            )
        return self._reader.read(question.text, [self._documents[id_] for id_ in question.positive_ids])


_INDEXES: Mapping[str, Callable[[MemoryEngine], Index]] = {
    "bm25": lambda engine: Bm25Index(),
    "minilm": lambda engine: DenseIndex(MiniLm()),
    "rag": lambda engine: DenseIndex(Backbone(engine)),
}


def _index(setup: Setup, name: str) -> Index:
    made: dict[str, Index] = setup.options.get(INDEXES, {})
    if name not in made:
        made[name] = _INDEXES[name](setup.engine)
    return made[name]


BASELINES: Mapping[str, Factory] = MappingProxyType(
    {
        "bm25": lambda setup: IndexSystem("bm25", _index(setup, "bm25"), setup),
        "minilm": lambda setup: IndexSystem("minilm", _index(setup, "minilm"), setup),
        "hybrid": lambda setup: IndexSystem(
            "hybrid", FusedIndex([_index(setup, "bm25"), _index(setup, "minilm")]), setup
        ),
        "rag": lambda setup: IndexSystem("rag", _index(setup, "rag"), setup),
        "routed-text": RoutedText,
        "full": FullText,
        "oracle": Oracle,
    }
)


def make_baselines(names: Sequence[str], setup: Setup) -> list[System]:
    """Make baselines that share what they index, in the order of their names, each once.

    Args:
        names: of `BASELINES`, or "package.module:factory" for one's own.

    Raises: ConfigError for an unknown name, a package that is not installed, a factory that cannot be
    imported or makes no system, or two systems with one name.
    """
    setup = replace(setup, options={INDEXES: {}, **setup.options})
    systems: list[System] = []
    for name in dict.fromkeys(names):
        system = _factory(name)(setup)
        if not isinstance(system, Retriever | Answerer) or not hasattr(system, "add"):
            raise ConfigError(f"{name} makes no system; give it `name`, `add`, and `retrieve` or `answer`")
        if not isinstance(getattr(system, "name", None), str):
            raise ConfigError(f"{name} makes a system without a name; give it `name`")
        if system.name in {OWN, *(each.name for each in systems)}:
            raise ConfigError(f"{name} makes a second system {system.name!r}; give it another name")
        systems.append(system)
    return systems


def _factory(name: str) -> Factory:
    if name in BASELINES:
        return BASELINES[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(
            f"unknown baseline {name!r}; known: {', '.join(BASELINES)}, or your own as package.module:factory"
        )
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(
            f"baseline {name!r}: cannot import {module!r} ({error}); put its folder on PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"baseline {name!r}: {module!r} has no {attribute!r}; name its factory") from error
    if not callable(factory):
        raise ConfigError(f"baseline {name!r} is no function; name one that takes a Setup and makes a system")
    made: Factory = factory
    return made
