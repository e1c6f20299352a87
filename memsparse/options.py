"""How command lines are read: the options that commands share, and what errors become."""

import os
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from memsparse.console import fail, note
from memsparse.errors import MemSparseError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class CommandGroup(TyperGroup):
    """Turns the package's errors into one line and an exit code, and takes `--debug` in any place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move `--debug` to the front, where the group looks for it."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(word for word in args[:end] if word != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MemSparseError as error:
            if ctx.params.get("debug"):
                traceback.print_exception(error)
            fail(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from error


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
    str | None, typer.Option("--namespace", metavar="N", help="Only this namespace; without it all of them.")
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first file that cannot be read.")]
