"""A system without a model: it ranks by shared words and quotes the first document."""

from collections.abc import Sequence

from memsparse.errors import InputError
from memsparse.evaluation.questions import Question
from memsparse.evaluation.systems import LayerRanking, OnProgress, Ranking, Reply
from memsparse.types import Document


class WordSystem:
    """Counts what it is asked; fails on the questions it is told to."""

    def __init__(
        self, name: str = "words", *, fails: Sequence[str] = (), stops_after: int | None = None
    ) -> None:
        self.name = name
        self.documents: list[Document] = []
        self.asked: list[str] = []
        self._fails = fails
        self._stops_after = stops_after

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        self.documents += documents

    def retrieve(self, question: Question, limit: int) -> Ranking:
        self._ask(question)
        words = set(question.text.lower().strip("?").split())
        scored = [
            (len(words & set(document.text.lower().strip(".").split())), -index, document.id)
            for index, document in enumerate(self.documents)
        ]
        best = sorted(scored, reverse=True)[:limit]
        documents, scores = tuple(id_ for *_, id_ in best), tuple(float(score) for score, *_ in best)
        layer = LayerRanking(layer=3, documents=documents[::-1], scores=scores[::-1], chunks=(0,))
        return Ranking(documents=documents, scores=scores, seconds=0.5, layers=(layer,))

    def answer(self, question: Question) -> Reply:
        self._ask(question)
        found = bool(self.documents) and "nothing" not in question.text
        first = self.documents[0]
        return Reply(
            text=first.text if found else "No answer found.",
            found=found,
            cited=(first.id,) if found else (),
            tokens=10,
            seconds=0.25,
            rounds=({"numbers": [0], "text": "", "seconds": 0.1},),
        )

    def _ask(self, question: Question) -> None:
        if question.id in self._fails:
            raise InputError(f"{question.id} does not fit")
        if self._stops_after is not None and len(self.asked) >= self._stops_after:
            raise KeyboardInterrupt
        self.asked.append(question.id)
