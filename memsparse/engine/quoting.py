"""Quote decoding: which tokens may follow, so that an answer can only be a quote of what was read.

Tokens are compared by the text they spell, squeezed as `find_span` squeezes it, so every way a tokenizer can
split a quote is open to the model. Tokens that spell a part of a character have no text of their own: they
are open in the combinations into which the tokenizer itself splits what was read.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import lru_cache

from memsparse.engine.extractive import squeeze, squeezed_text
from memsparse.text import PromptBuilder

_BORDER = " "  # between texts; no squeezed text holds one
_BROKEN = "\ufffd"  # what a part of a character decodes to

Ids = tuple[int, ...]


class Quote:
    """A quote in the making: `allowed` says which tokens may follow, `feed` takes the one chosen.

    It begins and ends where a word or number of its text does; what it says, `find_span` finds.
    """

    def __init__(self, builder: PromptBuilder, texts: Sequence[str], *, vocab_size: int) -> None:
        """Begin where any quote may; this takes milliseconds, a token far less.

        Args:
            texts: what may be quoted.
            vocab_size: the model chooses among ids below it.
        """
        self._stop_ids = builder.stop_ids
        self._tokens = _tokens(builder, vocab_size)
        self._composed = _Spellings(_compositions(builder, self._tokens.whole, texts))
        self._letters = ""
        self._ends: set[int] = set()
        starts: list[int] = []
        for text in texts:
            read, at = squeezed_text(text), len(self._letters)
            starts += [at + place for place, begins in enumerate(read.begins) if begins]
            self._ends.update(at + place for place, ends in enumerate(read.ends) if ends)
            self._letters += read.letters + _BORDER
        self._follow: dict[int, list[tuple[str, int]]] = {}
        """What may follow at the places looked at so far; those that `after` makes share it."""
        self._dead: set[int] = set()
        """Places from which no tokens lead to where a quote may end."""
        self._find_dead()
        self._written = ""
        self._pending: Ids = ()
        self._spaced = False
        self.text = ""
        """What stands as the quote, squeezed: the longest whole one written."""
        self._go_on(starts)

    def allowed(self) -> set[int]:
        """Ids that may follow: stop ids too where a quote is whole.

        Nothing but stop ids where there is nothing to say.
        """
        at = len(self._pending)
        ids = {spelt[at] for spelt in self._open if spelt[:at] == self._pending}
        if at:
            return ids
        if ids and not self._spaced:
            ids |= self._tokens.spaces
        return ids if ids and not self._whole else ids | self._stop_ids

    def feed(self, token_id: int) -> None:
        """Take an allowed token that is no stop id."""
        self._spaced = not self._pending and token_id in self._tokens.spaces
        if self._spaced:
            return
        self._pending += (token_id,)
        letters = self._open.get(self._pending)
        if letters is not None:
            self._pending = ()
            self._written += letters
            self._go_on(self._places[letters])

    def after(self, token_id: int) -> "Quote":
        """What `feed` would make of this one, which stays as it is."""
        other = copy(self)
        other.feed(token_id)
        return other

    def _go_on(self, places: Sequence[int]) -> None:
        """Go on from all places where the quote may stand now."""
        self._whole = bool(self._written) and not self._ends.isdisjoint(places)
        if self._whole:
            self.text = self._written
        self._places: dict[str, list[int]] = defaultdict(list)
        for place in places:
            for letters, end in self._following(place):
                self._places[letters].append(end)
        self._open: dict[Ids, str] = {
            ids: letters
            for letters in self._places
            for spellings in (self._tokens, self._composed)
            for ids in spellings.ids.get(letters, ())
        }

    def _following(self, place: int) -> list[tuple[str, int]]:
        """What tokens can spell next at a place, with the places behind it; dead ends are left out."""
        if place not in self._follow:
            self._follow[place] = [(piece, end) for piece, end in self._spelt(place) if self._leads_on(end)]
        return self._follow[place]

    def _leads_on(self, place: int) -> bool:
        return place in self._ends or place not in self._dead

    def _find_dead(self) -> None:
        """They lie at letters that are no token, and before such places."""
        spelt = self._tokens.ids, self._composed.ids
        strange = {letter for letter in set(self._letters) if not any(letter in ids for ids in spelt)}
        for place in reversed([at for at, letter in enumerate(self._letters) if letter in strange]):
            while place >= 0 and place not in self._dead and not self._following(place):
                self._dead.add(place)
                place -= 1

    def _spelt(self, place: int) -> Iterator[tuple[str, int]]:
        """What tokens can spell at a place, shortest first, with the places behind it."""
        letters, tokens, composed = self._letters, self._tokens, self._composed
        for end in range(place + 1, len(letters)):
            piece = letters[place:end]
            if piece in tokens.ids or piece in composed.ids:
                yield piece, end
            if piece not in tokens.starts and piece not in composed.starts:
                break


class _Spellings:
    """Tokens, and combinations of them, by the letters they spell."""

    def __init__(self, spelt: Iterable[tuple[Ids, str]]) -> None:
        self.ids: dict[str, list[Ids]] = {}
        self.starts: set[str] = set()
        """Every start of what is spelt."""
        self.whole: set[int] = set()
        """Tokens that have a text of their own."""
        self.spaces: set[int] = set()
        """Those of them that are nothing but whitespace."""
        for ids, text in spelt:
            letters = squeeze(text)
            if letters:
                self.ids.setdefault(letters, []).append(ids)
                self.starts.update(letters[:size] for size in range(1, len(letters)))
            if len(ids) == 1 and text:
                self.whole.update(ids)
                if not letters:
                    self.spaces.update(ids)


@lru_cache(maxsize=4)
def _tokens(builder: PromptBuilder, vocab_size: int) -> _Spellings:
    """All ordinary tokens that have a text of their own."""
    control = {*builder.tokenizer.control_tokens.values(), *builder.stop_ids}
    texts = (((id_,), builder.decode([id_])) for id_ in range(vocab_size) if id_ not in control)
    return _Spellings((ids, text) for ids, text in texts if _BROKEN not in text)


def _compositions(builder: PromptBuilder, whole: set[int], texts: Sequence[str]) -> Iterator[tuple[Ids, str]]:
    """The shortest runs of tokens that have a text only together, in the texts and their characters apart."""
    texts = [text for text in texts if not text.isascii()]
    characters = sorted({character for text in texts for character in text if not character.isascii()})
    spelt: dict[Ids, str] = {}
    for text in [*texts, " ".join(characters)]:
        run: Ids = ()
        for id_ in builder.encode_text(f" {text}"):
            run += (id_,)
            if len(run) == 1 and id_ in whole:
                run = ()
                continue
            if run not in spelt:
                spelt[run] = builder.decode(run)
            if not spelt[run].endswith(_BROKEN):
                run = ()
    return ((run, text) for run, text in spelt.items() if not text.endswith(_BROKEN))
