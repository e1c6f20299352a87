from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from memsparse.engine.extractive import find_span
from memsparse.engine.loading import LoadedModel
from memsparse.engine.request import NOT_FOUND, NOTHING_READ
from memsparse.engine.session import Session
from memsparse.errors import EngineError
from memsparse.text import Prompt
from tests.engine.builders import tiny_model
from tests.engine.scripted import (
    END,
    LEAD,
    NUMBERS,
    QUOTES,
    STOP,
    TEXTS,
    M,
    ScriptedRunner,
    answering,
    cited,
    quoting,
    rounds,
    run,
)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model()


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
    assert runner.ranked == [mode == "router"] * 2 + [False]
    assert answer.text == "cat"


@pytest.mark.parametrize(
    ("scores", "overlap", "read"),
    [
        ([0.5, 0.1, 0.6, 0.2, 0.3], 0.0, (8,)),
        ([0.5, 0.1, 0.6, 0.2, 0.3], 0.05, (8,)),
        ([0.5, 0.1, 0.6, 0.2, 0.3], 0.2, (3,)),
        ([0.1, 0.5, 0.6, 0.2, 0.3], 9.0, (5,)),  # 3 holds more of it, but no layer routed it
    ],
)
def test_the_questions_words_count_among_what_was_routed(
    loaded: LoadedModel, scores: list[float], overlap: float, read: tuple[int, ...]
) -> None:
    asked: dict[str, Any] = {"question": "Does Maria Lund have the keys?", "overlap": overlap, "max_read": 1}
    answer, _, _ = run(loaded, ["", answering("x")], [scores], **asked)
    assert rounds(answer)[0] == read


def test_the_questions_words_count_in_the_first_round_alone(loaded: LoadedModel) -> None:
    second = [0.5, 0.9, 0.6, 0.2, 0.3]
    asked: dict[str, Any] = {"question": "Does Maria Lund have the keys?", "overlap": 0.2, "max_read": 1}
    answer, _, _ = run(loaded, ["", "[", answering("x")], [FIRST, second], **asked)
    assert rounds(answer)[:2] == [(5,), (8,)]


@pytest.mark.parametrize(
    ("scores", "settings", "read"),
    [
        ([0.1, 0.1, 0.5, 0.1, 0.5], {"margin": 0.0, "max_read": 1, "question": "The?"}, (8,)),
        ([0.5, 0.6, 0.1, 0.1, 0.1], {"margin": 0.05, "max_read": 9, "question": "keys"}, (5,)),
        ([0.5, 0.6, 0.1, 0.1, 0.1], {"margin": 0.05, "max_read": 9, "question": "Maria"}, (3,)),
        ([0.5, 0.66, 0.1, 0.1, 0.1], {"margin": 0.05, "max_read": 9, "question": "Maria"}, (3, 5)),
    ],
)
def test_ties_and_the_margin_are_of_scores_with_words(
    loaded: LoadedModel, scores: list[float], settings: dict[str, Any], read: tuple[int, ...]
) -> None:
    answer, _, _ = run(loaded, ["", answering("cat")], [scores], overlap=0.2, **settings)
    assert rounds(answer)[0] == read


def test_words_choose_nothing_where_nothing_can_be_chosen(loaded: LoadedModel) -> None:
    answer, _, _ = run(loaded, [f"{LEAD}cat{STOP}"], [[float("-inf")] * 5], overlap=0.2, question="Maria")
    assert rounds(answer) == [()]


def test_an_earlier_rounds_best_counts_words_too(loaded: LoadedModel) -> None:
    asked: dict[str, Any] = {"question": "Maria", "margin": 0.2, "overlap": 0.2, "model": QUOTES}
    first, second = [0.5, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.9]
    scripts = ["", "[", quoting("froze")]
    answer, _, _ = run(loaded, scripts, [first, second], **asked)
    assert rounds(answer)[:2] == [(3, 5), (21,)]
    assert cited(answer) == [3, 21]


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


@pytest.mark.parametrize(
    "settings", [{}, {"extractive": True}, {"extractive": True, "quote_decoding": False}]
)
def test_the_sentence_for_no_answer_counts_as_none(loaded: LoadedModel, settings: dict[str, bool]) -> None:
    extractive, quotes = "extractive" in settings, len(settings) == 1
    model = {"absent_answer": "The documents do not say", "extractive": extractive}
    said = quoting("the documents do not say") if quotes else answering("the documents do not  say")
    answer, pieces, _ = run(
        loaded,
        ["", said],
        [FIRST],
        model=model,
        read_on=0,
        quote_decoding=settings.get("quote_decoding", True),
    )
    assert (answer.text, answer.found, pieces) == (NOT_FOUND, False, [NOT_FOUND])
    assert cited(answer) == [5]


