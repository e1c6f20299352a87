"""How facts are told and asked: the machinery, and the relations whose subject is a person.

Templates are separated by "|". Slots of a fact: {s} subject, {p} its possessive, {m} its object case,
{o} the value, {a} the value with its article. Slots of a question or phrase: {s}. Where a relation serves
several kinds of things, {v} is the participle ("painted"), {t} the past tense, {n} the maker's noun.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal

from memsparse.training.names import pick

RESERVED_SHARE = 5
"""One template in this many, rounded up, is kept for heldout worlds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Templates with one meaning; the last ones are reserved for heldout worlds."""

    train: tuple[str, ...]
    reserved: tuple[str, ...]

    def pick(self, rng: Random, heldout: bool) -> str:
        """Return a template; a heldout world takes a reserved one half of the time."""
        if heldout and self.reserved and rng.random() < 0.5:
            return pick(rng, self.reserved)
        return pick(rng, self.train)

    def without_genitive(self) -> "Pool":
        """Return the templates that read well when {s} is a whole phrase."""
        return Pool(
            train=tuple(text for text in self.train if "{s}'s" not in text),
            reserved=tuple(text for text in self.reserved if "{s}'s" not in text),
        )


def split_templates(text: str) -> tuple[str, ...]:
    """Read templates separated by "|"; line breaks inside one count as spaces."""
    return tuple(" ".join(part.split()) for part in text.split("|"))


def pool(text: str) -> Pool:
    """Read templates separated by "|"; the last fifth, at least one, is reserved."""
    templates = split_templates(text)
    reserved = -(-len(templates) // RESERVED_SHARE)
    return Pool(train=templates[:-reserved], reserved=templates[-reserved:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A functional attribute: each subject has at most one value."""

    name: str
    domain: tuple[str, ...]
    """Kinds of entities that may have it."""
    value: str
    """A kind of entity, or the name of a value maker in `facts`."""
    person: bool
    """Whether the value is a person, asked for by "who"."""
    facts: Pool
    questions: Pool
    nested_questions: Pool
    phrases: Pool
    """Noun phrases that stand for the value."""
    nested_phrases: Pool
    absent: bool
    """Whether it may be asked as absent: False where another document can imply it."""


RelationSource = tuple[str, str, str, str, str, str]
"""name, domain, value, facts, questions, phrases."""

_DERIVABLE = frozenset({"spouse", "rival", "region"})


def relation(source: RelationSource) -> Relation:
    """Build a relation from its source."""
    name, domain, value, facts, questions, phrases = source
    asked, named = pool(questions), pool(phrases)
    return Relation(
        name=name,
        domain=tuple(domain.split()),
        value=value,
        person=value == "person",
        facts=pool(facts),
        questions=asked,
        nested_questions=asked.without_genitive(),
        phrases=named,
        nested_phrases=named.without_genitive(),
        absent=name not in _DERIVABLE,
    )


FRAMES: dict[Literal["who", "what"], Pool] = {
    "who": pool("""
        Who is {n}? | Who was {n}? | Name {n}. | Tell me who {n} was. | Can you name {n}? |
        Give the name of {n}. |
        I need the name of {n}. | Please identify {n}. | Do you know who {n} was?
    """),
    "what": pool("""
        What is {n}? | What was {n}? | Name {n}. | Tell me {n}. | State {n}. | Give {n}. |
        Can you tell me {n}? |
        I would like to know {n}. | Please look up {n}. | Do you know {n}?
    """),
}
"""Questions around a noun phrase {n}."""

