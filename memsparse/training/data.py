"""Training steps: a pool of documents, encoded once, and the calls of many questions that share it.

A question becomes calls of the protocol (`memsparse.text`): ask for a document, ask for the next one after
reading the first, or end retrieval and answer. One call of each question is drawn per step. Document numbers
are drawn anew every step, so they can only be read from memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

from memsparse.engine.encoder import WIDTH_MULTIPLE
from memsparse.errors import InputError
from memsparse.ops.positions import context_positions
from memsparse.text import PromptBuilder, Turn, passage_text
from memsparse.training.passages import hashed
from memsparse.training.world import Question
from memsparse.types import Document

IGNORED = -100
NOT_FOUND = "the documents do not say"
"""The answer sentence of a question whose answer is in no document."""

SPAN_TOKENS = 128
"""Tokens of a row of repeated text."""

BATCH_ROWS = 8
"""Calls run together; few and fixed, so that shapes repeat from step to step."""

Kind = Literal["retrieve", "follow", "answer", "absent"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallMix:
    """How calls are drawn from questions."""

    distractors: float = 0.4
    """Chance that read documents have others beside them."""
    first: float = 0.6
    """Share of first calls: short, and most of what teaches routing."""
    misses: float = 0.15
    """Chance that a call follows a turn which read only wrong documents."""
    most_digits: int = 5
    """Document numbers have 1 to this many digits."""
    interleave: bool = True
    """Read one document after the other; False: ask for all documents of a question at once."""
    original_text: bool = True
    """Read the text of documents asked for back into the context; False: there is their memory alone."""
    global_positions: bool = False
    """Lay all documents of a step end to end, rather than begin each at position 0; calls follow them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of the protocol with its targets."""

    ids: list[int]
    roles: list[int]
    labels: list[int]
    positives: tuple[int, ...]
    """Indices of the documents the call should ask for; empty when it ends retrieval."""
    read: tuple[int, ...]
    """Indices of the documents read before; neither positive nor negative."""
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class CallBatch:
    """Calls of similar length. B calls of T tokens over N documents."""

    ids: Tensor
    """(B, T), prompt head included, padded on the right."""
    mask: Tensor
    """(B, T) bool"""
    routes: Tensor
    """(B, T) bool, tokens that route."""
    positions: Tensor
    """(B, T)"""
    labels: Tensor
    """(B, T), -100 ignored; not shifted."""
    positives: Tensor
    """(B, N) bool"""
    read: Tensor
    """(B, N) bool"""
    kinds: tuple[Kind, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Tensors of one training step. N documents of S tokens."""

    document_ids: Tensor
    """(N, S), padded on the right."""
    document_lengths: Tensor
    """(N,)"""
    hashes: Tensor
    """(N,) int64, of the documents' ids: equal where a document is."""
    digits: Tensor
    """(N, digits) decimal digits of the document numbers, most significant first, -100 beyond the number."""
    batches: tuple[CallBatch, ...]
    spans: tuple[Tensor, Tensor]
    """Repeated text: (rows, SPAN_TOKENS) ids, and bool where a token repeats what stood before."""
    head: int
    """Tokens of the prompt head; memory begins after them."""
    starts: Tensor
    """(N,) position of each document's first token."""

    @property
    def tokens(self) -> int:
        """Real tokens of documents, calls and spans."""
        calls = sum(int(batch.mask.sum()) for batch in self.batches)
        return int(self.document_lengths.sum()) + calls + self.spans[0].numel()


