"""Memory interleave: one state machine per request, on token ids.

The machine holds no model. Whoever runs the model asks for `prompt()`, routes and prefills it, and hands
every token the model emits to `feed()`, whose action says what to run next:

    Continue     run the fed token, predict the next
    Append(ids)  run the fed token, then `ids` as one causal block on the running cache, without routing
    NewCall      documents were read: drop the cache, start over from `prompt()` with fresh routing
    Done         nothing is left to run

`accept_documents()` and `end_retrieval()` stand for ids and an end of retrieval the model did not emit
itself; their actions have no fed token.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from memsparse.errors import ConfigError, EngineError
from memsparse.text import Prompt, PromptBuilder, Turn

MAX_ROUTE_CHARACTERS = 1000
"""Characters after which the published protocol ends a round that emitted no marker."""

_CITED = re.compile(r"\[([0-9]{1,18})\]")
_NUMBERS = re.compile(r"(?:\[[0-9]{1,18}\])*")

Lookup = Callable[[Sequence[int]], Mapping[int, str]]
"""Document numbers to the text to read back, title included; unknown numbers are absent."""


class State(Enum):
    """Where a request stands."""

    ROUTE = "route"
    """Emitting numbers, until the marker or the end of retrieval."""
    ANSWER = "answer"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Continue:
    """Run the fed token and predict the next."""


@dataclass(frozen=True, slots=True)
class Append:
    """Run the fed token (if there is one), then `ids`, causally on the running cache."""

    ids: list[int]


@dataclass(frozen=True, slots=True)
class NewCall:
    """Start over from `prompt()`: a new call with fresh routing."""


@dataclass(frozen=True, slots=True)
class Done:
    """The request is finished."""


Action = Continue | Append | NewCall | Done


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadRound:
    """What one call retrieved; the n-th belongs to the n-th `prompt()`."""

    numbers: tuple[int, ...]
    """Documents read, ascending; empty when the round ended retrieval."""
    text: str
    """What was emitted before documents or the restated question were appended, markers included."""


class Interleave:
    """The protocol of one request, from the question to its answer.

    Args:
        builder: Makes the token sequences.
        question: User text.
        lookup: Returns the passages of known numbers.
        top_k: Documents per routing; the prompt starts at position head length + top_k.
        max_rounds: Rounds that may read documents; after the last one retrieval ends. 0: answer at once.
        max_new_tokens: Tokens emitted in one call; the restated question counts as one.
        max_route_characters: Characters of a round without a marker, after which it is closed: the
            numbers it holds are read, and without any retrieval ends.
        max_unproductive: Rounds in a row that read nothing new and are still followed by another call; the
            next one ends retrieval.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        question: str,
        lookup: Lookup,
        top_k: int,
        *,
        max_rounds: int,
        max_new_tokens: int,
        max_route_characters: int = MAX_ROUTE_CHARACTERS,
        max_unproductive: int = 1,
    ) -> None:
        if max_rounds < 0:
            raise ConfigError(f"max_rounds must be 0 or more, got {max_rounds}")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self._builder = builder
        self._question = question
        self._lookup = lookup
        self._max_rounds = max_rounds
        self._max_new_tokens = max_new_tokens
        self._max_route_characters = max_route_characters
        self._max_unproductive = max_unproductive
        self._first_position = len(builder.head()) + top_k
        self._state = State.ROUTE
        self._turns: list[Turn] = []
        self._rounds: list[ReadRound] = []
        self._cited: dict[int, None] = {}
        self._unproductive = 0
        self._spent = 0
        self._route: list[int] = []
        self._unrun: list[int] = []  # the end of `_route` that was written for the model, not fed by it
        self._appended: list[int] = []
        self._answer: list[int] = []
        if max_rounds == 0:
            self._close_retrieval(forced=True)

    @property
    def state(self) -> State:
        """Where the request stands."""
        return self._state

    @property
    def rounds(self) -> tuple[ReadRound, ...]:
        """Rounds so far, the running one included."""
        if len(self._rounds) > len(self._turns):
            return tuple(self._rounds)
        return (*self._rounds, ReadRound(numbers=(), text=self._builder.decode(self._route)))

    @property
    def cited(self) -> tuple[int, ...]:
        """Known numbers cited so far, each once, in order of rounds and ascending within one."""
        return tuple(self._cited)

    @property
    def route_ids(self) -> list[int]:
        """What the running round has emitted: the prefix for `NumberTrie.allowed`."""
        return list(self._route)

    @property
    def answer(self) -> str:
        """The answer so far, without its leading sentence; empty before retrieval ended.

        A model that answers without ending retrieval is taken at its word if it uses that sentence.
        """
        lead = self._builder.answer_lead
        text = self._builder.decode(self._answer if self._appended else self._route).strip()
        _, found, after = text.partition(lead)
        if found:
            return after.strip()
        return text if self._appended and not lead.startswith(text) else ""

    @property
    def text(self) -> str:
        """The whole exchange so far, from the question on; the end of turn is not part of it."""
        return self._builder.decode(self.prompt().ids)

    def prompt(self) -> Prompt:
        """Everything so far as the input of a new call.

        Ask for it at the start and after `NewCall`; at any other moment it restarts a request whose
        cache was dropped.
        """
        response = [*self._route, *self._appended, *self._answer]
        if self._turns or response:
            ids, roles = self._builder.followup(self._question, self._turns, response)
        else:
            ids, roles = self._builder.question(self._question)
        return Prompt(ids=ids, roles=roles, first_position=self._first_position)

    def feed(self, token_id: int) -> Action:
        """Take a token the model emitted.

        Raises: EngineError when the request is done.
        """
        self._require(State.ROUTE, State.ANSWER)
        if token_id in self._builder.stop_ids:
            return self._finish()
        self._spent += 1
        if self._state is State.ANSWER:
            self._answer.append(token_id)
        else:
            self._route.append(token_id)
            text = self._builder.decode(self._route)
            if token_id == self._builder.marker_id:
                return self._read(_numbers(text))
            if self._builder.end_of_retrieve in text:
                self._cite(_numbers(text))
                return self._close_retrieval()
            if len(text) >= self._max_route_characters:
                return self._overlong(_numbers(text))
        return self._finish() if self._spent >= self._max_new_tokens else Continue()

    def accept_documents(self, numbers: Sequence[int]) -> Action:
        """Go on as if the model had emitted these numbers and the marker; with none, as if it had ended.

        Raises: EngineError when the request is not retrieving.
        """
        self._require(State.ROUTE)
        if not numbers:
            return self.end_retrieval()
        self._write(self._builder.citation(numbers))
        return self._read(numbers)

    def end_retrieval(self) -> Action:
        """Go on as if the model had emitted the end of retrieval.

        Raises: EngineError when the request is not retrieving.
        """
        self._require(State.ROUTE)
        return self._close_retrieval(forced=True)

    def reopen(self) -> None:
        """Take the end of retrieval and the answer back: the round may retrieve after all.

        Raises: EngineError if retrieval has not ended, or no round is left; see `may_reopen`.
        """
        if not self.may_reopen:
            raise EngineError("retrieval goes on, or no round is left; look at may_reopen first")
        self._rounds.pop()
        self._route, self._unrun, self._appended, self._answer = [], [], [], []
        self._spent = 0
        self._state = State.ROUTE

    @property
    def may_reopen(self) -> bool:
        """Whether retrieval has ended before its last round."""
        return bool(self._appended) and len(self._turns) < self._max_rounds

    def trie(self, routed: Iterable[int]) -> "NumberTrie":
        """Return the constraint for this round: the routed numbers not yet cited."""
        return NumberTrie(self._builder, (number for number in routed if number not in self._cited))

    def _require(self, *states: State) -> None:
        if self._state not in states:
            raise EngineError(f"the request is in state {self._state.value}; start a new one")

    def _finish(self) -> Done:
        self._state = State.DONE
        return Done()

    def _cite(self, numbers: Sequence[int]) -> dict[int, str]:
        """Look numbers up and record the known ones as cited."""
        distinct = sorted(set(numbers))
        found = self._lookup(distinct) if distinct else {}
        known = {number: found[number] for number in distinct if number in found}
        self._cited.update(dict.fromkeys(known))
        return known

    def _read(self, numbers: Sequence[int]) -> Action:
        """Close the round: its documents become part of the next prompt."""
        before = len(self._cited)
        known = self._cite(numbers)
        self._unproductive = 0 if len(self._cited) > before else self._unproductive + 1
        if self._unproductive > self._max_unproductive:
            return self._close_retrieval(forced=True)
        self._rounds.append(ReadRound(numbers=tuple(known), text=self._builder.decode(self._route)))
        self._turns.append(Turn(emitted=self._route, documents=self._builder.passages(known)))
        self._route = []
        self._unrun = []
        self._spent = 0
        if len(self._turns) >= self._max_rounds:
            self._close_retrieval(forced=True)
        return NewCall()

    def _overlong(self, numbers: Sequence[int]) -> Action:
        """Close a round that ran on without a marker."""
        if not self._lookup(sorted(set(numbers))):
            return self._close_retrieval(forced=True)
        self._write([self._builder.marker_id])
        return self._read(numbers)

    def _close_retrieval(self, *, forced: bool = False) -> Append:
        """Restate the question; `forced` writes the end of retrieval for the model."""
        if forced:
            self._write(self._builder.end_of_retrieve_ids)
        self._rounds.append(ReadRound(numbers=(), text=self._builder.decode(self._route)))
        self._appended = self._builder.restate(self._question)
        self._spent += 1
        self._state = State.ANSWER
        return Append([*self._unrun, *self._appended])

    def _write(self, ids: Sequence[int]) -> None:
        self._route += ids
        self._unrun += ids


