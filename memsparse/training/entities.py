"""Entities of an invented world: who they are and what is true of them."""

from dataclasses import dataclass, field
from random import Random

from memsparse.training.name_words import ORGANISATION_KINDS
from memsparse.training.names import Names, pick
from memsparse.training.phrasings import Relation
from memsparse.training.relations import GROUP_OF, RELATIONS
from memsparse.training.values import VALUES


@dataclass(kw_only=True, slots=True, eq=False)
class Entity:
    """One subject and its document."""

    kind: str
    """What it is called: "person", "company", "ship", ..."""
    group: str
    """Its row in `RELATIONS`; "organisation" for companies, schools, guilds and orchestras."""
    name: str
    place: int
    """Position among its slice's entities of one group; teachers and mentors come first."""
    pronouns: tuple[str, str, str] = ("it", "its", "it")
    """Subject, possessive, object case."""
    facts: dict[str, "Fact"] = field(default_factory=dict)
    """What its document states, by relation name."""
    text: str = ""
    document_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """The value of a relation; `target` is the entity it names when that has a document."""

    value: str
    target: Entity | None = None


_KINDS = (
    *("person",) * 36,
    *("town",) * 12,
    *("river",) * 3,
    *("island",) * 4,
    *("region",) * 5,
    *("organisation",) * 14,
    *("ship",) * 4,
    *("painting",) * 3,
    *("book",) * 4,
    *("device",) * 3,
    *("bridge",) * 2,
    *("house",) * 3,
    *("festival",) * 3,
    *("battle",) * 2,
    *("expedition",) * 3,
    *("train",) * 3,
    *("project",) * 3,
    *("dish",) * 2,
    *("team",) * 3,
    *("accident",) * 2,
    *("song",) * 2,
    *("plant",) * 2,
    *("server",) * 2,
)
ALL_GROUPS = tuple(RELATIONS)
_MUTUAL = ("spouse", "rival")
_ELDER = ("teacher", "mentor")
"""Relations to somebody who comes earlier in the slice, so that they form no circles."""
_PRONOUNS = (("she", "her", "her"), ("he", "his", "him"))


def kind_of_group(rng: Random, group: str) -> str:
    """Return a kind of entity within a group."""
    return pick(rng, ORGANISATION_KINDS) if group == "organisation" else group


class Slice:
    """Some tens of entities that are linked among themselves and lived in one era."""

    def __init__(self, rng: Random, names: Names, size: int) -> None:
        self.rng = rng
        self.names = names
        self.era = 160 + int(rng.random() * 1780)
        groups = [*("person", "town", "organisation", "person")[:size]]
        groups += [pick(rng, _KINDS) for _ in range(size - len(groups))]
        self.entities: list[Entity] = []
        self._by_group: dict[str, list[Entity]] = {}
        for group in groups:
            kind = kind_of_group(rng, group)
            members = self._by_group.setdefault(group, [])
            entity = Entity(kind=kind, group=group, name=names.unique(kind), place=len(members))
            if kind == "person":
                entity.pronouns = pick(rng, _PRONOUNS)
            members.append(entity)
            self.entities.append(entity)
        for relation in _MUTUAL if self.entities else ():
            self._pair_people(relation)
        self._choose_capitals()

    def _pair_people(self, relation: str) -> None:
        people = list(self._by_group["person"])
        self.rng.shuffle(people)
        for first, second in zip(people[::2], people[1::2], strict=False):
            if self.rng.random() < 0.5:
                first.facts[relation] = Fact(value=second.name, target=second)
                second.facts[relation] = Fact(value=first.name, target=first)

    def _choose_capitals(self) -> None:
        towns = self._by_group.get("town", ())
        for region, town in zip(self._by_group.get("region", ()), towns, strict=False):
            region.facts["capital"] = Fact(value=town.name, target=town)
            town.facts["region"] = Fact(value=region.name, target=region)

    def decide(self, entity: Entity, relation: Relation) -> Fact:
        """Return what is to be true of an entity: a value, or another entity, with a document or without."""
        rng = self.rng
        if relation.value in VALUES:
            return Fact(value=self.value(relation, entity.kind))
        if relation.name not in (*_MUTUAL, "capital") and rng.random() < 0.75:
            group = GROUP_OF.get(relation.value, relation.value)
            others = self._by_group.get(group, [])
            if group != relation.value:
                others = [other for other in others if other.kind == relation.value]
            if relation.name in _ELDER:
                others = others[: entity.place]
            if others:
                target = pick(rng, others)
                if target is not entity:
                    return Fact(value=target.name, target=target)
        return Fact(value=self.value(relation, entity.kind))

    def value(self, relation: Relation, kind: str) -> str:
        """Return a value of a relation that names no entity with a document."""
        maker = VALUES.get(relation.value)
        if maker is not None:
            return maker(self.rng, self.era, kind)
        return self.names.unique(kind_of_group(self.rng, relation.value))


def told_already(relation: str, fact: Fact) -> bool:
    """Whether the other half of a couple states the bond, so that one document answers for each question."""
    return (
        relation in _MUTUAL
        and fact.target is not None
        and bool(fact.target.text)
        and relation in fact.target.facts
    )
