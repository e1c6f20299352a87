import pytest

from memsparse.training import phrasings_further, relations
from memsparse.training.phrasings import Relation, lowered, split_templates
from memsparse.training.phrasings_further import with_further
from memsparse.training.relations import RELATIONS

TABLES = {"questions": phrasings_further.QUESTIONS, "facts": phrasings_further.FACTS}
PLAIN: list[Relation] = [
    relation
    for table in ("PEOPLE", "LIVES", "PLACES", "ORGANISATIONS", "MAKERS", "WORKS", "EVENTS", "MORE")
    for relation in getattr(relations, table)
]


@pytest.mark.parametrize("kind", TABLES)
def test_every_relation_has_some_that_fit(kind: str) -> None:
    names = {name for table in RELATIONS.values() for name in table}
    assert all(set(table) <= names for table in TABLES[kind])
    for name in names:
        templates = split_templates(" | ".join(table.get(name, "") for table in TABLES[kind]))
        assert 4 <= len(set(templates)) == len(templates), name
        for template in templates:
            assert ("{s}" in template) or (kind == "facts" and ("{p}" in template or "{m}" in template))
            assert ("{o}" in template or "{a}" in template) == (kind == "facts"), template
            assert template.endswith((".", "?") if kind == "questions" else "."), template
            assert ".." not in template, template
            template.format(s="S", o="O", p="P", m="M", a="A")


def test_nothing_that_is_reserved_anywhere_is_trained() -> None:
    for kind in TABLES:
        reserved = {text for relation in PLAIN for text in getattr(relation, kind).reserved}
        written = " | ".join(text for table in TABLES[kind] for text in table.values())
        further = {lowered(text) for text in split_templates(written)}
        assert not further & reserved


@pytest.mark.parametrize("relation", PLAIN, ids=lambda relation: relation.name)
def test_nothing_reserved_changes(relation: Relation) -> None:
    further = with_further(relation)
    for pool in ("questions", "nested_questions", "facts", "phrases", "nested_phrases", "nouns"):
        before, after = getattr(relation, pool), getattr(further, pool)
        assert after.reserved == before.reserved
        assert set(before.train) <= set(after.train)
        assert not set(after.train) & set(after.reserved)
    assert len(further.questions.train) > len(relation.questions.train)
    assert len(further.facts.train) >= len(relation.facts.train)
    assert all("{s}'s" not in text for text in further.nested_questions.train)
