"""Every error the package raises on purpose, as one tree.

    MemSparseError                exit 1   anything below; catch this to catch all of them
    +-- InputError                exit 2   an argument, file or document that cannot be used
    |   +-- ShapeError                     tensors whose sizes do not fit together
    |   +-- ConfigError                    a setting that is unknown or out of range
    |   +-- DocumentError                  a document that cannot be read or stored
    +-- ModelError                exit 2   a model folder that cannot be loaded or converted
    +-- BankError                 exit 1   a memory bank that cannot be used
    |   +-- BankNotFoundError     exit 2   no bank at that path, or not that version of it
    |   +-- BankExistsError       exit 2   a bank is there already
    |   +-- BankMismatchError     exit 2   the bank belongs to another model or a newer format
    |   +-- BankLockedError       exit 1   another process is writing, or the disk has no locks
    |   +-- BankCorruptError      exit 1   a file is damaged or missing
    +-- EngineError               exit 1   a request that failed while it ran

A message is one line: what went wrong, the value, and the next step. One about a setting begins with
its name and "is", so that the command line can put the option in place of the name.
"""

from collections.abc import Mapping


class MemSparseError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(MemSparseError, ValueError):
    """An argument, file or document that cannot be used."""

    exit_code = 2


class ShapeError(InputError):
    """Tensors whose sizes do not fit together."""


class ConfigError(InputError):
    """A setting that is unknown or out of range."""


class DocumentError(InputError):
    """A document that cannot be read or stored."""


class ModelError(MemSparseError):
    """A model folder that cannot be loaded or converted."""

    exit_code = 2


class BankError(MemSparseError):
    """A memory bank that cannot be used."""


class BankNotFoundError(BankError):
    """No bank at that path, or not that version of it."""

    exit_code = 2


class BankExistsError(BankError):
    """A bank is there already."""

    exit_code = 2


class BankMismatchError(BankError):
    """The bank belongs to another model or to a newer format."""

    exit_code = 2


class BankLockedError(BankError):
    """Another process is writing to the bank, or it lies where there are no locks."""


class BankCorruptError(BankError):
    """A file of the bank is damaged or missing."""


class EngineError(MemSparseError):
    """A request that failed while it ran."""


def told(error: BaseException) -> dict[str, str]:
    """What another process is told of an error, as JSON values."""
    name, text = type(error).__name__, str(error).strip().partition("\n")[0]
    return {"error": name, "text": text if isinstance(error, MemSparseError) else f"{name}: {text}"}


def retold(values: Mapping[str, str], by: str | None = None) -> MemSparseError:
    """The error another process told of, of the same kind where that is one of ours, else an EngineError.

    Args:
        by: who told, put in front of it.
    """
    kind = globals().get(values["error"])
    if not (isinstance(kind, type) and issubclass(kind, MemSparseError)):
        kind = EngineError
    return kind(values["text"] if by is None else f"{by}: {values['text']}")
