"""Where figures go: records kept as they come, so that a run can be interrupted, and one JSON layout.

{"kind", "command", "commit", "device", "versions", "seed", "settings", "partial", "corpus",
 "systems": {NAME: {METRIC: {"value", "low", "high", "n"}}}, ..., "records": [...]}
"""

import fcntl
import gzip
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch

from memsparse import __version__
from memsparse.errors import InputError
from memsparse.json_lines import whole_file
from memsparse.machine import processor_name

Record = dict[str, Any]

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "bm25s", "sentence-transformers")


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """What a figure depends on besides its settings: command, commit, device, versions.

    Args:
        device: what it was measured on. None: the accelerator, or the processor where there is none.
    """
    return {
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "commit": _commit(),
        "device": _device(device or torch.accelerator.current_accelerator(check_available=True)),
        "versions": {"memsparse": __version__, "python": platform.python_version()}
        | {name: found for name in _PACKAGES if (found := _version(name))},
    }


class RecordFile:
    """Records of a run, appended to OUT.partial one line each, and read back when the run goes on.

    Raises: InputError if what is there belongs to a run with other settings, is no such file, or is being
    written by another run, and if it cannot be written.
    """

    def __init__(self, out: Path | None, settings: Mapping[str, Any], *, key: Sequence[str]) -> None:
        """Open or continue.

        Args:
            out: the result file; None keeps nothing on disk.
            settings: what the records depend on; JSON values.
            key: fields that tell one record from another.
        """
        self.path = None if out is None else out.with_name(out.name + ".partial")
        self.records: list[Record] = []
        self.marks: dict[str, Any] = {}
        """What else a run must remember to go on."""
        self._key = tuple(key)
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._done: set[tuple[Any, ...]] = set()
        self._file: BinaryIO | None = None
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}; choose another --json") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_back(self.path)
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"another run is writing {self.path}; wait for it, or choose another --json"
            ) from None
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        """Whether a record with these key fields is there."""
        return self._key_of(record) in self._done

    def add(self, record: Record) -> None:
        """Keep a record; it survives the process once this returns."""
        self._append({"record": record})
        self._take(record)

    def mark(self, name: str, value: Any) -> None:
        """Remember a JSON value by name."""
        self._append({"mark": [name, value]})
        self.marks[name] = value

    def write(self, out: Path, result: Mapping[str, Any], *, partial: bool) -> None:
        """Write the result with its records, whole or not at all; a finished run keeps nothing aside."""
        write_result(out, {**result, "partial": partial, "records": self.records})
        if not partial and self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; another run may then go on."""
        if self._file is not None:
            if not self.records and self.path is not None:  # while it is locked: it may be another's next
                self.path.unlink(missing_ok=True)
            self._file.close()

    def _key_of(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(record[name] for name in self._key)

    def _take(self, record: Record) -> None:
        if record not in self:
            self.records.append(record)
            self._done.add(self._key_of(record))

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False)
        if self._file is not None:
            self._file.write(f"{text}\n".encode())
            self._file.flush()

    def _read_back(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # a process killed while it wrote leaves half a line
        os.truncate(path, len(whole))
        try:
            entries = [json.loads(line) for line in whole.splitlines()]
            if len(entries) < 2 and all("settings" in entry for entry in entries):  # nothing was measured
                os.truncate(path, 0)
                self._append({"settings": self._settings})
                return
            theirs = entries[0]["settings"]
            differing = sorted(
                name for name in {*theirs, *self._settings} if theirs.get(name) != self._settings.get(name)
            )
            if differing:
                name = differing[0]
                raise InputError(
                    f"{path} belongs to a run with {name}={theirs.get(name)!r}, this one has "
                    f"{self._settings.get(name)!r}; remove it, or choose another --json"
                )
            for entry in entries[1:]:
                if "record" in entry:
                    if "error" not in entry["record"]:  # what failed is tried again
                        self._take(entry["record"])
                else:
                    name, value = entry["mark"]
                    self.marks[name] = value
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is no file of an interrupted run; remove it") from error


def write_result(out: Path, result: Mapping[str, Any]) -> None:
    """Write a result file, whole or not at all, gzipped if its name ends in .gz.

    Raises: InputError where it cannot be written.
    """
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    data = text.encode("utf-8", "backslashreplace")
    if out.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    try:
        with whole_file(out) as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror or error}; choose another --json") from error


def is_finished(out: Path) -> bool:
    """Whether a result of a run that was not cut short lies there."""
    try:
        return not read_result(out).get("partial")
    except InputError:
        return False


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises: InputError for a file that is none.
    """
    try:
        data = path.read_bytes()
        result = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: not a result file ({error}); give one that memsparse eval wrote"
        ) from error
    if not isinstance(result, dict) or "kind" not in result or "records" not in result:
        raise InputError(f"{path}: not in the layout of a result; give one that memsparse eval wrote")
    return result


def by_system(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records that hold a measurement, by system in the order they came; those of a failure are left out."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        rows = grouped.setdefault(record["system"], [])
        if "error" not in record:
            rows.append(record)
    return grouped


def by_group(records: Iterable[Record], field: str) -> dict[str, list[Record]]:
    """Records by a field of their question's file, such as "type"; those without it are left out."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        value = record.get("extra", {}).get(field)
        if value is not None:
            grouped.setdefault(str(value), []).append(record)
    return grouped


def missing(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """How many questions each system failed on, and the first reason."""
    failed: dict[str, dict[str, Any]] = {}
    for record in records:
        if "error" in record:
            entry = failed.setdefault(record["system"], {"n": 0, "first": record["error"]})
            entry["n"] += 1
    return failed


def _program() -> str:
    started = Path(sys.argv[0])
    return "memsparse" if started.name in {"__main__.py", "memsparse"} else started.name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit this runs from, and whether files were changed since, results aside."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        if not git("ls-files", here.name).stdout.strip():  # whatever repository lies around it is not ours
            return f"installed {__version__}"
        commit = git("describe", "--always", "--abbrev=10", "--exclude=*").stdout.strip()
        changed = git("diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)benchmarks/results").returncode
    except OSError:
        return f"installed {__version__}"
    return commit + "-dirty" * (changed == 1) if commit else f"installed {__version__}"


def _device(device: torch.device | None) -> str:
    if device is None or device.type == "cpu":
        return f"{processor_name()}, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
