"""The `memsparse train` commands. What they run is imported when they run; see `cli`."""

import logging
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from memsparse.console import note, say, show_json, show_rows
from memsparse.errors import ConfigError, ModelError
from memsparse.options import AsJson, CommandGroup, Model
from memsparse.training.settings import read_recipe

LEFT_OPEN = "..."
"""A value that a recipe leaves to its user."""

app = typer.Typer(
    cls=CommandGroup,
    help="Train a model, fit its routers, merge adapters, mine negatives.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class Ranker(StrEnum):
    """What finds the passages that look right and are not; see `mine`."""

    BM25 = "bm25"
    ROUTER = "router"


Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Recipe: a TOML file.")]
Recipe = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME", help="Recipe of the package; see `train recipes`.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Value instead of the recipe's: seed=3, lora.rank=8."),
]
Run = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the run; one that stopped there goes on.")
]
Until = Annotated[int | None, typer.Option("--until", metavar="N", min=1, help="Stop after step N.")]


@app.command()
def pretrain(
    out: Run,
    config: Config = None,
    recipe: Recipe = None,
    sets: Sets = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Train a model from nothing, or go on from the one that `start` names.

    Under torchrun, processes train together.
    """
    values, source = _read(config, recipe, sets)
    _train(values, source, out, until, as_json)


@app.command()
def sft(
    out: Run,
    config: Config = None,
    recipe: Recipe = None,
    sets: Sets = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the model that `start` names on questions and their documents."""
    values, source = _read(config, recipe, sets)
    if "start" not in values:
        raise ConfigError(f"{source}: start is missing; name the model to fine-tune: --set start=DIR")
    _train(values, source, out, until, as_json)


def _train(values: Mapping[str, Any], source: str, out: Path, until: int | None, as_json: bool) -> None:
    from memsparse.training.checkpoint import MODEL
    from memsparse.training.config import TrainConfig
    from memsparse.training.processes import is_first, leave
    from memsparse.training.progress import METRICS
    from memsparse.training.trainer import run

    config = TrainConfig.made_of(values, source)
    try:
        with _log_lines(quiet=not is_first()):
            trainer = run(config, out, until=until)
    finally:
        leave()
    if not is_first():
        return
    if as_json:
        show_json({"step": trainer.step, "steps": config.steps, "model": str(out / MODEL)})
        return
    say(f"{out / MODEL}: step {trainer.step} of {config.steps}")
    if until is not None and until < trainer.step:
        note(f"step {until} is past: this run stands at step {trainer.step}")
    if trainer.step < config.steps:
        note(f"{config.steps - trainer.step} steps are left: the same command without --until trains them")
    else:
        note(
            f"its metrics: {out / METRICS}; ask it: memsparse ask QUESTION --docs FILES --model {out / MODEL}"
        )


@app.command()
def router(
    out: Run, config: Config = None, recipe: Recipe = None, sets: Sets = None, as_json: AsJson = False
) -> None:
    """Fit only the routers of a model to a corpus."""
    values, source = _read(config, recipe, sets)
    from memsparse.training.router import fit_router
    from memsparse.training.router_config import RouterConfig

    settings = RouterConfig.made_of(values, source)
    with _log_lines():
        report = fit_router(settings, out)
    if as_json:
        show_json(report)
        return
    say(str(report))


@app.command()
def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder.", show_default=False)],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Model folder to make.")],
    as_json: AsJson = False,
) -> None:
    """Merge a LoRA adapter into the model it was trained on."""
    if out.exists():
        raise ModelError(f"{out} exists already; remove it or choose another folder")
    import torch

    from memsparse.engine.loading import load_model
    from memsparse.model.configuration_memsparse import MemSparseConfig
    from memsparse.training.checkpoint import export_model
    from memsparse.training.lora import load_adapter, merge_lora

    model = str(Path(model).expanduser())
    with _log_lines():
        loaded = load_model(model, device="cpu", dtype=torch.float32)
        load_adapter(loaded.model, adapter)
        merge_lora(loaded.model)
        own: Any = MemSparseConfig.from_pretrained(model)
        weights: Any = loaded.model
        tokenizer: Any = loaded.tokenizer
        export_model(out, weights.to(own.dtype or torch.float32), tokenizer)
    if as_json:
        show_json({"model": str(out), "parameters": loaded.model.num_parameters()})
    else:
        say(f"{out}: {loaded.model.num_parameters()} parameters")


