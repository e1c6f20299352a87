"""One question from its first call to its answer: the interleave protocol, and what it needs run next."""

from collections.abc import Callable, Generator, Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from memsparse.engine.config import EngineConfig
from memsparse.engine.extractive import begins, find_span, same_text
from memsparse.engine.interleave import Action, Append, Done, Interleave, NewCall, State
from memsparse.engine.model_runner import Extend, Need, Prefill, sample
from memsparse.engine.overlap import word_overlap
from memsparse.engine.quote_search import likeliest_quote
from memsparse.engine.quoting import Quote
from memsparse.engine.session import NumberedReader, Prefix, Session, chances, routed_anywhere
from memsparse.errors import InputError
from memsparse.model.configuration_memsparse import MemSparseConfig
from memsparse.ops.lookup import find_ascending
from memsparse.ops.routing import top_documents
from memsparse.text import PromptBuilder
from memsparse.types import Answer, Citation, LayerRouting, Passage, Round, Usage

NOT_FOUND = "No answer found; these passages come closest."
NOTHING_READ = "No answer found."

Passages = Callable[[Sequence[int]], Mapping[int, Passage]]
"""Numbers to passages; those the question may not read are absent."""
Tell = Callable[[str], None]
"""Takes the answer's text piece by piece."""
Steps = Generator[Need, Session, Answer]
"""A question as it runs: yields what it needs run, is sent the session that ran it, returns its answer."""


