"""The passages of a corpus on disk, found by id, by title or by place."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from memsparse.errors import DocumentError
from memsparse.training.row_file import RowFile
from memsparse.training.rows import Placed, Row

Places = NDArray[np.int32]
_RECENT = 64
"""Passages kept at hand: questions about one passage stand together, and each needs it several times."""


class Passages(Mapping[str, Row]):
    """Passages by id; 32 bytes of memory each (a million, measured: 46 MB, 54 while they are read).

    The texts lie in a `RowFile`. What is held of a passage is where its row ends, and hashes of its id and
    of its title. It can be read in worker processes, forked or spawned, at no further memory.

    Raises: DocumentError for an id that comes twice, naming its second place; what `rows` raises.
    """

    def __init__(self, rows: Iterable[Placed]) -> None:
        self._file = RowFile()
        ids, titles = array("Q"), array("Q")
        for where, row in rows:
            self._file.append([row["id"], row["title"], row["text"], where])
            ids.append(hashed(row["id"]))
            titles.append(hashed(row["title"]))
        self._file.seal()
        self._by_title = KeyIndex(titles)
        del titles
        self._by_id = KeyIndex(ids)
        self._refuse_repeated()
        self._recent: dict[str, tuple[int, Row]] = {}

    def __len__(self) -> int:
        """Passages."""
        return len(self._file)

    def __iter__(self) -> Iterator[str]:
        """The ids, in the order of the corpus."""
        return (self.at(place)["id"] for place in range(len(self)))

    def __getitem__(self, id_: str) -> Row:
        """The passage of an id: "id", "title" and "text"."""
        return self._found(id_)[1]

    def __contains__(self, id_: object) -> bool:
        """Whether there is a passage of that id."""
        try:
            self._found(str(id_))
        except KeyError:
            return False
        return True

    def at(self, place: int) -> Row:
        """The passage at a place, counted from 0."""
        id_, title, text, _ = self._file[place]
        return {"id": id_, "title": title, "text": text}

    def _found(self, id_: str) -> tuple[int, Row]:
        if id_ in self._recent:
            return self._recent[id_]
        for place in self._by_id.places(hashed(id_)).tolist():
            row = self.at(place)
            if row["id"] == id_:
                if len(self._recent) >= _RECENT:
                    self._recent.clear()
                self._recent[id_] = place, row
                return place, row
        raise KeyError(id_)

    def place(self, id_: str) -> int:
        """The place of an id.

        Raises: KeyError.
        """
        return self._found(id_)[0]

    def titled(self, title: str) -> Places:
        """The places of all passages of a title, ascending."""
        # By a hash of 64 bits: of a million titles, two share one with a chance of 1 in 37 millions.
        return self._by_title.places(hashed(title))

    def _refuse_repeated(self) -> None:
        for places in self._by_id.shared():
            first: dict[str, str] = {}
            for id_, _, _, where in (self._file[place] for place in places.tolist()):
                if id_ in first:
                    raise DocumentError(
                        f"{where}: the id {id_!r} is that of {first[id_]}, too; rename or remove one"
                    )
                first[id_] = where


class KeyIndex:
    """Where each of many numbers stands in a list; 12 bytes each."""

    def __init__(self, keys: "array[int] | NDArray[np.int64] | NDArray[np.uint64]") -> None:
        held = np.array(keys, dtype=np.uint64)
        order = np.argsort(held, kind="stable")
        self._keys = held[order]
        self._order: Places = order.astype(np.int32)

    def places(self, key: int) -> Places:
        """All places of a number, ascending."""
        wanted = np.uint64(key)
        return self._order[np.searchsorted(self._keys, wanted) : np.searchsorted(self._keys, wanted, "right")]

    def shared(self) -> Iterator[Places]:
        """The places of each number that stands at several."""
        again = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        for key in np.unique(self._keys[again]):
            yield self.places(key)


def hashed(text: str) -> int:
    """A number of 64 bits that stands for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
