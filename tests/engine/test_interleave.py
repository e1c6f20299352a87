from collections.abc import Iterable, Mapping, Sequence

import pytest

from memsparse.engine.interleave import (
    Action,
    Append,
    Continue,
    Done,
    Interleave,
    NewCall,
    NumberTrie,
    State,
)
from memsparse.errors import ConfigError, EngineError
from memsparse.text import PromptBuilder
from tests.fakes import char_builder
from tests.test_text import SPECIAL, train_byte_level

QUESTION = "Who made Y?"
TEXTS = {0: "zero", 1: "one", 2: "two", 10: "ten", 12: "twelve"}
M = "<|object_ref_end|>"
END = "<End-of-Retrieve>"
ANSWER = "The answer to the question is: "
RESTATED = f"<|im_start|>The user's question is: {QUESTION}\n{M}"


def known(numbers: Sequence[int]) -> Mapping[int, str]:
    return {number: TEXTS[number] for number in numbers if number in TEXTS}


def machine(
    builder: PromptBuilder | None = None,
    *,
    max_rounds: int = 4,
    max_new_tokens: int = 2000,
    max_route_characters: int = 1000,
    max_unproductive: int = 1,
) -> Interleave:
    return Interleave(
        builder or char_builder(),
        QUESTION,
        known,
        16,
        max_rounds=max_rounds,
        max_new_tokens=max_new_tokens,
        max_route_characters=max_route_characters,
        max_unproductive=max_unproductive,
    )


def play(request: Interleave, text: str, builder: PromptBuilder | None = None) -> Action:
    """Feed text as control tokens and return the last action; every one before it must be Continue."""
    *before, last = (builder or char_builder()).encode_control(text)
    for token_id in before:
        assert request.feed(token_id) == Continue()
    return request.feed(last)


def response(request: Interleave) -> str:
    return request.text.partition("<|im_end|>\n<|im_start|>")[2]


def routed_text(request: Interleave) -> str:
    prompt = request.prompt()
    assert len(prompt.ids) == len(prompt.roles)
    builder = char_builder()
    return builder.decode([i for i, role in zip(prompt.ids, prompt.roles, strict=True) if role == 0])


def test_one_round_and_answer() -> None:
    builder = char_builder()
    request = machine()
    assert request.prompt().first_position == len(builder.head()) + 16
    assert play(request, f"[1]{M}") == NewCall()
    assert response(request) == f"[1]{M}[1]. one\n{M}"
    assert routed_text(request).endswith(builder.template.question_end + "[1]. one\n")
    action = play(request, END)
    assert action == Append(builder.restate(QUESTION))
    assert request.answer == ""
    assert play(request, f"{ANSWER}Yan<|im_end|>") == Done()
    assert request.answer == "Yan"
    assert response(request) == f"[1]{M}[1]. one\n{M}{END}{RESTATED}{ANSWER}Yan"
    assert request.cited == (1,)
    assert [(item.numbers, item.text) for item in request.rounds] == [((1,), f"[1]{M}"), ((), END)]


def test_states() -> None:
    states = [(request := machine()).state]
    for text in (f"[1]{M}", END, "<|im_end|>"):
        play(request, text)
        states.append(request.state)
    assert states == [State.ROUTE, State.ROUTE, State.ANSWER, State.DONE]


def test_known_numbers_once_and_ascending() -> None:
    request = machine()
    assert play(request, f"[12][1][12][99][01]{M}") == NewCall()
    assert response(request).endswith(f"{M}[1]. one\n[12]. twelve\n{M}")
    assert request.rounds[0].numbers == (1, 12)


def test_citations_follow_the_order_of_rounds() -> None:
    request = machine()
    play(request, f"[10]{M}")
    assert play(request, f"[2][10][1]{M}") == NewCall()
    assert request.cited == (10, 1, 2)
    assert request.rounds[1].numbers == (1, 2, 10)
    assert routed_text(request).endswith("[1]. one\n[2]. two\n[10]. ten\n")


def test_numbers_beside_the_end_of_retrieval_are_cited_but_not_read() -> None:
    request = machine()
    assert isinstance(play(request, f"[1][99]{END}"), Append)
    assert request.cited == (1,)
    assert request.rounds[0].numbers == ()


@pytest.mark.parametrize("emitted", [f"[99]{M}", M, f"nothing{M}"])
def test_second_round_in_a_row_without_news_ends_retrieval(emitted: str) -> None:
    builder = char_builder()
    request = machine()
    assert play(request, emitted) == NewCall()
    assert response(request) == f"{emitted}{M}"
    assert play(request, emitted) == Append([*builder.end_of_retrieve_ids, *builder.restate(QUESTION)])
    assert response(request) == f"{emitted}{M}{emitted}{END}{RESTATED}"
    assert request.cited == ()


