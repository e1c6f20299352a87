"""RULER's eight needle tasks (arXiv 2404.06654), with documents of a memory in place of one long context.

A haystack is a namespace of documents; the needles of a sample are in documents of a namespace of its own,
which lie between those of the haystack. A question is asked in both namespaces, so that one bank serves
every sample of a length and none sees the needles of another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from memsparse.errors import ConfigError
from memsparse.evaluation.haystacks import (
    CountTokens,
    Draws,
    Haystack,
    Kind,
    NeedleDocuments,
    Placed,
    excerpt,
    fill,
    needle_pieces,
    needle_question,
    needle_sentence,
    noise_pieces,
    seven_digits,
    text_pieces,
    with_needle,
)
from memsparse.types import Document

SHORTEST = 4
"""Documents a length has room for, at least."""
_SET_ASIDE = 2
"""Documents of a length left to a sample's own: the single tasks have one, others four."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    haystack: str
    """"noise", "haystack" (texts, noise where there are none), or "needles"."""
    keys: Kind = "words"
    values: Kind = "numbers"
    distractors: int = 0
    """Needles of other keys."""
    asked: int = 1
    """Keys asked for."""
    answers: int = 1
    """Values of an asked key, each in a needle of its own."""

    @property
    def namespace(self) -> str:
        return f"needles-{self.keys}" if self.haystack == "needles" else self.haystack


