"""What needles lie in: noise, given texts, or other needles, in documents of one size.

Sizes are tokens of the text alone, as the given counter counts them; the template around a document comes
on top. Every draw comes from a seeded generator.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, pairwise, repeat
from random import Random
from typing import Literal
from uuid import UUID

from memsparse.errors import ConfigError, InputError
from memsparse.text import split_document
from memsparse.types import Document

CountTokens = Callable[[str], int]
Kind = Literal["words", "numbers", "uuids"]

NOISE = (
    "The river runs down to the sea.",
    "The wind moves the leaves.",
    "A clock ticks in the hall.",
    "The rain stops and starts again.",
    "We walk to the end of the road.",
    "Then we turn and walk home.",
)
"""Sentences that say nothing, repeated without end."""

_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*(?:\s+|\Z)|(?<=[\u3002\uff01\uff1f])|\n+")
_SEVEN_DIGITS = re.compile(r"(?=(\d{7}))")
_DRAWS = 1000
"""Values that are taken in a row before a sort of value counts as used up."""


class Draws:
    """Keys and values: words "adjective-noun", numbers of 7 digits, UUIDs of version 4; none twice."""

    def __init__(self, seed: str, taken: set[str]) -> None:
        """Start a generator.

        Args:
            taken: what may not be drawn; what is drawn is added.
        """
        self.random = Random(seed)
        self._taken = taken

    def draw(self, kind: Kind) -> str:
        """Return a value nobody has.

        Raises: ConfigError when next to none is left, or words are asked for without `wonderwords`.
        """
        for _ in range(_DRAWS):
            value = self._any(kind)
            if value not in self._taken:
                self._taken.add(value)
                return value
        raise ConfigError(
            f"{len(self._taken):,} values are drawn and hardly any {kind} are left; choose a shorter length"
        )

    def needle(self, keys: Kind, values: Kind) -> str:
        """Return a needle of a new key and a new value."""
        return needle_sentence(self.draw(keys), self.draw(values), values)

    def _any(self, kind: Kind) -> str:
        if kind == "numbers":
            return str(self.random.randrange(1_000_000, 10_000_000))
        if kind == "uuids":
            return str(UUID(int=self.random.getrandbits(128), version=4))
        adjectives, nouns = _word_lists()
        return f"{self.random.choice(adjectives)}-{self.random.choice(nouns)}"


def needle_sentence(key: str, value: str, values: Kind) -> str:
    """RULER's needle: a value of a sort for a key."""
    return f"One of the special magic {values} for {key} is: {value}."


