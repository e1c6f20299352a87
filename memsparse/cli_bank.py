"""The `memsparse bank` commands. What they run is imported when they run; see `cli`."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import typer

from memsparse.console import (
    SkipNotes,
    excerpt,
    full_id,
    note,
    nothing_there,
    one_line,
    progress,
    report_line,
    say,
    show_json,
    show_rows,
)
from memsparse.errors import InputError
from memsparse.options import (
    AsJson,
    AsOf,
    BankPath,
    CommandGroup,
    DeviceBytes,
    HostBytes,
    KeyFormat,
    Lean,
    Model,
    Namespace,
    OwnNamespace,
    Probes,
    Strict,
    UseIndex,
    tier_settings,
)

app = typer.Typer(
    cls=CommandGroup,
    help="Make, change and read memory banks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

DocumentIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of documents.", show_default=False)]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many.")]


@app.command()
def create(directory: BankPath, model: Model = None) -> None:
    """Make an empty bank for a model."""
    from memsparse.bank import Bank
    from memsparse.engine.loading import fingerprint, load_model

    loaded = load_model(model)
    Bank.create(directory, fingerprint(loaded)).close()
    say(f"{directory}: an empty bank for the model {loaded.name}")


@app.command()
def add(
    directory: BankPath,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help='Files and folders; "-": standard input.', show_default=False),
    ],
    model: Model = None,
    namespace: OwnNamespace = "default",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Add documents; those that are there already and did not change cost nothing.

    A document's id is its path below the folder named, or the file's name: another of the same id takes its
    place. Give folders with equal names in them a --namespace each.
    """
    from memsparse.sources import read_documents

    skips = SkipNotes()
    documents = read_documents(paths, namespace=namespace, strict=strict, on_skip=skips)
    from memsparse.distributed.launch import engine_class

    with engine_class().open(directory, model, create=False) as engine, progress("encoding") as show:
        report = engine.add(documents, on_progress=lambda state: show(state.documents, state.total))
    if not report.added + report.updated + report.unchanged:
        raise InputError(f"no documents in {', '.join(paths)}; name files or folders with text")
    if as_json:
        show_json({**dataclasses.asdict(report), "skipped": skips.count})
    else:
        say(report_line(report, skips.count))


@app.command("list")
def list_documents(
    directory: BankPath, namespace: Namespace = None, limit: Limit = None, as_json: AsJson = False
) -> None:
    """List documents in the order they were added."""
    from memsparse.bank import Bank

    with Bank.open(directory) as bank:
        documents = bank.documents(namespace=namespace, limit=limit)
    if as_json:
        show_json({"documents": documents})
        return
    if not documents:
        note(nothing_there(directory, namespace))
    rows = [(info.id, info.namespace, info.tokens, _day(info.created), info.title) for info in documents]
    show_rows(rows, ("id", "namespace", "tokens", "added", "title"))


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d")


@app.command()
def show(
    directory: BankPath,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the document.", show_default=False)],
    namespace: OwnNamespace = "default",
    as_json: AsJson = False,
) -> None:
    """Print the text of a document."""
    from memsparse.bank import Bank

    with Bank.open(directory) as bank:
        text = bank.document_text(document_id, namespace)
        if as_json:
            about = next(info for info in bank.documents(namespace=namespace) if info.id == document_id)
            show_json({"text": text, "document": about})
        else:
            say(text)


@app.command()
def search(
    directory: BankPath,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)],
    model: Model = None,
    namespace: Namespace = None,
    as_of: AsOf = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Passages to show.")] = 16,
    as_json: AsJson = False,
    routing_keys: KeyFormat = None,
    device_bytes: DeviceBytes = None,
    host_bytes: HostBytes = None,
    index: UseIndex = None,
    probes: Probes = None,
    lean: Lean = None,
) -> None:
    """Show the passages the router finds for a query, best first, without answering."""
    from memsparse.distributed.launch import engine_class

    settings = tier_settings(routing_keys, device_bytes, host_bytes, index, probes, lean)
    with engine_class().open(directory, model, create=False, **settings) as engine:
        hits = engine.search(query, limit=limit, namespace=namespace, version=as_of)
    if as_json:
        show_json({"query": query, "hits": hits})
        return
    if not hits:
        note(nothing_there(directory, namespace))
    for hit in hits:
        say(f"{hit.score:.4f}  {one_line(full_id(hit.citation))}", bold=True)
        say(f"    {excerpt(hit.citation.text)}")


@app.command()
def remove(directory: BankPath, document_ids: DocumentIds, namespace: OwnNamespace = "default") -> None:
    """Remove documents; if one of them is not there, none is removed."""
    from memsparse.bank import Bank

    with Bank.open(directory) as bank:
        count = bank.remove(document_ids, namespace=namespace)
    say(f"removed: {count}")


@app.command()
def stats(directory: BankPath, as_json: AsJson = False) -> None:
    """Count what a bank holds."""
    from memsparse.bank import Bank

    with Bank.open(directory) as bank:
        counts = dataclasses.asdict(bank.stats())
    if as_json:
        show_json(counts)
        return
    namespaces = counts.pop("namespaces")
    rows = [*counts.items(), *((f"namespace {name}", count) for name, count in namespaces.items())]
    show_rows(rows, ("what", "count"))


@app.command()
def index(directory: BankPath) -> None:
    """Make what is missing of the index for --index cells; the first question does so otherwise."""
    from memsparse.bank import Bank

    with Bank.open(directory) as bank, progress("making the index") as show:
        chunks = bank.make_index(show)
    told = f"{chunks:,} chunks have an index" if chunks else "too small for an index; a scan is as fast"
    say(f"{directory}: {told}")


@app.command()
def verify(directory: BankPath, as_json: AsJson = False) -> None:
    """Read a whole bank and say what is wrong with it; exit 1 if anything is."""
    from memsparse.bank import Bank

    # Not read-only: what a killed writer left is no damage, and opening the bank removes it.
    with Bank.open(directory) as bank:
        problems = bank.verify()
    if as_json:
        show_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems or ["sound"]:
            say(f"{directory}: {problem}")
    if problems:
        raise typer.Exit(1)
