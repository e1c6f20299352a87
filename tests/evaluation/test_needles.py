import re
from dataclasses import replace
from itertools import islice

import pytest

from memsparse.errors import ConfigError, InputError
from memsparse.evaluation.haystacks import NOISE
from memsparse.evaluation.needles import (
    TASKS,
    NeedleBank,
    NeedleConfig,
    Sample,
    build,
)
from memsparse.types import Document

LENGTH = 8192
CONFIG = NeedleConfig(lengths=(LENGTH,), samples=2, document_tokens=64)
NEEDLE = re.compile(r"One of the special magic (numbers|uuids) for (\S+) is: ([0-9a-f-]+)\.")
NEEDLES = {"niah_multikey_1": 4, "niah_multivalue": 4, "niah_multiquery": 4}
ANSWERS = {"niah_multivalue": 4, "niah_multiquery": 4}


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def essays(documents: int = 400) -> list[Document]:
    return [
        Document(
            id=f"essay-{i}",
            title="A title that is left out",
            text=" ".join(
                f"Essay {i} says in sentence {j} that {1_000_000 + 97 * i + j} birds fly." for j in range(9)
            ),
        )
        for i in range(documents)
    ]


@pytest.fixture(scope="module")
def bank() -> NeedleBank:
    return build(CONFIG, LENGTH, essays(), count)


@pytest.fixture(scope="module")
def by_namespace(bank) -> dict[str, list[Document]]:
    return grouped(bank)


def grouped(bank: NeedleBank) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for document in bank.documents:
        found.setdefault(document.namespace, []).append(document)
    return found


def own_needles(sample: Sample, documents: dict[str, list[Document]]) -> dict[str, list[tuple[str, str]]]:
    """Keys and values in each document of a sample."""
    return {
        document.id: [(key, value) for _, key, value in NEEDLE.findall(document.text)]
        for document in documents[sample.namespaces[1]]
    }


# --- structure --------------------------------------------------------------------------------------------


def test_every_task_is_asked_at_every_depth(bank):
    asked = [(sample.task, sample.depth) for sample in bank.samples]
    assert sorted(asked) == sorted(
        (task, depth) for task in TASKS for depth in CONFIG.depths for _ in range(2)
    )
    assert len({sample.id for sample in bank.samples}) == len(bank.samples)
    assert {sample.tokens for sample in bank.samples} == {LENGTH}


def test_ids_are_unique_in_their_namespace_and_the_bank_tells_its_size(bank):
    documents = list(bank.documents)
    assert len({(document.namespace, document.id) for document in documents}) == len(documents)
    assert len(bank.documents) == len(documents)
    assert bank.tokens == pytest.approx(sum(count(document.text) for document in documents), rel=0.001)
    assert bank.longest == max(count(document.text) for document in documents) <= CONFIG.document_tokens


@pytest.mark.parametrize("task", TASKS)
def test_needles_and_distractors_of_a_task(bank, by_namespace, task):
    needles, answers = NEEDLES.get(task, 1), ANSWERS.get(task, 1)
    for sample in (each for each in bank.samples if each.task == task):
        own = own_needles(sample, by_namespace)
        assert len(own) == needles
        assert len(sample.answers) == len(set(sample.answers)) == len(sample.positive_ids) == answers
        asked = {key for id_ in sample.positive_ids for key, value in own[id_] if value in sample.answers}
        assert all(key in sample.question for key in asked)
        assert len(asked) == (4 if task == "niah_multiquery" else 1)
        others = [pair for pairs in own.values() for pair in pairs if pair[1] not in sample.answers]
        assert not any(key in asked or key in sample.question for key, _ in others)
        if "multikey_1" in task:
            assert len({key for key, _ in others}) == 3
        elif "multikey" not in task:
            assert not others


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_in_the_positive_documents_and_nowhere_else(bank, by_namespace, task):
    for sample in (each for each in bank.samples if each.task == task):
        seen = [document for name in sample.namespaces for document in by_namespace[name]]
        for answer, positive in zip(sample.answers, sample.positive_ids, strict=True):
            assert [document.id for document in seen if answer in document.text] == [positive]


