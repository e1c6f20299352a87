from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.interleave import Interleave
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import Extend, ModelRunner, Prefill, sample
from memsparse.engine.session import Session
from memsparse.errors import EngineError
from memsparse.model.cache import MemSparseCache
from memsparse.model.memory import ChunkCollector, InBatchMemory
from memsparse.model.requests import ROOM
from memsparse.ops.pooling import document_of_chunk
from memsparse.text import Prompt
from memsparse.types import MemoryKV
from tests.engine.builders import documents, tiny_model


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model()


def memory_of(loaded: LoadedModel, count: int) -> InBatchMemory:
    rows = [loaded.prompts.document(i, document.text) for i, document in enumerate(documents(count))]
    lengths = torch.tensor([len(row) for row in rows])
    memory = InBatchMemory(
        document_of_chunk(lengths, loaded.config.chunk_size),
        count,
        rule=loaded.config.routing_rule(),
        top_k=loaded.config.top_k_documents,
    )
    collector = ChunkCollector()
    with torch.no_grad():
        loaded.model.model(
            input_ids=torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True),
            attention_mask=torch.arange(int(lengths.max())) < lengths[:, None],
            writer=collector,
        )
    memory.layers = collector.layers
    return memory


def prompt_of(loaded: LoadedModel, question: str = "where is the cat?") -> Prompt:
    ids, roles = loaded.prompts.question(question)
    return Prompt(ids=ids, roles=roles, first_position=loaded.config.position_offset)


@pytest.mark.parametrize("blocks", [[], [[7]], [[7, 8, 9]], [[7], [8, 9], [10]]])
def test_prefill_and_append_equal_one_forward(loaded: LoadedModel, blocks: list[list[int]]) -> None:
    memory, prompt = memory_of(loaded, 6), prompt_of(loaded)
    runner = ModelRunner(loaded)
    session = runner.prefill(prompt, memory)
    for block in blocks:
        runner.append(session, block)

    extra = [token for block in blocks for token in block]
    cache = MemSparseCache()
    with torch.no_grad():
        loaded.model(input_ids=torch.tensor([loaded.prompts.head()]), past_key_values=cache, use_cache=True)
        positions = torch.arange(len(prompt.ids) + len(extra)) + loaded.config.position_offset
        output = loaded.model(
            input_ids=torch.tensor([prompt.ids + extra]),
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            memory=memory,
            query_mask=torch.tensor([[role == 0 for role in prompt.roles] + [False] * len(extra)]),
        )
    torch.testing.assert_close(session.logits, output.logits[0, -1], atol=1e-4, rtol=1e-4)
    assert session.position == loaded.config.position_offset + len(prompt.ids) + len(extra)
    for layer, kv in output.routing.items():
        assert torch.equal(kv.documents, session.routing[layer].documents)


@pytest.mark.parametrize("tokens", [0, 1, ROOM + 3])
def test_what_is_taken_back_was_never_run(loaded: LoadedModel, tokens: int) -> None:
    memory, runner = memory_of(loaded, 6), ModelRunner(loaded)
    session, plain = (runner.prefill(prompt_of(loaded), memory) for _ in range(2))
    for each in (session, plain):
        runner.append(each, [7, 8])
    before, position = session.logits, session.position
    for place in range(tokens):
        runner.append(session, [9 + place % 3])
    session.take_back(tokens, before)
    assert torch.equal(session.logits, plain.logits)
    assert session.position == position
    for each in (session, plain):
        runner.append(each, [12, 13])
    assert torch.equal(session.logits, plain.logits)


def test_sessions_share_nothing(loaded: LoadedModel) -> None:
    memory, runner = memory_of(loaded, 6), ModelRunner(loaded)
    first, second = runner.prefill(prompt_of(loaded), memory), runner.prefill(prompt_of(loaded), memory)
    runner.append(first, [7, 8, 9])
    untouched = second.logits.clone()
    runner.append(second, [])
    assert torch.equal(second.logits, untouched)
    runner.append(second, [7, 8, 9])
    assert torch.equal(first.logits, second.logits)


def follow_up(loaded: LoadedModel, question: str, rounds: int) -> list[Prompt]:
    """The prompts of a question that reads one passage after the other."""
    passages = {number: document.text for number, document in enumerate(documents(rounds))}
    machine = Interleave(
        loaded.prompts,
        question,
        lambda numbers: {number: passages[number] for number in numbers},
        loaded.config.top_k_documents,
        max_rounds=rounds,
        max_new_tokens=99,
    )
    prompts = [machine.prompt()]
    for number in passages:
        machine.accept_documents([number])
        prompts.append(machine.prompt())
    return prompts


