import gc
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.engine.config import EngineConfig
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel
from memsparse.engine.model_runner import Extend, ModelRunner, Need, Prefill
from memsparse.engine.request import NOTHING_READ, Steps, Tell
from memsparse.engine.scheduler import Question, Scheduler
from memsparse.engine.session import Session
from memsparse.errors import BankCorruptError, EngineError, InputError
from memsparse.text import ROUTES, Prompt
from memsparse.types import Answer, MemoryKV, Usage
from tests.engine.builders import documents, tiny_model
from tests.ops.test_openmp import run as run_with_threads

QUESTIONS = (
    "Where is the cat?",
    "When does the ferry leave?",
    "Who keeps the keys of the lighthouse, and where does she keep them all winter?",
    "What is sold on Fridays at the bakery on Elm Street?",
    "Why?",
    "[3] <|im_end|> ?",
)
SPACES: tuple[str | tuple[str, ...] | None, ...] = (None, "north", "south", ("north", "south"), "nowhere")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"id_decoding": "router", "margin": 0.5},
    {"id_decoding": "generate", "max_rounds": 3},
    {"id_decoding": "router", "temperature": 0.9, "top_p": 0.9, "max_rounds": 2},
    {"id_decoding": "generate", "temperature": 1.5, "max_rounds": 2},
)


# --- what is asked together is answered as if alone ---------------------------------------------------------


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model(seed=3, gate=True)


@pytest.fixture(scope="module")
def engines(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[MemoryEngine]]:
    """One bank with two namespaces and three versions, opened with every setting."""
    place = tmp_path_factory.mktemp("banks") / "b.bank"
    with MemoryEngine.open(place, loaded) as engine:
        engine.add(documents(9, namespace="north"))
        engine.add(documents(5, namespace="south"))
        engine.remove(["d1", "d4"], namespace="north")
    opened = [MemoryEngine.open(place, loaded, max_new_tokens=10, **chosen) for chosen in SETTINGS]
    yield opened
    for engine in opened:
        engine.close()


def begin(engine: MemoryEngine, asked: tuple[str, Any, int | None]) -> Question:
    question, namespace, version = asked
    return engine._question(question, engine._reader(namespace, version))


def same(one: Answer, other: Answer) -> None:
    """Equal in everything but the time it took, scores to float tolerance."""
    assert (one.text, one.found, one.citations) == (other.text, other.found, other.citations)
    assert one.usage.prompt_tokens == other.usage.prompt_tokens
    assert one.usage.completion_tokens == other.usage.completion_tokens
    assert len(one.rounds) == len(other.rounds)
    for mine, theirs in zip(one.rounds, other.rounds, strict=True):
        assert (mine.numbers, mine.text) == (theirs.numbers, theirs.text)
        for here, there in zip(mine.routing, theirs.routing, strict=True):
            assert (here.layer, here.numbers, here.chunks) == (there.layer, there.numbers, there.chunks)
            assert here.scores == pytest.approx(there.scores, abs=2e-5)


@settings(max_examples=16, deadline=None)
@given(data=st.data())
def test_neighbours_do_not_change_an_answer(engines: list[MemoryEngine], data: st.DataObject) -> None:
    engine = engines[data.draw(st.integers(0, len(engines) - 1))]
    asked = data.draw(
        st.lists(
            st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(SPACES), st.sampled_from([None, 1, 2])),
            min_size=1,
            max_size=8,
        )
    )
    scheduler = Scheduler(
        engine._runner,
        max_batch=data.draw(st.integers(1, 5)),
        max_batch_tokens=data.draw(st.sampled_from([1, 20, 90, 300, 4000])),
    )
    tickets = scheduler.ask([begin(engine, each) for each in asked])
    for each, ticket in zip(asked, tickets, strict=True):
        same(ticket.result(), alone(engine, each))
    assert not scheduler._tickets


