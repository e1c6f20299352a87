from random import Random

import pytest
import torch

from memsparse.errors import EngineError
from memsparse.training.config import Phase
from memsparse.training.data import Step
from memsparse.training.reading import ReadingSet
from memsparse.training.stream import AHEAD, StepStream, build_step
from tests.training.builders import calls_phase, prompts, recipe, write_reading

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def equal(a: Step, b: Step) -> bool:
    return torch.equal(a.document_ids, b.document_ids) and all(
        torch.equal(x.ids, y.ids) and torch.equal(x.labels, y.labels)
        for x, y in zip(a.batches, b.batches, strict=True)
    )


def stream(config, start: int = 0, reading: ReadingSet | None = None) -> StepStream:
    return StepStream(config, prompts(), reading, offset=6, start=start)


def test_the_worker_loses_and_repeats_no_step_wherever_it_starts():
    config = recipe(
        calls_phase(AHEAD + 3, documents=3, calls=1), Phase(name="copy", steps=2, task="copy"), calls_phase(2)
    )
    direct = dict(stream(config))
    assert list(direct) == [*range(AHEAD + 3), AHEAD + 5, AHEAD + 6]
    for start in (0, 4, AHEAD + 4, AHEAD + 7):
        ahead = list(stream(config, start).prefetched())
        assert [number for number, _ in ahead] == [number for number in direct if number >= start]
        assert all(equal(step, direct[number]) for number, step in ahead)


def test_every_rank_draws_steps_of_its_own():
    config = recipe(calls_phase(2))
    steps = [dict(StepStream(config, prompts(), None, offset=6, start=0, rank=rank)) for rank in (0, 1, 2)]
    assert [list(each) for each in steps] == [[0, 1]] * 3
    assert equal(steps[0][1], dict(stream(config))[1])
    assert not any(equal(steps[i][1], steps[j][1]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_steps_differ_from_one_another_and_from_those_of_another_seed():
    first, second = (step for _, step in stream(recipe(calls_phase(2))))
    assert not equal(first, second)
    assert not equal(first, next(iter(stream(recipe(calls_phase(2), seed=2))))[1])


@pytest.mark.parametrize(("share", "real"), [(0.0, 0), (1.0, 6)])
def test_real_questions_take_their_share(tmp_path, share, real):
    files = write_reading(tmp_path)
    reading = ReadingSet(tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl", window_words=20)
    config = recipe(calls_phase(6, documents=3, reading_share=share), reading=files)
    found = 0
    for _, step in stream(config, reading=reading):
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
