from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import ModelRunner, Session
from memsparse.engine.request import NOT_FOUND, NOTHING_READ, Request
from memsparse.model.cache import MemSparseCache
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


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model()


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
    seen: list[Prompt] = field(default_factory=list)
    ran: list[list[int]] = field(default_factory=list)

    def prefill(self, prompt: Prompt, reader: Any) -> Session:
        call = len(self.seen)
        self.seen.append(prompt)
        self._tokens = iter(self.prompts.encode_control(self.scripts[call]))
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
            cache=MemSparseCache(),
            logits=torch.zeros(self.vocabulary),
            routing={2: kv, 3: kv},
            position=0,
            route_seconds=0.25,
        )
        self._predict(session)
        return session

    def append(self, session: Session, ids: Sequence[int]) -> None:
        self.ran.append(list(ids))
        self._predict(session)

    def _predict(self, session: Session) -> None:
        session.logits = torch.zeros(self.vocabulary)
        session.logits[next(self._tokens, self.prompts.tokenizer.control_tokens[STOP])] = 9.0


def run(
    loaded: LoadedModel,
    scripts: Sequence[str],
    scores: Sequence[Sequence[float]],
    *,
    model: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Answer, list[str], ScriptedRunner]:
    config = tiny_model(**model).config if model else loaded.config
    runner = ScriptedRunner(loaded.prompts, config.vocab_size, scripts, scores)

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
        cast(ModelRunner, runner),
        loaded.prompts,
        config,
        FakeReader(torch.tensor(NUMBERS)),
        "who?",
        EngineConfig(**settings),
        passages=passages,
        body=lambda passage: passage.text,
    )
    *pieces, answer = list(cast(Iterator[str | Answer], request.run()))
    assert isinstance(answer, Answer)
    assert "".join(map(str, pieces)) == answer.text
    return answer, [str(piece) for piece in pieces], runner


def answering(text: str) -> str:
    return f"{END}{LEAD}{text}{STOP}"


def cited(answer: Answer) -> list[int]:
    return [citation.number for citation in answer.citations]


def rounds(answer: Answer) -> list[tuple[int, ...]]:
    return [item.numbers for item in answer.rounds]


FIRST = [0.1, 0.9, 0.2, 0.3, 0.4]
SECOND = [0.8, 0.9, 0.2, 0.3, 0.4]


def test_router_reads_the_best_then_ends_when_the_model_would(loaded: LoadedModel) -> None:
    answer, pieces, runner = run(loaded, ["", answering("rye bread")], [FIRST])
    assert (answer.text, answer.found) == ("rye bread", True)
    assert len(pieces) > 1
    assert rounds(answer) == [(5,), ()]
    assert answer.rounds[0].text == f"[5]{M}"
    assert cited(answer) == [5]
    assert "open the old harbour" in loaded.prompts.decode(runner.seen[1].ids)
    assert answer.usage.route_seconds == 0.5
    assert answer.usage.completion_tokens == len(loaded.prompts.encode_control(f"{LEAD}rye bread{STOP}"))
    assert runner.ran[0][-len(loaded.prompts.restate("who?")) :] == loaded.prompts.restate("who?")


def test_router_does_not_ask_the_model_before_the_first_read(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, [answering("x"), answering("cat")], [FIRST])
    assert rounds(answer) == [(5,), ()]


def test_router_follows_up_and_never_reads_a_document_twice(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, ["", "[", "[", answering("cat")], [FIRST, SECOND, SECOND, SECOND])
    assert rounds(answer) == [(5,), (3,), (21,), ()]
    assert cited(answer) == [5, 3, 21]


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({"margin": 0.0}, (5,)),
        ({"margin": 0.15}, (3, 5)),
        ({"margin": 9.0}, (3, 5)),
        ({"margin": 9.0, "max_read": 4}, (3, 5, 13, 21)),
        ({"margin": 9.0, "max_read": 99}, NUMBERS),
    ],
)
def test_router_margin_and_most_documents(
    loaded: LoadedModel, settings: dict[str, float], read: tuple[int, ...]
) -> None:
    answer, _, _ = run(loaded, ["", answering("cat")], [SECOND], **settings)
    assert rounds(answer)[0] == read


def test_router_ties_go_to_the_lower_number(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, ["", answering("cat")], [[0.5] * 5], max_read=1)
    assert rounds(answer)[0] == (3,)


