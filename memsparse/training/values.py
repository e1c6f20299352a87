"""Values that are no entities: numbers, dates, codes, and words from lists."""

from collections.abc import Callable
from random import Random

from memsparse.training.name_words import ADJECTIVES, NOUNS, words
from memsparse.training.names import pick

PROFESSIONS = words("""
actor architect astronomer baker barber beekeeper blacksmith bookbinder botanist brewer butcher carpenter
cartographer chemist clockmaker cobbler cook dancer dentist diver doctor engineer farmer fisherman florist
gardener geologist glassblower goldsmith hatter historian jeweller journalist judge lawyer librarian
locksmith mason merchant miller miner musician nurse optician painter pharmacist photographer physicist
pilot plumber poet porter potter printer sailor sculptor shepherd surgeon surveyor tailor tanner teacher
translator watchmaker weaver accountant archivist auctioneer biologist chef choreographer composer conductor
courier curator designer detective economist editor electrician falconer firefighter glazier groom interpreter
lamplighter linguist mathematician mechanic midwife notary novelist roofer saddler seamstress soldier
stonecutter tinsmith vet vintner waiter welder zoologist
""")
FOODS = words("""
apricots barley beans beetroot bread cabbage carrots cheese cherries chestnuts chocolate couscous dates
dumplings eggplant figs gingerbread grapes ham herring honey lentils lobster mango marmalade mushrooms
mussels mustard noodles nougat olives omelettes oysters pancakes parsnips pears pickles plums polenta
porridge potatoes pumpkin radishes raisins ravioli rice salmon sausages spinach strudel tofu trout turnips
waffles walnuts yoghurt almonds asparagus bacon basil blackberries broccoli celery clams cranberries cucumber
custard dill doughnuts garlic goulash hazelnuts kale lasagne leeks lemons melon millet oats onions paprika
peaches peanuts peas pepper pineapple prawns quinces risotto rhubarb saffron sauerkraut sesame shrimp squid
thyme toffee tomatoes vanilla venison
""")
ANIMALS = words("""
albatross antelope badger beaver bison camel cheetah cobra crane crocodile dolphin donkey eagle elephant
falcon ferret flamingo fox gazelle giraffe goat gorilla hedgehog heron hippopotamus horse hyena iguana
jackal kangaroo koala leopard lion lizard llama lobster lynx magpie mole moose octopus ostrich otter owl
panda panther parrot pelican penguin pigeon puffin rabbit raven salamander seal shark sloth sparrow squirrel
stork swan tiger toad tortoise turtle walrus whale wolf wombat zebra alpaca armadillo baboon bat bear boar
buffalo canary cat chameleon chinchilla cormorant coyote crow deer dog duck finch frog gecko goose guinea-pig
gull hamster hare hawk hornbill kingfisher lemur mongoose newt nightingale orangutan ox peacock pheasant pony
porcupine quail rat rhinoceros robin skunk snake starling tapir tarantula vulture weasel woodpecker yak
""")
INSTRUMENTS = words("""
accordion bagpipe balalaika banjo bassoon bugle cello clarinet cymbal drum dulcimer fiddle flute gong guitar
harmonica harp harpsichord horn kazoo lute lyre mandolin marimba oboe organ piano recorder saxophone sitar
tambourine triangle trombone trumpet tuba ukulele viola violin xylophone zither bandoneon bongo cornet
didgeridoo euphonium glockenspiel hurdy-gurdy ocarina piccolo theremin vibraphone
""")
COLOURS = words("""
amber aqua beige black blue bronze brown copper cream crimson gold green grey indigo ivory khaki lavender
lilac magenta maroon mauve mustard olive orange pink purple red rust scarlet silver teal turquoise vermilion
violet white yellow azure burgundy charcoal cobalt coral emerald fuchsia ochre peach plum ruby saffron
sapphire tan
""")
MATERIALS = words("""
alabaster aluminium bamboo basalt birch brass brick bronze cedar clay concrete copper cork ebony flint glass
granite iron ivory larch lead leather limestone mahogany maple marble oak pewter pine plaster porcelain
sandstone silver slate steel teak tin timber titanium walnut willow zinc ash beech carbon ceramic cypress
elm fir nickel plastic plywood quartz rubber spruce terracotta
""")
PRODUCTS = words("""
amber apples barrels baskets bells bicycles books boots brandy butter candles carpets cheese cider clocks
coal copper dyes figs furniture glass gloves hats honey horses jam knives lace leather linen marble mustard
oil onions paper pearls perfume pottery roses rope saddles salt silk silver soap spices sponges tea tiles
tobacco toys umbrellas violins vinegar wine wool buttons cameras chairs charcoal coins combs cotton dolls
drums feathers flour fossils furs gloves hops ink kites lamps lemons mirrors needles nuts pens pipes postcards
sausages scissors seeds shells shoes spoons stamps sugar sweets swords tapestries timber tulips watches
""")
HOBBIES = words("""
archery astronomy backgammon badminton baking ballet beekeeping boxing calligraphy canoeing carpentry
ceramics chess climbing cricket croquet cycling embroidery falconry fencing fishing gardening gymnastics
hiking juggling karate knitting origami painting photography poetry puppetry quilting riding rowing sailing
sculpture skating skiing swimming tennis weaving whittling wrestling yoga birdwatching bowling bridge camping
cooking crochet darts dominoes dancing genealogy golf judo kayaking model-building pottery sewing singing
snorkelling squash stargazing surfing theatre woodcarving
""")
SPORTS = words("""
football rugby hockey cricket handball volleyball basketball baseball curling polo rowing tennis badminton
lacrosse fencing cycling bowls darts wrestling swimming skiing sailing athletics judo softball netball
""")
LANGUAGES = words("""
Arabic Armenian Basque Bengali Breton Bulgarian Catalan Cornish Croatian Czech Danish Dutch Estonian Finnish
French Frisian Gaelic Georgian German Greek Hausa Hebrew Hindi Hungarian Icelandic Irish Italian Japanese
Korean Kurdish Latin Latvian Lithuanian Maltese Maori Mongolian Nepali Norwegian Persian Polish Portuguese
Quechua Romanian Russian Sami Serbian Slovak Slovene Spanish Swahili Swedish Tamil Tatar Thai Tibetan Turkish
Ukrainian Urdu Vietnamese Welsh Yiddish Yoruba Zulu
""")
AILMENTS = words("""
asthma boils bronchitis colds coughs cramps croup earache eczema fainting fever frostbite gout hay-fever
headaches heartburn hiccups indigestion insomnia itching jaundice lumbago measles migraine mumps nausea
rashes rheumatism scurvy seasickness sneezing stings sunburn toothache ulcers vertigo warts
""")
MONTHS = words("January February March April May June July August September October November December")
COINS = words("crowns florins guilders ducats pounds francs talers coins shillings marks dollars pesos")
_CURRENCIES = words(
    "crown florin guilder ducat pound franc taler shilling mark dinar rupee thaler real zecchin"
)
_SEAS = words(
    "Amber Black Coral Cold Eastern Glass Green Grey Inner Long North Quiet Red Salt Silver South White"
)
_WATERS = words("Sea Bay Gulf Ocean Sound Lagoon")
_DAMAGED = words(
    "broken leaking cracked forgotten overheated faulty rusty worn burst neglected loose clogged"
)
_CAUSES = words(
    "valve chimney lamp boiler cable candle stove pipe dam pump fuse lantern wheel beam engine hinge"
)
_GROUNDS = words("dry wet shady sandy rocky chalky mossy salty sunny windy marshy stony")
_PLACES = words("meadows marshes ravines dunes cliffs slopes woods heaths ditches moors hedges valleys")
_VIRTUES = words(
    "Courage Patience Honour Order Salt Bread Truth Duty Hope Work Silence Fire Light Stone Reason"
)
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