@pytest.mark.parametrize(
    ("task", "haystack", "key", "value", "plural"),
    [
        ("niah_single_1", "noise", "words", "numbers", False),
        ("niah_single_2", "haystack", "words", "numbers", False),
        ("niah_single_3", "haystack", "words", "uuids", False),
        ("niah_multikey_1", "haystack", "words", "numbers", False),
        ("niah_multikey_2", "needles-words", "words", "numbers", False),
        ("niah_multikey_3", "needles-uuids", "uuids", "uuids", False),
        ("niah_multivalue", "haystack", "words", "numbers", True),
        ("niah_multiquery", "haystack", "words", "numbers", True),
    ],
)
def test_haystack_keys_values_and_question_of_a_task(bank, by_namespace, task, haystack, key, value, plural):
    patterns = {
        "words": "[a-z]+-[a-z]+",
        "numbers": r"\d{7}",
        "uuids": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    }
    sample = next(each for each in bank.samples if each.task == task)
    assert sample.namespaces[0] == haystack
    for pairs in own_needles(sample, by_namespace).values():
        assert all(
            re.fullmatch(patterns[key], pair[0]) and re.fullmatch(patterns[value], pair[1]) for pair in pairs
        )
    start = (
        f"What are all the special magic {value} for"
        if plural
        else f"What is the special magic {value[:-1]} for"
    )
    assert sample.question.startswith(start)
    assert sample.question.endswith(" mentioned in the provided text?")


def test_haystacks_hold_what_they_say(by_namespace):
    assert all(
        set(re.findall(r"[^.]+\.", d.text.replace(". ", "."))) <= set(NOISE) for d in by_namespace["noise"]
    )
    assert all(d.text.startswith("Essay") and not d.title for d in by_namespace["haystack"])
    for name in ("needles-words", "needles-uuids"):
        pairs = [(key, value) for d in by_namespace[name] for _, key, value in NEEDLE.findall(d.text)]
        assert all(NEEDLE.sub("", d.text).strip() == "" for d in by_namespace[name])
        assert len({key for key, _ in pairs}) == len({value for _, value in pairs}) == len(pairs) > 100


def test_the_text_around_a_needle_is_not_in_the_bank_a_second_time(bank, by_namespace):
    sample = next(each for each in bank.samples if each.task == "niah_single_2")
    (document,) = by_namespace[sample.namespaces[1]]
    around = NEEDLE.sub("", document.text).split("birds fly.")[0]
    assert around.strip().startswith("Essay")
    assert not any(around.strip() in other.text for other in by_namespace["haystack"])


def test_numbers_of_the_haystack_are_not_answers():
    haystack = [Document(id="all", text=" ".join(map(str, range(1_000_000, 1_000_400))))]
    taken = {str(number) for number in range(1_000_000, 1_000_400)}
    config = replace(CONFIG, tasks=("niah_single_2",))
    for seed in range(3):
        made = build(replace(config, seed=seed), LENGTH, haystack, count)
        assert taken.isdisjoint(answer for sample in made.samples for answer in sample.answers)


# --- place and length -------------------------------------------------------------------------------------


def test_the_needle_lies_at_its_depth(bank):
    for sample in bank.samples:
        seen = [document for document in bank.documents if document.namespace in sample.namespaces]
        at = next(i for i, document in enumerate(seen) if document.id == sample.positive_ids[0])
        others = sum(document.namespace == sample.namespaces[1] for document in seen[:at])
        haystack = sum(document.namespace == sample.namespaces[0] for document in seen)
        assert at - others == round(sample.depth * haystack)


@pytest.mark.parametrize("length", [8192, 20_000, 65_537])
@pytest.mark.parametrize("given", [True, False])
def test_a_sample_sees_the_length_within_three_percent(length, given):
    made = build(replace(CONFIG, samples=1), length, essays() if given else None, count)
    sizes = {
        name: sum(count(document.text) for document in documents) for name, documents in grouped(made).items()
    }
    for sample in made.samples:
        assert sum(sizes[name] for name in sample.namespaces) == pytest.approx(length, rel=0.03)