@pytest.mark.parametrize(
    ("sure", "refuse_above"), [(0.99, 0.3), (0.9, 0.3), (0.9, 0.01), (0.9, 0.0), (0.99, 1.0)]
)
def test_refusing_takes_a_sentence_that_is_probable_as_a_whole(
    loaded: LoadedModel, sure: float, refuse_above: float
) -> None:
    sentence = loaded.prompts.encode_text(" the documents do not say")
    likely = [sure**length > refuse_above for length in range(1, len(sentence) + 1)]
    scripts = ["", quoting("the documents do not say")]
    runner = ScriptedRunner(loaded.prompts, loaded.config.vocab_size, scripts, [FIRST], sure=sure)
    settings: dict[str, Any] = {"read_on": 0, "quote_passes": 0, "refuse_above": refuse_above}
    answer, _, _ = run(loaded, [], [], model=QUOTES, runner=runner, **settings)
    assert answer.found != likely[-1]
    tried = sentence[: min(sum(likely), len(sentence) - 1)]
    assert runner.ran[1 : 1 + len(tried)] == [[id_] for id_ in tried]
    if answer.found:
        assert find_span(answer.text, TEXTS[5])
        assert answer.usage.completion_tokens == len(runner.ran) - len(tried)
    else:
        assert answer.usage.completion_tokens == len(sentence)
        assert len(runner.ran) == len(sentence)


def test_an_answer_that_only_begins_like_the_sentence_for_none_is_one(loaded: LoadedModel) -> None:
    longer = "the documents do not say so"
    model = {"absent_answer": "The documents do not say", "extractive": False}
    answer, _, _ = run(loaded, ["", answering(longer)], [FIRST], model=model)
    assert (answer.text, answer.found) == (longer, True)


@pytest.mark.parametrize(("said", "decoding"), [(answering, False), (quoting, True)])
def test_extractive_answers_take_the_spelling_of_the_passage(
    loaded: LoadedModel, said: Callable[[str], str], decoding: bool
) -> None:
    scripts = ["", said("the old harbour")]
    answer, pieces, _ = run(loaded, scripts, [FIRST], model=QUOTES, quote_decoding=decoding)
    assert (answer.text, answer.found) == ("the OLD harbour", True)
    assert pieces == ["the OLD harbour"]


def test_free_answers_that_stand_nowhere_are_not_found(loaded: LoadedModel) -> None:
    scripts = ["", answering("rye bread")]
    answer, _, _ = run(loaded, scripts, [FIRST], model=QUOTES, read_on=0, quote_decoding=False)
    assert (answer.text, answer.found, cited(answer)) == (NOT_FOUND, False, [5])


@pytest.mark.parametrize("wanted", ["11111", "rye bread", "eys open", "har", LEAD, "[13]"])
@pytest.mark.parametrize("mode", ["router", "generate"])
def test_a_model_that_quotes_can_write_nothing_else(loaded: LoadedModel, wanted: str, mode: Any) -> None:
    scripts = ["" if mode == "router" else f"[5]{M}", quoting(wanted)]
    answer, _, _ = run(loaded, scripts, [FIRST], model=QUOTES, id_decoding=mode, read_on=0)
    assert not answer.found or find_span(answer.text, TEXTS[5])
    assert answer.text != wanted


def test_the_lead_is_written_for_a_model_that_quotes(loaded: LoadedModel) -> None:
    lead = loaded.prompts.encode_control(LEAD.rstrip())
    answer, _, runner = run(loaded, ["", quoting("old harbour")], [FIRST], model=QUOTES)
    assert runner.ran[0] == [*loaded.prompts.end_of_retrieve_ids, *loaded.prompts.restate("who?"), *lead]
    written = len(loaded.prompts.encode_control(f" old harbour{STOP}"))
    assert answer.usage.completion_tokens == written
    assert answer.usage.prompt_tokens == sum(len(prompt.ids) for prompt in runner.seen) + len(runner.ran[0])
    last, _, runner = run(loaded, ["", " old harbour"], [FIRST], model=QUOTES, max_rounds=1)
    assert runner.seen[-1].ids[-len(lead) :] == lead
    assert last.text == answer.text == "OLD harbour"