@cache
def alone(engine: MemoryEngine, asked: tuple[str, Any, int | None]) -> Answer:
    """What comes of a question that runs by itself and keeps nothing from round to round."""
    steps, runner = begin(engine, asked)(lambda piece: None), engine._runner
    try:
        need = next(steps)
        while True:
            if isinstance(need, Prefill):
                need = replace(need, after=None)
            need = steps.send(runner.run([need])[0])
    except StopIteration as end:
        return cast(Answer, end.value)


def test_the_mixes_read_and_answer_something(engines: list[MemoryEngine]) -> None:
    answers = [
        alone(engine, (question, namespace, None))
        for engine in engines
        for question in QUESTIONS
        for namespace in SPACES
    ]
    assert len({answer.text for answer in answers}) > 10
    assert any(answer.text == NOTHING_READ for answer in answers)
    assert len({len(answer.rounds) for answer in answers}) > 2


def test_requests_of_one_reader_share_its_reads(engines: list[MemoryEngine]) -> None:
    engine = engines[0]
    reader = Counting(engine._reader(None, None))
    scheduler = Scheduler(engine._runner, max_batch=4, max_batch_tokens=4000)
    scheduler.ask([engine._question(question, cast(Any, reader)) for question in QUESTIONS[:4]])
    assert reader.rows[:2] == [4, 4]  # the first round of all four: one read for each of two layers
    assert sum(reader.rows) == 2 * sum(len(alone(engine, (q, None, None)).rounds) for q in QUESTIONS[:4])


@dataclass
class Counting:
    """A reader that notes how many requests each read is for, and may break."""

    reader: Any
    rows: list[int] = field(default_factory=list)
    broken_at: int | None = None

    @property
    def numbers(self) -> torch.Tensor:
        return cast(torch.Tensor, self.reader.numbers)

    def read(self, layer_idx: int, routing_q: torch.Tensor, query_mask: torch.Tensor) -> MemoryKV:
        self.rows.append(len(routing_q))
        if layer_idx == self.broken_at:
            raise BankCorruptError("segment 7 is damaged")
        return cast(MemoryKV, self.reader.read(layer_idx, routing_q, query_mask))

    def exact_scores(self, *args: Any) -> torch.Tensor:
        return cast(torch.Tensor, self.reader.exact_scores(*args))


# --- errors stay with the question they belong to -----------------------------------------------------------


@pytest.mark.parametrize("layer", [2, 3])
def test_a_failing_question_leaves_its_neighbours_alone(engines: list[MemoryEngine], layer: int) -> None:
    engine = engines[0]
    broken = Counting(engine._reader(None, None), broken_at=layer)
    sound = [begin(engine, (question, "north", None)) for question in QUESTIONS[:4]]
    bad = engine._question(QUESTIONS[0], cast(Any, broken))
    scheduler = Scheduler(engine._runner, max_batch=5, max_batch_tokens=4000)
    tickets = scheduler.ask([*sound[:2], bad, *sound[2:]])
    for question, ticket in zip(QUESTIONS[:4], [*tickets[:2], *tickets[3:]], strict=True):
        same(ticket.result(), alone(engine, (question, "north", None)))
    with pytest.raises(BankCorruptError, match="segment 7"):
        tickets[2].result()


def test_many_questions_with_errors(engines: list[MemoryEngine]) -> None:
    engine = engines[0]
    asked = [QUESTIONS[0], " ", QUESTIONS[1], "cat " * 5000]
    answers = engine.ask_many(asked, namespace="north", return_errors=True)
    for at in (0, 2):
        assert isinstance(answers[at], Answer)
        same(cast(Answer, answers[at]), alone(engine, (asked[at], "north", None)))
    assert isinstance(answers[1], InputError)
    assert isinstance(answers[3], InputError)
    with pytest.raises(InputError, match="is empty"):
        engine.ask_many(asked, namespace="north")
    assert engine.ask_many([]) == []


