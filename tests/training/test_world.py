import importlib.machinery
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from memsparse.errors import ConfigError
from memsparse.training.frames import CONSIDER, FACT_FRAMES, FRAMES, KEYWORDS
from memsparse.training.name_words import ADJECTIVES, FIRST_NAMES, NOUNS
from memsparse.training.names import Names, split_of
from memsparse.training.needle_forms import FORMS
from memsparse.training.phrasings import Pool, pool, told
from memsparse.training.relations import GROUP_OF, RELATIONS
from memsparse.training.values import VALUES
from memsparse.training.world import DEFAULT_MIX, Question, World, generate_world

SPLITS = ("train", "heldout")
KINDS = ("one_hop", "two_hop", "three_hop", "needle", "absent")
HOPS = {"one_hop": 1, "needle": 1, "two_hop": 2, "three_hop": 3, "absent": 0}
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make-library"


def worlds(split: str, count: int = 6) -> list[World]:
    return [generate_world(seed, documents=96, questions=160, split=split) for seed in range(count)]


def all_pools() -> list[Pool]:
    relations = {id(relation): relation for table in RELATIONS.values() for relation in table.values()}
    pools = [*FRAMES.values(), CONSIDER, FACT_FRAMES, KEYWORDS]
    for relation in (*relations.values(), *(form.wording for form in FORMS)):
        pools += [relation.facts, relation.questions, relation.phrases]
    return pools


def only(kind: str, **settings: object) -> list[Question]:
    world = generate_world(11, documents=240, questions=80, mix={kind: 1.0}, **settings)
    return list(world.questions)


@pytest.mark.parametrize("split", SPLITS)
def test_equal_seeds_give_equal_worlds_and_others_do_not(split):
    first = generate_world(7, split=split)
    assert first == generate_world(7, split=split)
    assert first.documents != generate_world(8, split=split).documents


@pytest.mark.parametrize("documents", [1, 2, 3, 5, 8, 64, 2000])
@pytest.mark.parametrize("split", SPLITS)
def test_any_size_has_as_many_documents_and_questions_as_asked(documents, split):
    world = generate_world(3, documents=documents, questions=40, split=split)
    assert [document.id for document in world.documents] == [f"w3-{i}" for i in range(documents)]
    assert len(world.questions) == 40


def test_no_questions_may_be_asked_for():
    assert generate_world(1, documents=8, questions=0).questions == ()


@pytest.mark.parametrize("split", SPLITS)
def test_titles_are_unique_and_told_by_the_text(split):
    world = generate_world(5, documents=2000, questions=1, split=split)
    titles = [document.title.lower() for document in world.documents if document.title]
    assert len(set(titles)) == len(titles)
    for document in world.documents:
        assert document.text
        assert len(document.text.split()) <= 40
        if document.metadata["kind"] != "note":
            assert document.title in document.text


@pytest.mark.parametrize("max_words", [24, 33, 90])
def test_texts_keep_to_max_words_and_always_say_something(max_words):
    for split in SPLITS:
        world = generate_world(9, documents=1000, questions=200, split=split, max_words=max_words)
        lengths = [len(document.text.split()) for document in world.documents]
        assert max(lengths) <= max_words
        assert min(lengths) >= 3


@pytest.mark.parametrize("split", SPLITS)
def test_answers_and_steps_are_verbatim_and_lead_to_the_next_document(split):
    for world in worlds(split):
        by_id = {document.id: document for document in world.documents}
        for question in world.questions:
            assert len(question.chain) == len(question.steps) == HOPS[question.kind]
            if question.kind == "absent":
                assert question.answers == ()
                continue
            chain = [by_id[document_id] for document_id in question.chain]
            assert len(set(question.chain)) == len(chain)
            assert question.steps[-1] == question.answers[0]
            assert all(answer in chain[-1].text for answer in question.answers)
            for position, step in enumerate(question.steps):
                assert step in chain[position].text
                assert all(step not in earlier.text for earlier in chain[:position])
                if position + 1 < len(chain):
                    assert chain[position + 1].title in ("", step)
                    assert step in chain[position + 1].text


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_names_its_first_document_and_not_the_later_ones(split):
    for world in worlds(split):
        by_id = {document.id: document for document in world.documents}
        for question in world.questions:
            if question.kind in ("one_hop", "two_hop", "three_hop"):
                title = by_id[question.chain[0]].title
                if not title:
                    continue
                assert title in question.text
                assert (
                    question.answers[0] not in question.text.replace(title, "") or question.kind == "one_hop"
                )
                later = [by_id[document_id].title for document_id in question.chain[1:]]
                assert not [name for name in later if name and name in question.text.replace(title, "")]