class StepBuilder:
    """Turns documents and questions into steps."""

    def __init__(
        self,
        prompts: PromptBuilder,
        *,
        position_offset: int,
        max_document_tokens: int,
        mix: CallMix | None = None,
    ) -> None:
        self.prompts = prompts
        self.position_offset = position_offset
        self.max_document_tokens = max_document_tokens
        self.max_call_tokens = 4 * max_document_tokens
        self.mix = mix or CallMix()
        self.end_of_retrieve = list(prompts.end_of_retrieve_ids)

    def build(
        self,
        documents: Sequence[Document],
        questions: Sequence[Question],
        rng: Random,
        *,
        calls: int,
        spans: int = 0,
    ) -> Step:
        """Draw numbers for the documents, up to `calls` calls from the questions, and `spans` rows of spans.

        Raises: InputError if not one question gives a call that fits.
        """
        numbers = draw_numbers(rng, len(documents), self.mix.most_digits)
        encoded = [
            self.prompts.document(number, document.text, document.title)
            for number, document in zip(numbers, documents, strict=True)
        ]
        # A document that is too long loses its middle: both numbers must stay.
        encoded = [_shorten(ids, self.max_document_tokens, 8 + self.mix.most_digits) for ids in encoded]
        pool = _Pool(documents, numbers)
        drawn: list[Call] = []
        for question in questions:
            if len(drawn) == calls:
                break
            call = self._draw_call(question, pool, rng)
            if call is not None and len(call.ids) <= self.max_call_tokens:
                drawn.append(call)
        if not drawn:
            raise InputError(
                f"no question has a call of at most {self.max_call_tokens} tokens; raise max_document_tokens "
                f"({self.max_document_tokens}), or use a larger vocabulary"
            )
        return self._tensors(pool, encoded, drawn, self._spans(documents, questions, rng, spans))

    def _draw_call(self, question: Question, pool: "_Pool", rng: Random) -> Call | None:
        chain = [pool.index[document_id] for document_id in question.chain]
        if not chain:
            return self._absent(question, pool, rng)
        if question.unordered:
            rng.shuffle(chain)
        # Where only documents are asked for, no call ends: nobody knows what it should say.
        deepest = len(chain) if question.answers else len(chain) - 1
        depth = 0 if not deepest or rng.random() < self.mix.first else rng.randint(1, deepest)
        if not self.mix.interleave:
            depth = len(chain) if depth and question.answers else 0
        turns: list[Turn] = []
        read: set[int] = set()
        if depth < len(chain) and rng.random() < self.mix.misses:
            missed = self._others(pool, rng, set(chain), 1 + rng.randrange(2))
            turns += self._turns(pool, missed, read)
        together = [chain[:depth]] if depth and not self.mix.interleave else [[i] for i in chain[:depth]]
        for indices in together:
            beside: list[int] = []
            if rng.random() < self.mix.distractors:
                beside = self._others(pool, rng, {*chain, *read}, 1 + rng.randrange(2))
            turns += self._turns(pool, [*indices, *beside], read)
        if depth < len(chain):
            at_once = question.unordered or not self.mix.interleave
            wanted = chain[depth:] if at_once else chain[depth : depth + 1]
            return self._ask(question, pool, turns, read, wanted)
        return self._end(question, turns, read, rng.choice(question.answers), "answer")

    def _ask(
        self, question: Question, pool: "_Pool", turns: list[Turn], read: set[int], wanted: list[int]
    ) -> Call:
        asked = wanted[:1] if self.mix.interleave else wanted
        target = self.prompts.citation([pool.numbers[index] for index in asked])
        prompt = (
            self.prompts.followup(question.text, turns) if turns else self.prompts.question(question.text)
        )
        ids, roles = prompt
        return Call(
            ids=ids + target,
            roles=roles + [-1] * len(target),
            labels=[IGNORED] * len(ids) + target,
            positives=tuple(sorted(wanted)),
            read=tuple(sorted(read - set(wanted))),
            kind="follow" if turns else "retrieve",
        )

    def _end(self, question: Question, turns: list[Turn], read: set[int], answer: str, kind: Kind) -> Call:
        ids, roles = self.prompts.followup(question.text, turns)
        restated, spoken = self.prompts.restate(question.text), self.prompts.answer(answer)
        ending = self.end_of_retrieve + restated + spoken
        return Call(
            ids=ids + ending,
            roles=roles + [-1] * len(ending),
            labels=[IGNORED] * len(ids) + self.end_of_retrieve + [IGNORED] * len(restated) + spoken,
            positives=(),
            read=tuple(sorted(read)),
            kind=kind,
        )

    def _absent(self, question: Question, pool: "_Pool", rng: Random) -> Call | None:
        """A question without an answer: its subject's document was read, or two turns found nothing."""
        subject = pool.index.get(question.about)
        read: set[int] = set()
        turns: list[Turn] = []
        if subject is not None:
            beside = self._others(pool, rng, {subject}, rng.randrange(3))
            turns += self._turns(pool, [subject, *beside], read)
        else:
            for _ in range(2):
                turns += self._turns(pool, self._others(pool, rng, read, 1 + rng.randrange(2)), read)
        return self._end(question, turns, read, NOT_FOUND, "absent")

    def _others(self, pool: "_Pool", rng: Random, without: set[int], count: int) -> list[int]:
        """Other documents, the ones that look alike first."""
        near = [j for i in without for j in pool.neighbours(i) if j not in without]
        picked = rng.sample(near, min(len(near), count)) if near and rng.random() < 0.6 else []
        drawn = rng.sample(range(len(pool.documents)), min(len(pool.documents), 8))
        return [*picked, *(i for i in drawn if i not in without and i not in picked)][:count]

    def _turns(self, pool: "_Pool", indices: Sequence[int], read: set[int]) -> list[Turn]:
        """One turn that reads the documents among `indices` not read before; none where there is none."""
        fresh = [index for index in indices if index not in read]
        read.update(fresh)
        texts = {
            pool.numbers[i]: passage_text(pool.documents[i].title, pool.documents[i].text) for i in fresh
        }
        emitted = self.prompts.citation(sorted(texts))
        passages = self.prompts.passages(texts if self.mix.original_text else {})
        return [Turn(emitted=emitted, documents=passages)] if texts else []

    def _spans(
        self, documents: Sequence[Document], questions: Sequence[Question], rng: Random, rows: int
    ) -> tuple[Tensor, Tensor]:
        """Texts, the beginning of a question, then pieces of the texts in random order."""
        ids: list[list[int]] = []
        repeats: list[list[bool]] = []
        for _ in range(rows):
            pair = rng.sample(documents, min(2, len(documents)))
            text = self.prompts.encode_text(" ".join(passage_text(d.title, d.text) for d in pair))
            text = text[: rng.randint(20, 56)] or [0]
            between = self.prompts.encode_text(rng.choice(questions).text)[: rng.randint(0, 16)]
            row, repeated = [*text, *between], [False] * (len(text) + len(between))
            while len(row) < SPAN_TOKENS:
                start = rng.randrange(max(1, len(text) - 8))
                piece = text[start : start + rng.randint(6, 40)]
                row += piece
                repeated += [False] + [True] * (len(piece) - 1)
            ids.append(row[:SPAN_TOKENS])
            repeats.append(repeated[:SPAN_TOKENS])
        shape = (rows, SPAN_TOKENS)
        return torch.tensor(ids, dtype=torch.long).view(shape), torch.tensor(repeats, dtype=torch.bool).view(
            shape
        )

    def _tensors(
        self, pool: "_Pool", documents: list[list[int]], calls: list[Call], spans: tuple[Tensor, Tensor]
    ) -> Step:
        document_ids, document_mask = pad(documents, WIDTH_MULTIPLE)
        # Neighbours in length share a batch, so that little is padding.
        calls = sorted(calls, key=lambda call: len(call.ids))
        lengths = document_mask.sum(1)
        starts = (lengths.cumsum(0) - lengths) * self.mix.global_positions
        after = int(lengths.sum()) * self.mix.global_positions
        return Step(
            document_ids=document_ids,
            document_lengths=lengths,
            starts=starts,
            hashes=torch.tensor(
                [hashed(document.id) for document in pool.documents], dtype=torch.uint64
            ).view(torch.int64),
            digits=_digits(pool.numbers, self.mix.most_digits),
            batches=tuple(
                self._batch(calls[start : start + BATCH_ROWS], len(documents), after)
                for start in range(0, len(calls), BATCH_ROWS)
            ),
            spans=spans,
            head=len(self.prompts.head()),
        )

    def _batch(self, calls: list[Call], documents: int, first_position: int) -> CallBatch:
        head = self.prompts.head()
        ids, mask = pad([head + call.ids for call in calls], WIDTH_MULTIPLE)
        roles, _ = pad([[-2] * len(head) + call.roles for call in calls], WIDTH_MULTIPLE, value=-1)
        labels, _ = pad(
            [[IGNORED] * len(head) + call.labels for call in calls], WIDTH_MULTIPLE, value=IGNORED
        )
        before = torch.arange(len(head)).expand(len(calls), -1)
        after = context_positions(mask[:, len(head) :], self.position_offset)
        return CallBatch(
            ids=ids,
            mask=mask,
            routes=mask & (roles == 0),
            positions=torch.cat([before, after], dim=1) + first_position,
            labels=labels,
            positives=_membership([call.positives for call in calls], documents),
            read=_membership([call.read for call in calls], documents),
            kinds=tuple(call.kind for call in calls),
        )


