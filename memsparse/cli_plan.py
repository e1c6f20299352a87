"""`memsparse plan`: what a memory of so many tokens takes, where it fits, and how fast it answers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memsparse.console import note, say, show_json, show_rows
from memsparse.errors import ConfigError, MemSparseError
from memsparse.options import AsJson, KeyFormat, Model

if TYPE_CHECKING:
    from memsparse.engine.hardware import Hardware
    from memsparse.engine.plan import Plan, Rates
    from memsparse.model.configuration_memsparse import MemSparseConfig
    from memsparse.ops.quantization import KeyFormat as Format

Shape = Annotated[
    str | None, typer.Option("--shape", metavar="NAME", help="A published shape instead of a model: 4b.")
]
_REHEARSED = 2**28
"""Bytes of weights up to which a model is tried without being asked to: it takes some ten seconds."""
_TIMES = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def plan(
    tokens: Annotated[
        str,
        typer.Option("--tokens", metavar="N", help="Tokens to remember: 64k, 100M, 1.5B (powers of 1,000)."),
    ] = "100M",
    model: Model = None,
    shape: Shape = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", metavar="NxCARD", help="1x80GB, 2xh100, h200 or none; without it this machine as it is."
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="SIZE", help="Host memory; without it this machine's.")
    ] = None,
    document_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a document in the mean; without it the most the model encodes."),
    ] = None,
    routing_keys: KeyFormat = None,
    rehearse: Annotated[
        bool | None,
        typer.Option(
            "--rehearse/--no-rehearse",
            help="Try the model on this machine for its times; without it if it is small, and at hand.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a memory takes, what fits where, and the times to expect, before building it."""
    from memsparse.engine.hardware import read_count, read_hardware
    from memsparse.engine.plan import plan_memory, weight_bytes

    count = read_count(tokens, "--tokens")
    config = named_config(model, shape)
    is_here = shape is None and (gpu is None or gpu.strip().lower() == "none")
    if rehearse and not is_here:
        other = "--gpu" if shape is None else "--shape"
        raise ConfigError(f"--rehearse tries a model on this machine; leave it out, or {other}")
    hardware = read_hardware(gpu, host)
    by_itself = is_here and _is_at_hand(model) and weight_bytes(config) <= _REHEARSED
    tries = by_itself if rehearse is None else rehearse
    rates = tried(model, hardware, document_tokens, must=bool(rehearse)) if tries else None
    found = plan_memory(
        config,
        hardware,
        count,
        document_tokens=document_tokens,
        routing_keys=str(routing_keys or "auto"),
        rates=rates,
    )
    if as_json:
        show_json(found)
    else:
        note_load(found.hardware.load_average)
        _show(found, shape or model or "the built-in model")


def tried(
    model: str | None, hardware: "Hardware", document_tokens: int | None, *, must: bool
) -> "Callable[[Format], Rates] | None":
    """What tells how long the model takes on this machine; None where it cannot be loaded, and need not be.

    Raises: ModelError where it must.
    """
    import torch

    from memsparse.bench.rehearsal import rehearse
    from memsparse.engine.loading import load_model

    accelerator = torch.accelerator.current_accelerator() if hardware.accelerators else None
    try:
        loaded = load_model(model, device=str(accelerator or "cpu"))
    except MemSparseError as error:
        if must:
            raise
        note(f"the model is not tried: {error}", dim=True)
        return None
    note("trying the model for some ten seconds; --no-rehearse leaves it out", dim=True)
    return lambda key_format: rehearse(loaded, key_format, document_tokens=document_tokens)


def _is_at_hand(model: str | None) -> bool:
    """Whether nothing has to be fetched: the built-in model, or a folder."""
    return model is None or Path(model).is_dir()


def note_load(load: float | None) -> None:
    """Warn of figures that a busy machine makes slow."""
    from memsparse.machine import busy

    if load is not None and busy(load):
        note(f"the machine is busy (load average {load:g}): figures come out slow; measure again when idle")


def named_config(model: str | None, shape: str | None) -> "MemSparseConfig":
    """The configuration of a model, or of a published shape; of the built-in model without either.

    Raises: ConfigError for both at once, or an unknown shape; ModelError.
    """
    if model is not None and shape is not None:
        raise ConfigError(f"--model {model} and --shape {shape} exclude each other; give one")
    if shape is not None:
        from memsparse.model.shapes import shape_config

        return shape_config(shape)
    from memsparse.engine.loading import model_config

    return model_config(model)


def _show(plan: "Plan", model: str) -> None:
    memory = plan.memory
    counts = f"{memory.tokens:,} tokens, {memory.documents:,} documents, {memory.chunks:,} chunks"
    say(f"{counts}, for {model}", bold=True)
    say(f"{plan.hardware.name}: routing keys in {plan.routing_keys}, scanned from the {plan.routing_keys_in}")
    rows: list[tuple[str, ...]] = []
    for tier in plan.tiers:
        rows += [(tier.name, item.what, size(item.bytes), "", "") for item in tier.items]
        room = "" if tier.capacity is None else size(tier.capacity)
        less = "the rest is read from the disk" if tier.name == "host" else "does not fit"
        state = "" if tier.capacity is None else "fits" if tier.fits else less
        rows.append((tier.name, "all", size(tier.bytes), room, state))
    show_rows(rows, ("tier", "what", "bytes", "room", ""))
    question = plan.question
    say()
    say("times to expect", bold=True)
    show_rows(
        [
            ("encode", duration(plan.encode_seconds), ""),
            ("route", duration(question.route), f"bound by {question.bound}"),
            ("fetch", duration(question.fetch), ""),
            ("prefill", duration(question.prefill), ""),
            ("first token", duration(question.first_token), ""),
        ],
        ("step", "time", ""),
    )
    say()
    say("routing keys of all layers, by format", bold=True)
    show_rows([(name, size(taken)) for name, taken in plan.key_bytes.items()], ("format", "bytes"))
    for line in plan.assumptions:
        note(f"assumed: {line}", dim=True)


def size(count: float) -> str:
    """Bytes as a short text, in powers of 1,000."""
    return next((f"{count / scale:.1f} {unit}" for scale, unit in _SIZES if count >= scale), f"{count:.0f} B")


def duration(seconds: float) -> str:
    """Seconds as a short text."""
    found = next(((scale, unit) for scale, unit in _TIMES if seconds >= scale), (1e-6, "us"))
    return f"{seconds / found[0]:.3g} {found[1]}"
