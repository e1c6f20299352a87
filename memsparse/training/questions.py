"""The questions about a corpus on disk, found by number or by the passage they ask for."""

from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from memsparse.training.chains import Asked
from memsparse.training.passages import KeyIndex, hashed
from memsparse.training.row_file import RowFile

NO_PASSAGE = -1
_FIELDS = tuple(field.name for field in fields(Asked))


class Questions(Sequence[Asked]):
    """Questions in the order they came; 41 bytes of memory each, their texts lie in a `RowFile`.

    Args:
        asked: each with the place of its passage, or `NO_PASSAGE` where it needs several.
    """

    def __init__(self, asked: Iterable[tuple[Asked, int]]) -> None:
        self._file = RowFile()
        ids, about, lengths = array("Q"), array("q"), array("B")
        for each, place in asked:
            self._file.append([getattr(each, name) for name in _FIELDS])
            ids.append(hashed(each.id))
            about.append(place)
            lengths.append(len(each.chain))
        self._file.seal()
        self._ids = np.array(ids, dtype=np.uint64)
        self._about = np.array(about, dtype=np.int64)
        self._lengths = np.array(lengths, dtype=np.uint8)
        self._rows = np.arange(len(ids), dtype=np.int32)
        self._by_passage = KeyIndex(self._about + 1)

    def __len__(self) -> int:
        """Questions."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Asked: ...
    @overload
    def __getitem__(self, index: slice) -> list[Asked]: ...
    def __getitem__(self, index: int | slice) -> Asked | list[Asked]:
        """The question of a number, counted from 0, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        held = dict(zip(_FIELDS, self._file[int(self._rows[index])], strict=True))
        held["spans"] = tuple((start, length) for start, length in held["spans"])
        return Asked(**held | {name: tuple(held[name]) for name in ("chain", "negatives")})

    def about(self, place: int) -> list[int]:
        """The numbers of the questions that ask for this one passage, ascending."""
        found: list[int] = self._by_passage.places(place + 1).tolist()
        return found

    def needing(self, most: int) -> NDArray[np.int64]:
        """The numbers of the questions that need at most so many passages, ascending."""
        return np.flatnonzero(self._lengths <= most)

    def repeated(self) -> Asked | None:
        """The first question whose id an earlier one has, by their hashes; None: each has its own.

        One that came without an id has its text for it, and may come again.
        """
        again = sorted(int(at) for places in KeyIndex(self._ids).shared() for at in places[1:])
        asked = (self[number] for number in again)
        return next((each for each in asked if each.id != each.text), None)

    def without(self, ids: Collection[str]) -> Self:
        """The questions that have none of these ids; the file is shared."""
        gone = np.array([hashed(id_) for id_ in ids], dtype=np.uint64)
        kept = ~np.isin(self._ids, gone)
        fewer = object.__new__(type(self))
        fewer._file = self._file
        fewer._ids, fewer._about = self._ids[kept], self._about[kept]
        fewer._lengths, fewer._rows = self._lengths[kept], self._rows[kept]
        fewer._by_passage = KeyIndex(fewer._about + 1)
        return fewer