def test_equal_questions_never_have_different_answers():
    for split in SPLITS:
        answers: dict[str, tuple[str, ...]] = {}
        for question in generate_world(2, documents=400, questions=3000, split=split).questions:
            assert answers.setdefault(question.text, question.answers) == question.answers


def test_questions_are_not_repeated_while_there_are_others():
    texts = [question.text for question in generate_world(4, documents=300, questions=300).questions]
    assert len(set(texts)) == len(texts)


def test_kinds_follow_the_mix():
    questions = generate_world(1, documents=2000, questions=4000).questions
    counts = Counter(question.kind for question in questions)
    for kind, share in DEFAULT_MIX.items():
        assert abs(counts[kind] / len(questions) - share) < 0.04


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_kind_can_be_asked_for(kind):
    assert {question.kind for question in only(kind)} == {kind}


def test_a_world_of_needles_holds_only_notes_and_about_a_fifth_otherwise():
    needles = generate_world(1, documents=50, mix={"needle": 1.0})
    assert {document.metadata["kind"] for document in needles.documents} == {"note"}
    kinds = Counter(document.metadata["kind"] for document in generate_world(1, documents=1000).documents)
    assert 0.17 <= kinds["note"] / 1000 <= 0.23
    assert kinds["person"] > 200


def test_a_small_world_falls_back_to_fewer_hops():
    world = generate_world(1, documents=1, questions=10, mix={"three_hop": 1.0})
    assert {question.kind for question in world.questions} == {"one_hop"}


@pytest.mark.parametrize("split", SPLITS)
def test_absent_questions_are_not_among_the_answerable_ones(split):
    """Asking everything a world can answer, by every phrasing, never yields a question called absent."""
    for seed in range(4):
        arguments = {"documents": 12, "split": split}
        absent = {
            question.text
            for question in generate_world(
                seed, questions=300, mix={"one_hop": 0.5, "absent": 0.5}, **arguments
            ).questions
            if question.kind == "absent"
        }
        answerable = {
            question.text
            for question in generate_world(seed, questions=3000, mix={"one_hop": 1.0}, **arguments).questions
        }
        assert len(absent) > 50
        assert len(answerable) > 100
        assert not absent & answerable


@pytest.mark.parametrize("split", SPLITS)
def test_an_absent_question_is_about_a_document_that_does_not_tell(split):
    """The document it names, where there is one, answers no question of the same text."""
    about = 0
    for seed in range(6):
        arguments = {"documents": 60, "split": split}
        absent = generate_world(seed, questions=200, mix={"absent": 1.0}, **arguments)
        by_id = {document.id: document for document in absent.documents}
        for question in absent.questions:
            if question.about:
                about += 1
                document = by_id[question.about]
                subject = document.title.lower()
                assert not subject or subject in question.text.lower() or document.metadata["kind"] == "note"
    assert about > 600


def test_heldout_names_never_occur_in_train_worlds():
    train = worlds("train", 12)
    heldout = worlds("heldout", 12)
    titles = {document.title.lower() for world in heldout for document in world.documents if document.title}
    train_titles = {document.title.lower() for world in train for document in world.documents}
    train_text = "\n".join(document.text.lower() for world in train for document in world.documents)
    assert not titles & train_titles
    assert len(titles) > 900
    titles -= {name.lower() for name in FIRST_NAMES}  # a town may be called Mina
    assert not [title for title in titles if f" {title} " in train_text]


