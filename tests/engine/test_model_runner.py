from collections import Counter

import pytest
import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import ModelRunner, Session, sample
from memsparse.errors import EngineError
from memsparse.model.cache import MemSparseCache
from memsparse.model.memory import ChunkCollector, InBatchMemory
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


def test_sessions_share_nothing(loaded: LoadedModel) -> None:
    memory, runner = memory_of(loaded, 6), ModelRunner(loaded)
    first, second = runner.prefill(prompt_of(loaded), memory), runner.prefill(prompt_of(loaded), memory)
    runner.append(first, [7, 8, 9])
    untouched = second.logits.clone()
    runner.append(second, [])
    assert torch.equal(second.logits, untouched)
    runner.append(second, [7, 8, 9])
    assert torch.equal(first.logits, second.logits)


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


def test_without_all_scores_the_router_cannot_decide(loaded: LoadedModel) -> None:
    kv = MemoryKV(
        **{name: torch.zeros(1, 0) for name in MemoryKV.__dataclass_fields__ if name != "all_scores"}
    )
    session = Session(
        cache=MemSparseCache(), logits=torch.zeros(1), routing={2: kv}, position=0, route_seconds=0.0
    )
    with pytest.raises(EngineError, match="keeps no scores"):
        session.scores()


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
