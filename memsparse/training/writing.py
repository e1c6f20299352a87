"""Writes the documents of entities: sentences alone and combined, and the shapes a document may have."""

from dataclasses import dataclass
from random import Random

from memsparse.training.entities import Entity, Fact, Slice, told_already
from memsparse.training.frames import FILLERS, said, statement
from memsparse.training.names import Names, pick
from memsparse.training.phrasings import Relation, capitalised
from memsparse.training.relations import RELATIONS
from memsparse.training.values import date

MOST_FACTS = 5
"""Facts of a document of 40 words; longer ones may have one more for every 8 words."""

CALLED: dict[str, tuple[str, ...]] = {
    "ship": ("ship", "vessel", "boat"),
    "painting": ("painting", "picture", "canvas"),
    "book": ("book", "volume", "work"),
    "device": ("device", "machine", "apparatus"),
    "house": ("house", "building"),
    "town": ("town",),
    "organisation": ("organisation",),
    "festival": ("festival", "event"),
    "train": ("train", "service"),
    "project": ("project", "undertaking"),
    "dish": ("dish", "recipe"),
    "team": ("team", "club"),
    "accident": ("accident", "disaster"),
    "song": ("song", "piece"),
    "plant": ("plant", "herb"),
    "server": ("server", "machine"),
}
"""What a later sentence may call a subject, where that is not just its kind."""
DEFINITE = frozenset(
    ("ship", "festival", "battle", "expedition", "train", "accident", "bridge", "house", "device", "river")
)
"""Kinds of subjects whose names may stand after "the"."""

_RELATIONS_OF = {group: tuple(table.values()) for group, table in RELATIONS.items()}
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mention:
    """How a sentence refers to its subject."""

    subject: str
    possessive: str
    object_case: str
    pronoun: bool = False

    @classmethod
    def by(cls, words: str) -> "_Mention":
        return cls(subject=words, possessive=f"{words}'s", object_case=words)


