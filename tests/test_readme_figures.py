"""The README's figures are those of the committed result files."""

import gzip
import importlib.machinery
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from memsparse.bench import scale
from memsparse.bench.decode import measure_decode
from memsparse.bench.encode import measure_encode
from memsparse.bench.routing import measure_routing
from memsparse.bench.scale import measure_scale
from tests.engine.builders import tiny_model

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "readme-figures"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def load():
    loader = importlib.machinery.SourceFileLoader("readme_figures", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


readme_figures = load()
FigureError, fill, stale = readme_figures.FigureError, readme_figures.fill, readme_figures.stale

RESULT = {
    "command": "memsparse eval qa --json r.json",
    "systems": {
        "memsparse": {"f1": {"value": 0.7449, "low": 0.70, "high": 0.78, "n": 20}},
        "bm25": {"f1": {"value": 0.5, "low": None, "high": None, "n": 20}},
        "oracle": {"f1": {"value": None, "low": None, "high": None, "n": 0}},
    },
    "rungs": [{"tokens": 16384}, {"tokens": 1048576}],
    "nothing": None,
    "text": "a | b",
}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "plain.json").write_text(json.dumps(RESULT), "utf-8")
    (folder / "packed.json.gz").write_bytes(gzip.compress(json.dumps(RESULT).encode()))
    (folder / "cut.json").write_text(json.dumps({**RESULT, "partial": True}), "utf-8")
    (folder / "damaged.json").write_text("{", "utf-8")
    (folder / "twice.json").write_text("{}", "utf-8")
    (folder / "twice.json.gz").write_bytes(gzip.compress(b"{}"))
    return folder


def marked(body, name="a"):
    return f"before\n\n<!-- figures:{name} -->\n{body}<!-- /figures -->\n\nafter\n"


def test_the_readme_agrees_with_the_files():
    results = ROOT / "benchmarks" / "results"
    assert stale(README, readme_figures.FIGURES, results) == []
    assert readme_figures.stale_plots(results) == []
    assert {str(plot.relative_to(ROOT)) for plot in results.glob("*.svg")} == set(
        re.findall(r"!\[[^]]+\]\((\S+)\)", README)
    )
    assert set(re.findall(r"<!-- figures:(\S+) -->", README)) == set(readme_figures.FIGURES)


@pytest.mark.parametrize("name", readme_figures.FIGURES)
def test_every_table_can_be_made(name):
    made = readme_figures.table(readme_figures.FIGURES[name], ROOT / "benchmarks" / "results")
    assert "{" not in made
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in made.splitlines()}) == 1


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{plain:systems/memsparse/f1/value:percent}", "74 %"),
        ("{packed:systems/memsparse/f1/value:percent1}", "74.5 %"),
        ("{plain:systems/memsparse/f1:estimate}", "74.5 (70.0 to 78.0)"),
        ("{plain:systems/bm25/f1:estimate}", "50.0"),
        ("{plain:systems/oracle/f1:estimate}", "–"),
        ("{plain:nothing:percent}", "–"),
        ("{plain:rungs/-1/tokens:,d}", "1,048,576"),
        ("{plain:rungs/0/tokens}", "16384"),
        ("{plain:systems/memsparse/f1/value:.3f}", "0.745"),
        ("{plain:systems/memsparse/f1/value:ms}", "745 ms"),
        ("{plain:systems/memsparse/f1/n:ms}", "20,000 ms"),
        ("{plain:command:code}", "`memsparse eval qa --json r.json`"),
        ("both {plain:rungs/0/tokens} and {packed:rungs/1/tokens}", "both 16384 and 1048576"),
        ("no figure {here}, {or here }", "no figure {here}, {or here }"),
    ],
)
def test_figures_as_text(results, template, made):
    assert readme_figures.table(template, results) == f"{made}\n"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 ms"), (0.0039047, "3.9 ms"), (0.0897, "90 ms"), (0.0000123, "0.012 ms")]
)
def test_milliseconds_have_two_digits_that_count(seconds, shown):
    assert readme_figures.FORMATS["ms"](seconds) == shown


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{absent:command}", "absent: 0 of .*absent.json and absent.json.gz exist"),
        ("{twice:command}", "twice: 2 of"),
        ("{cut:command}", "cut.json is partial; finish its run"),
        ("{damaged:command}", "damaged.json: not JSON"),
        (
            "{plain:systems/minilm/f1}",
            "plain has no systems/minilm/f1: 'minilm' is missing; known there are memsparse, bm25",
        ),
        ("{plain:rungs/2/tokens}", "'2' is missing"),
        ("{plain:rungs/last/tokens}", "'last' is missing"),
        ("{plain:text/0/0}", "'0' is missing"),
        ("{plain:text:.2f}", r"\{plain:text:.2f\}: 'a | b' cannot be shown so"),
        ("{plain:text:estimate}", "cannot be shown so"),
        ("{plain:rungs:percent}", "cannot be shown so"),
    ],
)
def test_a_figure_that_is_not_there_is_an_error(results, template, line):
    with pytest.raises(FigureError, match=line):
        readme_figures.table(template, results)


