from pathlib import Path

import pytest

from memsparse.engine.engine import MemoryEngine
from memsparse.evaluation.model_system import SHOWN, ModelSystem, layer_ranking, layer_record
from memsparse.evaluation.questions import Question
from memsparse.evaluation.systems import Answerer, LayerRanking, Retriever
from memsparse.types import Document, LayerRouting
from tests.engine.builders import documents, tiny_model

QUESTION = Question(id="q", text="Where is the cat?", positive_ids=("d1",))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> ModelSystem:
    folder: Path = tmp_path_factory.mktemp("system")
    engine = MemoryEngine.open(folder / "b", tiny_model(), max_new_tokens=12, max_document_tokens=40)
    made = ModelSystem(engine)
    long = Document(id="long", text=" ".join(f"Sentence {i} is about the cat." for i in range(30)))
    made.add([*documents(9), long])
    return made


def test_it_ranks_and_answers(system: ModelSystem) -> None:
    assert isinstance(system, Retriever)
    assert isinstance(system, Answerer)


def test_documents_are_ranked_once_each_however_many_parts_they_have(system: ModelSystem) -> None:
    assert system.engine.bank.stats().passages > 12
    whole = system.retrieve(QUESTION, 100)
    assert sorted(whole.documents) == ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "long"]
    assert list(whole.scores) == sorted(whole.scores, reverse=True)
    best: dict[str, float] = {}
    for hit in system.engine.search(QUESTION.text, limit=100):
        best.setdefault(hit.citation.document_id, hit.score)
    assert dict(zip(whole.documents, whole.scores, strict=True)) == best
    few = system.retrieve(QUESTION, 3)
    assert few.documents == whole.documents[:3]
    for layer in whole.layers:
        assert sorted(layer.documents) == sorted(whole.documents)
        assert list(layer.scores) == sorted(layer.scores, reverse=True)
    assert [layer.layer for layer in few.layers] == list(system.engine.model.config.memory_layers)


def test_a_reply_names_documents_and_keeps_the_trace(system: ModelSystem) -> None:
    reply = system.answer(QUESTION)
    answer = system.engine.ask(QUESTION.text)
    assert (reply.text, reply.found) == (answer.text, answer.found)
    assert set(reply.cited) == {citation.document_id for citation in answer.citations}
    assert reply.tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    for item, given in zip(reply.rounds, answer.rounds, strict=True):
        assert item["numbers"] == list(given.numbers)
        assert item["documents"] == [p.document_id for p in system.engine.bank.passages(given.numbers)]
        assert [row["layer"] for row in item["routing"]] == [layer.layer for layer in given.routing]
        assert all(len(row["chunks"]) <= len(row["documents"]) for row in item["routing"])


def test_the_best_part_of_a_document_stands_for_it(system: ModelSystem) -> None:
    ids = {number: info.id for info in system.engine.bank.documents() for number in info.numbers}
    parts = [number for number, id_ in ids.items() if id_ == "long"]
    routing = LayerRouting(layer=2, numbers=(parts[1], 0, parts[0]), scores=(0.9, 0.5, 0.4), chunks=(3, 1))
    ranking = layer_ranking(routing, ids)
    assert (ranking.documents, ranking.scores, ranking.chunks) == (("long", "d0"), (0.9, 0.5), (3, 1))


def test_a_record_names_the_best_documents_of_a_layer() -> None:
    ids, scores = tuple(f"d{i}" for i in range(SHOWN + 4)), tuple(1 / 3 for _ in range(SHOWN + 4))
    told = layer_record(LayerRanking(layer=2, documents=ids, scores=scores, chunks=(4, 0)))
    assert told == {
        "layer": 2,
        "documents": list(ids[:SHOWN]),
        "scores": [0.33333] * SHOWN,
        "chunks": [4, 0],
    }


def test_documents_added_later_are_known(tmp_path: Path) -> None:
    with MemoryEngine.open(tmp_path / "b", tiny_model(), max_new_tokens=8) as engine:
        system = ModelSystem(engine)
        system.add(documents(2))
        assert len(system.retrieve(QUESTION, 10).documents) == 2
        system.add(documents(5))
        assert sorted(system.retrieve(QUESTION, 10).documents) == ["d0", "d1", "d2", "d3", "d4"]
