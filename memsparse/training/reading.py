"""Real questions over real passages, cut to windows small enough for a small model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from memsparse.errors import DocumentError
from memsparse.json_lines import read_rows
from memsparse.training.chains import Asked, understand
from memsparse.training.selfmade import Quizzer
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


class ReadingSet:
    """Passages sampled as pools of windows, with their questions or with questions made of the text.

    Corpus and queries are JSON Lines, plain, gzipped or Zstandard: {"id", "title", "text"} and {"id",
    "question", "answers", "positive_ids"}. Several positives are read one after the other where what leads
    from one to the next can be told ("sub_questions", or titles named), else in any order. Questions marked
    with another "split" than "train" are left out. Without queries, questions are made of the text.

    Args:
        corpus, queries: the files.
        window_words: words of a window, or the fewest and the most.

    Raises: DocumentError for a file that cannot be read, a row that lacks a field, or files that do not
    belong together.
    """

    def __init__(self, corpus: Path, queries: Path | None, *, window_words: int | tuple[int, int]) -> None:
        self.fewest, self.most = (
            (window_words, window_words) if isinstance(window_words, int) else window_words
        )
        self.passages = {row["id"]: row for _, row in read_rows(corpus, fields=("id", "text"))}
        if not self.passages:
            raise DocumentError(f"{corpus}: no passage; give a corpus with at least one")
        self._all = list(self.passages)
        self.questions: list[Asked] = []
        self.quizzer: Quizzer | None = None
        if queries is None:
            self.quizzer = Quizzer(str(row["text"]) for row in self.passages.values())
        else:
            rows = (row for _, row in read_rows(queries, fields=("question",)))
            self.questions = [each for row in rows if (each := understand(row, self.passages)) is not None]
            if not self.questions:
                raise DocumentError(
                    f"{queries}: no question has its answer in one passage of {corpus}; check the pair"
                )
        self._by_title: dict[str, list[str]] = {}
        for passage in self.passages.values():
            self._by_title.setdefault(passage.get("title", ""), []).append(passage["id"])
        self._about: dict[str, list[Asked]] = {}
        for each in self.questions:
            if len(each.chain) == 1:
                self._about.setdefault(each.chain[0], []).append(each)

    def sample(self, rng: Random, documents: int, questions: int) -> tuple[list[Document], list[Question]]:
        """Draw a pool: the questions' passages, same-title passages as hard negatives, the rest at random.

        There may be fewer of both than asked for. Some questions are "absent": no document answers them.
        """
        if self.quizzer is not None:
            return self._selfmade(self.quizzer, rng, documents, questions)
        pool: dict[str, Document] = {}
        drawn: list[Question] = []
        missing: list[Asked] = []
        room = max(1, round(documents * (1 - NEGATIVES)))
        for each in rng.sample(self.questions, min(questions, len(self.questions))):
            if any(id_ in pool for id_ in each.chain):
                continue
            if len(each.chain) == 1 and each.answer and rng.random() < ABSENT:
                missing.append(each)
            elif len(pool) + len(each.chain) <= max(room, 0 if pool else min(documents, len(each.chain))):
                self._take(each, rng, pool)
                drawn.append(_question(each))
        self._ask_more(rng, pool, drawn, questions)
        left_out = {each.chain[0] for each in missing} - set(pool)
        self._fill(rng, pool, drawn, missing, left_out, documents)
        for each in missing:
            if each.chain[0] in left_out and drawn:
                drawn += self._absent(each, pool)
        if not drawn:  # every question drawn was to be absent, or asks for more than the pool may hold
            return self._single(rng, documents)
        rng.shuffle(drawn)
        # A question of several documents has several calls to be learnt.
        drawn += [question for question in drawn if len(question.chain) > 1]
        return list(pool.values()), drawn[:questions]

    def prose(self, rng: Random, words: int) -> Document:
        """Draw a window of about so many words."""
        return self._window(self.passages[rng.choice(self._all)], rng, None, words)

    def _single(self, rng: Random, documents: int) -> tuple[list[Document], list[Question]]:
        fitting = [each for each in self.questions if len(each.chain) <= documents] or self.questions
        pool: dict[str, Document] = {}
        each = rng.choice(fitting)
        self._take(each, rng, pool)
        self._fill(rng, pool, [_question(each)], [], set(), documents)
        return list(pool.values()), [_question(each)]

    def _take(self, each: Asked, rng: Random, pool: dict[str, Document]) -> None:
        for id_, span in zip(each.chain, each.spans, strict=True):
            pool[id_] = self._window(self.passages[id_], rng, span)

    def _ask_more(
        self, rng: Random, pool: dict[str, Document], drawn: list[Question], questions: int
    ) -> None:
        """Further questions about windows that happen to hold their answers."""
        asked = {question.text for question in drawn}
        for id_ in list(pool):
            for each in self._about.get(id_, ()):
                if len(drawn) >= questions:
                    return
                if each.text not in asked and each.answer and each.answer in pool[id_].text:
                    asked.add(each.text)
                    drawn.append(_question(each))

    def _fill(
        self,
        rng: Random,
        pool: dict[str, Document],
        drawn: Sequence[Question],
        missing: Sequence[Asked],
        left_out: set[str],
        documents: int,
    ) -> None:
        """Add same-title passages, then any, until the pool is full."""
        near: list[str] = []
        wanted = [*(each.chain[0] for each in missing), *(question.chain[0] for question in drawn)]
        for title in dict.fromkeys(self.passages[id_].get("title", "") for id_ in wanted):
            alike = self._by_title[title]
            near += rng.sample(alike, min(2, len(alike)))
        rng.shuffle(near)
        for id_ in [*near, *(rng.choice(self._all) for _ in range(documents))]:
            if len(pool) >= documents:
                break
            if id_ not in pool and id_ not in left_out:
                pool[id_] = self._window(self.passages[id_], rng, None)

    def _absent(self, each: Asked, pool: dict[str, Document]) -> Iterable[Question]:
        """The question of a passage left out, unless a passage of its title happens to hold the answer."""
        alike = [id_ for id_ in self._by_title[self.passages[each.chain[0]].get("title", "")] if id_ in pool]
        if any(each.answer.lower() in pool[id_].text.lower() for id_ in alike):
            return
        about = alike[0] if alike else ""
        yield Question(text=each.text, answers=(), chain=(), steps=(), kind="absent", about=about)

    def _selfmade(
        self, quizzer: Quizzer, rng: Random, documents: int, questions: int
    ) -> tuple[list[Document], list[Question]]:
        ids = rng.sample(self._all, min(documents, len(self._all)))
        pool = [self._window(self.passages[id_], rng, None) for id_ in ids]
        drawn: list[Question] = []
        for index in range(3 * questions):
            if len(drawn) == questions:
                break
            question = quizzer.ask(rng, pool[index % len(pool)])
            if question is not None:
                drawn.append(question)
        return pool, drawn

    def _window(
        self, passage: dict[str, Any], rng: Random, span: tuple[int, int] | None, words: int = 0
    ) -> Document:
        """A run of whole words that holds a span (start and length), at a random place inside it.

        Where what matters is unknown, (0, 0), the run is the beginning; without a span it is anywhere.
        """
        text = passage["text"]
        start, length = (rng.randrange(len(text) + 1), 0) if span is None else span
        inside = text[start : start + length]
        before, after = text[:start].split(" "), text[start + length :].split(" ")
        words = words or rng.randint(self.fewest, self.most)
        spare = max(words - len(inside.split()), 0)
        most = min(spare, len(before))
        left = rng.randint(min(max(0, spare - len(after)), most), most)
        window = " ".join(before[len(before) - left :]) + inside + " ".join(after[: max(spare - left, 1)])
        return Document(id=passage["id"], title=passage.get("title", ""), text=window.strip())


class ReadingMix:
    """Several sets, one of which is drawn for each pool, by weight."""

    def __init__(self, sets: Sequence[Reading], weights: Sequence[float]) -> None:
        self.sets, self.weights = tuple(sets), tuple(weights)

    def sample(self, rng: Random, documents: int, questions: int) -> tuple[list[Document], list[Question]]:
        """Draw a pool of one set."""
        return self._drawn(rng).sample(rng, documents, questions)

    def prose(self, rng: Random, words: int) -> Document:
        """Draw a window of one set."""
        return self._drawn(rng).prose(rng, words)

    def _drawn(self, rng: Random) -> Reading:
        return rng.choices(self.sets, weights=self.weights)[0]


def _question(each: Asked) -> Question:
    return Question(
        text=each.text,
        answers=(each.answer,) if each.answer else (),
        chain=each.chain,
        steps=(each.answer,) if len(each.chain) == 1 and each.answer else (),
        kind=each.kind,
        unordered=each.unordered,
    )
