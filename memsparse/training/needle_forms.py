"""The sorts of secrets needles hold: how each is told and asked, and what its values look like."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from memsparse.training.name_words import ADJECTIVES, NOUNS
from memsparse.training.names import pick
from memsparse.training.phrasings import Relation, told
from memsparse.training.values import clock, date, digits, letters


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleForm:
    """One sort of secret."""

    wording: Relation
    """Its subject is the key."""
    value: Callable[[Random], str]


def _digits(low: int, high: int) -> Callable[[Random], str]:
    return lambda rng: digits(rng, low, high)


def _hexadecimal(rng: Random) -> str:
    return f"{rng.getrandbits(32):08x}"


def _uuid(rng: Random) -> str:
    if rng.random() < 0.6:
        return _hexadecimal(rng)
    text = f"{rng.getrandbits(128):032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _letters_and_digits(rng: Random) -> str:
    return f"{letters(rng, 2)}{digits(rng, 2, 2)}{letters(rng, 1)}"


def _word(rng: Random) -> str:
    return pick(rng, NOUNS)


def _two_words(rng: Random) -> str:
    return f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"


def _form(
    name: str, value: Callable[[Random], str], *, nouns: str, facts: str, questions: str, phrases: str
) -> NeedleForm:
    wording = told(name, "key", name, nouns=nouns, facts=facts, questions=questions, phrases=phrases)
    return NeedleForm(wording=wording, value=value)


FORMS: tuple[NeedleForm, ...] = (
    _form(
        "magic_number",
        _digits(4, 7),
        nouns="magic number | special number | lucky number",
        facts="""One of the special magic numbers for {s} is: {o}. | One of the special magic numbers for
        {s} is: {o}. | The special magic number for {s} is: {o}. | The magic number for {s} is {o}. | For
        {s} the special magic number is {o}. | the number to remember for {s} is {o}. | {s} goes with the
        number {o}. | {s} has the magic number {o}. | when you hear {s}, think of the number {o}. | the
        number {o} belongs to {s}. | the magic number that unlocks {s} is {o}. | Remember the special
        magic number {o} for {s}. | {o} is the magic number that goes with {s}.""",
        questions="""What is the special magic number for {s}? | what is the magic number for {s}? | What
        is the special magic number for {s} mentioned in the provided text? | What are all the special
        magic numbers for {s} mentioned in the provided text? | Which special magic number belongs to {s}?
        | Tell me the special magic number for {s}. | which number goes with {s}? | what number should I
        remember for {s}? | of which number is {s} a sign? | which magic number unlocks {s}? | what number
        belongs to {s}? | {s} has which magic number? | Name the magic number of {s}. | Which magic number
        goes with {s}?""",
        phrases="the special magic number for {s} | the magic number for {s} | the number that goes with {s}",
    ),
    _form(
        "magic_word",
        _word,
        nouns="magic word | special word | watchword",
        facts="""One of the special magic words for {s} is: {o}. | The special magic word for {s} is: {o}.
        | The magic word for {s} is {o}. | For {s} the magic word is {o}. | {s} answers to the word {o}. |
        say {o} and {s} will listen. | the word {o} works wonders on {s}. | {s} has the magic word {o}. |
        the word that belongs to {s} is {o}. | Whoever asks for {s} must say the magic word {o}.""",
        questions="""What is the special magic word for {s}? | what is the magic word for {s}? | What is
        the magic word for {s} mentioned in the provided text? | Which magic word belongs to {s}? | Tell
        me the magic word for {s}. | to which word does {s} answer? | which word works on {s}? | what word
        must I say to {s}? | {s} has which magic word? | which word belongs to {s}? | Name the special
        magic word for {s}. | Which magic word must one say for {s}?""",
        phrases="the special magic word for {s} | the magic word for {s} | the word that belongs to {s}",
    ),
    _form(
        "identifier",
        _uuid,
        nouns="identifier | special magic uuid | reference",
        facts="""One of the special magic uuids for {s} is: {o}. | The identifier of {s} is {o}. | The
        record {s} has the identifier {o}. | {s} is stored as {o}. | in the index {s} appears as {o}. |
        the system knows {s} as {o}. | {o} identifies {s}. | {s} was given the identifier {o}. | {s} maps
        to {o}. | {s} is filed under the identifier {o}. | The register lists {s} with identifier {o}.""",
        questions="""What is the identifier of {s}? | What is the special magic uuid for {s}? | Under
        which identifier is {s} filed? | Which identifier does {s} have? | Tell me the identifier of {s}.
        | as what does the system know {s}? | how does {s} appear in the index? | what identifies {s}? |
        What is the special magic uuid for {s} mentioned in the provided text? | to what does {s} map? |
        under which id is {s} stored? | Tell me the identifier of {s}. | With which identifier is {s}
        listed?""",
        phrases="""the special magic uuid for {s} | the identifier {s} was given | the id under which {s}
        is stored""",
    ),
    _form(
        "code",
        _digits(3, 6),
        nouns="code | secret code | access code | pin",
        facts="""The secret code for {s} is {o}. | The code of {s} is {o}. | To open {s}, enter the code
        {o}. | type {o} to unlock {s}. | {s} can be unlocked with {o}. | the keypad at {s} wants {o}. |
        {s} is locked with the code {o}. | the lock on {s} opens at {o}. | {o} is the code that opens {s}.
        | {s} opens with the code {o}. | Keep this code for {s}: {o}.""",
        questions="""What is the code for {s}? | What is the secret code of {s}? | Which code opens {s}? |
        Tell me the code for {s}. | how can I unlock {s}? | what do I type to open {s}? | what does the
        keypad at {s} want? | with what code is {s} locked? | what code lets me into {s}? | which pin does
        {s} need? | Give the secret code for {s}. | With which code does {s} open?""",
        phrases="the code for {s} | the secret code for {s} | the code that opens {s}",
    ),
    _form(
        "password",
        _two_words,
        nouns="password | passphrase | secret phrase",
        facts="""The password for {s} is {o}. | {s} has the password {o}. | Use the password {o} to enter
        {s}. | {s} will let you in if you say {o}. | {o} is the password that opens {s}. | the way into
        {s} is to say {o}. | with the password {o} one gets into {s}. | log in to {s} with {o}. | Whoever
        wants to enter {s} needs the password {o}. | The guards of {s} accept the password {o}.""",
        questions="""What is the password for {s}? | Which password does {s} have? | how do I log in to
        {s}? | Tell me the password for {s}. | Which password lets one enter {s}? | what must I say to get
        into {s}? | which password opens {s}? | what does one have to say at {s}? | I need the password of
        {s}. | Which password do the guards of {s} accept?""",
        phrases="the password for {s} | the password that opens {s} | the password accepted at {s}",
    ),
    _form(
        "locker",
        _digits(2, 4),
        nouns="locker number | locker | storage locker",
        facts="""The locker number of {s} is {o}. | {s} is kept in locker {o}. | Locker {o} holds {s}. |
        {s} lies in locker {o}. | behind the door of locker {o} is {s}. | {s} was left in locker {o}. |
        open locker {o} and you find {s}. | {s} has been stored in locker {o}. | Look for {s} in locker
        {o}. | The attendant put {s} into locker {o}.""",
        questions="""What is the locker number of {s}? | In which locker is {s} kept? | Which locker holds
        {s}? | Tell me the locker number of {s}. | which locker must I open to find {s}? | where was {s}
        left, in which locker? | in what locker is {s}? | behind which locker door is {s}? | Where should
        one look for {s}, in which locker? | Into which locker was {s} put?""",
        phrases="""the locker that holds {s} | the locker in which {s} is kept | the number of the locker
        of {s}""",
    ),
    _form(
        "phone",
        _digits(3, 5),
        nouns="phone extension | extension | telephone number",
        facts="""The phone extension of {s} is {o}. | Call extension {o} for {s}. | {s} answers on
        extension {o}. | {s} can be reached at {o}. | ring {o} if you need {s}. | the telephone of {s} has
        extension {o}. | {s} is on extension {o}. | phone {o} to get {s}. | Extension {o} belongs to {s}.
        | To reach {s}, dial extension {o}.""",
        questions="""What is the phone extension of {s}? | Which extension reaches {s}? | how can I call
        {s}? | On which extension does {s} answer? | Tell me the extension of {s}. | what number do I ring
        for {s}? | which extension is {s} on? | at which number can {s} be reached? | Which extension
        belongs to {s}? | What should one dial to reach {s}?""",
        phrases="the extension that reaches {s} | the number to call for {s} | the phone number of {s}",
    ),
    _form(
        "shelf_mark",
        _letters_and_digits,
        nouns="shelf mark | shelf | call number",
        facts="""The shelf mark of {s} is {o}. | {s} stands under shelf mark {o}. | {s} is shelved at {o}.
        | {s} sits on shelf {o}. | the label for {s} reads {o}. | go to shelf {o} to find {s}. | shelf {o}
        has {s}. | The catalogue gives {s} the shelf mark {o}. | Shelf mark {o} is that of {s}. | Readers
        find {s} at shelf mark {o}.""",
        questions="""What is the shelf mark of {s}? | Under which shelf mark does {s} stand? | where is
        {s} shelved? | Which shelf mark does {s} have? | Tell me the shelf mark of {s}. | on which shelf
        does {s} sit? | to which shelf should I go for {s}? | what does the label for {s} read? | Give the
        shelf mark of {s}. | At which shelf mark do readers find {s}?""",
        phrases="""the shelf that has {s} | the shelf mark under which {s} stands | the place on the
        shelves of {s}""",
    ),
    _form(
        "meeting_room",
        _digits(2, 3),
        nouns="room number | room | meeting room",
        facts="""The room number for {s} is {o}. | {s} meets in room {o}. | Room {o} is reserved for {s}.
        | {s} takes place in room {o}. | {s} was moved to room {o}. | the sign on room {o} says {s}. | {s}
        has been given room {o}. | Go to room {o} for {s}. | The meeting about {s} is in room {o}.""",
        questions="""What is the room number for {s}? | In which room does {s} meet? | Which room is
        reserved for {s}? | Tell me the room number for {s}. | where does {s} take place, in which room? |
        to which room was {s} moved? | which room does {s} use? | what room was {s} given? | To which room
        should one go for {s}? | In which room is the meeting about {s}?""",
        phrases="the room reserved for {s} | the room where {s} meets | the number of the room for {s}",
    ),
    _form(
        "badge",
        _digits(3, 7),
        nouns="badge number | badge | staff number",
        facts="""The badge number of {s} is {o}. | {s} wears badge number {o}. | Badge number {o} was
        given to {s}. | {s} is known by badge {o}. | the badge of {s} reads {o}. | {s} carries badge {o}.
        | {s} checks in with badge {o}. | {s} was issued badge number {o}. | The list shows badge number
        {o} for {s}.""",
        questions="""What is the badge number of {s}? | Which badge number does {s} wear? | what does the
        badge of {s} read? | Which badge number was given to {s}? | Tell me the badge number of {s}. |
        which badge does {s} carry? | by which badge is {s} known? | with which badge does {s} check in? |
        Give the badge number of {s}. | What badge number does the list show for {s}?""",
        phrases="the number on the badge of {s} | the badge number given to {s} | the badge {s} wears",
    ),
    _form(
        "ticket",
        _letters_and_digits,
        nouns="ticket number | booking reference | ticket",
        facts="""{s} was booked under {o}. | the ticket for {s} is {o}. | {s} has booking reference {o}. |
        {o} is printed on the ticket for {s}. | show {o} at the counter for {s}. | {s} is confirmed as
        {o}. | keep ticket {o} for {s}. | the counter calls {o} when {s} is ready.""",
        questions="""which ticket is for {s}? | under what reference was {s} booked? | what is printed on
        the ticket for {s}? | which booking reference does {s} have? | what should I show at the counter
        for {s}? | as what is {s} confirmed? | which ticket should be kept for {s}? | what does the
        counter call when {s} is ready?""",
        phrases="""the ticket for {s} | the booking reference for {s} | the reference under which {s} was
        booked""",
    ),
    _form(
        "appointment",
        clock,
        nouns="appointment time | time | starting time",
        facts="""{s} starts at {o}. | the appointment for {s} is at {o}. | {s} is set for {o}. | be ready
        for {s} at {o}. | {s} begins at {o}. | the clock says {o} when {s} starts. | {s} was put down for
        {o}. | come at {o} for {s}.""",
        questions="""when does {s} start? | at what time is {s}? | for when is {s} set? | when should I be
        ready for {s}? | what time does {s} begin? | at what hour should I come for {s}? | for what time
        was {s} put down? | {s} starts at what time?""",
        phrases="the time of the appointment for {s} | the time {s} starts | the time set for {s}",
    ),
    _form(
        "day",
        date,
        nouns="date | day | deadline",
        facts="""{s} is due on {o}. | the date for {s} is {o}. | {s} will happen on {o}. | keep {o} free
        for {s}. | {s} has been fixed for {o}. | nothing but {s} is planned for {o}. | {s} expires on {o}.
        | on {o} it is time for {s}.""",
        questions="""when is {s} due? | on what day is {s}? | for which day has {s} been fixed? | which
        date is planned for {s}? | what date should I keep free for {s}? | on which date does {s} expire?
        | when will {s} happen? | {s} is due on what date?""",
        phrases="the date for {s} | the day fixed for {s} | the date on which {s} is due",
    ),
    _form(
        "sign",
        _two_words,
        nouns="sign | token | hiding place",
        facts="""the sign for {s} is the {o}. | {s} is hidden behind the {o}. | {s} is marked with the
        {o}. | follow the {o} to get to {s}. | the {o} points to {s}. | {s} lies next to the {o}. | the
        token of {s} is the {o}. | ask for the {o} when you look for {s}.""",
        questions="""behind what is {s} hidden? | with what is {s} marked? | what points to {s}? | next to
        what does {s} lie? | what should I follow to get to {s}? | what is the sign for {s}? | what should
        I ask for when I look for {s}? | where is {s} hidden?""",
        phrases="the sign for {s} | the thing that points to {s} | the mark on {s}",
    ),
)
