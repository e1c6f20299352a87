import json
from random import Random

import pytest
import torch

from memsparse.errors import ConfigError
from memsparse.training.cleaning import unfit
from memsparse.training.data import CallMix, StepBuilder
from memsparse.training.objective import LossWeights, run_step
from memsparse.training.reading import ReadingMix, ReadingSet
from tests.training.builders import model, prompts

WRONG = "q3"
"""The one question whose answer is not like the others'."""


@pytest.fixture
def reading(tmp_path) -> ReadingSet:
    passages = [
        {"id": f"p{i}", "text": f"Mill number{i} was built by monks beside a wheel."} for i in range(9)
    ]
    questions = [
        {"id": f"q{i}", "question": f"Who built mill {i}?", "answers": ["monks"], "positive_ids": [f"p{i}"]}
        for i in range(7)
    ]
    questions[3]["answers"] = ["wheel"]
    questions[6] |= {"positive_ids": ["p6", "p7"], "unordered": True}
    questions.append({"id": "lookup", "question": "Where is it?", "answers": [], "positive_ids": ["p8"]})
    for name, rows in (("c", passages), ("q", questions)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ReadingSet(tmp_path / "c.jsonl", tmp_path / "q.jsonl", window_words=12)


def test_the_worst_share_of_the_answered_questions_is_returned(reading):
    small = model()
    everything = unfit(small, prompts(), reading, share=1.0, seed=3)
    assert sorted(everything) == [f"q{i}" for i in range(7)]
    assert unfit(small, prompts(), reading, share=0.5, seed=3) == everything[:3]
    assert unfit(small, prompts(), reading, share=0.1, seed=3) == []


def test_an_answer_unlike_those_that_were_learnt_is_the_worst(reading):
    small = model()
    builder = StepBuilder(
        prompts(),
        position_offset=small.config.position_offset,
        max_document_tokens=96,
        mix=CallMix(first=0.0),
    )
    optimizer = torch.optim.AdamW(small.parameters(), lr=4e-3)
    learnt = reading.without([WRONG, "q6", "lookup"])
    small.train()
    for number in range(12):
        rng = Random(number)
        _, documents, question = learnt.alone(number % learnt.asked, rng)
        step = builder.build(documents, [question], rng, calls=1)
        optimizer.zero_grad()
        run_step(small, step, LossWeights(aux=0.0)).loss.backward()
        optimizer.step()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    assert unfit(small, prompts(), reading, share=0.15, seed=1) == [WRONG]
    assert small.training
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_no_more_than_asked_for_are_measured_and_the_seed_chooses_them(reading):
    small = model()
    few = [unfit(small, prompts(), reading, share=1.0, seed=seed, most=3) for seed in (3, 3, 4, 5)]
    assert [len(ids) for ids in few] == [3] * 4
    assert few[0] == few[1]
    assert len({frozenset(ids) for ids in few}) > 1


def test_a_mix_is_measured_over_all_its_sets(reading):
    mix = ReadingMix(
        [reading.without(["q0", "q1", "q2"]), reading.without([f"q{i}" for i in range(3, 7)])], [1, 1]
    )
    found = unfit(model(), prompts(), mix, share=1.0, seed=3)
    assert set(found) == {f"{0 if i > 2 else 1}/q{i}" for i in range(7)}
    assert mix.without(found[:4]).asked == mix.asked - 4


def test_sets_may_share_ids(reading):
    mix = ReadingMix([reading, reading], [1, 1])
    found = unfit(model(), prompts(), mix, share=1.0, seed=3)
    assert sorted(found) == [f"{place}/q{i}" for place in (0, 1) for i in range(7)]
    first, second = mix.without(["1/q3", "1/q4"]).sets
    assert (first.asked, second.asked) == (reading.asked, reading.asked - 2)


def test_text_without_questions_has_none_to_leave_out(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "Some text without questions."}\n')
    plain = ReadingSet(tmp_path / "c.jsonl", None, window_words=5)
    assert unfit(model(), prompts(), plain, share=1.0, seed=0) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"share": 1.5}, "share is 1.5; it must be between 0 and 1"),
        ({"share": -0.1}, "share is -0.1"),
        ({"share": 0.5, "most": 0}, "most is 0; it must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(reading, settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        unfit(model(), prompts(), reading, seed=0, **settings)
