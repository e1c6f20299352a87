import json

import pytest
from typer.testing import CliRunner

from memsparse.cli import app
from memsparse.cli_plan import duration, size
from memsparse.engine.plan import Rates
from tests.tiny import tiny_config

COMMAND = ["plan", "--tokens", "100M", "--shape", "4b", "--gpu", "1x80GB", "--host", "512GB"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_a_plan_tells_tiers_times_and_what_was_assumed():
    done = run(*COMMAND)
    assert done.exit_code == 0, done.output
    for text in ("100,000,000 tokens", "routing keys in int8", "weights", "K and V", "fits", "first token"):
        assert text in done.stdout
    assert "assumed: " in done.stderr
    assert "assumed: " not in done.stdout


@pytest.mark.parametrize(("named", "told"), [((), "for the built-in model"), (("--shape", "4b"), "for 4b")])
def test_a_plan_says_which_model_it_is_for(named, told):
    done = run("plan", "--tokens", "1M", "--gpu", "1x80GB", *named)
    assert done.stdout.splitlines()[0].endswith(f"chunks, {told}")


def test_json_is_one_object():
    done = run(*COMMAND, "--json", "--routing-keys", "fp8", "--document-tokens", "300")
    plan = json.loads(done.stdout)
    assert plan["routing_keys"] == "fp8"
    assert plan["memory"]["tokens"] == 10**8
    assert plan["memory"]["documents"] == pytest.approx(10**8 / 300, rel=0.01)
    assert {"device", "host", "disk"} == {tier["name"] for tier in plan["tiers"]}
    assert plan["question"]["first_token"] > 0
    assert plan["assumptions"]


def test_every_table_has_a_title():
    lines = run(*COMMAND).stdout.splitlines()
    titles = [lines[place + 1] for place, line in enumerate(lines) if not line]
    assert titles == ["times to expect", "routing keys of all layers, by format"]


def test_a_busy_machine_is_told_where_it_was_measured(monkeypatch):
    monkeypatch.setattr("memsparse.machine.SIZES", {"cpu": (64, 256)})
    monkeypatch.setattr("memsparse.machine.STREAM_BYTES", {"cpu": 2**22})
    monkeypatch.setattr("memsparse.machine.load_average", lambda: 1e3)
    here = ["plan", "--tokens", "1M", "--shape", "4b", "--gpu", "none"]
    assert run(*here).stderr.count("the machine is busy (load average 1000)") == 1
    told = run(*here, "--json")
    assert json.loads(told.stdout)["hardware"]["load_average"] == 1e3
    assert "busy" not in told.stderr
    assert "busy" not in run(*COMMAND).stderr
    monkeypatch.setattr("memsparse.machine.load_average", lambda: 0.0)
    assert "busy" not in run(*here).stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu", "nonsense"], "--gpu is 'nonsense'"),
        (["--tokens", "lots"], "--tokens is 'lots'"),
        (["--shape", "5b"], "shape is '5b'"),
        (["--model", "m"], "exclude each other"),
        (["--host", "much"], "--host is 'much'"),
    ],
)
def test_what_makes_no_sense_is_one_line(options, told):
    done = run(*COMMAND, *options)
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_model_is_one_line():
    done = run("plan", "--model", "nowhere", "--gpu", "h100")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr


def test_units():
    assert [size(n) for n in (7, 1500, 2.5e6, 58.7e9, 1.2e12)] == [
        "7 B",
        "1.5 kB",
        "2.5 MB",
        "58.7 GB",
        "1.2 TB",
    ]
    times = (2e-6, 0.0123, 1.5, 90, 7200, 200_000)
    assert [duration(t) for t in times] == ["2 us", "12.3 ms", "1.5 s", "1.5 min", "2 h", "2.31 d"]


def test_a_model_without_weights_is_planned_and_not_tried(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    done = run("plan", "--tokens", "1M", "--model", str(tmp_path), "--gpu", "none")
    assert done.exit_code == 0, done.output
    assert "is not tried" in done.stderr
    done = run("plan", "--tokens", "1M", "--model", str(tmp_path), "--gpu", "none", "--rehearse")
    assert done.exit_code != 0
    assert run("plan", "--tokens", "1M", "--gpu", "h100", "--rehearse").exit_code == 2


def test_a_rehearsal_takes_the_place_of_assumptions(monkeypatch):
    rates = Rates(chunks=(10**5, 2 * 10**5), reads=(0.002, 0.003), passes=(4e-3, 5e-3), token=1e-5)
    monkeypatch.setattr("memsparse.bench.rehearsal.rehearse", lambda *_, **__: rates)
    plan = json.loads(run("plan", "--tokens", "10M", "--gpu", "none", "--json").stdout)
    assert plan["encode_seconds"] == pytest.approx(100)
    plain = run("plan", "--tokens", "10M", "--gpu", "none", "--no-rehearse")
    assert "matrix peak" in plain.stderr
