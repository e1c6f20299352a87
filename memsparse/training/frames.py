"""Frames around what relations say: questions and facts about a noun phrase, manners of asking and telling.

Slots: {n} a noun phrase, {o} a value, {q} a question, {f} a sentence without its stop, {w} who says it,
{k} a noun, {s} a subject.
"""

from random import Random
from typing import Literal

from memsparse.training.name_words import words
from memsparse.training.names import pick
from memsparse.training.phrasings import Pool, capitalised, pool, split_templates

FRAMES: dict[Literal["who", "what"], Pool] = {
    "who": pool("""
        who is {n}? | who was {n}? | name {n}. | tell me who {n} was. | can you name {n}? | give the name
        of {n}. | tell me who {n} is. | what is the name of {n}? | what was the name of {n}? | what is {n}
        called? | I wonder who {n} is. | I would like to know who {n} is. | could you tell me who {n} is?
        | {n} is who? | which person is {n}? | find {n}. | find out who {n} is. | look up {n}. | {n}? |
        {n} is | {n} is called | fill in the blank: {n} is ___. | complete: {n} is ... | say who {n} is. |
        who exactly is {n}? | I am looking for {n}. | does anyone know who {n} is? | do you remember who
        {n} was? | {n}: who? | we need to know who {n} is. | whose name is given for {n}? | who do the
        documents say is {n}? | help me find {n}. | please tell me the name of {n}. | I forgot who {n} is.
        | who would {n} be? | is anything known about {n}, such as a name? | do the records say who {n}
        is? | identify {n}. | under what name is {n} known? | I want to write to {n}; what is the name? |
        show me {n}. | I have to meet {n}. Who is that? | who might {n} be? | can anyone say who {n} was?
        | let me know who {n} is. | who is known to be {n}? | I need the name of {n}. | please identify
        {n}. | do you know who {n} was?
    """),
    "what": pool("""
        what is {n}? | what was {n}? | name {n}. | tell me {n}. | state {n}. | give {n}. | can you tell me
        {n}? | {n} is what? | find {n}. | find out {n}. | look up {n}. | {n}? | {n} is | {n}: | what
        exactly is {n}? | fill in the blank: {n} is ___. | complete: {n} is ... | say what {n} is. | I
        wonder what {n} is. | could you tell me what {n} is? | I am looking for {n}. | does anyone know
        {n}? | do you remember {n}? | we need to know {n}. | what do the documents give as {n}? | what is
        given as {n}? | help me find {n}. | please tell me {n}. | I forgot what {n} is. | what would {n}
        be? | do the records mention {n}? | what is known about {n}? | show me {n}. | let me know {n}. |
        what do we know of {n}? | give me {n}. | I want to know {n}. | which one is {n}? | what might {n}
        be? | what is {n}, please? | report {n}. | is {n} known? | can anyone say what {n} is? | what is
        stated as {n}? | write down {n}. | {n} equals | what does the text say about {n}? | check {n} for
        me. | what is said to be {n}? | I would like to know {n}. | please look up {n}. | do you know {n}?
    """),
}
"""Questions around a noun phrase."""

KEYWORDS = pool("""
    {k} of {s} | {s} {k} | {k} {s} | {s}: {k}? | {s}, {k}? | {k} for {s} | {s} - {k} | which {k} does {s}
    have? | what {k} does {s} have? | what {k} is given for {s}? | {s} has which {k}? | {s} {k}? | {k}?
    ({s}) | search: {k} of {s} | what {k} belongs to {s}? | query: {s} {k} | {k} ({s}) | info on {s}: {k}
    | is there a {k} given for {s}? | {s}, what {k}?
""")
"""Questions of few words."""

FACT_FRAMES = pool("""
    {n} is {o}. | {o} is {n}. | {n} was {o}. | {n} is given as {o}. | {n} is known to be {o}. | {n} turns
    out to be {o}. | as for {n}: {o}. | as to {n}, the answer is {o}. | {o} is on record as {n}. |
    the register gives {o} as {n}. | {o} is listed as {n}. | if anyone asks for {n}, say {o}. | {n}: {o}.
    | and {n}? {o}. | {n}, by the way, is {o}. | {n}, according to the almanac, is {o}. | we noted {o}
    as {n}. | everyone agrees that {n} is {o}. | {n} has always been {o}. | {o}: that is {n}. | {n} is
    stated to be {o}. | {n} is said to be {o}. | they gave {o} as {n}. | when asked for {n}, people
    answer: {o}. | the page gives {n} as {o}. | one reads that {n} is {o}. | {n} remains {o}. | we found
    {n} to be {o}.
""")
"""Statements about a noun phrase."""

CONSIDER = pool("""
    consider {n}: {q} | think of {n}. {q} | take {n}: {q} | about {n}: {q} | as for {n}, {q} | regarding
    {n}: {q} | first find {n}; then say: {q} | there is {n}. {q} | look at {n}. {q}
""")
"""A question in two parts, the second of which points back with a pronoun."""

