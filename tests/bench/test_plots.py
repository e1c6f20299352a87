import xml.etree.ElementTree as ET

import pytest

from memsparse.bench.plots import bench_plot, require_matplotlib
from memsparse.errors import ConfigError

pytest.importorskip("matplotlib")


def size(chunks):
    own = {"format": "int8", "p50": chunks / 100, "floor_ms": chunks / 200}
    return {"chunks": chunks, "forms": {"ours int8": own, "published": {"format": None, "p50": chunks / 10}}}


RESULTS = {
    "lines": {"kind": "bench-routing", "sizes": [size(1000), size(2_000_000)]},
    "bars": {"kind": "bench-routing", "sizes": [size(1000)]},
    "scale": {
        "kind": "bench-scale",
        "sizes": [
            {
                "tokens": tokens,
                "first_token_ms": {"p50": 3.0},
                "route_ms": {"p50": 2.0},
                "floor_ms": 1.0,
                "full_attention": full,
            }
            for tokens, full in ((10**6, {"first_token_ms": {"p50": 9.0}}), (10**7, {"skipped": "too large"}))
        ],
    },
    "decode": {
        "kind": "bench-decode",
        "together": [
            {"together": 1, "questions_per_second": 3.0},
            {"together": 2, "questions_per_second": 5.0},
        ],
    },
    "encode": {"kind": "bench-encode", "forms": {"encode": {"tokens_per_second": 5.0}}},
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_drawn_the_same_each_time(name):
    drawn = bench_plot(RESULTS[name])
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert drawn == bench_plot(RESULTS[name])
    assert "mathdefault" not in drawn


def test_a_drawing_names_its_lines_and_sizes():
    drawn = bench_plot(RESULTS["lines"])
    for text in ("ours int8", "floor int8", "published", "1k", "2M", "chunks"):
        assert f">{text}<" in drawn
    assert ">full attention<" in bench_plot(RESULTS["scale"])


def test_a_drawing_is_a_file_of_its_own_that_tells_its_origin():
    drawn = bench_plot(RESULTS["bars"] | {"command": "bench 'a' & b", "device": "EPYC", "date": "2026-01-01"})
    told = ET.fromstring(drawn).findtext("{http://www.w3.org/2000/svg}desc")
    assert told == "bench 'a' & b; EPYC; 2026-01-01"
    assert "currentColor" not in drawn
    assert "var(" not in drawn


def test_other_results_are_refused():
    require_matplotlib()
    with pytest.raises(ConfigError, match="kind of the result is 'qa'"):
        bench_plot({"kind": "qa"})
