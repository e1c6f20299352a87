"""Files and folders as a memory of their own: a bank in the user's cache that follows what is on disk."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from memsparse.bank import Fingerprint
from memsparse.config import cache_dir
from memsparse.engine.engine import MemoryEngine
from memsparse.engine.ingest import AddReport, Progress, content_digest
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.errors import BankCorruptError, BankError, BankMismatchError, InputError
from memsparse.sources import STDIN, Skipped, read_documents
from memsparse.types import Document


def open_folder(
    paths: Sequence[str | Path],
    model: str | Path | LoadedModel | None = None,
    *,
    namespace: str = "default",
    strict: bool = False,
    fresh: bool = False,
    kind: type[MemoryEngine] = MemoryEngine,
    on_skip: Callable[[Skipped], None],
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> tuple[MemoryEngine, AddReport]:
    """Open an engine over what the paths hold now; only what changed since the last call is encoded.

    The bank lies in the cache folder, one for each combination of paths and model; where standard input is
    among the paths, one for each text of it, so that two pipes never share one. A damaged one is made again.

    Args:
        paths: as `read_documents` takes them.
        strict: raise for the first file that cannot be read, where `on_skip` would be told.
        fresh: forget what is in the cache.
        kind: of engine to open.
        settings: single fields of `EngineConfig`.

    Raises: DocumentError for a path that does not exist; InputError if no document is found; ModelError;
    BankError if the cache folder cannot be made, or BankLockedError while another process is at it.
    """
    documents: Iterable[Document] = read_documents(paths, namespace=namespace, strict=strict, on_skip=on_skip)
    piped = STDIN in map(str, paths)
    if piped:
        documents = list(documents)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    path = folder_bank(paths, fingerprint(loaded), documents if piped else ())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BankError(
            f"{path.parent} cannot be made ({error.strerror or error}); set MEMSPARSE_CACHE to another folder"
        ) from error
    if fresh:
        shutil.rmtree(path, ignore_errors=True)
    try:
        engine = kind.open(path, loaded, **settings)
    except (BankCorruptError, BankMismatchError):
        shutil.rmtree(path, ignore_errors=True)
        engine = kind.open(path, loaded, **settings)
    with ExitStack() as closing:
        closing.enter_context(engine)
        report = engine.sync(documents, namespace=namespace, on_progress=on_progress)
        if not report.added + report.updated + report.unchanged:
            raise InputError(f"no documents in {', '.join(map(str, paths))}; name files or folders with text")
        closing.pop_all()
    return engine, report


def folder_bank(paths: Sequence[str | Path], model: Fingerprint, documents: Iterable[Document] = ()) -> Path:
    """Where the bank of these paths and this model lies; `documents` tell what paths alone do not."""
    places = [str(path) if str(path) == STDIN else str(Path(path).resolve()) for path in paths]
    contents = [[document.id, content_digest(document)] for document in documents]
    digest = hashlib.sha256(json.dumps([places, model.to_json(), *contents]).encode()).hexdigest()
    return cache_dir() / "banks" / f"{digest[:32]}.bank"
