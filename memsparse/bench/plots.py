"""Results of benchmarks as SVG files, in the style of the evaluation's plots."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memsparse.errors import ConfigError
from memsparse.evaluation.plots import COLOURS, MARKERS, OWN_COLOUR, standalone, svg

Points = list[tuple[float, float]]


def bench_plot(result: Mapping[str, Any]) -> str:
    """Draw a result of `memsparse bench`: lines over the size, or bars where there is one size only.

    The file tells the command, commit, machine and date of the result (`measured_by`) to who opens it.

    Raises: ConfigError without matplotlib, or for a result that is none of these.
    """
    kind = str(result.get("kind"))
    if kind not in _SERIES:
        raise ConfigError(f"kind of the result is {kind!r}; draw one of {', '.join(_SERIES)}")
    series, across, told = _SERIES[kind](result)
    one = max(len(points) for points in series.values()) == 1
    drawn = svg(lambda new: (_bars if one else _lines)(new, series, across, told), told)
    return standalone(drawn, measured_by(result))


def measured_by(result: Mapping[str, Any]) -> str:
    """What a result was measured by: command, commit, machine and date, of these what it tells."""
    return "; ".join(str(result[name]) for name in ("command", "commit", "device", "date") if name in result)


def require_matplotlib() -> None:
    """Raise ConfigError where nothing can be drawn, before anything is measured."""
    svg(lambda new: new(), "nothing")


def _routing(result: Mapping[str, Any]) -> tuple[dict[str, Points], str, str]:
    series: dict[str, Points] = {}
    for size in result["sizes"]:
        for name, form in size["forms"].items():
            series.setdefault(name, []).append((size["chunks"], form["p50"]))
            if "floor_ms" in form:
                series.setdefault(f"floor {form['format']}", []).append((size["chunks"], form["floor_ms"]))
    return series, "chunks", "Routing a question over one layer, ms"


def _scale(result: Mapping[str, Any]) -> tuple[dict[str, Points], str, str]:
    series: dict[str, Points] = {"ours first token": [], "ours routing": [], "floor": []}
    for row in result["sizes"]:
        for name, value in (
            ("ours first token", row["first_token_ms"]["p50"]),
            ("ours routing", row["route_ms"]["p50"]),
            ("floor", row["floor_ms"]),
        ):
            series[name].append((row["tokens"], value))
        full = row.get("full_attention", {})
        if "first_token_ms" in full:
            series.setdefault("full attention", []).append((row["tokens"], full["first_token_ms"]["p50"]))
    return series, "tokens", "A question to its first token, ms"


def _decode(result: Mapping[str, Any]) -> tuple[dict[str, Points], str, str]:
    points = [(row["together"], row["questions_per_second"]) for row in result["together"]]
    return {"ours": points}, "questions at once", "Questions answered a second"


def _encode(result: Mapping[str, Any]) -> tuple[dict[str, Points], str, str]:
    forms = result["forms"].items()
    told = "Tokens encoded a second"
    return {_own(name): [(0.0, form["tokens_per_second"])] for name, form in forms}, "", told


_SERIES: Mapping[str, Callable[[Mapping[str, Any]], tuple[dict[str, Points], str, str]]] = {
    "bench-routing": _routing,
    "bench-scale": _scale,
    "bench-decode": _decode,
    "bench-encode": _encode,
}


def _own(name: str) -> str:
    return f"ours {name}" if name == "encode" else name


def _lines(new: Callable[..., Any], series: Mapping[str, Points], across: str, told: str) -> Any:
    canvas = new(figsize=(6.4, 3.8))
    axes = canvas.add_subplot()
    names = list(series)
    for name, points in series.items():
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, label=name, markersize=4, **_style(name, names))
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [_short(x) for x in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(across)
    axes.set_title(told, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return canvas


def _bars(new: Callable[..., Any], series: Mapping[str, Points], across: str, told: str) -> Any:
    names = list(series)[::-1]
    canvas = new(figsize=(6.4, 0.9 + 0.27 * len(names)))
    axes = canvas.add_subplot()
    for place, name in enumerate(names):
        value = series[name][0][1]
        axes.barh(place, value, 0.7, color=_style(name, list(series))["color"])
        axes.text(value, place, f" {value:,.0f}" if value >= 100 else f" {value:.3g}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(visible=False)
    axes.set_title(told, loc="left")
    return canvas


def _short(count: float) -> str:
    """A count as a short text, in powers of 1,000."""
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return f"{count:g}"


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Ours in one colour with a marker each, floors dotted, peers in the other colours."""
    own = [other for other in names if other.startswith("ours")]
    if name in own:
        marks = ("o", *MARKERS)
        return {"color": OWN_COLOUR, "marker": marks[own.index(name) % len(marks)], "linewidth": 2.2}
    floors = [other for other in names if other.startswith("floor")]
    if name in floors:
        return {"color": "#8a8a8a", "linestyle": (0, (1, 1 + floors.index(name))), "linewidth": 1.2}
    place = [other for other in names if other not in own and other not in floors].index(name)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linewidth": 1.3,
    }
