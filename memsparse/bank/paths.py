"""What is at a path where a bank is looked for, or to be created."""

import shlex
from pathlib import Path

from memsparse.bank.catalog import FILE
from memsparse.bank.database import SIDE_FILES
from memsparse.bank.lock import FILE as LOCK
from memsparse.bank.segments import FOLDER
from memsparse.errors import BankExistsError, BankNotFoundError

_LEFT_BY_CREATE = {
    LOCK,
    FOLDER,
    *(f"{FILE}.tmp{suffix}" for suffix in SIDE_FILES),
}


def refuse_occupied(path: Path) -> None:
    """Raise BankExistsError if a path holds anything but what an interrupted `create` leaves."""
    if not path.exists():
        return
    if not path.is_dir():
        raise BankExistsError(f"{path} is a file; choose another path for the bank")
    if (path / FILE).exists():
        raise BankExistsError(f"there is a bank at {path} already; open it, or choose another path")
    found = sorted({entry.name for entry in path.iterdir()} - _LEFT_BY_CREATE)
    if not found and (path / FOLDER).exists() and any((path / FOLDER).iterdir()):
        found = [FOLDER]
    if found:
        raise BankExistsError(f"{path} is not empty (holds {found[0]}); choose another path")


def absent(path: Path) -> BankNotFoundError:
    """The error for a path without a bank: what is there, and how a bank can be had."""
    try:
        refuse_occupied(path)
    except BankExistsError:
        what = "a folder of other files" if path.is_dir() else "a file"
        return BankNotFoundError(
            f"{path} is {what}, not a bank; answer from it with --docs, or create a bank elsewhere: "
            f"memsparse bank create {_quoted(_free_beside(path))}"
        )
    except OSError as error:
        return BankNotFoundError(f"{path} cannot be looked into ({error.strerror}); see its permissions")
    return BankNotFoundError(f"no bank at {path}; create one: memsparse bank create {_quoted(path)}")


def _quoted(path: Path) -> str:
    """As a shell takes it."""
    return shlex.quote(str(path))


def _free_beside(path: Path) -> Path:
    """A path beside another that nothing is at yet."""
    free = path.resolve() if path.name in ("", "..") else path
    while free.exists():
        free = Path(f"{free}.bank")
    return free
