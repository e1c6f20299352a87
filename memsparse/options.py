"""How command lines are read: the options that commands share, and what errors become."""

import os
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from memsparse.console import note
from memsparse.errors import ConfigError, MemSparseError
from memsparse.usage import PARSER_ERROR, as_typed, usage_line

USAGE = 2
"""Exit code where the command line itself makes no sense."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


_SENTENCE = 200
"""Characters of a command's help that a list of commands shows; none has as many in its first sentence."""
_WORDS = "memsparse.words"
"""Under which a context keeps the words of the command line."""


class CommandGroup(TyperGroup):
    """Turns errors, the parser's too, into one line and an exit code, and takes `--debug` in any place."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the options of the group itself."""
        try:
            return super().make_context(info_name, args, parent=parent, **extra)
        except PARSER_ERROR as error:
            raise _told(error, str(info_name), args) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move `--debug` to the front, where the group looks for it; show the help where nothing is asked."""
        if ctx.parent is None:
            ctx.meta[_WORDS] = tuple(args)
        if not args and self.no_args_is_help:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(USAGE)
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(word for word in args[:end] if word != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with the whole first sentence of each, on several lines where it needs them."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_SENTENCE)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PARSER_ERROR as error:
            raise _told(error, f"{ctx.command_path} {ctx.invoked_subcommand}", ctx.meta[_WORDS]) from error
        except MemSparseError as error:
            if ctx.find_root().params.get("debug"):
                traceback.print_exception(error)
            command = self.commands.get(ctx.invoked_subcommand or "")
            told = as_typed(str(error), command.params if command else (), ctx.meta[_WORDS])
            note(f"error: {told}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            note(str(error) or "interrupted")
            raise typer.Exit(INTERRUPTED) from error


def _told(error: Exception, command: str, words: Sequence[str]) -> typer.Exit:
    """What ends the program after an error of the parser, which is told."""
    note(f"error: {usage_line(error, command, words)}")
    return typer.Exit(USAGE)


class ListCommand(TyperCommand):
    """Takes `--docs a b` for `--docs a --docs b`: words behind a path that are paths too."""

    listing = frozenset({"--docs", "--corpus", "--distractors", "--haystack"})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give every further path its own option."""
        spelt: list[str] = []
        for word in args:
            option = spelt[-2] if len(spelt) > 1 else ""
            if option in self.listing and not word.startswith("-") and os.path.exists(word):
                spelt.append(option)
            spelt.append(word)
        return super().parse_args(ctx, spelt)


class IdDecoding(StrEnum):
    """How documents are decided; see `EngineConfig.id_decoding`."""

    ROUTER = "router"
    GENERATE = "generate"


class RoutingKeys(StrEnum):
    """Formats of the routing keys that are scanned; see `TierConfig.routing_keys`."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    BINARY = "binary"


class Index(StrEnum):
    """What finds documents before they are scored exactly; see `TierConfig.index`."""

    NONE = "none"
    CELLS = "cells"


class Layout(StrEnum):
    """Layout of a model folder; see `convert`."""

    MEMSPARSE = "memsparse"
    PUBLISHED = "published"


class Score(StrEnum):
    """Score rule of a router; see `MemSparseConfig.routing_score`."""

    COSINE = "cosine"
    DOT = "dot"


Model = Annotated[
    str | None,
    typer.Option("--model", metavar="M", help="Model folder or hub repository; without it the built-in one."),
]
Docs = Annotated[
    list[str] | None,
    typer.Option("--docs", metavar="PATH...", help='Files or folders to answer from; "-": standard input.'),
]
Bank = Annotated[Path | None, typer.Option("--bank", metavar="DIR", help="Memory bank to answer from.")]
BankPath = Annotated[Path, typer.Argument(metavar="DIR", help="Memory bank.", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="N",
        help="Only this namespace; without it all. What --docs names is put into it.",
    ),
]
OwnNamespace = Annotated[str, typer.Option("--namespace", metavar="N", help="Namespace of the documents.")]
AsOf = Annotated[
    int | None,
    typer.Option("--as-of", metavar="V", min=0, help="Version of the bank; without it the last."),
]
Decoding = Annotated[
    IdDecoding | None,
    typer.Option("--id-decoding", help="What decides which documents are read; without it as trained."),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        "--overlap",
        metavar="X",
        help="Where routing scores decide: weight of the question's words in what is read first; 0: none.",
    ),
]
KeyFormat = Annotated[
    RoutingKeys | None,
    typer.Option(
        "--routing-keys",
        help="Format of the keys scanned first; results are exact in all. Without it what fits.",
    ),
]
DeviceBytes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory for routing keys, such as 8GB; 0: the disk. Without it half of what is free.",
    ),
]
HostBytes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Host memory for documents read lately; 0: none. Without it 1/16 of what is free.",
    ),
]
UseIndex = Annotated[
    Index | None,
    typer.Option(
        "--index",
        help="cells: look into the best cells of an index, not at all keys; results may not be certified.",
    ),
]
Probes = Annotated[
    int | None,
    typer.Option("--probes", metavar="N", help="Cells of the index to look into first."),
]
Lean = Annotated[
    float | None,
    typer.Option("--lean", metavar="X", help="How readily other cells are looked into; more finds more."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first file that cannot be read.")]


def answer_settings(
    id_decoding: IdDecoding | None, overlap: float | None, **others: int | None
) -> dict[str, Any]:
    """The settings of `EngineConfig` that these options make; none for what was not given."""
    given = {"id_decoding": None if id_decoding is None else str(id_decoding), "overlap": overlap, **others}
    return {name: value for name, value in given.items() if value is not None}


def tier_settings(
    routing_keys: RoutingKeys | None,
    device_bytes: str | None,
    host_bytes: str | None,
    index: Index | None = None,
    probes: int | None = None,
    lean: float | None = None,
) -> dict[str, Any]:
    """The setting of `EngineConfig` that the options of tiers make; none where none was given.

    Raises: ConfigError for a size that cannot be read, no cells to look into, or an index's settings without
        an index.
    """
    from memsparse.bank import TierConfig
    from memsparse.engine.hardware import read_size

    named = {"routing_keys": routing_keys, "index": index}
    given: dict[str, Any] = {name: str(value) for name, value in named.items() if value is not None}
    given |= {name: value for name, value in (("probes", probes), ("lean", lean)) if value is not None}
    needless = [name for name, value in (("--probes", probes), ("--lean", lean)) if value is not None]
    if needless and (index is None or str(index) == "none"):
        raise ConfigError(f"{needless[0]} is for an index; add --index cells, or leave it out")
    for name, size in (("device_bytes", device_bytes), ("host_bytes", host_bytes)):
        if size is not None:
            option = f"--{name.replace('_', '-')}"
            given[name] = 0 if size.strip() == "0" else read_size(size, option)
    return {"tiers": TierConfig(**given)} if given else {}