PEOPLE: tuple[RelationSource, ...] = (
    (
        "birthplace",
        "person",
        "town",
        """{s} was born in {o}. | {o} is the town where {s} was born. |
        {s} came into the world in {o}. | {p} birthplace is {o}. | {s} is a native of {o}. |
        It was in {o} that {s} was born. | {s} hails from {o} by birth.""",
        """Where was {s} born? | In which town was {s} born? | What is {s}'s birthplace? |
        Which town is the birthplace of {s}? | {s} was born in which town? |
        Name the town where {s} was born. | Tell me where {s} was born. |
        Of which town is {s} a native? | In what place did {s} come into the world?""",
        """the birthplace of {s} | the town where {s} was born | {s}'s birthplace | the native town of {s}""",
    ),
    (
        "residence",
        "person",
        "town",
        """{s} lives in {o}. | {p} home is in {o}. | {s} settled in {o}. |
        {s} has a house in {o} and lives there. | {o} became {p} home. | Today {s} resides in {o}.""",
        """Where does {s} live? | In which town does {s} live? | What town is home to {s}? |
        {s} lives in which town? | Name the town where {s} lives. | Tell me where {s} lives. |
        Where did {s} settle? | In what town does {s} reside?""",
        """the town where {s} lives | the town that is home to {s} | {s}'s place of residence |
        the residence of {s}""",
    ),
    (
        "employer",
        "person",
        "organisation",
        """{s} works for {o}. | {s} is employed by {o}. | {p} employer is {o}. | {s} earns a living at {o}. |
        {o} employs {m}. | {s} is on the staff of {o}.""",
        """Who does {s} work for? | Where does {s} work? | Which organisation employs {s}? |
        What is {s}'s employer? | {s} is employed by which organisation? |
        Name the organisation {s} works for. | By whom is {s} employed? | On whose staff is {s}?""",
        """the employer of {s} | the organisation {s} works for | {s}'s employer |
        the organisation that employs {s}""",
    ),
    (
        "birth_year",
        "person",
        "birth_year",
        """{s} was born in {o}. | {s} was born in the year {o}. | {p} year of birth is {o}. |
        The year {o} saw the birth of {m}. | In {o}, {s} was born. | {s} came into the world in {o}.""",
        """When was {s} born? | In which year was {s} born? | What is {s}'s year of birth? |
        {s} was born in which year? | Tell me the year {s} was born. | What year saw the birth of {s}? |
        Give the year in which {s} was born.""",
        """the year {s} was born | the year of birth of {s} | the birth year of {s}""",
    ),
    (
        "profession",
        "person",
        "profession",
        """{s} was {a}. | {s} worked as {a}. | By trade {s} was {a}. | {p} profession was that of {a}. |
        {s} trained as {a} and remained one. | {s} made a career as {a}.""",
        """What was {s}'s profession? | What did {s} do for a living? | What was the job of {s}? |
        {s} worked as what? | Name the profession of {s}. | As what did {s} work? |
        Which trade did {s} follow? | What career did {s} make?""",
        """the profession of {s} | the trade of {s} | {s}'s job | the occupation of {s}""",
    ),
    (
        "favourite_food",
        "person",
        "food",
        """{p} favourite food is {o}. | {s} likes {o} more than any other food. |
        {s} eats {o} whenever possible. | Of all dishes {s} prefers {o}. |
        {s} is very fond of eating {o}. | At table {s} always asks for {o}.""",
        """What is {s}'s favourite food? | Which food does {s} like best? | What does {s} like to eat? |
        Which dish does {s} prefer? | Name the favourite food of {s}. | Tell me what {s} likes to eat. |
        What food does {s} ask for at table?""",
        """the favourite food of {s} | the food {s} likes best | {s}'s favourite dish |
        the dish {s} prefers""",
    ),
    (
        "favourite_animal",
        "person",
        "animal",
        """{p} favourite animal is the {o}. | {s} loves the {o} above all animals. |
        Of all animals {s} prefers the {o}. | No animal pleases {m} more than the {o}. |
        The animal {s} likes best is the {o}.""",
        """What is {s}'s favourite animal? | Which animal does {s} like best? |
        What animal does {s} love most? | Name the favourite animal of {s}. |
        {s} prefers which animal? | Tell me which animal {s} likes best. |
        Which animal pleases {s} most?""",
        """the favourite animal of {s} | the animal {s} likes best | {s}'s favourite animal |
        the animal {s} loves most""",
    ),
    (
        "instrument",
        "person",
        "instrument",
        """{s} plays the {o}. | {p} instrument is the {o}. | {s} learned to play the {o} as a child. |
        In the evening {s} practises the {o}. | {s} is a skilled player of the {o}. |
        The {o} is the instrument {s} plays.""",
        """What instrument does {s} play? | Which instrument does {s} play? |
        What does {s} play in the evening? | What is {s}'s instrument? | {s} plays which instrument? |
        Name the instrument {s} plays. | On which instrument is {s} a skilled player?""",
        """the instrument {s} plays | the instrument of {s} | {s}'s instrument |
        the musical instrument played by {s}""",
    ),
    (
        "favourite_colour",
        "person",
        "colour",
        """{p} favourite colour is {o}. | {s} likes the colour {o} best. |
        Of all colours {s} prefers {o}. | {s} always wears {o}. | The colour {s} loves is {o}. |
        No colour suits {m} better than {o}, {s} says.""",
        """What is {s}'s favourite colour? | Which colour does {s} like best? | What colour does {s} prefer? |
        Name the favourite colour of {s}. | {s} likes which colour best? | Tell me the colour {s} loves. |
        Which is the best loved colour of {s}?""",
        """the favourite colour of {s} | the colour {s} likes best | {s}'s favourite colour |
        the colour {s} prefers""",
    ),
    (
        "teacher",
        "person",
        "person",
        """{s} was taught by {o}. | {p} teacher was {o}. | {s} studied under {o}. | {o} taught {m}. |
        {s} was a student of {o}. | {s} learned everything from {o}.""",
        """Who taught {s}? | Who was {s}'s teacher? | By whom was {s} taught? |
        Under whom did {s} study? | {s} was a student of which person? | Name the teacher of {s}. |
        From whom did {s} learn everything?""",
        """the teacher of {s} | the person who taught {s} | {s}'s teacher | the person {s} studied under""",
    ),
    (
        "spouse",
        "person",
        "person",
        """{s} is married to {o}. | {s} married {o}. | {p} spouse is {o}. | {s} and {o} are married. |
        {o} is married to {m}. | {s} shares a life with {o}, to whom {s} is married.""",
        """Who is {s} married to? | Who is the spouse of {s}? | Whom did {s} marry? |
        To whom is {s} married? | What is the name of {s}'s spouse? | Name the person {s} married. |
        With whom does {s} share a married life?""",
        """the spouse of {s} | the person {s} is married to | {s}'s spouse | the person who married {s}""",
    ),
    (
        "rival",
        "person",
        "person",
        """{p} great rival is {o}. | {s} is a rival of {o}. | {s} and {o} are bitter rivals. |
        {s} competes with {o}, an old rival. | {s} has only one rival, {o}. |
        {o} and {s} have been rivals for years.""",
        """Who is {s}'s rival? | Who is the rival of {s}? | With whom does {s} compete? |
        Against whom does {s} compete? | Name the rival of {s}. | Tell me who rivals {s}. |
        Which person is the only rival of {s}?""",
        """the rival of {s} | the person who rivals {s} | {s}'s rival | the one rival of {s}""",
    ),
    (
        "mentor",
        "person",
        "person",
        """{p} mentor was {o}. | {s} found a mentor in {o}. | {o} was a mentor to {m}. |
        {s} was mentored by {o}. | {s} took the advice of {o}, a trusted mentor. |
        {s} was guided by {o}, a patient mentor.""",
        """Who was {s}'s mentor? | Who was the mentor of {s}? | By whom was {s} mentored? |
        In whom did {s} find a mentor? | Who mentored {s}? | Name the mentor of {s}. |
        Which mentor guided {s}?""",
        """the mentor of {s} | the person who mentored {s} | {s}'s mentor | the one who was mentor to {s}""",
    ),
    (
        "hobby",
        "person",
        "hobby",
        """{p} hobby is {o}. | {s} spends free days on {o}. | In spare hours {s} enjoys {o}. |
        {s} is devoted to {o}. | {s} relaxes with {o}. | {s} took up {o} late in life.""",
        """What is {s}'s hobby? | What does {s} do in spare hours? | What is the hobby of {s}? |
        Which hobby does {s} have? | How does {s} spend free days? | Name the hobby of {s}. |
        With what does {s} relax?""",
        """the hobby of {s} | the pastime of {s} | {s}'s hobby | the favourite pastime of {s}""",
    ),
)
