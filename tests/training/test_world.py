import importlib.machinery
import importlib.util
import json
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from memsparse.errors import ConfigError
from memsparse.training.entities import VALUES
from memsparse.training.names import ADJECTIVES, NOUNS, Names, split_of
from memsparse.training.needles import FORMS
from memsparse.training.phrasings import FRAMES, Pool, pool
from memsparse.training.phrasings_events import RELATIONS
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
    pools = [pool_ for form in FORMS for pool_ in (form.facts, form.questions)] + list(FRAMES.values())
    for relation in relations.values():
        pools += [relation.facts, relation.questions, relation.phrases]
    return pools


def only(kind: str, **settings: object) -> list[Question]:
    world = generate_world(11, documents=120, questions=80, mix={kind: 1.0}, **settings)
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
def test_titles_are_unique_and_told_by_the_first_sentence(split):
    world = generate_world(5, documents=2000, questions=1, split=split)
    titles = [document.title.lower() for document in world.documents if document.title]
    assert len(set(titles)) == len(titles)
    for document in world.documents:
        assert document.text
        assert len(document.text.split()) <= 40
        if document.metadata["kind"] != "note":
            assert document.title in document.text.split(". ")[0]


@pytest.mark.parametrize("max_words", [24, 33, 90])
def test_texts_keep_to_max_words_and_always_say_something(max_words):
    for split in SPLITS:
        world = generate_world(9, documents=1000, questions=200, split=split, max_words=max_words)
        lengths = [len(document.text.split()) for document in world.documents]
        assert max(lengths) <= max_words
        assert min(lengths) >= 4


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
                    assert step == chain[position + 1].title


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_names_its_first_document_and_not_the_later_ones(split):
    for world in worlds(split):
        by_id = {document.id: document for document in world.documents}
        for question in world.questions:
            if question.kind in ("one_hop", "two_hop", "three_hop"):
                title = by_id[question.chain[0]].title
                assert title in question.text
                assert (
                    question.answers[0] not in question.text.replace(title, "") or question.kind == "one_hop"
                )
                assert all(
                    by_id[later].title not in question.text.replace(title, "") for later in question.chain[1:]
                )


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
def test_absent_attributes_are_stated_by_no_sentence_of_the_subject(split):
    """Relations told alike are left out: "was born in" may tell a place or a year."""
    alike = ("birthplace", "birth_year", "founder", "founded_year", "maker", "made_year")
    checked = 0
    for seed in range(3):
        world = generate_world(seed, documents=100, questions=150, split=split, mix={"absent": 1.0})
        by_title = {d.title: d for d in world.documents if d.metadata["kind"] != "note"}
        for question in world.questions:
            for kind in ("painting", "festival", "river", "person"):
                for relation in RELATIONS[kind].values():
                    if relation.name in alike:
                        continue
                    for template in relation.questions.train + relation.questions.reserved:
                        before, _, after = template.partition("{s}")
                        subject = question.text.removeprefix(before).removesuffix(after)
                        document = by_title.get(subject)
                        if document is None or document.metadata["kind"] != kind:
                            continue
                        checked += 1
                        assert not tells(document.text, relation.facts), (question.text, document.text)
    assert checked > 30


def tells(text: str, facts: Pool) -> bool:
    """Whether the text holds the longest fixed piece, of two words or more, of a fact template."""
    for template in facts.train + facts.reserved:
        pieces = [piece for part in template.split("{") for piece in [part.partition("}")[2] or part]]
        longest = max(pieces, key=len).strip(" .,")
        if (
            longest.count(" ") >= 1
            and longest not in ("was born in", "was born in the year")
            and longest in text
        ):
            return True
    return False


def test_heldout_names_never_occur_in_train_worlds():
    train = worlds("train", 12)
    heldout = worlds("heldout", 12)
    titles = {document.title.lower() for world in heldout for document in world.documents if document.title}
    train_titles = {document.title.lower() for world in train for document in world.documents}
    train_text = "\n".join(document.text.lower() for world in train for document in world.documents)
    assert not titles & train_titles
    assert len(titles) > 900
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


def test_reserved_phrasings_occur_in_heldout_worlds_only():
    train = [text for world in worlds("train", 10) for text in texts(world)]
    heldout = [text for world in worlds("heldout", 10) for text in texts(world)]
    for phrase in ("fetched", "is headed by", "Who established", "is on the staff of", "On whose staff"):
        assert not [text for text in train if phrase in text]
        assert [text for text in heldout if phrase in text]


def texts(world: World) -> list[str]:
    return [document.text for document in world.documents] + [question.text for question in world.questions]


def test_a_heldout_pick_is_reserved_half_of_the_time():
    templates = pool("a | b | c | d | e | f")
    assert templates == Pool(train=("a", "b", "c", "d"), reserved=("e", "f"))
    rng = Random(0)
    share = sum(templates.pick(rng, True) in templates.reserved for _ in range(2000)) / 2000
    assert 0.45 < share < 0.55
    assert not any(templates.pick(rng, False) in templates.reserved for _ in range(500))


def test_every_relation_has_its_phrasings():
    for table in RELATIONS.values():
        for relation in table.values():
            assert len(relation.facts.train + relation.facts.reserved) >= 5
            assert len(relation.questions.train + relation.questions.reserved) >= 6
            assert len(relation.phrases.train + relation.phrases.reserved) >= 3
            assert relation.nested_questions.train
            assert relation.nested_phrases.train
            assert relation.value in VALUES or relation.value in RELATIONS
    for form in FORMS:
        assert len(form.facts.train + form.facts.reserved) >= 5
        assert len(form.questions.train + form.questions.reserved) >= 6


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


def test_the_shipped_library_is_what_its_command_writes(make_library, tmp_path):
    out = tmp_path / "library"
    assert make_library.main(["--out", str(out), "--seed", "2026", "--documents", "300"]) == 0
    assert contents(out) == contents(ROOT / "examples" / "library")
    assert (tmp_path / "questions.jsonl").read_bytes() == (ROOT / "examples" / "questions.jsonl").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
