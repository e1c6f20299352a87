"""Pickled files read without pickle: plain data comes in, anything that names or builds an object does not.

Published data sets come as pickles, and unpickling a file runs whatever its author wrote into it. Here the
opcodes (`pickletools.genops` lists them, and runs nothing) drive a small stack machine that knows None, bool,
int, float, str, bytes, list, tuple, dict and set. No opcode reaches an import, a call or an attribute.

Not plain, though it looks it: sets before protocol 4 and bytes before protocol 3 are written as calls, and
are refused like every call.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from memsparse.errors import DocumentError

MAX_BYTES = 8 * 2**30
MAX_ITEMS = 100_000_000
"""Values of what was read, one that is shared counted wherever it appears."""
MAX_DEPTH = 200
MAX_KEY_ITEMS = 256
"""Values inside one tuple that is a key of a dict or a member of a set."""

_SCALARS = (str, int, float, bytes, bool, type(None))
_CONTAINERS = (list, tuple, dict, set)


def read_plain_pickle(path: Path) -> Any:
    """Return the plain data a pickled file holds.

    Raises: DocumentError for a file that is missing, damaged or cut short, that is too large, too deep or
    holds itself, or that holds anything but plain data; the line names the opcode and its byte.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise DocumentError(f"{path}: {size:,} bytes, more than {MAX_BYTES:,}; split the file")
            if not size:
                raise DocumentError(f"{path}: the file is empty; fetch it again")
            # Unlike a file, a map never sets memory aside for a length that the file only claims.
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _read(view, size, str(path))
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror or error}; give a readable file") from error


def plain_pickle(data: bytes, name: str = "pickle") -> Any:
    """Return the plain data in a pickle; see `read_plain_pickle`. `name` begins every error."""
    return _read(io.BytesIO(data), len(data), name)


def _read(stream: BinaryIO | mmap.mmap, size: int, name: str) -> Any:
    machine = _Machine(name)
    opcodes = _opcodes(stream, name)
    for opcode, argument, position in opcodes:
        machine.step(opcode, argument, position)
        if machine.done:
            break
    if stream.tell() != size:
        raise DocumentError(
            f"{name}: {size - stream.tell():,} bytes after STOP; give a file with one pickle in it"
        )
    value = machine.result()
    _check_extent(value, name)
    return value


def _opcodes(stream: BinaryIO | mmap.mmap, name: str) -> Iterator[tuple[str, Any, int]]:
    position = 0
    try:
        for opcode, argument, place in pickletools.genops(stream):  # type: ignore[arg-type]
            position = place or 0
            yield opcode.name, argument, position
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DocumentError(
            f"{name}: damaged or cut short after byte {position} ({reason[:120]}); fetch the file again"
        ) from None


