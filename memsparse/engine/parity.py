"""Replay of recorded protocol cases: a scripted stand-in for the model drives `Interleave`."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from memsparse.engine.interleave import Done, Interleave, NewCall, State
from memsparse.errors import InputError
from memsparse.text import Prompt, PromptBuilder, Template

_MARKER = re.compile(r"<\|[^|<>]+\|>")
_FIRST_MARKER_ID = 0x110000  # behind the last Unicode code point
_MAX_CALLS = 100


class CharTokenizer:
    """Every character is one token, its code point; so is every `<|...|>` marker of the template."""

    def __init__(self, template: Template | None = None) -> None:
        texts = (Template() if template is None else template).to_dict().values()
        markers = dict.fromkeys(marker for text in texts for marker in _MARKER.findall(text))
        self.control_tokens: Mapping[str, int] = {m: _FIRST_MARKER_ID + i for i, m in enumerate(markers)}
        self.number_tokens: Mapping[int, str] = {ord(character): character for character in "[]0123456789"}
        self.stop_ids: Collection[int] = frozenset()
        self._markers = list(markers)

    def encode(self, text: str) -> list[int]:
        """Encode without matching markers."""
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode, markers included."""
        return "".join(chr(i) if i < _FIRST_MARKER_ID else self._markers[i - _FIRST_MARKER_ID] for i in ids)


def replay_protocol(case: Mapping[str, Any]) -> list[str]:
    """Replay a case of kind "protocol" and return what differs, one line each; empty when it passes.

    Scenarios marked "match" are compared call by call, "match_final_text" by their last text up to the end
    of turn, and "informational" ones, which record a defect, are skipped.
    Raises: InputError when the case is not of that kind or lacks a field.
    """
    if case.get("kind") != "protocol":
        raise InputError(f"the case is of kind {case.get('kind')!r}, not 'protocol'")
    mismatches = []
    for scenario in case["scenarios"]:
        try:
            if scenario["conformance"] != "informational":
                mismatches += [f"{scenario['name']}: {line}" for line in _replay_scenario(scenario)]
        except KeyError as error:
            raise InputError(f"scenario {scenario.get('name')!r} lacks the field {error}") from error
    return mismatches


def skipped_scenarios(case: Mapping[str, Any]) -> list[str]:
    """Names of the scenarios `replay_protocol` does not compare."""
    return [scenario["name"] for scenario in case["scenarios"] if scenario["conformance"] == "informational"]


def _replay_scenario(scenario: Mapping[str, Any]) -> Iterator[str]:
    by_call = scenario["conformance"] == "match"
    for row, final in enumerate(scenario["final_outputs"]):
        recorded = [
            recorded_row
            for call in (scenario["calls"] if by_call else ())
            for recorded_row in call["rows"]
            if recorded_row["row"] == row
        ]
        player = _Row(scenario, row)
        replayed = player.calls(len(recorded) if by_call else _MAX_CALLS)
        for number, expected in enumerate(recorded, start=1):
            got = replayed[number - 1] if number <= len(replayed) else {}
            for field, value in got.items():
                if value != expected[field]:
                    yield f"row {row} call {number}: {field} is {value!r}, expected {expected[field]!r}"
            if not got:
                yield f"row {row}: call {number} is missing"
        if final is not None:
            text = player.machine.text
            got_text, expected_text = (
                (text, final) if by_call else (player.answered(text), player.answered(final))
            )
            if got_text != expected_text:
                yield f"row {row}: final text is {got_text!r}, expected {expected_text!r}"


class _Row:
    """One row of a scenario on its own: its machine and the script that stands in for the model."""

    def __init__(self, scenario: Mapping[str, Any], row: int) -> None:
        # Recorded positions count a template head of three tokens; with characters, that is a short one.
        template = Template(head="<|im_start|>u\n")
        self._builder = PromptBuilder(CharTokenizer(template), template)
        self._scripts = [self._builder.encode_control(text) for text in scenario["scripted_generations"][row]]
        self._filler = self._builder.encode_control(scenario["token_predicted_while_paused"])
        self._in_place = scenario["conformance"] != "match"
        self._call = 0
        self._at = 0
        texts = scenario["documents"]
        self.machine = Interleave(
            self._builder,
            scenario["questions"][row],
            lambda numbers: {number: texts[number] for number in numbers if number < len(texts)},
            scenario["top_k"],
            max_rounds=_MAX_CALLS,
            max_new_tokens=scenario["max_generate_tokens"],
            max_unproductive=_MAX_CALLS,  # the published loop asks again however often
        )

    def calls(self, limit: int) -> list[dict[str, Any]]:
        """Drive the machine for at most `limit` calls; return each in the recorded form."""
        calls: list[dict[str, Any]] = []
        again = True
        while again and len(calls) < limit:
            prompt = self.machine.prompt()
            again = self._run_call()
            calls.append(
                {
                    "input_text": self._builder.decode(prompt.ids),
                    "input_role_runs": self._role_runs(prompt),
                    "first_position": prompt.first_position,
                    "engine_output": self.machine.text,
                    "needs_another_call": again,
                }
            )
        return calls

    def answered(self, text: str) -> str:
        """Cut a text behind its answer: at the first end of turn after the response began."""
        template = self._builder.template
        opening = template.tail + template.response_head
        head, found, response = text.partition(opening)
        return head + found + response.split(template.end_of_turn, 1)[0]

    def _run_call(self) -> bool:
        """Feed one call's tokens; return whether the machine asks for another call."""
        while self.machine.state is not State.DONE:
            action = self.machine.feed(self._next_token())
            if isinstance(action, NewCall):
                self._call += 1
                self._at = 0
                return True
            if isinstance(action, Done):
                break
        return False

    def _next_token(self) -> int:
        # Official calls of a batch may end where a row on its own goes on in place; so then does its script.
        while self._in_place and self._call + 1 < len(self._scripts) and self._used_up():
            self._call += 1
            self._at = 0
        if self._call >= len(self._scripts) or self._used_up():
            return self._filler[0]
        token_id = self._scripts[self._call][self._at]
        self._at += 1
        return token_id

    def _used_up(self) -> bool:
        return self._at >= len(self._scripts[self._call])

    def _role_runs(self, prompt: Prompt) -> list[list[int]]:
        """Return [first character, end character, role] runs of a prompt."""
        runs = []
        at = 0
        for role, tokens in groupby(zip(prompt.ids, prompt.roles, strict=True), key=lambda token: token[1]):
            end = at + len(self._builder.decode([token_id for token_id, _ in tokens]))
            runs.append([at, end, role])
            at = end
        return runs
