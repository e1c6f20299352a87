"""A runner that predicts what it is told, and the answer a request makes of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import Prefill
from memsparse.engine.request import Request, Steps
from memsparse.engine.session import Session
from memsparse.model.requests import RequestCache
from memsparse.text import Prompt, PromptBuilder
from memsparse.types import Answer, MemoryKV, Passage
from tests.engine.builders import tiny_model

END = "<End-of-Retrieve>"
M = "<|object_ref_end|>"
STOP = "<|im_end|>"
LEAD = "The answer to the question is: "
NUMBERS = (3, 5, 8, 13, 21)
TEXTS = {
    3: "Maria Lund keeps the keys.",
    5: "The keys open the OLD harbour.",
    8: "The lighthouse is red.",
    13: "Rye bread on Fridays.",
    21: "The harbour froze.",
}


@dataclass
class FakeReader:
    numbers: Tensor

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        raise AssertionError("the scripted runner never reads")


@dataclass
class ScriptedRunner:
    """Predicts the tokens of one script per call; every layer scores the documents as that call says."""

    prompts: PromptBuilder
    vocabulary: int
    scripts: Sequence[str]
    scores: Sequence[Sequence[float]]
    top_k: int = 3
    sure: float = 1 - 1e-9
    """How probable the script's tokens are."""
    seen: list[Prompt] = field(default_factory=list)
    ran: list[list[int]] = field(default_factory=list)
    ranked: list[bool] = field(default_factory=list)
    """Of each call, whether its documents were to be ranked."""

    def prefill(self, prompt: Prompt, reader: Any) -> Session:
        call = len(self.seen)
        self.seen.append(prompt)
        self._tokens = self.prompts.encode_control(self.scripts[call])
        scores = torch.tensor([self.scores[min(call, len(self.scores) - 1)]])
        best, documents = scores.topk(self.top_k)
        empty = torch.zeros(0)
        kv = MemoryKV(
            k=empty,
            v=empty,
            mask=empty,
            documents=documents,
            scores=best,
            document_of_slot=empty,
            all_scores=scores,
        )
        session = Session(
            cache=RequestCache(),
            logits=torch.zeros(self.vocabulary),
            routing={2: kv, 3: kv},
            position=0,
            route_seconds=0.25,
        )
        self._predict(session)
        return session

    def append(self, session: Session, ids: Sequence[int]) -> None:
        self.ran.append(list(ids))
        session.position += 1
        self._predict(session)

    def _predict(self, session: Session) -> None:
        """The script's next token, by how often something was run: one token at a time may be taken back."""
        rare = (1 - self.sure) / (self.vocabulary - 1)
        session.logits = torch.full((self.vocabulary,), math.log(rare))
        rest = [*self._tokens[session.position :], self.prompts.tokenizer.control_tokens[STOP]]
        session.logits[rest[0]] = math.log(self.sure)


def run(
    loaded: LoadedModel,
    scripts: Sequence[str],
    scores: Sequence[Sequence[float]],
    *,
    model: dict[str, Any] | None = None,
    given: Sequence[int] = (),
    runner: Any = None,
    question: str = "who?",
    **settings: Any,
) -> tuple[Answer, list[str], ScriptedRunner]:
    config = tiny_model(**model).config if model else loaded.config
    runner = runner or ScriptedRunner(loaded.prompts, config.vocab_size, scripts, scores)

    def passages(numbers: Sequence[int]) -> dict[int, Passage]:
        return {
            n: Passage(
                number=n,
                document_id=f"d{n}",
                title="",
                text=TEXTS[n],
                namespace="default",
                metadata={},
                start=0,
                end=len(TEXTS[n]),
            )
            for n in numbers
            if n in TEXTS
        }

    request = Request(
        loaded.prompts,
        config,
        FakeReader(torch.tensor(NUMBERS)),
        question,
        EngineConfig(**settings),
        passages=passages,
        body=lambda passage: passage.text,
        given=given,
    )
    pieces: list[str] = []
    answer = finish(request.steps(pieces.append), runner)
    assert "".join(pieces) == answer.text
    return answer, pieces, runner


def finish(steps: Steps, runner: Any) -> Answer:
    """Go through a request's steps alone."""
    need = next(steps)
    while True:
        if isinstance(need, Prefill):
            runner.ranked.append(need.ranks)
            session = runner.prefill(need.prompt, need.reader)
        else:
            session = need.session
            runner.append(session, need.ids)
        try:
            need = steps.send(session)
        except StopIteration as end:
            return cast(Answer, end.value)


def answering(text: str) -> str:
    return f"{END}{LEAD}{text}{STOP}"


def quoting(text: str) -> str:
    """What a model that is made to quote chooses: the answer's lead is written for it."""
    return f"{END} {text}{STOP}"


QUOTES = {"extractive": True, "absent_answer": "The documents do not say"}


def cited(answer: Answer) -> list[int]:
    return [citation.number for citation in answer.citations]


def rounds(answer: Answer) -> list[tuple[int, ...]]:
    return [item.numbers for item in answer.rounds]