def below(rng: Random, low: int, high: int) -> int:
    """Return a whole number of low..high, both included."""
    return low + int(rng.random() * (high - low + 1))


def number(rng: Random, low: int, high: int) -> str:
    """Return a number between the bounds, even over magnitudes; half of those above 999 carry a comma."""
    value = int(low * (high / low) ** rng.random())
    return f"{value:,}" if rng.random() < 0.5 else str(value)


def digits(rng: Random, low: int, high: int) -> str:
    """Return a number of low..high digits."""
    count = below(rng, low, high)
    return str(int((1 + 9 * rng.random()) * 10 ** (count - 1)))


def letters(rng: Random, count: int) -> str:
    """Return capital letters."""
    return "".join(pick(rng, _LETTERS) for _ in range(count))


def date(rng: Random, year: int | None = None) -> str:
    """Return a day of a month, with the year or without."""
    day, month = below(rng, 1, 28), pick(rng, MONTHS)
    text = f"{day} {month}" if rng.random() < 0.6 else f"{month} {day}"
    return text if year is None else f"{text}, {year}" if text[0].isalpha() else f"{text} {year}"


def clock(rng: Random) -> str:
    """Return a time of the day."""
    hour, minute = below(rng, 0, 23), f"{5 * below(rng, 0, 11):02d}"
    if rng.random() < 0.3:
        return f"{(hour - 1) % 12 + 1}:{minute} {'am' if hour < 12 else 'pm'}"
    return f"{hour}:{minute}"


def _span(rng: Random, start: int, length: int) -> str:
    return str(start + int(rng.random() * length))


def _room(rng: Random) -> str:
    return digits(rng, 1, 3) if rng.random() < 0.6 else f"{pick(rng, _LETTERS)}{digits(rng, 1, 3)}"


def _plate(rng: Random) -> str:
    separator = pick(rng, ("-", " ", ""))
    return separator.join((letters(rng, below(rng, 1, 3)), digits(rng, 2, 4)))


def _height(rng: Random) -> str:
    tall = below(rng, 140, 205)
    return f"{tall} centimetres" if rng.random() < 0.5 else f"{tall / 100:.2f} metres"