@pytest.mark.parametrize("mode", ["router", "generate"])
def test_rounds_are_capped(loaded: LoadedModel, mode: Any) -> None:
    scripts = [f"[5]{M}", f"[21]{M}", f"{LEAD}cat{STOP}"]
    answer, _, runner = run(loaded, scripts, [FIRST], max_rounds=2, id_decoding=mode)
    assert rounds(answer) == [(5,), (21,), ()]
    assert len(runner.seen) == 3
    assert answer.text == "cat"


def test_no_rounds_at_all(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, [f"{LEAD}cat{STOP}"], [FIRST], max_rounds=0)
    assert (answer.text, cited(answer), rounds(answer)) == ("cat", [], [()])


def test_router_ends_when_everything_is_read(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, ["", f"[{LEAD}cat{STOP}"], [FIRST], margin=9.0, max_read=9)
    assert rounds(answer) == [NUMBERS, ()]


def test_generate_reads_what_the_model_writes(loaded: LoadedModel) -> None:
    scripts = [f"[13][5]{M}", answering("cat")]
    answer, _, _ = run(loaded, scripts, [FIRST], id_decoding="generate")
    assert rounds(answer) == [(5, 13), ()]
    assert [item.text for item in answer.rounds] == [f"[13][5]{M}", END]


@pytest.mark.parametrize("invented", ["[3]", "[4]", "[8]", "[999]", "[55]", "words "])
def test_generate_cannot_cite_what_was_not_routed(loaded: LoadedModel, invented: str) -> None:
    scripts = [f"{invented}{M}", answering("cat")] * 4
    answer, _, _ = run(loaded, scripts, [FIRST], id_decoding="generate")
    assert set(cited(answer)) <= {5, 13, 21}
    for item in answer.rounds:
        assert set(item.numbers) <= set(item.routing[0].numbers)


def test_generate_closes_a_list_that_outgrows_its_allowance(loaded: LoadedModel) -> None:
    scripts = [f"[13][21][5]{M}", answering("cat")]
    answer, _, _ = run(loaded, scripts, [FIRST], id_decoding="generate", max_new_tokens=6)
    assert rounds(answer) == [(13, 21), ()]
    assert answer.rounds[0].text == f"[13][21]{M}"


@pytest.mark.parametrize(("beyond", "text"), [(-2, NOT_FOUND), (1, "cat"), (3, "cat cat cat")])
def test_an_answer_ends_at_its_allowance(loaded: LoadedModel, beyond: int, text: str) -> None:
    allowance = len(loaded.prompts.encode_control(LEAD.strip())) + beyond
    answer, _, _ = run(loaded, ["", answering("cat " * 40)], [FIRST], max_new_tokens=allowance)
    assert answer.usage.completion_tokens == allowance
    assert answer.text == text


def test_an_answer_without_its_lead_is_told_at_the_end(loaded: LoadedModel) -> None:
    answer, pieces, _ = run(loaded, ["", f"{END}just a cat{STOP}"], [FIRST])
    assert (answer.text, len(pieces)) == ("just a cat", 1)


def test_a_character_of_several_tokens_is_told_whole(loaded: LoadedModel) -> None:
    answer, pieces, _ = run(loaded, ["", answering("a \u6771\u4eac cat")], [FIRST])
    assert answer.text == "a \u6771\u4eac cat"
    assert not any("\ufffd" in piece for piece in pieces)


def test_no_answer_at_all(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, ["", answering("")], [FIRST])
    assert (answer.text, answer.found, cited(answer)) == (NOT_FOUND, False, [5])
    answer, _, _ = run(loaded, [answering("")], [FIRST], id_decoding="generate")
    assert (answer.text, answer.found, cited(answer)) == (NOTHING_READ, False, [])


@pytest.mark.parametrize("extractive", [True, False])
def test_the_sentence_for_no_answer_counts_as_none(loaded: LoadedModel, extractive: bool) -> None:
    model = {"absent_answer": "The documents do not say", "extractive": extractive}
    scripts = ["", answering("the documents do not  say")]
    answer, pieces, _ = run(loaded, scripts, [FIRST], model=model, read_on=0)
    assert (answer.text, answer.found, pieces) == (NOT_FOUND, False, [NOT_FOUND])
    longer = "the documents do not say so"
    answer, _, _ = run(loaded, ["", answering(longer)], [FIRST], model=model | {"extractive": False})
    assert (answer.text, answer.found) == (longer, True)


