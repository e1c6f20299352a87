"""Needle documents: a key, a value, and sentences around them that say nothing about either."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from memsparse.training.frames import FILLERS, FRAMES, asked, keywords, said, statement
from memsparse.training.names import Names, pick
from memsparse.training.needle_forms import FORMS
from memsparse.training.phrasings import capitalised

Prose = Callable[[Random, int], str]
"""Draws text that has nothing to do with needles, of at most so many words; may be empty."""


@dataclass(kw_only=True, slots=True)
class Needle:
    """One secret of a needle document."""

    key: str
    form: int
    value: str


_SHAPES = (
    "A {} lay on the floor.",
    "We saw a {} on the way.",
    "There was a {} by the gate.",
    "Nobody noticed the {}.",
    "The {} had been moved again.",
    "Somebody spoke of a {}.",
    "They had painted a {} on the wall.",
)


def _filler(rng: Random) -> str:
    if rng.random() < 0.6:
        return pick(rng, FILLERS)
    thing = Names(rng, "train").pair()  # nothing's name in a heldout world
    text = pick(rng, _SHAPES).format(thing)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def make_needle_document(
    rng: Random, names: Names, *, heldout: bool, max_words: int, prose: Prose | None = None
) -> tuple[str, str, list[Needle]]:
    """Return title (may be empty), text and the one or two needles of a document.

    With `prose`, half of the documents are real text that a needle was put into.
    """
    needles: list[Needle] = []
    sentences: list[str] = []
    room = max_words
    for _ in range(2 if rng.random() < 0.2 else 1):
        index = int(rng.random() * len(FORMS))
        needle = Needle(key=names.unique("key"), form=index, value=FORMS[index].value(rng))
        sentence = _told(rng, needle, heldout)
        words = len(sentence.split())
        if needles and words > room:
            break
        needles.append(needle)
        sentences.append(sentence)
        room -= words
    if prose is not None and room > 8 and rng.random() < 0.5:
        around = prose(rng, 4 + int(rng.random() * (room - 4)))
        cut = around.rfind(". ", 0, int(rng.random() * (len(around) + 1)) + 1) + 1
        parts = [around[:cut].strip(), *sentences, around[cut:].strip()]
        sentences = [part for part in parts if part]
    else:
        for _ in range(int(rng.random() * 5)):
            filler = _filler(rng)
            room -= len(filler.split())
            if room < 0:
                break
            sentences.insert(int(rng.random() * (len(sentences) + 1)), filler)
    title = capitalised(needles[0].key) if rng.random() < 0.5 else ""
    return title, " ".join(sentences), needles


def _told(rng: Random, needle: Needle, heldout: bool) -> str:
    wording = FORMS[needle.form].wording
    choice = rng.random()
    if choice < 0.2:
        phrase = wording.phrases.pick(rng, heldout).format(s=needle.key)
        text = statement(rng, phrase, needle.value, heldout=heldout)
    else:
        text = wording.facts.pick(rng, heldout).format(s=needle.key, o=needle.value)
        if choice < 0.32:
            text = said(rng, text, heldout=heldout)
    return text if text.startswith(needle.value) else capitalised(text)


def ask_needle(rng: Random, key: str, form: int, *, heldout: bool) -> str:
    """Return a question for a key's value under a form."""
    wording = FORMS[form].wording
    choice = rng.random()
    if choice < 0.12:
        text = keywords(rng, wording.nouns.pick(rng, heldout), key, heldout=heldout)
    elif choice < 0.35:
        phrase = wording.phrases.pick(rng, heldout).format(s=key)
        text = FRAMES["what"].pick(rng, heldout).format(n=phrase)
    else:
        text = wording.questions.pick(rng, heldout).format(s=key)
    return asked(rng, text, heldout=heldout)
