"""`memsparse eval ...`: measure a model, and its peers on the same inputs in the same run."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memsparse.cli_measure import (
    beside,
    check_baselines,
    conduct,
    default_document_tokens,
    default_read,
    describe_files,
    describe_inputs,
    describe_model,
    digest,
    groups,
    growing_stream,
    open_baselines,
    open_inputs,
    open_judge,
    read_conditions,
    remove_unless,
    result_path,
    token_counter,
)
from memsparse.console import note, progress, say, show_rows
from memsparse.errors import ConfigError
from memsparse.options import CommandGroup, Decoding, ListCommand, Model, Overlap, answer_settings

if TYPE_CHECKING:
    from memsparse.evaluation.results import RecordFile

app = typer.Typer(
    cls=CommandGroup,
    help="Measure retrieval, answers, needles and scaling, beside baselines.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Corpus = Annotated[
    list[Path],
    typer.Option("--corpus", metavar="PATH...", help="Documents: JSON Lines, or any files and folders."),
]
Queries = Annotated[Path, typer.Option("--queries", metavar="FILE", help="Questions, JSON Lines.")]
Baselines = Annotated[
    str, typer.Option("--baseline", metavar="A,B...", help="Peers to measure too: bm25, minilm, ...")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Questions, at most; drawn by the seed.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every draw and of the intervals.")]
Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="FIELD=VALUE", help="Only questions with this field.")
]
By = Annotated[
    str | None, typer.Option("--by", metavar="FIELD", help="Figures for each value of this field as well.")
]
Out = Annotated[
    str | None,
    typer.Option("--json", metavar="OUT", help='Result file, .gz to pack it; "-": standard output.'),
]
Read = Annotated[
    int | None,
    typer.Option(
        "--read",
        min=1,
        help="Documents a baseline reads to answer; without it 4, or 1 for a model that only quotes.",
    ),
]
JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", metavar="NAME", help="Let a model mark the answers 0 to 5.")
]
JudgeUrl = Annotated[
    str | None,
    typer.Option("--judge-url", metavar="URL", help="OpenAI-compatible endpoint; key in OPENAI_API_KEY."),
]


@app.command(cls=ListCommand)
def retrieval(
    corpus: Corpus,
    queries: Queries,
    model: Model = None,
    baseline: Baselines = "",
    limit: Limit = None,
    seed: Seed = 0,
    where: Where = None,
    by: By = None,
    out: Out = None,
) -> None:
    """Rank the documents of a corpus for each question."""
    from memsparse.evaluation.retrieval import run_retrieval, summarise_layers, summarise_retrieval

    with open_inputs(
        corpus, queries, model, baseline, limit, seed, where, ability="retrieve", out=out, by=by
    ) as inputs:

        def measure(records: "RecordFile") -> None:
            systems = inputs.systems("retrieve", records)
            with progress("questions") as show:
                run_retrieval(systems, inputs.questions, records, on_progress=show)

        def summarise(records: "RecordFile") -> dict[str, Any]:
            rows = records.records
            return {
                "systems": summarise_retrieval(rows, seed=seed),
                "layers": summarise_layers(rows, seed=seed),
                **groups(rows, by, partial(summarise_retrieval, seed=seed)),
            }

        conduct("retrieval", out, inputs.settings, ("system", "id"), measure, summarise, inputs.facts)


@app.command(cls=ListCommand)
def qa(
    corpus: Corpus,
    queries: Queries,
    model: Model = None,
    baseline: Baselines = "",
    limit: Limit = None,
    seed: Seed = 0,
    where: Where = None,
    by: By = None,
    out: Out = None,
    id_decoding: Decoding = None,
    overlap: Overlap = None,
    max_rounds: Annotated[int | None, typer.Option(help="Rounds that may read documents.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer, at most.")] = None,
    read: Read = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
) -> None:
    """Answer each question from a corpus."""
    from memsparse.evaluation.judge import agreement, prompt_digest
    from memsparse.evaluation.qa import run_qa, summarise_qa

    judge = open_judge(judge_model, judge_url)
    engine = answer_settings(id_decoding, overlap, max_rounds=max_rounds, max_new_tokens=max_new_tokens)
    with open_inputs(
        corpus,
        queries,
        model,
        baseline,
        limit,
        seed,
        where,
        ability="answer",
        out=out,
        by=by,
        read=read,
        engine=engine,
    ) as inputs:
        settings = {**inputs.settings, "read": inputs.read, **engine}
        if judge is not None:
            settings["judge"] = {"model": judge_model, "url": judge_url, "prompt_sha256": prompt_digest()}

        def measure(records: "RecordFile") -> None:
            systems = inputs.systems("answer", records)
            with progress("questions") as show:
                run_qa(systems, inputs.questions, records, judge=judge, on_progress=show)

        def summarise(records: "RecordFile") -> dict[str, Any]:
            rows = records.records
            result = {
                "systems": summarise_qa(rows, seed=seed),
                **groups(rows, by, partial(summarise_qa, seed=seed)),
            }
            if judge is not None:
                result["judge"] = agreement(row["judge"] for row in rows if "judge" in row)
            return result

        conduct("qa", out, settings, ("system", "id"), measure, summarise, inputs.facts)


@app.command(cls=ListCommand)
def needles(
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="A,B...", help="Tokens of the memory, K and M as 1024s.")
    ] = "16K,64K,256K",
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="A,B...", help="niah_single_1, ...; without it all eight."),
    ] = None,
    haystack: Annotated[
        list[Path] | None,
        typer.Option("--haystack", metavar="PATH...", help="Texts to hide needles in; without it noise."),
    ] = None,
    depths: Annotated[int, typer.Option(min=1, help="Places a needle lies at, from first to last.")] = 5,
    samples: Annotated[int, typer.Option(min=1, help="Of each task at each depth.")] = 5,
    document_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a document; without it what the model takes, or 512.")
    ] = None,
    model: Model = None,
    baseline: Baselines = "",
    seed: Seed = 0,
    out: Out = None,
    id_decoding: Decoding = None,
    overlap: Overlap = None,
    read: Read = None,
) -> None:
    """Hide sentences in a memory of any length and ask for them: RULER's eight needle tasks."""
    from memsparse.engine.loading import load_model
    from memsparse.evaluation.needle_run import run_needles, summarise_needles
    from memsparse.evaluation.needles import TASKS, NeedleConfig
    from memsparse.evaluation.questions import load_corpus
    from memsparse.evaluation.scaling import parse_tokens

    result_path(out)
    peers = check_baselines(baseline, "retrieve")
    named = TASKS if tasks is None else tuple(name.strip() for name in tasks.split(",") if name.strip())
    texts = load_corpus(haystack) if haystack else None
    loaded = load_model(model)
    config = NeedleConfig(
        tasks=named,
        lengths=tuple(parse_tokens(lengths, "--lengths")),
        depths=tuple(place / max(1, depths - 1) for place in range(depths)),
        samples=samples,
        seed=seed,
        document_tokens=document_tokens or default_document_tokens(loaded),
    )
    reads = read or default_read(loaded)
    engine = answer_settings(id_decoding, overlap)
    settings = {
        "model": describe_model(loaded),
        "haystack": describe_files(haystack or []),
        "seed": seed,
        "samples": samples,
        "depths": list(config.depths),
        "document_tokens": config.document_tokens,
        "tasks": list(config.tasks),
        "lengths": list(config.lengths),
        "baselines": peers,
        "read": reads,
        **engine,
    }
    with TemporaryDirectory(prefix="memsparse-") as folder:

        def measure(records: "RecordFile") -> None:
            with progress("needles") as show:
                run_needles(
                    loaded,
                    config,
                    texts,
                    records,
                    Path(folder),
                    peers=lambda opened: open_baselines(peers, opened, "retrieve", read=reads),
                    read=reads,
                    engine=engine,
                    on_progress=show,
                    on_note=note,
                )

        def facts(records: "RecordFile") -> dict[str, Any]:
            made = [facts for name, facts in records.marks.items() if name.startswith("length ")]
            return {name: sum(each[name] for each in made) for name in ("documents", "tokens")}

        conduct(
            "needles",
            out,
            settings,
            ("tokens", "system", "id"),
            measure,
            partial(summarise_needles, seed=seed),
            facts,
        )


