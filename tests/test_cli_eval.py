import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memsparse.cli import app
from memsparse.evaluation import baselines, retrieval
from tests.tiny import save_tiny_model

TEXTS = (
    "The Kestrel is moored in the harbour of Sarno.",
    "Sarno has a lighthouse, and Ines keeps it.",
    "The historical document is in the harbour.",
    "All documents about the question are here.",
    "Ines is the keeper of the harbour.",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMSPARSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> list[str | Path]:
    corpus, queries = tmp_path / "c.jsonl.gz", tmp_path / "q.jsonl"
    rows = [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(TEXTS)]
    corpus.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    asked = [
        {
            "id": f"q{i}",
            "question": f"what of {text[:9]}?",
            "answers": ["harbour"],
            "positive_ids": [f"d{i}"],
            "kind": "odd" if i % 2 else "even",
        }
        for i, text in enumerate(TEXTS)
    ]
    asked.append({"id": "none", "question": "who knows?", "answers": [], "positive_ids": [], "kind": "even"})
    queries.write_text("".join(json.dumps(row) + "\n" for row in asked))
    return ["--corpus", corpus, "--queries", queries]


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_retrieval_writes_the_layout_outside_checks_read(data: Any, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = run("eval", "retrieval", *data, "--model", model, "--json", out, "--by", "kind", "--seed", 3)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert (result["kind"], result["seed"], result["partial"]) == ("retrieval", 3, False)
    assert result["corpus"]["documents"] == 5
    assert result["corpus"]["tokens"] > 50
    assert result["corpus"]["files"] == ["c.jsonl.gz"]
    assert {"command", "commit", "device", "versions", "settings"} <= result.keys()
    measured = result["systems"]["memsparse"]
    for name in ("recall@1", "recall@5", "recall@16", "recall@100", "all@16", "mrr@10", "ndcg@10"):
        assert measured[name].keys() == {"value", "low", "high", "n"}
        assert measured[name]["n"] == 5
    assert measured["recall@16"]["value"] == 1
    assert set(result["layers"]["memsparse"]) == {"2", "3"}
    assert result["groups"]["odd"]["memsparse"]["recall@1"]["n"] == 2
    assert len(result["records"]) == 5
    first = result["records"][0]
    assert sorted(first["documents"]) == [f"d{i}" for i in range(5)]
    assert [layer["layer"] for layer in first["layers"]] == [2, 3]
    assert "R@16" in done.output
    assert "\n5 questions\n" in f"\n{done.output}"
    assert "kind = odd, 2 questions" in done.output
    assert not out.with_name("out.json.partial").exists()


def test_two_runs_with_one_seed_agree(data: Any, model: Path, tmp_path: Path) -> None:
    told = []
    for name in ("a.json", "b.json.gz"):
        done = run("eval", "qa", *data, "--model", model, "--limit", 4, "--json", tmp_path / name)
        assert done.exit_code == 0, done.output
        raw = (tmp_path / name).read_bytes()
        result = json.loads(gzip.decompress(raw) if name.endswith("gz") else raw)
        for record in result["records"]:
            del record["seconds"]
            for item in record["rounds"]:
                del item["seconds"]
        metrics = {k: v for k, v in result["systems"]["memsparse"].items() if k != "seconds_per_question"}
        told.append((result["records"], metrics))
    assert told[0] == told[1]
    assert len(told[0][0]) == 4


def test_qa_counts_refusals_apart(data: Any, model: Path) -> None:
    done = CliRunner().invoke(
        app, [str(word) for word in ("eval", "qa", *data, "--model", model, "--json", "-")]
    )
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    measured = result["systems"]["memsparse"]
    assert measured["exact_match"]["n"] == measured["wrongly_refused"]["n"] == 5
    assert measured["refused"]["n"] == 1
    assert measured["tokens_per_question"]["n"] == 6
    assert all(record["rounds"] for record in result["records"])


def test_an_interrupted_run_is_marked_and_goes_on(
    data: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    command = ("eval", "retrieval", *data, "--model", model, "--json", out)
    measure, asked = retrieval._measure, []

    def stop_at_the_third(system: Any, question: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(question.id)
        return measure(system, question)

    monkeypatch.setattr(retrieval, "_measure", stop_at_the_third)
    done = run(*command)
    assert done.exit_code == 130
    assert "the same command goes on from there" in done.output
    cut = json.loads(out.read_text())
    assert cut["partial"] is True
    assert cut["systems"]["memsparse"]["recall@1"]["n"] == 2
    done = run(*command, "--seed", 9)
    assert done.exit_code == 2
    assert "seed=0, this one has 9; remove it" in done.output
    monkeypatch.setattr(retrieval, "_measure", measure)
    done = run(*command)
    assert done.exit_code == 0
    assert "going on after 2 records" in done.output
    whole = json.loads(out.read_text())
    assert whole["partial"] is False
    assert [record["id"] for record in whole["records"]] == ["q0", "q1", "q2", "q3", "q4"]


def test_measuring_again_and_stopping_keeps_the_finished_result(
    data: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    command = ("eval", "retrieval", *data, "--model", model, "--json", out)
    assert run(*command).exit_code == 0
    finished, measure = out.read_bytes(), retrieval._measure

    def stop_at_the_second(system: Any, question: Any) -> Any:
        if question.id != "q0":
            raise KeyboardInterrupt
        return measure(system, question)

    monkeypatch.setattr(retrieval, "_measure", stop_at_the_second)
    assert run(*command).exit_code == 130
    assert out.read_bytes() == finished


def test_a_baseline_that_is_done_is_not_given_the_documents_again(
    data: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s", reason="needs the extra `eval`")
    command = ("eval", "retrieval", *data, "--model", model, "--baseline", "bm25,routed-text")
    command += ("--json", tmp_path / "out.json")
    measure, add, given = retrieval._measure, baselines.IndexSystem.add, []

    def stop_at_the_last(system: Any, question: Any) -> Any:
        if system.name == "routed-text":
            raise KeyboardInterrupt
        return measure(system, question)

    def counted(self: Any, documents: Any, on_progress: Any = None) -> None:
        given.append(self.name)
        add(self, documents, on_progress)

    monkeypatch.setattr(retrieval, "_measure", stop_at_the_last)
    monkeypatch.setattr(baselines.IndexSystem, "add", counted)
    assert run(*command).exit_code == 130
    monkeypatch.setattr(retrieval, "_measure", measure)
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert "1 of 6 questions have no positive_ids" in " ".join(done.output.split())
    assert given == ["bm25"]


def test_a_killed_run_goes_on(data: Any, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "memsparse", "eval", "retrieval", *map(str, data)]
    command += ["--model", str(model), "--json", str(out)]
    script = (
        "import os, sys\n"
        "from memsparse.evaluation import results\n"
        "add = results.RecordFile.add\n"
        "def then_die(self, record):\n"
        "    add(self, record)\n"
        "    if len(self.records) == 3: os.kill(os.getpid(), 9)\n"
        "results.RecordFile.add = then_die\n"
        "from memsparse.cli import main\n"
        f"sys.argv = {['memsparse', *command[3:]]!r}\n"
        "main()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=100, check=False)
    assert killed.returncode == -9
    assert not out.exists()
    done = run(*command[3:])
    assert done.exit_code == 0
    assert "going on after 3 records" in done.output
    assert len(json.loads(out.read_text())["records"]) == 5


def test_scaling_measures_every_rung(data: Any, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    words = ("--rungs", "100,1K,2K", "--model", model, "--json", out, "--limit", 3)
    done = run("eval", "scaling", *data, *words)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert [entry["rung"] for entry in result["rungs"]] == [100, 1024, 2048]
    for entry in result["rungs"]:
        assert entry["tokens"] >= entry["rung"]
        assert entry["systems"]["memsparse"].keys() >= {"recall@1", "exact_match", "search_seconds"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl.gz", "q.jsonl", "s.json"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--baseline", "bm26"], "bm26"),
        (["--where", "kind"], "write FIELD=VALUE"),
        (["--where", "kind=none"], "no questions with kind=none"),
        (["--by", "colour"], "no question has a field 'colour'"),
        (["--corpus", "-"], "cannot come from standard input"),
        (["--json", "/"], "name a file"),
        (["--queries", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--corpus", "nowhere"], "no such file or folder"),
        (["--limit", "0"], "--limit"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(data: Any, model: Path, words: list[str], says: str) -> None:
    options = [*data, "--model", model]
    kept = [
        pair
        for pair in zip(options[::2], options[1::2], strict=True)
        if pair[0] not in words or words[0] in {"--where"}
    ]
    done = run("eval", "retrieval", *(word for pair in kept for word in pair), *words)
    assert done.exit_code == 2, done.output
    assert says in done.output
    assert "Traceback" not in done.output


def test_a_judge_without_a_model_is_a_mistake(data: Any, model: Path) -> None:
    done = run("eval", "qa", *data, "--model", model, "--judge-url", "http://127.0.0.1:1/v1")
    assert done.exit_code == 2
    assert "--judge-model" in done.output


def test_an_overlap_out_of_range_is_told_before_anything_is_measured(data: Any, model: Path) -> None:
    done = run("eval", "qa", *data, "--model", model, "--overlap", -1)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "overlap is -1.0" in done.stderr


def test_engine_settings_reach_the_engine(data: Any, model: Path) -> None:
    words = ("--model", model, "--max-rounds", 0, "--overlap", 0, "--limit", 2, "--json", "-")
    done = CliRunner().invoke(app, [str(word) for word in ("eval", "qa", *data, *words)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["settings"]["max_rounds"], result["settings"]["overlap"]) == (0, 0)
    assert all(record["cited"] == [] for record in result["records"])


def test_baselines_see_what_the_model_sees(data: Any, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="needs the extra `eval`")
    words = ("--model", model, "--baseline", "bm25,routed-text", "--json", tmp_path / "o.json")
    assert run("eval", "retrieval", *data, *words).exit_code == 0
    result = json.loads((tmp_path / "o.json").read_text())
    assert result["systems"].keys() == {"memsparse", "bm25", "routed-text"}
    assert len({metrics["recall@1"]["n"] for metrics in result["systems"].values()}) == 1
    own, text = (result["systems"][name]["recall@1"]["value"] for name in ("memsparse", "routed-text"))
    assert own == text
    done = run("eval", "retrieval", *data, "--model", model, "--baseline", "oracle")
    assert done.exit_code == 2
    assert "baseline 'oracle' cannot retrieve" in done.output


def test_needles_run_from_the_command_line(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("wonderwords", reason="needs the extra `eval`")
    out = tmp_path / "n.json"
    words = ("--lengths", "500,1K", "--tasks", "niah_single_1,niah_multikey_1", "--depths", 2, "--samples", 1)
    done = run("eval", "needles", *words, "--document-tokens", 100, "--model", model, "--json", out)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["kind"] == "needles"
    assert {"niah_single_1@500", "niah_multikey_1@1024", "needles@1024"} <= result["systems"][
        "memsparse"
    ].keys()
    assert len(result["records"]) == 2 * 2 * 2
    assert "niah_single_1@500" in done.output
    done = run("eval", "needles", "--tasks", "niah_single_9", "--model", model)
    assert done.exit_code == 2
    assert "unknown task 'niah_single_9'" in done.output


def test_a_benchmark_becomes_corpus_and_queries(tmp_path: Path) -> None:
    listed = run("eval", "benchmarks")
    assert "hotpotqa" in listed.output
    done = run("eval", "export", "hotpotqa", tmp_path / "out", "--from", tmp_path)
    assert done.exit_code == 2
    assert "no file" in done.output
    assert run("eval", "export", "nothing", tmp_path / "out").exit_code == 2