class _Machine:
    """A stack, the stacks below its marks, and a memo: what pickle's own machine has, less every call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = False
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.place = ""

    def step(self, opcode: str, argument: Any, position: int) -> None:
        """Run one opcode."""
        self.place = f"opcode {opcode} at byte {position}"
        handler = _HANDLERS.get(opcode)
        if handler is None:
            raise DocumentError(
                f"{self.name}: {self.place} names or builds an object; only plain data is read, so export "
                "the file as JSON Lines where you trust it"
            )
        handler(self, argument)

    def result(self) -> Any:
        """Return the one value that is left."""
        if not self.done or self.below or len(self.stack) != 1:
            raise self.damaged("leaves no single value")
        return self.stack[0]

    def damaged(self, what: str) -> DocumentError:
        """Return the error for a sequence of opcodes that pickle never writes."""
        return DocumentError(f"{self.name}: {self.place} {what}; the file is damaged, fetch it again")

    def pop(self) -> Any:
        """Take the top value."""
        if not self.stack:
            raise self.damaged("takes from an empty stack")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """Return the top value, which must be a container of this kind."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise self.damaged(f"needs a {kind.__name__} on the stack")
        return self.stack[-1]

    def take(self, count: int) -> tuple[Any, ...]:
        """Take the top values, as a tuple."""
        if len(self.stack) < count:
            raise self.damaged("takes from an empty stack")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def since_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        if not self.below:
            raise self.damaged("has no mark")
        values, self.stack = self.stack, self.below.pop()
        return values

    def mark(self) -> None:
        """Set a mark."""
        self.below.append(self.stack)
        self.stack = []

    def drop(self) -> None:
        """Take the top value away, or the mark if there is none above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def remember(self, index: int | None) -> None:
        """Keep the top value under a number; None: the next one."""
        if not self.stack:
            raise self.damaged("keeps what is not there")
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Put a kept value on the stack."""
        if index not in self.memo:
            raise self.damaged(f"asks for value {index}, which was never kept")
        self.stack.append(self.memo[index])

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        """Put keys and values, in turn, into a dict."""
        if len(items) % 2:
            raise self.damaged("has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    def key(self, value: Any) -> Any:
        """Return the value if it can be a key at a bounded cost.

        Hashing a tuple walks all of it, and tuples that share their parts can be small in the file and
        endless to walk.
        """
        parts, seen = [value], 0
        while parts:
            part = parts.pop()
            if isinstance(part, tuple):
                seen += len(part)
                if seen > MAX_KEY_ITEMS:
                    raise self.damaged(f"uses a tuple of more than {MAX_KEY_ITEMS} values as a key")
                parts.extend(part)
            elif not isinstance(part, _SCALARS):
                raise self.damaged(f"uses a {type(part).__name__} as a key, or in one")
        return value

    def text(self, value: str) -> str:
        """Return a string of Python 2, whose bytes must be UTF-8."""
        try:
            return value.encode("latin-1").decode("utf-8")
        except ValueError:
            raise self.damaged("holds a Python 2 string that is not UTF-8") from None

    def stop(self) -> None:
        """End."""
        self.done = True


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _fresh(kind: type) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(kind())


def _from_mark(kind: type) -> Callable[[_Machine, Any], None]:
    def build(machine: _Machine, _: Any) -> None:
        values = machine.since_mark()
        machine.stack.append(kind(values))

    return build


def _small_tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(machine.take(count))


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    values = machine.since_mark()
    machine.top(list).extend(values)


def _set_item(machine: _Machine, _: Any) -> None:
    key, value = machine.take(2)
    machine.set_items(machine.top(dict), [key, value])


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.since_mark()
    machine.set_items(machine.top(dict), items)


def _dict(machine: _Machine, _: Any) -> None:
    items = machine.since_mark()
    target: dict[Any, Any] = {}
    machine.set_items(target, items)
    machine.stack.append(target)


def _add_items(machine: _Machine, _: Any) -> None:
    items = machine.since_mark()
    machine.top(set).update(machine.key(item) for item in items)


def _duplicate(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.stack += [value, value]


def _drop_marked(machine: _Machine, _: Any) -> None:
    machine.since_mark()


_VALUES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
)
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES.split(), _push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING"),
        lambda machine, argument: machine.stack.append(machine.text(argument)),
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": _fresh(list),
    "EMPTY_DICT": _fresh(dict),
    "EMPTY_SET": _fresh(set),
    "LIST": _from_mark(list),
    "TUPLE": _from_mark(tuple),
    "TUPLE1": _small_tuple(1),
    "TUPLE2": _small_tuple(2),
    "TUPLE3": _small_tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "DICT": _dict,
    "ADDITEMS": _add_items,
    "DUP": _duplicate,
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": _drop_marked,
    "MARK": lambda machine, _: machine.mark(),
    "STOP": lambda machine, _: machine.stop(),
}


def _check_extent(value: Any, name: str) -> None:
    """Refuse what is deeper than `MAX_DEPTH`, which a value that holds itself is, or larger than `MAX_ITEMS`.

    A few shared lists can stand for more values than any memory holds: whoever walks them pays for each.
    """
    open_ = [iter((value,))]
    seen = 0
    while open_:
        for part in open_[-1]:
            seen += 1
            if seen > MAX_ITEMS:
                raise DocumentError(
                    f"{name}: more than {MAX_ITEMS:,} values, shared ones counted each time; split the file"
                )
            if isinstance(part, _CONTAINERS):
                if len(open_) > MAX_DEPTH:
                    raise DocumentError(
                        f"{name}: nested deeper than {MAX_DEPTH}, or holds itself; flatten it"
                    )
                open_.append(_parts(part))
                break
        else:
            open_.pop()


def _parts(container: Any) -> Iterator[Any]:
    return chain.from_iterable(container.items()) if isinstance(container, dict) else iter(container)