@pytest.mark.parametrize("settings", [{}, {"memory_layers": [0, 3]}, {"memory_layers": [3]}, {"gate": True}])
def test_what_rounds_share_is_run_once_and_changes_nothing(settings: dict[str, Any]) -> None:
    loaded = tiny_model(**settings)
    runner, memory = ModelRunner(loaded), memory_of(loaded, 6)
    prompts = follow_up(loaded, "where is the cat?", 3)
    session = runner.prefill(prompts[0], memory)
    for before, prompt in pairwise(prompts):
        runner.append(session, [7, 8, 9])  # what a round writes before it reads is in no later prompt
        shared = runner.known(prompt, session.prefix)
        assert len(before.ids) - 3 <= shared < len(prompt.ids)
        session = runner.run([Prefill(prompt=prompt, reader=memory, after=session.prefix)])[0]
        fresh = runner.prefill(prompt, memory)
        equal_sessions(session, fresh)
        runner.append(session, [7])
        runner.append(fresh, [7])
        equal_sessions(session, fresh)


def equal_sessions(one: Session, other: Session) -> None:
    torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
    assert one.position == other.position
    for layer, kv in other.routing.items():
        assert torch.equal(one.routing[layer].documents, kv.documents)
        torch.testing.assert_close(one.routing[layer].all_scores, kv.all_scores, atol=1e-5, rtol=1e-5)


def test_prompts_with_other_words_or_positions_share_nothing_but_those_in_common(loaded: LoadedModel) -> None:
    runner, memory = ModelRunner(loaded), memory_of(loaded, 6)
    first = prompt_of(loaded, "where is the cat?")
    prefix = runner.prefill(first, memory).prefix
    lead = runner.known(first)
    assert 5 < lead < len(first.ids)
    assert runner.known(first, prefix) == len(first.ids) - 1
    other = prompt_of(loaded, "when?")
    assert lead <= runner.known(other, prefix) < lead + 3
    moved = Prompt(ids=first.ids, roles=first.roles, first_position=first.first_position + 5)
    assert runner.known(moved, prefix) == 0
    session = runner.run([Prefill(prompt=moved, reader=memory, after=prefix)])[0]
    assert session.position == first.first_position + 5 + len(first.ids)


def test_a_prompt_begun_piece_by_piece_is_the_same(loaded: LoadedModel) -> None:
    runner, memory = ModelRunner(loaded), memory_of(loaded, 6)
    prompt = follow_up(loaded, "where is the cat?", 3)[-1]
    after, pieces = None, 0
    while len(prompt.ids) - runner.known(prompt, after) > 20:
        after = runner.begin(prompt, after, tokens=20)
        pieces += 1
    assert pieces > 3
    session = runner.run([Prefill(prompt=prompt, reader=memory, after=after)])[0]
    equal_sessions(session, runner.prefill(prompt, memory))


@pytest.mark.parametrize("broken", [2, 3])
def test_a_pass_that_fails_changes_no_session(loaded: LoadedModel, broken: int) -> None:
    runner, memory = ModelRunner(loaded), memory_of(loaded, 6)

    class Broken:
        def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
            if layer_idx == broken:
                raise EngineError("no")
            return memory.read(layer_idx, routing_q, query_mask)

    sound, twin = (runner.prefill(prompt_of(loaded), memory) for _ in range(2))
    runner.append(twin, [7, 8])
    bad = Prefill(prompt=prompt_of(loaded), reader=Broken())
    with pytest.raises(EngineError, match="no"):
        runner.run([Extend(session=sound, ids=[30, 31, 32]), bad])
    runner.append(sound, [7, 8])
    equal_sessions(sound, twin)


def test_many_requests_in_one_pass_are_what_they_are_alone(loaded: LoadedModel) -> None:
    runner, memory, other = ModelRunner(loaded), memory_of(loaded, 6), memory_of(loaded, 3)
    prompts = [*follow_up(loaded, "where is the cat?", 3), prompt_of(loaded, "when?")]
    running, twin = (runner.prefill(prompts[1], other) for _ in range(2))
    ids = list(range(20, 20 + 2 * ROOM))  # more than there was room for
    needs = [Prefill(prompt=prompt, reader=memory) for prompt in prompts]
    needs += [Prefill(prompt=prompts[0], reader=other), Extend(session=running, ids=ids)]  # type: ignore[list-item]
    sessions = runner.run(needs)
    assert sessions[-1] is running
    runner.append(twin, ids)
    alone = [runner.prefill(need.prompt, need.reader) for need in needs[:-1]]
    for one, session in zip([*alone, twin], sessions, strict=True):
        equal_sessions(session, one)
    assert runner.run([]) == []


class Sifting:
    """A reader that tells no scores but those of what a layer selects, and scores others when asked."""

    def __init__(self, memory: InBatchMemory) -> None:
        self.memory = memory
        self.asked: list[tuple[int, int]] = []

    def read(self, layer_idx: int, routing_q: Tensor, query_mask: Tensor) -> MemoryKV:
        kv = self.memory.read(layer_idx, routing_q, query_mask)
        return replace(kv, all_scores=None)

    def exact_scores(
        self, layer_idx: int, routing_q: Tensor, query_mask: Tensor, documents: Tensor
    ) -> Tensor:
        self.asked.append((layer_idx, len(routing_q)))
        scores = self.memory.read(layer_idx, routing_q, query_mask).all_scores
        assert scores is not None
        return scores.gather(1, documents.clamp_min(0)).masked_fill(documents < 0, float("-inf"))