def test_rounds_without_news_may_go_on_as_the_published_loop_does() -> None:
    request = machine(max_rounds=9, max_unproductive=9)
    for _ in range(4):
        assert play(request, f"[1]{M}") == NewCall()
        request.prompt()
    assert request.state is State.ROUTE
    assert request.cited == (1,)


def test_rereading_a_document_is_no_news() -> None:
    request = machine(max_rounds=9)
    assert play(request, f"[1]{M}") == NewCall()
    assert play(request, f"[1]{M}") == NewCall()
    assert isinstance(play(request, f"[1]{M}"), Append)


def test_news_restart_the_count() -> None:
    request = machine(max_rounds=9)
    for emitted in (f"[99]{M}", f"[1]{M}", f"[1]{M}", f"[2]{M}"):
        assert play(request, emitted) == NewCall()


def test_round_cap_ends_retrieval_in_the_next_prompt() -> None:
    request = machine(max_rounds=1)
    assert play(request, f"[1]{M}") == NewCall()
    assert request.state is State.ANSWER
    assert response(request) == f"[1]{M}[1]. one\n{M}{END}{RESTATED}"
    assert len(request.rounds) == 2
    assert play(request, f"{ANSWER}x<|im_end|>") == Done()
    assert request.answer == "x"


def test_no_rounds_answers_at_once() -> None:
    request = machine(max_rounds=0)
    assert request.state is State.ANSWER
    assert response(request) == f"{END}{RESTATED}"
    assert routed_text(request).endswith(char_builder().template.question_end)
    assert len(request.rounds) == 1


def test_long_round_reads_what_it_cited() -> None:
    request = machine(max_route_characters=8)
    assert play(request, "[1] xxxx") == NewCall()
    assert response(request) == f"[1] xxxx{M}[1]. one\n{M}"


def test_long_round_without_numbers_ends_retrieval() -> None:
    builder = char_builder()
    request = machine(max_route_characters=8)
    assert play(request, "[99] xxx") == Append([*builder.end_of_retrieve_ids, *builder.restate(QUESTION)])


def test_long_round_without_news_runs_the_written_marker_too() -> None:
    builder = char_builder()
    request = machine(max_route_characters=8)
    play(request, f"[1]{M}")
    play(request, f"[1]{M}")
    marker_and_end = [builder.marker_id, *builder.end_of_retrieve_ids]
    assert play(request, "[1] xxxx") == Append([*marker_and_end, *builder.restate(QUESTION)])


def test_default_limit_of_a_round_is_a_thousand_characters() -> None:
    request = machine()
    assert isinstance(play(request, "x" * 1000), Append)


def test_end_of_turn_while_routing_finishes_without_an_answer() -> None:
    request = machine()
    assert play(request, "[1]<|im_end|>") == Done()
    assert request.answer == ""
    assert request.rounds[0].text == "[1]"


def test_answer_without_end_of_retrieval() -> None:
    request = machine()
    assert play(request, f"{ANSWER}Yan<|im_end|>") == Done()
    assert request.answer == "Yan"


def test_answer_without_its_leading_sentence() -> None:
    request = machine()
    play(request, END)
    assert play(request, "just Yan<|im_end|>") == Done()
    assert request.answer == "just Yan"


def test_markers_in_an_answer_are_text() -> None:
    request = machine()
    play(request, END)
    assert play(request, f"{ANSWER}[1]{M}{END}") == Continue()
    assert request.answer == f"[1]{M}{END}"


def test_token_budget_counts_a_call_and_the_restated_question_as_one() -> None:
    request = machine(max_new_tokens=len(END) + 1 + 3)
    play(request, f"[1]{M}")
    play(request, END)
    assert play(request, "The") == Done()
    assert response(request).endswith("The")


def test_documents_of_a_spent_call_are_still_read() -> None:
    assert play(machine(max_new_tokens=4), f"[1]{M}") == NewCall()


def test_budget_ends_a_routing_call() -> None:
    assert play(machine(max_new_tokens=3), "[1]") == Done()


def test_accepted_documents_equal_emitted_ones() -> None:
    emitted, accepted = machine(), machine()
    play(emitted, f"[12][1]{M}")
    assert accepted.accept_documents([12, 1]) == NewCall()
    assert accepted.prompt() == emitted.prompt()
    assert accepted.rounds == emitted.rounds
    assert accepted.cited == emitted.cited


def test_accepting_nothing_ends_retrieval() -> None:
    builder = char_builder()
    for action in (machine().accept_documents([]), machine().end_retrieval()):
        assert action == Append([*builder.end_of_retrieve_ids, *builder.restate(QUESTION)])


def test_accepted_documents_without_news_run_with_the_end() -> None:
    builder = char_builder()
    request = machine()
    request.accept_documents([1])
    request.accept_documents([1])
    expected = [*builder.citation([1]), *builder.end_of_retrieve_ids, *builder.restate(QUESTION)]
    assert request.accept_documents([1]) == Append(expected)