@pytest.mark.parametrize("split", SPLITS)
def test_invented_words_and_pairs_belong_to_their_split(split):
    names = Names(Random(0), split)
    assert {split_of(names.word()) for _ in range(300)} == {split}
    assert {split_of(names.pair()) for _ in range(300)} == {split}
    assert {split_of(names.pair("-").replace("-", " ")) for _ in range(100)} == {split}


def test_millions_of_words_exist_and_people_share_surnames():
    names = Names(Random(1), "train")
    assert len({names.word() for _ in range(20_000)}) > 18_500
    surnames = Counter(names.unique("person").split()[-1] for _ in range(300))
    assert surnames.most_common(1)[0][1] >= 2


def test_reserved_sentences_occur_in_heldout_worlds_only():
    relations = [relation for table in RELATIONS.values() for relation in table.values()]
    facts = [relation.facts for relation in (*relations, *(form.wording for form in FORMS))]
    known = "\n".join(text for each in all_pools() for text in each.train).lower()
    reserved = {longest_piece(text) for each in facts for text in each.reserved}
    pieces = [piece for piece in reserved if piece.count(" ") >= 3 and piece not in known]
    assert len(pieces) > 60
    train, heldout = (
        "\n".join(document.text for world in worlds(split, 12) for document in world.documents).lower()
        for split in SPLITS
    )
    assert not [piece for piece in pieces if piece in train]
    assert sum(piece in heldout for piece in pieces) > 40


def longest_piece(template: str) -> str:
    """The longest part of a template outside its slots, in lower case."""
    return max((part.strip(" .,?") for part in re.split(r"\{\w\}", template)), key=len).lower()


def texts(world: World) -> list[str]:
    return [document.text for document in world.documents] + [question.text for question in world.questions]


def test_a_heldout_pick_is_reserved_half_of_the_time():
    templates = pool("a | b | c | d | e | f | g")
    assert templates == Pool(train=("a", "b", "c", "d", "e"), reserved=("f", "g"))
    rng = Random(0)
    share = sum(templates.pick(rng, True) in templates.reserved for _ in range(2000)) / 2000
    assert 0.45 < share < 0.55
    assert not any(templates.pick(rng, False) in templates.reserved for _ in range(500))


def test_nouns_and_verbs_give_phrasings_and_the_last_of_each_is_reserved():
    relation = told(
        "cook",
        "dish",
        "person",
        nouns="cook | chef | baker",
        verbs="cooked:was cooked | baked:was baked | made:was made",
        facts="{s} is by {o}. | {o} is behind {s}.",
        questions="whose is {s}? | whose work is {s}?",
    )
    assert {"{o} cooked {m}.", "{s} was baked by {o}."} <= set(relation.facts.train)
    assert {"{o} made {m}.", "{o} is behind {s}."} <= set(relation.facts.reserved)
    assert {"who cooked {s}?", "by whom was {s} baked?"} <= set(relation.questions.train)
    assert "who made {s}?" in relation.questions.reserved
    assert {"the cook of {s}", "{s}'s chef", "the person who baked {s}"} <= set(relation.phrases.train)
    assert {"the baker of {s}", "the person who made {s}"} <= set(relation.phrases.reserved)
    assert not [text for text in relation.nested_phrases.train if "{s}'s" in text]


def test_what_is_reserved_once_is_reserved():
    templates = pool("a | b") + Pool(train=("b", "c"), reserved=("d",))
    assert templates == Pool(train=("a", "c"), reserved=("b", "d"))


@pytest.mark.parametrize("split", SPLITS)
def test_no_slot_is_left_open(split):
    for world in worlds(split, 20):
        assert not [text for text in texts(world) if "{" in text or "}" in text]


def test_documents_come_in_several_shapes():
    documents = generate_world(3, documents=2000, questions=0).documents
    told_ = [document for document in documents if document.metadata["kind"] != "note"]
    lines = sum("\n" in document.text for document in told_) / len(told_)
    untitled = sum(not document.title for document in told_) / len(told_)
    pairs = sum("; " in document.text or " | " in document.text for document in told_) / len(told_)
    assert 0.03 < lines < 0.2
    assert 0.03 < untitled < 0.1
    assert pairs > 0.03