def test_extractive_answers_take_the_spelling_of_the_passage(loaded: LoadedModel) -> None:
    answer, pieces, _ = run(loaded, ["", answering("the old harbour")], [FIRST], model={"extractive": True})
    assert (answer.text, answer.found) == ("the OLD harbour", True)
    assert pieces == ["the OLD harbour"]


def test_extractive_answers_that_stand_nowhere_are_not_found(loaded: LoadedModel) -> None:
    scripts = ["", answering("rye bread")]
    answer, _, _ = run(loaded, scripts, [FIRST], model={"extractive": True}, read_on=0)
    assert (answer.text, answer.found, cited(answer)) == (NOT_FOUND, False, [5])


def test_a_model_that_quotes_reads_on_where_it_found_nothing(loaded: LoadedModel) -> None:
    scripts = ["", answering("rye bread"), answering("old harbour")]
    scores = [[0.1, 0.2, 0.9, 0.1, 0.1], [0.1, 0.8, 0.9, 0.7, 0.1]]
    answer, pieces, runner = run(loaded, scripts, scores, model={"extractive": True})
    assert (answer.found, rounds(answer)) == (True, [(8,), (5,), ()])
    assert pieces == [answer.text] == ["OLD harbour"]
    assert len(runner.seen) == 3
    assert [len(item.routing) for item in answer.rounds] == [2, 2, 2]
    for settings in ({"read_on": 0}, {"max_rounds": 1}, {"id_decoding": "generate"}):
        script = ["[8]<|object_ref_end|>", *scripts[1:]] if "id_decoding" in settings else scripts
        assert not run(loaded, script, scores, model={"extractive": True}, **settings)[0].found


def test_what_was_read_beyond_is_not_cited_when_it_did_not_help(loaded: LoadedModel) -> None:
    nowhere = answering("white cheese")
    scores = [[0.1, 0.2, 0.9, 0.1, 0.1], [0.1, 0.8, 0.9, 0.7, 0.1], [0.5, 0.8, 0.9, 0.7, 0.1]]
    answer, _, _ = run(loaded, ["", nowhere, nowhere, nowhere], scores, model={"extractive": True}, read_on=2)
    assert (answer.found, rounds(answer)) == (False, [(8,), (5,), (13,), ()])
    assert cited(answer) == [8]
    once, _, _ = run(loaded, ["", nowhere, nowhere, nowhere], scores, model={"extractive": True})
    assert rounds(once) == [(8,), (5,), ()]


def test_extractive_citations_are_the_holders_and_the_best_of_each_round_before(loaded: LoadedModel) -> None:
    scores = [[0.1, 0.2, 0.8, 0.85, 0.1], [0.7, 0.3, 0.2, 0.9, 0.72], [0.4, 0.9, 0.2, 0.9, 0.8]]
    scripts = ["", "[", "[", answering("old harbour")]
    answer, _, _ = run(loaded, scripts, scores, model={"extractive": True}, margin=0.06)
    assert rounds(answer) == [(8, 13), (3, 21), (5,), ()]
    assert cited(answer) == [13, 21, 5]
    everything, _, _ = run(loaded, scripts, scores, margin=0.06)
    assert cited(everything) == [8, 13, 3, 21, 5]


def test_extractive_citations_leave_out_what_was_read_after_the_answer(loaded: LoadedModel) -> None:
    scores = [FIRST, SECOND]
    answer, _, _ = run(loaded, ["", "[", answering("old harbour")], scores, model={"extractive": True})
    assert rounds(answer) == [(5,), (3,), ()]
    assert cited(answer) == [5]


def test_seconds_and_tokens_add_up(loaded: LoadedModel) -> None:
    answer, _, runner = run(loaded, ["", answering("cat")], [FIRST])
    assert sum(item.seconds for item in answer.rounds) <= answer.usage.seconds
    restated = len(loaded.prompts.restate("who?")) + len(loaded.prompts.end_of_retrieve_ids)
    assert answer.usage.prompt_tokens == sum(len(prompt.ids) for prompt in runner.seen) + restated
