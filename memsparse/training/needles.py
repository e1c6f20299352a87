"""Needle documents: a key, a value, and sentences around them that say nothing about either."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from memsparse.training.names import ADJECTIVES, NOUNS, Names, pick
from memsparse.training.phrasings import Pool, pool, split_templates


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleForm:
    """One sort of secret: how it is told, how it is asked, what its values look like. Slots {k}, {v}."""

    facts: Pool
    questions: Pool
    value: Callable[[Random], str]


@dataclass(kw_only=True, slots=True)
class Needle:
    """One secret of a needle document."""

    key: str
    form: int
    value: str


def _digits(low: int, high: int) -> Callable[[Random], str]:
    def make(rng: Random) -> str:
        count = low + int(rng.random() * (high - low + 1))
        return str(int((1 + 9 * rng.random()) * 10 ** (count - 1)))

    return make


def _hexadecimal(rng: Random) -> str:
    return f"{rng.getrandbits(32):08x}"


def _letters_and_digits(rng: Random) -> str:
    first, second, last = (pick(rng, "ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(3))
    return f"{first}{second}{10 + int(rng.random() * 90)}{last}"


def _word(rng: Random) -> str:
    return pick(rng, NOUNS)


def _two_words(rng: Random) -> str:
    return f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"


def _form(facts: str, questions: str, value: Callable[[Random], str]) -> NeedleForm:
    return NeedleForm(facts=pool(facts), questions=pool(questions), value=value)


FORMS: tuple[NeedleForm, ...] = (
    _form(
        """One of the special magic numbers for {k} is: {v}. |
        The special magic number for {k} is: {v}. | The magic number for {k} is {v}. |
        For {k} the special magic number is {v}. | Remember the special magic number {v} for {k}. |
        {v} is the magic number that goes with {k}.""",
        """What is the special magic number for {k}? |
        What is the special magic number for {k} mentioned in the provided text? |
        Which special magic number belongs to {k}? | What is the magic number for {k}? |
        Tell me the special magic number for {k}. | Name the magic number of {k}. |
        Which magic number goes with {k}?""",
        _digits(4, 7),
    ),
    _form(
        """One of the special magic words for {k} is: {v}. | The special magic word for {k} is: {v}. |
        The magic word for {k} is {v}. | For {k} the magic word is {v}. |
        Whoever asks for {k} must say the magic word {v}.""",
        """What is the special magic word for {k}? |
        What is the magic word for {k} mentioned in the provided text? |
        Which magic word belongs to {k}? | Tell me the magic word for {k}. |
        Name the special magic word for {k}. | Which magic word must one say for {k}?""",
        _word,
    ),
    _form(
        """One of the special magic uuids for {k} is: {v}. | The identifier of {k} is {v}. |
        The record {k} has the identifier {v}. | {k} is filed under the identifier {v}. |
        The register lists {k} with identifier {v}.""",
        """What is the identifier of {k}? | What is the special magic uuid for {k}? |
        Under which identifier is {k} filed? | Which identifier does {k} have? |
        Tell me the identifier of {k}. | With which identifier is {k} listed?""",
        _hexadecimal,
    ),
    _form(
        """The secret code for {k} is {v}. | The code of {k} is {v}. | To open {k}, enter the code {v}. |
        {k} opens with the code {v}. | Keep this code for {k}: {v}.""",
        """What is the code for {k}? | What is the secret code of {k}? | Which code opens {k}? |
        Tell me the code for {k}. | Give the secret code for {k}. | With which code does {k} open?""",
        _digits(3, 6),
    ),
    _form(
        """The password for {k} is {v}. | {k} has the password {v}. | Use the password {v} to enter {k}. |
        Whoever wants to enter {k} needs the password {v}. | The guards of {k} accept the password {v}.""",
        """What is the password for {k}? | Which password does {k} have? |
        Tell me the password for {k}. | Which password lets one enter {k}? |
        I need the password of {k}. | Which password do the guards of {k} accept?""",
        _two_words,
    ),
    _form(
        """The locker number of {k} is {v}. | {k} is kept in locker {v}. | Locker {v} holds {k}. |
        Look for {k} in locker {v}. | The attendant put {k} into locker {v}.""",
        """What is the locker number of {k}? | In which locker is {k} kept? | Which locker holds {k}? |
        Tell me the locker number of {k}. | Where should one look for {k}, in which locker? |
        Into which locker was {k} put?""",
        _digits(2, 4),
    ),
    _form(
        """The phone extension of {k} is {v}. | Call extension {v} for {k}. | {k} answers on extension {v}. |
        Extension {v} belongs to {k}. | To reach {k}, dial extension {v}.""",
        """What is the phone extension of {k}? | Which extension reaches {k}? |
        On which extension does {k} answer? | Tell me the extension of {k}. |
        Which extension belongs to {k}? | What should one dial to reach {k}?""",
        _digits(3, 5),
    ),
    _form(
        """The shelf mark of {k} is {v}. | {k} stands under shelf mark {v}. |
        The catalogue gives {k} the shelf mark {v}. | Shelf mark {v} is that of {k}. |
        Readers find {k} at shelf mark {v}.""",
        """What is the shelf mark of {k}? | Under which shelf mark does {k} stand? |
        Which shelf mark does {k} have? | Tell me the shelf mark of {k}. | Give the shelf mark of {k}. |
        At which shelf mark do readers find {k}?""",
        _letters_and_digits,
    ),
    _form(
        """The room number for {k} is {v}. | {k} meets in room {v}. | Room {v} is reserved for {k}. |
        Go to room {v} for {k}. | The meeting about {k} is in room {v}.""",
        """What is the room number for {k}? | In which room does {k} meet? |
        Which room is reserved for {k}? | Tell me the room number for {k}. |
        To which room should one go for {k}? | In which room is the meeting about {k}?""",
        _digits(2, 3),
    ),
    _form(
        """The badge number of {k} is {v}. | {k} wears badge number {v}. |
        Badge number {v} was given to {k}. | {k} was issued badge number {v}. |
        The list shows badge number {v} for {k}.""",
        """What is the badge number of {k}? | Which badge number does {k} wear? |
        Which badge number was given to {k}? | Tell me the badge number of {k}. |
        Give the badge number of {k}. | What badge number does the list show for {k}?""",
        _digits(3, 7),
    ),
)

_FILLERS = split_templates("""
    The grass is green. | The sky is blue. | The sun is yellow. | Here we go. |
    There and back again. | It rained all morning. | Nobody spoke for a while. |
    The kettle was still warm. | A clock struck somewhere. | The tram was late again. |
    Most of the chairs were empty. | The windows faced the yard. |
    Somebody had left the lights on. | The report was filed on time. |
    All visitors signed the book. | The coffee had gone cold. | Two letters arrived at noon. |
    The road was dry and quiet. | The meeting ended early. | Please close the door. |
    Everything else stayed as before. | The wind turned in the night. | The list was copied twice. |
    A dog barked outside. | The paint was hardly dry. | Tea was served at four. |
    The snow melted within a day. | The old printer jammed again. | Lunch was bread and soup. |
    The lift was out of order.
