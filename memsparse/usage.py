"""What is wrong with a command line, in one line: what the parser says, and settings by their options."""

import re
from collections.abc import Sequence
from typing import Any

import typer

PARSER_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The parser's usage error. Not by its own name: typer comes with click's inside, or with click itself."""
_SETTING = re.compile(r"(\w[\w ]*?) (?=is )")
_CHOICES = re.compile(r".* is not one of (.*)")
_WORDING = (
    ("Input should be", "it must be"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("a valid integer range", "a whole number"),
    ("a valid integer", "a whole number"),
    ("a valid float range", "a number"),
    ("a valid float", "a number"),
    ("a valid number", "a number"),
)
_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)")


def usage_line(error: Exception, command: str, words: Sequence[str]) -> str:
    """The parser's error: what, its value, the next step.

    Args:
        command: as it was called, for errors that do not say themselves where they happened.
        words: of the command line.
    """
    context = getattr(error, "ctx", None)
    command = context.command_path if context else command
    message = _message(error)
    parameter = getattr(error, "param", None)
    if type(error).__name__ == "MissingParameter" and parameter is not None:
        shown = (parameter.metavar or parameter.name.upper()).removesuffix("...")
        name = parameter.opts[0] if parameter.param_type_name == "option" else shown
        return f"{name} is missing; '{command} --help' tells what it is"
    typed = _typed(words, parameter.opts) if parameter is not None else None
    if typed:
        option, value = typed
        return f"{option} is {value!r}; {_demand(message, value)}"
    if extra := _EXTRA.fullmatch(message):
        step = "put quotes around words that belong together"
        if set(getattr(context and context.command, "listing", ())) & set(words):
            step += ", and check that paths exist"
        return f"{extra[1]!r} is more than '{command}' takes; {step}"
    told = message[:1].lower() + message[1:]
    return told if told.endswith("?") else f"{told}; see '{command} --help'"


def as_typed(message: str, parameters: Sequence[Any], words: Sequence[str]) -> str:
    """An error's message with the option in place of the setting it begins with, where a word gave it.

    Messages about settings begin with the name and "is"; whoever raises them knows of no command line.
    """
    found = _SETTING.match(message)
    setting = found[1].replace(" ", "_") if found else ""
    options = [name for item in parameters if item.name == setting for name in item.opts]
    typed = [word.partition("=")[0] for word in words]
    option = next((name for name in typed if name in options), None)
    return f"{option}{message[found.end(1) :]}" if found and option else message


def _message(error: Exception) -> str:
    """The parser's own words, on one line."""
    message = " ".join((getattr(error, "message", "") or str(error)).split()).rstrip(".")
    possible = getattr(error, "possibilities", None)
    if possible:
        return f"{message.rstrip('.')}; did you mean {' or '.join(sorted(possible))}?"
    return message.replace(". Did you mean", "; did you mean")


def _typed(words: Sequence[str], options: Sequence[str]) -> tuple[str, str] | None:
    """An option as it was typed last, and its value."""
    for place in range(len(words) - 1, -1, -1):
        name, equals, value = words[place].partition("=")
        if name in options and (equals or place + 1 < len(words)):
            return name, value if equals else words[place + 1]
    return None


def _demand(message: str, value: str) -> str:
    """What a value must be, from what the parser says that it is not."""
    message = message.removeprefix("Value error, ").partition(", unable to")[0]
    if choices := _CHOICES.fullmatch(message):
        return f"use one of {choices[1].replace(chr(39), '')}"
    for said, told in _WORDING:
        message = message.replace(said, told)
    for spelt in (repr(value), value):
        message = message.replace(f"{spelt} is not", "it must be")
    return message[:1].lower() + message[1:]