def test_a_pass_too_large_for_the_machine_is_taken_apart(engines: list[MemoryEngine]) -> None:
    engine = engines[1]

    class Small:
        """Runs out of memory with more than one request."""

        def __init__(self) -> None:
            self.failed = 0

        def run(self, needs: Sequence[Any]) -> list[Session]:
            if len(needs) > 1:
                self.failed += 1
                raise torch.OutOfMemoryError("out of memory")
            return engine._runner.run(needs)

    runner = Small()
    scheduler = Scheduler(cast(ModelRunner, runner), max_batch=3, max_batch_tokens=4000)
    asked = [(question, None, None) for question in QUESTIONS[:3]]
    for each, ticket in zip(asked, scheduler.ask([begin(engine, each) for each in asked]), strict=True):
        same(ticket.result(), alone(engine, each))
    assert runner.failed


# --- who runs when ------------------------------------------------------------------------------------------


@dataclass
class FakeRunner:
    """Runs nothing; notes the names of what it was given together."""

    passes: list[list[str]] = field(default_factory=list)
    before: Callable[[list[str]], None] = lambda names: None

    def known(self, prompt: Prompt, after: Any) -> int:
        """Of every prompt all but the last token has been run."""
        return len(prompt.ids) - 1

    def run(self, needs: Sequence[Need]) -> list[Session]:
        sessions = [
            need.session if isinstance(need, Extend) else cast(Session, need.reader) for need in needs
        ]
        names = [cast(Any, session).name for session in sessions]
        self.before(names)
        self.passes.append(names)
        return sessions


@dataclass
class FakeSession:
    name: str


def steps_of(name: str, sizes: Sequence[int], *, text: str = "", prompts: Collection[int] = ()) -> Question:
    """A question that needs blocks of so many tokens, and tells a letter of its text after each.

    Args:
        prompts: places of the blocks that are prompts.
    """

    def steps(tell: Tell) -> Steps:
        session = cast(Any, FakeSession(name))
        for at, size in enumerate(sizes):
            if at in prompts:
                prompt = Prompt(ids=[0] * size, roles=[ROUTES] * size, first_position=0)
                yield Prefill(prompt=prompt, reader=session)
            else:
                yield Extend(session=session, ids=[0] * size)
            if text[at : at + 1]:
                tell(text[at])
        usage = Usage(prompt_tokens=0, completion_tokens=0, route_seconds=0.0, seconds=0.0)
        return Answer(text=f"{name}: {text}", citations=(), rounds=(), usage=usage)

    return steps


def scheduler_of(runner: FakeRunner, *, max_batch: int = 4, max_batch_tokens: int = 100) -> Scheduler:
    return Scheduler(cast(ModelRunner, runner), max_batch=max_batch, max_batch_tokens=max_batch_tokens)


def test_questions_join_and_leave_at_every_step() -> None:
    runner = FakeRunner()
    scheduler = scheduler_of(runner, max_batch=2)
    asked = [steps_of("a", [5, 1, 1]), steps_of("b", [5]), steps_of("c", [5, 1]), steps_of("d", [5])]
    assert [ticket.result().text for ticket in scheduler.ask(asked)] == ["a: ", "b: ", "c: ", "d: "]
    assert runner.passes == [["a", "b"], ["a", "c"], ["a", "c"], ["d"]]


def test_a_step_stays_within_its_tokens_and_the_oldest_goes_first() -> None:
    runner = FakeRunner()
    asked = [steps_of("a", [60, 1]), steps_of("b", [60, 1]), steps_of("c", [30, 1])]
    scheduler_of(runner).ask(asked)
    assert runner.passes == [["a", "c"], ["a", "b", "c"], ["b"]]


