"""Real questions over real passages, cut to windows small enough for a small model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Protocol, Self

from memsparse.errors import ConfigError, DocumentError
from memsparse.training.chains import Asked
from memsparse.training.dataset_rows import DatasetRows
from memsparse.training.passages import Passages
from memsparse.training.questions import Questions
from memsparse.training.row_source import TRAIN, RowSource, Understanding, open_rows
from memsparse.training.selfmade import Quizzer
from memsparse.training.windows import cut_window
from memsparse.training.world import Question
from memsparse.types import Document

ABSENT = 0.1
"""Share of questions whose passage is left out of the pool."""
NEGATIVES = 0.35
"""Share of a pool, at least, that no question asks for."""


class Reading(Protocol):
    """Where pools of real text come from."""

    def sample(self, rng: Random, documents: int, questions: int) -> tuple[list[Document], list[Question]]:
        """Draw a pool and questions about it."""
        ...

    def prose(self, rng: Random, words: int) -> Document:
        """Draw a window of about so many words that nobody asks about."""
        ...

    def without(self, ids: Collection[str]) -> "Reading":
        """The same passages without the questions of these ids."""
        ...

    @property
    def asked(self) -> int:
        """How many questions there are; 0 where they are made of the text."""
        ...

    def alone(self, number: int, rng: Random) -> tuple[str, list[Document], Question]:
        """The id of a question (numbers count from 0), windows of the passages it needs, and itself."""
        ...


class ReadingSet:
    """Passages sampled as pools of windows, with their questions or with questions made of the text.

    Corpus and queries are JSON Lines, plain, gzipped or Zstandard: {"id", "title", "text"} and {"id",
    "question", "answers", "positive_ids"}. Several positives, up to eight, are read one after the other where
    what leads from one to the next can be told ("sub_questions", or titles named), else in any order (see
    `understand`). "negative_ids", as `memsparse.training.mining` adds them, join the pools of their question.
    Questions marked with another "split" are left out. Without queries, questions are made of the text.

    A Hugging Face dataset stands in for the file that is not given: the corpus, the queries, or both, where
    passages stand beside their questions as in SQuAD (see `DatasetRows`).

    A passage may be of any length: a pool holds a window of it, `window_words` long, with what is asked for.
    Passages and questions lie on disk; memory takes 32 bytes of a passage and 41 of a question.

    Args:
        corpus, queries: the files.
        window_words: words of a window, or the fewest and the most.
        dataset, subset, columns: as `DatasetRows` takes them.
        split: of the dataset, and of questions that are marked with one. None: all questions but those marked
            "train"; a dataset's has to be named.
        negatives: mined negatives of a question that may join a pool.
        strict: refuse a question whose passages are not all in the corpus; else such questions are left out,
            and one warning tells how many.

    Raises: DocumentError for a file that cannot be read, a row that lacks a field or holds one of a wrong
    type, an empty passage, an id that comes twice, or files that do not belong together; ConfigError for a
    dataset that cannot be had, or sources that do not go together.
    """

    def __init__(
        self,
        corpus: Path | None,
        queries: Path | None = None,
        *,
        window_words: int | tuple[int, int],
        dataset: str | None = None,
        subset: str | None = None,
        split: str | None = TRAIN,
        columns: Mapping[str, str] | None = None,
        negatives: int = 3,
        strict: bool = False,
    ) -> None:
        self.fewest, self.most = (
            (window_words, window_words) if isinstance(window_words, int) else window_words
        )
        if negatives < 0:
            raise ConfigError(f"negatives is {negatives}; it must be at least 0")
        self.negatives = negatives
        table = None
        if dataset is not None:
            if split is None:
                raise ConfigError(
                    f"dataset {dataset} comes without a split; name the one to read: split = ..."
                )
            table = DatasetRows(dataset, subset=subset, split=split, columns=columns)
        passages, questions, names = open_rows(corpus, queries, table)
        self.passages = Passages(passages())
        if not self.passages:
            raise DocumentError(f"{names[0]}: no passage; give a corpus with at least one")
        self.quizzer: Quizzer | None = None
        if questions is None:
            texts = (self.passages.at(place)["text"] for place in range(len(self.passages)))
            self.quizzer = Quizzer(texts)
            self.questions = Questions(())
            return
        read = Understanding(self.passages, names, split=split, strict=strict)
        self.questions = Questions(read.all(questions()))
        repeated = self.questions.repeated()
        if repeated is not None:
            raise DocumentError(
                f"{names[1]}: the id {repeated.id!r} is that of two questions; give each its own"
            )
        read.report()

    @property
    def asked(self) -> int:
        """How many questions there are; 0 where they are made of the text."""
        return len(self.questions)

    def alone(self, number: int, rng: Random) -> tuple[str, list[Document], Question]:
        """The id of a question (numbers count from 0), windows of the passages it needs, and itself."""
        each = self.questions[number]
        pool: dict[str, Document] = {}
        self._take(each, rng, pool)
        return each.id, list(pool.values()), _question(each)

    def without(self, ids: Collection[str]) -> Self:
        """A set with the same passages, but without the questions of these ids; ids not here are passed over.

        Raises: ConfigError if no question is left.
        """
        fewer = copy(self)
        fewer.questions = self.questions.without(ids)
        if self.questions and not fewer.questions:
            raise ConfigError(f"all {len(self.questions)} questions would be left out; leave out fewer")
        return fewer

    def sample(self, rng: Random, documents: int, questions: int) -> tuple[list[Document], list[Question]]:
        """Draw a pool: the questions' passages, mined and same-title negatives, the rest at random.

        There may be fewer of both than asked for. Some questions are "absent": no document answers them.
        """
        if self.quizzer is not None:
            return self._selfmade(self.quizzer, rng, documents, questions)
        pool: dict[str, Document] = {}
        drawn: list[Asked] = []
        missing: list[Asked] = []
        room = max(1, round(documents * (1 - NEGATIVES)))
        for number in rng.sample(range(self.asked), min(questions, self.asked)):
            each = self.questions[number]
            if any(id_ in pool for id_ in each.chain):
                continue
            if len(each.chain) == 1 and each.answer and rng.random() < ABSENT:
                missing.append(each)
            elif len(pool) + len(each.chain) <= max(room, 0 if pool else min(documents, len(each.chain))):
                self._take(each, rng, pool)
                drawn.append(each)
        self._ask_more(pool, drawn, questions)
        left_out = {each.chain[0] for each in missing} - set(pool)
        self._fill(rng, pool, drawn, missing, left_out, documents)
        if not drawn:  # every question drawn was to be absent, or asks for more than the pool may hold
            return self._single(rng, documents)
        asked = [_question(each) for each in drawn]
        for each in missing:
            if each.chain[0] in left_out:
                asked += self._absent(each, pool)
        rng.shuffle(asked)
        # A question of several documents has several calls to be learnt.
        asked += [question for question in asked if len(question.chain) > 1]
        return list(pool.values()), asked[:questions]

    def prose(self, rng: Random, words: int) -> Document:
        """Draw a window of about so many words."""
        return self._window(rng.choice(range(len(self.passages))), rng, None, words)

    def _single(self, rng: Random, documents: int) -> tuple[list[Document], list[Question]]:
        fitting = self.questions.needing(documents)
        number = int(fitting[rng.randrange(len(fitting))]) if len(fitting) else rng.randrange(self.asked)
        each = self.questions[number]
        pool: dict[str, Document] = {}
        self._take(each, rng, pool)
        self._fill(rng, pool, [each], [], set(), documents)
        return list(pool.values()), [_question(each)]

    def _take(self, each: Asked, rng: Random, pool: dict[str, Document]) -> None:
        for id_, span in zip(each.chain, each.spans, strict=True):
            pool[id_] = self._window(self.passages.place(id_), rng, span)

    def _ask_more(self, pool: dict[str, Document], drawn: list[Asked], questions: int) -> None:
        """Further questions about windows that happen to hold their answers."""
        asked = {each.text for each in drawn}
        for id_ in list(pool):
            for number in self.questions.about(self.passages.place(id_)):
                if len(drawn) >= questions:
                    return
                each = self.questions[number]
                if each.text not in asked and each.answer and each.answer in pool[id_].text:
                    asked.add(each.text)
                    drawn.append(each)

    def _fill(
        self,
        rng: Random,
        pool: dict[str, Document],
        drawn: Sequence[Asked],
        missing: Sequence[Asked],
        left_out: set[str],
        documents: int,
    ) -> None:
        """Add mined negatives, then same-title passages, then any, until the pool is full."""
        mined = self._mined(rng, [*missing, *drawn])
        near: list[int] = []
        wanted = [each.chain[0] for each in (*missing, *drawn)]
        for title in dict.fromkeys(self.passages[id_]["title"] for id_ in wanted):
            alike = self.passages.titled(title)
            near += [int(alike[i]) for i in rng.sample(range(len(alike)), min(2, len(alike)))]
        rng.shuffle(near)
        anywhere = [rng.choice(range(len(self.passages))) for _ in range(documents)]
        for place in chain(map(self.passages.place, mined), near, anywhere):
            if len(pool) >= documents:
                break
            id_ = self.passages.at(place)["id"]
            if id_ not in pool and id_ not in left_out:
                pool[id_] = self._window(place, rng, None)

    def _mined(self, rng: Random, asked: Sequence[Asked]) -> list[str]:
        """Up to `negatives` of each question, the first of every question before the second of any."""
        drawn = [
            rng.sample(each.negatives, min(self.negatives, len(each.negatives)))
            for each in asked
            if each.negatives
        ]
        rounds = zip_longest(*drawn)
        return list(dict.fromkeys(id_ for each in rounds for id_ in each if id_ is not None))

    def _absent(self, each: Asked, pool: dict[str, Document]) -> Iterator[Question]:
        """The question of a passage left out, unless one that is near it happens to hold the answer."""
        title = self.passages[each.chain[0]]["title"]
        alike = [id_ for id_, document in pool.items() if document.title == title]
        alike.sort(key=self.passages.place)
        near = [*alike, *(id_ for id_ in each.negatives if id_ in pool)]
        if any(each.answer.lower() in pool[id_].text.lower() for id_ in near):
            return
        about = near[0] if near else ""
        yield Question(text=each.text, answers=(), chain=(), steps=(), kind="absent", about=about)

    def _selfmade(
        self, quizzer: Quizzer, rng: Random, documents: int, questions: int
    ) -> tuple[list[Document], list[Question]]:
        places = rng.sample(range(len(self.passages)), min(documents, len(self.passages)))
        pool = [self._window(place, rng, None) for place in places]
        drawn: list[Question] = []
        for index in range(3 * questions):
            if len(drawn) == questions:
                break
            question = quizzer.ask(rng, pool[index % len(pool)])
            if question is not None:
                drawn.append(question)
        return pool, drawn or [quizzer.look_up(rng, pool[0])]

    def _window(self, place: int, rng: Random, span: tuple[int, int] | None, words: int = 0) -> Document:
        passage = self.passages.at(place)
        fewest, most = (words, None) if words else (self.fewest, self.most)
        text = cut_window(passage["text"], rng, span, fewest=fewest, most=most)
        return Document(id=passage["id"], title=passage["title"], text=text)


class ReadingMix:
    """Several sets, one of which is drawn for each pool, by weight.

    An id of a question has the place of its set before it, "0/q7", since sets may share ids.
    """

    def __init__(self, sets: Sequence[Reading], weights: Sequence[float]) -> None:
        self.sets, self.weights = tuple(sets), tuple(weights)

    def sample(self, rng: Random, documents: int, questions: int) -> tuple[list[Document], list[Question]]:
        """Draw a pool of one set."""
        return self._drawn(rng).sample(rng, documents, questions)

    def prose(self, rng: Random, words: int) -> Document:
        """Draw a window of one set."""
        return self._drawn(rng).prose(rng, words)

    def without(self, ids: Collection[str]) -> "ReadingMix":
        """The sets without the questions of these ids."""
        own: list[list[str]] = [[] for _ in self.sets]
        for place, _, id_ in (each.partition("/") for each in ids):
            own[int(place)].append(id_)
        return ReadingMix(
            [each.without(left_out) for each, left_out in zip(self.sets, own, strict=True)], self.weights
        )

    @property
    def asked(self) -> int:
        """How many questions the sets have."""
        return sum(each.asked for each in self.sets)

    def alone(self, number: int, rng: Random) -> tuple[str, list[Document], Question]:
        """A question with its passages; numbers go through the sets one after the other."""
        for place, each in enumerate(self.sets):
            if number < each.asked:
                id_, documents, question = each.alone(number, rng)
                return f"{place}/{id_}", documents, question
            number -= each.asked
        raise IndexError(f"there is no question {number} beyond the last")

    def _drawn(self, rng: Random) -> Reading:
        return rng.choices(self.sets, weights=self.weights)[0]


def open_reading(sources: Sequence[RowSource], window: tuple[int, int]) -> Reading | None:
    """Open the sources that have a weight as one; None where there is none.

    Args:
        window: the fewest and the most words of a window.

    Raises: as `ReadingSet`.
    """
    weighed = [source for source in sources if source.weight]
    if not weighed:
        return None
    sets = [
        ReadingSet(
            None if source.corpus is None else Path(source.corpus),
            None if source.queries is None else Path(source.queries),
            window_words=window,
            dataset=source.dataset,
            subset=source.subset,
            split=source.split,
            columns=source.columns,
            negatives=source.negatives,
            strict=source.strict,
        )
        for source in weighed
    ]
    return ReadingMix(sets, [source.weight for source in weighed])


def _question(each: Asked) -> Question:
    return Question(
        text=each.text,
        answers=(each.answer,) if each.answer else (),
        chain=each.chain,
        steps=(each.answer,) if len(each.chain) == 1 and each.answer else (),
        kind=each.kind,
        unordered=each.unordered,
    )