def test_only_what_stands_between_markers_is_replaced(results):
    figures = {"a": "| {plain:rungs/0/tokens} |", "b": "{plain:command}"}
    text = marked("old\n") + "{plain:command}\n" + marked("", "b")
    made = fill(text, figures, results)
    assert made == marked("| 16384 |\n") + "{plain:command}\n" + marked(
        "memsparse eval qa --json r.json\n", "b"
    )
    assert stale(text, figures, results) == ["a", "b"]
    assert stale(made, figures, results) == []
    assert fill(made, figures, results) == made
    assert fill("no markers\n", figures, results) == "no markers\n"


def test_a_changed_figure_is_noticed(results):
    figures = {"a": "{plain:rungs/0/tokens}"}
    made = fill(marked(""), figures, results)
    (results / "plain.json").write_text(json.dumps({**RESULT, "rungs": [{"tokens": 16385}]}), "utf-8")
    assert stale(made, figures, results) == ["a"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (marked("", "unknown"), "no table is called 'unknown'; known are a"),
        ("<!-- figures:a -->\n", "has no other end"),
        ("<!-- /figures -->\n", "has no other end"),
        (f"<!-- figures:a -->\n{marked('')}", "has no other end"),
        ("<!-- figures: a -->\n<!-- /figures -->\n", "has no other end"),
    ],
)
def test_markers_that_are_wrong_are_an_error(results, text, line):
    with pytest.raises(FigureError, match=line):
        fill(text, {"a": "x"}, results)


def test_comparison_has_a_row_for_each_system(results):
    template = readme_figures.compare("plain", {"memsparse": "**memsparse**", "bm25": "BM25"}, {"f1": "F1"})
    assert readme_figures.table(template, results).splitlines() == [
        "| | F1 |",
        "|---|---|",
        "| **memsparse** | 74.5 (70.0 to 78.0) |",
        "| BM25 | 50.0 |",
    ]


def test_the_script_writes_and_checks(tmp_path, results, monkeypatch, capsys):
    monkeypatch.setattr(readme_figures, "FIGURES", {"a": "{plain:rungs/0/tokens}", "b": "{packed:command}"})
    readme = tmp_path / "README.md"

    def run(*options):
        status = readme_figures.main([*options, "--readme", str(readme), "--results", str(results)])
        return status, *capsys.readouterr()

    before = marked("outdated\n") + marked("memsparse eval qa --json r.json\n", "b")
    readme.write_text(before, "utf-8")
    told = "a: the table differs from the files; run scripts/readme-figures\n"
    assert run("--check") == (1, "", told)
    assert readme.read_text("utf-8") == before
    assert run() == (0, "a: written\n", "")
    assert readme.read_text("utf-8") == before.replace("outdated", "16384")
    assert run("--check") == run() == (0, "", "")
    readme.write_text(marked("", "unknown"), "utf-8")
    assert run()[0] == run("--check")[0] == 2
    assert run("--check")[2].startswith("no table is called 'unknown'; known are a, b")
    readme.unlink()
    assert run("--check")[0] == 2


