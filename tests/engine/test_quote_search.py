import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memsparse.engine.model_runner import Extend
from memsparse.engine.quote_search import likeliest_quote
from memsparse.engine.quoting import Quote
from memsparse.engine.session import Session
from memsparse.errors import EngineError
from memsparse.text import PromptBuilder
from tests.tiny import tiny_tokenizer

BUILDER = PromptBuilder(tiny_tokenizer())
SIZE = len(tiny_tokenizer())
TEXTS = ["The OLD harbour froze.", "Maria Lund froze"]


@dataclass
class Model:
    """Predicts whatever the tokens so far draw from a seed, or what `likes` says of them."""

    seed: int = 0
    likes: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)
    path: tuple[int, ...] = ()
    passes: int = 0

    def __post_init__(self) -> None:
        self.logits = self.after(())

    def after(self, path: tuple[int, ...]) -> Tensor:
        drawn = torch.Generator().manual_seed(zlib.crc32(repr((self.seed, path)).encode()))
        logits = 3 * torch.randn(SIZE, generator=drawn)
        likes = self.likes.get(path, {})
        logits += math.log(1 - sum(likes.values())) - logits.logsumexp(0)
        for id_, chance in likes.items():
            logits[id_] = math.log(chance)
        return logits

    def take_back(self, tokens: int, logits: Tensor) -> None:
        self.path = self.path[: len(self.path) - tokens]
        self.logits = logits

    def run(self, ids: Sequence[int]) -> None:
        assert ids
        self.path += tuple(ids)
        self.passes += 1
        self.logits = self.after(self.path)


def search(model: Model, quote: Quote, *, passes: int = 10**6, max_tokens: int = 9) -> tuple[int, ...]:
    steps = likeliest_quote(
        cast(Session, model), quote, BUILDER.stop_ids, passes=passes, max_tokens=max_tokens
    )
    try:
        need = next(steps)
        while True:
            assert isinstance(need, Extend)
            model.run(need.ids)
            need = steps.send(cast(Session, model))
    except StopIteration as end:
        return cast(tuple[int, ...], end.value)


def whole_quotes(model: Model, quote: Quote, most: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """The reference: every way to write every quote, with its joint probability's logarithm."""
    todo: list[tuple[float, tuple[int, ...], Quote]] = [(0.0, (), quote)]
    while todo:
        score, ids, here = todo.pop()
        chances = model.after(ids).log_softmax(0)
        if len(ids) == most:
            yield score, ids
            continue
        allowed = here.allowed()
        if stops := [float(chances[id_]) for id_ in allowed if id_ in BUILDER.stop_ids]:
            yield score + max(stops), ids
        todo += [
            (score + float(chances[id_]), (*ids, id_), here.after(id_))
            for id_ in allowed
            if id_ not in BUILDER.stop_ids
        ]


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text("ab 19\u00e9", max_size=5), max_size=2),
    seed=st.integers(0, 10**6),
    most=st.integers(1, 4),
)
def test_the_first_whole_quote_is_the_likeliest_of_all(texts: list[str], seed: int, most: int) -> None:
    quote, model = Quote(BUILDER, texts, vocab_size=SIZE), Model(seed)
    every = {ids: score for score, ids in whole_quotes(model, quote, most)}
    found = search(model, quote, max_tokens=most)
    assert every[found] == pytest.approx(max(every.values()))
    assert model.path == ()
    assert torch.equal(model.logits, model.after(()))
    assert quote.text == ""


def test_a_likely_word_that_leads_nowhere_is_left_again() -> None:
    quote = Quote(BUILDER, TEXTS, vocab_size=SIZE)
    harbour, maria = (tuple(BUILDER.encode_text(f" {text}")) for text in ("the old harbour", "maria"))
    stop = min(BUILDER.stop_ids)
    sure = {maria[:at]: {id_: 0.99} for at, id_ in enumerate(maria)} | {maria: {stop: 0.99}}
    model = Model(likes={**sure, (): {maria[0]: 0.4, harbour[0]: 0.59}})
    assert model.logits.argmax() == harbour[0]
    assert search(model, quote) == maria
    assert model.passes <= 4 * len(maria) + 4


@pytest.mark.parametrize("passes", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("most", [1, 3, 9])
def test_a_search_that_must_settle_still_quotes(passes: int, most: int) -> None:
    for seed in range(8):
        quote, model = Quote(BUILDER, TEXTS, vocab_size=SIZE), Model(seed)
        found = search(model, quote, passes=passes, max_tokens=most)
        assert model.passes <= passes + most
        assert 0 < len(found) <= most
        for id_ in found:
            assert id_ in quote.allowed()
            quote.feed(id_)
        assert len(found) == most or not BUILDER.stop_ids.isdisjoint(quote.allowed())


def test_what_is_not_a_number_is_no_quote() -> None:
    model = Model()
    model.logits = model.logits.clone()
    model.logits[7] = float("nan")
    with pytest.raises(EngineError, match="NaN"):
        search(model, Quote(BUILDER, TEXTS, vocab_size=SIZE))


@pytest.mark.parametrize("texts", [[], [""], [" \n"]])
def test_nothing_to_quote(texts: list[str]) -> None:
    model = Model()
    assert search(model, Quote(BUILDER, texts, vocab_size=SIZE)) == ()
    assert model.passes == 0