class _Pool:
    """The documents of a step with lookups."""

    def __init__(self, documents: Sequence[Document], numbers: Sequence[int]) -> None:
        self.documents = documents
        self.numbers = numbers
        self.index = {document.id: i for i, document in enumerate(documents)}
        self._by_word: dict[str, list[int]] = {}
        for i, document in enumerate(documents):
            for word in set(document.title.split()):
                self._by_word.setdefault(word, []).append(i)

    def neighbours(self, index: int) -> list[int]:
        """Documents that share a word of the title."""
        found = {j for word in self.documents[index].title.split() for j in self._by_word[word]}
        return sorted(found - {index})[:16]


def draw_numbers(rng: Random, count: int, most_digits: int) -> list[int]:
    """Distinct document numbers whose lengths, 1 to `most_digits` digits, are about equally frequent.

    Raises: InputError for more documents than there are numbers.
    """
    if count > 10**most_digits:
        raise InputError(f"{count} documents have no {count} numbers of {most_digits} digits; use fewer")
    drawn: set[int] = set()
    while len(drawn) < count:
        digits = rng.randint(1, most_digits)
        drawn.add(rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
    numbers = sorted(drawn)
    rng.shuffle(numbers)
    return numbers


def pad(rows: Sequence[Sequence[int]], multiple: int, *, value: int = 0) -> tuple[Tensor, Tensor]:
    """Pad on the right to a common width, a multiple of `multiple`: values and mask, each (rows, width)."""
    width = -(-max((len(row) for row in rows), default=0) // multiple) * multiple
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return padded, mask


def copy_batch(rng: Random, vocab: tuple[int, int], rows: int, *, span: int = 64) -> tuple[Tensor, Tensor]:
    """Random sequences, each repeated at one fixed distance: (rows, 2*span) ids and labels.

    Looking `span` places back is enough, so this teaches only to say what is looked at. Learnt first, it lets
    `induction_batch` teach where to look.
    """
    ids = torch.tensor([2 * rng.sample(range(*vocab), span) for _ in range(rows)])
    labels = ids.clone()
    labels[:, :span] = IGNORED
    return ids, labels


def induction_batch(
    rng: Random, vocab: tuple[int, int], rows: int, *, span: int = 64
) -> tuple[Tensor, Tensor]:
    """Rows that can only be continued by finding what followed last time: (rows, 2*span) ids and labels.

    Half of the rows repeat a random sequence with a period of their own; the others follow random tokens by
    pieces of them in random order, whose first tokens cannot be told and are not counted. Copying at one
    fixed distance helps with neither.
    """
    ids, labels = [], []
    for row in range(rows):
        first = rng.sample(range(*vocab), rng.randint(4, span) if row % 2 else span)
        tokens, targets = list(first), [IGNORED] * len(first)
        while len(tokens) < 2 * span:
            start, length = (0, len(first)) if row % 2 else (rng.randrange(span - 8), rng.randint(8, 40))
            piece = first[start : start + length]
            tokens += piece
            targets += [IGNORED, *piece[1:]]
        ids.append(tokens[: 2 * span])
        labels.append(targets[: 2 * span])
    return torch.tensor(ids), torch.tensor(labels)


def _shorten(ids: list[int], limit: int, tail: int) -> list[int]:
    return ids if len(ids) <= limit else ids[: limit - tail] + ids[-tail:]


def _digits(numbers: Sequence[int], most: int) -> Tensor:
    rows = [[int(d) for d in str(number)] for number in numbers]
    return torch.tensor([row + [IGNORED] * (most - len(row)) for row in rows])


def _membership(indices: Sequence[tuple[int, ...]], documents: int) -> Tensor:
    members = torch.zeros(len(indices), documents, dtype=torch.bool)
    for row, chosen in enumerate(indices):
        members[row, list(chosen)] = True
    return members
