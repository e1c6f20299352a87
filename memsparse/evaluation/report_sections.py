"""What a report shows of one result file: facts, tables, plots and single questions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memsparse.evaluation.figures import OWN, figure, interval, label, mapping, plain, sequence, shown, size
from memsparse.evaluation.plots import bars, heat_map, scaling_plot
from memsparse.evaluation.report_entries import Entry, Excerpts, chosen, entry_of
from memsparse.evaluation.report_tables import (
    Table,
    corpus_text,
    facts_of,
    failures_of,
    rung_name,
    tables_of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawing and the name of its file."""

    name: str
    svg: str
    aside: bool = False
    """Whether it is folded away at first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """What the page shows of one result file."""

    anchor: str
    file: str
    kind: str
    partial: bool
    corpus: str
    systems: tuple[str, ...]
    headline: str
    """The model's main figure."""
    facts: tuple[tuple[str, str], ...]
    failures: tuple[str, ...]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    entries: tuple[Entry, ...]
    records: int
    """Records in the file, shown or not."""


def plots_of(result: Mapping[str, Any]) -> tuple[Plot, ...]:
    """Every plot a result file has something for.

    Raises: ConfigError without matplotlib.
    """
    kind = result["kind"]
    if kind == "scaling":
        plots = [Plot(name="scaling", svg=scaling_plot(result))]
    elif kind == "needles":
        records = [record for record in sequence(result.get("records")) if isinstance(record, dict)]
        systems = dict.fromkeys(str(record.get("system")) for record in records)
        tasks = dict.fromkeys(str(record["task"]) for record in records if record.get("task"))
        names = sorted(systems, key=lambda name: name != OWN)
        plots = [
            Plot(name=f"depth-{place}", svg=heat_map(result, system=name))
            for place, name in enumerate(names, start=1)
        ]
        if len(tasks) > 1:
            plots += [
                Plot(
                    name=f"depth-{place}-{number_}", svg=heat_map(result, task=task, system=name), aside=True
                )
                for place, name in enumerate(names, start=1)
                for number_, task in enumerate(tasks, start=1)
            ]
    else:
        plots = [Plot(name="bars", svg=bars(result))]
    return tuple(plot for plot in plots if plot.svg)


def section_of(
    place: int,
    name: str,
    result: Mapping[str, Any],
    plots: tuple[Plot, ...],
    excerpts: Excerpts,
    questions: int,
) -> Section:
    """Everything about the file `name`, the `place`-th of the report."""
    records = sequence(result.get("records"))
    return Section(
        anchor=f"result-{place}",
        file=plain(name),
        kind=str(result["kind"]),
        partial=bool(result.get("partial")),
        corpus=plain(corpus_text(mapping(result.get("corpus")))),
        systems=tuple(map(plain, mapping(result.get("systems")))),
        headline=_headline(result),
        facts=tuple(facts_of(result)),
        failures=tuple(failures_of(result)),
        tables=tuple(tables_of(result)),
        plots=plots,
        entries=tuple(entry_of(record, excerpts) for record in chosen(records, questions)),
        records=len(records),
    )


def _headline(result: Mapping[str, Any]) -> str:
    """The model's main figure, at the first and the last rung where there are several."""
    own = mapping(mapping(result.get("systems")).get(OWN))
    if result["kind"] == "needles":
        lengths = sorted(int(metric[8:]) for metric in own if re.fullmatch(r"needles@\d+", metric))
        told = [f"{shown('', figure(own, f'needles@{each}').value)} % at {size(each)}" for each in lengths]
        return f"found {', '.join(dict.fromkeys((told[0], told[-1])))}" if told else ""
    metric = "f1" if result["kind"] == "qa" else "recall@1"
    rungs = [mapping(rung) for rung in sequence(result.get("rungs"))]
    if len(rungs) > 1:
        ends = [(rung_name(rung), figure(mapping(rung.get("systems")).get(OWN), metric)) for rung in rungs]
        told = [f"{shown(metric, each.value)} % at {name}" for name, each in (ends[0], ends[-1])]
        return f"{label(metric)} {', '.join(told)}"
    each = figure(own, metric)
    if each.value is None:
        return ""
    around = interval(metric, each)
    return f"{label(metric)} {shown(metric, each.value)} %" + (f" ({around})" if around else "")
