"""Invented worlds: documents about entities that never existed, and questions with one right answer each.

A world is made in slices of some tens of linked entities, so that any size costs the same per document.
Worlds of the "heldout" split use names, and half of the time phrasings, that no "train" world contains.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from memsparse.errors import ConfigError
from memsparse.training.entities import ALL_GROUPS, Entity, Fact, Slice, kind_of_group
from memsparse.training.frames import CONSIDER, FRAMES, asked, keywords
from memsparse.training.names import Names, Split, pick
from memsparse.training.needle_forms import FORMS
from memsparse.training.needles import Needle, Prose, ask_needle, make_needle_document
from memsparse.training.phrasings import Relation, capitalised
from memsparse.training.relations import RELATIONS
from memsparse.training.values import WITH_ARTICLE, WITH_UNIT
from memsparse.training.writing import Writer, named
from memsparse.types import Document

DEFAULT_MIX: Mapping[str, float] = {
    "one_hop": 0.4,
    "two_hop": 0.25,
    "three_hop": 0.08,
    "needle": 0.17,
    "absent": 0.1,
}
_SLICE = 28
_TRIES = 12
FEWEST_WORDS = 24
"""Words a document needs, at least."""
UNTITLED = 0.06
"""Share of documents about an entity that have no title."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a world."""

    text: str
    answers: tuple[str, ...]
    """Accepted strings, each a verbatim span of the last document of the chain; empty when absent or where
    only the documents are asked for."""
    chain: tuple[str, ...]
    """Document ids in the order they must be read; empty when absent."""
    steps: tuple[str, ...]
    """What each document of the chain yields: names of the next subject, then the first accepted answer."""
    kind: str
    """"one_hop", "two_hop", "three_hop", "needle", "absent", or "lookup": a document without an answer."""
    unordered: bool = False
    """Whether the documents of the chain may be read in any order."""
    about: str = ""
    """The id of the document that an absent question seems to ask for; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Documents and questions about them."""

    documents: tuple[Document, ...]
    questions: tuple[Question, ...]


def generate_world(
    seed: int,
    *,
    documents: int = 64,
    questions: int = 64,
    split: Split = "train",
    max_words: int = 40,
    mix: Mapping[str, float] | None = None,
    prose: Prose | None = None,
) -> World:
    """Return the world of a seed; equal arguments give equal worlds.

    `mix` weighs the kinds of questions. About 1.2 times the share of needle questions is the share of needle
    documents, and a world asked for nothing but needles holds nothing else. A kind the world has no room for
    is replaced by one with fewer hops. `max_words` bounds the words of a document's text. `prose` draws real
    text that some needles are put into. The metadata of a document holds its "kind": "person", "town", ...,
    or "note" for needles.

    Raises: ConfigError for a size, split or mix that cannot be used.
    """
    weights = _checked(documents, questions, split, max_words, DEFAULT_MIX if mix is None else mix)
    rng = Random(seed)
    names = Names(rng, split)
    heldout = split == "heldout"
    share = weights["needle"] / sum(weights.values())
    needle_documents = (
        documents if share == 1 else min(documents - 1, round(documents * min(1.0, 1.2 * share)))
    )
    entities = _make_entities(rng, names, documents - needle_documents, heldout, max_words)
    drafts: list[tuple[str, str, Entity | list[Needle]]] = [
        (entity.name, entity.text, entity) for entity in entities
    ]
    for _ in range(needle_documents):
        drafts.append(make_needle_document(rng, names, heldout=heldout, max_words=max_words, prose=prose))
    rng.shuffle(drafts)
    made: list[Document] = []
    needles: list[tuple[str, Needle]] = []
    for number, (title, text, source) in enumerate(drafts):
        document_id = f"w{seed}-{number}"
        kind = source.kind if isinstance(source, Entity) else "note"
        if isinstance(source, Entity) and title in text and rng.random() < UNTITLED:
            title = ""
        made.append(Document(id=document_id, text=text, title=title, metadata={"kind": kind}))
        if isinstance(source, Entity):
            source.document_id = document_id
        else:
            needles += ((document_id, needle) for needle in source)
    asker = _Asker(rng, names, entities, needles, heldout)
    return World(documents=tuple(made), questions=tuple(asker.ask(questions, weights)))