_ASKING = pool("""
    according to the records, {q} | according to the documents, {q} | from what the documents say, {q} |
    quick question: {q} | help me out: {q} | tell me this: {q} | hello, {q} | hi there! {q} | I am
    curious: {q} | one more thing: {q} | {q} thanks. | {q} please answer briefly. | {q} I need it for a
    report. | so, {q} | remind me: {q} | just to check: {q} | {q} one word is enough. | {q} answer from
    the documents. | question: {q} | in these documents, {q} | {q} it must be written somewhere. | please
    help: {q} | based on the files, {q} | {q} I cannot remember. | my colleague asks: {q} | {q} please
    look it up. | as far as you know, {q} | {q} cite the source. | here is my question: {q} | a reader
    wants to know: {q} | {q} thank you! | well, {q} | for my notes: {q} | using the library, {q} | sorry
    to bother you, but {q} | good morning! {q} | ok, {q} | I keep forgetting this: {q} | {q} the archive
    should know. | can you help? {q} | trivia: {q} | dear librarian, {q}
""")

_SOURCES = split_templates("""
    the harbour log | the parish register | the old chronicle | an almanac of the time | the morning paper
    | the town clerk | a travelling merchant | the guidebook | the encyclopedia | a letter in the archive
    | the museum label | my grandmother | the innkeeper | a neighbour | the annual report | the catalogue
    | an entry in the register | the minutes of the last meeting | the official site | the caretaker | a
    witness | the handbook | one visitor | the yearbook | a note in the margin | the radio | the old map
""")
_TELLING = pool("""
    according to {w}, {f}. | {f}, according to {w}. | {w} says that {f}. | {w} notes that {f}. | {w} tells
    us that {f}. | we know from {w} that {f}. | as {w} has it, {f}. | {f}; so says {w}. | {f}, or so {w}
    claims. | it is recorded that {f}. | chronicles say that {f}. | it is well known that {f}. | there is
    no doubt that {f}. | few people know that {f}. | as everyone knows, {f}. | as far as we know, {f}. |
    by all accounts, {f}. | reportedly, {f}. | apparently, {f}. | in fact, {f}. | for the record, {f}. |
    please note that {f}. | remember that {f}. | it may be added that {f}. | interestingly, {f}. | rumour
    has it that {f}. | no one disputes that {f}. | I have heard that {f}. | it turns out that {f}. | {f},
    as everyone in the harbour knows. | {f}, they say. | {f}, it seems. | {f}, by the way. | {f}, of
    course. | {f}, as is well known. | it should be said that {f}. | did you know that {f}? | what matters
    here: {f}. | records show that {f}. | most sources agree that {f}. | to begin with, {f}. | we were
    told that {f}.
""")

_COMMANDS = frozenset(
    words("""
        address allow and as ask be bring buy call climb come connect cook deliver dial do enter
        everyone follow give go hand if keep knock leave let log look mark open phone ping please punch
        put reach remember ring say serve set show take to travel type use wait warn we what when
    """)
)
"""First words of sentences that "it is known that" cannot stand before."""

FILLERS = split_templates("""
    The grass is green. | The sky is blue. | The sun is yellow. | Here we go. | There and back again. | It
    rained all morning. | Nobody spoke for a while. | The kettle was still warm. | A clock struck
    somewhere. | The tram was late again. | Most of the chairs were empty. | The windows faced the yard. |
    Somebody had left the lights on. | The report was filed on time. | All visitors signed the book. | The
    coffee had gone cold. | Two letters arrived at noon. | The road was dry and quiet. | The meeting ended
    early. | Please close the door. | Everything else stayed as before. | The wind turned in the night. |
    The list was copied twice. | A dog barked outside. | The paint was hardly dry. | Tea was served at
    four. | The snow melted within a day. | The old printer jammed again. | Lunch was bread and soup. |
    The lift was out of order. | Little else is known. | More on this in the next issue. | This page has
    been revised twice. | Opinions on this differ. | The rest of the page is missing. | Nothing more was
    written down. | The photograph has faded. | Much has been written about it. | That is all there is to
    say. | The ink is hard to read here. | Other questions remain open. | The story is told in many ways.
    | A second copy exists. | Further notes were lost in a move. | Children like to hear about it. | It
    was a long day. | The handwriting changes here. | See the appendix for more. | Time will tell. | This
    was checked by two clerks. | Some details are still debated. | Nobody seemed to mind.
""")
"""Sentences that say nothing."""


def asked(rng: Random, text: str, *, heldout: bool) -> str:
    """Return a question, given with a small first letter, as somebody may put it."""
    choice = rng.random()
    if choice < 0.2 and text.endswith(("?", ".")):
        before, _, after = _ASKING.pick(rng, heldout).partition("{q}")
        # Whole sentences before and after the question begin with a capital.
        body = capitalised(text) if before.endswith("! ") else text
        return capitalised(before + body + (" " + capitalised(after[1:]) if after else ""))
    if choice < 0.32 and text.endswith("?"):
        return text[:-1] if choice < 0.26 else capitalised(text[:-1])
    return text if choice < 0.36 else capitalised(text)


def keywords(rng: Random, noun: str, subject: str, *, heldout: bool) -> str:
    """Return a question of few words."""
    return KEYWORDS.pick(rng, heldout).format(k=noun, s=subject)


def said(rng: Random, sentence: str, *, heldout: bool) -> str:
    """Return a sentence as somebody may tell it; its first letter stays small where it was."""
    unfit = not sentence.endswith(".") or "? " in sentence or ": " in sentence
    if unfit or sentence.split(" ", 1)[0] in _COMMANDS:
        return sentence
    return _TELLING.pick(rng, heldout).format(w=pick(rng, _SOURCES), f=sentence[:-1])


def statement(rng: Random, phrase: str, value: str, *, heldout: bool) -> str:
    """Return a sentence that gives a noun phrase its value."""
    return FACT_FRAMES.pick(rng, heldout).format(n=phrase, o=value)