def test_few_prompts_wait_two_steps_for_more_of_them() -> None:
    runner = FakeRunner()
    asked = [steps_of(name, [1] * 8, prompts=[0, 1, 3] if name == "a" else [0]) for name in "abcd"]
    scheduler_of(runner).ask(asked)
    everybody, others = ["a", "b", "c", "d"], ["b", "c", "d"]
    waits = [others, others, everybody]
    assert runner.passes == [everybody, *waits, everybody, *waits, *[["a"]] * 4]


@pytest.mark.parametrize(
    ("prompts", "others", "waits"), [(1, 1, False), (2, 2, False), (1, 2, True), (2, 3, True), (3, 2, False)]
)
def test_prompts_wait_while_they_are_fewer(prompts: int, others: int, waits: bool) -> None:
    runner = FakeRunner()
    asked = [steps_of(f"p{i}", [1], prompts=[0]) for i in range(prompts)]
    asked += [steps_of(f"o{i}", [1, 1, 1]) for i in range(others)]
    scheduler_of(runner, max_batch=6).ask(asked)
    without = [f"o{i}" for i in range(others)]
    whole = [*(f"p{i}" for i in range(prompts)), *without]
    assert runner.passes == ([without, without, whole] if waits else [whole, without, without])


def test_a_prompt_that_did_not_fit_does_not_wait_anew() -> None:
    runner = FakeRunner()
    asked = [steps_of(name, [1, 1, 33] * 3) for name in "abc"] + [steps_of("d", [40], prompts=[0])]
    scheduler_of(runner).ask(asked)
    assert [at for at, names in enumerate(runner.passes) if "d" in names] == [3]


def test_a_prompt_that_fits_into_no_step_waits_for_nobody() -> None:
    runner = FakeRunner()
    asked = [steps_of("long", [150], prompts=[0]), *(steps_of(name, [1, 1]) for name in "abc")]
    scheduler_of(runner).ask(asked)
    assert runner.passes == [["long"], ["a", "b", "c"], ["a", "b", "c"]]


TOKENS = st.tuples(st.integers(1, 150), st.just(False))
PROMPTS = st.tuples(st.integers(1, 100), st.just(True))


@settings(max_examples=100, deadline=None)
@given(
    blocks=st.lists(st.lists(TOKENS | PROMPTS, max_size=6), min_size=1, max_size=8),
    max_batch=st.integers(1, 6),
)
def test_nobody_starves(blocks: list[list[tuple[int, bool]]], max_batch: int) -> None:
    runner = FakeRunner()
    asked = []
    for i, each in enumerate(blocks):
        prompts = [at for at, (_, is_prompt) in enumerate(each) if is_prompt]
        asked.append(steps_of(str(i), [size for size, _ in each], prompts=prompts))
    tickets = scheduler_of(runner, max_batch=max_batch).ask(asked)
    assert all(ticket.done and ticket.result() for ticket in tickets)
    assert sorted(name for names in runner.passes for name in names) == sorted(
        str(i) for i, each in enumerate(blocks) for _ in each
    )
    left = {str(i): list(each) for i, each in enumerate(blocks)}
    waited = 0
    for names in runner.passes:
        oldest = next(name for name, rest in left.items() if rest)
        assert 0 < len(names) <= max_batch
        if names[0] == oldest:  # it has a place in every step, so it is never held up for long
            waited = 0
        else:
            assert left[oldest][0][1], "only prompts wait"
            waited += 1
            assert waited <= 2
        tokens = [left[name].pop(0)[0] for name in names]
        assert sum(tokens) <= 100 or len(names) == 1


def test_the_text_of_a_stream_comes_piece_by_piece() -> None:
    runner = FakeRunner()
    pieces = []
    for piece in scheduler_of(runner).stream(steps_of("a", [1, 1, 1], text="xyz")):
        pieces.append((piece if isinstance(piece, str) else piece.text, len(runner.passes)))
    assert pieces == [("x", 1), ("y", 2), ("z", 3), ("a: xyz", 3)]