@app.command(cls=ListCommand)
def scaling(
    corpus: Corpus,
    queries: Queries,
    rungs: Annotated[
        str, typer.Option("--rungs", metavar="A,B...", help="Tokens of the bank, K and M as 1024s.")
    ] = "16K,64K,256K,1M",
    distractors: Annotated[
        list[Path] | None,
        typer.Option("--distractors", metavar="PATH...", help="What banks are filled with after the corpus."),
    ] = None,
    generated: Annotated[
        bool, typer.Option(help="Go on with documents of invented worlds when all else is used up.")
    ] = True,
    answers: Annotated[bool, typer.Option(help="Ask for answers too, not for rankings alone.")] = True,
    peer_limit: Annotated[
        str | None,
        typer.Option("--peer-limit", metavar="TOKENS", help="Leave baselines out above this size."),
    ] = None,
    bank: Annotated[
        Path | None, typer.Option("--bank", metavar="DIR", help="Keep the growing bank here.")
    ] = None,
    model: Model = None,
    baseline: Baselines = "",
    limit: Limit = None,
    seed: Seed = 0,
    where: Where = None,
    out: Out = None,
) -> None:
    """Ask the same questions of a growing bank."""
    from memsparse.distributed.launch import engine_class
    from memsparse.engine.loading import load_model
    from memsparse.evaluation.questions import load_corpus, load_questions
    from memsparse.evaluation.scaling import choose_questions, parse_tokens, run_scaling, summarise_scaling

    path, listed = result_path(out), check_baselines(baseline, "retrieve")
    sizes = parse_tokens(rungs, "--rungs")
    limits = [] if peer_limit is None else parse_tokens(peer_limit, "--peer-limit")
    if len(limits) > 1:
        raise ConfigError(f"--peer-limit is {peer_limit!r}; give one size")
    most = limits[0] if limits else None
    documents = load_corpus(corpus)
    asked = load_questions(
        queries, known={document.id for document in documents}, where=read_conditions(where)
    )
    loaded = load_model(model)
    first, questions = choose_questions(
        documents, asked, tokens=sizes[0], count=token_counter(loaded), limit=limit, seed=seed
    )
    note(f"{len(questions)} of {len(asked)} questions: all their documents are in the first rung")
    filled: dict[str, int] = {}
    settings = {
        **describe_inputs(corpus, queries, loaded, limit, seed, where),
        "rungs": sizes,
        "distractors": describe_files(distractors or []),
        "generated": generated,
        "answers": answers,
        "documents": digest(documents),
        "baselines": listed,
        "peer_limit": most,
    }
    with ExitStack() as stack:
        place = bank or (None if path is None else beside(path, ".bank"))
        if path is not None and place is not None and bank is None:
            unfinished = beside(path, ".partial")
            remove_unless(place, unfinished)  # a bank without records is of a run that ended otherwise
            stack.callback(remove_unless, place, unfinished)
        folder = place or Path(stack.enter_context(TemporaryDirectory())) / "scaling.bank"
        engine = stack.enter_context(engine_class().open(folder, loaded, segment_documents=2048))
        peers = open_baselines(listed, engine, "retrieve")

        def measure(records: "RecordFile") -> None:
            stream = growing_stream(documents, distractors or [], generated, seed, filled)
            with progress("scaling") as show:
                run_scaling(
                    engine,
                    peers,
                    first,
                    questions,
                    stream,
                    sizes,
                    records,
                    answers=answers,
                    peer_limit=most,
                    on_progress=show,
                    on_note=note,
                )

        def summarise(records: "RecordFile") -> dict[str, Any]:
            told = summarise_scaling(records.records, records.marks, sizes, seed=seed)
            return {**told, "drawn": dict(filled)}

        stats = engine.bank.stats
        conduct(
            "scaling",
            out,
            settings,
            ("rung", "kind", "system", "id"),
            measure,
            summarise,
            lambda records: {"documents": stats().documents, "tokens": stats().tokens},
        )


