"""The likeliest quote: best-first search over everything an answer may quote.

Taking the likeliest token at each step commits to the first word of a quote before its other words are seen;
where several quotes begin alike or the first words are a close call, what follows may be improbable.
Probabilities only fall as a quote grows, so the first whole quote taken from a queue ordered by them is the
likeliest of all (best-first beam search, Meister and others 2020, arXiv 2007.03909, without a beam).
"""

from collections.abc import Collection, Generator
from heapq import heappop, heappush
from itertools import count

from memsparse.engine.model_runner import Extend, Need, common_start
from memsparse.engine.quoting import Ids, Quote
from memsparse.engine.session import Session, chances


def likeliest_quote(
    session: Session, quote: Quote, stop_ids: Collection[int], *, passes: int, max_tokens: int
) -> Generator[Need, Session, Ids]:
    """Find the quote whose tokens, the stop behind it included, have the highest joint probability.

    Say step by step what to run next; the session is in the end what it was.

    Args:
        session: stands where the quote is to begin.
        quote: allows what may follow; stays as it is.
        passes: of the model, before the search settles: from then on the likeliest start takes the likeliest
            token at each step, until a whole quote is likelier than it.
        max_tokens: of a quote; a longer one counts as whole where it is cut.

    Returns: its ids, without a stop id; none where nothing can be quoted.
    """
    before, ran, order = session.logits, Ids(), count()
    queue: list[tuple[float, int, Ids, Quote, bool]] = [(0.0, next(order), Ids(), quote, False)]
    found: Ids = ()
    while queue:
        cost, _, ids, parent, whole = heappop(queue)
        if whole:
            found = ids
            break
        if ids:
            kept = common_start(ran, ids)
            session.take_back(len(ran) - kept, before)
            yield Extend(session=session, ids=ids[kept:])
            ran, passes = ids, passes - 1
        here = parent.after(ids[-1]) if ids else quote
        allowed = list(here.allowed())
        costs = [cost - score for score in chances(session.logits)[allowed].tolist()]
        next_up = [(at, id_) for at, id_ in zip(costs, allowed, strict=True) if id_ not in stop_ids]
        ends = [at for at, id_ in zip(costs, allowed, strict=True) if id_ in stop_ids]
        if ends:
            heappush(queue, (min(ends), next(order), ids, here, True))
        if passes <= 0:
            queue = sorted(each for each in queue if each[-1])
            next_up = sorted(next_up)[:1]
        for following, id_ in next_up:
            heappush(queue, (following, next(order), (*ids, id_), here, len(ids) + 1 >= max_tokens))
    session.take_back(len(ran), before)
    return found
