"""Real questions over real passages, cut to windows small enough for a small model."""

from pathlib import Path
from random import Random
from typing import Any

from memsparse.errors import DocumentError
from memsparse.json_lines import read_rows
from memsparse.training.world import Question
from memsparse.types import Document


class ReadingSet:
    """Passages with extractive questions, sampled as pools of windows.

    Corpus and queries are JSON Lines, plain or gzipped: {"id", "title", "text"} and
    {"id", "question", "answers", "positive_ids"}. Only questions with one passage that holds an answer
    verbatim are used.

    Raises: DocumentError for a file that cannot be read, a row that lacks a field, or files that do not
    belong together.
    """

    def __init__(self, corpus: Path, queries: Path, *, window_words: int) -> None:
        self.window_words = window_words
        self.passages = {row["id"]: row for _, row in read_rows(corpus, fields=("id", "text"))}
        questions = read_rows(queries, fields=("question",))
        self.questions = [row for _, row in questions if self._answerable(row)]
        if not self.questions:
            raise DocumentError(
                f"{queries}: no question has its answer in one passage of {corpus}; check the pair"
            )
        self._by_title: dict[str, list[str]] = {}
        for passage in self.passages.values():
            self._by_title.setdefault(passage.get("title", ""), []).append(passage["id"])
        self._all = list(self.passages)

    def _answerable(self, row: dict[str, Any]) -> bool:
        positives = row.get("positive_ids") or []
        if len(positives) != 1 or positives[0] not in self.passages:
            return False
        return bool(self._stated(row))

    def _stated(self, row: dict[str, Any]) -> list[str]:
        """The answers that stand in the question's passage."""
        text = self.passages[row["positive_ids"][0]]["text"]
        answers = (answer.strip() for answer in row.get("answers") or [])
        return [answer for answer in answers if answer and answer in text]

    def sample(self, rng: Random, documents: int, questions: int) -> tuple[list[Document], list[Question]]:
        """Draw a pool: the questions' passages, same-title passages as hard negatives, the rest at random.

        Questions about the same passage are drawn once, so there may be fewer of both than asked for.
        """
        asked = rng.sample(self.questions, min(questions, len(self.questions)))
        pool: dict[str, Document] = {}
        drawn: list[Question] = []
        for row in asked:
            source = self.passages[row["positive_ids"][0]]
            if source["id"] in pool or len(pool) == documents:
                continue
            answer = self._stated(row)[0]
            pool[source["id"]] = self._window(source, rng, source["text"].index(answer), len(answer))
            drawn.append(
                Question(
                    text=row["question"],
                    answers=(answer,),
                    chain=(source["id"],),
                    steps=(answer,),
                    kind="one_hop",
                )
            )
        near = []
        for title in sorted({self.passages[question.chain[0]].get("title", "") for question in drawn}):
            alike = self._by_title[title]
            near += rng.sample(alike, min(2, len(alike)))
        for id_ in [*near, *(rng.choice(self._all) for _ in range(documents))]:
            if len(pool) >= documents:
                break
            if id_ not in pool:
                passage = self.passages[id_]
                pool[id_] = self._window(passage, rng, rng.randrange(len(passage["text"]) + 1), 0)
        return list(pool.values()), drawn

    def _window(self, passage: dict[str, Any], rng: Random, start: int, length: int) -> Document:
        """A run of whole words that holds characters start..start+length, at a random place inside it."""
        text = passage["text"]
        inside = text[start : start + length]
        before, after = text[:start].split(" "), text[start + length :].split(" ")
        spare = max(self.window_words - len(inside.split()), 0)
        most = min(spare, len(before))
        left = rng.randint(min(max(0, spare - len(after)), most), most)
        window = " ".join(before[len(before) - left :]) + inside + " ".join(after[: max(spare - left, 1)])
        return Document(id=passage["id"], title=passage.get("title", ""), text=window.strip())
