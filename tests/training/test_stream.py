from random import Random

import pytest
import torch

from memsparse.errors import EngineError
from memsparse.training.config import Phase
from memsparse.training.data import Step
from memsparse.training.reading import ReadingSet
from memsparse.training.stream import AHEAD, StepStream, build_step, moved
from tests.training.builders import calls_phase, prompts, recipe, write_reading

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def equal(a: Step, b: Step) -> bool:
    return torch.equal(a.document_ids, b.document_ids) and all(
        torch.equal(x.ids, y.ids) and torch.equal(x.labels, y.labels)
        for x, y in zip(a.batches, b.batches, strict=True)
    )


def stream(config, start: int = 0, reading: ReadingSet | None = None, **given) -> StepStream:
    return StepStream(config, prompts(), reading, offset=6, start=start, **given)


def test_the_worker_loses_and_repeats_no_step_wherever_it_starts_and_stops():
    config = recipe(
        calls_phase(AHEAD + 3, documents=3, calls=1), Phase(name="copy", steps=2, task="copy"), calls_phase(2)
    )
    direct = {number: step for number, _, step in stream(config)}
    assert list(direct) == [*range(AHEAD + 3), AHEAD + 5, AHEAD + 6]
    for start, stop in ((0, AHEAD + 7), (4, AHEAD + 6), (AHEAD + 4, AHEAD + 7), (AHEAD + 7, AHEAD + 7)):
        ahead = list(stream(config, start, stop=stop).prefetched())
        assert [(number, micro) for number, micro, _ in ahead] == [
            (number, 0) for number in direct if start <= number < stop
        ]
        assert all(equal(step, direct[number]) for number, _, step in ahead)


def test_a_micro_batch_depends_on_its_index_and_not_on_who_draws_it():
    config = recipe(calls_phase(2))
    every = list(stream(config, micros=range(4)))
    assert [(number, micro) for number, micro, _ in every] == [(n, m) for n in (0, 1) for m in range(4)]
    shared = [*stream(config, micros=(0, 2)), *stream(config, micros=(1, 3))]
    for number, micro, step in shared:
        assert equal(step, every[4 * number + micro][2])
    assert equal(every[4][2], list(stream(config))[1][2])
    steps = [step for _, _, step in every]
    assert not any(equal(a, b) for i, a in enumerate(steps) for b in steps[:i])


def test_moved_reaches_every_tensor():
    held = {"a": [torch.ones(1)], "step": next(iter(stream(recipe(calls_phase(1)))))[2], "n": 3}
    there = moved(held, torch.device("meta"))
    step = there["step"]
    tensors = [there["a"][0], step.document_ids, step.digits, *step.spans, step.batches[0].routes]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (there["n"], step.head, step.batches[0].kinds) == (
        3,
        held["step"].head,
        held["step"].batches[0].kinds,
    )


def test_steps_differ_from_one_another_and_from_those_of_another_seed():
    first, second = (step for *_, step in stream(recipe(calls_phase(2))))
    assert not equal(first, second)
    assert not equal(first, next(iter(stream(recipe(calls_phase(2), seed=2))))[2])


@pytest.mark.parametrize(("share", "real"), [(0.0, 0), (1.0, 6)])
def test_real_questions_take_their_share(tmp_path, share, real):
    files = write_reading(tmp_path)
    reading = ReadingSet(tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl", window_words=20)
    config = recipe(calls_phase(6, documents=3, reading_share=share), reading=files)
    found = 0
    for *_, step in stream(config, reading=reading):
        text = prompts().decode(step.document_ids.flatten().tolist())
        found += any(word in text for word in ("sarno", "velm"))
    assert found == real


def test_real_text_mixes_with_worlds_as_far_as_asked(tmp_path):
    write_reading(tmp_path)
    reading = ReadingSet(tmp_path / "corpus.jsonl", None, window_words=20)
    shares = []
    for share in (0.0, 0.5):
        phase = calls_phase(1, documents=12, real_documents=share)
        steps = [build_step(prompts(), phase, reading, Random(seed), 6) for seed in range(12)]
        assert {len(step.document_ids) for step in steps} == {12}
        texts = [prompts().decode(step.document_ids.flatten().tolist()) for step in steps]
        shares.append(sum("harbour was dug" in text or "grinds barley" in text for text in texts))
    assert shares[0] == 0 < shares[1]


def test_heldout_steps_are_of_other_worlds():
    phase = calls_phase(1, documents=20)
    own, other = (
        build_step(prompts(), phase, None, Random(1), 6, split=split) for split in ("train", "heldout")
    )
    assert not equal(own, other)


def test_a_step_that_cannot_be_built_is_one_line():
    config = recipe(calls_phase(1, max_document_tokens=32, mix={"three_hop": 1.0}, documents=12, first=0.0))
    with pytest.raises(EngineError, match=r"could not be built: .*no question has a call") as raised:
        list(stream(config).prefetched())
    assert "\n" not in str(raised.value)