""")


def _filler(rng: Random) -> str:
    if rng.random() < 0.6:
        return pick(rng, _FILLERS)
    shape = pick(
        rng,
        (
            "A {} {} lay on the floor.",
            "We saw a {} {} on the way.",
            "There was a {} {} by the gate.",
            "Nobody noticed the {} {}.",
        ),
    )
    return shape.format(pick(rng, ADJECTIVES), pick(rng, NOUNS))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def make_needle_document(
    rng: Random, names: Names, *, heldout: bool, max_words: int
) -> tuple[str, str, list[Needle]]:
    """Return title (may be empty), text and the one or two needles of a document."""
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
    for _ in range(int(rng.random() * 5)):
        filler = _filler(rng)
        room -= len(filler.split())
        if room < 0:
            break
        sentences.insert(int(rng.random() * (len(sentences) + 1)), filler)
    title = _sentence(needles[0].key) if rng.random() < 0.5 else ""
    return title, " ".join(sentences), needles


def _told(rng: Random, needle: Needle, heldout: bool) -> str:
    text = FORMS[needle.form].facts.pick(rng, heldout).format(k=needle.key, v=needle.value)
    return text if text.startswith(needle.value) else _sentence(text)


def ask_needle(rng: Random, key: str, form: int, *, heldout: bool) -> str:
    """Return a question for a key's value under a form."""
    return _sentence(FORMS[form].questions.pick(rng, heldout).format(k=key))