def _checked(
    documents: int, questions: int, split: str, max_words: int, mix: Mapping[str, float]
) -> dict[str, float]:
    if documents < 1 or questions < 0:
        raise ConfigError(
            f"a world needs at least 1 document and 0 questions, not {documents} and {questions}"
        )
    if max_words < FEWEST_WORDS:
        raise ConfigError(f"max_words={max_words} leaves no room for a sentence; use at least {FEWEST_WORDS}")
    if split not in ("train", "heldout"):
        raise ConfigError(f"unknown split {split!r}; use 'train' or 'heldout'")
    unknown = sorted(set(mix) - set(DEFAULT_MIX))
    if unknown:
        raise ConfigError(f"unknown kinds of questions in mix: {unknown}; use some of {sorted(DEFAULT_MIX)}")
    if min(mix.values(), default=0.0) < 0 or sum(mix.values()) <= 0:
        raise ConfigError(f"mix needs weights of at least 0, not all 0; got {dict(mix)}")
    return {kind: float(mix.get(kind, 0.0)) for kind in DEFAULT_MIX}


def _make_entities(rng: Random, names: Names, count: int, heldout: bool, max_words: int) -> list[Entity]:
    slices = max(1, round(count / _SLICE)) if count else 0
    entities: list[Entity] = []
    for index in range(slices):
        size = count * (index + 1) // slices - count * index // slices
        part = Slice(rng, names, size)
        Writer(part, heldout=heldout, max_words=max_words).write()
        entities += part.entities
    return entities


