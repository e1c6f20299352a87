"""From paths to documents: files, folders and standard input.

What cannot be used is skipped with one clear line, and the rest is read: a damaged file in a folder of
thousands must not cost the others. `strict=True` makes every such line an error instead.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from memsparse.errors import DocumentError
from memsparse.readers import Skipped, Source, reader_for
from memsparse.types import Document

__all__ = ["Skipped", "read_documents", "refuse_missing"]

STDIN = "-"


def read_documents(
    paths: Sequence[str | Path],
    *,
    namespace: str = "default",
    strict: bool = False,
    on_skip: Callable[[Skipped], None],
) -> Iterator[Document]:
    """Read files, folders (recursively, sorted, without hidden entries) and "-", standard input.

    Text (anything that is UTF-8, or UTF-16 with its mark), HTML, JSON Lines (also .gz and .zst), CSV, TSV and
    PDF are known by their names. A document's id is its path below the folder given, or the name of the file
    given; JSON Lines and CSV bring their own ids, or get `name#line`. Of two documents with one id the first
    is read. Files are opened one at a time as the iterator is used, and JSON Lines are never held whole.

    `on_skip` is called once for everything that is not read.

    Raises: DocumentError at once if a path does not exist; with `strict`, from the iterator, for the first
    thing that would be skipped.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    refuse_missing(given)
    return _read([str(path) for path in given], namespace, strict, on_skip)


def refuse_missing(paths: Iterable[str | Path]) -> None:
    """Raises: DocumentError for the first path that does not exist."""
    for path in paths:
        try:
            if str(path) != STDIN:
                os.stat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise DocumentError(f"no such file or folder: {str(path)!r}; check the spelling") from None
        except OSError:
            continue  # it is there, and reading it will say what is wrong


def _read(
    paths: Sequence[str], namespace: str, strict: bool, on_skip: Callable[[Skipped], None]
) -> Iterator[Document]:
    first_with_id: dict[str, str] = {}
    for path in paths:
        for item, origin in _items(path, namespace):
            if isinstance(item, Document):
                if item.id not in first_with_id:
                    first_with_id[item.id] = origin
                    yield item
                    continue
                reason = (
                    f"its id {item.id!r} is taken by a document in {first_with_id[item.id]}; name the folder "
                    "above both, or give each a namespace"
                )
                item = Skipped(path=origin, reason=reason)
            if strict:
                raise DocumentError(f"{item.path}: {item.reason}; repair it or leave it out")
            on_skip(item)


def _items(path: str, namespace: str) -> Iterator[tuple[Document | Skipped, str]]:
    """Yield what a path argument holds, each with the file it comes from."""
    if path == STDIN:
        found: Iterable[Source | Skipped] = [Source(path=None, id="stdin", namespace=namespace)]
    elif os.path.isdir(path):
        found = _walk(Path(path), Path(path), namespace, set())
    else:
        found = [Source(path=Path(path), id=Path(path).name, namespace=namespace)]
    for source in found:
        if isinstance(source, Skipped):
            yield source, source.path
        else:
            for item in _documents(source):
                yield item, source.shown


def _documents(source: Source) -> Iterator[Document | Skipped]:
    """Read one source; what makes all or the rest of it unusable ends in one `Skipped`."""
    empty = True
    try:
        for item in reader_for(source)(source):
            empty = False
            yield item
    except DocumentError as error:
        yield source.skipped(str(error))
    except OSError as error:
        yield source.skipped(_unreadable(error))
    else:
        if empty:
            yield source.skipped("no text in it")


def _walk(
    here: Path, root: Path, namespace: str, entered: set[tuple[int, int]]
) -> Iterator[Source | Skipped]:
    try:
        status = here.stat()
        if (status.st_dev, status.st_ino) in entered:  # a link back up, or to a folder read already
            return
        entered.add((status.st_dev, status.st_ino))
        names = sorted(name for name in os.listdir(here) if not name.startswith("."))
    except OSError as error:
        yield Source(path=here, id="", namespace=namespace).skipped(_unreadable(error))
        return
    for name in names:
        path = here / name
        source = Source(path=path, id=path.relative_to(root).as_posix(), namespace=namespace)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield source.skipped(_unreadable(error))
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, root, namespace, entered)
        else:
            yield source if stat.S_ISREG(mode) else source.skipped("not a regular file")


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
