"""The same questions through every tier of the bank: the same answers, citations and searches."""

from dataclasses import replace
from pathlib import Path

import pytest

from memsparse.bank import TierConfig, keys, probing, tiers
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.loading import LoadedModel
from memsparse.types import Answer
from tests.engine.builders import SENTENCES, documents, tiny_model

CONFIGS = {
    "disk": TierConfig(device_bytes=0, host_bytes=0),
    **{name: TierConfig(routing_keys=name) for name in ("fp8", "int8", "int4", "binary")},
    "int8 from disk": TierConfig(routing_keys="int8", device_bytes=0),
    "index": TierConfig(index="cells", probes=10_000),
}
QUESTIONS = [sentence.replace(".", "?") for sentence in SENTENCES[:2]]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def quoting() -> LoadedModel:
    """The same weights, but answers are quotes."""
    return tiny_model(extractive=True, absent_answer="The documents do not say")


@pytest.fixture(scope="module")
def path(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 documents, five of them removed: more than are scored without a scan."""
    path = tmp_path_factory.mktemp("tiers") / "bank"
    with MemoryEngine.open(path, loaded, segment_documents=30) as engine:
        engine.add(
            [
                replace(document, text=f"{document.text} Note {index}.")
                for index, document in enumerate(documents(90))
            ]
        )
        engine.remove([document.id for document in documents(90)[10:60:10]])
    return path


def shown(answer: Answer) -> tuple:
    """What must not depend on tiers; whether there was anything to certify may."""
    rounds = [
        (item.numbers, item.text, [replace(layer, certified=None) for layer in item.routing])
        for item in answer.rounds
    ]
    return answer.text, answer.citations, answer.found, rounds


@pytest.mark.parametrize("model", ["loaded", "quoting"])
@pytest.mark.parametrize("mode", ["router", "generate"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_tier_gives_the_same_answers(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
    mode: str,
    model: str,
) -> None:
    loaded = request.getfixturevalue(model)
    monkeypatch.setattr(keys, "BLOCK_BYTES", {"cpu": 5000})
    monkeypatch.setattr(tiers, "WORTH_A_FILE", 0)
    monkeypatch.setattr(probing, "SMALLEST", 10)
    settings = {"id_decoding": mode, "max_new_tokens": 6}
    with (
        MemoryEngine.open(path, loaded, **settings) as plain,
        MemoryEngine.open(path, loaded, tiers=CONFIGS[name], **settings) as engine,
    ):
        for question in QUESTIONS:
            expected, found = plain.ask(question), engine.ask(question)
            assert shown(found) == shown(expected)
            assert all(layer.certified for item in found.rounds for layer in item.routing)
            for limit in (7, 1000):
                routed, certain = engine.route(question, limit=limit), plain.route(question, limit=limit)
                assert routed.hits == certain.hits
                assert [replace(layer, certified=None) for layer in routed.layers] == [
                    replace(layer, certified=None) for layer in certain.layers
                ]


def test_what_is_not_proven_is_told(loaded: LoadedModel, path: Path) -> None:
    config = TierConfig(routing_keys="binary", rescored=3)
    with MemoryEngine.open(path, loaded, tiers=config, max_new_tokens=6) as engine:
        answers = [engine.ask(question) for question in QUESTIONS]
    assert not all(layer.certified for answer in answers for item in answer.rounds for layer in item.routing)


def test_an_index_that_looks_into_a_few_cells_is_told(
    loaded: LoadedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found are documents with their exact scores, best first; only what is proven is called so."""
    monkeypatch.setattr(probing, "SMALLEST", 10)
    config = TierConfig(index="cells", probes=2)
    with (
        MemoryEngine.open(path, loaded, max_new_tokens=6) as plain,
        MemoryEngine.open(path, loaded, tiers=config, max_new_tokens=6) as engine,
    ):
        for question in QUESTIONS:
            exact = plain.route(question, limit=85)
            means = {hit.citation.number: hit.score for hit in exact.hits}
            for limit in (2, 7, 40):
                found = engine.route(question, limit=limit)
                assert len(found.hits) == limit
                scores = [hit.score for hit in found.hits]
                assert scores == [means[hit.citation.number] for hit in found.hits]
                assert scores == sorted(scores, reverse=True)
                for layer, every in zip(found.layers, exact.layers, strict=True):
                    told = dict(zip(every.numbers, every.scores, strict=True))
                    assert layer.scores == tuple(told[number] for number in layer.numbers)
                    assert list(layer.scores) == sorted(layer.scores, reverse=True)
                    assert layer.certified in (True, False)
                    if layer.certified:
                        assert layer.numbers == every.numbers[: len(layer.numbers)]
            layers = [layer for item in engine.ask(question).rounds for layer in item.routing]
            assert not all(layer.certified for layer in layers)
