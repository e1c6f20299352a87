"""Documents read as plain text by the measured model: the one reader of every baseline that answers."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from memsparse.engine.encoder import Encoder
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.request import NOTHING_READ
from memsparse.errors import InputError
from memsparse.evaluation.model_system import reply_of
from memsparse.evaluation.systems import Reply
from memsparse.text import Turn
from memsparse.types import Document, Passage


class TextReader:
    """`MemoryEngine.read`, given what fits into the model's context."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self._prompts = engine.model.prompts
        self._encoder = Encoder(engine.model, max_document_tokens=engine.config.max_document_tokens)

    @property
    def context(self) -> int:
        """Tokens the model takes, answer included."""
        return self._engine.model.config.max_position_embeddings

    def room(self, question: str) -> int:
        """Tokens of documents that fit beside a question and its answer, as `costs` counts them."""
        prompts, config = self._prompts, self._engine.model.config
        response = [*prompts.end_of_retrieve_ids, *prompts.restate(question)]
        asked, _ = prompts.followup(question, [Turn(emitted=prompts.citation([]), documents=[])], response)
        before = len(prompts.head()) + config.top_k_documents
        return self.context - before - len(asked) - self._engine.config.max_new_tokens

    def costs(self, document: Document, *, first: int) -> list[int]:
        """Tokens each passage of a document takes in the prompt, numbered from `first`."""
        passages = enumerate(self._encoder.split(document), start=first)
        return [self._cost(passage, number) for number, passage in passages]

    def fitting(self, question: str, documents: Sequence[Document]) -> list[Document]:
        """The documents, best first, without the worst ones where not all fit.

        Where not even the best one fits, its beginning.

        Raises: InputError where not even a first part of it does.
        """
        room = self.room(question)
        chosen: list[Document] = []
        number = 1
        for document in documents:
            kept = []
            passages = self._encoder.split(document)
            for passage in passages:
                room -= self._cost(passage, number)
                if room < 0:
                    break
                kept.append(passage)
                number += 1
            if len(kept) == len(passages):
                chosen.append(document)
                continue
            if not chosen and not kept:
                raise InputError(
                    f"not even the beginning of document {document.id!r} fits beside the question; this "
                    f"model takes {self.context} tokens, use one with a longer context"
                )
            return chosen or [_beginning(document, kept[-1].end)]
        return chosen

    def read(self, question: str, documents: Sequence[Document]) -> Reply:
        """Answer from documents, best first; what does not fit is left out as `fitting` says.

        Without documents nothing is run, and the answer is that there is none, as the engine's own would be.

        Raises: InputError as `fitting`, and for an overlong question.
        """
        return self.read_all(question, self.fitting(question, documents) if documents else [])

    def read_all(self, question: str, documents: Sequence[Document]) -> Reply:
        """Answer from documents that fit.

        Raises: InputError where they do not.
        """
        began = perf_counter()
        if not documents:
            return Reply(text=NOTHING_READ, found=False, cited=(), tokens=0, seconds=perf_counter() - began)
        answer = self._engine.read(question, documents)
        seconds = perf_counter() - began
        holders = [each.id for each in documents for _ in self._encoder.split(each)]
        return replace(reply_of(answer, dict(enumerate(holders, start=1))), seconds=seconds)

    def _cost(self, passage: Passage, number: int) -> int:
        """Tokens of a passage and of the number that asks for it."""
        text = self._prompts.passages({number: self._encoder.body(passage)})
        return len(text) + len(self._prompts.citation([number]))


def _beginning(document: Document, end: int) -> Document:
    return Document(
        id=document.id, title=document.title, text=document.text[:end], namespace=document.namespace
    )