def test_real_text_surrounds_some_needles():
    prose = "All of this is real. Nothing is invented here. Believe it or not."
    world = generate_world(3, documents=200, mix={"needle": 1.0}, prose=lambda rng, words: prose)
    real = [
        document.text
        for document in world.documents
        if "is real. " in document.text or "real." in document.text
    ]
    assert 60 < len(real) < 140
    by_id = {document.id: document.text for document in world.documents}
    assert all(q.answers[0] in by_id[q.chain[0]] for q in world.questions if q.chain)


def test_every_relation_has_its_phrasings():
    for table in RELATIONS.values():
        for relation in table.values():
            assert len(relation.facts.train + relation.facts.reserved) >= 7
            assert len(relation.questions.train + relation.questions.reserved) >= 7
            assert len(relation.phrases.train + relation.phrases.reserved) >= 6
            assert relation.nouns.train
            assert relation.nested_questions.train
            assert relation.nested_phrases.train
            assert relation.value in VALUES or relation.value in (*RELATIONS, *GROUP_OF, "peak")
    for wording in (form.wording for form in FORMS):
        assert len(wording.facts.train + wording.facts.reserved) >= 7
        assert len(wording.questions.train + wording.questions.reserved) >= 8


def test_templates_are_distinct_and_hold_their_slots():
    for templates in all_pools():
        texts_ = templates.train + templates.reserved
        assert templates.reserved
        assert len(set(texts_)) == len(texts_)
    for table in RELATIONS.values():
        for relation in table.values():
            assert all(
                "{o}" in text or "{a}" in text for text in relation.facts.train + relation.facts.reserved
            )
            asked = relation.questions.train + relation.questions.reserved + relation.phrases.train
            assert all(text.count("{s}") == 1 for text in asked + relation.phrases.reserved)


def test_word_lists_are_large_enough():
    assert len(NOUNS) >= 150
    assert len(ADJECTIVES) >= 120


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"documents": 0}, "at least 1 document"),
        ({"questions": -1}, "0 questions"),
        ({"max_words": 10}, "max_words=10"),
        ({"split": "test"}, "'test'"),
        ({"mix": {"four_hop": 1.0}}, "four_hop"),
        ({"mix": {"one_hop": 0.0}}, "not all 0"),
        ({"mix": {"one_hop": 2.0, "absent": -1.0}}, "at least 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        generate_world(1, **settings)


@pytest.fixture
def make_library() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("make_library", str(SCRIPT))
    spec = importlib.util.spec_from_loader("make_library", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_a_library_is_plain_files_with_its_questions_outside(make_library, tmp_path, capsys):
    out = tmp_path / "library"
    assert make_library.main(["--out", str(out), "--documents", "120", "--questions", "60"]) == 0
    assert "120 documents" in capsys.readouterr().out
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    assert len(files) == 120
    assert {name.split("/")[0] for name in files} == set(make_library.FOLDERS)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["question"] for row in rows}) == 60
    for row in rows:
        assert set(row) == {"id", "question", "answers", "positive_ids", "hops"}
        assert len(row["positive_ids"]) == row["hops"]
        assert all(answer in files[row["positive_ids"][-1]].read_text() for answer in row["answers"])
    assert make_library.main(["--out", str(out)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_the_shipped_library_answers_its_questions(make_library):
    """It was written by an earlier generator and stays as it is, because the README shows its answers."""
    library = ROOT / "examples" / "library"
    files = {path.relative_to(library).as_posix(): path for path in library.rglob("*") if path.is_file()}
    assert len(files) == 300
    assert {name.split("/")[0] for name in files} == set(make_library.FOLDERS)
    rows = [json.loads(line) for line in (ROOT / "examples" / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["question"] for row in rows}) > 50
    for row in rows:
        assert len(row["positive_ids"]) == row["hops"]
        assert all(answer in files[row["positive_ids"][-1]].read_text() for answer in row["answers"])
