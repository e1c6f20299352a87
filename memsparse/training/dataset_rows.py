"""Passages and questions out of a Hugging Face dataset, one on the hub or a folder."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from memsparse.errors import ConfigError, DocumentError
from memsparse.training.passages import hashed
from memsparse.training.rows import Placed, Row, checked_passage, checked_question

FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "question": ("question",),
    "answers": ("answers", "answer"),
    "context": ("context", "text"),
    "title": ("title",),
    "positive_ids": ("positive_ids",),
    "negative_ids": ("negative_ids",),
    "sub_questions": ("sub_questions",),
    "hops": ("hops",),
}
"""What a row may hold, and the columns it is looked for in where none is named."""
_SAVED = ("state.json", "dataset_dict.json")


class DatasetRows:
    """One split of a dataset, its columns under our names.

    The rows stay where `datasets` keeps them, memory-mapped.

    Args:
        name: a repository of the hub, or a folder: one that `save_to_disk` wrote, or one of data files.
        subset: the configuration, where a dataset has several.
        columns: which column each of `FIELDS` is in, where it has another name.

    Raises: ConfigError where `datasets` is not installed, the dataset cannot be had, or there is no such
    split or column.
    """

    def __init__(
        self,
        name: str,
        *,
        subset: str | None = None,
        split: str = "train",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"dataset {name} [{split}]"
        table = _load(name, subset, split)
        self._columns = self._named(table.column_names, columns or {})
        self._table = table.select_columns(sorted(set(self._columns.values())))

    def __contains__(self, field: str) -> bool:
        """Whether rows hold this one of `FIELDS`."""
        return field in self._columns

    def passages(self) -> Iterator[Placed]:
        """The passages of a corpus: their own ids, "title" and "context"."""
        self._require("id", "context")
        for where, row in self._rows("id", "title", "context"):
            yield where, checked_passage({**row, "text": row["context"]}, where)

    def contexts(self) -> Iterator[Placed]:
        """The passages that stand beside questions, each once; their ids are hashes of title and text."""
        self._require("context")
        seen: set[int] = set()
        for where, row in self._rows("title", "context"):
            for passage in _contexts(row, where):
                key = int(passage["id"], 16)
                if key not in seen:
                    seen.add(key)
                    yield where, passage

    def questions(self) -> Iterator[Placed]:
        """The questions; their passages are those named by "positive_ids", or else those beside them.

        Rows without a question are passed over.
        """
        self._require("question")
        beside = "positive_ids" not in self
        if beside:
            self._require("context")
        for where, row in self._rows(*FIELDS):
            if row["question"] is None:
                continue
            if beside:
                row["positive_ids"] = [passage["id"] for passage in _contexts(row, where)]
            row["answers"] = _answers(row.get("answers"), where)
            yield where, checked_question(row, where)

    def _rows(self, *fields: str) -> Iterator[Placed]:
        chosen = {field: self._columns[field] for field in fields if field in self}
        table = self._table.select_columns(sorted(set(chosen.values())))
        for number, row in enumerate(table, start=1):
            yield f"{self.name}, row {number}", {field: row[column] for field, column in chosen.items()}

    def _named(self, held: list[str], columns: Mapping[str, str]) -> dict[str, str]:
        if unknown := sorted(set(columns) - set(FIELDS)):
            raise ConfigError(f"columns: unknown key {', '.join(unknown)}; known: {', '.join(FIELDS)}")
        for field, column in columns.items():
            if column not in held:
                raise ConfigError(
                    f"{self.name} has no column {column!r} for {field}; it has {', '.join(held)}"
                )
        usual = {
            field: next((column for column in names if column in held), None)
            for field, names in FIELDS.items()
        }
        return {field: column for field, column in usual.items() if column is not None} | dict(columns)

    def _require(self, *fields: str) -> None:
        for field in fields:
            if field not in self:
                raise ConfigError(
                    f"{self.name} has no column {' or '.join(FIELDS[field])}; name the one that holds it "
                    f'as columns = {{ {field} = "..." }}, of {", ".join(self._table.column_names)}'
                )


def _load(name: str, subset: str | None, split: str) -> Any:
    try:
        library = import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            f"dataset {name} needs the package datasets ({error}); pip install 'memsparse[train]'"
        ) from error
    folder = Path(name).expanduser()
    try:
        if any((folder / file).is_file() for file in _SAVED):
            loaded = library.load_from_disk(str(folder))
        else:
            return library.load_dataset(str(folder) if folder.is_dir() else name, subset, split=split)
    except (library.exceptions.DatasetsError, OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"dataset {name} cannot be had: {reason}; check name, subset, split and network"
        ) from error
    if not isinstance(loaded, Mapping):  # one split alone was saved
        return loaded
    if split not in loaded:
        raise ConfigError(f"dataset {name} has no split {split!r}; it has {', '.join(loaded)}")
    return loaded[split]


def _contexts(row: Row, where: str) -> list[Row]:
    """The passages of a row: one, or several with one title or as many."""
    texts, titles = row["context"], row.get("title") or ""
    if not isinstance(texts, list):
        texts = [texts]
    if not isinstance(titles, list):
        titles = [titles] * len(texts)
    if len(titles) != len(texts):
        raise DocumentError(f"{where}: {len(texts)} contexts have {len(titles)} titles; give one for each")
    found = []
    for text, title in zip(texts, titles, strict=True):
        passage = checked_passage({"id": "-", "title": title, "text": text}, where)
        key = hashed(f"{passage['title']}\0{passage['text']}")
        found.append({**passage, "id": f"{key:016x}"})
    return found


def _answers(value: Any, where: str) -> Any:
    """Accepted answers out of what datasets write: a text, a list, or as SQuAD does {"text": [...]}."""
    if isinstance(value, dict):
        if "text" not in value:
            raise DocumentError(f"{where}: answers is an object without text; it must be a list of texts")
        value = value["text"]
    return [value] if isinstance(value, str) else value
