"""Results as SVG, to be put into a page: text stays text, lines and letters take the page's colour.

`standalone` makes a file of its own of one. Same result, same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any
from zlib import crc32

from memsparse.errors import ConfigError
from memsparse.evaluation.figures import (
    OWN,
    figure,
    is_share,
    label,
    mapping,
    number,
    plain,
    sequence,
    shown,
    size,
)

CURVES = ("recall@1", "recall@16", "f1", "search_seconds")
"""Panels of a scaling plot, of those that were measured."""
BARS: Mapping[str, Sequence[str]] = {
    "retrieval": ("recall@1", "recall@5", "recall@16", "all@16", "mrr@10", "ndcg@10"),
    "qa": ("exact_match", "f1", "contains", "citation_precision", "citation_recall", "refused"),
}
"""Groups of a bar plot, of those that were measured."""

_INK, _RULE = "#010203", "#040506"  # stand for the page's colours until the SVG is finished
_DARK, _PALE = "#1c1c1c", "#b9b9b9"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "memsparse",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "axes.edgecolor": _RULE,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "legend.borderpad": 0,
}
OWN_COLOUR = "#2b7bd0"
COLOURS = ("#d9822b", "#2a9d78", "#b8569b", "#8e7cc3", "#a8842c", "#6c9a2f", "#c4564a")
MARKERS = ("s", "^", "D", "v", "P", "X", "*")
_NAME = 28
"""Characters of a name in a plot, at most."""
_DEPTHS = 11
"""Rows of a heat map, at most."""


def scaling_plot(result: Mapping[str, Any], *, metrics: Sequence[str] | None = None) -> str:
    """Curves over the tokens of the bank, one for each system, with a band where there are intervals.

    Args:
        metrics: one panel for each; `CURVES` without it.

    Returns: SVG; "" where no rung has any of the metrics.
    Raises: ConfigError without matplotlib.
    """
    rungs = [
        rung for rung in map(mapping, sequence(result.get("rungs"))) if (number(rung.get("tokens")) or 0) > 0
    ]
    names = _systems(mapping(rung.get("systems")) for rung in rungs)

    def points(name: str, metric: str) -> list[tuple[float, Any]]:
        return [
            (float(rung["tokens"]), figure(mapping(rung.get("systems")).get(name), metric)) for rung in rungs
        ]

    drawn = [
        metric
        for metric in (CURVES if metrics is None else metrics)
        if any(found.value is not None for name in names for _, found in points(name, metric))
    ]
    if not drawn:
        return ""
    ticks = [(float(rung["tokens"]), size(number(rung.get("rung")) or rung["tokens"])) for rung in rungs]
    ticks = ticks[:: -(-len(ticks) // 7)]

    def draw(new_figure: Callable[..., Any]) -> Any:
        rows = -(-len(drawn) // 2)
        canvas = new_figure(figsize=(4.3 * min(2, len(drawn)), 0.5 + 2.7 * rows))
        for place, metric in enumerate(drawn, start=1):
            axes = canvas.add_subplot(rows, min(2, len(drawn)), place)
            for name in names:
                _curve(axes, points(name, metric), metric, **_style(name, names))
            axes.set_xscale("log", base=2)
            axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
            axes.minorticks_off()
            axes.set_xlabel("tokens in the bank")
            axes.set_title(label(metric) + (", %" if is_share(metric) else ""), loc="left")
            _share_axis(axes) if is_share(metric) else _time_axis(axes, metric)
        _legend(canvas, names)
        return canvas

    told = ", ".join(label(metric) for metric in drawn)
    return svg(draw, f"{told} of {', '.join(names)} while the bank grows to {ticks[-1][1]} tokens")


def heat_map(result: Mapping[str, Any], *, task: str | None = None, system: str = OWN) -> str:
    """Share of needles found, by length (columns) and depth (rows).

    Args:
        task: of this task alone; the mean over all records without it.

    Returns: SVG; "" where no record tells length, depth and score.
    Raises: ConfigError without matplotlib.
    """
    cells = _needle_cells(result, task, system)
    if not cells:
        return ""
    lengths = sorted({length for length, _ in cells})
    depths = sorted({depth for _, depth in cells})

    def draw(new_figure: Callable[..., Any]) -> Any:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list(
            "found", ["#b3402e", "#e8b95b", "#f4eecb", "#7fb8a4", "#20716b"]
        )
        canvas = new_figure(figsize=(max(3.6, 1.6 + 0.75 * len(lengths)), 1.2 + 0.32 * len(depths)))
        axes = canvas.add_subplot()
        for (length, depth), scores in cells.items():
            x, y, mean = lengths.index(length), depths.index(depth), fmean(scores)
            red, green, blue, _ = colours(mean)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            axes.fill(
                [x - 0.48, x + 0.48, x + 0.48, x - 0.48],
                [y - 0.47, y - 0.47, y + 0.47, y + 0.47],
                color=colours(mean),
                linewidth=0,
            )
            axes.text(
                x, y, f"{100 * mean:.0f}", ha="center", va="center", color="#ffffff" if dark else "#1c1c1c"
            )
        axes.set_xticks(range(len(lengths)), [size(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f}" for depth in depths])
        axes.set_xlim(-0.55, len(lengths) - 0.45)
        axes.set_ylim(len(depths) - 0.45, -0.55)
        axes.set_xlabel("tokens a question sees")
        axes.set_ylabel("depth, %")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(f"{_short(system)}: {_short(task or 'all tasks')}, found %", loc="left")
        return canvas

    return svg(draw, f"Share of needles {system} found over length and depth, {task or 'all tasks'}")


def bars(result: Mapping[str, Any], *, metrics: Sequence[str] | None = None) -> str:
    """Systems side by side, a group of bars for each metric, with intervals.

    Args:
        metrics: shares between 0 and 1; those of `BARS` for the result's kind without it.

    Returns: SVG; "" where there is none of the metrics.
    Raises: ConfigError without matplotlib.
    """
    systems = mapping(result.get("systems"))
    names = _systems([systems])
    wanted = BARS.get(str(result.get("kind")), ()) if metrics is None else metrics
    drawn = [m for m in wanted if any(figure(systems[name], m).value is not None for name in names)]
    if not drawn:
        return ""

    def draw(new_figure: Callable[..., Any]) -> Any:
        canvas = new_figure(figsize=(8.6, 3.1))
        axes = canvas.add_subplot()
        width = 0.82 / len(names)
        for place, name in enumerate(names):
            for group, metric in enumerate(drawn):
                found = figure(systems[name], metric)
                if found.value is None:
                    continue
                x = group + (place - (len(names) - 1) / 2) * width
                axes.bar(x, 100 * found.value, width * 0.9, color=_style(name, names)["color"])
                if found.low is not None and found.high is not None:
                    axes.vlines(x, 100 * found.low, 100 * found.high, color=_INK, linewidth=1)
        axes.set_xticks(range(len(drawn)), [label(metric) for metric in drawn])
        axes.set_xlim(-0.5, len(drawn) - 0.5)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("%")
        _share_axis(axes)
        _legend(canvas, names, boxes=True)
        return canvas

    return svg(draw, f"{', '.join(map(label, drawn))} of {', '.join(names)}")


def _needle_cells(
    result: Mapping[str, Any], task: str | None, system: str
) -> dict[tuple[float, float], list[float]]:
    """Scores by (tokens, depth); many different depths are rounded to tenths."""
    rows = []
    for record in map(mapping, sequence(result.get("records"))):
        told = [number(record.get(name)) for name in ("tokens", "depth", "score")]
        if record.get("system") == system and task in (None, record.get("task")) and None not in told:
            rows.append([value for value in told if value is not None])
    coarse = len({depth for _, depth, _ in rows}) > _DEPTHS
    cells: dict[tuple[float, float], list[float]] = {}
    for tokens, depth, score in rows:
        cells.setdefault((tokens, round(depth, 1) if coarse else depth), []).append(score)
    return cells


def _systems(groups: Any) -> list[str]:
    """Names in the order they come, the model first."""
    names = list(dict.fromkeys(name for group in groups for name in group))
    return sorted(names, key=lambda name: name != OWN)


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    if name == OWN:
        return {"color": OWN_COLOUR, "marker": "o", "linewidth": 2.2, "zorder": 3}
    place = [other for other in names if other != OWN].index(name)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linewidth": 1.3,
        "linestyle": ("-", "--", ":")[place // len(COLOURS) % 3],
    }


def _curve(axes: Any, points: Sequence[tuple[float, Any]], metric: str, **style: Any) -> None:
    """A curve with gaps where nothing was measured."""
    scale = 100 if is_share(metric) else 1
    nan = float("nan")

    def scaled(values: Sequence[float | None]) -> list[float]:
        return [nan if value is None else value * scale for value in values]

    x = [at for at, _ in points]
    low, high = scaled([found.low for _, found in points]), scaled([found.high for _, found in points])
    axes.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(x, scaled([found.value for _, found in points]), markersize=4, **style)


def _share_axis(axes: Any) -> None:
    axes.set_ylim(0, 103)
    axes.set_yticks([0, 25, 50, 75, 100])


def _time_axis(axes: Any, metric: str) -> None:
    """On a scale of powers of ten with a few round marks; from zero where a value is zero."""
    low, high = axes.dataLim.ymin, axes.dataLim.ymax
    if low > 0:
        steps = (1, 2, 5) if high < 40 * low else (1,)
        axes.set_yscale("log")
        axes.set_yticks([step * 10.0**power for power in range(-7, 8) for step in steps])
        axes.set_ylim(low / 1.4, high * 1.4)
    else:
        axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(
        lambda value, _: shown(metric, value).replace(".00 ", " ").replace(".0 ", " ")
    )


def _legend(canvas: Any, names: Sequence[str], *, boxes: bool = False) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    styles = [_style(name, names) for name in names]
    handles = [
        Patch(color=style["color"]) if boxes else Line2D([], [], markersize=4, **style) for style in styles
    ]
    # A label that begins with an underscore would be left out.
    labels = [" " + name if name.startswith("_") else name for name in map(_short, names)]
    wide = max(map(len, labels)) + 6
    columns = max(1, int(canvas.get_figwidth() * 13 / wide))
    canvas.legend(handles, labels, loc="outside upper left", ncols=min(columns, len(names)), frameon=False)


def _short(name: str) -> str:
    return plain(name if len(name) <= _NAME else name[: _NAME - 1] + "…")


def svg(draw: Callable[[Callable[..., Any]], Any], told: str) -> str:
    """What `draw` makes of a function for new figures, as SVG for a page, with `told` for who cannot see it.

    Raises: ConfigError without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need the package matplotlib; pip install 'memsparse[eval]'") from None
    out = io.StringIO()
    with rc_context(_SETTINGS), warnings.catch_warnings():
        # Names may be in a script the measuring font lacks; whoever shows the SVG has fonts of their own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        canvas = draw(lambda **options: Figure(layout="constrained", **options))
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_a_page(out.getvalue(), plain(told))


def standalone(svg: str, made_by: str) -> str:
    """An SVG for a page as one for a file of its own, dark on white, which tells (`desc`) what made it."""
    svg = svg.replace("currentColor", _DARK).replace(f"var(--rule, {_PALE})", _PALE)
    head, _, rest = svg.partition(">")
    return (
        f'{head}><desc>{escape(plain(made_by))}</desc><rect width="100%" height="100%" fill="#ffffff"/>{rest}'
    )


def _for_a_page(svg: str, told: str) -> str:
    """Drop what belongs to a file of its own; ids unlike those of other plots; colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*", "font-family: sans-serif", svg)
    prefix = f"p{crc32(svg.encode()):08x}-"
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace(_INK, "currentColor").replace(_RULE, f"var(--rule, {_PALE})")
    head, _, rest = svg.partition(">")
    head += f' role="img" aria-label="{escape(told)}" style="stroke-linejoin: round; color: inherit"'
    return f"{head}>{rest}".strip()
