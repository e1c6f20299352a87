"""Continuous batching: the questions of all callers run together, and join and leave at every step.

There is no thread of its own. Of those who wait for an answer one runs the steps, for all; once it has what
it waited for, the longest waiting goes on. A step is one pass of the model over what the oldest questions
need next, prompts and single tokens side by side, within bounds on questions and on tokens. Few prompts wait
some steps for more of them, since the memory is read once for all prompts of a step. Else the oldest always
takes part, however much it needs, so none starves.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from traceback import clear_frames
from types import TracebackType

from memsparse.engine.model_runner import ModelRunner, Need, Prefill
from memsparse.engine.request import Steps, Tell
from memsparse.engine.session import Session
from memsparse.errors import EngineError
from memsparse.ops.openmp import make_way
from memsparse.types import Answer

_LONGEST_WAIT = 2
"""Steps, at most, in which prompts wait for more of them."""

Question = Callable[[Tell], Steps]
"""Begins a question, told where its text goes piece by piece."""


class Ticket:
    """A question that was handed in: what it needs next, and what has come of it."""

    def __init__(self, question: Question, mutex: threading.Lock, *, streams: bool) -> None:
        """Nothing runs yet.

        Args:
            streams: its caller takes the text piece by piece.
        """
        self.need: Need | None = None
        """What it needs run next. None: it has not begun, or is done."""
        self.done = False
        self.pieces: deque[str] = deque()
        self.error: Exception | None = None
        self.changed = threading.Condition(mutex)
        """Its caller waits here, for news or for its turn to run the steps."""
        self._question = question
        self._streams = streams
        self._steps: Steps | None = None
        self._answer: Answer | None = None

    @property
    def news(self) -> bool:
        """Whether there is anything for its caller."""
        return self.done or bool(self.pieces)

    def begin(self) -> None:
        """Go to the first need, unless it has begun."""
        if self._steps is None and not self.done:
            with self:
                self._steps = self._question(self.pieces.append if self._streams else _ignore)
                self.need = next(self._steps)

    def take(self, session: Session) -> None:
        """Go to the next need, with the session that ran this one."""
        if self._steps is not None:
            with self:
                self.need = self._steps.send(session)

    def end(self) -> None:
        """Drop what it needs; nothing more will come."""
        self.need, self._steps, self.done = None, None, True

    def result(self) -> Answer:
        """Its answer, once it is done.

        Raises: the error that ended it.
        """
        if self._answer is None:
            raise self.error or EngineError("the question was interrupted; ask it again")
        return self._answer

    def __enter__(self) -> None:
        """What is raised inside ends this question alone: its caller gets it, and no other."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, StopIteration):
            self._answer = error.value
        elif isinstance(error, Exception):
            self.error = _detached(error)
        if error is not None:
            self.end()
        return isinstance(error, Exception)


