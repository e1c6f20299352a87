import json
import logging
from random import Random
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from memsparse.errors import ConfigError, DocumentError
from memsparse.training.reading import ReadingMix, ReadingSet, open_reading
from memsparse.training.stream import build_step
from tests.training.builders import PASSAGES, calls_phase, prompts, write_reading

TEXTS = {id_: text for id_, _, text in PASSAGES}


def reading_set(folder, words=8) -> ReadingSet:
    write_reading(folder)
    return ReadingSet(folder / "corpus.jsonl", folder / "queries.jsonl", window_words=words)


def plain_set(folder, words=8) -> ReadingSet:
    write_reading(folder)
    return ReadingSet(folder / "corpus.jsonl", None, window_words=words)


def pools(reading: ReadingSet, documents: int, questions: int, count: int = 60):
    return [reading.sample(Random(seed), documents, questions) for seed in range(count)]


def test_questions_whose_passages_state_no_answer_are_left_out(tmp_path):
    texts = {each.text for each in reading_set(tmp_path).questions}
    assert "Who rules Velm?" not in texts
    assert "What is lost?" not in texts
    assert {"Who dug the harbour?", "What was traded for glass?", "Which town?"} <= texts


@pytest.mark.parametrize("words", [1, 2, 5, 8, 100, (3, 9)])
def test_a_window_holds_the_answer_verbatim_and_few_words_more(tmp_path, words):
    most = words if isinstance(words, int) else words[1]
    windows = set()
    for documents, questions in pools(reading_set(tmp_path, words), 4, 5):
        by_id = {document.id: document for document in documents}
        for question in questions:
            if not question.answers:
                continue
            (answer,) = question.answers
            held = [by_id[id_].text for id_ in question.chain]
            assert any(answer in window for window in held)
            for id_ in question.chain:
                assert by_id[id_].text in TEXTS[id_]
                assert len(by_id[id_].text.split()) <= max(most, len(answer.split())) + 2
            windows.add((question.chain, *held))
    assert len(windows) > (4 if most < 100 else 3)


def test_the_first_answer_that_is_stated_is_asked_for(tmp_path):
    reading = reading_set(tmp_path)
    answers = {q.text: q.answers for _, questions in pools(reading, 4, 5) for q in questions if q.answers}
    assert answers["When does Velm freeze?"] == ("every March",)
    assert answers["Which boats moor there?"] == ("(Kestrel) boats",)


@pytest.mark.parametrize(("documents", "questions"), [(1, 5), (2, 2), (3, 1), (4, 5), (40, 40)])
def test_a_pool_is_no_larger_than_asked_and_holds_every_question(tmp_path, documents, questions):
    for pool, drawn in pools(reading_set(tmp_path), documents, questions):
        ids = [document.id for document in pool]
        assert len(ids) == len(set(ids)) <= documents
        assert 1 <= len(drawn) <= questions
        assert {id_ for question in drawn for id_ in question.chain} <= set(ids)


def test_the_document_of_an_absent_question_is_not_in_the_pool(tmp_path):
    reading = reading_set(tmp_path)
    asked = {each.text: each for each in reading.questions}
    found = 0
    for pool, questions in pools(reading, 3, 4, count=200):
        ids = {document.id for document in pool}
        for question in questions:
            if question.kind == "absent":
                found += 1
                assert (question.chain, question.answers) == ((), ())
                assert not set(asked[question.text].chain) & ids
                assert question.about in ("", *ids)
    assert found > 10


def test_several_questions_may_be_about_one_window(tmp_path):
    found = [questions for _, questions in pools(reading_set(tmp_path, 100), 4, 8)]
    assert any(len([q for q in each if q.chain == ("p1",)]) == 2 for each in found)


def test_passages_of_the_same_title_come_first_as_negatives(tmp_path):
    seen = 0
    for pool, drawn in pools(reading_set(tmp_path), 2, 1):
        if drawn[0].chain in (("p1",), ("p2",)):
            seen += 1
            assert {document.id for document in pool} == {"p1", "p2"}
    assert seen


def test_equal_seeds_draw_equal_pools(tmp_path):
    for reading in (reading_set(tmp_path), plain_set(tmp_path)):
        assert reading.sample(Random(3), 4, 3) == reading.sample(Random(3), 4, 3)


def test_text_without_questions_is_asked_about_all_the_same(tmp_path):
    for pool, questions in pools(plain_set(tmp_path, (6, 12)), 4, 9, count=20):
        ids = {document.id: document.text for document in pool}
        assert len(ids) == 4
        assert 4 <= len(questions) <= 9
        for question in questions:
            assert all(answer in ids[question.chain[0]] for answer in question.answers)


