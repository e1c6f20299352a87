"""Invented names and the word lists behind them.

Every name rests on a word, or a pair of words, whose stable hash decides the split it belongs to, so
that no invented word and no compound of a "heldout" world ever occurs as such in a "train" world.
"""

import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, TypeVar

from memsparse.training.name_words import (
    ACCIDENT_NOUNS,
    ADJECTIVES,
    DEVICE_NOUNS,
    DISH_NOUNS,
    FESTIVAL_NOUNS,
    FIRST_NAMES,
    HOUSE_NOUNS,
    NOUNS,
    ORGANISATION_NOUNS,
    PLANT_NOUNS,
    PROJECT_NOUNS,
    STEMS,
    TAILS,
    TEAM_NOUNS,
    TRAIN_NOUNS,
)

Split = Literal["train", "heldout"]
T = TypeVar("T")

HELDOUT_SHARE = 6
"""One word in this many belongs to the heldout split."""


def pick(rng: Random, items: Sequence[T]) -> T:
    """Return one of `items`, uniformly; faster than `Random.choice`."""
    return items[int(rng.random() * len(items))]


def split_of(word: str) -> Split:
    """Return the split an invented word or a compound belongs to; case does not matter."""
    return "heldout" if zlib.crc32(word.lower().encode()) % HELDOUT_SHARE == 0 else "train"


# Onsets, vowels, codas, word endings and the weights of one, two and three syllables before the ending.
# An empty piece is written "-".
_GRAMMARS = (
    (
        "b br d dr f fj g gr h hj hr k kv l m n r s sk sn st sv t th tr v",
        "a e i o u y ei au",
        "- - l n r s nd rk lf rn st gg ld",
        "a ar e en heim ir or und vik mar sund dal",
        (6, 4, 0),
    ),
    (
        "b c ch d f g gl l m n p pr r s t tr v z",
        "a e i o u ia io",
        "- - - - n r l s",
        "a o ano ella etti ini one ora ucci anza ero ara",
        (4, 6, 1),
    ),
    (
        "b d g k kr l m n p pr r s sl st t v vl z zd zh",
        "a e i o u ya",
        "- - - n k v r sh sk",
        "ov ova ek ich ina ko ka ograd in itsa enko av",
        (6, 4, 0),
    ),
    (
        "k s t n h m r y g z sh ch ts j d b",
        "a i u e o",
        "- - - - n",
        "- ko ro mi ka shi ta ra to ya",
        (2, 6, 3),
    ),
    ("h k l m n p w f t v", "a e i o u ai ou ea", "-", "- a i la nui kai mo", (1, 5, 4)),
    (
        "b br c cl d dw f fl g gw ll m n pr r rh s t tr w",
        "a e i o u ae wy",
        "- n r l dd th nn rn ch",
        "en an wyn eth og ach ydd in is or",
        (6, 4, 0),
    ),
    (
        "b d f h j k kh l m n q r s sh t w z",
        "a i u aa ee",
        "- - b d l m n r s",
        "a i im iya ad oun ah at ir",
        (5, 5, 0),
    ),
    (
        "x z q v k th dr zr kl gr n y tr",
        "a e i o u y ae ia",
        "- r x l th n k",
        "ax os ith yr ion une ex ara ul",
        (5, 5, 0),
    ),
    (
        "b ch d f g h j l m n p t w y z",
        "a e i o u oo",
        "- - m n",
        "- be go la mbe nda si ti wa zi",
        (2, 6, 2),
    ),
    (
        "b d h j k l m p r s t v w",
        "aa ee oo ie ui a e o",
        "- l n r s t k nt rs",
        "en er ink stra ma sen man dijk veld",
        (6, 3, 0),
    ),
)


def _pieces(text: str) -> tuple[str, ...]:
    return tuple("" if piece == "-" else piece for piece in text.split())


_STYLES = tuple(
    (
        _pieces(onsets),
        _pieces(vowels),
        _pieces(codas),
        _pieces(endings),
        tuple(count for count, weight in enumerate(weights, start=1) for _ in range(weight)),
    )
    for onsets, vowels, codas, endings, weights in _GRAMMARS
)