class NumberTrie:
    """What a round may emit: `[number]` for candidate numbers, each once, then the marker.

    At the beginning of a round the end of retrieval may come instead. Tokens are compared by the text
    they spell, so every way a tokenizer can split a list of numbers is open to the model.
    """

    def __init__(self, builder: PromptBuilder, numbers: Iterable[int]) -> None:
        self._builder = builder
        self._numbers = frozenset(numbers)
        self._starts = {
            f"[{number}]"[:size] for number in self._numbers for size in range(len(str(number)) + 2)
        }
        self._tokens = builder.tokenizer.number_tokens

    def allowed(self, prefix_ids: Sequence[int]) -> set[int]:
        """Ids that may follow what the round has emitted; empty when it is complete or off the trie."""
        marker, end = self._builder.marker_id, self._builder.end_of_retrieve_ids
        if prefix_ids and prefix_ids[-1] == marker:
            return set()
        ids = set()
        at = len(prefix_ids)
        if at < len(end) and tuple(prefix_ids) == end[:at]:
            ids.add(end[at])
        if any(token_id not in self._tokens for token_id in prefix_ids):
            return ids
        text = "".join(self._tokens[token_id] for token_id in prefix_ids)
        if text and self._rest(text) == "":
            ids.add(marker)
        return ids | {
            token_id for token_id, more in self._tokens.items() if self._rest(text + more) is not None
        }

    def _rest(self, text: str) -> str | None:
        """Return what follows the last whole number: a start of another one, or None if it can not be."""
        whole = _NUMBERS.match(text)
        cut = whole.end() if whole else 0
        listed = [found.group(1) for found in _CITED.finditer(text[:cut])]
        distinct = {int(digits) for digits in listed}
        if len(distinct) < len(listed) or any(str(int(digits)) != digits for digits in listed):
            return None
        if not distinct <= self._numbers:
            return None
        rest = text[cut:]
        if rest and rest not in self._starts:
            return None
        if rest and distinct and not any(f"[{n}]".startswith(rest) for n in self._numbers - distinct):
            return None
        return rest


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in _CITED.findall(text)]