def test_plots_are_drawn_anew_for_another_run(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    readme, plot = tmp_path / "README.md", tmp_path / "speed.svg"
    readme.write_text("no table", "utf-8")
    arguments = ["--readme", str(readme), "--results", str(tmp_path)]

    def measured(date, rate):
        forms = {"encode": {"tokens_per_second": rate}}
        result = {"kind": "bench-encode", "command": "bench <a>", "date": date, "forms": forms}
        (tmp_path / "speed.json").write_text(json.dumps(result), "utf-8")

    measured("2026-01-01", 1234.0)
    plot.write_text("", "utf-8")
    assert readme_figures.main([*arguments, "--check"]) == 1
    assert capsys.readouterr().err.startswith("speed.svg: the plot is not of the file beside it; run ")
    assert plot.read_text("utf-8") == ""
    assert readme_figures.main(arguments) == readme_figures.main([*arguments, "--check"]) == 0
    assert capsys.readouterr() == ("speed.svg: written\n", "")
    drawn = plot.read_text("utf-8")
    assert "<desc>bench &lt;a&gt;; 2026-01-01</desc>" in drawn
    assert "> 1,234<" in drawn
    measured("2026-01-02", 5.0)
    assert readme_figures.main(arguments) == 0
    drawn = plot.read_text("utf-8")
    assert "2026-01-02" in drawn
    assert "1,234" not in drawn
    (tmp_path / "speed.json").write_text('{"kind": "qa"}', "utf-8")
    assert readme_figures.main(arguments) == 2
    assert "speed.svg: kind of the result is 'qa'" in capsys.readouterr().err
    (tmp_path / "speed.json").unlink()
    assert readme_figures.main([*arguments, "--check"]) == 2


def test_the_script_runs_on_its_own(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- figures:unknown -->\n<!-- /figures -->\n", "utf-8")
    command = [sys.executable, str(SCRIPT), "--check", "--readme", str(readme)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no table is called 'unknown'")
    assert len(done.stderr.splitlines()) == 1


def test_the_table_of_benchmarks_is_made_of_their_results(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(scale, "Rehearsal", partial(scale.Rehearsal, documents=(80, 200)))
    loaded, options = tiny_model(), {"seconds": 0.01}
    cpu = torch.device("cpu")
    measured = {
        "encode": measure_encode(loaded, 200, document_tokens=64, repeats=1, **options),
        "decode": measure_decode(
            loaded, documents=4, questions=1, together=(1, 2), max_new_tokens=2, **options
        ),
        "routing": measure_routing(loaded.config, [40], cpu, repeats=1, questions=0, **options),
        "scale-100m": measure_scale(
            loaded, [2000, 4000, 8000], repeats=1, with_peer=False, seconds_each=0.01
        ),
    }
    measured["decode-workers"] = measured["decode"]
    for name, result in measured.items():
        (tmp_path / f"bench-{name}.json").write_text(json.dumps(result), "utf-8")
    shutil.copy(ROOT / "benchmarks" / "results" / "index-100m.json", tmp_path)
    made = readme_figures.table(readme_figures.BENCH, tmp_path)
    assert "tokens/s" in made
    assert "one at a time and 2 at once in two processes" in made
    assert "40 chunks" in made
    assert "{" not in made


@pytest.mark.parametrize("table", ["worlds", "real", "needles", "scaling"])
def test_a_table_of_the_checkpoint_is_of_one_checkpoint(table: str) -> None:
    files = set(re.findall(r"\{([^:}]+):", load().FIGURES[table]))
    read = {
        file: json.loads(gzip.decompress((ROOT / "benchmarks" / "results" / f"{file}.json.gz").read_bytes()))
        for file in files
    }
    weights = {file: result["settings"]["model"]["weights"] for file, result in read.items()}
    assert len(set(weights.values())) == 1, weights
