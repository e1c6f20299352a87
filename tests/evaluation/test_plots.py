import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from memsparse.errors import ConfigError
from memsparse.evaluation.plots import bars, heat_map, scaling_plot

from . import made_up
from .made_up import ODD, estimate

pytest.importorskip("matplotlib", reason="plots need matplotlib; there is none")
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def rungs(*values, system="memsparse", metric="recall@1"):
    return {
        "rungs": [
            {"tokens": 16384 * 4**place, "systems": {} if value is None else {system: {metric: value}}}
            for place, value in enumerate(values)
        ]
    }


def curves(svg):
    """Points of every drawn curve: one move or line per point that was measured."""
    return [
        len(re.findall(r"[ML] ", path))
        for path in re.findall(
            r'<path d="([^"]+)"[^>]*style="fill: none; stroke: #[^"]+stroke-width: 2\.2', svg
        )
    ]


def test_every_system_and_panel_is_named_and_ticks_are_rungs():
    found = texts(scaling_plot(made_up.scaling()))
    assert {"memsparse", "bm25", "R@1, %", "F1, %", "search time", "16K", "64K", "1M", "10 ms"} <= set(found)
    assert found.count("tokens in the bank") == 3
    assert "R@16, %" not in found


def test_a_gap_is_a_gap():
    whole = curves(scaling_plot(rungs(estimate(0.9), estimate(0.8), estimate(0.7), estimate(0.6))))
    gap = curves(scaling_plot(rungs(estimate(0.9), estimate(None), estimate(0.7), estimate(0.6))))
    absent = curves(scaling_plot(rungs(estimate(0.9), None, estimate(0.7), estimate(0.6))))
    assert max(whole) == 4
    assert max(gap) == max(absent) == 3


def test_the_band_needs_an_interval():
    bare = {"value": 0.5, "low": None, "high": None, "n": 1}
    assert "fill-opacity" in scaling_plot(rungs(estimate(0.5), estimate(0.4)))
    assert "fill-opacity" not in scaling_plot(rungs(bare, bare))


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"rungs": None},
        {"rungs": [None, 3, {}]},
        {"rungs": [{"tokens": 0, "systems": {"memsparse": {"recall@1": estimate(0.5)}}}]},
        rungs(estimate(None), None),
        rungs({"value": "high"}, {"value": float("nan")}),
        rungs(estimate(0.5), metric="unknown"),
    ],
)
def test_nothing_to_draw_is_no_curve(result):
    assert scaling_plot(result) == ""


@pytest.mark.parametrize("seconds", [[0.003], [0.0, 0.1], [0.1, 0.1], [1e-6, 90.0]])
def test_durations_of_any_size(seconds):
    result = rungs(*(estimate(value, spread=0) for value in seconds), metric="search_seconds")
    assert "search time" in texts(scaling_plot(result))


def test_many_rungs_keep_their_labels_apart():
    result = rungs(*(estimate(0.5) for _ in range(15)))
    assert len([text for text in texts(scaling_plot(result)) if re.fullmatch(r"\d+[KM]", text or "")]) <= 8


def test_chosen_metrics_are_the_panels():
    found = texts(scaling_plot(made_up.scaling(), metrics=["f1", "mrr@10"]))
    assert "F1, %" in found
    assert not {"R@1, %", "MRR@10, %"} & set(found)


def cells(svg):
    """Percentages inside a heat map, row by row."""
    found = re.findall(r'<text style="[^"]*fill: #(?:fff|1c1c1c)[^"]*"[^>]*>(\d+)<', svg)
    assert found
    return sorted(map(int, found))


def test_cells_are_means_over_tasks_or_of_one():
    result = made_up.needles()
    assert cells(heat_map(result)) == [75] * 6
    assert cells(heat_map(result, task="niah_single_1")) == [100] * 6
    assert cells(heat_map(result, task="niah_multivalue")) == [50] * 6
    assert {"16K", "128K", "0", "50", "100", "depth, %"} <= set(texts(heat_map(result)))


