import pytest

from memsparse.errors import InputError
from memsparse.evaluation.needle_scores import needle_record, score, summarise
from memsparse.evaluation.needles import Sample
from memsparse.evaluation.systems import Reply


def sample(index: int) -> Sample:
    own = f"sample-niah_multivalue-{index}"
    return Sample(
        id=f"niah_multivalue@4096-{index}",
        task="niah_multivalue",
        tokens=4096,
        depth=index / 4,
        question="What are all the special magic numbers for red-car mentioned in the provided text?",
        answers=(f"100000{index}", f"200000{index}"),
        positive_ids=(f"{own}-0", f"{own}-1"),
        namespaces=("noise", own),
    )


def reply(text: str) -> Reply:
    return Reply(text=text, found=True, cited=("d",), tokens=9, seconds=0.5, rounds=({"numbers": [1]},))


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("It is 1234567.", ("1234567",), 1.0),
        ("ABCD", ("abcd",), 1.0),
        ("1234567 and 7654321", ("1234567", "7654321", "1111111", "2222222"), 0.5),
        ("123456", ("1234567",), 0.0),
        ("", ("1234567",), 0.0),
    ],
)
def test_score_is_the_share_of_values_in_the_answer(answer, answers, expected):
    assert score(answer, answers) == expected


def test_score_needs_answers():
    with pytest.raises(InputError, match="no answers"):
        score("1234567", ())


def test_a_record_says_what_was_asked_and_replied():
    asked = sample(1)
    assert needle_record("words", asked, reply(" ".join(asked.answers))) == {
        "system": "words",
        "id": asked.id,
        "task": asked.task,
        "tokens": 4096,
        "depth": asked.depth,
        "question": asked.question,
        "answers": list(asked.answers),
        "answer": " ".join(asked.answers),
        "found": True,
        "cited": ["d"],
        "positive_ids": list(asked.positive_ids),
        "score": 1.0,
        "seconds": 0.5,
        "rounds": [{"numbers": [1]}],
    }


def records(*rows: tuple[str, int, float, float | None]) -> list[dict[str, object]]:
    return [
        {"task": task, "tokens": tokens, "depth": depth}
        | ({"error": "late"} if value is None else {"score": value})
        for task, tokens, depth, value in rows
    ]


def test_summary_by_task_and_over_the_tasks():
    rows = records(
        ("niah_multikey_1", 100, 0.0, 1.0),
        ("niah_multikey_1", 100, 0.5, 0.0),
        ("niah_multikey_1", 100, 0.5, 0.0),
        ("niah_multikey_1", 100, 1.0, 1.0),
        ("niah_multikey_1", 100, 1.0, None),
        ("niah_single_1", 100, 0.0, 1.0),
        ("niah_single_1", 20, 0.0, 0.25),
    )
    summary = summarise(rows, seed=3)
    assert list(summary) == [
        "niah_single_1@20",
        "needles@20",
        "niah_single_1@100",
        "niah_multikey_1@100",
        "needles@100",
    ]
    assert {name: (each["value"], each["n"]) for name, each in summary.items()} == {
        "niah_single_1@20": (0.25, 1),
        "needles@20": (0.25, 1),
        "niah_single_1@100": (1.0, 1),
        "niah_multikey_1@100": (0.5, 4),
        "needles@100": (0.75, 5),
    }
    assert 0 <= summary["needles@100"]["low"] < 0.75 < summary["needles@100"]["high"] <= 1
    assert summary == summarise(rows, seed=3)
    assert summarise([]) == {}