@app.command()
def benchmarks() -> None:
    """List the question sets `export` knows: the paper's suite, and further ones."""
    from memsparse.evaluation.benchmarks import BENCHMARKS

    rows = [(each.name, each.title, each.hub_repo or "-", each.licence) for each in BENCHMARKS.values()]
    show_rows(rows, ("name", "title", "data set of the hub", "licence"))


@app.command()
def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As `benchmarks` lists it.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.", show_default=False)],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Where its files lie; without it they come from the hub."
        ),
    ] = None,
) -> None:
    """Write a benchmark as the corpus and queries the other commands take."""
    from memsparse.evaluation.benchmarks import export as export_benchmark

    for path in export_benchmark(name, source, out):
        say(str(path))


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of result files.", show_default=False)
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Page to write; DIR/report.html without it.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="The same as Markdown; DIR/report.md.")
    ] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option("--corpus", metavar="PATH", help="Show titles and texts from here.")
    ] = None,
    questions: Annotated[int, typer.Option(min=0, help="Questions shown one by one, for each file.")] = 200,
) -> None:
    """Write one page of tables, plots and single questions from a folder of results."""
    from memsparse.evaluation.report import write_report

    page, text = html or folder / "report.html", markdown or folder / "report.md"
    for line in write_report(folder, page, text, corpus=corpus, questions=questions):
        note(line)
    say(str(page))
