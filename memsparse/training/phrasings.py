"""How facts are told and asked: templates, and what is composed of a relation's nouns and verbs.

Templates are separated by "|" and begin in lower case. Slots of a fact: {s} subject, {p} its possessive
("its", "Ada's"), {m} its object case, {o} the value, {a} the value with its article. Slots of a question or
a noun phrase: {s}. The last templates of a list are reserved for heldout worlds, and so are its last noun and
verb.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from memsparse.training.names import pick

RESERVED_SHARE = 6
"""One template in this many, rounded up, is kept for heldout worlds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Templates with one meaning; a heldout world takes a reserved one half of the time."""

    train: tuple[str, ...]
    reserved: tuple[str, ...]

    def pick(self, rng: Random, heldout: bool) -> str:
        """Return a template."""
        if heldout and self.reserved and rng.random() < 0.5:
            return pick(rng, self.reserved)
        return pick(rng, self.train)

    def without_genitive(self) -> "Pool":
        """Return the templates that read well when {s} is a whole phrase."""
        return Pool(
            train=tuple(text for text in self.train if "{s}'s" not in text),
            reserved=tuple(text for text in self.reserved if "{s}'s" not in text),
        )

    def with_composed(self, train: Iterable[str], reserved: Iterable[str]) -> "Pool":
        """Return these templates and further ones; what is reserved by either stays so."""
        kept = dict.fromkeys((*self.reserved, *reserved))
        own = dict.fromkeys(text for text in (*self.train, *train) if text not in kept)
        return Pool(train=tuple(own), reserved=tuple(kept))

    def __add__(self, other: "Pool") -> "Pool":
        return self.with_composed(other.train, other.reserved)


def split_templates(text: str) -> tuple[str, ...]:
    """Read templates separated by "|"; line breaks inside one count as spaces."""
    return tuple(part for each in text.split("|") if (part := " ".join(each.split())))


def lowered(text: str) -> str:
    """Return the text with a small first letter, but for "I"."""
    return text if text.startswith("I ") else text[:1].lower() + text[1:]


def capitalised(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def pool(text: str, *, least: int = 1) -> Pool:
    """Read templates separated by "|"; the last sixth, at least `least`, is reserved."""
    templates = tuple(lowered(each) for each in split_templates(text))
    count = max(least, -(-len(templates) // RESERVED_SHARE)) if templates else 0
    kept = len(templates) - count
    return Pool(train=(), reserved=()).with_composed(templates[:kept], templates[kept:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A functional attribute: each subject has at most one value."""

    name: str
    domain: tuple[str, ...]
    """Kinds of entities that may have it."""
    value: str
    """A kind of entity, or the name of a value maker in `values`."""
    person: bool
    """Whether the value is a person, asked for by "who"."""
    nouns: Pool
    """What the value is called: "captain"."""
    facts: Pool
    questions: Pool
    nested_questions: Pool
    phrases: Pool
    """Noun phrases that stand for the value."""
    nested_phrases: Pool
    shown: str
    """How the value reads inside a composed sentence: "{o}" or "the {o}"."""
    absent: bool
    """Whether it may be asked as absent: False where another document can imply it."""


_DERIVABLE = frozenset({"spouse", "rival", "region"})

_VERB_FACTS = pool("""
    {o} V {m}. | {s} P by {o}. | it was {o} who V {m}. | the C R V {m} was {o}. | {o} is the C R V {m}. |
    {s} P by none other than {o}. | it was by {o} that {s} P. | the one who V {m} was {o}.
""")
_VERB_QUESTIONS = pool("""
    who V {s}? | by whom X {s} Y? | who X {s} Y by? | {s} P by whom? | which C V {s}? |
    who was it that V {s}? | what is the name of the C R V {s}? | name the C R V {s}. | tell me who V {s}. |
    {s} P by which C? | by which C X {s} Y? | I wonder who V {s}. | could you tell me who V {s}? |
    do the documents say who V {s}? | who V {s}, and what is the name? |
    find out who V {s}. | which C was it that V {s}? | can you say by whom {s} P?
""")
_VERB_PHRASES = pool("the C R V {s} | the C by B {s} P | the one who V {s}")


def told(
    name: str,
    domain: str,
    value: str,
    *,
    nouns: str = "",
    verbs: str = "",
    facts: str = "",
    questions: str = "",
    phrases: str = "",
    shown: str = "{o}",
) -> Relation:
    """Build a relation.

    Args:
        name: what the tables call it.
        domain: kinds of subjects, separated by spaces.
        value: a kind of entity, or a value maker.
        nouns: for "the captain of X": each must stand after "the", "its" and before "of".
        verbs: "built:was built", what the value did and how the subject says it, where the value is who or
            which organisation did something.
        facts: whole sentences.
        questions: whole questions.
        phrases: noun phrases no noun gives.
        shown: how the value stands in sentences composed of nouns.
    """
    asked, named, stated = pool(questions), pool(phrases), pool(facts)
    called = split_templates(nouns)
    spare = 1 if len(called) > 2 else 0
    noun_pool = Pool(train=called[: len(called) - spare], reserved=called[len(called) - spare :])
    named = named.with_composed(_noun_phrases(noun_pool.train), _noun_phrases(noun_pool.reserved))
    actor = "organisation" if value == "organisation" else "person"
    doing = [_verb(each, actor) for each in split_templates(verbs)]
    for position, forms in enumerate(doing):
        late = len(doing) > 2 and position == len(doing) - 1
        stated = stated + _worded(_VERB_FACTS, forms, late)
        asked = asked + _worded(_VERB_QUESTIONS, forms, late)
        named = named + _worded(_VERB_PHRASES, forms, late)
    return Relation(
        name=name,
        domain=tuple(domain.split()),
        value=value,
        person=value == "person",
        nouns=noun_pool,
        facts=stated,
        questions=asked,
        nested_questions=asked.without_genitive(),
        phrases=named,
        nested_phrases=named.without_genitive(),
        shown=shown,
        absent=name not in _DERIVABLE,
    )


def _noun_phrases(nouns: Iterable[str]) -> list[str]:
    return [phrase for noun in nouns for phrase in (f"the {noun} of {{s}}", f"{{s}}'s {noun}")]


def _verb(source: str, actor: str) -> dict[str, str]:
    """The words that stand for the capitals of the verb templates."""
    active, passive = source.split(":")
    auxiliary, participle = passive.split(" ", 1)
    relative, by = ("who", "whom") if actor == "person" else ("that", "which")
    return {"V": active, "P": passive, "X": auxiliary, "Y": participle, "C": actor, "R": relative, "B": by}


def _worded(templates: Pool, forms: dict[str, str], late: bool) -> Pool:
    def one(text: str) -> str:
        return " ".join(_put(word, forms) for word in text.split(" "))

    train, reserved = tuple(map(one, templates.train)), tuple(map(one, templates.reserved))
    return Pool(train=(), reserved=train + reserved) if late else Pool(train=train, reserved=reserved)


def _put(word: str, forms: dict[str, str]) -> str:
    bare = word.rstrip("?.,")
    return forms[bare] + word[len(bare) :] if bare in forms else word