def test_a_cell_nobody_measured_stays_empty():
    result = made_up.needles()
    del result["records"][0], result["records"][5]
    assert len(cells(heat_map(result, task="niah_single_1"))) == 5


def test_many_depths_are_rounded_to_tenths():
    records = [
        {"system": "memsparse", "tokens": 1000, "depth": place / 97, "score": float(place % 2)}
        for place in range(98)
    ]
    svg = heat_map({"records": records})
    assert len(cells(svg)) == 11
    assert "1k" in texts(svg)


@pytest.mark.parametrize("change", [{"depth": None}, {"tokens": "many"}, {"score": None}, {"system": "bm25"}])
def test_records_without_a_place_are_not_in_the_map(change):
    records = [{**record, **change} for record in made_up.needles()["records"]]
    assert heat_map({"records": records}) == ""
    assert heat_map({"records": [*records, made_up.needles()["records"][0], None]}) != ""


def test_a_task_or_system_without_records_is_no_map():
    assert heat_map(made_up.needles(), task="niah_single_3") == ""
    assert heat_map(made_up.needles(), system="bm25") == ""
    assert heat_map({}) == ""


def test_bars_of_what_was_measured():
    found = texts(bars(made_up.retrieval()))
    assert {"memsparse", "bm25", "R@1", "R@16"} <= set(found)
    assert "MRR@10" not in found
    assert {"F1", "refused", "oracle"} <= set(texts(bars(made_up.qa())))
    assert bars(made_up.needles()) == ""
    assert bars({"kind": "qa", "systems": {"memsparse": {"f1": estimate(None)}}}) == ""


def test_whiskers_are_where_intervals_are():
    def whiskers(**fields):
        made = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3, **fields}
        svg = bars({"systems": {"memsparse": {"f1": made}}}, metrics=["f1"])
        return svg.count("LineCollection")

    assert whiskers() == 1
    assert whiskers(low=None) == 0


@pytest.mark.parametrize("name", [made_up.NASTY, "_hidden", "内存", "$x^2$ $", "a\x00b\ud800"])
def test_any_name_is_drawn_as_it_is(name):
    svg = bars({"systems": {name: {"f1": estimate(0.5)}}}, metrics=["f1"])
    shown = name.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    shown = shown if len(shown) <= 28 else shown[:27] + "…"
    assert shown in [(text or "").removeprefix(" ") for text in texts(svg)]
    assert "<script" not in svg
    svg = heat_map(
        {"records": [{"system": name, "tokens": 1, "depth": 0, "score": 1, "task": name}]}, system=name
    )
    assert ElementTree.fromstring(svg).get("role") == "img"


def test_same_result_same_bytes_and_ids_of_its_own():
    one, two = scaling_plot(made_up.scaling()), bars(made_up.qa())
    assert one == scaling_plot(made_up.scaling())
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (one, two)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', one)) <= set(ids[0])


def test_colours_are_those_of_the_page():
    svg = scaling_plot(made_up.scaling())
    assert "currentColor" in svg
    assert "var(--rule" in svg
    assert not re.search(r"#0[14]0[25]0[36]|<style|<metadata|<!DOCTYPE|<\?xml", svg)


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"matplotlib; pip install 'memsparse\[eval\]'"):
        bars(made_up.qa())


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, memsparse.evaluation.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=100).returncode == 0


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_fields_of_another_form_are_not_drawn(odd):
    assert scaling_plot({"rungs": odd}) == ""
    assert (
        scaling_plot({"rungs": [{"tokens": 16, "systems": odd}, {"tokens": odd, "systems": {"a": odd}}]})
        == ""
    )
    assert heat_map({"records": odd}) == heat_map({"records": [odd]}) == ""
    assert bars({"kind": "qa", "systems": odd}) == bars({"kind": "qa", "systems": {"memsparse": odd}}) == ""
    assert bars({"kind": odd, "systems": {"memsparse": {"f1": estimate(0.5)}}}) == ""
