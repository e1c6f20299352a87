"""`memsparse bench ...`: speed and memory, beside peers in the same run and the machine's own limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memsparse.cli_plan import Shape, duration, named_config, note_load, size
from memsparse.console import note, say, show_json, show_rows
from memsparse.errors import ConfigError, InputError
from memsparse.options import CommandGroup, KeyFormat, Model, tier_settings

if TYPE_CHECKING:
    import torch

    from memsparse.engine.loading import LoadedModel

app = typer.Typer(
    cls=CommandGroup,
    help="Measure speed and memory, beside peers on the same inputs and the machine's own limits.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Out = Annotated[
    str | None,
    typer.Option("--json", metavar="OUT", help='Result file, .gz to pack it; "-": standard output.'),
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="OUT", help="Draw the result as SVG.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="D", help="cpu, cuda; without it the accelerator if any.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Of the CPU; without it torch's own choice.")
]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Times everything is measured.")]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0.0, help="Spent on each figure of the machine itself.")
]


@app.command()
def routing(
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="A,B...", help="Tokens of the bank: 1M,10M,100M.")
    ] = None,
    chunks: Annotated[
        str | None, typer.Option("--chunks", metavar="A,B...", help="Chunks instead; 131072 without either.")
    ] = None,
    model: Model = None,
    shape: Shape = None,
    keys: Annotated[
        str,
        typer.Option("--keys", metavar="A,B...", help="Formats of the keys: float32, bf16, fp8, int8, ..."),
    ] = "float32,bf16,int8",
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure the others too.")] = True,
    question_tokens: Annotated[int, typer.Option(min=1, help="Of a question; all route.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Questions routed together.")] = 1,
    top_k: Annotated[int | None, typer.Option(min=1, help="Documents; without it the model's own.")] = None,
    questions: Annotated[int, typer.Option(min=0, help="Random questions that are certified.")] = 64,
    repeats: Repeats = 9,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    device: Device = None,
    threads: Threads = None,
    seconds: Seconds = 0.5,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """One question over one memory layer of random keys, at a model's shape (without one: 4b)."""
    from memsparse.bench.routing import measure_routing
    from memsparse.engine.hardware import read_counts

    if tokens is not None and chunks is not None:
        raise ConfigError("--tokens and --chunks exclude each other; give one")
    config = named_config(model, shape or (None if model else "4b"))
    place = _start(device, threads, out, plot)
    counts = (
        [max(1, count // config.chunk_size) for count in read_counts(tokens, "--tokens")]
        if tokens is not None
        else read_counts(chunks or "131072", "--chunks")
    )
    result = measure_routing(
        config,
        counts,
        place,
        formats=[name.strip() for name in keys.split(",")],  # type: ignore[misc]  # it checks them itself
        with_peers=peers,
        tokens=question_tokens,
        batch=batch,
        top_k=top_k,
        repeats=repeats,
        questions=questions,
        seed=seed,
        seconds=seconds,
        note=note,
    )
    _finish(result, out, plot)


@app.command()
def encode(
    tokens: Annotated[str, typer.Option("--tokens", metavar="N", help="Tokens to encode.")] = "64k",
    model: Model = None,
    shape: Shape = None,
    document_tokens: Annotated[
        int | None, typer.Option(min=16, help="Of a document, at most; without it what the model takes.")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Encoded together, padding included.")] = 8192,
    repeats: Repeats = 5,
    device: Device = None,
    threads: Threads = None,
    seconds: Seconds = 0.5,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Documents of invented text to chunks: tokens a second, and the share of the matrix peak."""
    from memsparse.bench.encode import measure_encode
    from memsparse.engine.hardware import read_count

    count, place = read_count(tokens, "--tokens"), _start(device, threads, out, plot)
    result = measure_encode(
        _loaded(model, shape, place),
        count,
        document_tokens=document_tokens,
        batch_tokens=batch_tokens,
        repeats=repeats,
        seconds=seconds,
        note=note,
    )
    _finish(result, out, plot)


@app.command()
def decode(
    documents: Annotated[
        int, typer.Option(min=1, help="Documents of the bank, of an invented world.")
    ] = 1000,
    questions: Annotated[
        int, typer.Option(min=1, help="Questions put to it; better 100 for each at once.")
    ] = 320,
    together: Annotated[
        str, typer.Option("--together", metavar="A,B...", help="Questions under way at a time.")
    ] = "1,2,4,8,16",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer, at most.")] = 64,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer several questions; one is answered by one.")
    ] = 1,
    model: Model = None,
    shape: Shape = None,
    device: Device = None,
    threads: Threads = None,
    seconds: Seconds = 0.5,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """Whole answers over an invented world, one at a time and several at once."""
    from memsparse.bench.decode import measure_decode
    from memsparse.engine.hardware import read_counts

    if shape is not None and workers > 1:
        raise ConfigError(f"workers is {workers}; other processes cannot load the weights of a --shape")
    counts, place = read_counts(together, "--together"), _start(device, threads, out, plot)
    result = measure_decode(
        _loaded(model, shape, place),
        documents=documents,
        questions=questions,
        together=counts,
        seconds=seconds,
        workers=workers,
        exact=shape is None,
        note=note,
        max_new_tokens=max_new_tokens,
    )
    _finish(result, out, plot)


@app.command()
def scale(
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="A,B...", help="Tokens of the bank, in turn.")
    ] = "1M,10M",
    model: Model = None,
    shape: Shape = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Keep the bank here, and go on with one that is here."),
    ] = None,
    document_chunks: Annotated[int, typer.Option(min=1, help="Mean of a document.")] = 8,
    routing_keys: KeyFormat = None,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure full attention too.")] = True,
    repeats: Repeats = 5,
    device: Device = None,
    threads: Threads = None,
    seconds: Seconds = 0.5,
    out: Out = None,
    plot: Plot = None,
) -> None:
    """A question to its first token over banks of random latents that grow, on the disk as any other."""
    from memsparse.bench.scale import measure_scale
    from memsparse.engine.hardware import read_counts

    sizes, place = read_counts(tokens, "--tokens"), _start(device, threads, out, plot)
    result = measure_scale(
        _loaded(model, shape, place),
        sizes,
        tiers=tier_settings(routing_keys, None, None).get("tiers"),
        keep=keep,
        document_chunks=document_chunks,
        repeats=repeats,
        with_peer=peers,
        seconds_each=seconds,
        note=note,
    )
    _finish(result, out, plot)


# --- beginning and end ------------------------------------------------------------------------------------


def _start(device: str | None, threads: int | None, out: str | None, plot: Path | None) -> "torch.device":
    """Check where results go before the long work, and name the device."""
    import torch

    from memsparse.cli_measure import result_path
    from memsparse.engine.loading import choose_device

    result_path(out)
    if plot is not None:
        if plot.is_dir():
            raise InputError(f"--plot is {str(plot)!r}; name a file")
        from memsparse.bench.plots import require_matplotlib

        require_matplotlib()
    if threads is not None:
        torch.set_num_threads(threads)
    return choose_device(device)


def _loaded(model: str | None, shape: str | None, device: "torch.device") -> "LoadedModel":
    """A model, or one of random weights at a published shape."""
    if shape is None:
        from memsparse.engine.loading import load_model

        return load_model(model, device=device)
    from memsparse.bench.latents import random_model

    return random_model(named_config(model, shape), device)


def _finish(result: Mapping[str, Any], out: str | None, plot: Path | None) -> None:
    """Write the result, draw it, and show it unless it is on the screen already."""
    from memsparse.cli_measure import result_path
    from memsparse.evaluation.results import write_result

    path = result_path(out)
    if path is not None:
        write_result(path, result)
    if plot is not None:
        from memsparse.bench.plots import bench_plot

        try:
            plot.parent.mkdir(parents=True, exist_ok=True)
            plot.write_text(bench_plot(result) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{plot}: {error.strerror or error}; choose another --plot") from error
    if out == "-":
        show_json(result)
    else:
        _show(result)


# --- tables -----------------------------------------------------------------------------------------------


def _show(result: Mapping[str, Any]) -> None:
    machine = result["machine"]
    note_load(machine["load_average"])
    peaks = ", ".join(f"{peak / 1e12:.3g} TFLOP/s in {name}" for name, peak in machine["peaks"].items())
    say(f"{result['device']}: reads {machine['bandwidth'] / 1e9:.4g} GB/s, {peaks}", dim=True)
    tables = {
        "bench-routing": _show_routing,
        "bench-encode": _show_encode,
        "bench-decode": _show_decode,
        "bench-scale": _show_scale,
    }
    tables[result["kind"]](result)


def _show_routing(result: Mapping[str, Any]) -> None:
    for bank in result["sizes"]:
        say(
            f"{bank['chunks']:,} chunks, {bank['documents']:,} documents, {bank['tokens']:,} tokens",
            bold=True,
        )
        rows = []
        for name, form in bank["forms"].items():
            ours = form["format"] is not None
            share = f"{form['certified']:.0%}" if ours and form["certified"] is not None else ""
            rows.append(
                (
                    name,
                    duration(form["p50"] / 1e3),
                    _bytes(form["peak_bytes"]),
                    f"{form['fraction_of_floor']:.2f} ({form['bound']})" if ours else "",
                    f"{form['scan_fraction_of_floor']:.2f}" if ours else "",
                    _times(form["faster_than"], "published") if ours else "",
                    _times(form["faster_than"], "faiss flat") if ours else "",
                    f"{form['key_bytes_of_bf16']:.2f}" if ours else "",
                    share,
                    f"{form['rescored_documents'] or 0:.0f}" if ours else "",
                    "" if form["recall"] is None else f"{form['recall']:.3f}",
                )
            )
        head = ("form", "p50", "memory", "of the floor", "scan alone", "x published", "x faiss flat")
        show_rows(rows, (*head, "bytes / bf16", "certified", "rescored", "recall"), always_head=True)


def _show_encode(result: Mapping[str, Any]) -> None:
    rows = [
        (
            name,
            duration(form["p50"] / 1e3),
            f"{form['tokens_per_second']:,.0f}",
            f"{form['fraction_of_peak']:.2f}",
            _bytes(form["peak_bytes"]),
        )
        for name, form in result["forms"].items()
    ]
    show_rows(rows, ("pass", "p50", "tokens/s", "of the matrix peak", "memory"), always_head=True)


def _show_decode(result: Mapping[str, Any]) -> None:
    rows = [
        (
            row["together"],
            f"{row['questions_per_second']:.2f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['times_one']:.2f}",
            duration(row["latency_ms"]["p50"] / 1e3) if "latency_ms" in row else "",
        )
        for row in result["together"]
    ]
    show_rows(rows, ("at once", "questions/s", "tokens/s", "x one", "latency"), always_head=True)


def _show_scale(result: Mapping[str, Any]) -> None:
    rows = []
    for row in result["sizes"]:
        full = row.get("full_attention", {}).get("first_token_ms")
        rows.append(
            (
                f"{row['tokens']:,}",
                row["routing_keys"],
                duration(row["first_token_ms"]["p50"] / 1e3),
                duration(row["route_ms"]["p50"] / 1e3),
                f"{row['fraction_of_floor']:.2f}",
                duration(full["p50"] / 1e3) if full else "",
                size(row["key_bytes"]),
                size(row["bank_bytes"]),
                _bytes(row["peak_bytes"]),
                "" if row["certified"] is None else f"{row['certified']:.0%}",
            )
        )
    head = ("tokens", "keys", "first token", "route", "of the floor", "full attention")
    show_rows(rows, (*head, "key bytes", "bank", "memory", "certified"), always_head=True)


def _bytes(count: int | None) -> str:
    return "" if count is None else size(count)


def _times(ratios: Mapping[str, float], name: str) -> str:
    return f"{ratios[name]:.1f}" if name in ratios else ""
