"""The protocol around the model: text to token ids, roles and positions.

Roles say what a token does: 0 routes, -1 belongs to the response and does not route, -2 is template.
They follow from the runs a prompt is built of, never from searching its text, so a document or a
question can not forge them. User text is encoded without control tokens; only the template has them.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

from tokenizers import Tokenizer as BackendTokenizer

from memsparse.errors import ConfigError, InputError

ROUTES = 0
RESPONSE = -1
TEMPLATE = -2

_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKER = re.compile(r"<[^<>\s]+>")
_NUMBER_TOKEN = re.compile(r"[\[\]0-9]+")
_SHORT, _KEPT = 256, 1024
"""Characters of a text whose ids are kept, at most, and how many such texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The strings a checkpoint was trained with; the defaults are those of the published one."""

    head: str = "<|im_start|>user\n"
    """Before all documents; kept as raw K, V in front of every question."""
    tail: str = "<|im_end|>\n"
    response_head: str = "<|im_start|>"
    question_lead: str = "\nPlease answer the question based on the above historical document information\n\n"
    question_end: str = "\nPlease return all documents related to the question"
    question_close: str = "\n"
    """Follows `question_end`; routes in the first call only."""
    document_start: str = "<|im_start|>"
    document_end: str = "<|im_end|>"
    number_end: str = ". "
    """Between `[number]` and the text of a document."""
    passage_end: str = "\n"
    """After each document read back into a prompt."""
    retrieve_marker: str = "<|object_ref_end|>"
    """Ends a list of numbers, and the documents read for it. Must be one control token."""
    end_of_retrieve: str = "<End-of-Retrieve>"
    restate_lead: str = "<|im_start|>The user's question is: "
    restate_end: str = "\n<|object_ref_end|>"
    answer_lead: str = "The answer to the question is: "
    end_of_turn: str = "<|im_end|>"
    """Ends an answer. Must be one control token."""

    def to_dict(self) -> dict[str, str]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back; missing fields take their defaults.

        Raises: ConfigError for an unknown field or a value that is no text.
        """
        known = {field.name for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"unknown template field {name!r}; known: {', '.join(sorted(known))}")
            if not isinstance(value, str):
                raise ConfigError(f"template field {name!r} must be text, got {value!r}")
        return cls(**values)

    @property
    def digest(self) -> str:
        """SHA-256 of all fields, hexadecimal: part of a model's fingerprint."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


@runtime_checkable
class Tokenizer(Protocol):
    """What the protocol needs of a tokenizer."""

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Added tokens by text, special or not; ordinary text must never yield one of these ids."""

    @property
    def number_tokens(self) -> Mapping[int, str]:
        """Text of every ordinary token made of digits and square brackets only, by id."""

    @property
    def stop_ids(self) -> Collection[int]:
        """Ids that end a sequence beside the template's end of turn."""

    def encode(self, text: str) -> list[int]:
        """Encode without matching control tokens and without adding any."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode, control tokens included."""


class _PreTrainedTokenizer(Protocol):
    """The part of a transformers fast tokenizer that is read."""

    eos_token_id: Any

    @property
    def backend_tokenizer(self) -> BackendTokenizer: ...