@pytest.mark.parametrize("passes", [0, 1, 99])
def test_a_quote_cut_short_ends_where_it_last_was_whole(loaded: LoadedModel, passes: int) -> None:
    ids = loaded.prompts.encode_text(" the old harbour")
    told = []
    for cut in range(1, len(ids) + 1):
        scripts = ["", quoting("the old harbour")]
        settings = {"max_new_tokens": cut, "quote_passes": passes}
        answer, _, _ = run(loaded, scripts, [FIRST], model=QUOTES, **settings)
        assert answer.usage.completion_tokens == cut
        told.append(answer.text)
    assert len(told) > 3
    assert list(dict.fromkeys(told)) == ["The", "the OLD", "the OLD harbour"]


def test_nothing_to_quote_leaves_the_sentence_for_none(loaded: LoadedModel) -> None:
    for model in (QUOTES, {"extractive": True}):
        answer, _, _ = run(loaded, ["cat"], [FIRST], model=model, max_rounds=0)
        assert (answer.text, answer.found, cited(answer)) == (NOTHING_READ, False, [])


def test_what_is_given_is_quoted(loaded: LoadedModel) -> None:
    answer, _, runner = run(
        loaded, [" rye bread"], [FIRST], model=QUOTES, given=[13, 3], max_rounds=1, max_new_tokens=20
    )
    assert (answer.text, cited(answer), len(runner.seen)) == ("Rye bread", [13], 1)


@dataclass
class RandomRunner(ScriptedRunner):
    """Predicts anything at all."""

    seed: int = 0

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    def _predict(self, session: Session) -> None:
        session.logits = torch.randn(self.vocabulary, generator=self._generator) * 4


@pytest.mark.parametrize(("temperature", "passes"), [(0.0, 0), (0.0, 5), (0.0, 99), (1.0, 99)])
@pytest.mark.parametrize("tokens", [3, 64])
def test_whatever_a_model_predicts_it_quotes(
    loaded: LoadedModel, temperature: float, passes: int, tokens: int
) -> None:
    found = 0
    for seed in range(12):
        size = loaded.config.vocab_size
        runner = RandomRunner(loaded.prompts, size, [""] * 9, [FIRST, SECOND], seed=seed)
        answer, _, _ = run(
            loaded,
            [],
            [],
            model=QUOTES,
            runner=runner,
            temperature=temperature,
            quote_passes=passes,
            max_new_tokens=tokens,
            seed=seed,
        )
        found += answer.found
        texts = [citation.text for citation in answer.citations]
        assert any(answer.text in text for text in texts) if answer.found else answer.text == NOT_FOUND
    assert found > (6 if tokens == 64 else 0)


@dataclass
class NoNumbers(ScriptedRunner):
    """Predicts nothing once something was run."""

    def append(self, session: Session, ids: Sequence[int]) -> None:
        super().append(session, ids)
        session.logits = torch.full_like(session.logits, float("nan"))


@pytest.mark.parametrize("model", [QUOTES, {"extractive": True}])
def test_a_model_that_computes_no_numbers_neither_refuses_nor_quotes(
    loaded: LoadedModel, model: dict[str, Any]
) -> None:
    runner = NoNumbers(loaded.prompts, loaded.config.vocab_size, ["", quoting("old harbour")], [FIRST])
    with pytest.raises(EngineError, match="NaN"):
        run(loaded, [], [], model=model, runner=runner)


@pytest.mark.parametrize(("said", "decoding"), [(answering, False), (quoting, True)])
def test_a_model_that_quotes_reads_on_where_it_found_nothing(
    loaded: LoadedModel, said: Callable[[str], str], decoding: bool
) -> None:
    scripts = ["", said("the documents do not say"), said("old harbour")]
    scores = [[0.1, 0.2, 0.9, 0.1, 0.1], [0.1, 0.8, 0.9, 0.7, 0.1]]
    answer, pieces, runner = run(loaded, scripts, scores, model=QUOTES, quote_decoding=decoding)
    assert (answer.found, rounds(answer)) == (True, [(8,), (5,), ()])
    assert pieces == [answer.text] == ["OLD harbour"]
    assert len(runner.seen) == 3
    assert [len(item.routing) for item in answer.rounds] == [2, 2, 2]
    for settings in ({"read_on": 0}, {"max_rounds": 1}, {"id_decoding": "generate"}):
        script = ["[8]<|object_ref_end|>", *scripts[1:]] if "id_decoding" in settings else scripts
        if "max_rounds" in settings:
            script = ["", script[1].removeprefix(END)]
        assert not run(loaded, script, scores, model=QUOTES, quote_decoding=decoding, **settings)[0].found