class _Asker:
    """Asks questions about one world."""

    def __init__(
        self,
        rng: Random,
        names: Names,
        entities: list[Entity],
        needles: list[tuple[str, Needle]],
        heldout: bool,
    ) -> None:
        self.rng = rng
        self.names = names
        self.entities = entities
        self.needles = needles
        self.heldout = heldout
        self.links = [
            (entity, name, fact.target)
            for entity in entities
            for name, fact in entity.facts.items()
            if fact.target is not None
        ]
        self.nameless = [
            (value, fact.value)
            for entity in entities
            for name, fact in entity.facts.items()
            if fact.target is None and (value := RELATIONS[entity.group][name].value) in RELATIONS
        ]

    def ask(self, count: int, weights: Mapping[str, float]) -> list[Question]:
        """Return `count` questions, different ones as long as the world has them."""
        kinds = self.rng.choices(tuple(weights), weights=tuple(weights.values()), k=count)
        asked: set[str] = set()
        questions = []
        for kind in kinds:
            question = self._one(kind)
            for _ in range(_TRIES):
                if question.text not in asked:
                    break
                question = self._one(kind)
            asked.add(question.text)
            questions.append(question)
        return questions

    def _one(self, kind: str) -> Question:
        if kind == "absent":
            return self._absent()
        hops = {"three_hop": 3, "two_hop": 2, "one_hop": 1, "needle": 1}[kind]
        if (kind == "needle" or not self.entities) and self.needles:
            return self._needle()
        for length in range(hops, 1, -1):
            question = self._chain(length)
            if question is not None:
                return question
        return self._one_hop()

    def _needle(self) -> Question:
        document_id, needle = pick(self.rng, self.needles)
        return Question(
            text=ask_needle(self.rng, needle.key, needle.form, heldout=self.heldout),
            answers=(needle.value,),
            chain=(document_id,),
            steps=(needle.value,),
            kind="needle",
        )

    def _one_hop(self) -> Question:
        entity = pick(self.rng, self.entities)
        name = pick(self.rng, tuple(entity.facts))
        answers = _accepted(entity.group, name, entity.facts[name])
        return Question(
            text=self._question(RELATIONS[entity.group][name], named(self.rng, entity)),
            answers=answers,
            chain=(entity.document_id,),
            steps=(answers[0],),
            kind="one_hop",
        )

    def _chain(self, hops: int) -> Question | None:
        """Return a question of two or three hops; None where none was found."""
        for _ in range(_TRIES if self.links else 0):
            entity, name, target = pick(self.rng, self.links)
            path = [(entity, name)]
            if hops == 3:
                onward = [(key, fact.target) for key, fact in target.facts.items() if fact.target is not None]
                if not onward:
                    continue
                middle, (name, target) = target, pick(self.rng, onward)
                path.append((middle, name))
            path.append((target, pick(self.rng, tuple(target.facts))))
            question = self._along(path)
            if question is not None:
                return question
        return None

    def _along(self, path: list[tuple[Entity, str]]) -> Question | None:
        """Ask along a path; None where a document gives away what only a later one should tell."""
        facts = [entity.facts[name] for entity, name in path]
        if len({id(entity) for entity, _ in path}) < len(path):
            return None
        for position, (entity, _) in enumerate(path):
            if any(fact.value in entity.text for fact in facts[position + 1 :]):
                return None
        subject = path[0][0].name
        for position, (entity, name) in enumerate(path[:-1]):
            relation = RELATIONS[entity.group][name]
            phrases = relation.phrases if position == 0 else relation.nested_phrases
            subject = phrases.pick(self.rng, self.heldout).format(s=subject)
        last, name = path[-1]
        text = self._question(RELATIONS[last.group][name], subject, of=last)
        answers = _accepted(last.group, name, facts[-1])
        if answers[0] in text:
            return None
        return Question(
            text=text,
            answers=answers,
            chain=tuple(entity.document_id for entity, _ in path),
            steps=(*(fact.value for fact in facts[:-1]), answers[0]),
            kind="two_hop" if len(path) == 2 else "three_hop",
        )

    def _absent(self) -> Question:
        text, about = self._unanswerable()
        return Question(text=text, answers=(), chain=(), steps=(), kind="absent", about=about)

    def _unanswerable(self) -> tuple[str, str]:
        """Return a question and the document it seems to ask for, if there is one."""
        rng = self.rng
        choice = rng.random()
        if (choice < 0.2 and self.needles) or not self.entities:
            key, form = self.names.unique("key"), int(rng.random() * len(FORMS))
            about = ""
            if choice < 0.1 and self.needles:
                about, needle = pick(rng, self.needles)
                key, form = needle.key, (needle.form + 1 + int(rng.random() * (len(FORMS) - 1))) % len(FORMS)
            return ask_needle(rng, key, form, heldout=self.heldout), about
        about = ""
        if choice < 0.75:
            entity = pick(rng, self.entities)
            group, subject, stated, about = entity.group, entity.name, entity.facts, entity.document_id
        elif choice < 0.88 and self.nameless:
            (group, subject), stated = pick(rng, self.nameless), {}
        else:
            group = pick(rng, ALL_GROUPS)
            subject, stated = self.names.unique(kind_of_group(rng, group)), {}
        table = RELATIONS[group]
        open_relations = [
            relation for relation in table.values() if relation.absent and relation.name not in stated
        ]
        if not open_relations:
            return self._unanswerable()
        return self._question(pick(rng, open_relations), subject), about

    def _question(self, relation: Relation, subject: str, *, of: Entity | None = None) -> str:
        """Ask for a relation's value; `of` is whom the subject, then a whole phrase, stands for."""
        rng, heldout = self.rng, self.heldout
        nested = of is not None
        choice = rng.random()
        if of is not None and choice < 0.12:
            pointing = "that person" if of.kind == "person" else "it"
            inner = relation.nested_questions.pick(rng, heldout).format(s=pointing)
            before = CONSIDER.pick(rng, heldout)
            text = before.format(n=subject, q=capitalised(inner) if ". {q}" in before else inner)
        elif choice < 0.26 and relation.nouns.train:
            text = keywords(rng, relation.nouns.pick(rng, heldout), subject, heldout=heldout)
        elif choice < 0.6:
            phrases = relation.nested_phrases if nested else relation.phrases
            phrase = phrases.pick(rng, heldout).format(s=subject)
            text = FRAMES["who" if relation.person else "what"].pick(rng, heldout).format(n=phrase)
        else:
            questions = relation.nested_questions if nested else relation.questions
            text = questions.pick(rng, heldout).format(s=subject)
        return asked(rng, text, heldout=heldout)


def _accepted(group: str, name: str, fact: Fact) -> tuple[str, ...]:
    """Return the accepted answers: the value, and its bare number or name without article or unit."""
    value = RELATIONS[group][name].value
    if value in WITH_UNIT:
        return (fact.value, fact.value.split(" ", 1)[0])
    if value in WITH_ARTICLE:
        return (fact.value, fact.value.split(" ", 1)[1])
    return (fact.value,)
