"""From a table of a TOML file to a frozen dataclass: keys, types and ranges are checked."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from memsparse.errors import ConfigError

_T = TypeVar("_T")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the values of a TOML file.

    Raises: ConfigError for a missing file, or bad TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give a readable TOML recipe") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; give a readable TOML recipe") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}; give a readable TOML recipe") from error


def made(cls: type[_T], values: Mapping[str, Any], where: str) -> _T:
    """Make a config dataclass of a table's values.

    Raises: ConfigError for an unknown or missing key, or a value of another type.
    """
    hints = get_type_hints(cls)
    known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]  # every config is a dataclass
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    for name, each in known.items():
        if name in values and not fits(values[name], hints[name]):
            raise ConfigError(f"{where}{name} is {values[name]!r}; it must be {_told(hints[name])}")
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{where}{name} is missing; add it")
    return cls(**values)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file may stand for a type; a whole number may stand for any number."""
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if get_origin(hint) is UnionType:
        return any(fits(value, each) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(fits(each, get_args(hint)[1]) for each in value.values())
    return hint is Any or isinstance(value, get_origin(hint) or hint)


def _told(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if get_origin(hint) is UnionType:
        return " or ".join(_told(each) for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is list:
        return "a list"
    if get_origin(hint) is dict and get_args(hint)[1] is not Any:
        return f"a table, each value {_told(get_args(hint)[1])}"
    return names.get(hint, "a table")


def hold(where: str, name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside of its range.

    Raises: ConfigError
    """
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ConfigError(f"{where}{name} is {value}; it must be {bounds}")