def test_what_is_to_be_ranked_is_scored_for_all_requests_together(loaded: LoadedModel) -> None:
    """Two readers, of which one has fewer documents than are routed, and company that ranks nothing."""
    runner, memory, small = ModelRunner(loaded), memory_of(loaded, 12), memory_of(loaded, 2)
    reader, other = Sifting(memory), Sifting(small)
    running = runner.prefill(prompt_of(loaded), memory)
    prompts = [prompt_of(loaded, question) for question in ("where is the cat?", "when?", "who or what?")]
    needs = [Prefill(prompt=prompt, reader=reader, ranks=True) for prompt in prompts]
    needs += [Prefill(prompt=prompts[0], reader=other, ranks=True), Prefill(prompt=prompts[0], reader=reader)]
    sessions = runner.run([*needs, Extend(session=running, ids=[7])])
    assert reader.asked == [(2, 3), (3, 3)]
    assert other.asked == [(2, 1), (3, 1)]
    assert sessions[4].known is None
    for session, need, of in zip(sessions, needs[:4], [memory] * 3 + [small], strict=False):
        every = runner.prefill(need.prompt, of).means(torch.arange(of.num_documents))
        routed = torch.cat([kv.documents[0] for kv in session.routing.values()]).unique()
        routed = routed[routed >= 0].flip(0)
        asked = len(reader.asked)
        torch.testing.assert_close(session.means(routed), every[routed])
        assert len(reader.asked) == asked
        torch.testing.assert_close(session.means(torch.arange(len(every))), every)
        assert len(reader.asked) == asked + (2 if len(routed) < len(every) else 0)


def test_scores_that_fail_change_no_session(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, reader = ModelRunner(loaded), Sifting(memory_of(loaded, 6))
    sound, twin = (runner.prefill(prompt_of(loaded), reader) for _ in range(2))
    monkeypatch.setattr(reader, "exact_scores", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.run(
            [
                Extend(session=sound, ids=[30, 31]),
                Prefill(prompt=prompt_of(loaded), reader=reader, ranks=True),
            ]
        )
    for session in (sound, twin):
        runner.append(session, [7, 8])
    equal_sessions(sound, twin)


def test_a_session_reports_what_was_routed(loaded: LoadedModel) -> None:
    session = ModelRunner(loaded).prefill(prompt_of(loaded), memory_of(loaded, 2))
    numbers = torch.tensor([40, 70])
    for item in session.routed(numbers):
        assert sorted(item.numbers) == [40, 70]
        assert list(item.scores) == sorted(item.scores, reverse=True)
    assert [item.layer for item in session.routed(numbers)] == [2, 3]
    expected = sum(kv.all_scores[0] for kv in session.routing.values()) / 2
    torch.testing.assert_close(session.scores(), expected)
    assert session.route_seconds > 0


def test_chunks_reach_the_model_in_its_own_dtype() -> None:
    loaded = tiny_model()
    memory = memory_of(loaded, 4)
    loaded.model.to(torch.bfloat16)
    session = ModelRunner(loaded).prefill(prompt_of(loaded), memory)
    assert session.logits.dtype == torch.float32
    assert torch.isfinite(session.logits).all()


def draw(
    logits: Tensor, *, allowed: set[int] | None = None, times: int = 300, **settings: float
) -> Counter[int]:
    generator = torch.Generator().manual_seed(1)
    config = EngineConfig(**settings)  # type: ignore[arg-type]
    return Counter(sample(logits, config, allowed, generator) for _ in range(times))


def test_sampling() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, -9.0])
    assert set(draw(logits)) == {1}
    assert set(draw(logits, allowed={0, 3})) == {0}
    hot = draw(logits, temperature=1.0, times=3000)
    assert set(hot) <= {0, 1, 2, 3}
    assert hot[1] / 3000 == pytest.approx(0.705, abs=0.05)
    assert set(draw(logits, temperature=1.0, top_p=0.5)) == {1}
    assert set(draw(logits, temperature=1.0, top_p=0.8)) == {1, 2}
    assert set(draw(logits, temperature=1.0, allowed={0, 2})) == {0, 2}


def test_sampling_repeats_with_its_seed() -> None:
    logits = torch.zeros(50)
    config = EngineConfig(temperature=1.0)
    draws = [
        [sample(logits, config, None, generator) for _ in range(20)]
        for generator in (torch.Generator().manual_seed(5), torch.Generator().manual_seed(5))
    ]
    assert draws[0] == draws[1]


def test_nothing_allowed_and_broken_logits_are_errors() -> None:
    generator = torch.Generator()
    with pytest.raises(EngineError, match="no token may follow"):
        sample(torch.zeros(4), EngineConfig(), set(), generator)
    with pytest.raises(EngineError, match="NaN"):
        sample(torch.tensor([float("nan"), 1.0]), EngineConfig(), None, generator)
