from collections.abc import Iterator

import pytest

from memsparse.engine.engine import MemoryEngine
from memsparse.errors import InputError
from memsparse.evaluation.text_reader import TextReader
from memsparse.types import Document
from tests.tiny import save_tiny_model

QUESTION = "where is the kestrel moored?"
SENTENCE = "the kestrel is moored in the harbour of sarno."


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryEngine]:
    folder = tmp_path_factory.mktemp("reader")
    model = save_tiny_model(folder / "model", max_position_embeddings=1024, max_document_tokens=96)
    with MemoryEngine.open(folder / "bank", model, max_new_tokens=8) as opened:
        yield opened


def document(id_: str, sentences: int = 1) -> Document:
    return Document(id=id_, title="sarno", text=" ".join([SENTENCE] * sentences))


def test_a_reply_tells_what_was_read_and_what_it_took(engine: MemoryEngine) -> None:
    documents = [document("long", 8), document("short")]
    reply = TextReader(engine).read(QUESTION, documents)
    answer = engine.read(QUESTION, documents)
    assert reply.text == answer.text
    assert reply.found == answer.found
    assert reply.tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert reply.seconds > 0
    assert set(reply.cited) <= {"long", "short"}
    assert len(set(reply.cited)) == len(reply.cited)
    read = reply.rounds[0]
    assert read["numbers"] == list(range(1, len(read["numbers"]) + 1))
    assert len(read["numbers"]) > 2
    assert read["documents"] == ["long"] * (len(read["numbers"]) - 1) + ["short"]
    assert [item["routing"] for item in reply.rounds] == [[]] * len(answer.rounds)


def test_its_count_is_the_prompts_own(engine: MemoryEngine) -> None:
    reader = TextReader(engine)
    documents = [document(str(i)) for i in range(8)]
    costs = [reader.costs(each, first=first) for first, each in enumerate(documents, start=1)]
    assert all(len(each) == 1 for each in costs)
    before = len(engine.model.prompts.head()) + engine.model.config.top_k_documents
    beside = reader.context - reader.room(QUESTION) - before - 8
    read = engine.read(QUESTION, documents).usage.prompt_tokens
    assert read <= beside + sum(map(sum, costs)) <= read + len(documents)


def test_what_does_not_fit_is_left_out_worst_first(engine: MemoryEngine) -> None:
    reader = TextReader(engine)
    documents = [document(str(i)) for i in range(60)]
    kept = reader.fitting(QUESTION, documents)
    assert kept == documents[: len(kept)]
    assert 1 < len(kept) < 60
    cost = sum(reader.costs(documents[len(kept)], first=len(kept) + 1))
    used = sum(sum(reader.costs(each, first=number)) for number, each in enumerate(kept, start=1))
    assert used <= reader.room(QUESTION) < used + cost
    reply = reader.read(QUESTION, documents)
    assert reply.rounds[0]["documents"] == [each.id for each in kept]
    assert reply.tokens <= reader.context
    with pytest.raises(InputError):
        reader.read_all(QUESTION, documents)


def test_a_long_document_behind_others_is_left_out_whole(engine: MemoryEngine) -> None:
    documents = [document("a"), document("long", 40), document("b")]
    assert TextReader(engine).fitting(QUESTION, documents) == [documents[0]]


def test_of_a_best_document_that_does_not_fit_the_beginning_is_read(engine: MemoryEngine) -> None:
    reader = TextReader(engine)
    long = Document(id="long", text=" ".join(f"{SENTENCE} {i}." for i in range(60)), namespace="logs")
    (kept,) = reader.fitting(QUESTION, [long, document("b")])
    assert kept.id == "long"
    assert kept.namespace == "logs"
    assert long.text.startswith(kept.text)
    assert len(SENTENCE) < len(kept.text) < len(long.text)
    assert reader.read(QUESTION, [long]).rounds[0]["documents"][0] == "long"


def test_a_context_too_short_for_anything_is_one_clear_line(engine: MemoryEngine) -> None:
    question = "where is the kestrel moored " * 40
    with pytest.raises(
        InputError, match="document 'a' fits beside the question; this model takes 1024 tokens"
    ):
        TextReader(engine).read(question, [document("a")])


def test_nothing_to_read_is_no_answer_and_runs_nothing(engine: MemoryEngine) -> None:
    reply = TextReader(engine).read(QUESTION, [])
    assert (reply.found, reply.cited, reply.tokens, reply.rounds) == (False, (), 0, ())
    assert reply.text == engine.ask(QUESTION).text  # of an empty bank