def test_a_closed_stream_leaves_nothing_behind() -> None:
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    never = scheduler.stream(steps_of("never", [1]))
    stream = scheduler.stream(steps_of("a", [1] * 9, text="abcdefghi"))
    assert next(stream) == "a"
    cast(Any, stream).close()
    del never
    assert scheduler.ask([steps_of("b", [1, 1])])[0].result().text == "b: "
    assert runner.passes == [["a"], ["b"], ["b"]]
    assert not scheduler._tickets
    assert not scheduler._waiting


def test_a_stream_nobody_pulls_goes_on_beside_others() -> None:
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    stream = scheduler.stream(steps_of("a", [1] * 3, text="abc"))
    assert next(stream) == "a"
    scheduler.ask([steps_of("b", [1] * 9)])
    assert runner.passes[1:3] == [["a", "b"]] * 2
    assert [piece for piece in stream if isinstance(piece, str)] == ["b", "c"]
    assert len(runner.passes) == 10


# --- many threads -------------------------------------------------------------------------------------------


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60  # on a machine that may be busy
    while not holds():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.001)


def test_threads_share_passes() -> None:
    everybody = 6
    runner = FakeRunner(before=lambda names: wait_until(lambda: arrived() or len(runner.passes) > 0))
    scheduler = scheduler_of(runner, max_batch=8)

    def arrived() -> bool:  # the first pass waits until the others stand in line
        return len(scheduler._tickets) == everybody

    def ask(name: str) -> str:
        if name in "ab":
            *pieces, answer = scheduler.stream(steps_of(name, [1, 1, 1], text="xyz"))
            assert pieces == ["x", "y", "z"]
            return cast(Answer, answer).text
        return scheduler.ask([steps_of(name, [1] * 4)])[0].result().text

    with ThreadPoolExecutor(everybody) as pool:
        texts = list(pool.map(ask, "abcdef"))
    assert texts == ["a: xyz", "b: xyz", *(f"{name}: " for name in "cdef")]
    assert len(runner.passes) < 22 / 2  # that many needs, of which most ran together
    assert max(map(len, runner.passes)) >= everybody - 1
    assert (scheduler._waiting, scheduler._leading) == ([], None)
    scheduler._enter([])
    assert scheduler._tickets == {}


def test_who_has_its_answer_keeps_no_openmp_threads() -> None:
    run_with_threads("""
from tests.engine.test_scheduler import FakeRunner, scheduler_of, steps_of
release_threads()
before, stay = threads(), threading.Event()
scheduler = scheduler_of(FakeRunner(before=lambda names: numbers.sin()))
def ask(streams):
    if streams:
        list(scheduler.stream(steps_of("a", [1, 1])))
    else:
        scheduler.ask([steps_of("b", [1, 1])])
    asked.release()
    stay.wait()
asked = threading.Semaphore(0)
others = [threading.Thread(target=ask, args=(streams,), daemon=True) for streams in (False, True)]
for other in others:
    other.start()
for other in others:
    asked.acquire()
settles(before + len(others))
stay.set()
""")


def test_threads_of_an_engine_get_the_answers_of_one(engines: list[MemoryEngine]) -> None:
    engine = engines[0]
    asked = [(question, namespace) for question in QUESTIONS for namespace in ("north", "south")]

    def ask(at: int) -> Answer:
        question, namespace = asked[at]
        if at % 3:
            return engine.ask(question, namespace=namespace)
        *_, answer = engine.stream(question, namespace=namespace)
        return cast(Answer, answer)

    with ThreadPoolExecutor(6) as pool:
        for each, answer in zip(asked, pool.map(ask, range(len(asked))), strict=True):
            same(answer, alone(engine, (*each, None)))


