"""The command line: every command is a thin shell over a public Python call.

Commands import what they run only when they run, so that `--help` does not wait for torch.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from memsparse import __version__
from memsparse.cli_bank import app as bank_app
from memsparse.cli_bench import app as bench_app
from memsparse.cli_eval import app as eval_app
from memsparse.cli_plan import note_load, plan
from memsparse.cli_train import app as train_app
from memsparse.config import let_threads_sleep, processes
from memsparse.console import (
    SkipNotes,
    fail,
    note,
    nothing_there,
    progress,
    report_line,
    say,
    show_answer,
    show_json,
    show_rows,
)
from memsparse.errors import BankCorruptError, ConfigError, InputError, MemSparseError
from memsparse.options import (
    AsJson,
    AsOf,
    Bank,
    CommandGroup,
    Decoding,
    DeviceBytes,
    Docs,
    HostBytes,
    KeyFormat,
    Layout,
    Lean,
    ListCommand,
    Model,
    Namespace,
    Overlap,
    Probes,
    Score,
    Strict,
    UseIndex,
    answer_settings,
    tier_settings,
)

if TYPE_CHECKING:
    from memsparse.engine.engine import MemoryEngine
    from memsparse.types import Answer

QUIT = ("/quit", "/exit")
PROMPT = "> "

app = typer.Typer(
    cls=CommandGroup,
    help="A native long-term memory for language models.\n\n"
    "A first answer: memsparse ask --docs FOLDER 'A question?'",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(bank_app, name="bank")
app.add_typer(bench_app, name="bench")
app.add_typer(eval_app, name="eval")
app.add_typer(train_app, name="train")


def main() -> None:
    """Run the command line; the entry point."""
    let_threads_sleep()
    if "--debug" not in sys.argv:
        sys.excepthook = _unexpected
    command = partial(get_command(app), prog_name="memsparse")
    if processes() == 1 or _first_word(sys.argv[1:]) == "train":  # which sees to its processes itself
        command()
        return
    from memsparse.distributed.launch import run

    try:
        sys.exit(run(command))
    except MemSparseError as error:
        fail(error)
        sys.exit(error.exit_code)


def _first_word(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    reason = str(error).strip().partition("\n")[0]
    note(f"error: {kind.__name__}: {reason}; run again with --debug to see where")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"memsparse {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


# --- asking -----------------------------------------------------------------------------------------------


@app.command(cls=ListCommand)
def ask(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help='The question. "-": read it from standard input.')
    ],
    docs: Docs = None,
    bank: Bank = None,
    model: Model = None,
    namespace: Namespace = None,
    as_of: AsOf = None,
    id_decoding: Decoding = None,
    overlap: Overlap = None,
    as_json: AsJson = False,
    strict: Strict = False,
    rounds: Annotated[bool, typer.Option("--rounds", help="Show what every round routed and read.")] = False,
    routing_keys: KeyFormat = None,
    device_bytes: DeviceBytes = None,
    host_bytes: HostBytes = None,
    index: UseIndex = None,
    probes: Probes = None,
    lean: Lean = None,
) -> None:
    """Answer a question from documents, with citations.

    What --docs names is encoded once and kept; later calls encode only what changed.
    """
    if question == "-":
        if "-" in (docs or []):
            raise InputError("question and documents cannot both be standard input; write the question out")
        question = sys.stdin.read() if sys.stdin else ""
    if not question.strip():
        raise InputError("the question is empty; write one")

    settings = answer_settings(id_decoding, overlap) | tier_settings(
        routing_keys, device_bytes, host_bytes, index, probes, lean
    )

    def answer_it(fresh: bool) -> "Answer":
        with _memory(docs, bank, model, namespace, strict, settings, fresh=fresh) as (engine, within):
            return engine.ask(question.strip(), namespace=within, version=as_of)

    try:
        answer = answer_it(fresh=False)
    except BankCorruptError:
        if not docs or "-" in docs:
            raise
        note("what was kept of these documents is damaged; encoding them again")
        answer = answer_it(fresh=True)
    if as_json:
        fields = ("found", "citations", "rounds", "usage")
        values = {name: getattr(answer, name) for name in fields}
        show_json({"question": question.strip(), "answer": answer.text, **values})
    else:
        say(answer.text)
        show_answer(answer, rounds=rounds)
        if bank is not None and not answer.rounds:
            note(nothing_there(bank, namespace))


@app.command(cls=ListCommand)
def chat(
    docs: Docs = None,
    bank: Bank = None,
    model: Model = None,
    namespace: Namespace = None,
    id_decoding: Decoding = None,
    overlap: Overlap = None,
    strict: Strict = False,
    routing_keys: KeyFormat = None,
    device_bytes: DeviceBytes = None,
    host_bytes: HostBytes = None,
    index: UseIndex = None,
    probes: Probes = None,
    lean: Lean = None,
) -> None:
    """Answer one question after another, each on its own; /quit or Ctrl-D ends."""
    if "-" in (docs or []):
        raise InputError("questions come from standard input, so documents cannot; name files or folders")
    settings = answer_settings(id_decoding, overlap) | tier_settings(
        routing_keys, device_bytes, host_bytes, index, probes, lean
    )
    with _memory(docs, bank, model, namespace, strict, settings) as (engine, within):
        for question in _questions():
            for piece in engine.stream(question, namespace=within):
                if isinstance(piece, str):
                    say(piece, end="")
                    continue
                say()
                show_answer(piece)
                say()


def _questions() -> Iterator[str]:
    """Lines of standard input until it ends or says so; asked for where a person types them, else shown."""
    if sys.stdin is None:
        return
    asks = sys.stdin.isatty()
    while True:
        try:
            line = (input(PROMPT) if asks else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            return
        if line in QUIT:
            return
        if re.fullmatch(r"/[a-z]+", line):
            note(f"{line} is no command; {QUIT[0]} ends, all else is asked")
        elif line:
            if not asks:
                say(f"{PROMPT}{line}")
            yield line


@contextmanager
def _memory(
    docs: list[str] | None,
    bank: Path | None,
    model: str | None,
    namespace: str | None,
    strict: bool,
    settings: dict[str, Any],
    *,
    fresh: bool = False,
) -> "Iterator[tuple[MemoryEngine, str | None]]":
    """An engine over a bank, or over documents once what is new is encoded, and the namespace to ask."""
    if not docs and bank is None:
        raise InputError("there is nothing to read; give --docs with files or folders, or --bank")
    if docs and bank is not None:
        raise InputError(
            "--docs and --bank do not go together; add the files to the bank: memsparse bank add"
        )
    if bank is not None:
        from memsparse.distributed.launch import engine_class

        with engine_class().open(bank, model, create=False, **settings) as engine:
            yield engine, namespace
        return
    from memsparse.sources import refuse_missing

    refuse_missing(docs or [])  # before seconds go into loading a model
    from memsparse.distributed.launch import engine_class
    from memsparse.engine.folder import open_folder

    own, skips = namespace or "default", SkipNotes()
    with progress("encoding") as show:
        engine, report = open_folder(
            docs or [],
            model,
            namespace=own,
            strict=strict,
            fresh=fresh,
            kind=engine_class(),
            on_skip=skips,
            on_progress=lambda state: show(state.documents, state.total),
            **settings,
        )
    if report.added or report.updated or report.removed or skips.count:
        note(report_line(report, skips.count), dim=True)
    with engine:
        yield engine, own


# --- models and machines ----------------------------------------------------------------------------------


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of a model.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.", show_default=False)],
    to: Annotated[Layout, typer.Option("--to", help="Layout to write.")] = Layout.MEMSPARSE,
    chunk_size: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a chunk; without it the source's own, or 64.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Documents per memory layer; without it the source's own, or 16."),
    ] = None,
    memory_layers: Annotated[
        str | None,
        typer.Option(
            metavar="I,J...", help="Layers with memory; without it the source's own, or the upper half."
        ),
    ] = None,
    routing_score: Annotated[
        Score | None, typer.Option(help="Score rule; without it the source's own, or cosine.")
    ] = None,
) -> None:
    """Make a memsparse model of a Qwen3, Qwen2, Llama, Mistral or published MSA folder."""
    try:
        layers = None if memory_layers is None else [int(part) for part in memory_layers.split(",")]
    except ValueError as error:
        raise ConfigError(f"--memory-layers is {memory_layers!r}; give layer numbers with commas") from error
    from memsparse.model.convert import convert as convert_model

    with progress("converting") as show:
        done = convert_model(
            source,
            target,
            to=to.value,
            chunk_size=chunk_size,
            top_k=top_k,
            memory_layers=layers,
            routing_score=None if routing_score is None else routing_score.value,
            on_progress=show,
        )
    say(f"{done.target}: {done.tensors} weights, {done.bytes / 2**20:.1f} MiB")
    if done.fresh_routers:
        layers_told = ", ".join(map(str, done.fresh_routers))
        note(f"the routers of layers {layers_told} start as copies of their attention; train them before use")
    if done.added_tokens:
        note(f"the tokenizer lacked {' '.join(done.added_tokens)}; added, and wants training")
    if not done.has_tokenizer:
        note("the source has no tokenizer; put a tokenizer.json into the folder before use")


app.command()(plan)


@app.command()
def doctor(model: Model = None, as_json: AsJson = False) -> None:
    """Check the installation, the machine and the model."""
    from memsparse.doctor import examine
    from memsparse.machine import load_average

    load = load_average()
    checks = examine(model)
    sound = all(check.ok for check in checks if check.needed)
    if as_json:
        show_json({"ok": sound, "load_average": load, "checks": checks})
    else:
        note_load(load)
        states = ["ok" if check.ok else "broken" if check.needed else "-" for check in checks]
        rows = [(state, check.name, check.detail) for state, check in zip(states, checks, strict=True)]
        show_rows(rows, ("state", "check", "found"))
    if not sound:
        raise typer.Exit(1)