@pytest.mark.parametrize("given", [True, False])
def test_the_shortest_length_still_has_everything(given):
    made = build(CONFIG, 4 * 64, essays() if given else None, count)
    documents = grouped(made)
    assert {sample.task for sample in made.samples} == set(TASKS)
    assert all(documents[name] for sample in made.samples for name in sample.namespaces)
    with pytest.raises(ConfigError, match="at least 256, 4 documents of 64 tokens"):
        build(CONFIG, 4 * 64 - 1, None, count)


def test_a_short_haystack_repeats_and_the_bank_says_how_often(bank):
    assert (bank.haystack, bank.repeats) == ("given", 1.0)
    made = build(CONFIG, LENGTH, essays(3), count)
    documents = grouped(made)["haystack"]
    texts = [document.text for document in documents]
    own = texts.index(texts[0], 1)
    assert texts == [texts[i % own] for i in range(len(texts))]
    total = sum(map(count, texts))
    assert made.repeats == pytest.approx(total / sum(map(count, texts[:own])))
    assert made.repeats > 5


def test_without_a_haystack_the_essay_tasks_use_noise():
    made = build(CONFIG, LENGTH, None, count)
    assert (made.haystack, made.repeats) == ("noise", 1.0)
    assert {sample.namespaces[0] for sample in made.samples} == {"noise", "needles-words", "needles-uuids"}


def test_a_needle_longer_than_a_document_stays_whole():
    made = build(replace(CONFIG, document_tokens=16), 2048, essays(), count)
    documents = grouped(made)
    for sample in made.samples:
        for id_, pairs in own_needles(sample, documents).items():
            assert len(pairs) == 1, id_
    assert made.longest > 16


@pytest.mark.parametrize("haystack", [[], [Document(id="a", text=" \n ")]])
def test_a_haystack_without_text_is_refused(haystack):
    with pytest.raises(InputError, match="the haystack has no text"):
        build(CONFIG, LENGTH, haystack, count)


# --- the same again ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bank_and_another_seed_another(bank):
    again = build(CONFIG, LENGTH, essays(), count)
    assert again == bank
    assert list(again.documents) == list(bank.documents) == list(bank.documents)
    other = build(replace(CONFIG, seed=1), LENGTH, essays(), count)
    assert not {sample.answers for sample in other.samples} & {sample.answers for sample in bank.samples}


def test_neither_order_nor_choice_of_tasks_changes_a_sample(bank, by_namespace):
    assert build(replace(CONFIG, tasks=TASKS[::-1]), LENGTH, essays(), count) == bank
    for task in ("niah_multikey_2", "niah_multiquery"):
        alone = build(replace(CONFIG, tasks=(task,)), LENGTH, essays(), count)
        assert alone.samples == tuple(sample for sample in bank.samples if sample.task == task)
        assert grouped(alone).items() <= by_namespace.items()


def test_more_samples_keep_the_earlier_ones(bank):
    fewer = build(replace(CONFIG, samples=1), LENGTH, essays(), count)
    assert set(fewer.samples) < set(bank.samples)


def test_lengths_have_samples_of_their_own():
    short, long = (build(CONFIG, length, None, count) for length in (4096, LENGTH))
    assert not {sample.id for sample in short.samples} & {sample.id for sample in long.samples}
    assert not {sample.answers for sample in short.samples} & {sample.answers for sample in long.samples}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ("niah_single_9",)}, "unknown task 'niah_single_9'; known: niah_single_1"),
        ({"tasks": ()}, r"tasks is \[\]; give at least one"),
        ({"depths": (0.5, 0.5)}, "depths is .* each once"),
        ({"depths": (1.5,)}, "a depth is 1.5; it must be from 0 to 1"),
        ({"depths": (float("nan"),)}, "a depth is nan"),
        ({"lengths": ()}, "lengths is"),
        ({"lengths": (200,)}, "a length is 200 tokens; it must be at least 288"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"document_tokens": 15}, "document_tokens is 15; it must be at least 16"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        NeedleConfig(**settings)


def test_documents_come_one_by_one(bank):
    assert [document.id for document in islice(bank.documents, 3)] == [d.id for d in bank.documents][:3]
