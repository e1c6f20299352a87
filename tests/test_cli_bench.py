import json

import pytest
from typer.testing import CliRunner

from memsparse.cli import app
from tests.tiny import save_tiny_model

QUICK = ["--seconds", "0.01"]


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch):
    monkeypatch.setattr("memsparse.machine.SIZES", {"cpu": (64, 256)})
    monkeypatch.setattr("memsparse.machine.STREAM_BYTES", {"cpu": 2**22})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("bench") / "model"))


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def result_of(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_routing_prints_one_object(model):
    done = run(
        *("routing", "--model", model, "--tokens", "400,2k", "--keys", "int8,bf16", "--repeats", "2"),
        *("--questions", "3", "--question-tokens", "5", "--top-k", "2", *QUICK, "--json", "-"),
    )
    result = result_of(done)
    assert result["kind"] == "bench-routing"
    assert [size["tokens"] for size in result["sizes"]] == [400, 2000]
    assert {"ours int8", "ours bf16", "published"} <= result["sizes"][0]["forms"].keys()
    assert "500 chunks" in done.stderr


def test_routing_writes_a_file_a_table_and_a_plot(model, tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "new" / "routing.json", tmp_path / "plots" / "routing.svg"
    done = run(
        *("routing", "--model", model, "--chunks", "60", "--keys", "int8", "--repeats", "2", "--no-peers"),
        *("--questions", "0", *QUICK, "--json", str(out), "--plot", str(plot)),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["sizes"][0]["forms"].keys() == {"ours int8"}
    assert plot.read_text().startswith("<svg")
    assert "ours int8" in done.stdout
    assert "GB/s" in done.stdout


def test_encode(model):
    result = result_of(
        run("encode", "--model", model, "--tokens", "300", "--repeats", "2", *QUICK, "--json", "-")
    )
    assert result["forms"]["encode"]["tokens_per_second"] > 0
    done = run("encode", "--model", model, "--tokens", "300", "--repeats", "1", *QUICK)
    assert "plain forward" in done.stdout


def test_figures_of_a_busy_machine_say_so(model, monkeypatch):
    quick = ["encode", "--model", model, "--tokens", "300", "--repeats", "1", *QUICK]
    monkeypatch.setattr("memsparse.machine.load_average", lambda: 1e3)
    done = run(*quick)
    assert done.stderr.count("the machine is busy (load average 1000)") == 1
    assert result_of(run(*quick, "--json", "-"))["machine"]["load_average"] == 1e3
    monkeypatch.setattr("memsparse.machine.load_average", lambda: 0.0)
    assert "busy" not in run(*quick).stderr


def test_decode(model):
    options = ["--documents", "5", "--questions", "2", "--together", "1,2", "--max-new-tokens", "3", *QUICK]
    result = result_of(run("decode", "--model", model, *options, "--workers", "2", "--json", "-"))
    assert result["together"][0]["questions_per_second"] > 0
    assert [row["workers"] for row in result["together"]] == [1, 2]
    assert "questions/s" in run("decode", "--model", model, *options).stdout


def test_scale_keeps_its_bank(model, tmp_path):
    options = ["--tokens", "400,800", "--repeats", "2", "--keep", str(tmp_path / "banks"), *QUICK]
    result = result_of(run("scale", "--model", model, *options, "--routing-keys", "int8", "--json", "-"))
    assert [row["asked_tokens"] for row in result["sizes"]] == [400, 800]
    assert [path.suffix for path in (tmp_path / "banks").iterdir()] == [".bank"]
    assert "first token" in run("scale", "--model", model, *options).stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["routing", "--keys", "int3"], "int3"),
        (["routing", "--tokens", "1M", "--chunks", "10"], "exclude each other"),
        (["routing", "--tokens", "lots"], "lots"),
        (["routing", "--device", "abacus"], "abacus"),
        (["routing", "--json", "."], "name a file"),
        (["routing", "--plot", "."], "name a file"),
        (["scale", "--shape", "5b", "--tokens", "10"], "5b"),
        (["encode", "--shape", "4b", "--model", "m"], "exclude each other"),
        (["decode", "--together", "none"], "none"),
        (["decode", "--shape", "4b", "--workers", "2"], "--workers is 2"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_long_work(arguments, told):
    done = run(*arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_accelerator_that_is_not_there_is_named():
    import torch

    if torch.accelerator.is_available():
        pytest.skip("there is one here")
    done = run("routing", "--device", "cuda")
    assert done.exit_code == 2
    assert "torch sees none here" in done.stderr
