"""Windows cut from passages: a few whole words around what is asked for."""

from random import Random

from memsparse.training.words import unspaced


def cut_window(
    text: str, rng: Random, span: tuple[int, int] | None, *, fewest: int, most: int | None = None
) -> str:
    """A run of about `fewest` to `most` whole words that holds a span (start and length) somewhere.

    Where what matters is unknown, (0, 0), the run is the beginning; without a span it is anywhere. It is
    longer than asked for where the span is, shorter where the text is, and empty only where the text is. In
    a text without spaces, be it Chinese or one endless word, every character counts as a word.
    """
    between = "" if unspaced(text) else " "
    start, length = (rng.randrange(len(text) + 1), 0) if span is None else span
    inside = text[start : start + length]
    before, after = _pieces(text[:start], between), _pieces(text[start + length :], between)
    wanted = fewest if most is None else rng.randint(fewest, most)
    spare = max(wanted - (len(inside.split()) if between else len(inside)), 0)
    room = min(spare, len(before))
    left = rng.randint(min(max(0, spare - len(after)), room), room)
    # What follows the span in its last word belongs to it, so one piece is always taken.
    right = max(spare - left, 1 if between else 0)
    window = between.join(before[len(before) - left :]) + inside + between.join(after[:right])
    return window.strip() or between.join(_pieces(text.strip(), between)[: max(wanted, 1)]).strip()


def _pieces(text: str, between: str) -> list[str]:
    return text.split(between) if between else list(text)