class FastTokenizer:
    """A transformers fast tokenizer as `Tokenizer`.

    Ordinary text goes through a private copy without added tokens. The library's own switches
    (`split_special_tokens`, `encode_special_tokens`) still match added tokens that are not flagged special.
    """

    def __init__(self, tokenizer: _PreTrainedTokenizer) -> None:
        backend = tokenizer.backend_tokenizer
        state = json.loads(backend.to_str())
        self._backend = backend
        self.control_tokens: Mapping[str, int] = {
            token["content"]: int(token["id"]) for token in state["added_tokens"]
        }
        state.update(added_tokens=[], truncation=None, padding=None)
        self._plain = BackendTokenizer.from_str(json.dumps(state))
        control_ids = set(self.control_tokens.values())
        self.number_tokens: Mapping[int, str] = {
            id_: token
            for token, id_ in self._plain.get_vocab().items()
            if _NUMBER_TOKEN.fullmatch(token) and id_ not in control_ids
        }
        eos = tokenizer.eos_token_id
        self.stop_ids: Collection[int] = frozenset() if eos is None else frozenset({int(eos)})
        self._kept: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Encode without matching control tokens and without adding any.

        Parts of templates, numbers and a question come again and again: ids of short texts are kept a while.
        """
        ids = self._kept.get(text)
        if ids is None:
            ids = list(self._plain.encode(text, add_special_tokens=False).ids)
            if len(text) <= _SHORT:
                if len(self._kept) >= _KEPT:
                    self._kept.clear()
                self._kept[text] = ids
        return ids.copy()

    def decode(self, ids: Sequence[int]) -> str:
        """Decode, control tokens included."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Consecutive tokens of one role."""

    ids: Sequence[int]
    role: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The input of one routing call."""

    ids: list[int]
    roles: list[int]
    first_position: int
    """Rotary position of `ids[0]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One finished round as it stands in the next prompt."""

    emitted: Sequence[int]
    """What the model emitted, its marker included."""
    documents: Sequence[int]
    """The documents read for it, without the marker that closes them; may be empty."""


class PromptBuilder:
    """Builds every token sequence the model sees.

    Template text and user text between two control tokens are encoded together, as one text.
    Raises: ConfigError when the tokenizer lacks the marker or the end of turn as one control token.
    """

    def __init__(self, tokenizer: Tokenizer | _PreTrainedTokenizer, template: Template | None = None) -> None:
        self.tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else FastTokenizer(tokenizer)
        self.template = Template() if template is None else template
        controls = self.tokenizer.control_tokens
        self._control_ids = frozenset(controls.values())
        self._control_pattern = _any_of(controls)
        self.marker_id = self._control_id(self.template.retrieve_marker)
        self.stop_ids = frozenset({self._control_id(self.template.end_of_turn), *self.tokenizer.stop_ids})
        # A template marker that is several ordinary tokens must not be spelt by the same tokens in user text.
        markers = {mark for text in self.template.to_dict().values() for mark in _MARKER.findall(text)}
        self._spelt_pattern = _any_of(markers - controls.keys(), re.IGNORECASE)
        self.end_of_retrieve_ids = tuple(self.encode_control(self.template.end_of_retrieve))
        # As the model spells them: a tokenizer may change case.
        self.end_of_retrieve = self.decode(self.end_of_retrieve_ids)
        self.answer_lead = self.decode(self.encode_control(self.template.answer_lead)).strip()

    def _control_id(self, text: str) -> int:
        token_id = self.tokenizer.control_tokens.get(text)
        if token_id is None:
            raise ConfigError(
                f"the tokenizer has no token {text!r}; add it as a special token or change the template"
            )
        return token_id

    def encode_text(self, text: str) -> list[int]:
        """Encode user text; no control token ever comes out, whatever the text spells."""
        return self._weave(("", text))

    def encode_control(self, text: str) -> list[int]:
        """Encode template text, in which control tokens are recognised."""
        return self._weave((text, ""))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode, control tokens included."""
        return self.tokenizer.decode(ids)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of user text."""
        return len(self.encode_text(text))

    def head(self) -> list[int]:
        """Ids of the template head, role -2, positions from 0."""
        return self.encode_control(self.template.head)

    def document(self, number: int, text: str, title: str = "") -> list[int]:
        """Ids of a document as it is stored in memory, positions from 0."""
        body = f"[{_number(number)}]{self.template.number_end}{passage_text(title, text)}[{number}]"
        return self._weave((self.template.document_start, body), (self.template.document_end, ""))

    def question(self, question: str) -> tuple[list[int], list[int]]:
        """Ids and roles of the first call."""
        return _join(self._question_runs(question, close=ROUTES, tail=TEMPLATE))

    def followup(
        self, question: str, turns: Sequence[Turn], response: Sequence[int] = ()
    ) -> tuple[list[int], list[int]]:
        """Ids and roles of a later call: the question, finished turns, and what follows them.

        Only the question up to `question_end` and the documents appended last route.
        """
        runs = self._question_runs(question, close=RESPONSE, tail=RESPONSE)
        last = max((i for i, turn in enumerate(turns) if turn.documents), default=-1)
        for i, turn in enumerate(turns):
            routes = ROUTES if i == last else RESPONSE
            runs += [TokenRun(turn.emitted, RESPONSE), TokenRun(turn.documents, routes)]
            runs.append(TokenRun((self.marker_id,), RESPONSE))
        runs.append(TokenRun(response, RESPONSE))
        return _join(runs)

    def citation(self, numbers: Sequence[int]) -> list[int]:
        """Ids of `[i][j]...` and the marker: what a model emits to ask for documents."""
        text = "".join(f"[{_number(number)}]" for number in numbers)
        return [*self.encode_text(text), self.marker_id]

    def passages(self, texts: Mapping[int, str]) -> list[int]:
        """Ids of documents read back into a prompt, ascending, without the closing marker."""
        template = self.template
        ids: list[int] = []
        for number in sorted(texts):
            text = f"[{_number(number)}]{template.number_end}{texts[number]}{template.passage_end}"
            ids += self.encode_text(text)
        return ids

    def restate(self, question: str) -> list[int]:
        """Ids of the block appended after the end of retrieval."""
        return self._weave((self.template.restate_lead, question), (self.template.restate_end, ""))

    def answer(self, text: str) -> list[int]:
        """Ids of the answer sentence and the end of turn, as a training target."""
        return self._weave((self.template.answer_lead, text), (self.template.end_of_turn, ""))

    def _question_runs(self, question: str, *, close: int, tail: int) -> list[TokenRun]:
        template = self.template
        asked = self._weave((template.question_lead, question), (template.question_end, ""))
        return [
            TokenRun(asked, ROUTES),
            TokenRun(self.encode_control(template.question_close), close),
            TokenRun(self.encode_control(template.tail), tail),
            TokenRun(self.encode_control(template.response_head), RESPONSE),
        ]

    def _weave(self, *pairs: tuple[str, str]) -> list[int]:
        """Encode alternating (template text, user text); text between control tokens is one piece."""
        ids: list[int] = []
        pending = ""
        for template_text, user_text in pairs:
            for piece, is_control in _pieces(self._control_pattern, template_text):
                if is_control:
                    ids += self._encode_ordinary(pending)
                    ids.append(self.tokenizer.control_tokens[piece])
                    pending = ""
                else:
                    pending += piece
            for piece, is_spelt in _pieces(self._spelt_pattern, _SURROGATE.sub("\ufffd", user_text)):
                if is_spelt:
                    ids += self._encode_ordinary(pending)
                    ids += self._encode_apart(piece)
                    pending = ""
                else:
                    pending += piece
        return ids + self._encode_ordinary(pending)

    def _encode_ordinary(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text) if text else []
        return ids if self._control_ids.isdisjoint(ids) else self._encode_apart(text)

    def _encode_apart(self, text: str) -> list[int]:
        ids = [token_id for character in text for token_id in self.tokenizer.encode(character)]
        return [token_id for token_id in ids if token_id not in self._control_ids]


def passage_text(title: str, text: str) -> str:
    """Return the text of a document with its title in front, once; space at the end is left out."""
    text = without_title(title, text).rstrip()
    return f"{title}\n{text}" if title and not text.startswith(title) else text


def without_title(title: str, text: str) -> str:
    """Leave out a first line that only repeats the title, as in files; not where it is all there is."""
    heading, _, rest = text.partition("\n")
    repeats = title and rest.strip() and heading.lstrip("# ").rstrip() == title
    return rest.lstrip() if repeats else text


def split_document(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> list[tuple[int, int]]:
    """Cut a text into spans of at most `max_tokens` tokens.

    Cuts fall on paragraph borders where they can, then behind sentences, words, and at last anywhere.
    The spans follow one another and cover the text. A single character is never cut, whatever it costs.

    Returns: (start, end) character offsets; empty for an empty text.
    Raises: InputError if max_tokens is below 1.
    """
    if max_tokens < 1:
        raise InputError(f"max_tokens must be at least 1, got {max_tokens}")
    return _split(text, 0, len(text), count_tokens, max_tokens, 0) if text else []


_BORDERS = (
    re.compile(r"\n[^\S\n]*\n\s*"),
    re.compile(r"(?<=[.!?\u2026\u3002\uff01\uff1f])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n+"),
    re.compile(r"(?<=\S)(?=\s)"),
)


def _split(
    text: str, start: int, end: int, count: Callable[[str], int], limit: int, level: int
) -> list[tuple[int, int]]:
    if count(text[start:end]) <= limit:
        return [(start, end)]
    if level == len(_BORDERS):
        return _cut(text, start, end, count, limit)
    ends = [match.end() for match in _BORDERS[level].finditer(text, start, end)]
    cuts = sorted({start, end, *ends})
    spans: list[tuple[int, int]] = []
    held = limit  # tokens of the last span; at the limit it does not grow
    for left, right in itertools.pairwise(cuts):
        size = count(text[left:right])
        if size > limit:
            spans += _split(text, left, right, count, limit, level + 1)
            held = limit
        elif held + size <= limit:
            spans[-1] = (spans[-1][0], right)
            held += size
        else:
            spans.append((left, right))
            held = size
    # Joined pieces can cost more tokens than they did one by one.
    return [part for left, right in spans for part in _cut(text, left, right, count, limit)]


def _cut(text: str, start: int, end: int, count: Callable[[str], int], limit: int) -> list[tuple[int, int]]:
    if count(text[start:end]) <= limit:
        return [(start, end)]
    spans = []
    while start < end:
        low, high = start + 1, min(end, start + 4 * limit)
        while low < high:
            middle = (low + high + 1) // 2
            if count(text[start:middle]) <= limit:
                low = middle
            else:
                high = middle - 1
        spans.append((start, low))
        start = low
    return spans


def _number(number: int) -> int:
    if number < 0:
        raise InputError(f"a document number must be 0 or more, got {number}")
    return number


def _any_of(texts: Collection[str], flags: int = 0) -> re.Pattern[str] | None:
    longest_first = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), flags) if longest_first else None


def _pieces(pattern: re.Pattern[str] | None, text: str) -> Iterator[tuple[str, bool]]:
    """Yield the text in order as (piece, whether it matches the pattern)."""
    at = 0
    for match in pattern.finditer(text) if pattern else ():
        if match.start() > at:
            yield text[at : match.start()], False
        yield match.group(), True
        at = match.end()
    if at < len(text):
        yield text[at:], False


def _join(runs: Sequence[TokenRun]) -> tuple[list[int], list[int]]:
    ids = [token_id for run in runs for token_id in run.ids]
    roles = [run.role for run in runs for _ in run.ids]
    return ids, roles