@pytest.mark.parametrize(("said", "decoding"), [(answering, False), (quoting, True)])
def test_what_was_read_beyond_is_not_cited_when_it_did_not_help(
    loaded: LoadedModel, said: Callable[[str], str], decoding: bool
) -> None:
    scripts = ["", *[said("the documents do not say")] * 3]
    scores = [[0.1, 0.2, 0.9, 0.1, 0.1], [0.1, 0.8, 0.9, 0.7, 0.1], [0.5, 0.8, 0.9, 0.7, 0.1]]
    answer, _, _ = run(loaded, scripts, scores, model=QUOTES, read_on=2, quote_decoding=decoding)
    assert (answer.found, rounds(answer)) == (False, [(8,), (5,), (13,), ()])
    assert cited(answer) == [8]
    once, _, _ = run(loaded, scripts, scores, model=QUOTES, quote_decoding=decoding)
    assert rounds(once) == [(8,), (5,), ()]


def test_extractive_citations_are_the_holders_and_the_best_of_each_round_before(loaded: LoadedModel) -> None:
    scores = [[0.1, 0.2, 0.8, 0.85, 0.1], [0.7, 0.3, 0.2, 0.9, 0.72], [0.4, 0.9, 0.2, 0.9, 0.8]]
    scripts = ["", "[", "[", quoting("old harbour")]
    answer, _, _ = run(loaded, scripts, scores, model=QUOTES, margin=0.06)
    assert rounds(answer) == [(8, 13), (3, 21), (5,), ()]
    assert cited(answer) == [13, 21, 5]
    everything, _, _ = run(loaded, [*scripts[:3], answering("old harbour")], scores, margin=0.06)
    assert cited(everything) == [8, 13, 3, 21, 5]


def test_extractive_citations_leave_out_what_was_read_after_the_answer(loaded: LoadedModel) -> None:
    scores = [FIRST, SECOND]
    answer, _, _ = run(loaded, ["", "[", quoting("old harbour")], scores, model=QUOTES)
    assert rounds(answer) == [(5,), (3,), ()]
    assert cited(answer) == [5]


def test_seconds_and_tokens_add_up(loaded: LoadedModel) -> None:
    answer, _, runner = run(loaded, ["", answering("cat")], [FIRST])
    parts = sum(item.seconds for item in answer.rounds) + answer.usage.answer_seconds
    assert parts == pytest.approx(answer.usage.seconds)
    restated = len(loaded.prompts.restate("who?")) + len(loaded.prompts.end_of_retrieve_ids)
    assert answer.usage.prompt_tokens == sum(len(prompt.ids) for prompt in runner.seen) + restated


def test_the_time_of_the_answer_is_not_the_last_rounds(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class SlowRunner(ScriptedRunner):
        """A call takes 100 s, every further step 1 s."""

        def prefill(self, prompt: Prompt, reader: Any) -> Session:
            clock[0] += 100
            return super().prefill(prompt, reader)

        def append(self, session: Session, ids: Sequence[int]) -> None:
            clock[0] += 1
            super().append(session, ids)

    monkeypatch.setattr("memsparse.engine.request.perf_counter", lambda: clock[0])

    def slow(*scripts: str, **settings: Any) -> tuple[list[float], float]:
        model = settings.pop("model", None)
        vocabulary = (tiny_model(**model) if model else loaded).config.vocab_size
        runner = SlowRunner(loaded.prompts, vocabulary, scripts, [FIRST])
        clock[0] = 0.0
        answer, _, _ = run(loaded, scripts, [FIRST], model=model, runner=runner, **settings)
        assert answer.usage.seconds == clock[0]
        return [item.seconds for item in answer.rounds], answer.usage.answer_seconds

    times, answering_took = slow("", answering("cat"))
    assert times == [100, 100]
    assert answering_took > 1
    assert slow("", answering("cat").removeprefix(END), max_rounds=1)[0] == [100, 100]
    # The answer that is taken back, when more is read after all, is not the round's either.
    absent, found = quoting("the documents do not say"), quoting("old harbour")
    assert slow("", absent, found, model=QUOTES)[0] == [100, 100, 100]