def _weight(rng: Random, kind: str) -> str:
    if kind == "ship":
        return f"{number(rng, 12, 90_000)} tonnes"
    return (
        f"{number(rng, 2, 900)} kilograms" if rng.random() < 0.6 else f"{rng.random() * 40 + 1:.1f} kilograms"
    )


def _duration(rng: Random) -> str:
    return f"{5 * below(rng, 2, 18)} minutes" if rng.random() < 0.65 else f"{below(rng, 2, 30)} hours"


def _password(rng: Random) -> str:
    style = rng.random()
    if style < 0.4:
        return f"{pick(rng, ADJECTIVES)}-{pick(rng, NOUNS)}"
    if style < 0.6:
        return f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"
    return f"{pick(rng, NOUNS)}{digits(rng, 1, 4)}"


def _motto(rng: Random) -> str:
    first, second = rng.sample(_VIRTUES, 2)
    return pick(
        rng, ("{} before {}", "{} and {}", "No {} without {}", "{} makes {}", "From {} to {}")
    ).format(first, second)


def _cause(rng: Random) -> str:
    word = pick(rng, _DAMAGED)
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word} {pick(rng, _CAUSES)}"


# Each maker takes the generator, the slice's first year and the kind of the subject. People are born in the
# first 15 years of a slice's era; what they found comes 35 to 55 years in, what they make 60 to 75 years in.
VALUES: dict[str, Callable[[Random, int, str], str]] = {
    "birth_year": lambda rng, era, kind: _span(rng, era, 15),
    "founded_year": lambda rng, era, kind: _span(rng, era + 35, 20),
    "event_year": lambda rng, era, kind: _span(rng, era + 45, 15),
    "made_year": lambda rng, era, kind: _span(rng, era + 60, 15),
    "profession": lambda rng, era, kind: pick(rng, PROFESSIONS),
    "food": lambda rng, era, kind: pick(rng, FOODS),
    "animal": lambda rng, era, kind: pick(rng, ANIMALS),
    "instrument": lambda rng, era, kind: pick(rng, INSTRUMENTS),
    "colour": lambda rng, era, kind: pick(rng, COLOURS),
    "material": lambda rng, era, kind: pick(rng, MATERIALS),
    "product": lambda rng, era, kind: pick(rng, PRODUCTS),
    "hobby": lambda rng, era, kind: pick(rng, HOBBIES),
    "sport": lambda rng, era, kind: pick(rng, SPORTS),
    "language": lambda rng, era, kind: pick(rng, LANGUAGES),
    "ailment": lambda rng, era, kind: pick(rng, AILMENTS).replace("-", " "),
    "month": lambda rng, era, kind: pick(rng, MONTHS),
    "currency": lambda rng, era, kind: pick(rng, _CURRENCIES),
    "sea": lambda rng, era, kind: f"the {pick(rng, _SEAS)} {pick(rng, _WATERS)}",
    "habitat": lambda rng, era, kind: f"{pick(rng, _GROUNDS)} {pick(rng, _PLACES)}",
    "motto": lambda rng, era, kind: _motto(rng),
    "cause": lambda rng, era, kind: _cause(rng),
    "population": lambda rng, era, kind: number(rng, 60, 900_000),
    "members": lambda rng, era, kind: number(rng, 12, 9_000),
    "pages": lambda rng, era, kind: number(rng, 40, 1_400),
    "rooms": lambda rng, era, kind: number(rng, 4, 400),
    "area": lambda rng, era, kind: f"{number(rng, 3, 40_000)} square kilometres",
    "length": lambda rng, era, kind: (
        f"{number(rng, 11, 900)} {'kilometres' if kind == 'river' else 'metres'}"
    ),
    "price": lambda rng, era, kind: f"{number(rng, 20, 90_000)} {pick(rng, COINS)}",
    "height": lambda rng, era, kind: _height(rng),
    "weight": lambda rng, era, kind: _weight(rng, kind),
    "duration": lambda rng, era, kind: _duration(rng),
    "date": lambda rng, era, kind: date(rng, era + 80 if rng.random() < 0.5 else None),
    "clock": lambda rng, era, kind: clock(rng),
    "platform": lambda rng, era, kind: digits(rng, 1, 2) + pick(rng, ("", "", "", "a", "b")),
    "room": lambda rng, era, kind: _room(rng),
    "extension": lambda rng, era, kind: digits(rng, 3, 5),
    "plate": lambda rng, era, kind: _plate(rng),
    "code": lambda rng, era, kind: f"{letters(rng, 2)}-{digits(rng, 3, 6)}",
    "shelf": lambda rng, era, kind: f"{pick(rng, _LETTERS)}{pick(rng, ('', ' ', '-'))}{digits(rng, 1, 3)}",
    "address": lambda rng, era, kind: f"10.{below(rng, 0, 255)}.{below(rng, 0, 255)}.{below(rng, 1, 254)}",
    "password": lambda rng, era, kind: _password(rng),
}
"""Makers of values by name."""

WITH_UNIT = ("area", "length", "price", "weight", "duration", "height")
"""Values that begin with a number; the number alone is accepted too."""
WITH_ARTICLE = ("sea", "cause")
"""Values that begin with an article; they are accepted without it."""
