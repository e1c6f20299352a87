"""One memory over several processes: the answers of one, whatever the bank and however many the ranks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memsparse.bank import Bank
from memsparse.distributed import ranks as ranks_module
from memsparse.distributed.launch import engine_class
from memsparse.distributed.memory_parallel import ParallelEngine, ShardedReader
from memsparse.distributed.ranks import leading
from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.errors import BankCorruptError, BankMismatchError, ConfigError, EngineError
from memsparse.types import Answer
from tests.bank.builders import FINGERPRINT, add, queries
from tests.distributed.processes import FORKS, together
from tests.distributed.test_merging import assert_equal
from tests.engine.builders import documents, save_model, tiny_model

pytestmark = FORKS
LAYER = 3
QUESTION = "Who keeps the lighthouse keys?"


@contextmanager
def sharded(path: Path, **view: Any) -> Iterator[ShardedReader]:
    with Bank.open(path) as bank:
        seen = {"namespace": None, "version": None, "now": 0.0, "top_k": 4} | view
        yield ShardedReader.open(leading(), bank, seen)
        leading().release("")


def masks() -> torch.Tensor:
    """Three requests, of 3, 1 and 2 tokens."""
    return torch.arange(3) < torch.tensor([3, 1, 2])[:, None]


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("banks") / "notes.bank"
    with Bank.create(path, FINGERPRINT) as opened:
        for seed, room in enumerate(("a", "b", "a")):
            add(
                opened,
                [1 + (seed + i) % 5 for i in range(70)],
                namespace=room,
                prefix=f"{room}{seed}-",
                seed=seed,
            )
        opened.remove(["a0-3"], namespace="a")
    return path


VIEWS: list[dict[str, Any]] = [
    {},
    {"namespace": "b"},
    {"namespace": ["a", "b"]},
    {"version": 1},
    {"top_k": 500},
]


@pytest.mark.parametrize("count", [2, 4])
def test_every_view_reads_as_in_one_process(bank, count):
    def body():
        read, exact, asked = [], [], torch.tensor([[0, 69, -1], [5, 60, 2], [1, 1, 68]])
        for view in VIEWS:
            with sharded(bank, **view) as reader:
                read.append((reader.numbers, reader.read(LAYER, queries(3), masks())))
                exact.append(reader.exact_scores(LAYER, queries(3), masks(), asked))
        return read, exact, leading().seconds[LAYER]

    outcome = together(count, body)
    assert outcome.codes == [0] * count
    read, exact, seconds = outcome.result
    asked = torch.tensor([[0, 69, -1], [5, 60, 2], [1, 1, 68]])
    with Bank.open(bank) as opened:
        for view, (numbers, memory), scores in zip(VIEWS, read, exact, strict=True):
            whole = opened.reader(**{"top_k": 4} | view)
            assert torch.equal(numbers, whole.numbers)
            assert_equal(memory, whole.read(LAYER, queries(3), masks()))
            assert torch.equal(scores, whole.exact_scores(LAYER, queries(3), masks(), asked))
    assert seconds.reads == len(VIEWS)
    assert 0 < seconds.scoring < seconds.total
    assert seconds.overhead > 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_ranks_without_documents(tmp_path, count):
    path = tmp_path / "small.bank"
    with Bank.create(path, FINGERPRINT) as opened:
        add(opened, [2, 3, 1][:count])

    def body():
        with sharded(path) as reader:
            return len(reader), reader.read(LAYER, queries(3), masks())

    outcome = together(4, body)
    assert outcome.codes == [0] * 4
    length, memory = outcome.result
    assert length == count
    with Bank.open(path) as opened:
        whole = opened.reader(top_k=4).read(LAYER, queries(3), masks())
    assert torch.equal(memory.documents, whole.documents)
    assert torch.equal(memory.k, whole.k)


def test_payloads_apart_from_the_rest_change_nothing(bank):
    """The way tensors take between accelerators, with a second group of the CPU in its place."""

    def prepare(rank: int) -> None:
        ranks_module._data_group = lambda direct, timeout: torch.distributed.new_group(backend="gloo")

    def body():
        with sharded(bank) as reader:
            return reader.read(LAYER, queries(3), masks())

    outcome = together(3, body, prepare=prepare)
    assert outcome.codes == [0, 0, 0]
    with Bank.open(bank) as opened:
        assert_equal(outcome.result, opened.reader(top_k=4).read(LAYER, queries(3), masks()))


def test_an_error_of_one_rank_reaches_the_caller_who_may_go_on(bank, tmp_path):
    def body():
        told = []
        with sharded(bank) as reader:
            for layer in (LAYER, 2, LAYER):
                try:
                    told.append(reader.read(layer, queries(3), masks()).documents)
                except ConfigError as error:
                    told.append(str(error))
        return told

    outcome = together(2, body)
    assert outcome.codes == [0, 0]
    first, error, second = outcome.result
    assert torch.equal(first, second)
    assert "layer 2" in error


def test_a_damaged_segment_on_one_rank_names_the_rank(tmp_path):
    path = tmp_path / "damaged.bank"
    with Bank.create(path, FINGERPRINT) as opened:
        for seed in range(3):
            add(opened, [3] * 4, prefix=f"s{seed}-", seed=seed)
    damaged = path / "segments" / "000003.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])

    def body():
        with sharded(path) as reader:
            return reader.read(LAYER, queries(3), masks())

    outcome = together(3, body)
    assert isinstance(outcome.result, BankCorruptError)
    assert str(outcome.result).startswith("rank 2 (process ")
    assert "000003.safetensors is damaged" in str(outcome.result)
    assert outcome.codes == [1, 0, 0]


def test_a_rank_with_another_copy_of_the_bank_is_refused(tmp_path, monkeypatch):
    home, other = tmp_path / "home", tmp_path / "other"
    for folder, seed in ((home, 0), (other, 1)):
        folder.mkdir()
        with Bank.create(folder / "notes.bank", FINGERPRINT) as opened:
            add(opened, [2, 3, 1], seed=seed)

    def prepare(rank: int) -> None:
        if rank == 1:  # as on another host: the same path, other content
            home.rename(tmp_path / "hidden")
            other.rename(home)

    def body():
        with Bank.open(tmp_path / "hidden" / "notes.bank") as bank:
            bank.path = home / "notes.bank"
            view = {"namespace": None, "version": None, "now": 0.0, "top_k": 4}
            return ShardedReader.open(leading(), bank, view)

    outcome = together(2, body, prepare=prepare)
    assert isinstance(outcome.result, BankMismatchError)
    assert str(outcome.result).startswith("rank 1 (process ")
    assert "not the one of rank 0" in str(outcome.result)


# --- the engine -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), tiny_model())


def timeless(answer: Answer) -> Answer:
    usage = replace(answer.usage, seconds=0.0, route_seconds=0.0, answer_seconds=0.0)
    return replace(answer, usage=usage, rounds=tuple(replace(each, seconds=0.0) for each in answer.rounds))


def told_by(engine: MemoryEngine) -> tuple[Any, ...]:
    return (
        timeless(engine.ask(QUESTION)),
        timeless(engine.ask(QUESTION, namespace="b")),
        [timeless(answer) for answer in engine.ask_many([QUESTION, "rye bread", "Who sells the grey cat?"])],
        engine.search("rye bread", limit=5),
        engine.route("rye bread", limit=30, version=1),
    )


@pytest.fixture(scope="module")
def quoting(tmp_path_factory) -> Path:
    settings = {"extractive": True, "absent_answer": "The documents do not say"}
    return save_model(tmp_path_factory.mktemp("quoting"), tiny_model(**settings))


@pytest.mark.parametrize(
    ("count", "kind_of_model", "decoding"),
    [(2, "model", None), (4, "model", None), (2, "quoting", "router"), (2, "quoting", "generate")],
)
def test_an_engine_over_ranks_fills_and_asks_as_one(tmp_path, request, count, kind_of_model, decoding):
    model = request.getfixturevalue(kind_of_model)

    def fill_and_ask(engine: MemoryEngine) -> tuple[Any, ...]:
        reports = [engine.add(documents(30)), engine.add(documents(9, namespace="b"))]
        return *((r.added, r.passages, r.tokens) for r in reports), told_by(engine), type(engine)

    def body():
        with engine_class().open(tmp_path / "many.bank", model, id_decoding=decoding) as engine:
            return fill_and_ask(engine)

    outcome = together(count, body)
    assert outcome.codes == [0] * count, outcome.result
    with engine_class().open(tmp_path / "one.bank", model, id_decoding=decoding) as engine:
        *mine, kind = fill_and_ask(engine)
        assert kind is MemoryEngine
        alone = engine.bank.layout()
    *theirs, kind = outcome.result
    assert kind is ParallelEngine
    assert theirs == mine
    with Bank.open(tmp_path / "many.bank") as bank:
        assert bank.layout().rows == alone.rows
        assert bank.verify() == []


def test_questions_of_several_threads_are_answered_as_alone(tmp_path, model):
    asked = [QUESTION, "rye bread", "the grey cat", "the museum of clocks"]

    def body():
        with engine_class().open(tmp_path / "many.bank", model) as engine, ThreadPoolExecutor(4) as pool:
            engine.add(documents(20))
            return [timeless(answer) for answer in pool.map(engine.ask, asked)]

    outcome = together(2, body)
    with MemoryEngine.open(tmp_path / "many.bank", model) as engine:
        assert outcome.result == [timeless(engine.ask(question)) for question in asked]


def test_progress_counts_what_every_rank_encoded(tmp_path, model):
    def body():
        seen = []
        with engine_class().open(tmp_path / "many.bank", model, segment_documents=7) as engine:
            report = engine.add(documents(20), on_progress=seen.append)
        return [each.tokens for each in seen], seen[-1].documents, report.tokens

    tokens, stored, total = together(3, body).result
    assert tokens == sorted(tokens)
    assert (tokens[-1], stored) == (total, 20)


def test_a_rank_without_the_model_is_named(tmp_path, model):
    lost = tmp_path / "model"
    model.rename(lost)
    lost.rename(model)

    def body():
        with engine_class().open(tmp_path / "many.bank", tiny_model()) as engine:
            return engine.add(documents(4))

    outcome = together(2, body)
    assert str(outcome.result).startswith("rank 1 (process ")
    assert "no folder 'tiny'" in str(outcome.result)
    with Bank.open(tmp_path / "many.bank") as bank:
        assert bank.stats().documents == 0
    assert outcome.codes == [2, 0]


def test_a_bank_made_again_under_the_same_path_is_opened_again(tmp_path, model):
    path = tmp_path / "notes.bank"

    def body():
        counts = []
        for count in (3, 5):
            with engine_class().open(path, model) as engine:
                engine.add(documents(count))
                counts.append(len(engine.search("ferry", limit=9)))
            path.rename(tmp_path / f"was{count}.bank")
        return counts

    assert together(2, body).result == [3, 5]


def test_only_rank_0_opens_an_engine_over_ranks(tmp_path, model):
    with pytest.raises(EngineError, match="leads no ranks"):
        ParallelEngine.open(tmp_path / "x.bank", model)


def test_readers_nobody_holds_are_let_go(bank):
    def body():
        keys = []
        for _ in range(3):
            with sharded(bank) as reader:
                keys.append(reader._key)
            del reader
        return keys, leading().forgotten()

    keys, left = together(2, body).result
    assert left == keys[-1:]  # the others were told with the next view


def test_ranks_have_no_workers() -> None:
    nothing: Any = None
    with pytest.raises(ConfigError, match="workers is 2"):
        ParallelEngine(nothing, nothing, EngineConfig(workers=2))