class Request:
    """One question; its result depends on nothing but model, memory, question and settings.

    It runs no model itself: whoever goes through its `steps` does.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        model: MemSparseConfig,
        reader: NumberedReader,
        question: str,
        config: EngineConfig,
        *,
        passages: Passages,
        body: Callable[[Passage], str],
        given: Sequence[int] = (),
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            body: what the model reads of a passage.
            given: numbers of passages to read at once, as if a first round had retrieved them.
        """
        self._prompts = prompts
        self._model = model
        self._reader = reader
        self._config = config
        self._question = question
        self._by_router = (config.id_decoding or model.id_decoding) == "router"
        self._passages = passages
        self._body = body
        self._found: dict[int, Passage] = {}
        """Passages that were looked up, by number, those the model read among them."""
        # Phases are bounded here, where the numbers and the answer each have their own allowance.
        self._machine = Interleave(
            prompts,
            question,
            self._look_up,
            model.top_k_documents,
            max_rounds=config.max_rounds,
            max_new_tokens=2**31,
        )
        self._generator = torch.Generator().manual_seed(config.seed)
        self._answer_ids: list[int] = []
        self._quotes = config.quote_decoding and model.extractive
        self._quote: Quote | None = None
        self._leads = False
        """Whether an answer is to begin, a quote or the sentence for none."""
        self._routings: list[tuple[LayerRouting, ...]] = []
        self._scores: list[dict[int, float]] = []
        """Of every round that ended: the scores of what it read, by number."""
        self._chosen: dict[int, float] = {}
        """Router decoding: what was found best to read last, and the scores it was chosen by, by number."""
        self._starts: list[float] = []
        self._ends: dict[int, float] = {}
        """Of the rounds that ended retrieval, by their place: when they did, and the answer began."""
        self._given = given
        self._further = config.read_on
        self._closest: tuple[int, ...] | None = None
        """What was read when the model first ended retrieval without an answer."""
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._route_seconds = 0.0

    def steps(self, tell: Tell) -> Steps:
        """Say step by step what to run next; the pieces that are told join to the answer's text."""
        started = perf_counter()
        if self._given:
            self._starts.append(started)
            self._routings.append(())
            self._scores.append({})
            self._machine.accept_documents(sorted(self._given))
        session = yield from self._call(after=None)
        told = ""
        while True:
            written = yield from self._write_whole(session)
            token, action = (None, Done()) if written else self._step(session)
            if isinstance(action, Done):
                further = self._read_on(session)
                if not isinstance(further, NewCall):
                    break
                action = further
            if isinstance(action, NewCall):
                self._keep_scores(session)
                session = yield from self._call(after=session.prefix)
                continue
            ids = [] if token is None else [token]
            if isinstance(action, Append):
                self._end_round()
                given = [*action.ids, *self._begin_quote()]
                self._prompt_tokens += len(given)
                ids += given
            safe = self._safe_to_tell()
            if len(safe) > len(told):
                tell(safe[len(told) :])
                told = safe
            session = yield Extend(session=session, ids=ids)
        answer = self._finish(started)
        if len(answer.text) > len(told):
            tell(answer.text[len(told) :])
        return answer

    def _call(self, after: Prefix | None) -> Generator[Need, Session, Session]:
        """Have what the protocol asks for routed and prefilled.

        Raises: InputError if that is more than the model takes.
        """
        self._starts.append(perf_counter())
        self._begin_quote()
        prompt = self._machine.prompt()
        longest = self._model.max_position_embeddings - prompt.first_position
        if len(prompt.ids) > longest:
            raise InputError(
                f"what is to be read has {len(prompt.ids)} tokens, this model takes {longest}; give it less"
            )
        self._prompt_tokens += len(prompt.ids)
        ranks = self._by_router and self._machine.state is State.ROUTE
        session = yield Prefill(prompt=prompt, reader=self._reader, after=after, ranks=ranks)
        self._route_seconds += session.route_seconds
        self._routings.append(session.routed(self._reader.numbers))
        if self._machine.state is State.ANSWER:  # it was the last round that may read
            self._end_round()
        return session

    def _end_round(self) -> None:
        self._ends[len(self._starts) - 1] = perf_counter()

    def _keep_scores(self, session: Session) -> None:
        """Keep the scores of what the round that ends here has read."""
        numbers = self._machine.rounds[len(self._scores)].numbers if self._model.extractive else ()
        if self._by_router:
            self._scores.append({number: self._chosen[number] for number in numbers})
            return
        index = torch.searchsorted(self._reader.numbers, torch.tensor(numbers, dtype=torch.long))
        means = session.means(index).tolist() if numbers else []
        self._scores.append(dict(zip(numbers, means, strict=True)))

    def _step(self, session: Session) -> tuple[int | None, Action]:
        """Decide what comes next: the token sampled, if one was, and what the protocol makes of it."""
        if self._machine.state is State.ROUTE and self._by_router:
            return None, self._route(session)
        if self._machine.state is State.ROUTE:
            token = self._next_number_token(session)
        elif len(self._answer_ids) >= self._config.max_new_tokens:
            return None, Done()
        else:
            allowed = self._quote.allowed() if self._quote else None
            token = sample(session.logits, self._config, allowed, self._generator)
            if token not in self._prompts.stop_ids:
                self._answer_ids.append(token)
                if self._quote:
                    self._quote.feed(token)
        self._completion_tokens += 1
        return token, self._machine.feed(token)

    def _begin_quote(self) -> list[int]:
        """Write the answer's lead for a model that is to quote, once retrieval ended; returns its ids."""
        if not self._quotes or self._machine.state is not State.ANSWER:
            return []
        self._quote, self._leads = None, True
        lead = self._prompts.encode_control(self._prompts.template.answer_lead.rstrip())
        for token in lead:
            self._machine.feed(token)
        return lead

    def _write_whole(self, session: Session) -> Generator[Need, Session, bool]:
        """Write the answer that is to begin in one go, the sentence for none or the likeliest quote.

        Returns: whether it did; an answer that is not to be a quote, or is sampled, comes token by token.
        """
        if not self._leads:
            return False
        self._leads = False
        refuses = yield from self._refuses(session)
        if refuses:
            self._write(refuses)
            return True
        texts = [self._body(self._found[number]) for number in self._machine.cited]
        quote = self._quote = Quote(self._prompts, texts, vocab_size=self._model.vocab_size)
        if self._config.temperature or not self._config.quote_passes:
            return False
        ids = yield from likeliest_quote(
            session,
            quote,
            self._prompts.stop_ids,
            passes=self._config.quote_passes,
            max_tokens=self._config.max_new_tokens,
        )
        for id_ in ids:
            quote.feed(id_)
        self._write(ids)
        self._completion_tokens += len(ids) < self._config.max_new_tokens  # the stop behind a quote not cut
        return True

    def _write(self, ids: Sequence[int]) -> None:
        self._completion_tokens += len(ids)
        for id_ in ids:
            self._answer_ids.append(id_)
            self._machine.feed(id_)

    def _refuses(self, session: Session) -> Generator[Need, Session, Sequence[int]]:
        """Ids of the sentence for none where it is probable enough to be the answer, else no ids.

        The model is followed into the sentence for as long as it may still be probable enough, and taken back
        where it is not.
        """
        ids = self._prompts.encode_text(f" {self._model.absent_answer}") if self._model.absent_answer else []
        first, chance = session.logits, float(bool(ids))
        for place, id_ in enumerate(ids):
            chance *= float(chances(session.logits)[id_].exp())
            if chance <= self._config.refuse_above:
                session.take_back(place, first)
                return []
            if place + 1 < len(ids):
                yield Extend(session=session, ids=[id_])
        return ids if chance > self._config.refuse_above else []

    def _route(self, session: Session) -> Action:
        """Router decoding: the best documents not read yet, unless the model would rather end retrieval."""
        numbers = self._best_unread(session)
        if not numbers or (self._machine.cited and self._would_end(session, numbers[0])):
            return self._machine.end_retrieval()
        return self._machine.accept_documents(sorted(numbers))

    def _best_unread(self, session: Session) -> list[int]:
        """Numbers of the best documents not read yet, best first."""
        cited = torch.tensor(self._machine.cited, dtype=torch.long)
        read, _ = find_ascending(self._reader.numbers, cited)
        best, index = session.best(self._config.max_read, without=read)
        if self._config.overlap and not self._machine.cited:
            best, index = self._with_overlap(session, best, index)
        near = (index >= 0) & (best >= best[0] - self._config.margin)
        numbers: list[int] = self._reader.numbers[index[near]].tolist()
        self._chosen = dict(zip(numbers, best[near].tolist(), strict=True))
        return numbers

    def _with_overlap(self, session: Session, best: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The best of what any layer routed and of the given documents, word overlap added to mean scores.

        Later rounds look for what was read about, of which the question need not have a word.

        Args, Returns: scores and document indices, as `Session.best` gives them.
        """
        routed = routed_anywhere(session.routing.values())
        candidates = torch.cat([index[index >= 0], routed]).unique()
        if not len(candidates):
            return best, index
        numbers = self._reader.numbers[candidates].tolist()
        passages = self._find(numbers)
        texts = [self._body(passages[number]) for number in numbers]
        scores = session.means(candidates) + self._config.overlap * torch.tensor(
            word_overlap(self._question, texts)
        )
        found, place = top_documents(scores[None], len(index))
        return found[0], torch.where(place[0] < 0, place[0], candidates[place[0]])

    def _read_on(self, session: Session) -> Action | None:
        """What is read after all, when the model ended retrieval without an answer; None: nothing."""
        quotes = self._by_router and self._model.extractive and not self._given
        if not quotes or not self._further or not self._machine.may_reopen or self._holders():
            return None
        numbers = self._best_unread(session)
        if not numbers:
            return None
        self._further -= 1
        if self._closest is None:
            self._closest = self._machine.cited
        self._machine.reopen()
        self._answer_ids = []
        return self._machine.accept_documents(sorted(numbers))

    def _would_end(self, session: Session, number: int) -> bool:
        """Whether the model finds the end of retrieval likelier than a citation, by their first tokens."""
        end, cite = self._prompts.end_of_retrieve_ids[0], self._prompts.citation([number])[0]
        return bool(session.logits[end] > session.logits[cite])

    def _next_number_token(self, session: Session) -> int:
        """Generate decoding: the next token of a list of numbers that were routed and not cited yet."""
        emitted = self._machine.route_ids
        routed = {number for layer in self._routings[-1] for number in layer.numbers}
        allowed = self._machine.trie(routed).allowed(emitted)
        if len(emitted) >= self._config.max_new_tokens and self._prompts.marker_id in allowed:
            return self._prompts.marker_id
        return sample(session.logits, self._config, allowed, self._generator)

    def _find(self, numbers: Sequence[int]) -> dict[int, Passage]:
        """Passages by number, each looked up once; those the question may not read are absent."""
        if others := [number for number in numbers if number not in self._found]:
            self._found.update(self._passages(others))
        return {number: self._found[number] for number in numbers if number in self._found}

    def _look_up(self, numbers: Sequence[int]) -> dict[int, str]:
        return {number: self._body(passage) for number, passage in self._find(numbers).items()}

    def _safe_to_tell(self) -> str:
        """The start of the answer that will stand whatever follows."""
        if self._model.extractive or not self._answer_ids:
            return ""
        if self._prompts.answer_lead not in self._prompts.decode(self._answer_ids):
            return ""
        text = self._machine.answer.rstrip("\ufffd")  # the first bytes of a character still to come
        return "" if begins(self._model.absent_answer, text) else text

    def _finish(self, started: float) -> Answer:
        text = self._machine.answer
        cited = [self._found[number] for number in self._machine.cited]
        if self._model.extractive:
            holders = self._holders()
            found = bool(holders)
            for number, span in list(holders.items())[:1]:
                text = self._body(self._found[number])[slice(*span)]
                cited = self._evidence(set(holders))
        else:
            found = bool(text) and not same_text(text, self._model.absent_answer)
        if not found:
            cited = [passage for passage in cited if self._closest is None or passage.number in self._closest]
            text = NOT_FOUND if cited else NOTHING_READ
        ended = perf_counter()
        rounds = self._rounds(ended)
        return Answer(
            text=text,
            citations=tuple(map(citation_of, cited)),
            rounds=rounds,
            usage=Usage(
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                route_seconds=self._route_seconds,
                seconds=ended - started,
                answer_seconds=max(0.0, ended - started - sum(item.seconds for item in rounds)),
            ),
            found=found,
        )

    def _holders(self) -> dict[int, tuple[int, int]]:
        """Where the answer stands in what was read, by number in the order read; none if it is no quote."""
        text = self._quote.text if self._quote else self._machine.answer
        if not text or same_text(text, self._model.absent_answer):
            return {}
        spans = {number: find_span(text, self._body(self._found[number])) for number in self._machine.cited}
        return {number: span for number, span in spans.items() if span}

    def _evidence(self, holders: set[int]) -> list[Passage]:
        """Passages that hold the answer, and the best one of each round before them that read others."""
        kept: list[int] = []
        rounds = self._machine.rounds
        last = max((i for i, item in enumerate(rounds) if holders & set(item.numbers)), default=-1)
        for i, (item, scores) in enumerate(zip(rounds, [*self._scores, {}], strict=True)):
            here = [number for number in item.numbers if number in holders]
            if not here and i < last and scores:
                here = [max(item.numbers, key=scores.__getitem__)]
            kept += here
        return [self._found[number] for number in dict.fromkeys([*kept, *sorted(holders - set(kept))])]

    def _rounds(self, ended: float) -> tuple[Round, ...]:
        following = [*self._starts[1:], ended]
        ends = [self._ends.get(place, after) for place, after in enumerate(following)]
        trace = zip(self._machine.rounds, self._routings, self._starts, ends, strict=True)
        return tuple(
            Round(routing=routing, numbers=item.numbers, text=item.text, seconds=end - start)
            for item, routing, start, end in trace
        )


def citation_of(passage: Passage) -> Citation:
    """A passage as an answer names it."""
    return Citation(
        number=passage.number,
        document_id=passage.document_id,
        namespace=passage.namespace,
        title=passage.title,
        start=passage.start,
        end=passage.end,
        text=passage.text,
    )