def needle_question(keys: Sequence[str], values: Kind, *, plural: bool) -> str:
    """RULER's question for the values of keys."""
    named = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"
    if plural:
        return f"What are all the special magic {values} for {named} mentioned in the provided text?"
    return f"What is the special magic {values.removesuffix('s')} for {named} mentioned in the provided text?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Haystack:
    """Documents of one namespace; document i has the text `texts[i % len(texts)]`."""

    namespace: str
    texts: Sequence[str]
    documents: int
    tokens: int
    longest: int
    """Tokens of the longest document."""
    repeats: float
    """How often the texts were gone through to reach the length; 1.0 where they sufficed."""

    def document(self, index: int) -> Document:
        """Return a document, counted from 0."""
        text = self.texts[index % len(self.texts)]
        return Document(id=f"{self.namespace}-{index}", text=text, namespace=self.namespace)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A document with a needle, ahead of a document of the haystack."""

    place: int
    document: Document


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleDocuments:
    """The documents of a bank, in order; made anew whenever they are iterated over."""

    parts: tuple[tuple[Haystack, tuple[Placed, ...]], ...]

    def __len__(self) -> int:
        return sum(haystack.documents + len(placed) for haystack, placed in self.parts)

    def __iter__(self) -> Iterator[Document]:
        for haystack, placed in self.parts:
            at = 0
            for each in sorted(placed, key=lambda each: each.place):
                for index in range(at, each.place):
                    yield haystack.document(index)
                at = each.place
                yield each.document
            for index in range(at, haystack.documents):
                yield haystack.document(index)


def fill(namespace: str, pieces: Iterable[tuple[str, int]], tokens: int) -> Haystack:
    """Take (text, size) pieces until their sizes come closest to `tokens`; they start over when they run out.

    There is at least one document.

    Raises: InputError where there is no piece.
    """
    texts: list[str] = []
    sizes: list[int] = []
    own = 0
    sufficed = False
    for text, size in pieces:
        if sufficed := bool(texts) and own + size / 2 > tokens:
            break
        texts.append(text)
        sizes.append(size)
        own += size
    if not texts:
        raise InputError("the haystack has no text; give documents with some, or none at all")
    documents, held = len(texts), own
    while not sufficed and held + sizes[documents % len(sizes)] / 2 <= tokens:
        held += sizes[documents % len(sizes)]
        documents += 1
    return Haystack(
        namespace=namespace,
        texts=texts,
        documents=documents,
        tokens=held,
        longest=max(sizes),
        repeats=held / own,
    )


def noise_pieces(count: CountTokens, limit: int) -> Iterator[tuple[str, int]]:
    """One document per noise sentence: it begins with that one and goes on through the others, repeating."""
    for first in range(len(NOISE)):
        yield next(pack(cycle(NOISE[first:] + NOISE[:first]), count, limit))


def text_pieces(documents: Iterable[Document], count: CountTokens, limit: int) -> Iterator[tuple[str, int]]:
    """Cut texts into documents of at most `limit` tokens, on sentence borders where that is possible."""
    for document in documents:
        for start, end in split_document(document.text, count, limit):
            if text := document.text[start:end].strip():
                yield text, max(count(text), 1)


def needle_pieces(
    draws: Draws, keys: Kind, values: Kind, count: CountTokens, limit: int
) -> Iterator[tuple[str, int]]:
    """Documents of needles alone, without end."""
    return pack((draws.needle(keys, values) for _ in repeat(None)), count, limit)


def pack(sentences: Iterable[str], count: CountTokens, limit: int) -> Iterator[tuple[str, int]]:
    """Join sentences into documents of about `limit` tokens; a longer sentence is a document of its own."""
    held: list[str] = []
    size = 0
    for sentence in sentences:
        more = count(f" {sentence}" if held else sentence)
        if held and size + more > limit:
            yield " ".join(held), size
            held, size, more = [], 0, count(sentence)
        held.append(sentence)
        size += more
    if held:
        yield " ".join(held), size


def excerpt(documents: Sequence[Document], random: Random, count: CountTokens, limit: int) -> str:
    """Return a random stretch of at most `limit` tokens of one text, from the later half of the documents.

    A haystack takes its texts from the first on, so that it holds the same stretch only where it is long.
    """
    text = documents[random.randrange(len(documents) // 2, len(documents))].text
    characters = 16 * limit
    at = random.randrange(max(1, len(text) - characters + 1))
    window = text[at : at + characters]
    starts = [end for end in _sentence_ends(window) if end < len(window)] if at else []
    return _head(window[starts[0] if starts else 0 :], count, limit)


def with_needle(needle: str, text: str, random: Random) -> str:
    """Put a sentence between two others of a text, at its start, or at its end if a sentence ends there."""
    at = random.choice(sorted({0, *_sentence_ends(text)}))
    return " ".join(part for part in (text[:at].strip(), needle, text[at:].strip()) if part)


def seven_digits(documents: Iterable[Document]) -> set[str]:
    """Return every run of 7 digits in the texts, as no answer may be found by chance."""
    return {match[1] for document in documents for match in _SEVEN_DIGITS.finditer(document.text)}


def _head(text: str, count: CountTokens, limit: int) -> str:
    """The longest start of a text that fits, behind a sentence unless half of the room stays empty so."""
    kept = held = 0
    for start, end in pairwise(sorted({0, *_sentence_ends(text), len(text)})):
        size = count(text[start:end])
        if held + size > limit:
            break
        kept, held = end, held + size
    if held < limit / 2:
        words = text[kept : kept + 16 * limit]
        kept += next((end for _, end in split_document(words, count, limit - held)), 0)
    return text[:kept].strip()


def _sentence_ends(text: str) -> list[int]:
    return [match.end() for match in _SENTENCE_END.finditer(text)]


@cache
def _word_lists() -> tuple[list[str], list[str]]:
    """Adjectives and nouns of letters only, so that no two pairs read alike."""
    try:
        import wonderwords  # an extra
    except ImportError:
        raise ConfigError(
            "the keys of needles need the package wonderwords; pip install 'memsparse[eval]'"
        ) from None
    lists = wonderwords.RandomWord(adjective=wonderwords.Defaults.ADJECTIVES, noun=wonderwords.Defaults.NOUNS)
    adjectives, nouns = (
        sorted(set(wonderwords.filter_profanity(lists.filter(include_categories=[category], regex="[a-z]+"))))
        for category in ("adjective", "noun")
    )
    return adjectives, nouns