class Writer:
    """Writes the documents of a slice."""

    def __init__(self, part: Slice, *, heldout: bool, max_words: int) -> None:
        self.part = part
        self.rng: Random = part.rng
        self.names: Names = part.names
        self.heldout = heldout
        self.max_words = max_words
        self.most = max(MOST_FACTS, max_words // 8)

    def write(self) -> None:
        """Write every entity's document; facts left unsaid are dropped from the entity."""
        for entity in self.part.entities:
            known, entity.facts = entity.facts, {}
            wanted = min(self.max_words, 13 + int(self.rng.random() * (self.max_words - 12)))
            style = self.rng.random()
            if style < 0.12:
                text = self._card(entity, known, wanted)
            elif style < 0.18:
                text = self._talk(entity, known, wanted)
            else:
                text = self._prose(entity, known, wanted, framed=style < 0.3)
            entity.text = text

    def _chosen(self, entity: Entity, known: dict[str, Fact]) -> list[Relation]:
        relations = list(_RELATIONS_OF[entity.group])
        self.rng.shuffle(relations)
        if known:
            relations.sort(key=lambda relation: relation.name not in known or self.rng.random() < 0.4)
        return relations

    def _fact(
        self, entity: Entity, relation: Relation, known: dict[str, Fact], taken: set[str]
    ) -> Fact | None:
        fact = known.get(relation.name) or self.part.decide(entity, relation)
        return None if fact.value in taken or told_already(relation.name, fact) else fact

    def _prose(self, entity: Entity, known: dict[str, Fact], wanted: int, *, framed: bool) -> str:
        rng = self.rng
        opening, closing = self._frame() if framed else ("", "")
        room = self.max_words - _count(opening) - _count(closing)
        sentences: list[str] = []
        count, fillers, named = 0, 0, False
        if rng.random() < (0.04 if entity.kind == "person" else 0.15):
            sentences.append(f"{entity.name} is {_article(entity.kind)}.")
            count, named = _count(sentences[0]), True
        taken: set[str] = set()
        relations = self._chosen(entity, known)
        contrast = rng.random() < 0.16
        while relations and count < wanted and len(entity.facts) < self.most:
            told = [self._next(entity, relations, known, taken)]
            if rng.random() < 0.35 and relations:
                told.append(
                    self._next(entity, relations, known, {*taken, *(pair[1].value for pair in told if pair)})
                )
            pairs = [pair for pair in told if pair is not None]
            text = self._fitting(entity, pairs, room - count, first=not named)
            if not text:
                continue
            sentences.append(text)
            count, named = count + _count(text), True
            for relation, fact in pairs:
                entity.facts[relation.name] = fact
                taken.add(fact.value)
            extra = ""
            if contrast and rng.random() < 0.6:
                extra, contrast, named = self._contrast(entity, taken), False, False
            elif fillers < 2 and rng.random() < 0.1:
                extra, fillers = pick(rng, FILLERS), fillers + 1
            if extra and count + _count(extra) <= room:
                sentences.append(extra)
                count += _count(extra)
        return opening + " ".join(sentences) + closing

    def _next(
        self, entity: Entity, relations: list[Relation], known: dict[str, Fact], taken: set[str]
    ) -> tuple[Relation, Fact] | None:
        """Take relations until one has a value that is still to be told."""
        while relations:
            relation = relations.pop(0)
            fact = self._fact(entity, relation, known, taken)
            if fact is not None:
                return relation, fact
        return None

    def _fitting(self, entity: Entity, told: list[tuple[Relation, Fact]], room: int, *, first: bool) -> str:
        """Tell facts in at most `room` words; those that do not fit are taken off `told`."""
        while told:
            text = self._tell(entity, told, first=first)
            if _count(text) <= room:
                return text
            if len(told) == 1 and not entity.facts:
                text = self._plain(entity, *told[0])
                if _count(text) <= room:
                    return text
            told.pop()
        return ""

    def _plain(self, entity: Entity, relation: Relation, fact: Fact) -> str:
        """The shortest sentence there is, so that no document is empty."""
        if not relation.nouns.train:
            return _finished(self._sentence(relation, _Mention.by(entity.name), fact.value), fact.value)
        return f"The {relation.nouns.train[0]} of {entity.name} is {_shown(relation, fact.value)}."

    def _frame(self) -> tuple[str, str]:
        """What stands before and after the prose of a letter, a diary or the news."""
        rng, style = self.rng, self.rng.random()
        if style < 0.3:
            return f"{self.names.word().upper()}, {date(rng)}. ", ""
        if style < 0.5:
            return f"{date(rng, self.part.era + int(rng.random() * 90))}. ", ""
        if style < 0.65:
            return f"{pick(rng, _WEEKDAYS)}. ", ""
        if style < 0.85:
            return f"Dear {self.names.word()}, ", f" Yours, {self.names.word()}"
        return "", f" ({self.names.word()}, {date(rng)})"

    def _card(self, entity: Entity, known: dict[str, Fact], wanted: int) -> str:
        """Keys and values."""
        rng = self.rng
        separator = pick(rng, ("\n", "\n", "; ", "; ", ". ", " | ", ", "))
        joint = pick(rng, (": ", ": ", ": ", " = ", " - ", " is "))
        bullet = pick(rng, ("", "", "- ", "* ")) if separator == "\n" else ""
        style = rng.random()
        name = pick(rng, ("Name", "Title", "Subject", "Entry", entity.kind.capitalize()))
        parts = [f"{bullet}{name}{joint}{entity.name}"] if style < 0.6 else [f"{entity.name} ({entity.kind})"]
        taken: set[str] = set()
        for relation in self._chosen(entity, known):
            if not relation.nouns.train:
                continue
            fact = self._fact(entity, relation, known, taken)
            if fact is None:
                continue
            noun = relation.nouns.pick(rng, self.heldout)
            part = f"{bullet}{capitalised(noun)}{joint}{fact.value}"
            if _count(separator.join((*parts, part))) > self.max_words:
                continue
            parts.append(part)
            taken.add(fact.value)
            entity.facts[relation.name] = fact
            if _count(separator.join(parts)) >= wanted or len(entity.facts) == self.most:
                break
        return separator.join(parts)

    def _talk(self, entity: Entity, known: dict[str, Fact], wanted: int) -> str:
        """Two people talk: statements, or questions with their answers."""
        rng = self.rng
        speakers = [self.names.word(), self.names.word()]
        stamp = f" ({date(rng)})" if rng.random() < 0.4 else ""
        separator = pick(rng, ("\n", " "))
        lines: list[str] = []
        taken: set[str] = set()
        count = 0
        for relation in self._chosen(entity, known):
            fact = self._fact(entity, relation, known, taken)
            if fact is None:
                continue
            if rng.random() < 0.35 and "{s}" in relation.questions.train[0]:
                asked = relation.nested_questions.pick(rng, self.heldout).format(s=entity.name)
                answer = pick(rng, ("{}.", "It is {}.", "{}, I think.", "That is {}.")).format(
                    _shown(relation, fact.value)
                )
                added = [f"{speakers[0]}{stamp}: {capitalised(asked)}", f"{speakers[1]}: {answer}"]
            else:
                text = self._tell(entity, [(relation, fact)], first=not lines)
                added = [f"{speakers[len(lines) % 2]}{stamp}: {text}"]
            words = sum(map(_count, added))
            if count + words > self.max_words:
                continue
            lines += added
            stamp = ""
            count += words
            taken.add(fact.value)
            entity.facts[relation.name] = fact
            if count >= wanted or len(entity.facts) == self.most:
                break
        return separator.join(lines) if lines else self._card(entity, known, wanted)

    def _contrast(self, entity: Entity, taken: set[str]) -> str:
        """A sentence about somebody or something else, which has no document."""
        rng = self.rng
        relation = pick(rng, _RELATIONS_OF[entity.group])
        value = self.part.value(relation, entity.kind)
        if value in taken or not relation.nouns.train:
            return ""
        other = self.names.unique(entity.kind)
        noun, shown = relation.nouns.pick(rng, self.heldout), _shown(relation, value)
        style = rng.random()
        if style < 0.25:
            text = f"{entity.name} is not to be confused with {other}, whose {noun} is {shown}."
        elif style < 0.45:
            text = f"unlike {other}, whose {noun} is {shown}, {entity.name} is often overlooked."
        elif style < 0.6:
            text = f"the {noun} of {other}, on the other hand, is {shown}."
        else:
            told = self._sentence(relation, _Mention.by(other), value)
            link = pick(
                rng, ("by contrast, {}", "{}", "elsewhere, {}", "as for another {k}, {}", "meanwhile, {}")
            )
            text = link.replace("{k}", entity.kind).replace("{}", told)
        return _finished(text, value)

    def _tell(self, entity: Entity, told: list[tuple[Relation, Fact]], *, first: bool) -> str:
        """One or two facts as one or two sentences; the first one names the subject in full."""
        rng = self.rng
        relation, fact = told[0]
        mention = self._mention(entity, first)
        if len(told) == 1:
            text = self._sentence(relation, mention, fact.value)
            if rng.random() < 0.14:
                text = said(rng, text, heldout=self.heldout)
            return _finished(text, fact.value)
        later, late = told[1]
        return _finished(self._combined(entity, mention, relation, fact.value, later, late.value), fact.value)

    def _combined(
        self, entity: Entity, mention: _Mention, first: Relation, value: str, second: Relation, other: str
    ) -> str:
        """Two facts in one sentence."""
        rng, subject = self.rng, mention.subject
        pronouns = _Mention(
            subject=entity.pronouns[0],
            possessive=entity.pronouns[1],
            object_case=entity.pronouns[2],
            pronoun=True,
        )
        verbal = self._verbal(first, value)
        verbal_too = self._verbal(second, other)
        noun = first.nouns.pick(rng, self.heldout) if first.nouns.train else ""
        shown = _shown(first, value)
        style = rng.random()
        who = "who" if entity.kind == "person" else "which"
        if verbal_too and noun and style < 0.2 and not mention.pronoun:
            return f"{subject}, whose {noun} is {shown}, {verbal_too}."
        if verbal_too and noun and style < 0.27:
            return f"with {shown} as {pronouns.possessive} {noun}, {subject} {verbal_too}."
        if verbal_too and noun and style < 0.33 and not mention.pronoun:
            return f"{subject} ({noun}: {value}) {verbal_too}."
        if verbal and verbal_too and style < 0.47 and not mention.pronoun:
            return f"{subject}, {who} {verbal}, {verbal_too}."
        if verbal and verbal_too and style < 0.58:
            return f"{subject} {verbal} and {verbal_too}."
        begins, _, rest = verbal.partition(" ")
        if verbal_too and begins in ("was", "is") and style < 0.7 and rest.split(" ")[0].endswith("ed"):
            return f"{rest}, {subject} {verbal_too}."
        one = self._sentence(first, mention, value)
        two = self._sentence(second, pronouns, other)
        if not one.endswith(".") or "? " in one + two or not two.endswith("."):
            return f"{one} {capitalised(two) if not two.startswith(other) else two}"
        link = pick(
            rng, (", and {}", "; {}", ", while {}", ". {}", "; also, {}", ", and what is more, {}", " and {}")
        )
        if link.startswith(". ") and not two.startswith(other):
            two = capitalised(two)
        return one[:-1] + link.format(two)

    def _verbal(self, relation: Relation, value: str) -> str:
        """What a sentence says after its subject, where it begins with that; or nothing."""
        for _ in range(3):
            template = relation.facts.pick(self.rng, self.heldout)
            if template.startswith("{s} ") and template.count("{s}") == 1 and "{p}" not in template:
                rest = template[4:].rstrip(".")
                if "," not in rest and ". " not in rest and "{m}" not in rest:
                    return rest.format(o=value, a=_article(value))
        return ""

    def _mention(self, entity: Entity, first: bool) -> _Mention:
        rng = self.rng
        choice = 0.0 if first else rng.random()
        if choice < 0.35:
            return _Mention.by(named(rng, entity))
        if entity.kind == "person" or choice < 0.7:
            subject, possessive, object_case = entity.pronouns
            return _Mention(subject=subject, possessive=possessive, object_case=object_case, pronoun=True)
        kind = pick(rng, CALLED.get(entity.group, (entity.kind,)))
        return _Mention.by(f"the {entity.kind if entity.group == 'organisation' else kind}")

    def _sentence(self, relation: Relation, mention: _Mention, value: str) -> str:
        """One sentence, its first letter small where it is no name."""
        rng = self.rng
        shown = _shown(relation, value)
        if relation.nouns.train and rng.random() < 0.3:
            if mention.pronoun:
                phrase = f"{mention.possessive} {relation.nouns.pick(rng, self.heldout)}"
            else:
                phrase = relation.phrases.pick(rng, self.heldout).format(s=mention.subject)
            return statement(rng, phrase, shown, heldout=self.heldout)
        template = relation.facts.pick(rng, self.heldout)
        if mention.pronoun and template.count("{s}") and not template.startswith("{s} "):
            template = relation.facts.pick(rng, self.heldout)
            if template.count("{s}") and not template.startswith("{s} "):
                # A pronoun would stand in the wrong case.
                template = (
                    f"{{p}} {relation.nouns.pick(rng, self.heldout)} is {{x}}."
                    if relation.nouns.train
                    else template
                )
        return template.format(
            s=mention.subject,
            p=mention.possessive,
            m=mention.object_case,
            o=value,
            a=_article(value),
            x=shown,
        )


def named(rng: Random, entity: Entity) -> str:
    """Return an entity's name, now and then with "the" or with what it is."""
    choice = rng.random()
    if choice < 0.1 and entity.kind in DEFINITE and not entity.name.startswith("The "):
        return f"the {entity.name}"
    if choice < 0.2 and entity.group in CALLED:
        kind = entity.kind if entity.group == "organisation" else pick(rng, CALLED[entity.group])
        return entity.name if kind in entity.name.lower() else f"the {kind} {entity.name}"
    return entity.name


def _shown(relation: Relation, value: str) -> str:
    return relation.shown.format(o=value, a=_article(value))


def _finished(text: str, value: str) -> str:
    """Return the text with a capital at its beginning; a value there stays verbatim."""
    return text if text.startswith(value) else capitalised(text)


def _count(text: str) -> int:
    return len(text.split())


def _article(value: str) -> str:
    return f"an {value}" if value[0] in "aeiou" else f"a {value}"