def test_an_interrupted_thread_takes_down_only_what_it_ran() -> None:
    interrupted, everybody_asks = threading.Event(), threading.Event()

    def interrupt_once(names: list[str]) -> None:
        if not interrupted.is_set():
            assert everybody_asks.wait(60)
            if len(names) == 2:
                interrupted.set()
                raise KeyboardInterrupt

    runner = FakeRunner(before=interrupt_once)
    scheduler = scheduler_of(runner, max_batch=2)

    def ask(name: str) -> str:
        try:
            return scheduler.ask([steps_of(name, [1, 1, 1])])[0].result().text
        except (EngineError, KeyboardInterrupt) as error:
            return type(error).__name__

    with ThreadPoolExecutor(3) as pool:
        futures = []
        for count, name in enumerate("abc", 1):
            futures.append(pool.submit(ask, name))
            wait_until(lambda count=count: len(scheduler._tickets) == count)  # type: ignore[misc]
        everybody_asks.set()
        told = [future.result(timeout=20) for future in futures]
    assert told == ["KeyboardInterrupt", "EngineError", "c: "]
    assert scheduler.ask([steps_of("d", [1])])[0].result().text == "d: "


# --- long prompts -------------------------------------------------------------------------------------------


def test_a_long_prompt_takes_several_steps_and_others_go_on_meanwhile(engines: list[MemoryEngine]) -> None:
    engine, log = engines[0], []

    class Noting:
        def __init__(self) -> None:
            self.known = engine._runner.known

        def begin(self, *args: Any, **chosen: Any) -> Any:
            log.append(("piece", chosen["tokens"]))
            return engine._runner.begin(*args, **chosen)

        def run(self, needs: Sequence[Any]) -> list[Session]:
            log.append(("pass", sum(need.tokens for need in needs)))
            return engine._runner.run(needs)

    long = ("Who " + "and who " * 60 + "keeps the keys?", "north", None)
    short = (QUESTIONS[0], "north", None)
    scheduler = Scheduler(cast(ModelRunner, Noting()), max_batch=4, max_batch_tokens=100)
    tickets = scheduler.ask([begin(engine, each) for each in (short, long)])
    for each, ticket in zip((short, long), tickets, strict=True):
        same(ticket.result(), alone(engine, each))
    pieces = [at for at, (kind, tokens) in enumerate(log) if kind == "piece"]
    assert len(pieces) >= 2
    assert {tokens for kind, tokens in log if kind == "piece"} == {50}
    assert any(log[later - 1][0] == "pass" for _, later in pairwise(pieces))


def test_settings_of_batches_are_checked() -> None:
    for name in ("max_batch", "max_batch_tokens"):
        with pytest.raises(InputError, match=name):
            EngineConfig(**{name: 0})


def test_a_stream_the_collector_closes_takes_no_lock() -> None:
    scheduler = scheduler_of(FakeRunner())
    stream = scheduler.stream(steps_of("a", [1, 1, 1], text="xyz"))
    assert next(stream) == "x"
    with scheduler._mutex:  # as if the collector ran while this thread holds it
        stream.close()
    scheduler._enter([])
    assert scheduler._tickets == {}


def test_an_error_keeps_nothing_of_the_pass_alive() -> None:
    class Heavy:
        """Stands for activations and caches."""

    held: list[weakref.ref[Heavy]] = []

    def failing(names: list[str]) -> None:
        heavy = Heavy()
        held.append(weakref.ref(heavy))
        raise EngineError("broken")

    gc.disable()
    try:
        scheduler = scheduler_of(FakeRunner(before=failing))
        [ticket] = scheduler.ask([steps_of("a", [1])])
        assert str(ticket.error) == "broken"
        assert held
        assert all(each() is None for each in held)
        with pytest.raises(EngineError, match="broken") as told:
            ticket.result()
        assert any(entry.name == "failing" for entry in told.traceback)
    finally:
        gc.enable()


def test_whoever_is_interrupted_while_leading_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = scheduler_of(FakeRunner())

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scheduler.ask([steps_of("a", [1])])
    assert (scheduler._leading, scheduler._waiting) == (None, [])
    assert scheduler.ask([steps_of("b", [1])])[0].result().text == "b: "