@app.command()
def mine(
    corpus: Annotated[Path, typer.Option("--corpus", metavar="FILE", help="Passages, JSON Lines.")],
    queries: Annotated[Path, typer.Option("--queries", metavar="FILE", help="Questions, JSON Lines.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Questions with their negatives.")],
    by: Annotated[Ranker, typer.Option("--by", help="What ranks the passages.")] = Ranker.BM25,
    model: Model = None,
    count: Annotated[int, typer.Option(min=1, help="Negatives of a question, at most.")] = 8,
    skip: Annotated[int, typer.Option(min=0, help="Wrong passages passed over at the top.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find hard negatives: passages that rank high for a question and do not answer it."""
    if model is not None and by is not Ranker.ROUTER:
        raise ConfigError(f"--model is {model!r}, but {by.value} ranks; add --by router, or leave it out")
    from memsparse.training.mining import mine_bm25, mine_router

    with _log_lines():
        if by is Ranker.BM25:
            report = mine_bm25(corpus, queries, out, count=count, skip=skip)
        else:
            report = mine_router(model, corpus, queries, out, count=count, skip=skip)
    if as_json:
        show_json(report)
    else:
        say(f"{out}: {report.negatives} negatives for {report.mined} of {report.questions} questions")


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One to print, to change a copy.")
    ] = None,
) -> None:
    """List the recipes of the package, and what each is for; or print one of them."""
    if name is not None:
        say(_shipped_recipe(name).read_text(encoding="utf-8").rstrip())
        return
    show_rows([(name, _purpose(path)) for name, path in _shipped().items()], ("name", "for"))


# --- recipes ----------------------------------------------------------------------------------------------


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("memsparse").joinpath("training", "recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _shipped_recipe(name: str) -> Path:
    """Where a recipe of the package lies.

    Raises: ConfigError if there is none of this name.
    """
    shipped = _shipped()
    if name not in shipped:
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(shipped)}")
    return shipped[name]


def _purpose(path: Path) -> str:
    """The first line of a recipe, a comment, as text."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _read(config: Path | None, recipe: str | None, sets: list[str] | None) -> tuple[dict[str, Any], str]:
    """The values of a recipe with those of `--set` in their place, and how messages name where they are from.

    Raises: ConfigError for a recipe that cannot be read, a `--set` that cannot be understood, and a value
        that is still left open.
    """
    if (config is None) == (recipe is None):
        raise ConfigError("give --config with a TOML file, or --recipe with a name, and not both")
    path = config or _shipped_recipe(recipe or "")
    values, named = read_recipe(path), f"recipe {recipe}" if recipe else str(path)
    for setting in sets or []:
        _set(values, setting)
    if open_key := _left_open(values):
        raise ConfigError(f"{named} leaves {open_key} to you; give --set {open_key}=...")
    return values, f"{named} with --set" if sets else named


def _set(values: dict[str, Any], setting: str) -> None:
    """Put one KEY=VALUE in its place; tables on the way are made."""
    key, equals, text = setting.partition("=")
    *tables, last = (part.strip() for part in key.split("."))
    if not equals or not all([*tables, last]):
        raise ConfigError(f"--set is {setting!r}; write KEY=VALUE, such as seed=3 or optimizer.other_lr=1e-3")
    place: Any = values
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise ConfigError(
                f"--set is {setting!r}, but {table} is no table; change a copy (memsparse train recipes NAME)"
            )
    place[last] = _value(text)


def _value(text: str) -> Any:
    """A TOML value; a text that is none, such as a path, stands for itself."""
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if read.keys() == {"value"} else text


def _left_open(values: Mapping[str, Any], above: str = "") -> str | None:
    """The key of the first value that is left to the user."""
    for key, value in values.items():
        if value == LEFT_OPEN:
            return above + key
        if isinstance(value, dict) and (found := _left_open(value, f"{above}{key}.")):
            return found
    return None


@contextmanager
def _log_lines(*, quiet: bool = False) -> Iterator[None]:
    """Show what the package logs, a line each, while the block runs; warnings alone if it is to be quiet."""
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log = logging.getLogger("memsparse")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
