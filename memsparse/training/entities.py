"""Entities of an invented world: who they are, what is true of them, and the document that says so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from memsparse.training.names import ORGANISATION_KINDS, Names, pick, words
from memsparse.training.phrasings import Relation
from memsparse.training.phrasings_events import RELATIONS


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


_PROFESSIONS = words("""
actor architect astronomer baker barber beekeeper blacksmith bookbinder botanist brewer butcher carpenter
cartographer chemist clockmaker cobbler cook dancer dentist diver doctor engineer farmer fisherman florist
gardener geologist glassblower goldsmith hatter historian jeweller journalist judge lawyer librarian
locksmith mason merchant miller miner musician nurse optician painter pharmacist photographer physicist
pilot plumber poet porter potter printer sailor sculptor shepherd surgeon surveyor tailor tanner teacher
translator watchmaker weaver
""")
_FOODS = words("""
apricots barley beans beetroot bread cabbage carrots cheese cherries chestnuts chocolate couscous dates
dumplings eggplant figs gingerbread grapes ham herring honey lentils lobster mango marmalade mushrooms
mussels mustard noodles nougat olives omelettes oysters pancakes parsnips pears pickles plums polenta
porridge potatoes pumpkin radishes raisins ravioli rice salmon sausages spinach strudel tofu trout turnips
waffles walnuts yoghurt
""")
_ANIMALS = words("""
albatross antelope badger beaver bison camel cheetah cobra crane crocodile dolphin donkey eagle elephant
falcon ferret flamingo fox gazelle giraffe goat gorilla hedgehog heron hippopotamus horse hyena iguana
jackal kangaroo koala leopard lion lizard llama lobster lynx magpie mole moose octopus ostrich otter owl
panda panther parrot pelican penguin pigeon puffin rabbit raven salamander seal shark sloth sparrow squirrel
stork swan tiger toad tortoise turtle walrus whale wolf wombat zebra
""")
_INSTRUMENTS = words("""
accordion bagpipe balalaika banjo bassoon bugle cello clarinet cymbal drum dulcimer fiddle flute gong guitar
harmonica harp harpsichord horn kazoo lute lyre mandolin marimba oboe organ piano recorder saxophone sitar
tambourine triangle trombone trumpet tuba ukulele viola violin xylophone zither
""")
_COLOURS = words("""
amber aqua beige black blue bronze brown copper cream crimson gold green grey indigo ivory khaki lavender
lilac magenta maroon mauve mustard olive orange pink purple red rust scarlet silver teal turquoise vermilion
violet white yellow
""")
_MATERIALS = words("""
alabaster aluminium bamboo basalt birch brass brick bronze cedar clay concrete copper cork ebony flint glass
granite iron ivory larch lead leather limestone mahogany maple marble oak pewter pine plaster porcelain
sandstone silver slate steel teak tin timber titanium walnut willow zinc
""")
_PRODUCTS = words("""
amber apples barrels baskets bells bicycles books boots brandy butter candles carpets cheese cider clocks
coal copper dyes figs furniture glass gloves hats honey horses jam knives lace leather linen marble mustard
oil onions paper pearls perfume pottery roses rope saddles salt silk silver soap spices sponges tea tiles
tobacco toys umbrellas violins vinegar wine wool
""")
_HOBBIES = words("""
archery astronomy backgammon badminton baking ballet beekeeping boxing calligraphy canoeing carpentry
ceramics chess climbing cricket croquet cycling embroidery falconry fencing fishing gardening gymnastics
hiking juggling karate knitting origami painting photography poetry puppetry quilting riding rowing sailing
sculpture skating skiing swimming tennis weaving whittling wrestling yoga
""")
_MONTHS = words("January February March April May June July August September October November December")
_COINS = words("crowns florins guilders ducats pounds francs talers coins shillings marks")
_SEAS = words(
    "Amber Black Coral Cold Eastern Glass Green Grey Inner Long North Quiet Red Salt Silver South White"
)
_WATERS = words("Sea Bay Gulf Ocean Sound Lagoon")


def _number(rng: Random, low: int, high: int) -> str:
    """Return a number between the bounds, even over magnitudes; half of those above 999 carry a comma."""
    value = int(low * (high / low) ** rng.random())
    return f"{value:,}" if rng.random() < 0.5 else str(value)


def _span(rng: Random, start: int, length: int) -> str:
    return str(start + int(rng.random() * length))


# Each maker takes the generator, the slice's first year and the kind of the subject. People are born in the
# first 15 years of a slice's era; what they found comes 35 to 55 years in, what they make 60 to 75 years in.
VALUES: dict[str, Callable[[Random, int, str], str]] = {
    "birth_year": lambda rng, era, kind: _span(rng, era, 15),
    "founded_year": lambda rng, era, kind: _span(rng, era + 35, 20),
    "event_year": lambda rng, era, kind: _span(rng, era + 45, 15),
    "made_year": lambda rng, era, kind: _span(rng, era + 60, 15),
    "profession": lambda rng, era, kind: pick(rng, _PROFESSIONS),
    "food": lambda rng, era, kind: pick(rng, _FOODS),
    "animal": lambda rng, era, kind: pick(rng, _ANIMALS),
    "instrument": lambda rng, era, kind: pick(rng, _INSTRUMENTS),
    "colour": lambda rng, era, kind: pick(rng, _COLOURS),
    "material": lambda rng, era, kind: pick(rng, _MATERIALS),
    "product": lambda rng, era, kind: pick(rng, _PRODUCTS),
    "hobby": lambda rng, era, kind: pick(rng, _HOBBIES),
    "month": lambda rng, era, kind: pick(rng, _MONTHS),
    "sea": lambda rng, era, kind: f"the {pick(rng, _SEAS)} {pick(rng, _WATERS)}",
    "population": lambda rng, era, kind: _number(rng, 60, 900_000),
    "members": lambda rng, era, kind: _number(rng, 12, 9_000),
    "pages": lambda rng, era, kind: _number(rng, 40, 1_400),
    "rooms": lambda rng, era, kind: _number(rng, 4, 400),
    "area": lambda rng, era, kind: f"{_number(rng, 3, 40_000)} square kilometres",
    "length": lambda rng, era, kind: (
        f"{_number(rng, 11, 900)} {'kilometres' if kind == 'river' else 'metres'}"
    ),
    "price": lambda rng, era, kind: f"{_number(rng, 20, 90_000)} {pick(rng, _COINS)}",
}

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
)
ALL_GROUPS = tuple(RELATIONS)
_RELATIONS_OF = {group: tuple(table.values()) for group, table in RELATIONS.items()}
_MUTUAL = ("spouse", "rival")
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

    def write(self, *, heldout: bool, max_words: int) -> None:
        """Decide what is true, then write every entity's document; facts left unsaid are dropped."""
        for relation in _MUTUAL:
            self._pair_people(relation)
        self._choose_capitals()
        for entity in self.entities:
            self._write_document(entity, heldout, max_words)

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

    def _decide(self, entity: Entity, relation: Relation) -> Fact:
        rng = self.rng
        maker = VALUES.get(relation.value)
        if maker is not None:
            return Fact(value=maker(rng, self.era, entity.kind))
        if relation.name not in (*_MUTUAL, "capital") and rng.random() < 0.75:
            others = self._by_group.get(relation.value, [])
            if relation.name in ("teacher", "mentor"):
                others = others[: entity.place]
            if others:
                target = pick(rng, others)
                if target is not entity:
                    return Fact(value=target.name, target=target)
        return Fact(value=self.names.unique(kind_of_group(rng, relation.value)))

    def _write_document(self, entity: Entity, heldout: bool, max_words: int) -> None:
        rng = self.rng
        known, entity.facts = entity.facts, {}
        relations = list(_RELATIONS_OF[entity.group])
        rng.shuffle(relations)
        if known:
            relations.sort(key=lambda relation: relation.name not in known or rng.random() < 0.4)
        wanted = min(max_words, 13 + int(rng.random() * (max_words - 12)))
        sentences: list[str] = []
        count = 0
        if entity.kind != "person" and rng.random() < 0.15:
            sentences.append(f"{entity.name} is {_article(entity.kind)}.")
            count = len(sentences[0].split())
        taken: set[str] = set()
        for relation in relations:
            fact = known.get(relation.name) or self._decide(entity, relation)
            if fact.value in taken or _told_already(relation.name, fact):
                continue
            sentence = _tell(rng, entity, relation, fact.value, first=not sentences, heldout=heldout)
            words_in = sentence.count(" ") + 1
            if count + words_in > max_words:
                continue
            taken.add(fact.value)
            entity.facts[relation.name] = fact
            sentences.append(sentence)
            count += words_in
            if count >= wanted or len(sentences) == 5:
                break
        entity.text = " ".join(sentences)


def _told_already(relation: str, fact: Fact) -> bool:
    """Whether the other half of a couple states the bond, so that one document answers for each question."""
    return (
        relation in _MUTUAL
        and fact.target is not None
        and bool(fact.target.text)
        and relation in fact.target.facts
    )


def _article(value: str) -> str:
    return f"an {value}" if value[0] in "aeiou" else f"a {value}"


def _tell(rng: Random, entity: Entity, relation: Relation, value: str, *, first: bool, heldout: bool) -> str:
    """Return one sentence; the first one names the subject in full."""
    template = relation.facts.pick(rng, heldout)
    choice = 0.0 if first else rng.random()
    if choice < 0.35:
        subject = object_case = entity.name
        possessive = f"{subject}'s"
    elif entity.kind == "person" or (choice < 0.7 and template.startswith(("{s}", "{p}"))):
        subject, possessive, object_case = entity.pronouns
    else:
        subject = object_case = f"the {entity.kind}"
        possessive = f"{subject}'s"
    text = template.format(s=subject, p=possessive, m=object_case, o=value, a=_article(value))
    return text if text.startswith(value) else text[0].upper() + text[1:]
