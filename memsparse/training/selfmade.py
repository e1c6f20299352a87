"""Questions made of real text that nobody asked about: quotations, rare words, blanks to fill, titles."""

import re
from collections import Counter
from collections.abc import Iterable
from random import Random

from memsparse.training.frames import asked
from memsparse.training.names import pick
from memsparse.training.phrasings import pool
from memsparse.training.words import unspaced
from memsparse.training.world import Question
from memsparse.types import Document

_QUOTING = pool("""
    which document says: "{x}"? | where does it say "{x}"? | find the passage with "{x}". |
    which text contains the words "{x}"? | {x} | who wrote that {x}? | the passage about {x} |
    I remember reading "{x}"; where was that? | in which document is this found: {x}? | look for "{x}". |
    find the text that says {x}. | which page mentions "{x}"? | what is the context of "{x}"?
""")
_RARE = pool("""
    {x} | find {x} | which document mentions {x}? | search: {x} | where can I read about {x}? |
    what do the documents say about {x}? | anything on {x}? | documents about {x} | I need the text on {x}. |
    tell me about {x}. | information on {x} | which passage deals with {x}?
""")
_TITLES = pool("""
    what is {x}? | tell me about {x}. | {x} | what do the documents say about {x}? | who or what is {x}? |
    I would like to read about {x}. | find the article on {x}. | give me information on {x}. | explain {x}.
""")
_BLANKS = pool("""
    fill in the blank: {x} | complete the sentence: {x} | what is missing here? {x} | {x} | the gap: {x} |
    which words belong in the blank? {x} | what stands in place of ___ in this: {x} | finish this: {x}
""")
_WORD = re.compile(r"\w[\w'-]*")
_NAME_OR_NUMBER = re.compile(
    r"(?<=[a-z,] )(?:\d[\d,.]*\d|\d|[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+){0,3})"
)
_COUNTED = 8000
"""Passages whose words are counted."""
_BEGINNING = 12
"""Words that tell a document from others where nothing else does."""


class Quizzer:
    """Makes questions of passages; knows which words are rare."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.counts: Counter[str] = Counter()
        for text, _ in zip(texts, range(_COUNTED), strict=False):
            self.counts.update(set(_words(text.lower())))

    def ask(self, rng: Random, document: Document) -> Question | None:
        """Return a question about a document, or None where its text gives none.

        A blank to fill has an answer, verbatim in the text; other questions ask for the document alone.
        """
        choice = rng.random()
        if choice < 0.4:
            return self._blank(rng, document)
        if choice < 0.65:
            text = self._quotation(rng, document.text)
        elif choice < 0.93 or not document.title:
            text = self._rare_words(rng, document.text)
        else:
            text = _TITLES.pick(rng, False).format(x=document.title)
        return None if text is None else _question(rng, text, document)

    def look_up(self, rng: Random, document: Document) -> Question:
        """Return a question for a document by its first words; every text has them."""
        beginning = _between(document.text).join(_words(document.text)[:_BEGINNING])
        return _question(rng, _QUOTING.pick(rng, False).format(x=beginning), document)

    def _quotation(self, rng: Random, text: str) -> str | None:
        """A run of words, some of them left out."""
        words = _words(text)
        if len(words) < 6:
            return None
        length = rng.randint(4, 12)
        start = rng.randrange(max(1, len(words) - length))
        kept = words[start : start + length]
        if rng.random() < 0.4:
            kept = [word for word in kept if rng.random() < 0.75] or kept
        return _QUOTING.pick(rng, False).format(x=_between(text).join(kept).strip(' .,;:"'))

    def _rare_words(self, rng: Random, text: str) -> str | None:
        """The rarest words of a text, in any order."""
        if unspaced(text):
            return self._quotation(rng, text)
        words = list({word.lower(): word for word in _WORD.findall(text) if len(word) > 2}.values())
        if len(words) < 4:
            return None
        words.sort(key=lambda word: self.counts[word.lower()] + rng.random())
        chosen = rng.sample(words[:8], min(rng.randint(2, 5), len(words)))
        return _RARE.pick(rng, False).format(x=pick(rng, (" ", " ", ", ")).join(chosen))

    def _blank(self, rng: Random, document: Document) -> Question | None:
        """A sentence with a name or number left out, which is the answer."""
        found = [match for match in _NAME_OR_NUMBER.finditer(document.text) if len(match[0]) > 1]
        rng.shuffle(found)
        for match in found[:4]:
            answer = match[0].rstrip(".,")
            before = document.text[: match.start()].split()[-rng.randint(4, 12) :]
            after = document.text[match.start() + len(answer) :].split()[: rng.randint(2, 8)]
            around = " ".join(before), " ".join(after)
            if len(before) + len(after) < 6 or any(answer.lower() in part.lower() for part in around):
                continue
            if document.text.count(answer) > 1 or answer.lower() in document.title.lower():
                continue
            text = _BLANKS.pick(rng, False).format(x=f"{around[0]} ___ {around[1]}".strip())
            return Question(
                text=text[0].upper() + text[1:],
                answers=(answer,),
                chain=(document.id,),
                steps=(answer,),
                kind="one_hop",
            )
        return None


def _words(text: str) -> list[str]:
    return list(text.strip()) if unspaced(text) else text.split()


def _between(text: str) -> str:
    return "" if unspaced(text) else " "


def _question(rng: Random, text: str, document: Document) -> Question:
    return Question(
        text=asked(rng, text, heldout=False), answers=(), chain=(document.id,), steps=(), kind="lookup"
    )