class Scheduler:
    """Runs the questions of any number of threads on one model."""

    def __init__(self, runner: ModelRunner, *, max_batch: int, max_batch_tokens: int) -> None:
        """Nothing runs yet.

        Args:
            max_batch: questions that run together; later ones wait for a place.
            max_batch_tokens: tokens of one step. A question that needs more at once runs alone.
        """
        self._runner = runner
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._mutex = threading.Lock()
        self._tickets: dict[Ticket, None] = {}
        """Not done yet, oldest first."""
        self._left: deque[Ticket] = deque()
        """Those whose callers want no more of them."""
        self._waiting: list[Ticket] = []
        """Those whose callers wait, the longest waiting first."""
        self._leading: Ticket | None = None
        """The one whose caller runs the steps."""
        self._waited = 0
        """Steps that went on without the prompts there were, since all of those last went."""

    def ask(self, questions: Sequence[Question]) -> list[Ticket]:
        """Run questions to their ends; what ended one with an error is in its ticket alone."""
        tickets = [Ticket(question, self._mutex, streams=False) for question in questions]
        self._enter(tickets)
        try:
            for ticket in tickets:
                self._wait(ticket)
        finally:
            self._leave(tickets)
            make_way()
        return tickets

    def stream(self, question: Question) -> Iterator[str | Answer]:
        """Yield a question's text piece by piece, then its answer.

        It begins when the first piece is asked for, and leaves no trace when the iterator is closed. While
        its caller asks for nothing, it goes on only in steps that others run.

        Raises: the error that ended it.
        """
        ticket = Ticket(question, self._mutex, streams=True)
        self._enter([ticket])
        try:
            while not ticket.done:
                self._wait(ticket)
                while ticket.pieces:
                    yield ticket.pieces.popleft()
        finally:
            self._leave([ticket])
            make_way()
        yield ticket.result()

    def _enter(self, tickets: Sequence[Ticket]) -> None:
        with self._mutex:
            self._forget_left()
            self._tickets.update(dict.fromkeys(tickets))

    def _leave(self, tickets: Sequence[Ticket]) -> None:
        """Take no lock: the collector may close a stream in any thread, one that holds the lock as well."""
        self._left.extend(tickets)

    def _forget_left(self) -> None:
        while self._left:
            self._tickets.pop(self._left.popleft(), None)

    def _wait(self, ticket: Ticket) -> None:
        """Wait for news of a ticket; run the steps while nobody else does.

        An interrupt may come between any two lines: whatever was reached, the end undoes it.
        """
        try:
            with self._mutex:
                self._waiting.append(ticket)
                while self._leading is not None and not ticket.news:
                    ticket.changed.wait()
                self._waiting.remove(ticket)
                if not ticket.news:
                    self._leading = ticket
            while self._leading is ticket and not ticket.news:
                self._step()
        finally:
            with self._mutex:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                if self._leading is ticket:
                    self._leading = None
                self._wake_next()

    def _wake_next(self) -> None:
        """Unless somebody runs the steps, let the longest waiting do so."""
        if self._waiting and self._leading is None:
            self._waiting[0].changed.notify()

    def _step(self) -> None:
        """Run what the oldest tickets need, once."""
        chosen: list[Ticket] = []
        try:
            chosen = self._choose()
            self._run(chosen)
        except BaseException:  # the thread was interrupted: what it was running is in no known state
            for ticket in chosen:
                ticket.end()
            raise
        finally:
            with self._mutex:
                for ticket in chosen:
                    if ticket.done:
                        self._tickets.pop(ticket, None)
                    if ticket.news:
                        ticket.changed.notify()

    def _choose(self) -> list[Ticket]:
        """The oldest tickets whose needs fit into one step, the first in any case, but for prompts that wait.

        Prompts wait for a step or two while they are fewer than the others. When they go, all of them do, in
        as many steps as that takes, before any waits again.
        """
        with self._mutex:
            self._forget_left()
            oldest = list(islice(self._tickets, self._max_batch))
        for ticket in oldest:
            ticket.begin()
        prompts = {ticket for ticket in oldest if self._can_wait(ticket.need)}
        others = sum(ticket.need is not None for ticket in oldest) - len(prompts)
        wait = 0 < len(prompts) < others and self._waited < _LONGEST_WAIT
        chosen: list[Ticket] = []
        left = self._max_batch_tokens
        for ticket in oldest:
            if wait and ticket in prompts:
                continue
            tokens = self._piece(ticket.need) or (0 if ticket.need is None else ticket.need.tokens)
            if tokens <= left or left == self._max_batch_tokens:
                chosen.append(ticket)
                left -= tokens
        if wait:
            self._waited += 1
        elif prompts.issubset(chosen):
            self._waited = 0
        return chosen

    def _can_wait(self, need: Need | None) -> bool:
        """Whether it is a prompt that others fit into a step with."""
        return isinstance(need, Prefill) and need.tokens <= self._max_batch_tokens

    def _piece(self, need: Need | None) -> int:
        """Tokens of the next piece of a prompt that is run piece by piece; 0 for every other need."""
        if not isinstance(need, Prefill) or need.tokens <= self._max_batch_tokens:
            return 0
        piece = max(1, self._max_batch_tokens // 2)  # the other half is for everybody else
        return piece if need.tokens - self._runner.known(need.prompt, need.after) > piece else 0

    def _run(self, tickets: Sequence[Ticket]) -> None:
        """Run pieces of long prompts, then every other need in one pass, or one by one where that fails."""
        whole = []
        for ticket in tickets:
            need, piece = ticket.need, self._piece(ticket.need)
            if isinstance(need, Prefill) and piece:
                with ticket:
                    after = self._runner.begin(need.prompt, need.after, tokens=piece)
                    ticket.need = replace(need, after=after)
            elif need is not None:
                whole.append((ticket, need))
        if len(whole) > 1:
            with suppress(Exception):  # whoever it was fails again below, alone
                sessions = self._runner.run([need for _, need in whole])
                for (ticket, _), session in zip(whole, sessions, strict=True):
                    ticket.take(session)
                return
        for ticket, need in whole:
            with ticket:
                [session] = self._runner.run([need])
            if not ticket.done:
                ticket.take(session)


def _detached(error: Exception) -> Exception:
    """The error with the lines it came by, but without what they had in hand: that may be a whole pass."""
    trace = error.__traceback__
    each: BaseException | None = error.with_traceback(None if trace is None else trace.tb_next)
    while each is not None:
        clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    return error


def _ignore(piece: str) -> None:
    """Where the text of a question goes whose caller waits for the whole answer."""