class Names:
    """Makes the names of one world: unique (case ignored), all of one split.

    `recent` surnames, first names and place words are reused now and then, so that names are confusable.
    """

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self.used: set[str] = set()
        self._surnames: list[str] = []
        self._places: list[str] = []
        self._makers: dict[str, Callable[[], str]] = {
            "person": self._person,
            "town": self._town,
            "river": self._river,
            "island": self._island,
            "region": self._region,
            "company": lambda: self._organisation("company"),
            "school": lambda: self._organisation("school"),
            "guild": lambda: self._organisation("guild"),
            "orchestra": lambda: self._organisation("orchestra"),
            "ship": self._ship,
            "painting": self._work,
            "book": self._work,
            "device": lambda: f"{self._owner()} {pick(rng, DEVICE_NOUNS)}",
            "bridge": lambda: f"{self._owner()} Bridge",
            "house": lambda: f"{self._owner()} {pick(rng, HOUSE_NOUNS)}",
            "festival": self._festival,
            "battle": lambda: f"Battle of {self._owner()}",
            "expedition": lambda: f"{self._owner()} Expedition",
            "train": lambda: f"{self._place_word()} {pick(rng, TRAIN_NOUNS)}",
            "project": self._project,
            "dish": lambda: f"{self._place_word()} {pick(rng, DISH_NOUNS)}",
            "team": lambda: f"{self._place_word()} {pick(rng, TEAM_NOUNS)}",
            "accident": lambda: f"{self._owner()} {pick(rng, ACCIDENT_NOUNS)}",
            "song": self._work,
            "plant": lambda: f"{self.word()} {pick(rng, PLANT_NOUNS)}",
            "server": lambda: f"{self.pair('-').capitalize()}-{1 + int(rng.random() * 40):02d}",
            "peak": lambda: f"Mount {self._stem()}",
            "key": self._key,
        }

    def unique(self, kind: str) -> str:
        """Return a name of an entity kind, or of a needle's "key", that this world has not used yet."""
        make = self._makers[kind]
        while True:
            name = make()
            handle = name.lower().replace("-", " ").removeprefix("the ")
            if handle not in self.used:
                self.used.add(handle)
                return name

    def word(self) -> str:
        """Return an invented capitalised word of 4 to 11 letters."""
        rng, random = self.rng, self.rng.random
        while True:
            onsets, vowels, codas, endings, counts = _STYLES[int(random() * len(_STYLES))]
            parts = []
            for _ in range(counts[int(random() * len(counts))]):
                parts.append(onsets[int(random() * len(onsets))])
                parts.append(vowels[int(random() * len(vowels))])
                parts.append(codas[int(random() * len(codas))])
            ending = pick(rng, endings)
            if ending and ending[0] in "aeiouy" and not parts[-1]:
                parts[-1] = pick(rng, onsets)
            word = "".join(parts) + ending
            if 4 <= len(word) <= 11 and split_of(word) == self.split:
                return word.capitalize()

    def _compound(self) -> str:
        while True:
            word = pick(self.rng, STEMS) + pick(self.rng, TAILS)
            if split_of(word) == self.split:
                return word.capitalize()

    def pair(self, separator: str = " ") -> str:
        """Return an adjective and a noun whose pairing belongs to the split, in lower case."""
        while True:
            adjective, noun = pick(self.rng, ADJECTIVES), pick(self.rng, NOUNS)
            if split_of(f"{adjective} {noun}") == self.split:
                return f"{adjective}{separator}{noun}"

    def _nouns(self) -> tuple[str, str]:
        while True:
            first, second = pick(self.rng, NOUNS), pick(self.rng, NOUNS)
            if first != second and split_of(f"{first} {second}") == self.split:
                return first, second

    def _stem(self) -> str:
        return self._compound() if self.rng.random() < 0.12 else self.word()

    def _remember(self, recent: list[str], word: str) -> str:
        if len(recent) < 12:
            recent.append(word)
        else:
            recent[int(self.rng.random() * 12)] = word
        return word

    def _surname(self) -> str:
        if self._surnames and self.rng.random() < 0.18:
            return pick(self.rng, self._surnames)
        return self._remember(self._surnames, self._stem())

    def _person(self) -> str:
        rng = self.rng
        style = rng.random()
        if style < 0.06:
            return self.word()
        first = pick(rng, FIRST_NAMES) if rng.random() < 0.5 else self.word()
        if style < 0.14:
            return f"{first} {pick(rng, ('van', 'de', 'al', 'von', 'ap', 'bin', 'di'))} {self._surname()}"
        if style < 0.22:
            return f"{first} {pick(rng, FIRST_NAMES)} {self._surname()}"
        return f"{first} {self._surname()}"

    def _place_word(self) -> str:
        if self._places and self.rng.random() < 0.12:
            return pick(self.rng, self._places)
        return self._remember(self._places, self._stem())

    def _town(self) -> str:
        rng, style = self.rng, self.rng.random()
        if style < 0.62:
            return self._remember(self._places, self._stem())
        word = self._place_word()
        if style < 0.78:
            return f"{pick(rng, ('Port', 'New', 'Upper', 'Lower', 'Saint', 'Old', 'Fort', 'Great'))} {word}"
        if style < 0.9:
            return (
                f"{word} {pick(rng, ('Bay', 'Falls', 'Cross', 'Market', 'Springs', 'Hill', 'Rock', 'Green'))}"
            )
        return f"{word} {self.word()}"

    def _river(self) -> str:
        word = self._place_word()
        return pick(self.rng, (f"River {word}", f"{word} River", f"{word} Creek", f"{word} Water"))

    def _island(self) -> str:
        word = self._place_word()
        return pick(self.rng, (f"{word} Island", f"Isle of {word}", f"{word} Atoll", f"{word} Rock"))

    def _region(self) -> str:
        word = self._place_word()
        shapes = (
            "{} Province",
            "Duchy of {}",
            "{} Valley",
            "{} Highlands",
            "Kingdom of {}",
            "{} County",
            "Republic of {}",
        )
        return pick(self.rng, shapes).format(word)

    def _owner(self) -> str:
        style = self.rng.random()
        if style < 0.12:
            return self.pair().title()
        return self._surname() if style < 0.3 else self._place_word()

    def _organisation(self, kind: str) -> str:
        rng, noun = self.rng, pick(self.rng, ORGANISATION_NOUNS[kind])
        style = rng.random()
        if style < 0.12:
            return f"{self._surname()} and {self._surname()} {noun}"
        if style < 0.24:
            return f"{self.pair().title()} {noun}"
        return f"{self._owner()} {noun}"

    def _ship(self) -> str:
        style = self.rng.random()
        if style < 0.4:
            first, second = self._nouns()
            return f"{first} {second}".title()
        if style < 0.6:
            return self.pair().title()
        word = self.word()
        return pick(self.rng, ("{} Star", "Lady {}", "{} Queen", "Spirit of {}", "{}", "{} Gull")).format(
            word
        )

    def _work(self) -> str:
        style = self.rng.random()
        if style < 0.25:
            return f"The {self.pair().title()}"
        if style < 0.45:
            first, second = (noun.title() for noun in self._nouns())
            return pick(self.rng, ("{} and {}", "{} without {}", "{} of the {}", "{} {}")).format(
                first, second
            )
        if style < 0.65:
            first, second = (noun.title() for noun in self._nouns())
            return f"The {first} of {self.word()} {second}"
        shapes = (
            "Letters from {}",
            "The Road to {}",
            "{} at Dusk",
            "Songs of {}",
            "The Daughters of {}",
            "View of {}",
            "{}",
        )
        return pick(self.rng, shapes).format(self.word())

    def _project(self) -> str:
        style = self.rng.random()
        if style < 0.5:
            return f"Project {self.pair().title() if style < 0.2 else self.word()}"
        if style < 0.65:
            return f"Operation {self.pair().title()}"
        return f"{self._owner()} {pick(self.rng, PROJECT_NOUNS)}"

    def _festival(self) -> str:
        noun = pick(self.rng, FESTIVAL_NOUNS)
        return (
            f"{self._owner()} {noun}" if self.rng.random() < 0.7 else f"{noun} of the {self.pair().title()}"
        )

    def _key(self) -> str:
        style = self.rng.random()
        if style < 0.35:
            return self.pair("-")
        if style < 0.6:
            return self.pair()
        if style < 0.8:
            return self.word().lower()
        return f"{pick(self.rng, ADJECTIVES)} {self.word().lower()}"