def test_prose_is_a_window_of_about_as_many_words_as_asked(tmp_path):
    reading = plain_set(tmp_path)
    for words in (1, 4, 9):
        drawn = [reading.prose(Random(seed), words) for seed in range(40)]
        assert len({document.text for document in drawn}) > 10
        assert all(document.text in TEXTS[document.id] for document in drawn)
        assert max(len(document.text.split()) for document in drawn) <= words + 2


def test_a_mix_draws_its_sets_by_weight(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "corpus.jsonl").write_text(
        json.dumps({"id": "z", "text": "Quite another text about cabbages and kings of 1865 in Velm."})
    )
    other = ReadingSet(tmp_path / "other" / "corpus.jsonl", None, window_words=12)
    mix = ReadingMix([reading_set(tmp_path), other], [3, 1])
    drawn = [mix.sample(Random(seed), 1, 1)[0][0].id for seed in range(400)]
    assert 0.18 < drawn.count("z") / 400 < 0.32
    never = ReadingMix([reading_set(tmp_path), other], [0, 1])
    assert {never.prose(Random(seed), 5).id for seed in range(20)} == {"z"}


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_reading(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"id": "other", "text": "nothing"}\n')
    with pytest.raises(DocumentError, match="check the pair"):
        ReadingSet(tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl", window_words=9)
    (tmp_path / "corpus.jsonl").write_text("\n")
    with pytest.raises(DocumentError, match="no passage"):
        ReadingSet(tmp_path / "corpus.jsonl", None, window_words=9)


# --- what is left out ---


def written(folder, passages, questions):
    corpus, queries = folder / "c.jsonl", folder / "q.jsonl"
    for path, rows in ((corpus, passages), (queries, questions)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return corpus, queries


def numbered(count, text="Passage {} tells of thing{} and of little else that matters here."):
    return [{"id": f"p{i}", "title": f"Title {i}", "text": text.format(i, i)} for i in range(count)]


def asking(count, **fields):
    return [
        {
            "id": f"q{i}",
            "question": f"What is {i}?",
            "answers": [f"thing{i}"],
            "positive_ids": [f"p{i}"],
            **fields,
        }
        for i in range(count)
    ]


def test_questions_without_their_passages_are_counted_in_one_warning(tmp_path, caplog):
    questions = asking(5)
    questions[1]["positive_ids"] = ["lost"]
    questions[3]["positive_ids"] = ["p3", "gone"]
    corpus, queries = written(tmp_path, numbered(5), questions)
    with caplog.at_level(logging.WARNING):
        reading = ReadingSet(corpus, queries, window_words=9)
    (line,) = caplog.messages
    assert line == (
        f"{queries}: left out 2 of 5 questions, whose passages are not all there; the first: "
        f"{queries}, line 2: the positive 'lost' is not in {corpus}"
    )
    assert [each.id for each in reading.questions] == ["q0", "q2", "q4"]


def test_questions_without_their_passages_are_refused_if_strict(tmp_path):
    questions = asking(5)
    questions[1]["positive_ids"] = ["lost"]
    corpus, queries = written(tmp_path, numbered(5), questions)
    with pytest.raises(DocumentError, match=r"q.jsonl, line 2: the positive 'lost' is not in .*c.jsonl"):
        ReadingSet(corpus, queries, window_words=9, strict=True)
    questions[1]["split"] = "val"
    corpus, queries = written(tmp_path, numbered(5), questions)
    assert ReadingSet(corpus, queries, window_words=9, strict=True).asked == 4


def test_an_error_says_why_no_question_is_left(tmp_path):
    corpus, queries = written(tmp_path, numbered(2), asking(2, positive_ids=["x"]))
    with pytest.raises(
        DocumentError, match=r"no question .* \(.*line 1: the positive 'x' is not in .*\); check"
    ):
        ReadingSet(corpus, queries, window_words=9)


@pytest.mark.parametrize(
    ("passage", "question", "complaint"),
    [
        (
            {"id": "p0", "text": "again"},
            {},
            r"c.jsonl, line 3: the id 'p0' is that of .*c.jsonl, line 1, too",
        ),
        ({"id": "p9", "text": " "}, {}, r"c.jsonl, line 3: document 'p9' has no text"),
        ({"id": "p9", "text": "x"}, {"answers": "x"}, r"q.jsonl, line 1: answers is 'x'"),
        ({"id": "p9", "text": "x"}, {"positive_ids": 3}, r"q.jsonl, line 1: positive_ids is 3"),
        ({"id": "p9", "text": "x"}, {"id": "same"}, r"q.jsonl: the id 'same' is that of two questions; give"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_drawn(tmp_path, passage, question, complaint):
    corpus, queries = written(tmp_path, [*numbered(2), passage], asking(2, **question))
    with pytest.raises(DocumentError, match=complaint):
        ReadingSet(corpus, queries, window_words=9)


def test_another_split_is_read_if_asked_for(tmp_path):
    questions = [*asking(2, split="train"), *asking(4, split="val")[2:], *asking(5)[4:]]
    corpus, queries = written(tmp_path, numbered(5), questions)
    train = ReadingSet(corpus, queries, window_words=9)
    val = ReadingSet(corpus, queries, window_words=9, split="val")
    assert [each.id for each in train.questions] == ["q0", "q1", "q4"]
    rest = ReadingSet(corpus, queries, window_words=9, split=None)
    assert [each.id for each in val.questions] == ["q2", "q3", "q4"]
    assert [each.id for each in rest.questions] == ["q2", "q3", "q4"]


def test_a_file_of_another_split_alone_is_told(tmp_path):
    corpus, queries = written(tmp_path, numbered(2), asking(2, split="val"))
    with pytest.raises(DocumentError, match=r"all 2 questions are marked with another split; name the one"):
        ReadingSet(corpus, queries, window_words=9)


def test_a_dataset_needs_a_split(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset squad comes without a split; name the one to read"):
        ReadingSet(None, dataset="squad", window_words=9, split=None)


# --- mined negatives ---


def test_mined_negatives_join_the_pool_first(tmp_path):
    negatives = [f"p{i}" for i in range(20, 30)]
    corpus, queries = written(tmp_path, numbered(60), asking(1, negative_ids=negatives))
    reading = ReadingSet(corpus, queries, window_words=9)
    seen = set()
    for seed in range(40):
        documents, questions = reading.sample(Random(seed), 5, 1)
        ids = {document.id for document in documents}
        if questions[0].chain:
            assert len(ids & set(negatives)) >= 3
            seen |= ids & set(negatives)
    assert len(seen) == 10


@pytest.mark.parametrize("most", [0, 1, 2])
def test_no_more_mined_negatives_than_asked_for(tmp_path, most):
    passages = numbered(400)
    corpus, queries = written(tmp_path, passages, asking(1, negative_ids=["p20", "p21", "p22", "p23"]))
    reading = ReadingSet(corpus, queries, window_words=9, negatives=most)
    counts = []
    for seed in range(30):
        documents, questions = reading.sample(Random(seed), 8, 1)
        assert questions[0].chain == ("p0",)
        counts.append(sum(document.id in ("p20", "p21", "p22", "p23") for document in documents))
    assert sorted(counts)[15] == most
    with pytest.raises(ConfigError, match=r"negatives is -1; it must be at least 0"):
        ReadingSet(corpus, queries, window_words=9, negatives=-1)


def test_the_negatives_of_every_question_get_their_turn(tmp_path):
    questions = asking(4)
    for i, each in enumerate(questions):
        each["negative_ids"] = [f"p{10 * (i + 1) + j}" for j in range(5)]
    corpus, queries = written(tmp_path, numbered(200), questions)
    reading = ReadingSet(corpus, queries, window_words=9)
    for seed in range(20):
        documents, drawn = reading.sample(Random(seed), 16, 4)
        ids = {document.id for document in documents}
        for each in drawn:
            if each.chain:
                number = int(each.chain[0][1:])
                assert ids & {f"p{10 * (number + 1) + j}" for j in range(5)}


def test_negatives_that_are_positives_or_unknown_are_passed_over(tmp_path, caplog):
    corpus, queries = written(tmp_path, numbered(4), asking(2, negative_ids=["p0", "p1", "p3", "gone"]))
    with caplog.at_level(logging.WARNING):
        reading = ReadingSet(corpus, queries, window_words=9)
    assert [each.negatives for each in reading.questions] == [("p1", "p3"), ("p0", "p3")]
    assert caplog.messages == [f"{queries}: left out 2 negative_ids not in {corpus}"]


# --- views ---


def test_questions_left_out_are_never_drawn(tmp_path):
    corpus, queries = written(tmp_path, numbered(6), asking(6))
    whole = ReadingSet(corpus, queries, window_words=9)
    fewer = whole.without({"q1", "q4", "no such"})
    texts = {question.text for _, drawn in pools(fewer, 4, 4) for question in drawn}
    assert texts == {f"What is {i}?" for i in (0, 2, 3, 5)}
    assert (whole.asked, fewer.asked) == (6, 4)
    assert fewer.prose(Random(1), 4) == whole.prose(Random(1), 4)
    with pytest.raises(ConfigError, match="all 6 questions would be left out"):
        whole.without({f"q{i}" for i in range(6)})


def test_a_mix_leaves_questions_out_of_every_set(tmp_path):
    corpus, queries = written(tmp_path, numbered(6), asking(6))
    asked, plain = ReadingSet(corpus, queries, window_words=9), ReadingSet(corpus, None, window_words=9)
    mix = ReadingMix([plain, asked, asked], [0, 1, 1]).without(["1/q0", "2/q0"])
    assert mix.asked == 10
    texts = {question.text for _, drawn in pools(mix, 3, 3) for question in drawn}
    assert "What is 0?" not in texts
    assert len(texts) == 5
    assert [mix.alone(number, Random(0))[0] for number in (0, 4, 5, 9)] == ["1/q1", "1/q5", "2/q1", "2/q5"]
    with pytest.raises(IndexError, match="no question"):
        mix.alone(10, Random(0))


def test_a_question_alone_comes_with_its_own_passages(tmp_path):
    questions = asking(2)
    questions[1] |= {"positive_ids": ["p3", "p1"], "answers": ["thing1"], "question": "Title 3 or Title 1?"}
    corpus, queries = written(tmp_path, numbered(6), questions)
    id_, documents, question = ReadingSet(corpus, queries, window_words=4).alone(1, Random(0))
    assert (id_, question.text, question.answers) == ("q1", "Title 3 or Title 1?", ("thing1",))
    assert [document.id for document in documents] == list(question.chain) == ["p3", "p1"]
    assert "thing1" in documents[1].text


# --- sources ---


def source(**fields):
    usual = {
        "corpus": None,
        "queries": None,
        "dataset": None,
        "subset": None,
        "split": "train",
        "columns": {},
    }
    return SimpleNamespace(**usual | {"negatives": 3, "strict": False, "weight": 1.0} | fields)


def test_sources_open_as_one_reading(tmp_path):
    corpus, queries = map(str, written(tmp_path, numbered(6), asking(6)))
    assert open_reading([], (3, 9)) is None
    assert open_reading([source(corpus=corpus, weight=0.0)], (3, 9)) is None
    mix = open_reading([source(corpus=corpus, queries=queries), source(corpus="none", weight=0)], (3, 9))
    assert mix.asked == 6
    with pytest.raises(ConfigError, match="names no corpus; give a corpus or a dataset"):
        open_reading([source()], (3, 9))
    with pytest.raises(DocumentError, match="No such file"):
        open_reading([source(corpus="none")], (3, 9))


# --- workers and odd texts ---


class Samples(Dataset):
    def __init__(self, reading):
        self.reading = reading

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.reading.sample(Random(index), 4, 3)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_draw_what_one_process_draws(tmp_path):
    reading = reading_set(tmp_path)
    ahead = list(DataLoader(Samples(reading), batch_size=None, num_workers=2))
    assert [tuple(each) for each in ahead] == [reading.sample(Random(index), 4, 3) for index in range(12)]


ODD = ("Velm", "x" * 3000, "。", "北京是中华人民共和国的首都，位于华北平原的北部。" * 8, "a b", "\n\n1\n")


@pytest.mark.parametrize("titled", [False, True])
def test_steps_are_built_of_passages_of_any_shape(tmp_path, titled):
    passages = [{"id": f"o{i}", "title": "T" * titled, "text": text} for i, text in enumerate(ODD)]
    corpus, _ = written(tmp_path, passages, [])
    reading = ReadingSet(corpus, None, window_words=(3, 12))
    for share, real in ((1.0, 0.0), (0.0, 0.9)):
        phase = calls_phase(1, documents=8, reading_share=share, real_documents=real)
        for seed in range(12):
            step = build_step(prompts(), phase, reading, Random(seed), 6)
            assert int(step.document_lengths.min()) > 0


def test_a_chinese_question_is_read_in_a_window_with_its_answer(tmp_path):
    text = "天安门位于北京市中心。" * 30 + "北京位于华北平原的北部。" + "长城很长。" * 30
    corpus, queries = written(
        tmp_path,
        [{"id": "z", "title": "北京", "text": text}],
        [{"id": "q", "question": "北京在哪里？", "answers": ["华北平原"], "positive_ids": ["z"]}],
    )
    reading = ReadingSet(corpus, queries, window_words=20)
    for documents, questions in pools(reading, 2, 1, count=30):
        assert "华北平原" in documents[0].text
        assert len(documents[0].text) <= 24
        assert questions[0].answers == ("华北平原",)