_TASKS: Mapping[str, _Task] = {
    "niah_single_1": _Task(haystack="noise"),
    "niah_single_2": _Task(haystack="haystack"),
    "niah_single_3": _Task(haystack="haystack", values="uuids"),
    "niah_multikey_1": _Task(haystack="haystack", distractors=3),
    "niah_multikey_2": _Task(haystack="needles"),
    "niah_multikey_3": _Task(haystack="needles", keys="uuids", values="uuids"),
    "niah_multivalue": _Task(haystack="haystack", answers=4),
    "niah_multiquery": _Task(haystack="haystack", asked=4),
}
TASKS = tuple(_TASKS)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleConfig:
    """Which tasks, how long, how many."""

    tasks: tuple[str, ...] = TASKS
    lengths: tuple[int, ...] = (16_384, 65_536, 262_144, 1_048_576)
    """Tokens of the documents a sample sees; a bank each."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the needle lies: 0 before the first document of its haystack, 1 behind the last."""
    samples: int = 5
    """Of each task at each depth."""
    seed: int = 0
    document_tokens: int = 72
    """Tokens of a document, without the template around it: what the model takes in one piece."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in _TASKS:
                raise ConfigError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
        for name, values in (("tasks", self.tasks), ("lengths", self.lengths), ("depths", self.depths)):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} is {list(values)}; give at least one, and each once")
        for name, value, least in (
            ("samples", self.samples, 1),
            ("document_tokens", self.document_tokens, 16),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise ConfigError(f"a depth is {depth}; it must be from 0 to 1")
        for length in self.lengths:
            _check_length(length, self.document_tokens)


def _check_length(length: int, document_tokens: int) -> None:
    if length < SHORTEST * document_tokens:
        raise ConfigError(
            f"a length is {length} tokens; it must be at least {SHORTEST * document_tokens}, "
            f"{SHORTEST} documents of {document_tokens} tokens"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question, and where its answers lie."""

    id: str
    task: str
    tokens: int
    """The length asked for."""
    depth: float
    """Where the first needle that is asked for lies, 0 to 1; others, if any, lie anywhere."""
    question: str
    answers: tuple[str, ...]
    positive_ids: tuple[str, ...]
    namespaces: tuple[str, str]
    """The haystack and the sample's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleBank:
    """What a bank of one length holds and what is asked of it."""

    documents: NeedleDocuments
    samples: tuple[Sample, ...]
    tokens: int
    """Of all documents, those of every sample included."""
    longest: int
    """Tokens of the longest document: above `document_tokens` where a single needle is longer."""
    haystack: str
    """"given", or "noise" where no haystack was."""
    repeats: float
    """How often the given haystack was gone through to reach the length; 1.0 where it sufficed."""


def build(
    config: NeedleConfig, length: int, haystack: Sequence[Document] | None, count_tokens: CountTokens
) -> NeedleBank:
    """Make the bank and the samples of one length; the same for the same seed and arguments.

    A sample is the same whichever other tasks are asked for. Memory grows with the length, by about 20 bytes
    a token.

    Args:
        length: tokens of the documents one sample sees, its own included.
        haystack: texts for the tasks that RULER hides in essays; None: noise.

    Raises: InputError for a haystack without text; ConfigError if the words for keys are not installed or
        the length needs more than there are.
    """
    _check_length(length, config.document_tokens)
    maker = _Maker(config, length, haystack, count_tokens)
    for task in TASKS:
        if task in config.tasks:
            maker.add(task)
    return maker.bank()


class _Maker:
    """Makes the samples of one task after the other, and the haystacks they need."""

    def __init__(
        self, config: NeedleConfig, length: int, texts: Sequence[Document] | None, count: CountTokens
    ) -> None:
        self._config = config
        self._length = length
        self._texts = texts
        self._count = count
        self._tokens = self._longest = 0
        self._samples: list[Sample] = []
        self._haystacks: dict[str, Haystack] = {}
        self._placed: dict[str, list[Placed]] = {}
        self._found: set[str] | None = None

    def add(self, name: str) -> None:
        """Make the samples of a task."""
        task = _TASKS[name]
        if task.haystack == "haystack" and self._texts is None:
            task = replace(task, haystack="noise")
        taken = set(self._numbers_found()) if task.haystack == "haystack" else set()
        plans = [
            (sample, depth, Draws(self._seed(f"{name} {sample}"), taken))
            for sample, depth in enumerate(self._config.depths * self._config.samples)
        ]
        drawn = [self._draw(task, draws) for _, _, draws in plans]
        if task.namespace not in self._haystacks:
            self._haystacks[task.namespace] = self._fill(task, taken)
        for (sample, depth, draws), needles in zip(plans, drawn, strict=True):
            self._place(name, task, sample, depth, draws, needles)

    def bank(self) -> NeedleBank:
        """Return what was made."""
        given = self._haystacks.get("haystack")
        return NeedleBank(
            documents=NeedleDocuments(
                parts=tuple(
                    (haystack, tuple(self._placed[name])) for name, haystack in self._haystacks.items()
                )
            ),
            samples=tuple(self._samples),
            tokens=self._tokens + sum(haystack.tokens for haystack in self._haystacks.values()),
            longest=max(self._longest, *(haystack.longest for haystack in self._haystacks.values())),
            haystack="noise" if self._texts is None else "given",
            repeats=1.0 if given is None else given.repeats,
        )

    def _seed(self, purpose: str) -> str:
        return f"{self._config.seed} {self._length} {purpose}"

    def _numbers_found(self) -> set[str]:
        if self._found is None:
            self._found = seven_digits(self._texts or ())
        return self._found

    def _draw(self, task: _Task, draws: Draws) -> list[tuple[str, str]]:
        """Keys and values of a sample, those that are asked for first."""
        asked = [draws.draw(task.keys) for _ in range(task.asked)]
        pairs = [(key, draws.draw(task.values)) for key in asked for _ in range(task.answers)]
        return pairs + [(draws.draw(task.keys), draws.draw(task.values)) for _ in range(task.distractors)]

    def _fill(self, task: _Task, taken: set[str]) -> Haystack:
        limit = self._config.document_tokens
        if task.haystack == "noise":
            pieces = noise_pieces(self._count, limit)
        elif task.haystack == "needles":
            draws = Draws(self._seed(task.namespace), taken)
            pieces = needle_pieces(draws, task.keys, task.values, self._count, limit)
        else:
            pieces = text_pieces(self._texts or (), self._count, limit)
        return fill(task.namespace, pieces, self._length - _SET_ASIDE * limit)

    def _place(
        self,
        name: str,
        task: _Task,
        sample: int,
        depth: float,
        draws: Draws,
        needles: Sequence[tuple[str, str]],
    ) -> None:
        haystack = self._haystacks[task.namespace]
        own = f"sample-{name}-{sample}"
        placed = self._placed.setdefault(task.namespace, [])
        for index, (key, value) in enumerate(needles):
            text = self._around(task, needle_sentence(key, value, task.values), draws)
            size = self._count(text)
            self._tokens += size
            self._longest = max(self._longest, size)
            place = round((depth if index == 0 else draws.random.random()) * haystack.documents)
            document = Document(id=f"{own}-{index}", text=text, namespace=own)
            placed.append(Placed(place=place, document=document))
        answers = [value for _, value in needles[: task.asked * task.answers]]
        keys = dict.fromkeys(key for key, _ in needles[: task.asked * task.answers])
        self._samples.append(
            Sample(
                id=f"{name}@{self._length}-{sample}",
                task=name,
                tokens=self._length,
                depth=depth,
                question=needle_question(list(keys), task.values, plural=len(answers) > 1),
                answers=tuple(answers),
                positive_ids=tuple(f"{own}-{index}" for index in range(len(answers))),
                namespaces=(task.namespace, own),
            )
        )

    def _around(self, task: _Task, needle: str, draws: Draws) -> str:
        """A document of what the haystack is made of, with the needle in it."""
        room = self._config.document_tokens - self._count(f" {needle}") - 1
        if room < 1:
            return needle
        if task.haystack == "needles":
            text, size = next(needle_pieces(draws, task.keys, task.values, self._count, room))
            text = text if size <= room else ""
        elif task.haystack == "noise":
            pieces = [text for text, size in noise_pieces(self._count, room) if size <= room]
            text = draws.random.choice(pieces) if pieces else ""
        else:
            text = excerpt(self._texts or (), draws.random, self._count, room)
        return with_needle(needle, text, draws.random)
