import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from memsparse.engine.interleave import Append, Done, Interleave, NewCall
from memsparse.engine.parity import replay_protocol, skipped_scenarios
from memsparse.errors import InputError
from memsparse.text import Template
from tests.fakes import char_builder

CASE = Path(__file__).resolve().parents[2].parent / "shared" / "parity" / "protocol" / "case.json"


@pytest.fixture
def case() -> dict[str, Any]:
    if not CASE.exists():
        pytest.skip(f"no parity case at {CASE}")
    loaded: dict[str, Any] = json.loads(CASE.read_text(encoding="utf-8"))
    return loaded


def test_recorded_protocol_is_reproduced(case: dict[str, Any]) -> None:
    assert replay_protocol(case) == []
    compared = [s for s in case["scenarios"] if s["name"] not in skipped_scenarios(case)]
    assert compared


def test_tokens_run_end_at_the_recorded_positions(case: dict[str, Any]) -> None:
    """Prompt, emitted tokens and appended blocks take one position each, from the first one on."""
    template = Template(head="<|im_start|>u\n")
    builder = char_builder(template)
    for scenario in (s for s in case["scenarios"] if s["conformance"] == "match"):
        texts = dict(enumerate(scenario["documents"]))

        def lookup(numbers: Sequence[int], texts: Mapping[int, str] = texts) -> dict[int, str]:
            return {number: texts[number] for number in numbers if number in texts}

        machine = Interleave(
            builder,
            scenario["questions"][0],
            lookup,
            scenario["top_k"],
            max_rounds=9,
            max_new_tokens=scenario["max_generate_tokens"],
        )
        for call, script in zip(scenario["calls"], scenario["scripted_generations"][0], strict=True):
            prompt = machine.prompt()
            ran = len(prompt.ids)
            for token_id in builder.encode_control(script):
                ran += token_id not in builder.stop_ids
                action = machine.feed(token_id)
                ran += len(action.ids) if isinstance(action, Append) else 0
                if isinstance(action, Done | NewCall):
                    break
            assert call["last_position_per_row"] == [prompt.first_position + ran - 1]


def first_row(case: dict[str, Any], name: str) -> dict[str, Any]:
    scenario = next(s for s in case["scenarios"] if s["name"] == name)
    row: dict[str, Any] = scenario["calls"][0]["rows"][0]
    return row


TAMPERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "input_text": lambda row: row.update(input_text=row["input_text"] + "x"),
    "input_role_runs": lambda row: row["input_role_runs"][0].__setitem__(2, -1),
    "first_position": lambda row: row.update(first_position=row["first_position"] + 1),
    "engine_output": lambda row: row.update(engine_output=""),
    "needs_another_call": lambda row: row.update(needs_another_call=not row["needs_another_call"]),
}


@pytest.mark.parametrize("field", TAMPERED)
def test_a_difference_is_reported(case: dict[str, Any], field: str) -> None:
    name = next(s["name"] for s in case["scenarios"] if s["conformance"] == "match")
    TAMPERED[field](first_row(case, name))
    (line,) = replay_protocol(case)
    assert line.startswith(f"{name}: row 0 call 1: {field} is ")


@pytest.mark.parametrize("conformance", ["match", "match_final_text"])
def test_another_final_text_is_reported(case: dict[str, Any], conformance: str) -> None:
    scenario = next(s for s in case["scenarios"] if s["conformance"] == conformance)
    scenario["final_outputs"][0] = scenario["final_outputs"][0].replace("answer to", "answer for")
    (line,) = replay_protocol(case)
    assert line.startswith(f"{scenario['name']}: row 0: final text is ")


def test_text_behind_the_end_of_turn_does_not_count(case: dict[str, Any]) -> None:
    scenario = next(s for s in case["scenarios"] if s["conformance"] == "match_final_text")
    scenario["final_outputs"][0] = scenario["final_outputs"][0].removesuffix("<|im_end|>") + "<|im_end|>[[["
    assert replay_protocol(case) == []


def test_missing_call_is_reported(case: dict[str, Any]) -> None:
    scenario = next(s for s in case["scenarios"] if s["conformance"] == "match")
    scenario["calls"].append(copy.deepcopy(scenario["calls"][-1]))
    assert f"{scenario['name']}: row 0: call {len(scenario['calls'])} is missing" in replay_protocol(case)


def test_other_kinds_and_damaged_cases_are_refused() -> None:
    with pytest.raises(InputError, match="train"):
        replay_protocol({"kind": "train"})
    with pytest.raises(InputError, match="final_outputs"):
        replay_protocol({"kind": "protocol", "scenarios": [{"name": "s", "conformance": "match"}]})
