import string

import pytest

from memsparse.training import relations
from memsparse.training.phrasings import Relation, lowered
from memsparse.training.phrasings_further import further, with_further
from memsparse.training.relations import RELATIONS

PLAIN: list[Relation] = [
    relation
    for table in ("PEOPLE", "LIVES", "PLACES", "ORGANISATIONS", "MAKERS", "WORKS", "EVENTS", "MORE")
    for relation in getattr(relations, table)
]
POOLS = {"asked": "questions", "told": "facts"}


def slots(template: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]


@pytest.mark.parametrize("kind", POOLS)
def test_every_relation_has_some_that_fit(kind: str) -> None:
    assert {name for name, _ in further()} == {name for table in RELATIONS.values() for name in table}
    for relation in PLAIN:
        templates = further()[relation.name, kind]
        assert 4 <= len(set(templates)) == len(templates), relation.name
        for template in templates:
            found = slots(template)
            assert template == lowered(" ".join(template.split())), template
            assert ".." not in template
            if kind == "asked":
                assert found == ["s"], template
                assert template.endswith((".", "?")), template
            else:
                assert len([slot for slot in found if slot in "oa"]) == 1, template
                assert set(found) & set("spm"), template
                assert set(found) <= set("oaspm"), template
                assert template.endswith("."), template


@pytest.mark.parametrize("subject", RELATIONS)
def test_no_question_means_two_things(subject: str) -> None:
    meant: dict[str, str] = {}
    for name in RELATIONS[subject]:
        for template in further()[name, "asked"]:
            assert meant.setdefault(template, name) == name, template


@pytest.mark.parametrize("kind", POOLS)
def test_nothing_that_is_reserved_anywhere_is_trained(kind: str) -> None:
    reserved = {text for relation in PLAIN for text in getattr(relation, POOLS[kind]).reserved}
    trained = {text for (_, each), texts in further().items() if each == kind for text in texts}
    assert not trained & reserved


@pytest.mark.parametrize("relation", PLAIN, ids=lambda relation: relation.name)
def test_nothing_reserved_changes(relation: Relation) -> None:
    more = with_further(relation)
    for pool in ("questions", "nested_questions", "facts", "phrases", "nested_phrases", "nouns"):
        before, after = getattr(relation, pool), getattr(more, pool)
        assert after.reserved == before.reserved
        assert set(before.train) <= set(after.train)
        assert not set(after.train) & set(after.reserved)
    assert len(more.questions.train) > len(relation.questions.train)
    assert len(more.facts.train) > len(relation.facts.train)
    assert all("{s}'s" not in text for text in more.nested_questions.train)
