import pytest

from memsparse.training.chains import Asked, understand

PASSAGES = {
    "film": {
        "title": "Grey Tide (film)",
        "text": "Grey Tide was directed by Ann Orlo in 1921.",
    },
    "person": {
        "title": "Ann Orlo",
        "text": "Ann Orlo was born in Velm. She left it in 1921.",
    },
    "town": {"title": "Velm", "text": "Velm is led by mayor Tom Reed, as it was in 1921."},
    "other": {"title": "Low Tide", "text": "Low Tide is older: 1911, not in 1911 or 11."},
}


MANY = {f"p{i}": {"title": f"Spot {i}", "text": f"This Place lies on the {i}th river."} for i in range(9)}


def row(question: str, answers: list[str], ids: list[str], **more: object) -> dict[str, object]:
    return {"question": question, "answers": answers, "positive_ids": ids, **more}


def marks(asked: Asked) -> list[str]:
    texts = [str(PASSAGES[id_]["text"]) for id_ in asked.chain]
    return [text[start : start + length] for text, (start, length) in zip(texts, asked.spans, strict=True)]


@pytest.mark.parametrize("order", [["film", "person"], ["person", "film"]])
def test_the_order_of_two_passages_follows_the_titles_they_name(order):
    asked = understand(row("Where was the director of Grey Tide born?", ["Velm"], order), PASSAGES)
    assert asked is not None
    assert (asked.chain, asked.unordered, asked.kind) == (("film", "person"), False, "two_hop")
    assert marks(asked) == ["Ann Orlo", "Velm"]


def test_steps_that_are_given_tell_the_order_of_three():
    steps = [{"answer": "Ann Orlo"}, {"answer": "Velm"}, {"answer": "Tom Reed"}]
    ids = ["town", "film", "person"]
    asked = understand(row("Who leads it?", ["Tom Reed"], ids, sub_questions=steps), PASSAGES)
    assert asked is not None
    assert asked.chain == ("film", "person", "town")
    assert marks(asked) == ["Ann Orlo", "Velm", "Tom Reed"]
    assert asked.kind == "three_hop"


def test_a_comparison_may_be_read_in_any_order_and_yes_is_no_answer_to_be_found():
    ids = ["film", "other"]
    asked = understand(row("Which is older, Grey Tide or Low Tide?", ["Low Tide"], ids), PASSAGES)
    assert asked is not None
    assert (asked.unordered, asked.answer, asked.kind) == (True, "Low Tide", "two_hop")
    assert marks(asked) == ["", "Low Tide"]
    said = understand(row("Is Grey Tide older than Low Tide?", ["no"], ids), PASSAGES)
    assert said is not None
    assert (said.answer, said.kind) == ("", "lookup")


def test_three_passages_without_an_order_must_all_be_named():
    ids = ["film", "town", "other"]
    assert understand(row("Which is oldest?", ["nobody knows"], ids), PASSAGES) is None
    named = understand(row("Grey Tide, Velm or Low Tide?", ["nobody knows"], ids), PASSAGES)
    assert named is not None
    assert named.unordered


def test_answers_are_whole_words_in_the_place_the_question_means():
    assert understand(row("When?", ["92"], ["film"]), PASSAGES) is None
    asked = understand(row("Which year, not?", ["1911"], ["other"]), PASSAGES)
    assert asked is not None
    assert asked.spans == ((19, 4),)
    asked = understand(row("Is eleven meant?", ["11"], ["other"]), PASSAGES)
    assert asked is not None
    assert asked.spans == ((str(PASSAGES["other"]["text"]).rindex("11"), 2),)
    text = "Ida came in May. " + "Nothing happened for long. " * 12 + "In May the frost killed the vines."
    asked = understand(row("When did frost kill the vines?", ["May"], ["x"]), {"x": {"text": text}})
    assert asked is not None
    assert asked.spans[0][0] == text.rindex("May")


def test_a_question_without_answers_asks_for_its_passage():
    asked = understand(row("What is Velm?", [], ["town"]), PASSAGES)
    assert asked is not None
    assert (asked.kind, asked.answer, asked.spans) == ("lookup", "", ((0, 0),))


@pytest.mark.parametrize(
    "unfit",
    [
        row("Where?", ["Velm"], ["gone"]),
        row("Where?", ["Velm"], []),
        row("Where?", ["Paris"], ["person"]),
        row("Where?", ["Velm"], ["film", "person", "town", "other", "fifth"]),
        row("Where?", [], ["film", "person", "town"], hops=3),
        row("Where?", [], [f"p{i}" for i in range(9)]),
        {"question": "Where?"},
    ],
)
def test_rows_that_teach_nothing_are_left_out(unfit):
    assert understand(unfit, PASSAGES | {"fifth": {"text": "Velm"}} | MANY) is None


@pytest.mark.parametrize("count", [3, 5, 8])
def test_many_passages_may_be_read_in_any_order_where_nothing_must_be_combined(count):
    ids = [f"p{i}" for i in reversed(range(count))]
    looked_up = understand(row("What lies there?", [], ids, hops=1), MANY)
    assert looked_up is not None
    assert (looked_up.chain, looked_up.unordered, looked_up.kind) == (tuple(ids), True, "lookup")
    told = understand(row("What is by it?", ["Place"], ids), MANY)
    assert told is not None
    assert (told.unordered, told.answer, len(told.chain)) == (True, "Place", count)
    assert told.spans == ((5, 5),) * count


def test_a_row_may_say_that_any_order_will_do():
    ids = ["film", "person", "town"]
    told = row("Where was the director of Grey Tide born, and who leads it?", ["Tom Reed"], ids)
    assert understand(told, PASSAGES).chain == ("film", "person", "town")
    asked = understand(told | {"unordered": True}, PASSAGES)
    assert (asked.unordered, asked.answer, asked.spans[:2]) == (True, "Tom Reed", ((0, 0), (0, 0)))


def test_the_order_of_eight_passages_is_found_from_their_steps():
    order = [3, 0, 5, 7, 1, 6, 2, 4]
    texts = {
        f"p{i}": {"title": f"T{i}", "text": f"Here {i} leads to place {i}x, never to 1 or 2."} for i in order
    }
    steps = [{"answer": f"{i}x"} for i in order]
    ids = [f"p{i}" for i in range(8)]
    asked = understand(row("Where does it end?", ["4x"], ids, sub_questions=steps), texts)
    assert asked is not None
    assert asked.chain == tuple(f"p{i}" for i in order)
    assert (asked.unordered, asked.kind, asked.answer) == (False, "eight_hop", "4x")


def test_eight_passages_that_all_state_all_steps_are_ordered_without_trying_every_order():
    texts = {f"p{i}": {"title": "", "text": "a b c d e f g"} for i in range(8)}
    steps = [{"answer": each} for each in "abcdefgz"]
    asked = understand(row("Which?", ["z"], list(texts), sub_questions=steps), texts)
    assert asked is None


def test_answers_in_chinese_need_no_spaces_around_them():
    passages = {"z": {"title": "北京", "text": "北京是中国的首都，位于华北平原的北部。"}}
    asked = understand(row("北京在哪里？", ["华北平原"], ["z"]), passages)
    assert asked is not None
    assert passages["z"]["text"][asked.spans[0][0] :].startswith("华北平原")


def test_a_question_keeps_its_id_and_its_negatives():
    asked = understand(row("Where?", ["Velm"], ["person"], id="q7", negative_ids=["town"]), PASSAGES)
    assert (asked.id, asked.negatives) == ("q7", ("town",))
    assert understand(row("Where?", ["Velm"], ["person"]), PASSAGES).id == "Where?"