def test_wrong_moments_are_errors() -> None:
    request = machine()
    request.end_retrieval()
    with pytest.raises(EngineError, match="answer"):
        request.accept_documents([1])
    with pytest.raises(EngineError, match="answer"):
        request.end_retrieval()
    play(request, "<|im_end|>")
    with pytest.raises(EngineError, match="done"):
        request.feed(1)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_rounds"):
        machine(max_rounds=-1)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        machine(max_new_tokens=0)


def test_prompt_restarts_a_request_at_any_moment() -> None:
    builder = char_builder()
    request = machine()
    play(request, f"[1]{M}")
    play(request, END)
    play(request, "The ans")
    assert builder.decode(request.prompt().ids).endswith(f"{M}{END}{RESTATED}The ans")


@pytest.mark.parametrize("lowercase", [False, True])
def test_byte_level_tokenizer_with_a_split_end_of_retrieve(lowercase: bool) -> None:
    builder = PromptBuilder(train_byte_level(SPECIAL, lowercase=lowercase))
    assert len(builder.end_of_retrieve_ids) > 1
    request = machine(builder)
    assert play(request, f"[1][12]{M}", builder) == NewCall()
    # Spelt in other tokens than the template's own, and run together with what follows.
    for character in builder.end_of_retrieve[:-1]:
        assert request.feed(*builder.encode_control(character)) == Continue()
    assert request.feed(*builder.encode_control(">")) == Append(builder.restate(QUESTION))
    assert play(request, f"{ANSWER}yan<|im_end|>", builder) == Done()
    assert request.answer == "yan"
    assert request.cited == (1, 12)


def spelled(trie: NumberTrie, builder: PromptBuilder, text: str) -> set[str]:
    return {builder.decode([i]) for i in trie.allowed(builder.encode_control(text))}


def check(numbers: Iterable[int], expected: Mapping[str, set[str]]) -> None:
    builder = char_builder()
    trie = NumberTrie(builder, numbers)
    assert {text: spelled(trie, builder, text) for text in expected} == expected


def test_trie_follows_the_numbers() -> None:
    check(
        [1, 12, 120, 3],
        {
            "": {"[", "<"},
            "[": {"1", "3"},
            "[1": {"2", "]"},
            "[12": {"0", "]"},
            "[120": {"]"},
            "[1]": {"[", M},
            "[1][": {"1", "3"},
            "[1][1": {"2"},
            "[3][12][1][120]": {M},
        },
    )


def test_trie_lets_retrieval_end_at_the_beginning_only() -> None:
    check([1], {"<": {"E"}, END[:-1]: {">"}, END: set(), f"[1]{M}": set(), "[1]<": set()})


def test_trie_without_candidates_can_only_end() -> None:
    check([], {"": {"<"}, "[": set()})


def test_trie_off_its_paths_allows_nothing() -> None:
    check([1, 0], {"[7": set(), "[1][1": set(), "[01": set(), "[0": {"]"}, "]": set(), "x": set()})


def test_trie_knows_every_way_to_split_numbers() -> None:
    builder = PromptBuilder(train_byte_level(SPECIAL))
    tokens = {text: token_id for token_id, text in builder.tokenizer.number_tokens.items()}
    trie = NumberTrie(builder, [1, 12])
    assert trie.allowed([tokens["["]]) == {tokens["1"], tokens["12"]}
    assert trie.allowed([tokens["["], tokens["12"]]) == {tokens["]"], tokens["]["]}
    assert trie.allowed([tokens["["], tokens["12"], tokens["]["]]) == {tokens["1"]}
    assert trie.allowed([tokens["["], tokens["12"], tokens["]["], tokens["1"]]) == {tokens["]"]}


def test_machine_trie_leaves_out_cited_numbers() -> None:
    builder = char_builder()
    request = machine()
    play(request, f"[1]{M}")
    assert spelled(request.trie([1, 12, 2]), builder, "[") == {"1", "2"}
    assert spelled(request.trie([1, 12, 2]), builder, "[1") == {"2"}
    request.feed(*builder.encode_control("["))
    assert builder.decode(request.route_ids) == "["


def test_a_reopened_round_retrieves_as_if_it_had_never_ended() -> None:
    straight, detour = machine(), machine()
    for request in (straight, detour):
        request.accept_documents([2])
    assert not detour.may_reopen
    with pytest.raises(EngineError, match="may_reopen"):
        detour.reopen()
    detour.end_retrieval()
    play(detour, "no idea")
    assert detour.may_reopen
    detour.reopen()
    assert detour.state is State.ROUTE
    for request in (straight, detour):
        assert isinstance(request.accept_documents([1]), NewCall)
    assert detour.prompt() == straight.prompt()
    assert detour.rounds == straight.rounds
    assert detour.answer == ""


def test_after_the_last_round_nothing_is_reopened() -> None:
    request = machine(max_rounds=1)
    request.accept_documents([2])
    assert not request.may_reopen
