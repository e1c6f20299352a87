import tracemalloc
from dataclasses import replace

from memsparse.training.chains import Asked
from memsparse.training.questions import NO_PASSAGE, Questions


def asked(number: int, *chain: str) -> Asked:
    return Asked(
        id=f"q{number}",
        text=f"What is {number}?",
        chain=chain,
        spans=tuple((number, 2) for _ in chain),
        answer=f"{number}",
        unordered=len(chain) > 2,
        negatives=("n1", "n2")[: number % 3],
    )


EACH = [
    asked(0, "a"),
    asked(1, "b"),
    asked(2, "a"),
    asked(3, "a", "b"),
    asked(4, "a", "b", "c"),
    asked(5, "b"),
]
PLACES = [0, 1, 0, NO_PASSAGE, NO_PASSAGE, 1]


def questions() -> Questions:
    return Questions(zip(EACH, PLACES, strict=True))


def test_questions_come_back_as_they_were():
    held = questions()
    assert list(held) == EACH
    assert held[-1] == EACH[-1]
    assert held[1:3] == EACH[1:3]
    assert not Questions(())


def test_questions_are_found_by_passage_and_by_how_many_they_need():
    held = questions()
    assert held.about(0) == [0, 2]
    assert held.about(1) == [1, 5]
    assert held.about(2) == []
    assert held.needing(1).tolist() == [0, 1, 2, 5]
    assert held.needing(2).tolist() == [0, 1, 2, 3, 5]
    assert held.needing(0).tolist() == []


def test_an_id_of_two_questions_is_found_and_a_text_without_one_may_come_again():
    assert questions().repeated() is None
    assert Questions(()).repeated() is None
    plain = replace(asked(7, "a"), id="What is 7?")
    again = [*EACH, plain, plain, replace(asked(8, "b"), id="q2"), replace(asked(9, "b"), id="q1")]
    held = Questions(zip(again, [*PLACES, 0, 0, 1, 1], strict=True))
    assert held.repeated() == again[8]


def test_questions_left_out_are_gone_everywhere_and_only_there():
    held = questions()
    fewer = held.without(["q0", "q4", "unknown"])
    assert [each.id for each in fewer] == ["q1", "q2", "q3", "q5"]
    assert [fewer[number].id for number in fewer.about(0)] == ["q2"]
    assert [fewer[number].id for number in fewer.about(1)] == ["q1", "q5"]
    assert [fewer[int(number)].id for number in fewer.needing(1)] == ["q1", "q2", "q5"]
    assert [each.id for each in fewer.without({"q3"})] == ["q1", "q2", "q5"]
    assert list(held) == EACH
    assert list(held.without([])) == EACH


def test_what_is_held_of_a_question_is_small():
    tracemalloc.start()
    held = Questions((asked(number, f"a long id of a passage {number}"), number) for number in range(10_000))
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == 10_000
    assert now / len(held) < 80
